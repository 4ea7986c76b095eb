//! Header blocks read (RFC 7541 §3 and §6).

use bytes::{Bytes, BytesMut};

use super::table::{Entry, Table};
use super::{Name, Value};
use crate::http2::{Reason, Violation, huffman};

/// What the peer may use (SETTINGS_HEADER_TABLE_SIZE): the value that holds where nothing is said.
pub const TABLE: usize = 4096;

/// Literals of many heads are put in memory that is had once. What is in the table keeps it, but not that of a larger block.
const TEXT: usize = 2 * 1024;

/// Reads all header blocks of a connection, in their order.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Where literals are put.
    text: BytesMut,
}

/// What may be in a block, by the count of RFC 9113 §6.5.2 (SETTINGS_MAX_HEADER_LIST_SIZE).
#[derive(Clone, Copy)]
pub struct Limits {
    pub size: usize,
    pub fields: usize,
}

/// What is left of a block.
struct Input<'a>(&'a [u8]);

const TRUNCATED: Violation =
    Violation::new(Reason::COMPRESSION_ERROR, "a header block that is cut off");

impl Decoder {
    pub fn new() -> Self {
        Self {
            table: Table::new(TABLE),
            text: BytesMut::new(),
        }
    }

    /// Reads a whole block, and gives its fields to `take`. `false`: there were more of them, or larger ones, than is allowed; what
    /// followed was read for the table only.
    ///
    /// After an error nobody knows what is in the table: the connection is over.
    pub fn decode(
        &mut self,
        block: &[u8],
        limits: Limits,
        mut take: impl FnMut(Name, Value),
    ) -> Result<bool, Violation> {
        if self.text.capacity() < block.len() {
            self.text.reserve(block.len().max(TEXT));
        }
        let large = block.len() > TEXT;
        let mut input = Input(block);
        let (mut size, mut fields) = (0, 0);
        while let Some(first) = input.0.first() {
            if first >> 5 == 0b001 {
                if fields > 0 {
                    return Err(broken("a size update behind a field"));
                }
                self.resize(&mut input)?;
                continue;
            }
            let entry = match first {
                0x80.. => self.indexed(&mut input)?,
                0x40.. => self.literal::<6>(&mut input, large)?,
                _ => self.literal::<4>(&mut input, large)?,
            };
            size += entry.size;
            fields += 1;
            if size <= limits.size && fields <= limits.fields {
                take(entry.name, entry.value);
            }
        }
        if large {
            self.text = BytesMut::new();
        }
        Ok(size <= limits.size && fields <= limits.fields)
    }

    /// Memory that a connection can do without which nobody uses.
    pub fn shed(&mut self) {
        self.text = BytesMut::new();
    }

    fn resize(&mut self, input: &mut Input<'_>) -> Result<(), Violation> {
        let size = input.integer::<5>()?;
        if size > TABLE {
            return Err(broken("a table that is larger than allowed"));
        }
        self.table.resize(size);
        Ok(())
    }

    fn indexed(&self, input: &mut Input<'_>) -> Result<Entry, Violation> {
        let entry = self.entry(input.integer::<7>()?)?;
        Ok(Entry::new(entry.name.clone(), entry.value.clone()))
    }

    /// With an index of 6 bits the field goes into the table.
    fn literal<const PREFIX: u32>(
        &mut self,
        input: &mut Input<'_>,
        large: bool,
    ) -> Result<Entry, Violation> {
        self.text.clear();
        let name = match input.integer::<PREFIX>()? {
            0 => {
                input.string(&mut self.text)?;
                let name = Name::new(&self.text);
                self.text.clear();
                name
            }
            index => self.entry(index)?.name.clone(),
        };
        input.string(&mut self.text)?;
        let entry = Entry::new(name, Value::new(self.text.split().freeze()));
        if PREFIX == 6 && self.table.make_room(entry.size) {
            let value = match &entry.value {
                Value::Field(value) if large => {
                    Value::new(Bytes::copy_from_slice(value.as_bytes()))
                }
                value => value.clone(),
            };
            self.table.insert(Entry {
                name: entry.name.clone(),
                value,
                size: entry.size,
            });
        }
        Ok(entry)
    }

    fn entry(&self, index: usize) -> Result<&Entry, Violation> {
        let entry = self.table.get(index);
        entry.ok_or(broken("an index that nothing is at"))
    }

    #[cfg(test)]
    pub(super) fn dynamic(&self) -> (usize, impl Iterator<Item = &Entry>) {
        self.table.dynamic()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Input<'_> {
    /// RFC 7541 §5.1, with a prefix of `PREFIX` bits.
    fn integer<const PREFIX: u32>(&mut self) -> Result<usize, Violation> {
        let most = (1 << PREFIX) - 1;
        let (first, rest) = self.0.split_first().ok_or(TRUNCATED)?;
        self.0 = rest;
        let mut value = usize::from(first & most);
        if value < usize::from(most) {
            return Ok(value);
        }
        // No number that means anything here has more than 28 bits.
        for shift in [0, 7, 14, 21] {
            let (byte, rest) = self.0.split_first().ok_or(TRUNCATED)?;
            self.0 = rest;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken("a number that is too large"))
    }

    /// RFC 7541 §5.2. Appends it.
    fn string(&mut self, text: &mut BytesMut) -> Result<(), Violation> {
        let coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer::<7>()?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(TRUNCATED)?;
        self.0 = rest;
        if coded {
            huffman::decode(string, text).ok_or(broken("a string that is not Huffman-coded"))
        } else {
            text.extend_from_slice(string);
            Ok(())
        }
    }
}

const fn broken(rule: &'static str) -> Violation {
    Violation::new(Reason::COMPRESSION_ERROR, rule)
}

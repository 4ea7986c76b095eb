//! Header blocks read (RFC 7541 §3 and §6).

use bytes::{Bytes, BytesMut};

use super::table::{Entry, STATIC_LENGTH as STATIC, Table};
use super::{Name, Value};
use crate::http2::{Reason, Violation, huffman};

/// What the peer may use (SETTINGS_HEADER_TABLE_SIZE): the value that holds where nothing is said.
pub const TABLE: usize = 4096;

/// Literals of many heads are put in memory that is had once. What is in the table keeps it, but not that of a larger block.
const TEXT: usize = 2 * 1024;

/// A Huffman-coded value that is longer is not remembered.
const KNOWN: usize = 64;

/// Whose values nobody is to keep who need not: `authorization`, `cookie`, `location` (of a redirect with a code in it), `set-cookie`.
const PRIVATE: [usize; 4] = [23, 32, 46, 55];

/// Reads all header blocks of a connection, in their order.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Where literals are put.
    text: BytesMut,
    /// By the index of their names in the static table. Servers that do without a table of their own (nginx) send nearly all that
    /// they say again and again; to compare it takes a fifth of what it takes to read it.
    known: Vec<Known>,
}

/// What a value meant that came before.
#[derive(Clone, Debug)]
struct Known {
    /// As it was sent. Empty for none.
    coded: Vec<u8>,
    value: Value,
}

/// What may be in a block, by the count of RFC 9113 §6.5.2 (SETTINGS_MAX_HEADER_LIST_SIZE).
#[derive(Clone, Copy)]
pub struct Limits {
    pub size: usize,
    pub fields: usize,
}

/// What is left of a block.
struct Input<'a>(&'a [u8]);

/// A string as it was sent.
struct Text<'a> {
    bytes: &'a [u8],
    /// By Huffman's code.
    coded: bool,
}

const TRUNCATED: Violation =
    Violation::new(Reason::COMPRESSION_ERROR, "a header block that is cut off");

impl Decoder {
    pub fn new() -> Self {
        Self {
            table: Table::new(TABLE),
            text: BytesMut::new(),
            known: Vec::new(),
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
        self.known = Vec::new();
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
        // RFC 7541 §6.2.3 asks for more care with some.
        let never = PREFIX == 4 && input.0.first().is_some_and(|first| first & 0x10 != 0);
        let index = input.integer::<PREFIX>()?;
        let name = match index {
            0 => {
                input.string()?.put(&mut self.text)?;
                let name = Name::new(&self.text);
                self.text.clear();
                name
            }
            index => self.entry(index)?.name.clone(),
        };
        let common = (1..=STATIC).contains(&index) && !PRIVATE.contains(&index);
        let kept = common && !never && !large;
        let mut value = self.value(input.string()?, kept.then_some(index))?;
        if never && let Value::Field(value) = &mut value {
            // Whoever passes it on has to write it in the same way.
            value.set_sensitive(true);
        }
        let entry = Entry::new(name, value);
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

    fn value(&mut self, text: Text<'_>, index: Option<usize>) -> Result<Value, Violation> {
        let index = index.filter(|_| text.coded && text.bytes.len() <= KNOWN);
        if let Some(index) = index
            && let Some(known) = self.known.get(index)
            && !known.coded.is_empty()
            && known.coded == text.bytes
        {
            return Ok(known.value.clone());
        }
        text.put(&mut self.text)?;
        let value = Value::new(self.text.split().freeze());
        if let Some(index) = index {
            if self.known.is_empty() {
                let none = Known {
                    coded: Vec::new(),
                    value: Value::Invalid(0),
                };
                self.known.resize(STATIC + 1, none);
            }
            let known = &mut self.known[index];
            known.coded.clear();
            known.coded.extend_from_slice(text.bytes);
            known.value = value.clone();
        }
        Ok(value)
    }

    fn entry(&self, index: usize) -> Result<&Entry, Violation> {
        let entry = self.table.get(index);
        entry.ok_or(broken("an index that nothing is at"))
    }

    /// The names whose last values are remembered.
    #[cfg(test)]
    pub(super) fn known(&self) -> Vec<&[u8]> {
        let mut names: Vec<_> = (1..self.known.len())
            .filter(|index| !self.known[*index].coded.is_empty())
            .filter_map(|index| Some(self.table.get(index)?.name.as_bytes()))
            .collect();
        assert!(
            self.known
                .first()
                .is_none_or(|of_no_name| of_no_name.coded.is_empty())
        );
        names.reverse();
        names
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

impl<'a> Input<'a> {
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

    /// RFC 7541 §5.2.
    fn string(&mut self) -> Result<Text<'a>, Violation> {
        let coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer::<7>()?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(Text { bytes, coded })
    }
}

impl Text<'_> {
    /// Appends what it says.
    fn put(&self, out: &mut BytesMut) -> Result<(), Violation> {
        if self.coded {
            huffman::decode(self.bytes, out).ok_or(broken("a string that is not Huffman-coded"))
        } else {
            out.extend_from_slice(self.bytes);
            Ok(())
        }
    }
}

const fn broken(rule: &'static str) -> Violation {
    Violation::new(Reason::COMPRESSION_ERROR, rule)
}

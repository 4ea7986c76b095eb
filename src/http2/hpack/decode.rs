//! Header blocks read (RFC 7541 §3 and §6).

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::table::{Entry, OVERHEAD, Table};
use super::{Name, Value};
use crate::http2::{Reason, Violation, huffman};

/// What the peer may use (SETTINGS_HEADER_TABLE_SIZE): the value that holds where nothing is said.
pub const TABLE: usize = 4096;

/// Literals of many heads are put in memory that is had once.
const TEXT: usize = 2 * 1024;

/// Reads all header blocks of a connection, in their order.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Literal values of the block that is being read.
    text: BytesMut,
    fields: Vec<(Name, Found)>,
}

#[derive(Debug)]
enum Found {
    Whole(Value),
    /// Where it stands in `text`.
    Literal(Range<u32>),
}

/// What may be in a block, by the count of RFC 9113 §6.5.2 (SETTINGS_MAX_HEADER_LIST_SIZE).
#[derive(Clone, Copy)]
pub struct Limits {
    pub size: usize,
    pub fields: usize,
}

/// The fields of a block.
pub struct Section<'a> {
    fields: &'a mut Vec<(Name, Found)>,
    text: Bytes,
    /// There were more of them, or larger ones, than is allowed; they were read for the table only.
    pub too_large: bool,
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
            fields: Vec::new(),
        }
    }

    /// Reads a whole block. After an error nobody knows what is in the table: the connection is over.
    pub fn decode(&mut self, block: &[u8], limits: Limits) -> Result<Section<'_>, Violation> {
        self.fields.clear();
        if self.text.capacity() < block.len() {
            self.text.reserve(block.len().max(TEXT));
        }
        let mut input = Input(block);
        let (mut size, mut too_large, mut begun) = (0, false, false);
        while let Some(first) = input.0.first() {
            if first >> 5 == 0b001 {
                if begun {
                    return Err(broken("a size update behind a field"));
                }
                self.resize(&mut input)?;
                continue;
            }
            begun = true;
            let (name, found, length) = match first {
                0x80.. => self.indexed(&mut input)?,
                0x40.. => self.literal::<6>(&mut input)?,
                _ => self.literal::<4>(&mut input)?,
            };
            size += length;
            too_large |= size > limits.size || self.fields.len() >= limits.fields;
            if !too_large {
                self.fields.push((name, found));
            }
        }
        Ok(Section {
            text: self.text.split().freeze(),
            fields: &mut self.fields,
            too_large,
        })
    }

    /// Memory that a connection can do without which nobody uses.
    pub fn shed(&mut self) {
        self.text = BytesMut::new();
        self.fields = Vec::new();
    }

    fn resize(&mut self, input: &mut Input<'_>) -> Result<(), Violation> {
        let size = input.integer::<5>()?;
        if size > TABLE {
            return Err(broken("a table that is larger than allowed"));
        }
        self.table.resize(size);
        Ok(())
    }

    fn indexed(&self, input: &mut Input<'_>) -> Result<(Name, Found, usize), Violation> {
        let entry = self.entry(input.integer::<7>()?)?;
        let value = Found::Whole(entry.value.clone());
        Ok((entry.name.clone(), value, entry.size()))
    }

    /// With an index of 6 bits the field goes into the table.
    fn literal<const PREFIX: u32>(
        &mut self,
        input: &mut Input<'_>,
    ) -> Result<(Name, Found, usize), Violation> {
        let start = self.text.len();
        let name = match input.integer::<PREFIX>()? {
            0 => {
                input.string(&mut self.text)?;
                let name = Name::new(&self.text[start..]);
                self.text.truncate(start);
                name
            }
            index => self.entry(index)?.name.clone(),
        };
        input.string(&mut self.text)?;
        let value = start..self.text.len();
        let size = name.as_bytes().len() + value.len() + OVERHEAD;
        if PREFIX == 6 && self.table.make_room(size) {
            // A copy, as what is around it would live as long.
            let value = Value::new(Bytes::copy_from_slice(&self.text[value]));
            self.text.truncate(start);
            self.table.insert(Entry {
                name: name.clone(),
                value: value.clone(),
            });
            return Ok((name, Found::Whole(value), size));
        }
        // Little more than a block.
        let value = value.start as u32..value.end as u32;
        Ok((name, Found::Literal(value), size))
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

impl Section<'_> {
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Takes them all out.
    pub fn drain(&mut self) -> impl Iterator<Item = (Name, Value)> {
        self.fields.drain(..).map(|(name, found)| {
            let value = match found {
                Found::Whole(value) => value,
                Found::Literal(at) => {
                    Value::new(self.text.slice(at.start as usize..at.end as usize))
                }
            };
            (name, value)
        })
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

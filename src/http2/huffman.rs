//! Huffman-coded strings (RFC 7541 §5.2 and Appendix B): read only, as what we write is cheaper to write plain.

use bytes::BytesMut;

/// The length of each symbol's code in bits. The codes follow from it: the code is canonical, the shorter before the longer, and the
/// smaller symbol before the larger.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const LONGEST: usize = 30;

/// RFC 7541 §5.2: it must not occur in a string; its first bits fill the last byte up.
const EOS: u16 = 256;

/// Codes of up to so many bits are found by one look.
const SHORT: u32 = 8;

static TABLES: Tables = Tables::build();

struct Tables {
    /// By the complement of the next [`SHORT`] bits: the symbol, and the length of its code, which is 0 where that is longer.
    short: [(u8, u8); 1 << SHORT],
    /// By length: the first code that is larger than those of this length, with its bits to the left of 30.
    end: [u32; LONGEST + 1],
    /// By length: what has to be added to a code for its place in `symbols`.
    offset: [i32; LONGEST + 1],
    /// In the order of their codes.
    symbols: [u16; 257],
}

impl Tables {
    const fn build() -> Self {
        let mut tables = Self {
            short: [(0, 0); 1 << SHORT],
            end: [0; LONGEST + 1],
            offset: [0; LONGEST + 1],
            symbols: [0; 257],
        };
        let (mut code, mut count, mut length) = (0_u32, 0, 1);
        while length <= LONGEST {
            code <<= 1;
            tables.offset[length] = count as i32 - code as i32;
            let mut symbol = 0;
            while symbol < LENGTHS.len() {
                if LENGTHS[symbol] as usize == length {
                    tables.symbols[count] = symbol as u16;
                    count += 1;
                    if length <= SHORT as usize {
                        let free = SHORT - length as u32;
                        let mut rest = 0;
                        while rest < 1 << free {
                            let index = (code << free) as usize | rest;
                            tables.short[index ^ 0xff] = (symbol as u8, length as u8);
                            rest += 1;
                        }
                    }
                    code += 1;
                }
                symbol += 1;
            }
            tables.end[length] = code << (LONGEST - length);
            length += 1;
        }
        tables
    }

    /// The symbol whose code is longer than [`SHORT`], from the next 30 bits.
    fn long(&self, bits: u32) -> (u16, u32) {
        let mut length = SHORT as usize + 1;
        // The last code of all is thirty ones, so that this ends.
        while length < LONGEST && bits >= self.end[length] {
            length += 1;
        }
        let code = (bits >> (LONGEST - length)) as i32;
        let place = (code + self.offset[length]) as usize;
        (self.symbols[place], length as u32)
    }
}

/// Appends what `source` says. `None` if it holds EOS, or does not end as a string does.
pub(super) fn decode(mut source: &[u8], out: &mut BytesMut) -> Option<()> {
    let start = out.len();
    // The shortest code has five bits.
    out.resize(start + source.len() * 8 / 5, 0);
    let mut end = start;
    // The complement of the next `count` bits stands to the left. What is behind it are zeros, as if the ones at the end went on.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        if count <= 32
            && let Some((four, rest)) = source.split_first_chunk()
        {
            bits |= u64::from(!u32::from_be_bytes(*four)) << (32 - count);
            count += 32;
            source = rest;
        }
        while count <= 56
            && let Some((byte, rest)) = source.split_first()
        {
            bits |= u64::from(!byte) << (56 - count);
            count += 8;
            source = rest;
        }
        loop {
            let (symbol, length) = match TABLES.short[(bits >> 56) as usize] {
                (_, 0) => TABLES.long((!bits >> 34) as u32),
                (symbol, length) => (u16::from(symbol), u32::from(length)),
            };
            if length > count {
                // There was as much as there is; it has to be less than a byte of ones.
                out.truncate(end);
                return (count < 8 && bits == 0).then_some(());
            }
            if symbol == EOS {
                return None;
            }
            *out.get_mut(end)? = symbol as u8;
            end += 1;
            bits <<= length;
            count -= length;
            if count < LONGEST as u32 && !source.is_empty() {
                break;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;

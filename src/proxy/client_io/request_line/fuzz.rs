//! Fuzz target: the adapter's output for the bytes of a connection, in reads of any size.

use super::{RequestLine, is_suspect};

/// The first byte is the size of reads; the rest is one message and the bytes that follow it.
pub fn client_io(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else {
        return;
    };
    let whole = handed_out(bytes, bytes.len().max(1));
    assert_eq!(handed_out(bytes, usize::from(*size).max(1)), whole);
    // Only the first line that is not empty may differ, and only by the encoding of suspect bytes.
    let at = first_line(bytes);
    assert_eq!(whole[..at], bytes[..at]);
    let line = first_line_end(&bytes[at..]) + at;
    let rest = &bytes[line..];
    assert!(
        whole.ends_with(rest),
        "a byte behind the first line changed"
    );
    let new = &whole[at..whole.len() - rest.len()];
    if new != &bytes[at..line] {
        assert_eq!(decoded(new), decoded(&bytes[at..line]));
    }
    if !bytes[at..line].iter().copied().any(is_suspect) {
        assert_eq!(whole, bytes);
    }
}

fn handed_out(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut line = RequestLine::new();
    let mut out = Vec::new();
    for read in bytes.chunks(size) {
        match line.pass(read) {
            None => out.extend_from_slice(read),
            Some(instead) => out.extend_from_slice(&instead),
        }
    }
    out.extend_from_slice(&line.end());
    out
}

fn first_line(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match &bytes[at..] {
            [b'\r', b'\n', ..] => at += 2,
            [b'\n', ..] => at += 1,
            _ => return at,
        }
    }
}

fn first_line_end(bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    end.map_or(bytes.len(), |at| at + 1)
}

fn decoded(line: &[u8]) -> Vec<u8> {
    percent_encoding::percent_decode(line).collect()
}

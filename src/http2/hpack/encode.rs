//! Header blocks written (RFC 7541 §6): literals, of which nothing is remembered.
//!
//! Names in the static table go by their index, values plain: to Huffman-code a token of 520 bytes for every request took 12 000
//! instructions and saved the network a fourth of it. There is no dynamic table, which is said once ([`no_table`]): what may be in one
//! (not the token, RFC 7541 §7.1.3) is some hundred bytes, and to write a head takes 760 instructions in all, of which a table could save
//! half at best.

use http::{HeaderName, HeaderValue, Method, header};

/// RFC 7541 §6.2.2.
const LITERAL: u8 = 0x00;
/// RFC 7541 §6.2.3: whoever passes it on must not put it into a table either.
const NEVER_INDEXED: u8 = 0x10;

const AUTHORITY: usize = 1;
const METHOD: usize = 2;
const PATH: usize = 4;
const SCHEME: usize = 6;

/// The table has a size of 0 from here on, whatever the peer would allow. To be said in the first block of a connection.
pub fn no_table(out: &mut Vec<u8>) {
    out.push(0x20);
}

/// Appends the pseudo-fields of a request (RFC 9113 §8.3.1).
pub fn request(out: &mut Vec<u8>, method: &Method, scheme: &str, authority: &str, path: &str) {
    match *method {
        Method::GET => out.push(0x82),
        Method::POST => out.push(0x83),
        _ => indexed_name(out, LITERAL, METHOD, method.as_str().as_bytes()),
    }
    match scheme {
        "https" => out.push(0x87),
        "http" => out.push(0x86),
        _ => indexed_name(out, LITERAL, SCHEME, scheme.as_bytes()),
    }
    if !authority.is_empty() {
        indexed_name(out, LITERAL, AUTHORITY, authority.as_bytes());
    }
    match path {
        "/" => out.push(0x84),
        // Some APIs take the token in the query.
        _ => indexed_name(out, NEVER_INDEXED, PATH, path.as_bytes()),
    }
}

/// Appends a field.
pub fn field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    // An app's own credential, which is kept, is not marked.
    let kind = if value.is_sensitive() || *name == header::AUTHORIZATION {
        NEVER_INDEXED
    } else {
        LITERAL
    };
    match static_index(name.as_str()) {
        Some(index) => indexed_name(out, kind, index, value.as_bytes()),
        None => {
            out.push(kind);
            string(out, name.as_str().as_bytes());
            string(out, value.as_bytes());
        }
    }
}

/// Appends `content-length`.
pub fn content_length(out: &mut Vec<u8>, length: u64) {
    let mut digits = itoa::Buffer::new();
    indexed_name(out, LITERAL, 28, digits.format(length).as_bytes());
}

fn indexed_name(out: &mut Vec<u8>, kind: u8, index: usize, value: &[u8]) {
    integer(out, kind, 4, index);
    string(out, value);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// RFC 7541 §5.1, behind the bits of `kind`. Inlined, as a call would cost as much as what it does, ten times for a request.
#[inline(always)]
fn integer(out: &mut Vec<u8>, kind: u8, prefix: u32, value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        out.push(kind | value as u8);
    } else {
        out.push(kind | most as u8);
        rest(out, value - most);
    }
}

fn rest(out: &mut Vec<u8>, mut rest: usize) {
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Where a name that requests have is in the static table.
fn static_index(name: &str) -> Option<usize> {
    // By length first: a name is compared with one or two others.
    let index = match name.len() {
        3 if name == "via" => 60,
        4 if name == "from" => 37,
        5 if name == "range" => 50,
        6 if name == "accept" => 19,
        6 if name == "cookie" => 32,
        7 if name == "referer" => 51,
        8 if name == "if-match" => 39,
        8 if name == "if-range" => 42,
        10 if name == "user-agent" => 58,
        12 if name == "content-type" => 31,
        12 if name == "max-forwards" => 47,
        13 if name == "authorization" => 23,
        13 if name == "cache-control" => 24,
        13 if name == "if-none-match" => 41,
        15 if name == "accept-encoding" => 16,
        15 if name == "accept-language" => 17,
        16 if name == "content-encoding" => 26,
        16 if name == "content-language" => 27,
        17 if name == "if-modified-since" => 40,
        19 if name == "if-unmodified-since" => 43,
        19 if name == "content-disposition" => 25,
        _ => return None,
    };
    Some(index)
}

#[cfg(test)]
pub(super) mod tests;

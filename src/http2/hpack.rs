//! Compression of heads (RFC 7541).
//!
//! [`decode`] keeps fields in the form in which they are used, in its table, too: one that the peer refers to again costs the count of
//! its references. [`encode`] has no table: see there.

pub mod decode;
pub mod encode;
mod table;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

pub use decode::Decoder;

/// A field's name. What HTTP/2 does not allow is not the compression's business, and is kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    Field(HeaderName),
    /// `:status`, the one pseudo-field of responses.
    Status,
    /// Any other pseudo-field, and what is no name in lower case.
    Other(Bytes),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Field(HeaderValue),
    /// So many bytes of what RFC 9113 §8.2.1 does not allow in one.
    Invalid(usize),
}

impl Name {
    fn new(bytes: &[u8]) -> Self {
        if bytes == b":status" {
            return Self::Status;
        }
        match HeaderName::from_lowercase(bytes) {
            Ok(name) => Self::Field(name),
            Err(_) => Self::Other(Bytes::copy_from_slice(bytes)),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Field(name) => name.as_str().as_bytes(),
            Self::Status => b":status",
            Self::Other(bytes) => bytes,
        }
    }
}

impl Value {
    fn new(bytes: Bytes) -> Self {
        let length = bytes.len();
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if blank(bytes.first()) || blank(bytes.last()) {
            return Self::Invalid(length);
        }
        match HeaderValue::from_maybe_shared(bytes) {
            Ok(value) => Self::Field(value),
            Err(_) => Self::Invalid(length),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Field(value) => value.len(),
            Self::Invalid(length) => *length,
        }
    }
}

#[cfg(test)]
mod tests;

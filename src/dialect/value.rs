//! The values of variables and of filters.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::Value as JsonValue;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::secret::Secret;

/// A filter's input or output.
#[derive(Clone, PartialEq, Zeroize, ZeroizeOnDrop)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// A raw digest: lower hex, unless the next filter is an encoder.
    Digest(Vec<u8>),
    /// Decoded bytes: hashed and encoded verbatim; text if they are UTF-8.
    Bytes(Vec<u8>),
}

/// Computed values by name, without those that lack a required input.
pub(super) type Values = BTreeMap<String, Value>;

/// A variable's value. Keeps TOML's type, so that a JSON body sends the value as it was written.
#[derive(Clone, PartialEq)]
pub enum Var {
    Text(Secret),
    Integer(i64),
    Boolean(bool),
}

impl Var {
    /// The value as a header, form or query carries it.
    pub fn to_text(&self) -> Secret {
        match self {
            Self::Text(text) => text.clone(),
            Self::Integer(number) => number.to_string().into(),
            Self::Boolean(flag) => flag.to_string().into(),
        }
    }
}

impl fmt::Debug for Var {
    /// Redacts every type: a number can be a secret as well as a text can.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Variables by name: `client_id`, `client_secret`, … and the provider's own `vars`.
pub type Variables = BTreeMap<String, Var>;

/// Built-in variables, frozen once per fetch: the same in every template of one request.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub now: SystemTime,
    pub nonce: String,
    pub uuid: String,
    /// The request's URL without its query: most vendors expect it as an assertion's `aud`.
    pub token_url: String,
}

impl Value {
    pub(super) fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Text(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(truth) => truth.to_string(),
            Self::Digest(bytes) => lower_hex(bytes),
            Self::Bytes(bytes) => {
                std::str::from_utf8(bytes).map_or_else(|_| lower_hex(bytes), str::to_owned)
            }
        })
    }

    /// The input of a digest, or the bytes of a key. A digest counts as its hex form: the customary
    /// md5(md5(x)) of Chinese APIs hashes hex.
    pub(super) fn hashed(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Zeroizing::new(bytes.clone()),
            _ => Zeroizing::new(self.text().as_bytes().to_vec()),
        }
    }

    /// The input of an encoder: a digest counts as its bytes, not as its hex form.
    pub(super) fn bytes(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Digest(bytes) | Self::Bytes(bytes) => Zeroizing::new(bytes.clone()),
            Self::Text(_) | Self::Integer(_) | Self::Boolean(_) => self.hashed(),
        }
    }
}

impl From<&Var> for Value {
    fn from(var: &Var) -> Self {
        match var {
            Var::Text(text) => Self::Text(text.expose().to_owned()),
            Var::Integer(number) => Self::Integer(*number),
            Var::Boolean(truth) => Self::Boolean(*truth),
        }
    }
}

impl Frozen {
    /// The built-in variable of this name.
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        Some(match name {
            "unix" => Value::Integer(self.unix()),
            "unix_ms" => Value::Integer(timestamp(self.now).as_millisecond()),
            "now" => Value::Text(format!("{:.0}", timestamp(self.now))),
            "nonce" => Value::Text(self.nonce.clone()),
            "uuid" => Value::Text(self.uuid.clone()),
            "token_url" => Value::Text(self.token_url.clone()),
            _ => return None,
        })
    }

    /// Seconds since the Unix epoch.
    pub(super) fn unix(&self) -> i64 {
        timestamp(self.now).as_second()
    }
}

/// Whether the text can name a variable.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && (text.chars()).all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// Wipes filled-in strings, which serde_json does not do on drop.
pub(super) fn wipe(value: &mut JsonValue) {
    match value {
        JsonValue::String(text) => text.zeroize(),
        JsonValue::Array(items) => items.iter_mut().for_each(wipe),
        JsonValue::Object(entries) => entries.values_mut().for_each(wipe),
        JsonValue::Null | JsonValue::Bool(_) | JsonValue::Number(_) => {}
    }
}

pub(super) fn lower_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
        hex.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    hex
}

/// Times outside jiff's years -9999 to 9999 become the epoch: no server would accept either.
fn timestamp(now: SystemTime) -> Timestamp {
    Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH)
}

//! Filters of a template: `{client_secret|md5|upper}`.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::Var;
use super::suggest::hint;

/// One step of a hole's pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Md5,
    Sha1,
    Sha256,
    Sha512,
    /// With the name of the variable that holds the key.
    HmacSha1(String),
    HmacSha256(String),
    Hex,
    Base64,
    /// Without padding, as in RFC 7515.
    Base64Url,
    Upper,
    Int,
}

/// What flows from filter to filter.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// A raw digest: lower hex, unless the next filter is an encoder.
    Digest(Vec<u8>),
}

const NAMES: [&str; 12] = [
    "md5",
    "sha1",
    "sha256",
    "sha512",
    "hmac_sha1",
    "hmac_sha256",
    "hex",
    "base64",
    "base64url",
    "upper",
    "int",
    "or",
];

impl Filter {
    /// Reads `name` or `name:argument`. (`or` is no filter of values and is read by the template.)
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let key = || match argument {
            Some(key) if super::template::is_name(key) => Ok(key.to_owned()),
            _ => Err(format!(
                "write {name}:k, k being the variable that holds the key"
            )),
        };
        let filter = match name {
            "hmac_sha1" => return key().map(Self::HmacSha1),
            "hmac_sha256" => return key().map(Self::HmacSha256),
            "md5" => Self::Md5,
            "sha1" => Self::Sha1,
            "sha256" => Self::Sha256,
            "sha512" => Self::Sha512,
            "hex" => Self::Hex,
            "base64" => Self::Base64,
            "base64url" => Self::Base64Url,
            "upper" => Self::Upper,
            "int" => Self::Int,
            "or" => return Err("`or:` must be the first filter".to_owned()),
            _ => return Err(format!("unknown filter{}", hint(name, NAMES))),
        };
        if argument.is_some() {
            return Err(format!("the filter `{name}` takes no argument"));
        }
        Ok(filter)
    }

    /// As it is written in a template.
    pub(super) fn source(&self) -> String {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::HmacSha1(key) => return format!("hmac_sha1:{key}"),
            Self::HmacSha256(key) => return format!("hmac_sha256:{key}"),
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Base64Url => "base64url",
            Self::Upper => "upper",
            Self::Int => "int",
        }
        .to_owned()
    }

    /// The variable that holds the key, where there is one.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::HmacSha1(key) | Self::HmacSha256(key) => Some(key),
            Self::Md5
            | Self::Sha1
            | Self::Sha256
            | Self::Sha512
            | Self::Hex
            | Self::Base64
            | Self::Base64Url
            | Self::Upper
            | Self::Int => None,
        }
    }

    /// `key` is the value of [`Self::key`]; it is not looked at by filters without one.
    pub(super) fn apply(&self, value: &Value, key: &[u8]) -> Result<Value, String> {
        let text = || value.text();
        Ok(match self {
            Self::Md5 => Value::Digest(Md5::digest(text().as_bytes()).to_vec()),
            Self::Sha1 => Value::Digest(Sha1::digest(text().as_bytes()).to_vec()),
            Self::Sha256 => Value::Digest(Sha256::digest(text().as_bytes()).to_vec()),
            Self::Sha512 => Value::Digest(Sha512::digest(text().as_bytes()).to_vec()),
            Self::HmacSha1(_) => {
                let mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes keys of any length");
                let mac = mac.chain_update(text().as_bytes());
                Value::Digest(mac.finalize().into_bytes().to_vec())
            }
            Self::HmacSha256(_) => {
                let mac =
                    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
                let mac = mac.chain_update(text().as_bytes());
                Value::Digest(mac.finalize().into_bytes().to_vec())
            }
            Self::Hex => Value::Text(lower_hex(&value.bytes())),
            Self::Base64 => Value::Text(STANDARD.encode(&*value.bytes())),
            Self::Base64Url => Value::Text(URL_SAFE_NO_PAD.encode(&*value.bytes())),
            Self::Upper => Value::Text(text().to_uppercase()),
            Self::Int => Value::Integer(
                (text().trim().parse()).map_err(|_| "`int` needs an integer".to_owned())?,
            ),
        })
    }
}

impl Value {
    pub(super) fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Text(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(truth) => truth.to_string(),
            Self::Digest(bytes) => lower_hex(bytes),
        })
    }

    /// What an encoder encodes: the digest itself, not its hex form.
    fn bytes(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Digest(bytes) => Zeroizing::new(bytes.clone()),
            Self::Text(_) | Self::Integer(_) | Self::Boolean(_) => {
                Zeroizing::new(self.text().as_bytes().to_vec())
            }
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

fn lower_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
        hex.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(input: &str, filters: &[&str], key: &str) -> Result<String, String> {
        let mut value = Value::Text(input.to_owned());
        for filter in filters {
            value = Filter::parse(filter)?.apply(&value, key.as_bytes())?;
        }
        Ok(value.text().to_string())
    }

    #[test]
    fn known_values() {
        // Digests of "abc": RFC 1321 §A.5, FIPS 180-4 examples; HMAC: RFC 2202 §3 and RFC 4231 §4.3, key "Jefe".
        let jefe = "what do ya want for nothing?";
        for (input, filters, expected) in [
            ("abc", &["md5"][..], "900150983cd24fb0d6963f7d28e17f72"),
            ("abc", &["sha1"], "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                "abc",
                &["sha256"],
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                "abc",
                &["sha512"],
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (
                jefe,
                &["hmac_sha1:k"],
                "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
            ),
            (
                jefe,
                &["hmac_sha256:k"],
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            ("abc", &["md5", "base64"], "kAFQmDzST7DWlj99KOF/cg=="),
            ("abc", &["md5", "base64url"], "kAFQmDzST7DWlj99KOF_cg"),
            ("abc", &["md5", "hex"], "900150983cd24fb0d6963f7d28e17f72"),
            ("abc", &["md5", "upper"], "900150983CD24FB0D6963F7D28E17F72"),
            ("abc", &["hex"], "616263"),
            ("abc", &["base64"], "YWJj"),
            // The customary md5(md5(x)) of Chinese APIs hashes the hex form.
            ("abc", &["md5", "md5"], "ec0405c5aef93e771cd80e0db180b88b"),
            (" 42", &["int"], "42"),
        ] {
            assert_eq!(
                run(input, filters, "Jefe").unwrap(),
                expected,
                "{filters:?}"
            );
        }
    }

    #[test]
    fn int_makes_a_number() {
        let value = Filter::Int
            .apply(&Value::Text("7".into()), b"")
            .ok()
            .unwrap();
        assert!(matches!(value, Value::Integer(7)));
        assert_eq!(
            run("x1", &["int"], ""),
            Err("`int` needs an integer".into())
        );
    }

    #[test]
    fn unknown_filters_are_refused_with_the_nearest() {
        for (text, message) in [
            ("md4", "unknown filter; did you mean `md5`?"),
            ("md5:x", "the filter `md5` takes no argument"),
            (
                "hmac_sha1",
                "write hmac_sha1:k, k being the variable that holds the key",
            ),
            ("or:x", "`or:` must be the first filter"),
        ] {
            assert_eq!(Filter::parse(text).unwrap_err(), message);
        }
    }
}

//! Filters of a template: `{client_secret|md5|upper}`.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde_json::Value as JsonValue;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::date::{Format, Zone};
use super::jwt::SigningKey;
use super::selector::scalar_text;
use super::suggest::hint;
use super::value::{Value, is_name, lower_hex, wipe};

/// One step of a placeholder's pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Md5,
    Sha1,
    Sha256,
    Sha384,
    Sha512,
    /// HMAC with the named variable as key.
    Hmac(Hash, String),
    Hex,
    Base64,
    /// Without padding, as in RFC 7515.
    Base64Url,
    /// Accepts both alphabets, with and without padding.
    Unbase64,
    /// Percent-encoding, for values that are encoded once more when they are sent.
    UrlEncode,
    /// The bytes of a PEM block (RFC 7468).
    Der,
    /// The public half of a private key, as SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) in DER.
    Spki,
    /// A digest's bytes in place of its hex form, for hashing it again.
    Raw,
    /// A value inside a JSON text, by RFC 6901 pointer.
    Json(String),
    Upper,
    Lower,
    Int,
    /// Adds to an integer.
    Add(i64),
    /// The same time in another zone.
    Zone(Zone),
    /// A time in another format.
    Date(Format),
}

/// The hash function of an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

/// Filters without an argument, by name.
static PLAIN: [(&str, Filter); 16] = [
    ("md5", Filter::Md5),
    ("sha1", Filter::Sha1),
    ("sha256", Filter::Sha256),
    ("sha384", Filter::Sha384),
    ("sha512", Filter::Sha512),
    ("hex", Filter::Hex),
    ("base64", Filter::Base64),
    ("base64url", Filter::Base64Url),
    ("unbase64", Filter::Unbase64),
    ("urlencode", Filter::UrlEncode),
    ("der", Filter::Der),
    ("spki", Filter::Spki),
    ("raw", Filter::Raw),
    ("upper", Filter::Upper),
    ("lower", Filter::Lower),
    ("int", Filter::Int),
];

const HMACS: [(&str, Hash); 4] = [
    ("hmac_md5", Hash::Md5),
    ("hmac_sha1", Hash::Sha1),
    ("hmac_sha256", Hash::Sha256),
    ("hmac_sha512", Hash::Sha512),
];

/// All but the unreserved characters of RFC 3986 §2.3.
pub(super) const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

impl Filter {
    /// Reads `name` or `name:argument`. The template itself reads `or`, which is no filter.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        if let Some((_, filter)) = PLAIN.iter().find(|(known, _)| *known == name) {
            return match argument {
                None => Ok(filter.clone()),
                Some(_) => Err(format!("the filter `{name}` takes no argument")),
            };
        }
        if let Some((_, hash)) = HMACS.iter().find(|(known, _)| *known == name) {
            return match argument {
                Some(key) if is_name(key) => Ok(Self::Hmac(*hash, key.to_owned())),
                _ => Err(format!(
                    "write {name}:k, k being the variable that holds the key"
                )),
            };
        }
        Err(match (name, argument) {
            ("json", Some(pointer)) if pointer.starts_with('/') => {
                return Ok(Self::Json(pointer.to_owned()));
            }
            ("json", _) => "write json:/like/this".to_owned(),
            ("add", _) => match argument.and_then(|number| number.parse().ok()) {
                Some(number) => return Ok(Self::Add(number)),
                None => "write add:N, N being an integer".to_owned(),
            },
            ("zone", _) => return Zone::parse(argument.unwrap_or_default()).map(Self::Zone),
            ("date", _) => return Format::parse(argument.unwrap_or_default()).map(Self::Date),
            ("or", _) => "`or:` must be the first filter".to_owned(),
            _ => {
                let plain = PLAIN.iter().map(|(name, _)| *name);
                let known = plain
                    .chain(HMACS.map(|(name, _)| name))
                    .chain(["json", "add", "zone", "date", "or"]);
                format!("unknown filter{}", hint(name, known))
            }
        })
    }

    /// The filter as a template writes it.
    pub(super) fn source(&self) -> String {
        let name = match self {
            Self::Hmac(hash, key) => {
                let name = HMACS.iter().find(|(_, known)| known == hash);
                return format!("{}:{key}", name.map_or("", |(name, _)| name));
            }
            Self::Json(pointer) => return format!("json:{pointer}"),
            Self::Add(number) => return format!("add:{number}"),
            Self::Zone(zone) => return format!("zone:{}", zone.text()),
            Self::Date(format) => return format!("date:{}", format.text()),
            plain => PLAIN.iter().find(|(_, known)| known == plain),
        };
        name.map_or("", |(name, _)| name).to_owned()
    }

    /// The variable that holds the key.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::Hmac(_, key) => Some(key),
            _ => None,
        }
    }

    /// Applies the filter. `key` is the value of [`Self::key`], or anything for other filters.
    pub(super) fn apply(&self, value: &Value, key: &[u8]) -> Result<Value, String> {
        let text = || value.text();
        let hashed = || value.hashed();
        Ok(match self {
            Self::Md5 => Value::Digest(Md5::digest(&*hashed()).to_vec()),
            Self::Sha1 => Value::Digest(Sha1::digest(&*hashed()).to_vec()),
            Self::Sha256 => Value::Digest(Sha256::digest(&*hashed()).to_vec()),
            Self::Sha384 => Value::Digest(Sha384::digest(&*hashed()).to_vec()),
            Self::Sha512 => Value::Digest(Sha512::digest(&*hashed()).to_vec()),
            Self::Hmac(hash, _) => Value::Digest(hash.hmac(key, &hashed())),
            Self::Hex => Value::Text(lower_hex(&value.bytes())),
            Self::Base64 => Value::Text(STANDARD.encode(&*value.bytes())),
            Self::Base64Url => Value::Text(URL_SAFE_NO_PAD.encode(&*value.bytes())),
            Self::Unbase64 => Value::Bytes(unbase64(&text())?),
            Self::UrlEncode => Value::Text(utf8_percent_encode(&text(), RESERVED).to_string()),
            Self::Der => Value::Bytes(der(&text())?),
            Self::Spki => Value::Bytes(SigningKey::parse(&text(), None)?.public_der()?),
            Self::Raw => Value::Bytes(value.bytes().to_vec()),
            Self::Json(pointer) => in_json(&text(), pointer)?,
            Self::Upper => Value::Text(text().to_uppercase()),
            Self::Lower => Value::Text(text().to_lowercase()),
            Self::Int => Value::Integer(
                (text().trim().parse()).map_err(|_| "`int` needs an integer".to_owned())?,
            ),
            Self::Add(number) => {
                let value: Option<i64> = text().trim().parse().ok();
                let sum = value.and_then(|value| value.checked_add(*number));
                Value::Integer(sum.ok_or("`add` needs an integer")?)
            }
            Self::Zone(zone) => Value::Text(zone.write(&text())?),
            Self::Date(format) => Value::Text(format.write(&text())?),
        })
    }
}

impl Hash {
    fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        fn mac<M: Mac + KeyInit>(key: &[u8], data: &[u8]) -> Vec<u8> {
            let mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
            mac.chain_update(data).finalize().into_bytes().to_vec()
        }
        match self {
            Self::Md5 => mac::<Hmac<Md5>>(key, data),
            Self::Sha1 => mac::<Hmac<Sha1>>(key, data),
            Self::Sha256 => mac::<Hmac<Sha256>>(key, data),
            Self::Sha512 => mac::<Hmac<Sha512>>(key, data),
        }
    }
}

fn unbase64(text: &str) -> Result<Vec<u8>, String> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&alphabet::STANDARD, config);
    let text = Zeroizing::new(text.trim().replace('-', "+").replace('_', "/"));
    let decoded = engine.decode(text.as_bytes());
    decoded.map_err(|_| "`unbase64` needs base64".to_owned())
}

/// The first certificate, or else the first public key. Never a private key: a file may hold the
/// key before the certificate, and a digest of the key identifies nothing.
fn der(pem: &str) -> Result<Vec<u8>, String> {
    let public = |wanted| {
        let blocks = <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(pem.as_bytes());
        let mut blocks = blocks.filter_map(Result::ok);
        blocks.find(|(kind, _)| *kind == wanted).map(|(_, der)| der)
    };
    public(SectionKind::Certificate)
        .or_else(|| public(SectionKind::PublicKey))
        .ok_or_else(|| "`der` needs a certificate in PEM: -----BEGIN CERTIFICATE-----".to_owned())
}

fn in_json(text: &str, pointer: &str) -> Result<Value, String> {
    let mut json: JsonValue =
        serde_json::from_str(text).map_err(|_| "`json` needs a JSON text".to_owned())?;
    let found = json.pointer(pointer).and_then(|found| match found {
        JsonValue::Bool(truth) => Some(Value::Boolean(*truth)),
        JsonValue::Number(number) if number.is_i64() => number.as_i64().map(Value::Integer),
        other => scalar_text(other).map(Value::Text),
    });
    wipe(&mut json);
    found.ok_or_else(|| format!("the JSON has no value at {pointer}"))
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
    fn filters_give_the_published_values() {
        // Digests of "abc": RFC 1321 §A.5, FIPS 180-4 examples.
        // HMAC: RFC 2202 §3 and RFC 4231 §4.3, key "Jefe".
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
            // printf abc | openssl md5 -binary | openssl md5
            (
                "abc",
                &["md5", "raw", "md5"],
                "af5da9f45af7a300e3aded972f8ff687",
            ),
            // RFC 2202 §2, test case 2.
            (jefe, &["hmac_md5:k"], "750c783e6ab0b503eaa86e310a5db738"),
            // RFC 4231 §4.3.
            (
                jefe,
                &["hmac_sha512:k"],
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554\
                 9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
            // FIPS 180-4 example.
            (
                "abc",
                &["sha384"],
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
                 8086072ba1e7cc2358baeca134c825a7",
            ),
            // Kingdee's signature is the base64 of the hex form.
            (
                "abc",
                &["md5", "hex", "base64"],
                "OTAwMTUwOTgzY2QyNGZiMGQ2OTYzZjdkMjhlMTdmNzI=",
            ),
            ("YWJj", &["unbase64"], "abc"),
            ("YWI_", &["unbase64"], "ab?"),
            ("YQ", &["unbase64"], "a"),
            (
                "YQ==",
                &["unbase64", "sha1", "base64"],
                "hvfkN/qlp/zhXR3cuerq6jd2Z7g=",
            ),
            ("a+b/测", &["urlencode"], "a%2Bb%2F%E6%B5%8B"),
            (r#"{"a":{"b/c":"x"},"n":7}"#, &["json:/a/b~1c"], "x"),
            (r#"{"n":7}"#, &["json:/n", "add:-2"], "5"),
            ("ABC", &["lower"], "abc"),
            (
                "2026-11-30T20:13:05Z",
                &["zone:+08:00", "date:%Y-%m-%d %H:%M:%S"],
                "2026-12-01 04:13:05",
            ),
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
    fn der_takes_the_certificate_and_never_the_key_before_it() {
        let block = |kind: &str, text: &str| {
            format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
        };
        let key = block("PRIVATE KEY", "a2V5");
        let public = block("PUBLIC KEY", "cHVi");
        let all = key + &public + &block("CERTIFICATE", "Y2VydA==");
        assert_eq!(run(&all, &["der"], "").unwrap(), "cert");
        assert_eq!(run(&public, &["der"], "").unwrap(), "pub");
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
    fn decoding_errors_do_not_quote_the_input() {
        for (input, filter, message) in [
            ("!!", "unbase64", "`unbase64` needs base64"),
            (
                "-----BEGIN PRIVATE KEY-----\nYWJj\n-----END PRIVATE KEY-----\n",
                "der",
                "`der` needs a certificate in PEM: -----BEGIN CERTIFICATE-----",
            ),
            (
                "hunter2",
                "der",
                "`der` needs a certificate in PEM: -----BEGIN CERTIFICATE-----",
            ),
            ("hunter2", "json:/a", "`json` needs a JSON text"),
            (r#"{"a":{}}"#, "json:/a", "the JSON has no value at /a"),
            ("hunter2", "add:1", "`add` needs an integer"),
            ("9223372036854775807", "add:1", "`add` needs an integer"),
        ] {
            assert_eq!(run(input, &[filter], ""), Err(message.to_owned()));
        }
    }

    #[test]
    fn unknown_filters_are_refused_with_the_nearest_name() {
        for (text, message) in [
            ("md4", "unknown filter; did you mean `md5`?"),
            ("md5:x", "the filter `md5` takes no argument"),
            (
                "hmac_sha1",
                "write hmac_sha1:k, k being the variable that holds the key",
            ),
            ("or:x", "`or:` must be the first filter"),
            ("json", "write json:/like/this"),
            ("json:x", "write json:/like/this"),
            ("add:x", "write add:N, N being an integer"),
            ("date", "write a format such as date:%Y-%m-%d %H:%M:%S"),
            (
                "zone:Asia/Shanghai",
                "write an offset from UTC such as zone:+08:00",
            ),
        ] {
            assert_eq!(Filter::parse(text).unwrap_err(), message);
        }
    }
}

//! Signing keys, and JWTs made with them (RFC 7515 compact serialization, RFC 7518, RFC 8037).

use std::fmt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
};
use aws_lc_rs::{error::KeyRejected, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::Deserialize as _;
use serde_json::Value as JsonValue;
use zeroize::Zeroizing;

use super::schema::Alg;
use super::value::wipe;
use crate::secret::Secret;

/// A private key and its signature algorithm.
pub(super) struct SigningKey {
    pub(super) alg: Alg,
    /// From a JWK.
    pub(super) kid: Option<String>,
    key: Key,
}

enum Key {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    /// An HMAC secret; the algorithm decides the hash.
    Shared(Zeroizing<Vec<u8>>),
}

const NO_KEY: &str = "is neither a PEM private key (PKCS#8, PKCS#1, SEC1) nor a JWK; \
                      with a shared secret, state `alg` as HS256, HS384 or HS512";

const NO_CURVE: &str = "is no EC key on P-256, P-384 or P-521";

impl SigningKey {
    /// Reads PEM, a JWK, or with HS* the secret itself.
    ///
    /// Without `alg` the key decides: a JWK's own `alg`, RS256, the ES* of the curve, or EdDSA.
    /// Errors do not quote the key.
    pub(super) fn parse(text: &str, alg: Option<Alg>) -> Result<Self, String> {
        let trimmed = text.trim();
        let (key, stated, kid) = if trimmed.contains("-----BEGIN ") {
            (from_pem(trimmed)?, None, None)
        } else if trimmed.starts_with('{') {
            from_jwk(trimmed)?
        } else if alg.is_some_and(Alg::is_hmac) {
            let secret = Zeroizing::new(text.as_bytes().to_vec());
            (Key::Shared(secret), None, None)
        } else {
            return Err(NO_KEY.to_owned());
        };
        let alg = match alg.or(stated) {
            Some(alg) if key.fits(alg) => alg,
            Some(alg) => {
                return Err(format!("is {}, which cannot sign with {alg:?}", key.kind()));
            }
            None => key.usual().ok_or_else(|| NO_KEY.to_owned())?,
        };
        Ok(Self { alg, kid, key })
    }

    pub(super) fn sign(&self, header: &JsonValue, claims: &JsonValue) -> Result<Secret, String> {
        let encode = |json: &JsonValue| {
            let bytes = Zeroizing::new(serde_json::to_vec(json).expect("JSON without odd keys"));
            Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes))
        };
        let mut token = Zeroizing::new(format!("{}.{}", *encode(header), *encode(claims)));
        let signature = self
            .signature(token.as_bytes())
            .map_err(|_| "the key cannot sign".to_owned())?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(Secret::new(token.as_str()))
    }

    /// SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), DER.
    pub(super) fn public_der(&self) -> Result<Vec<u8>, String> {
        let der = match &self.key {
            Key::Rsa(key) => key.public_key().as_der(),
            Key::Ec(key) => key.public_key().as_der(),
            Key::Ed25519(key) => key.public_key().as_der(),
            Key::Shared(_) => return Err("a shared secret has no public half".to_owned()),
        };
        let der: PublicKeyX509Der<'_> = der.map_err(|_| "the key cannot be written".to_owned())?;
        Ok(der.as_ref().to_vec())
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key) => {
                let mut bytes = vec![0; key.public_modulus_len()];
                key.sign(rsa_encoding(self.alg), &random, message, &mut bytes)?;
                Ok(bytes)
            }
            Key::Ec(key) => Ok(key.sign(&random, message)?.as_ref().to_vec()),
            Key::Ed25519(key) => Ok(key.try_sign(message)?.as_ref().to_vec()),
            Key::Shared(secret) => {
                let key = hmac::Key::new(hmac_algorithm(self.alg), secret);
                Ok(hmac::sign(&key, message).as_ref().to_vec())
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.alg)
    }
}

impl Key {
    fn fits(&self, alg: Alg) -> bool {
        match self {
            Self::Rsa(_) => matches!(
                alg,
                Alg::RS256 | Alg::RS384 | Alg::RS512 | Alg::PS256 | Alg::PS384 | Alg::PS512
            ),
            // RFC 7518 §3.4: each curve has one algorithm.
            Self::Ec(_) | Self::Ed25519(_) => self.usual() == Some(alg),
            Self::Shared(_) => alg.is_hmac(),
        }
    }

    /// The default algorithm; a shared secret has none.
    fn usual(&self) -> Option<Alg> {
        match self {
            Self::Rsa(_) => Some(Alg::RS256),
            Self::Ec(key) => (CURVES.iter())
                .find(|curve| *key.algorithm() == *curve.algorithm)
                .map(|curve| curve.alg),
            Self::Ed25519(_) => Some(Alg::EdDSA),
            Self::Shared(_) => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "an RSA key",
            Self::Ec(_) => match self.usual() {
                Some(Alg::ES384) => "an EC key on P-384",
                Some(Alg::ES512) => "an EC key on P-521",
                _ => "an EC key on P-256",
            },
            Self::Ed25519(_) => "an Ed25519 key",
            Self::Shared(_) => "a shared secret",
        }
    }
}

impl Alg {
    fn is_hmac(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

/// RFC 7518 §3.4 and §6.2.1.1.
struct Curve {
    name: &'static str,
    alg: Alg,
    algorithm: &'static EcdsaSigningAlgorithm,
}

const CURVES: [Curve; 3] = [
    Curve {
        name: "P-256",
        alg: Alg::ES256,
        algorithm: &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
    },
    Curve {
        name: "P-384",
        alg: Alg::ES384,
        algorithm: &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
    },
    Curve {
        name: "P-521",
        alg: Alg::ES512,
        algorithm: &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
    },
];

fn rsa_encoding(alg: Alg) -> &'static dyn RsaEncoding {
    match alg {
        Alg::RS384 => &signature::RSA_PKCS1_SHA384,
        Alg::RS512 => &signature::RSA_PKCS1_SHA512,
        Alg::PS256 => &signature::RSA_PSS_SHA256,
        Alg::PS384 => &signature::RSA_PSS_SHA384,
        Alg::PS512 => &signature::RSA_PSS_SHA512,
        // `parse` refuses all other algorithms for an RSA key.
        _ => &signature::RSA_PKCS1_SHA256,
    }
}

fn hmac_algorithm(alg: Alg) -> hmac::Algorithm {
    match alg {
        Alg::HS384 => hmac::HMAC_SHA384,
        Alg::HS512 => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    }
}

/// The first private key of a file that may also hold certificates and curve parameters.
fn from_pem(text: &str) -> Result<Key, String> {
    if text.contains("ENCRYPTED") {
        let message = "is encrypted: decrypt it first, as with `openssl pkey -in key.pem`";
        return Err(message.to_owned());
    }
    use SectionKind::{EcPrivateKey, PrivateKey, RsaPrivateKey};
    let blocks = <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(text.as_bytes());
    let blocks = blocks.filter_map(Result::ok);
    let (kind, der) = blocks
        .map(|(kind, der)| (kind, Zeroizing::new(der)))
        .find(|(kind, _)| matches!(kind, PrivateKey | RsaPrivateKey | EcPrivateKey))
        .ok_or("holds no private key (PKCS#8, PKCS#1, SEC1) that can be read")?;
    let rsa = |result: Result<RsaKeyPair, KeyRejected>| result.map(|key| Key::Rsa(Box::new(key)));
    let rejected = |error: KeyRejected| format!("is a private key that cannot be used: {error}");
    match kind {
        RsaPrivateKey => rsa(RsaKeyPair::from_der(&der)).map_err(rejected),
        EcPrivateKey => ec_key(&der).ok_or_else(|| NO_CURVE.to_owned()),
        _ => match Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
            Ok(key) => Ok(Key::Ed25519(key)),
            Err(_) => match ec_key(&der) {
                Some(key) => Ok(key),
                None => rsa(RsaKeyPair::from_pkcs8(&der)).map_err(rejected),
            },
        },
    }
}

fn ec_key(der: &[u8]) -> Option<Key> {
    let read = |curve: &Curve| EcdsaKeyPair::from_private_key_der(curve.algorithm, der).ok();
    CURVES.iter().find_map(read).map(Key::Ec)
}

type FromJwk = (Key, Option<Alg>, Option<String>);

/// RFC 7517 and RFC 7518 §6, RFC 8037 §2.
fn from_jwk(text: &str) -> Result<FromJwk, String> {
    let mut jwk: JsonValue = serde_json::from_str(text).map_err(|_| NO_KEY.to_owned())?;
    let read = read_jwk(&jwk);
    wipe(&mut jwk);
    read
}

fn read_jwk(jwk: &JsonValue) -> Result<FromJwk, String> {
    let text = |name: &str| jwk.get(name).and_then(JsonValue::as_str);
    let part = |name: &str| {
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let bytes = text(name).and_then(decode).map(Zeroizing::new);
        bytes.ok_or_else(|| format!("is a JWK without a usable `{name}`"))
    };
    let rejected = |error: KeyRejected| format!("is a JWK that cannot be used: {error}");
    let key = match text("kty") {
        Some("RSA") => Key::Rsa(Box::new(rsa_of_jwk(part)?)),
        Some("EC") => {
            let curve = CURVES.iter().find(|curve| text("crv") == Some(curve.name));
            let curve = curve.ok_or(NO_CURVE)?;
            // SEC1 §2.3.3, uncompressed.
            let point = [&[4][..], &part("x")?, &part("y")?].concat();
            let d = part("d")?;
            let key = EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm, &d, &point);
            Key::Ec(key.map_err(rejected)?)
        }
        Some("OKP") if text("crv") == Some("Ed25519") => {
            let key = Ed25519KeyPair::from_seed_and_public_key(&part("d")?, &part("x")?);
            Key::Ed25519(key.map_err(rejected)?)
        }
        Some("oct") => Key::Shared(part("k")?),
        _ => return Err("is a JWK of another kind than RSA, EC, OKP (Ed25519) and oct".to_owned()),
    };
    let alg = jwk.get("alg").and_then(|alg| Alg::deserialize(alg).ok());
    Ok((key, alg, text("kid").map(str::to_owned)))
}

fn rsa_of_jwk(
    part: impl Fn(&str) -> Result<Zeroizing<Vec<u8>>, String>,
) -> Result<RsaKeyPair, String> {
    let bytes = |name: &str| part(name).map(|bytes| bytes.to_vec());
    let components = KeyPairComponents {
        public_key: PublicKeyComponents {
            n: bytes("n")?,
            e: bytes("e")?,
        },
        d: bytes("d")?,
        p: bytes("p")?,
        q: bytes("q")?,
        dP: bytes("dp")?,
        dQ: bytes("dq")?,
        qInv: bytes("qi")?,
    };
    let key = RsaKeyPair::from_components(&components);
    let KeyPairComponents {
        d,
        p,
        q,
        dP,
        dQ,
        qInv,
        ..
    } = components;
    // Wipes the private parts.
    drop([d, p, q, dP, dQ, qInv].map(Zeroizing::new));
    key.map_err(|error| format!("is a JWK that cannot be used: {error}"))
}

#[cfg(test)]
mod tests;

//! `[dialects.NAME]` as TOML.
//!
//! Only the shape is checked here. Every key is optional, so that one missing key does not hide
//! the file's other errors; [`compile`](super::compile()) reports missing keys.
//!
//! # Keys for more than plain requests
//!
//! ```toml
//! # Defaults for providers, as are authorization_url, device_authorization_url, min_interval and
//! # refresh_before. `{tenant}` is a text or environment variable of the provider.
//! token_url = "https://api.example/{tenant}/token"
//! ttl = "2h"
//! code_parameter = "auth_code" # the code's name in the redirect after a login; default "code"
//!
//! [vars]                       # computed, or defaults: a provider's own value overrides them
//! plain = "{client_id}{unix_ms}{client_secret}"   # may use other vars, but not in a cycle
//! sign  = "{plain|sha256}"     # keeps its type and bytes: {sign|base64} encodes the digest
//! region = "cn-north-4"
//!
//! [assertion]                  # RFC 7521 §4.1, as {assertion}
//! key      = "{private_key}"   # PEM (PKCS#8, PKCS#1, SEC1), JWK, or with HS* the secret itself
//! alg      = "RS256"           # RS PS ES HS 256 384 512, EdDSA; the key decides if absent
//! header   = { kid = "{kid?}", "x5t#S256" = "{certificate|der|sha256|base64url}" }
//! claims   = { iss = "{client_id}", aud = "{token_url}", nbf = "{unix}" }   # typed as in JSON
//! lifetime = "5m"              # iat, exp and jti are added; `jti = false` leaves jti out
//! [client_assertion]           # RFC 7521 §4.2, as {client_assertion}; the same keys
//!
//! [auth.client_secret_jwt]     # a request table's assertions override the top-level ones
//! form = { client_assertion = "{client_assertion}" }
//! client_assertion = { alg = "HS256", key = "{client_secret}" }
//!
//! [grants.installation]        # `path` replaces the path and query of token_url
//! path = "/app/installations/{installation}/access_tokens"
//! [grants.key_pair]
//! token = "{assertion}"        # built locally, no request; lives as long as the assertion
//!
//! [device]                     # RFC 8628 §3.1: `login` sends it to device_authorization_url
//! form = { client_id = "{client_id}", scope = "{scope?}" }
//! [grants.device_code]
//! form = { grant_type = "…:device_code", device_code = "{device_code}" }
//! one_time = ["device_code"]
//! ```
//!
//! Built-in variables: `unix unix_ms now nonce uuid token_url`; all but the last also in `[inject]`,
//! anew for each request. `{access_token}` is the token in `[inject]`, and in `[refresh]` the one to
//! renew: such a refresh needs no refresh token. `{provider.NAME}` is the token of
//! another provider, as is a provider's `vars = { subject_token = { provider = "NAME" } }`.
//! Filters: `md5 sha1 sha256 sha384 sha512`, `hmac_md5:k hmac_sha1:k hmac_sha256:k hmac_sha512:k`
//! (k is a variable), `hex base64 base64url unbase64 urlencode`, `der` (a PEM block's bytes),
//! `spki` (a private key's public half, DER), `upper lower int add:N`; `or:text` comes first;
//! `{now|zone:+08:00|date:%Y-%m-%d %H:%M:%S}` writes the time in a zone and a `strftime` format.
//! A digest is written in lower hex unless an encoder follows; hashing a digest hashes the hex.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::one_or_many::OneOrMany;

/// `[dialects.NAME]`, and each file of `builtin/`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DialectToml {
    /// Description in one line. This key and the next four are for people and are not inherited.
    pub about: Option<String>,
    /// Heading of the list of dialects.
    pub group: Option<String>,
    /// Address of the vendor's public document.
    pub document: Option<String>,
    /// Date or document version of the last comparison with the document.
    pub checked: Option<String>,
    /// Properties that the document leaves open or that no test has confirmed.
    pub unverified: Vec<String>,
    /// The dialect whose keys this one inherits.
    pub extends: Option<String>,
    pub default_grant: Option<String>,
    pub default_auth: Option<String>,
    pub single_active: Option<bool>,
    /// Names of secrets that identify the token's owner, such as a tenant's id: providers that
    /// differ in one of them share no token.
    pub identity: Option<Vec<String>>,
    /// Default URL template, filled in when the configuration is read.
    pub token_url: Option<String>,
    pub authorization_url: Option<String>,
    pub device_authorization_url: Option<String>,
    /// Name of the authorization code in the redirect; `code` if absent (RFC 6749 §4.1.2).
    pub code_parameter: Option<String>,
    /// Default durations.
    pub ttl: Option<String>,
    pub min_interval: Option<String>,
    pub refresh_before: Option<String>,
    /// Computed variables and defaults.
    pub vars: Ordered<Scalar>,
    pub assertion: Option<AssertionToml>,
    pub client_assertion: Option<AssertionToml>,
    pub request: RequestToml,
    /// By RFC 7591 `token_endpoint_auth_method`.
    pub auth: Ordered<RequestToml>,
    pub grants: Ordered<GrantToml>,
    pub refresh: Option<RequestToml>,
    /// The device authorization request, RFC 8628 §3.1.
    pub device: Option<RequestToml>,
    pub response: ResponseToml,
    pub inject: InjectToml,
    pub reject: RejectToml,
}

/// The dialect tables that a provider may override, as in `[providers.NAME.request]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    pub assertion: Option<AssertionToml>,
    pub client_assertion: Option<AssertionToml>,
    pub request: RequestToml,
    pub response: ResponseToml,
    pub inject: InjectToml,
    pub reject: RejectToml,
}

/// `[request]`, `[refresh]` and each entry of `[auth]`: strings are templates.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestToml {
    pub method: Option<String>,
    pub basic: Option<BasicToml>,
    /// A list is sent as repeated parameters (RFC 8707 §2).
    pub query: Option<Ordered<OneOrMany<Scalar>>>,
    pub headers: Option<Ordered<Scalar>>,
    /// A list is sent as repeated parameters.
    pub form: Option<Ordered<OneOrMany<Scalar>>>,
    pub json: Option<toml::Table>,
    pub body: Option<String>,
    /// Replaces the URL's path and query.
    pub path: Option<String>,
    pub assertion: Option<AssertionToml>,
    pub client_assertion: Option<AssertionToml>,
}

/// `[grants.NAME]`: a request and the one-time variables that it spends.
///
/// Repeats the keys of [`RequestToml`]: serde cannot combine `flatten` and `deny_unknown_fields`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrantToml {
    pub method: Option<String>,
    pub basic: Option<BasicToml>,
    /// A list is sent as repeated parameters (RFC 8707 §2).
    pub query: Option<Ordered<OneOrMany<Scalar>>>,
    pub headers: Option<Ordered<Scalar>>,
    /// A list is sent as repeated parameters.
    pub form: Option<Ordered<OneOrMany<Scalar>>>,
    pub json: Option<toml::Table>,
    pub body: Option<String>,
    /// Replaces the URL's path and query.
    pub path: Option<String>,
    pub assertion: Option<AssertionToml>,
    pub client_assertion: Option<AssertionToml>,
    /// Variables that the first exchange spends; they are never sent twice.
    pub one_time: Option<Vec<String>>,
    /// Template of a token that is built locally, without a request.
    pub token: Option<String>,
}

impl GrantToml {
    /// The keys that a grant shares with other request tables.
    pub fn request(&self) -> RequestToml {
        RequestToml {
            method: self.method.clone(),
            basic: self.basic.clone(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            form: self.form.clone(),
            json: self.json.clone(),
            body: self.body.clone(),
            path: self.path.clone(),
            assertion: self.assertion.clone(),
            client_assertion: self.client_assertion.clone(),
        }
    }
}

/// `[assertion]` and `[client_assertion]`: a JWT (RFC 7519), signed per request. Strings are
/// templates.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AssertionToml {
    /// RFC 7518 §3.1, RFC 8037; the key decides if absent.
    pub alg: Option<Alg>,
    /// PEM, JWK, or with HS* the shared secret.
    pub key: Option<String>,
    /// In addition to `alg` and `typ`.
    pub header: Option<toml::Table>,
    /// In addition to `iat`, `exp` and `jti`; `false` leaves one of those out.
    pub claims: Option<toml::Table>,
    /// A duration such as "5m".
    pub lifetime: Option<String>,
}

/// A signature algorithm of RFC 7518 §3.1 or RFC 8037 §3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Alg {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
    HS256,
    HS384,
    HS512,
}

/// `basic = { username, password, encoding }`, or `basic = false` to remove an inherited one.
#[derive(Clone, Debug, PartialEq)]
pub enum BasicToml {
    Removed,
    Credentials(CredentialsToml),
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialsToml {
    pub username: Option<String>,
    pub password: Option<String>,
    pub encoding: Encoding,
}

/// Encoding of user name and password for Basic authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Each is form-encoded first, RFC 6749 §2.3.1.
    #[default]
    Form,
    /// Verbatim, RFC 7617.
    Raw,
}

/// `[response]`: strings are selectors.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseToml {
    pub token: Option<OneOrMany<String>>,
    pub expires: Option<OneOrMany<String>>,
    pub expires_unit: Option<ExpiresUnit>,
    /// When the vendor issued the token; lifetimes count from it.
    pub issued_at: Option<OneOrMany<String>>,
    pub refresh_token: Option<OneOrMany<String>>,
    /// Selector to the values that mean success.
    pub ok: Option<Ordered<OneOrMany<Scalar>>>,
    pub error: Option<OneOrMany<String>>,
    pub error_description: Option<OneOrMany<String>>,
    /// Codes, phrases, `re:` patterns and `status:` of refusals that a retry cannot change.
    pub permanent: Option<OneOrMany<Scalar>>,
    /// The same of refusals that pass by themselves.
    pub transient: Option<OneOrMany<Scalar>>,
    /// The same of refusals that only a new login ends.
    #[serde(rename = "final")]
    pub final_: Option<OneOrMany<Scalar>>,
}

/// Unit of the numbers in `expires`. Seconds are always a lifetime; the others are a Unix time if
/// they are at least 32 years and that time has not passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum ExpiresUnit {
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "min")]
    Minutes,
}

/// `[inject]`: strings are templates.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InjectToml {
    pub headers: Option<Ordered<Scalar>>,
    pub query: Option<Ordered<OneOrMany<Scalar>>>,
}

/// `[reject]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RejectToml {
    pub status: Option<OneOrMany<u16>>,
    pub grpc_status: Option<OneOrMany<u16>>,
    /// JSON pointer to the values that mean "this token is dead".
    pub body: Option<Ordered<OneOrMany<Scalar>>>,
}

/// A table that keeps its written order, which is the order on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct Ordered<T>(pub Vec<(String, T)>);

impl<T> Ordered<T> {
    pub fn get(&self, key: &str) -> Option<&T> {
        self.iter()
            .find_map(|(name, value)| (name == key).then_some(value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }
}

// Not derived: a derive would require `T: Default`.
impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A value of a flat table.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Boolean(truth) => write!(f, "{truth}"),
        }
    }
}

// The visitors are written by hand: serde's `untagged` loses the path to an error and reports only
// that no variant matched.

impl<'de> Deserialize<'de> for BasicToml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a table with `username` and `password`, or `false`";

        struct BasicVisitor;

        impl<'de> Visitor<'de> for BasicVisitor {
            type Value = BasicToml;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<BasicToml, E> {
                match on {
                    true => Err(E::custom(format_args!("expected {EXPECTED}"))),
                    false => Ok(BasicToml::Removed),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BasicToml, A::Error> {
                CredentialsToml::deserialize(MapAccessDeserializer::new(map))
                    .map(BasicToml::Credentials)
            }
        }

        deserializer.deserialize_any(BasicVisitor)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OrderedVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OrderedVisitor<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(OrderedVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number or a boolean")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Boolean(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
                i64::try_from(value)
                    .map(Scalar::Integer)
                    .map_err(|_| E::custom("the number is too large"))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(value))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(value.to_owned()))
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}

#[cfg(test)]
mod tests;

//! `[assertion]` and `[client_assertion]`: JWTs that represent a grant or a client (RFC 7521,
//! RFC 7523).

use std::time::Duration;

use serde_json::{Value as JsonValue, json};

use super::duration::parse_duration;
use super::field::{Field, Problem, field, join};
use super::json::{JsonField, json_fields, json_object, json_scalar};
use super::jwt::SigningKey;
use super::schema::{Alg, AssertionToml};
use super::template::{Place, Scope, Template};
use super::value::{Value, Variables, wipe};

/// Default lifetime: short, as each request signs a new JWT, but long enough for clock skew.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Longest lifetime; RFC 7523 §3 lets servers refuse an `exp` that is far in the future.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// One table; `None` is inherited.
#[derive(Clone, Debug, Default)]
pub(super) struct AssertionLayer {
    alg: Option<Alg>,
    key: Option<Field<(), Template>>,
    header: Option<Vec<JsonField>>,
    claims: Option<Vec<JsonField>>,
    lifetime: Option<Duration>,
}

/// An assertion before its variables are known.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AssertionPlan {
    alg: Option<Alg>,
    key: Field<(), Template>,
    header: Vec<JsonField>,
    claims: Vec<JsonField>,
    pub(super) lifetime: Duration,
}

impl AssertionLayer {
    pub(super) fn parse(toml: &AssertionToml, path: &str, problems: &mut Vec<Problem>) -> Self {
        let key = (toml.key.as_ref())
            .and_then(|text| field(text, join(path, "key"), Place::Exchange, problems));
        let mut table = |name: &str, table: &Option<toml::Table>| {
            let table = table.as_ref()?;
            Some(json_fields(
                table,
                &join(path, name),
                Place::Exchange,
                problems,
            ))
        };
        let header = table("header", &toml.header);
        let claims = table("claims", &toml.claims);
        for field in header.iter().flatten() {
            if field.name == "alg" {
                problems.push(field.problem("is set by the table's `alg`, not in `header`"));
            }
        }
        Self {
            alg: toml.alg,
            key,
            header,
            claims,
            lifetime: parse_lifetime(toml, path, problems),
        }
    }

    /// Inherits missing keys from `other`.
    pub(super) fn over(mut self, other: &Self) -> Self {
        self.alg = self.alg.or(other.alg);
        self.key = self.key.or_else(|| other.key.clone());
        self.header = self.header.or_else(|| other.header.clone());
        self.claims = self.claims.or_else(|| other.claims.clone());
        self.lifetime = self.lifetime.or(other.lifetime);
        self
    }

    /// `None` without a signing key.
    pub(super) fn plan(self) -> Option<AssertionPlan> {
        Some(AssertionPlan {
            alg: self.alg,
            key: self.key?,
            header: self.header.unwrap_or_default(),
            claims: self.claims.unwrap_or_default(),
            lifetime: self.lifetime.unwrap_or(LIFETIME),
        })
    }
}

fn parse_lifetime(
    toml: &AssertionToml,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<Duration> {
    let text = toml.lifetime.as_deref()?;
    match parse_duration(text) {
        Ok(lifetime) if (Duration::from_secs(1)..=LONGEST).contains(&lifetime) => Some(lifetime),
        Ok(_) | Err(_) => {
            let message = "expected a duration from \"1s\" to \"24h\", such as \"5m\"";
            problems.push(Problem::new(join(path, "lifetime"), message));
            None
        }
    }
}

impl AssertionPlan {
    pub(super) fn templates(&self) -> Vec<&Template> {
        let mut templates = vec![&self.key.value];
        for field in self.header.iter().chain(&self.claims) {
            field.value.templates(&mut templates);
        }
        templates
    }

    /// Returns the signed assertion.
    pub(super) fn sign(&self, scope: Scope<'_>) -> Result<Value, Problem> {
        let key = self.read_key(scope)?;
        let fill = |template: &Template| -> Result<Option<JsonValue>, String> {
            Ok(template.fill_typed(scope)?.map(|value| json_scalar(&value)))
        };
        let header = self.head(&key, json_object(&self.header, &fill)?);
        let mut claims = self.claims(scope, json_object(&self.claims, &fill)?);
        let token = key.sign(&header, &claims);
        wipe(&mut claims);
        let token = token.map_err(|message| self.key.problem(message))?;
        Ok(Value::Text(token.expose().to_owned()))
    }

    /// Checks the signing key; the error is the variable's name and the reason. Returns `None` if a
    /// variable of the key is missing.
    pub(super) fn check_key(&self, variables: &Variables) -> Option<Result<(), (String, String)>> {
        let scope = Scope::of(variables);
        let text = self.key.value.fill(scope).ok()??;
        let name = self.key.value.variables().next()?.0.to_owned();
        let checked = SigningKey::parse(&text, self.alg).map(drop);
        Some(checked.map_err(|message| (name, message)))
    }

    fn read_key(&self, scope: Scope<'_>) -> Result<SigningKey, Problem> {
        let text = self.key.fill(scope)?.unwrap_or_default();
        SigningKey::parse(&text, self.alg).map_err(|message| {
            let names = self
                .key
                .value
                .variables()
                .map(|(name, _)| format!("`{name}`"));
            let names = names.collect::<Vec<_>>().join(", ");
            self.key.problem(format!("{names} {message}"))
        })
    }

    /// The header: `alg`, `typ` and a JWK's `kid`, all overridden by the dialect's `header`.
    fn head(&self, key: &SigningKey, written: JsonValue) -> JsonValue {
        let mut header = serde_json::Map::new();
        header.insert("alg".to_owned(), format!("{:?}", key.alg).into());
        header.insert("typ".to_owned(), "JWT".into());
        if let Some(kid) = &key.kid {
            header.insert("kid".to_owned(), kid.as_str().into());
        }
        if let JsonValue::Object(written) = written {
            header.extend(written);
        }
        header.retain(|_, value| *value != JsonValue::Bool(false));
        JsonValue::Object(header)
    }

    /// The claims, with default `iat`, `exp` and `jti` (RFC 7523 §3); `false` leaves one out.
    fn claims(&self, scope: Scope<'_>, written: JsonValue) -> JsonValue {
        const DEFAULTS: [&str; 3] = ["iat", "exp", "jti"];
        let mut claims = match written {
            JsonValue::Object(claims) => claims,
            _ => serde_json::Map::new(),
        };
        if let Some(frozen) = scope.frozen {
            let now = frozen.unix();
            let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
            let values = [
                json!(now),
                json!(now.saturating_add(lifetime)),
                json!(frozen.uuid),
            ];
            for (name, value) in DEFAULTS.into_iter().zip(values) {
                claims.entry(name).or_insert(value);
            }
        }
        claims.retain(|name, value| {
            !(DEFAULTS.contains(&name.as_str()) && *value == JsonValue::Bool(false))
        });
        JsonValue::Object(claims)
    }
}

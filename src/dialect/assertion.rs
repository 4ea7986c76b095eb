//! `[assertion]` and `[client_assertion]`: JWTs that stand for a grant or a client (RFC 7521, RFC 7523).

use std::time::Duration;

use serde_json::{Value as JsonValue, json};

use super::duration::parse_duration;
use super::filter::Value;
use super::json::{JsonField, json_fields, json_object, json_scalar, wipe};
use super::jwt::SigningKey;
use super::layer::{Field, join, template};
use super::schema::{Alg, AssertionToml};
use super::template::{Place, Scope, Template};
use super::{Problem, Variables};

/// Short, because it is made anew for each request; long enough for clocks that differ.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// RFC 8725 §3.9 and RFC 7523 §3 want an end; nobody takes one that is a day away.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A table as it was written: what is `None` is inherited.
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

// === impl AssertionLayer ===

impl AssertionLayer {
    pub(super) fn parse(toml: &AssertionToml, path: &str, problems: &mut Vec<Problem>) -> Self {
        let key_at = join(path, "key");
        let key = (toml.key.as_ref())
            .and_then(|text| template(text, &key_at, Place::Exchange, problems))
            .map(|value| Field {
                name: (),
                value,
                path: key_at,
            });
        let mut table = |name: &str, table: &Option<toml::Table>| {
            let table = table.as_ref()?;
            Some(json_fields(table, &join(path, name), problems))
        };
        let header = table("header", &toml.header);
        let claims = table("claims", &toml.claims);
        for field in header.iter().flatten() {
            if field.name == "alg" {
                problems.push(field.problem("is written by `alg`, beside `header`"));
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

    /// What is not written here is taken from `other`.
    pub(super) fn over(mut self, other: &Self) -> Self {
        self.alg = self.alg.or(other.alg);
        self.key = self.key.or_else(|| other.key.clone());
        self.header = self.header.or_else(|| other.header.clone());
        self.claims = self.claims.or_else(|| other.claims.clone());
        self.lifetime = self.lifetime.or(other.lifetime);
        self
    }

    /// `None` where no key is written: there is nothing to sign with.
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
        Ok(lifetime) if lifetime >= Duration::from_secs(1) && lifetime <= LONGEST => Some(lifetime),
        Ok(_) | Err(_) => {
            problems.push(Problem {
                path: join(path, "lifetime"),
                message: "expected a duration from \"1s\" to \"24h\", such as \"5m\"".to_owned(),
            });
            None
        }
    }
}

// === impl AssertionPlan ===

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

    /// Whether these variables hold a key that can sign; `None` while one that it is made of is not among them. The problem
    /// is about the variable that is named.
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
            let names: Vec<_> = names.collect();
            self.key.problem(format!("{} {message}", names.join(", ")))
        })
    }

    /// `alg` and `typ` first, then what the dialect writes; a JWK's own `kid` where that writes none.
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

    /// With `iat`, `exp` and `jti` (RFC 7523 §3) where the dialect says nothing of them; `false` leaves one out.
    fn claims(&self, scope: Scope<'_>, written: JsonValue) -> JsonValue {
        const OURS: [&str; 3] = ["iat", "exp", "jti"];
        let mut claims = match written {
            JsonValue::Object(claims) => claims,
            _ => serde_json::Map::new(),
        };
        if let Some(frozen) = scope.frozen {
            let now = frozen.unix();
            let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
            let ours = [
                json!(now),
                json!(now.saturating_add(lifetime)),
                json!(frozen.uuid),
            ];
            for (name, value) in OURS.into_iter().zip(ours) {
                claims.entry(name).or_insert(value);
            }
        }
        claims.retain(|name, value| {
            !(OURS.contains(&name.as_str()) && *value == JsonValue::Bool(false))
        });
        JsonValue::Object(claims)
    }
}

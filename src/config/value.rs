//! Credentials and variables: written in place, or where they are to be found.
//!
//! What can be looked at when the configuration is loaded is looked at: a missing variable or an empty file stops
//! the start, not the first fetch an hour later.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use zeroize::Zeroizing;

use super::problems::{Complaint, complaint};
use super::units::{Text, Written};
use super::{Environment, Value};
use crate::dialect::Var;
use crate::secret::Secret;

/// A value as it is written.
#[derive(Clone, Debug)]
pub(super) enum ValueToml {
    Literal(Var),
    Place(PlaceToml),
}

/// `{ env = … }`, `{ file = … }`, `{ command = … }` or `{ provider = … }`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PlaceToml {
    env: Option<String>,
    file: Option<Text<FilePath>>,
    command: Option<Vec<String>>,
    provider: Option<String>,
}

/// A path that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePath(pub(super) PathBuf);

/// Whether `key = ""` may stand in the file. Empty variables and files are refused in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EmptyLiteral {
    Refused,
    /// `scope = ""` is sent as it is written.
    Allowed,
}

impl ValueToml {
    /// The provider whose token is meant, where that may be.
    pub(super) fn chained(&self) -> Option<&str> {
        match self {
            Self::Place(PlaceToml {
                env: None,
                file: None,
                command: None,
                provider,
            }) => provider.as_deref(),
            _ => None,
        }
    }

    /// Resolves the value as far as that can be done now.
    pub(super) fn resolve(
        self,
        empty: EmptyLiteral,
        env: &dyn Environment,
    ) -> Result<Value, Complaint> {
        let place = match self {
            Self::Literal(Var::Text(text)) if text.is_empty() && empty == EmptyLiteral::Refused => {
                return Err(complaint("is empty").hint(
                    "put the value in, or where it is: { env = \"NAME\" }, { file = \"/path\" }",
                ));
            }
            Self::Literal(literal) => return Ok(Value::Literal(literal)),
            Self::Place(place) => place,
        };
        if place.provider.is_some() {
            return Err(complaint("cannot be the token of another provider")
                .hint("`provider` is for what a token is bought with: a variable of a provider"));
        }
        match (place.env, place.file, place.command) {
            (Some(name), None, None) => from_env(name, env),
            (None, Some(Text(FilePath(path))), None) => {
                read(&path)?;
                Ok(Value::File(path))
            }
            (None, None, Some(command)) => from_command(command),
            _ => Err(
                complaint("needs exactly one of `env`, `file` and `command`")
                    .hint("as in { env = \"NAME\" }"),
            ),
        }
    }

    /// For values that are fixed once the configuration is loaded, where a file would be a false promise.
    pub(super) fn resolve_fixed(self, env: &dyn Environment) -> Result<Secret, Complaint> {
        match self.resolve(EmptyLiteral::Refused, env)? {
            Value::Literal(literal) => Ok(var_text(&literal)),
            Value::Env { value, .. } => Ok(value),
            Value::File(_) | Value::Command(_) | Value::Provider { .. } => {
                Err(complaint("can only be text or `{ env = \"NAME\" }` here")
                    .hint("it is read once; files and commands are for what may change"))
            }
        }
    }
}

/// The text of a value that is known when the configuration is loaded; `None` for commands.
pub(super) fn known_text(value: &Value) -> Option<Secret> {
    match value {
        Value::Literal(literal) => Some(var_text(literal)),
        Value::Env { value, .. } => Some(value.clone()),
        Value::File(path) => read(path).ok(),
        Value::Command(_) | Value::Provider { .. } => None,
    }
}

/// A sealing key: 32 bytes in base64. A command is not run for it, so its answer is not checked.
pub(super) fn check_key(value: &Value) -> Result<(), Complaint> {
    let Some(text) = known_text(value) else {
        return Ok(());
    };
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(text.expose()).unwrap_or_default());
    if bytes.len() == 32 {
        return Ok(());
    }
    Err(complaint("is not 32 bytes in base64")
        .hint("make one with `head -c 32 /dev/urandom | base64`"))
}

fn var_text(var: &Var) -> Secret {
    match var {
        Var::Text(text) => text.clone(),
        Var::Integer(number) => Secret::new(number.to_string()),
        Var::Boolean(flag) => Secret::new(flag.to_string()),
    }
}

fn from_env(name: String, env: &dyn Environment) -> Result<Value, Complaint> {
    // The name is not quoted: it is where people paste the secret itself by mistake.
    let hint = "`env` takes the name of a variable of the process's environment";
    match env.var(&name) {
        None => Err(complaint("the environment variable that it names is not set").hint(hint)),
        Some(value) if value.is_empty() => {
            Err(complaint("the environment variable that it names is empty").hint(hint))
        }
        Some(value) => Ok(Value::Env {
            name,
            value: Secret::new(value),
        }),
    }
}

fn from_command(command: Vec<String>) -> Result<Value, Complaint> {
    match command.first() {
        Some(program) if !program.is_empty() => Ok(Value::Command(command)),
        _ => Err(complaint("`command` names no program").hint("command = [\"prog\", \"arg\"]")),
    }
}

const ONE_VALUE: &str = "it holds the value alone, as text";

/// More than any credential holds, tokens with a page of claims included.
const LARGEST_FILE: u64 = 1 << 20;

fn read(path: &Path) -> Result<Secret, Complaint> {
    let bytes = read_file(path)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| complaint("the file that it names is not UTF-8 text").hint(ONE_VALUE))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(complaint("the file that it names is empty").hint(ONE_VALUE));
    }
    Ok(Secret::new(text))
}

/// A whole file, wiped after use. A device or a pipe is refused: reading one may never end.
pub(super) fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Complaint> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => complaint("the file that it names does not exist").hint(
            "check the path: one that does not start with `/` counts from the working directory",
        ),
        io::ErrorKind::PermissionDenied => {
            complaint("the file that it names may not be read by this user")
                .hint("change its owner or mode, or those of the folders above it")
        }
        kind => complaint("the file that it names cannot be read").hint(kind.to_string()),
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(complaint("what it names is not a file")
            .hint("a folder, a device or a pipe cannot stand here"));
    }
    if metadata.len() > LARGEST_FILE {
        return Err(complaint("the file that it names is larger than 1 MiB").hint(ONE_VALUE));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

impl Written for FilePath {
    const EXPECTED: &'static str = "the path of a file";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text.is_empty() || text.contains('\0') {
            return Err(
                complaint(format!("expected {}", Self::EXPECTED)).hint("as in \"/run/secrets/x\"")
            );
        }
        Ok(Self(text.into()))
    }
}

const EXPECTED: &str =
    "text, an integer, true or false, or a table with one of `env`, `file` and `command`";

impl<'de> Deserialize<'de> for ValueToml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = ValueToml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ValueToml, E> {
        Ok(ValueToml::Literal(Var::Text(Secret::new(text))))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<ValueToml, E> {
        Ok(ValueToml::Literal(Var::Integer(number)))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<ValueToml, E> {
        Ok(ValueToml::Literal(Var::Boolean(flag)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ValueToml, A::Error> {
        PlaceToml::deserialize(MapAccessDeserializer::new(map)).map(ValueToml::Place)
    }
}

#[cfg(test)]
mod tests;

//! Credentials and variables: literals, or the source that holds the value.
//!
//! A missing variable or an empty file fails the start, not the first fetch an hour later.

mod placeholder;
mod text;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use zeroize::Zeroizing;

use super::environment::Environment;
use super::model::Value;
use super::problems::{Complaint, complaint};
use super::units::{Text, Written};
use crate::dialect::Var;
use crate::secret::Secret;

pub use text::value_text;

#[derive(Clone, Debug)]
pub(super) enum ValueToml {
    Literal(Var),
    Source(SourceToml),
}

/// `{ env = … }`, `{ file = … }`, `{ command = … }` or `{ provider = … }`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SourceToml {
    env: Option<String>,
    file: Option<Text<FilePath>>,
    command: Option<Vec<String>>,
    provider: Option<String>,
}

/// A path that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePath(pub(super) PathBuf);

/// Whether `key = ""` is allowed. Empty environment variables and files never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EmptyLiteral {
    Refused,
    /// A variable such as `scope = ""` is sent empty.
    Allowed,
}

impl ValueToml {
    /// Returns the provider that `{ provider = … }` names.
    pub(super) fn chained(&self) -> Option<&str> {
        match self {
            Self::Source(SourceToml {
                env: None,
                file: None,
                command: None,
                provider,
            }) => provider.as_deref(),
            _ => None,
        }
    }

    /// Reads environment variables; only checks files, and does not run commands.
    pub(super) fn resolve(
        self,
        empty: EmptyLiteral,
        env: &dyn Environment,
    ) -> Result<Value, Complaint> {
        let source = match self {
            Self::Literal(Var::Text(text)) if text.is_empty() && empty == EmptyLiteral::Refused => {
                return Err(complaint("is empty").hint(
                    "write the value or its source: { env = \"NAME\" }, { file = \"/path\" }",
                ));
            }
            Self::Literal(literal) => return checked_literal(literal).map(Value::Literal),
            Self::Source(source) => source,
        };
        if source.provider.is_some() {
            return Err(complaint("cannot be the token of another provider")
                .hint("`provider` is only for variables of a provider"));
        }
        match (source.env, source.file, source.command) {
            (Some(name), None, None) => from_env(name, env),
            (None, Some(Text(FilePath(path))), None) => {
                read(&path)?;
                Ok(Value::File(path))
            }
            (None, None, Some(command)) if command.first().is_some_and(|it| !it.is_empty()) => {
                Ok(Value::Command(command))
            }
            (None, None, Some(_)) => {
                Err(complaint("`command` names no program").hint("command = [\"prog\", \"arg\"]"))
            }
            _ => Err(
                complaint("needs exactly one of `env`, `file` and `command`")
                    .hint("as in { env = \"NAME\" }"),
            ),
        }
    }

    /// Resolves a value that is never read again, so a file or command would be misleading.
    pub(super) fn resolve_fixed(self, env: &dyn Environment) -> Result<Secret, Complaint> {
        match self.resolve(EmptyLiteral::Refused, env)? {
            Value::Literal(literal) => Ok(var_text(&literal)),
            Value::Env { value, .. } => Ok(value),
            Value::File(_) | Value::Command(_) | Value::Provider { .. } => {
                Err(complaint("can only be text or `{ env = \"NAME\" }` here")
                    .hint("the value is read once; files and commands are for values that change"))
            }
        }
    }
}

/// Returns the text of a value that is known without running a command or fetching a token.
pub(super) fn known_text(value: &Value) -> Option<Secret> {
    match value {
        Value::Literal(literal) => Some(var_text(literal)),
        Value::Env { value, .. } => Some(value.clone()),
        Value::File(path) => read(path).ok(),
        Value::Command(_) | Value::Provider { .. } => None,
    }
}

/// Checks a sealing key: 32 bytes in base64. A key from a command is not checked.
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
    let state = match env.var(&name).map(Secret::new) {
        Some(text) => match text::bare(text.expose()) {
            value if !value.is_empty() => return Ok(Value::Env { name, value }),
            _ => "is empty",
        },
        None => "is not set",
    };
    // People paste the secret itself in place of the name.
    let message = match placeholder::is_variable(&name) {
        true => format!("environment variable `{name}` {state}"),
        false => format!("names an environment variable that {state}"),
    };
    Err(complaint(message).hint("`env` takes a variable name of the process environment"))
}

fn checked_literal(literal: Var) -> Result<Var, Complaint> {
    let Var::Text(text) = &literal else {
        return Ok(literal);
    };
    match placeholder::hint(text.expose()) {
        Some(hint) => Err(complaint("looks like a placeholder").hint(hint)),
        None if text.expose().contains("-----BEGIN ") => Ok(Var::Text(text::bare(text.expose()))),
        None => Ok(literal),
    }
}

const ONE_VALUE: &str = "the file holds only the value, as text";

/// Far above any credential, even tokens with many claims.
const LARGEST_FILE: u64 = 1 << 20;

fn read(path: &Path) -> Result<Secret, Complaint> {
    let bytes = read_file(path)?;
    value_text(&bytes).map_err(|content| {
        let message = format!("{} holds {content}", shown(path));
        complaint(message).hint(ONE_VALUE)
    })
}

/// The path for an error, unless it may be a secret that was pasted in place of a path.
fn shown(path: &Path) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_name = |part: &str| part.len() <= 32 && part.chars().all(is_plain);
    let text = path.to_str().unwrap_or_default();
    let is_relative = text.contains(['/', '.']) && text.split('/').all(is_name);
    match path.is_absolute() || is_relative {
        true => format!("file `{}`", path.display().to_string().escape_debug()),
        false => "the file".to_owned(),
    }
}

/// Reads a regular file into wiped memory. Reading a device or a pipe might never end.
pub(super) fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Complaint> {
    let file = shown(path);
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => complaint(format!("{file} does not exist"))
            .hint("check the path; a relative path starts at the working directory"),
        io::ErrorKind::PermissionDenied => complaint(format!("{file} cannot be read by this user"))
            .hint("change the owner or mode of the file or of its parent directories"),
        kind => complaint(format!("{file} cannot be read")).hint(kind.to_string()),
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        let hint = "not a directory, device or pipe";
        return Err(complaint(format!("{file} is no regular file")).hint(hint));
    }
    if metadata.len() > LARGEST_FILE {
        return Err(complaint(format!("{file} is larger than 1 MiB")).hint(ONE_VALUE));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

impl Written for FilePath {
    const EXPECTED: &'static str = "the path of a file";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text.is_empty() || text.contains('\0') {
            return Err(Self::expected().hint("as in \"/run/secrets/x\""));
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for ValueToml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = ValueToml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "text, an integer, true or false, or a table with one of `env`, `file` and `command`",
        )
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
        SourceToml::deserialize(MapAccessDeserializer::new(map)).map(ValueToml::Source)
    }
}

#[cfg(test)]
mod tests;

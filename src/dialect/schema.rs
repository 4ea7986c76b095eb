//! A dialect as it is written in TOML.

use serde::Deserialize;

/// `[dialects.NAME]`, and each file of `builtin/`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DialectToml {}

/// What a provider may override in place: `[providers.NAME.request]`, `.response`, `.inject`, `.reject`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {}

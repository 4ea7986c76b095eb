//! Parses the configuration file (`config/file.rs`) into a typed, cross-checked [`Config`].
//!
//! One pass reports every problem with its key path and a hint, and never quotes a value. A
//! [`Config`] is valid: the rest of the program checks nothing again.

mod assemble;
mod chain;
mod context;
mod dialects;
mod egress;
mod environment;
mod file;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod identity;
mod model;
mod origin;
mod problems;
mod provider;
mod read;
mod routes;
mod server;
mod units;
mod upstream;
mod value;

use std::time::Duration;

pub use egress::{Egress, EgressProxy};
pub use environment::{Environment, NoEnvironment, ProcessEnvironment};
pub use files::named_files;
pub use model::{
    AllowRule, BodyTimeout, BrowserRules, ClientAuth, Config, Endpoint, ExistingCredential,
    HttpVersion, Issuer, LifeCycle, Listen, Provider, Route, Server, Store, StoreKind, Tls,
    TokenSource, Upstream, Value,
};
pub use origin::{Origin, Scheme, is_loopback};
pub use problems::Problem;
pub use value::value_text;

/// Parses a duration such as `30s` or `250ms`, for flags. The error says what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|complaint| complaint.message)
}

impl Config {
    /// Parses and checks a configuration. Relative paths start at the working directory.
    ///
    /// # Errors
    ///
    /// Every problem, sorted by path; at least one.
    pub fn from_toml(text: &str, env: &dyn Environment) -> Result<Self, Vec<Problem>> {
        assemble::config(text, env)
    }
}

#[cfg(test)]
mod tests;

//! Cupbearer: a reverse-proxy sidecar that puts a valid access token on every request.

pub mod admin;
pub mod clock;
pub mod config;
pub mod dialect;
pub mod metrics;
pub mod provider;
pub mod secret;
pub mod upstream;

//! Cupbearer: a reverse-proxy sidecar that puts a valid access token on every request.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dialect;
pub mod metrics;
pub mod provider;
pub mod proxy;
pub mod runtime;
pub mod secret;
pub mod upstream;

//! The one place where the command line fetches a token itself.

use crate::config::Provider;

/// What happened, as (what, text) for people, and how it ended.
pub(super) struct Report {
    pub(super) lines: Vec<(&'static str, String)>,
    pub(super) outcome: Result<(), String>,
}

pub(super) async fn fetch(provider: &Provider) -> Report {
    let _ = provider;
    todo!()
}

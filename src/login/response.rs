//! Parameters of the authorization response (RFC 6749 §4.1.2).

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::secret::Secret;

/// Returns whether the response belongs to this login. Constant time.
pub(super) fn has_state(query: &Secret, state: &Secret) -> bool {
    parameter(query, "state").is_some_and(|given| {
        let (given, state) = (given.expose().as_bytes(), state.expose().as_bytes());
        verify_slices_are_equal(given, state).is_ok()
    })
}

pub(super) fn parameters(query: &Secret, name: &str) -> impl Iterator<Item = Secret> {
    form_urlencoded::parse(query.expose().as_bytes())
        .filter(move |(key, _)| key == name)
        .map(|(_, value)| Secret::new(value))
}

/// Returns `None` also for a repeated parameter, which is ambiguous.
pub(super) fn parameter(query: &Secret, name: &str) -> Option<Secret> {
    let mut found = parameters(query, name);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

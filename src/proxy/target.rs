//! One upstream as the data plane sees it: everything that requests need, built once.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme as UriScheme};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ProxyError;
use super::record::Record;
use crate::config::{Scheme, Upstream};
use crate::dialect::RejectRules;
use crate::metrics::UpstreamMetrics;
use crate::token::cell::CellReader;
use crate::upstream::Pool;

/// Separators of one name that [`look_alikes`] varies.
const SEPARATORS: usize = 6;

/// An upstream in a [`super::snapshot::Snapshot`].
pub struct Target {
    pub config: Arc<Upstream>,
    pub metrics: UpstreamMetrics,
    pub(super) token: CellReader,
    /// One per worker.
    pub(super) pools: Box<[Pool]>,
    /// Where the app could send a credential.
    pub(super) credentials: Credentials,
    /// Fields that app trailers may not hold: credentials, and fields that the configuration sets
    /// or removes.
    pub(super) not_in_trailers: Arc<[HeaderName]>,
    pub(super) host: HeaderValue,
    pub(super) scheme: UriScheme,
    pub(super) authority: Authority,
    pub(super) reject: RejectRules,
    pub(super) record: Record,
    /// Permits of `max_in_flight`, if there is a limit.
    in_flight: Option<Arc<Semaphore>>,
}

/// Where the provider's token goes.
pub struct Credentials {
    /// Always includes `Authorization`: RFC 6750 §2 allows a token in one place only.
    pub headers: Box<[HeaderName]>,
    /// The same names with `_` and `-` exchanged, which CGI and WSGI servers cannot tell apart.
    pub look_alikes: Box<[HeaderName]>,
    /// Query keys, decoded.
    pub query: Box<[String]>,
}

pub struct TargetParts {
    pub config: Arc<Upstream>,
    pub metrics: UpstreamMetrics,
    pub token: CellReader,
    pub pools: Vec<Pool>,
    pub inject_headers: Vec<HeaderName>,
    pub inject_query: Vec<String>,
    pub reject: RejectRules,
}

impl Target {
    pub fn new(parts: TargetParts) -> Self {
        let mut headers = parts.inject_headers;
        if !headers.contains(&AUTHORIZATION) {
            headers.push(AUTHORIZATION);
        }
        let look_alikes = look_alikes(&headers);
        let config = parts.config;
        let set = config.set_headers.iter().map(|(name, _)| name);
        let configured = config.remove_headers.iter().chain(set);
        let credentials = headers.iter().chain(&look_alikes);
        let not_in_trailers = credentials.chain(configured).cloned().collect();
        let in_flight = |max: usize| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        let origin = &config.origin;
        // The configuration took the authority from a valid URL.
        let authority: Result<Authority, _> = origin.authority.parse();
        let authority = authority.expect("an authority that was parsed before");
        Self {
            host: HeaderValue::from_str(authority.as_str()).expect("an authority is visible ASCII"),
            scheme: match origin.scheme {
                Scheme::Http => UriScheme::HTTP,
                Scheme::Https => UriScheme::HTTPS,
            },
            authority,
            not_in_trailers,
            credentials: Credentials {
                look_alikes,
                headers: headers.into(),
                query: parts.inject_query.into(),
            },
            metrics: parts.metrics,
            token: parts.token,
            pools: parts.pools.into(),
            in_flight: config.max_in_flight.map(in_flight),
            config,
            reject: parts.reject,
            record: Record::default(),
        }
    }

    /// Takes one of the `max_in_flight` permits, which lasts until the response has ended.
    ///
    /// `None` if there is no limit. Fails if no permit is left.
    pub(super) fn enter(&self) -> Result<Option<OwnedSemaphorePermit>, ProxyError> {
        let Some(permits) = &self.in_flight else {
            return Ok(None);
        };
        let permit = Arc::clone(permits).try_acquire_owned();
        permit.map(Some).map_err(|_| ProxyError::Overloaded)
    }
}

/// Returns the names with every other choice of separators. Only the first [`SEPARATORS`] vary:
/// each one doubles the work per request, and real names have fewer.
fn look_alikes(names: &[HeaderName]) -> Box<[HeaderName]> {
    let mut found: Vec<HeaderName> = Vec::new();
    for name in names {
        let separators = name.as_str().match_indices(['-', '_']);
        let positions: Vec<_> = separators.map(|(at, _)| at).take(SEPARATORS).collect();
        for choice in 0..1_u32 << positions.len() {
            let mut bytes = name.as_str().as_bytes().to_vec();
            for (bit, at) in positions.iter().enumerate() {
                bytes[*at] = if choice >> bit & 1 == 0 { b'-' } else { b'_' };
            }
            let other = HeaderName::from_bytes(&bytes);
            found.extend(other.ok().filter(|other| !names.contains(other)));
        }
    }
    found.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&'static str]) -> Vec<String> {
        let names: Vec<_> = names.iter().copied().map(HeaderName::from_static).collect();
        let mut found: Vec<_> = look_alikes(&names)
            .iter()
            .map(ToString::to_string)
            .collect();
        found.sort();
        found
    }

    #[test]
    fn look_alikes_have_every_other_choice_of_separators() {
        assert_eq!(of(&["authorization"]), [""; 0]);
        assert_eq!(of(&["x-token"]), ["x_token"]);
        assert_eq!(of(&["api_key"]), ["api-key"]);
        assert_eq!(of(&["x-a-b"]), ["x-a_b", "x_a-b", "x_a_b"]);
        // A name that holds the token is no look-alike.
        assert_eq!(of(&["x-a", "x_a"]), [""; 0]);
        let long = "a-".repeat(40);
        let long = HeaderName::from_bytes(long.as_bytes()).unwrap();
        assert_eq!(look_alikes(&[long]).len(), (1 << SEPARATORS) - 1);
    }
}

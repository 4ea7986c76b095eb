//! One upstream as the data plane sees it: everything that a request needs, made once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme as UriScheme};

use super::error::ProxyError;
use super::reject::Record;
use crate::config::{Scheme, Upstream};
use crate::dialect::RejectRules;
use crate::metrics::UpstreamMetrics;
use crate::provider::cell::CellReader;
use crate::upstream::Pool;

/// See [`look_alikes`].
const SEPARATORS: usize = 6;

/// An upstream in a [`super::Snapshot`].
pub struct Target {
    pub config: Arc<Upstream>,
    pub metrics: UpstreamMetrics,
    pub(super) token: CellReader,
    /// One for each worker.
    pub(super) pools: Box<[Pool]>,
    /// Where a credential could be: removed from what the app sends.
    pub(super) credentials: Credentials,
    /// What no trailer of the app's may be called: a credential, or a field that the configuration removes or sets.
    pub(super) not_in_trailers: Arc<[HeaderName]>,
    pub(super) host: HeaderValue,
    pub(super) scheme: UriScheme,
    pub(super) authority: Authority,
    /// How the API says that a token is dead, and what it has made of the tokens so far.
    pub(super) reject: RejectRules,
    pub(super) record: Record,
    in_flight: AtomicUsize,
}

/// The places where the provider's token goes.
pub struct Credentials {
    /// `Authorization` is always among them (RFC 6750 §2: a token is sent by one method only).
    pub headers: Arc<[HeaderName]>,
    /// The same with `_` for `-` or `-` for `_`: servers that turn fields into variables (CGI, WSGI) cannot tell them apart.
    pub look_alikes: Box<[HeaderName]>,
    /// Both.
    pub all_headers: Box<[HeaderName]>,
    /// Query keys, decoded.
    pub query: Box<[String]>,
}

/// What a target is made of.
pub struct Parts {
    pub config: Arc<Upstream>,
    pub metrics: UpstreamMetrics,
    pub token: CellReader,
    pub pools: Vec<Pool>,
    pub inject_headers: Vec<HeaderName>,
    pub inject_query: Vec<String>,
    pub reject: RejectRules,
}

/// A request's place among those in flight.
pub(super) struct InFlight(Option<Arc<Target>>);

impl Target {
    pub fn new(parts: Parts) -> Self {
        let mut headers = parts.inject_headers;
        if !headers.contains(&AUTHORIZATION) {
            headers.push(AUTHORIZATION);
        }
        let look_alikes = look_alikes(&headers);
        let all_headers: Box<[_]> = headers.iter().chain(&look_alikes).cloned().collect();
        let set = parts.config.set_headers.iter().map(|(name, _)| name);
        let configured = parts.config.remove_headers.iter().chain(set);
        let origin = &parts.config.origin;
        // The configuration took the authority from a valid URL.
        let authority: Authority = origin
            .authority
            .parse()
            .expect("an authority that was parsed before");
        Self {
            host: HeaderValue::from_str(authority.as_str()).expect("an authority is visible ASCII"),
            scheme: match origin.scheme {
                Scheme::Http => UriScheme::HTTP,
                Scheme::Https => UriScheme::HTTPS,
            },
            authority,
            not_in_trailers: all_headers.iter().chain(configured).cloned().collect(),
            credentials: Credentials {
                all_headers,
                look_alikes,
                headers: headers.into(),
                query: parts.inject_query.into(),
            },
            metrics: parts.metrics,
            token: parts.token,
            pools: parts.pools.into(),
            config: parts.config,
            reject: parts.reject,
            record: Record::default(),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Takes a place in flight, if `max_in_flight` leaves one. It is held until the response has ended.
    pub(super) fn enter(self: &Arc<Self>) -> Result<InFlight, ProxyError> {
        let Some(max) = self.config.max_in_flight else {
            return Ok(InFlight(None));
        };
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = InFlight(Some(Arc::clone(self)));
        if before >= max {
            return Err(ProxyError::Overloaded);
        }
        Ok(place)
    }
}

/// Every other way to write the separators. Of a name with more than [`SEPARATORS`] only the first so many change: nobody has
/// such a name, and each one doubles the work for every request.
fn look_alikes(names: &[HeaderName]) -> Box<[HeaderName]> {
    let mut found: Vec<HeaderName> = Vec::new();
    for name in names {
        let is_separator = |byte: u8| matches!(byte, b'-' | b'_');
        let positions: Vec<usize> = (0..name.as_str().len())
            .filter(|at| is_separator(name.as_str().as_bytes()[*at]))
            .take(SEPARATORS)
            .collect();
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

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(target) = &self.0 {
            target.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
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
    fn separators_are_written_in_every_other_way() {
        assert_eq!(of(&["authorization"]), [""; 0]);
        assert_eq!(of(&["x-token"]), ["x_token"]);
        assert_eq!(of(&["api_key"]), ["api-key"]);
        assert_eq!(of(&["x-a-b"]), ["x-a_b", "x_a-b", "x_a_b"]);
        // One that is sent, too, is none.
        assert_eq!(of(&["x-a", "x_a"]), [""; 0]);
        let long = "a-".repeat(40);
        let long = HeaderName::from_bytes(long.as_bytes()).unwrap();
        assert_eq!(look_alikes(&[long]).len(), (1 << SEPARATORS) - 1);
    }
}

//! Route: which upstream a request is for, and what is left of its path.
//!
//! A port of its own beats a host, a host beats a path prefix, the longest prefix wins; the catch-all takes the rest.
//! Looking a route up costs the same with one upstream or ten thousand: hash tables, asked once for each segment of the path.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::header::HOST;
use http::{Request, Version};

use super::error::ProxyError;
use super::target::Target;
use crate::config::Route;

/// Routes of one snapshot.
#[derive(Default)]
pub struct Routes {
    targets: Vec<Arc<Target>>,
    /// By the door's id, for those of one upstream; `None` where the upstream is no more. All else may come in by the others.
    by_door: HashMap<usize, Option<Arc<Target>>>,
    by_host: HashMap<Box<str>, Arc<Target>>,
    by_prefix: HashMap<Box<str>, Arc<Target>>,
    /// The number of segments of the longest prefix.
    deepest: usize,
    catch_all: Option<Arc<Target>>,
    /// The listeners' own authorities: absolute-form requests for them count as origin-form.
    own: HashSet<Box<str>>,
}

/// Where a request goes.
#[derive(Clone, Copy)]
pub(super) struct Routed<'a> {
    pub(super) target: &'a Arc<Target>,
    /// How many bytes of the request's path the route takes away.
    pub(super) prefix: usize,
}

impl Routes {
    /// `own` are the authorities by which the app reaches the listeners.
    pub fn new(own: Vec<String>) -> Self {
        let own = own.into_iter().map(|own| own.to_ascii_lowercase().into());
        Self {
            own: own.collect(),
            ..Self::default()
        }
    }

    /// Sends all that comes in by a door to one target.
    pub fn at_door(&mut self, door: usize, target: Option<Arc<Target>>) {
        self.by_door.insert(door, target);
    }

    /// Adds a target by its configured route. One with a port of its own is added by [`Self::at_door`].
    pub fn add(&mut self, target: Arc<Target>) {
        self.targets.push(Arc::clone(&target));
        match &target.config.route {
            Route::Listen(_) => {}
            Route::Host(host) => {
                self.by_host.insert(host.as_str().into(), target);
            }
            Route::PathPrefix(prefix) => {
                self.deepest = self.deepest.max(prefix.matches('/').count());
                self.by_prefix.insert(prefix.as_str().into(), target);
            }
            Route::CatchAll => self.catch_all = Some(target),
        }
    }

    pub fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    pub(super) fn find<B>(
        &self,
        request: &Request<B>,
        door: usize,
    ) -> Result<Routed<'_>, ProxyError> {
        if !self.by_door.is_empty()
            && let Some(target) = self.by_door.get(&door)
        {
            let target = target.as_ref().ok_or(ProxyError::NoRoute)?;
            return Ok(Routed { target, prefix: 0 });
        }
        let absolute = self.absolute_form(request);
        if !self.by_host.is_empty()
            && let Some(target) = authority(request).and_then(|host| self.host(&host))
        {
            return Ok(Routed { target, prefix: 0 });
        }
        if absolute {
            return Err(ProxyError::NoRoute);
        }
        self.prefix(request.uri().path())
            .or_else(|| {
                self.catch_all
                    .as_ref()
                    .map(|target| Routed { target, prefix: 0 })
            })
            .ok_or(ProxyError::NoRoute)
    }

    /// Whether the app takes us for a forward proxy (RFC 9112 §3.2.2). HTTP/2 requests always carry an authority.
    fn absolute_form<B>(&self, request: &Request<B>) -> bool {
        if request.version() == Version::HTTP_2 {
            return false;
        }
        request
            .uri()
            .authority()
            .is_some_and(|authority| !self.own.contains(&*lower(authority.as_str())))
    }

    /// With its port first, then without.
    fn host(&self, authority: &str) -> Option<&Arc<Target>> {
        let authority = lower(authority);
        self.by_host
            .get(&*authority)
            .or_else(|| self.by_host.get(without_port(&authority)))
    }

    fn prefix(&self, path: &str) -> Option<Routed<'_>> {
        if self.by_prefix.is_empty() {
            return None;
        }
        // From the longest candidate down: the whole path, then each segment boundary to its left.
        let mut end = nth_boundary(path, self.deepest);
        loop {
            if let Some(target) = self.by_prefix.get(&path[..end]) {
                return Some(Routed {
                    target,
                    prefix: end,
                });
            }
            end = path[..end].rfind('/').filter(|end| *end > 0)?;
        }
    }
}

/// The authority that a request is for: of its URI (absolute-form, HTTP/2), or `Host`.
pub(super) fn authority<B>(request: &Request<B>) -> Option<Cow<'_, str>> {
    if let Some(authority) = request.uri().authority() {
        return Some(Cow::Borrowed(authority.as_str()));
    }
    request
        .headers()
        .get(HOST)?
        .to_str()
        .ok()
        .map(Cow::Borrowed)
}

/// `host:port` without the port; an IPv6 literal keeps its brackets.
pub(super) fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}

pub(super) fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// The end of the first `segments` segments of a path.
fn nth_boundary(path: &str, segments: usize) -> usize {
    let mut slashes = path
        .bytes()
        .enumerate()
        .filter(|(_, byte)| *byte == b'/')
        .map(|(index, _)| index);
    slashes.nth(segments).unwrap_or(path.len())
}

#[cfg(test)]
pub(super) mod tests;

//! Route: finds the upstream of a request, and the prefix that its route removes from the path.
//!
//! A listener of its own beats a host, a host beats a path prefix, the longest prefix wins; the
//! catch-all takes the rest. A look-up costs the same for any number of upstreams: one hash look-up
//! per path segment.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::header::HOST;
use http::{Request, Version};

use super::error::ProxyError;
use super::target::Target;
use crate::config::Route;

#[derive(Default)]
pub struct Routes {
    targets: Vec<Arc<Target>>,
    /// By listener id, for listeners of one upstream. `None` if that upstream was removed.
    by_listener: HashMap<usize, Option<Arc<Target>>>,
    by_host: HashMap<Box<str>, Arc<Target>>,
    by_prefix: HashMap<Box<str>, Arc<Target>>,
    /// Segments of the longest prefix.
    deepest: usize,
    catch_all: Option<Arc<Target>>,
    /// Authorities of the listeners, for which absolute-form counts as origin-form.
    own: HashSet<Box<str>>,
}

#[derive(Clone, Copy)]
pub(super) struct Routed<'a> {
    pub(super) target: &'a Arc<Target>,
    /// Bytes that the route removes from the start of the path.
    pub(super) prefix: usize,
}

impl Routes {
    /// `own` are the authorities by which apps reach the listeners.
    pub fn new(own: Vec<String>) -> Self {
        Self {
            own: lower_case(own),
            ..Self::default()
        }
    }

    pub fn at_listener(&mut self, listener: usize, target: Option<Arc<Target>>) {
        self.by_listener.insert(listener, target);
    }

    /// Adds a target by its configured route. [`Self::at_listener`] adds a listener's route.
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
        listener: usize,
    ) -> Result<Routed<'_>, ProxyError> {
        let whole_path = |target| Routed { target, prefix: 0 };
        if !self.by_listener.is_empty()
            && let Some(target) = self.by_listener.get(&listener)
        {
            let target = target.as_ref();
            return target.map(whole_path).ok_or(ProxyError::NoRoute);
        }
        let absolute = self.absolute_form(request);
        if !self.by_host.is_empty()
            && let Some(target) = authority(request).and_then(|host| self.host(host))
        {
            return Ok(whole_path(target));
        }
        if absolute {
            return Err(ProxyError::NoRoute);
        }
        let catch_all = || self.catch_all.as_ref().map(whole_path);
        let routed = self.prefix(request.uri().path()).or_else(catch_all);
        routed.ok_or(ProxyError::NoRoute)
    }

    /// Returns whether the app treats this proxy as a forward proxy (RFC 9112 §3.2.2). HTTP/2
    /// requests always have an authority.
    fn absolute_form<B>(&self, request: &Request<B>) -> bool {
        let authority = request.uri().authority();
        request.version() != Version::HTTP_2
            && authority.is_some_and(|it| !self.own.contains(&*lower(it.as_str())))
    }

    fn host(&self, authority: &str) -> Option<&Arc<Target>> {
        let authority = lower(authority);
        let without_port = || self.by_host.get(without_port(&authority));
        self.by_host.get(&*authority).or_else(without_port)
    }

    fn prefix(&self, path: &str) -> Option<Routed<'_>> {
        if self.by_prefix.is_empty() {
            return None;
        }
        // From the longest candidate down, one segment boundary after the other.
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

/// Returns the authority of a request's URI (absolute-form, HTTP/2), or its `Host`.
pub(super) fn authority<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(HOST)?.to_str().ok(),
    }
}

/// Returns `host:port` without the port. An IPv6 literal keeps its brackets.
pub(super) fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}

/// Allocates only if there is an upper-case letter.
pub(super) fn lower(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text.into(),
    }
}

pub(super) fn lower_case(names: impl IntoIterator<Item = String>) -> HashSet<Box<str>> {
    let names = names.into_iter();
    names.map(|name| name.to_ascii_lowercase().into()).collect()
}

/// Returns the end of the first `segments` segments of a path.
fn nth_boundary(path: &str, segments: usize) -> usize {
    let slash = path.match_indices('/').nth(segments);
    slash.map_or(path.len(), |(at, _)| at)
}

#[cfg(test)]
pub(super) mod tests;

//! The hosts and origins that the guard accepts.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::route::{lower, lower_case, without_port};
use crate::config::is_loopback;

pub struct Hosts {
    /// Lower case, with and without port.
    names: HashSet<Box<str>>,
    origins: HashSet<Box<str>>,
    /// Hash of `names`. A connection caches its accepted host for one edition.
    pub(super) edition: u64,
}

impl Hosts {
    /// `names`: authorities of listeners and upstreams, and `allow_hosts`. localhost and loopback
    /// addresses always pass.
    pub fn new(
        names: impl IntoIterator<Item = String>,
        origins: impl IntoIterator<Item = String>,
    ) -> Self {
        let names = lower_case(names);
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let hashes = names.iter().map(|name| hasher.hash_one(name));
        Self {
            edition: hashes.fold(0, u64::wrapping_add),
            names,
            origins: lower_case(origins),
        }
    }

    /// Returns whether an authority names this proxy.
    pub fn accept(&self, authority: &str) -> bool {
        let authority = lower(authority);
        let host = without_port(&authority);
        is_loopback(host)
            || host.ends_with(".localhost")
            || self.names.contains(&*authority)
            || self.names.contains(host)
    }

    /// Returns whether an `Origin` is allowed, or belongs to an accepted host.
    pub(super) fn accept_origin(&self, origin: &str) -> bool {
        let origin = lower(origin);
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        self.origins.contains(&*origin) || authority.is_some_and(|it| self.accept(it))
    }
}

//! What workers share: the process's state, and the running configuration as requests see it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Version};

use super::hosts::Hosts;
use super::route::Routes;
use crate::config::BodyTimeout;
use crate::metrics::Metrics;
use crate::secret::Secret;

pub struct Proxy {
    /// A reload replaces the snapshot; a request keeps its first one.
    pub snapshot: ArcSwap<Snapshot>,
    pub metrics: Arc<Metrics>,
    /// Open client connections of the process.
    pub connections: AtomicUsize,
}

/// An immutable configuration, ready for requests.
pub struct Snapshot {
    pub routes: Routes,
    pub hosts: Hosts,
    pub settings: Settings,
}

/// The server's settings that connections and requests need.
pub struct Settings {
    pub client_auth: Option<ClientAuth>,
    /// Appended to `Via`, if that is on.
    pub via: Option<Via>,
    /// This process's name in `Via`, which detects loops.
    pub pseudonym: Box<str>,
    pub max_connections: usize,
    pub access_log: bool,
    pub header_timeout: Duration,
    pub body_timeout: BodyTimeout,
    pub idle_timeout: Duration,
    pub shutdown_grace: Duration,
}

/// `Via` (RFC 9110 §7.6.3) for each HTTP version of a request.
pub struct Via([HeaderValue; 3]);

/// How an app proves that it may use the proxy.
pub enum ClientAuth {
    Header { name: HeaderName, value: Secret },
    PeerUid(Vec<u32>),
}

impl Via {
    /// Returns `None` if the pseudonym is not a valid field value.
    pub fn new(pseudonym: &str) -> Option<Self> {
        let value = |version| HeaderValue::try_from(format!("{version} {pseudonym}")).ok();
        Some(Self([value("1.0")?, value("1.1")?, value("2")?]))
    }

    pub(super) fn received_in(&self, version: Version) -> &HeaderValue {
        let [http10, http11, http2] = &self.0;
        match version {
            Version::HTTP_10 => http10,
            Version::HTTP_2 => http2,
            _ => http11,
        }
    }
}

//! DATA, connect: name → address → TCP (→ egress proxy) → TLS → a [`Stream`] that knows its HTTP version.
//!
//! No pool and no HTTP in here. The data plane's pools and the token exchange dial through the same [`Connector`].

mod dial;
mod egress;
mod read_ahead;
mod records;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::config::{EgressProxy, Origin, Scheme, Tls};
use crate::upstream::tls::{TlsConfigError, TlsFailure, TlsProfiles};

pub(super) use dial::Names;
use read_ahead::ReadAhead;
pub use stream::Stream;

/// Where to connect to, and how.
#[derive(Clone, Debug)]
pub struct Destination {
    pub origin: Origin,
    /// Dialled instead of the origin's host and port; certificate checks and SNI stay the origin's.
    pub connect_to: Option<(String, u16)>,
    /// Not looked at for a plain-http origin.
    pub tls: Tls,
    pub egress: Option<EgressProxy>,
    pub alpn: Alpn,
}

/// The HTTP versions to offer.
///
/// Over plain TCP nothing can be negotiated: `Http2` is prior knowledge there, `Both` is HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    Http1,
    Http2,
    Both,
}

/// Makes connections to one [`Destination`]. Cheap to clone; usable from any thread and runtime.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    names: Names,
    dial: (String, u16),
    egress: Option<EgressProxy>,
    tls: Option<TlsTarget>,
    alpn: Alpn,
}

struct TlsTarget {
    connector: TlsConnector,
    server_name: ServerName<'static>,
}

/// A connection, ready for a request.
#[derive(Debug)]
pub struct Connected {
    pub io: Stream,
    /// HTTP/2 is to be spoken: ALPN said `h2`, or it is prior knowledge over plain TCP.
    pub http2: bool,
}

/// Why there is no connection.
///
/// Nothing was sent but handshakes, so that every one of them may be retried. Cheap to clone: requests that wait for the same
/// dial get the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// DESIGN's `upstream_unresolved`.
    #[error("cannot resolve {peer}: {source}")]
    Resolve { peer: Peer, source: Arc<io::Error> },
    /// `upstream_refused`: refused, unreachable or reset before it was open.
    #[error("cannot connect to {peer}: {source}")]
    Refused { peer: Peer, source: Arc<io::Error> },
    /// `upstream_connect_timeout`.
    #[error("{peer}: {stage} not done within {limit:?}")]
    Timeout {
        peer: Peer,
        stage: Stage,
        limit: Duration,
    },
    /// `upstream_tls`.
    #[error("TLS with {peer}: {}", failure.reason)]
    Tls { peer: Peer, failure: TlsFailure },
    /// `upstream_closed`: cut off in the middle of the handshake.
    #[error("{peer} closed the connection during the TLS handshake: {source}")]
    Closed { peer: Peer, source: Arc<io::Error> },
    /// `upstream_refused`: the egress proxy is there but makes no tunnel.
    #[error("{peer} does not open a tunnel to {target}: {reason}")]
    Egress {
        peer: Peer,
        target: String,
        /// The proxy's answer to `CONNECT`; `None` where that was not HTTP.
        status: Option<u16>,
        reason: String,
    },
}

/// Whom a [`ConnectError`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub host: String,
    pub port: u16,
    /// Whether it is the egress proxy, not the destination.
    pub egress: bool,
}

impl ConnectError {
    /// Whether this process, or the machine, may open no more files: nothing is wrong with the peer.
    pub fn is_out_of_files(&self) -> bool {
        let (Self::Refused { source, .. } | Self::Resolve { source, .. }) = self else {
            return false;
        };
        let errno = Errno::from_io_error(source);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE))
    }
}

/// What a [`ConnectError::Timeout`] cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Resolve,
    Connect,
    Egress,
    Handshake,
}

// === impl Connector ===

impl Connector {
    /// Reads the CA and client certificate files now, so that a bad one is a start-up error. Blocks on the file system.
    pub fn new(destination: Destination, profiles: &TlsProfiles) -> Result<Self, TlsConfigError> {
        let origin = destination.origin;
        let tls = match origin.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(TlsTarget {
                connector: TlsConnector::from(profiles.get(&destination.tls)?),
                server_name: server_name(
                    destination
                        .tls
                        .server_name
                        .as_deref()
                        .unwrap_or(&origin.host),
                )?,
            }),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                names: Names::System,
                dial: destination.connect_to.unwrap_or((origin.host, origin.port)),
                egress: destination.egress,
                tls,
                alpn: destination.alpn,
            }),
        })
    }

    /// Whether both connect to the same place in the same way, with the same certificates.
    pub fn is_same(&self, other: &Self) -> bool {
        let (one, two) = (&self.shared, &other.shared);
        let same_tls = match (&one.tls, &two.tls) {
            (None, None) => true,
            // One profile for files with the same content.
            (Some(one), Some(two)) => {
                one.server_name == two.server_name
                    && Arc::ptr_eq(one.connector.config(), two.connector.config())
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        same_tls && one.dial == two.dial && one.egress == two.egress && one.alpn == two.alpn
    }

    /// This connector with other HTTP versions, for connections that must be HTTP/1.1 (upgrades).
    #[must_use]
    pub fn with_alpn(&self, alpn: Alpn) -> Self {
        let shared = &self.shared;
        Self {
            shared: Arc::new(Shared {
                names: shared.names.clone(),
                dial: shared.dial.clone(),
                egress: shared.egress.clone(),
                tls: shared.tls.as_ref().map(|tls| TlsTarget {
                    connector: tls.connector.clone(),
                    server_name: tls.server_name.clone(),
                }),
                alpn,
            }),
        }
    }

    /// One that nobody has a clone of yet, with other names.
    #[cfg(test)]
    pub(super) fn told(mut self, names: Names) -> Self {
        Arc::get_mut(&mut self.shared).unwrap().names = names;
        self
    }

    /// A new connection within `limit`, names, tunnel and handshake included. Names are resolved anew each time.
    ///
    /// Cancel safe: dropping the future closes whatever was open.
    pub async fn connect(&self, limit: Duration) -> Result<Connected, ConnectError> {
        let budget = Budget {
            deadline: Instant::now() + limit,
            limit,
        };
        let tcp = self.tunnel(&budget).await?;
        let Some(tls) = &self.shared.tls else {
            return Ok(Connected {
                io: Stream::Plain(tcp),
                http2: self.shared.alpn == Alpn::Http2,
            });
        };
        self.handshake(tls, tcp, &budget).await
    }

    /// A byte stream to the destination, through the egress proxy if there is one.
    async fn tunnel(&self, budget: &Budget) -> Result<TcpStream, ConnectError> {
        let target = self.peer();
        let Some(proxy) = &self.shared.egress else {
            return dial::dial(&self.shared.names, &target, budget).await;
        };
        let peer = Peer {
            host: proxy.host.clone(),
            port: proxy.port,
            egress: true,
        };
        let mut tcp = dial::dial(&self.shared.names, &peer, budget).await?;
        let tunnel = egress::open(&mut tcp, proxy, &peer, &target);
        budget.spend(&peer, Stage::Egress, tunnel).await??;
        Ok(tcp)
    }

    async fn handshake(
        &self,
        tls: &TlsTarget,
        tcp: TcpStream,
        budget: &Budget,
    ) -> Result<Connected, ConnectError> {
        let peer = self.peer();
        let handshake = tls
            .connector
            .with_alpn(self.shared.alpn.protocols())
            .connect(tls.server_name.clone(), ReadAhead::new(tcp));
        let stream = budget
            .spend(&peer, Stage::Handshake, handshake)
            .await?
            .map_err(|error| handshake_error(peer.clone(), error))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if self.shared.alpn == Alpn::Http2 && !http2 {
            let reason = "it does not offer HTTP/2 (ALPN h2), which is what http = \"2\" asks for";
            return Err(ConnectError::Tls {
                peer,
                failure: TlsFailure {
                    certificate: false,
                    reason: reason.to_owned(),
                },
            });
        }
        Ok(Connected {
            io: Stream::Tls(Box::new(stream)),
            http2,
        })
    }

    pub(super) fn peer(&self) -> Peer {
        let (host, port) = &self.shared.dial;
        Peer {
            host: host.clone(),
            port: *port,
            egress: false,
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("dial", &self.shared.dial)
            .field("tls", &self.shared.tls.is_some())
            .field("alpn", &self.shared.alpn)
            .finish_non_exhaustive()
    }
}

// === impl Alpn ===

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

// === impl Peer ===

impl Peer {
    /// `host:port`, with brackets around IPv6.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.egress {
            f.write_str("the egress proxy ")?;
        }
        f.write_str(&self.authority())
    }
}

// === impl Stage ===

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "name resolution",
            Self::Connect => "TCP connection",
            Self::Egress => "tunnel",
            Self::Handshake => "TLS handshake",
        })
    }
}

/// The time that all stages of one connect share.
struct Budget {
    deadline: Instant,
    limit: Duration,
}

impl Budget {
    async fn spend<T>(
        &self,
        peer: &Peer,
        stage: Stage,
        work: impl Future<Output = T>,
    ) -> Result<T, ConnectError> {
        timeout_at(self.deadline, work)
            .await
            .map_err(|_| ConnectError::Timeout {
                peer: peer.clone(),
                stage,
                limit: self.limit,
            })
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsConfigError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsConfigError::ServerName(name.to_owned()))
}

fn handshake_error(peer: Peer, error: io::Error) -> ConnectError {
    match TlsFailure::find(&error) {
        Some(failure) => ConnectError::Tls { peer, failure },
        None => ConnectError::Closed {
            peer,
            source: Arc::new(error),
        },
    }
}

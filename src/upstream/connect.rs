//! Connects to a destination: name, address, TCP, egress proxy if configured, TLS and ALPN.
//!
//! Knows neither pools nor HTTP. The data plane's pools and the token exchange use the same
//! [`Connector`].

mod budget;
mod dial;
mod egress;
mod error;
mod read_ahead;
mod records;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{EgressProxy, Origin, Scheme, Tls};
use crate::upstream::tls::{TlsConfigError, TlsFailure, TlsProfiles};

use budget::Budget;
pub(super) use dial::Resolver;
pub use error::{ConnectError, Peer, Stage};
use read_ahead::ReadAhead;
pub use stream::Stream;

#[derive(Clone, Debug)]
pub struct Destination {
    pub origin: Origin,
    /// Dialled instead of the origin's host and port. Certificate checks and SNI use the origin.
    pub connect_to: Option<(String, u16)>,
    /// Ignored for a plain-http origin.
    pub tls: Tls,
    pub egress: Option<EgressProxy>,
    pub alpn: Alpn,
}

/// The HTTP versions to offer. Over plain TCP, which has no ALPN, `Http2` means prior knowledge
/// and `Both` means HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    Http1,
    Http2,
    Both,
}

/// Makes connections to one [`Destination`]. Cheap to clone; usable from any thread and runtime.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<ConnectorShared>,
}

#[derive(Clone)]
struct ConnectorShared {
    resolver: Resolver,
    peer: Peer,
    egress: Option<EgressProxy>,
    tls: Option<TlsTarget>,
    alpn: Alpn,
}

#[derive(Clone)]
struct TlsTarget {
    connector: TlsConnector,
    server_name: ServerName<'static>,
}

/// An open connection.
#[derive(Debug)]
pub struct Connected {
    pub io: Stream,
    /// ALPN selected `h2`, or the destination uses HTTP/2 with prior knowledge.
    pub http2: bool,
}

impl Connector {
    /// Reads the CA and client certificate files, so that a bad file is a start-up error. Blocks on
    /// the file system.
    pub fn new(destination: Destination, profiles: &TlsProfiles) -> Result<Self, TlsConfigError> {
        let origin = destination.origin;
        let tls = match origin.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                let connector = TlsConnector::from(profiles.get(&destination.tls)?);
                let name = (destination.tls.server_name).unwrap_or_else(|| origin.host.clone());
                let server_name = ServerName::try_from(name.clone())
                    .map_err(|_| TlsConfigError::ServerName(name))?;
                Some(TlsTarget {
                    connector,
                    server_name,
                })
            }
        };
        let (host, port) = destination.connect_to.unwrap_or((origin.host, origin.port));
        Ok(Self {
            shared: Arc::new(ConnectorShared {
                resolver: Resolver::System,
                peer: Peer {
                    host,
                    port,
                    egress: false,
                },
                egress: destination.egress,
                tls,
                alpn: destination.alpn,
            }),
        })
    }

    /// Returns whether both connect to the same peer in the same way, with the same certificates.
    pub fn has_same_target(&self, other: &Self) -> bool {
        let (one, two) = (&self.shared, &other.shared);
        let same_tls = match (&one.tls, &two.tls) {
            (None, None) => true,
            // `TlsProfiles` has one configuration for files with the same content.
            (Some(one), Some(two)) => {
                one.server_name == two.server_name
                    && Arc::ptr_eq(one.connector.config(), two.connector.config())
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        same_tls && one.peer == two.peer && one.egress == two.egress && one.alpn == two.alpn
    }

    /// Returns this connector with other HTTP versions.
    #[must_use]
    pub fn with_alpn(&self, alpn: Alpn) -> Self {
        let shared = ConnectorShared::clone(&self.shared);
        Self {
            shared: Arc::new(ConnectorShared { alpn, ..shared }),
        }
    }

    /// Panics if the connector has clones.
    #[cfg(test)]
    pub(super) fn with_resolver(mut self, resolver: Resolver) -> Self {
        Arc::get_mut(&mut self.shared).unwrap().resolver = resolver;
        self
    }

    /// Opens a connection within `limit`, which covers name resolution, tunnel and handshake.
    /// Every call resolves the name.
    ///
    /// Cancel safe: dropping the future closes all sockets.
    pub async fn connect(&self, limit: Duration) -> Result<Connected, ConnectError> {
        let budget = Budget::new(limit);
        let tcp = self.tunnel(&budget).await?;
        let Some(tls) = &self.shared.tls else {
            return Ok(Connected {
                io: Stream::Plain(tcp),
                http2: self.shared.alpn == Alpn::Http2,
            });
        };
        self.handshake(tls, tcp, &budget).await
    }

    /// Opens TCP to the destination, through the egress proxy if there is one.
    async fn tunnel(&self, budget: &Budget) -> Result<TcpStream, ConnectError> {
        let target = self.peer();
        let Some(proxy) = &self.shared.egress else {
            return dial::dial(&self.shared.resolver, target, budget).await;
        };
        let peer = Peer {
            host: proxy.host.clone(),
            port: proxy.port,
            egress: true,
        };
        let mut tcp = dial::dial(&self.shared.resolver, &peer, budget).await?;
        let tunnel = egress::open(&mut tcp, proxy, &peer, target);
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
        let failed = |failure| ConnectError::Tls {
            peer: peer.clone(),
            failure,
        };
        let handshake = tls
            .connector
            .with_alpn(self.shared.alpn.protocols())
            .connect(tls.server_name.clone(), ReadAhead::new(tcp));
        let stream = budget
            .spend(peer, Stage::Handshake, handshake)
            .await?
            .map_err(|error| match TlsFailure::find(&error) {
                Some(failure) => failed(failure),
                None => ConnectError::Closed {
                    peer: peer.clone(),
                    source: Arc::new(error),
                },
            })?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if self.shared.alpn == Alpn::Http2 && !http2 {
            let reason = "it does not offer HTTP/2 (ALPN h2), which http = \"2\" requires";
            return Err(failed(TlsFailure {
                certificate: false,
                reason: reason.to_owned(),
            }));
        }
        Ok(Connected {
            io: Stream::Tls(Box::new(stream)),
            http2,
        })
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.shared.peer
    }
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

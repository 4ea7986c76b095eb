//! Errors of a connect; each names its peer.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::upstream::tls::TlsFailure;

/// Why a connect failed.
///
/// Only handshakes were sent, so a retry is always safe. Cheap to clone: all requests that wait
/// for one dial get the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot resolve {peer}: {source}")]
    Resolve { peer: Peer, source: Arc<io::Error> },
    /// Refused, unreachable, or reset before the connection was open.
    #[error("cannot connect to {peer}: {source}")]
    Refused { peer: Peer, source: Arc<io::Error> },
    #[error("{peer}: {stage} took longer than {limit:?}")]
    Timeout {
        peer: Peer,
        stage: Stage,
        limit: Duration,
    },
    #[error("TLS with {peer}: {}", failure.reason)]
    Tls { peer: Peer, failure: TlsFailure },
    #[error("{peer} closed the connection during the TLS handshake: {source}")]
    Closed { peer: Peer, source: Arc<io::Error> },
    /// The egress proxy refused the tunnel.
    #[error("{peer} does not open a tunnel to {target}: {reason}")]
    Egress {
        peer: Peer,
        target: String,
        /// Status of the response to `CONNECT`; `None` if the response was not HTTP.
        status: Option<u16>,
        reason: String,
    },
}

/// The host and port that a [`ConnectError`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub host: String,
    pub port: u16,
    /// The peer is the egress proxy, not the destination.
    pub egress: bool,
}

/// The part of a connect that a [`ConnectError::Timeout`] interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Resolve,
    Connect,
    Egress,
    Handshake,
}

impl ConnectError {
    pub(in crate::upstream) fn refused(peer: &Peer, error: io::Error) -> Self {
        Self::Refused {
            peer: peer.clone(),
            source: Arc::new(error),
        }
    }

    /// Returns whether the process or the machine has reached its open-file limit, which is not a
    /// fault of the peer.
    pub fn is_out_of_files(&self) -> bool {
        let (Self::Refused { source, .. } | Self::Resolve { source, .. }) = self else {
            return false;
        };
        let errno = Errno::from_io_error(source);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE))
    }
}

impl Peer {
    /// Returns `host:port`, with brackets around IPv6.
    pub(super) fn authority(&self) -> String {
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

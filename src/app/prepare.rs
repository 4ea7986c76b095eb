//! The steps of a start and of a reload that can fail because of files or variables.

use crate::clock::Clock;
use crate::config::{self, Config, HttpVersion, Listen, TokenSource};
use crate::provider::exchange::HttpFetch;
use crate::provider::inputs;
use crate::proxy::ClientAuth;
use crate::store::StoreError;
use crate::upstream::connect::{Alpn, Connector, Destination};
use crate::upstream::tls::{TlsConfigError, TlsProfiles};

/// Why the program does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        listen: Listen,
        source: std::io::Error,
    },
    #[error("{path}: {source}")]
    Tls {
        path: String,
        source: TlsConfigError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("server.client_auth: {0}")]
    ClientAuth(#[from] inputs::InputError),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Returns a connector for each upstream, in their order. Reads all TLS files, also those of token
/// endpoints. Blocks.
pub(super) fn connect(
    config: &Config,
    profiles: &TlsProfiles,
) -> Result<Vec<Connector>, Vec<StartError>> {
    let mut errors = Vec::new();
    let mut failed = |path, source| errors.push(StartError::Tls { path, source });
    let fetch = HttpFetch::new(profiles.clone(), Clock::System);
    for provider in &config.providers {
        if let TokenSource::Endpoint(endpoint) = &provider.source
            && let Err(source) = fetch.check(endpoint)
        {
            failed(format!("providers.{}.tls", provider.name), source);
        }
    }
    let mut connectors = Vec::with_capacity(config.upstreams.len());
    for upstream in &config.upstreams {
        match Connector::new(destination(upstream), profiles) {
            Ok(connector) => connectors.push(connector),
            Err(source) => failed(format!("upstreams.{}.tls", upstream.name), source),
        }
    }
    ok_unless(errors, connectors)
}

/// Returns `value` unless there are errors.
pub(super) fn ok_unless<T, E>(errors: Vec<E>, value: T) -> Result<T, Vec<E>> {
    if errors.is_empty() {
        Ok(value)
    } else {
        Err(errors)
    }
}

fn destination(upstream: &config::Upstream) -> Destination {
    Destination {
        origin: upstream.origin.clone(),
        connect_to: upstream.connect_to.clone(),
        tls: upstream.tls.clone(),
        egress: upstream.egress.clone(),
        alpn: match upstream.http {
            HttpVersion::Auto => Alpn::Both,
            HttpVersion::Http1 => Alpn::Http1,
            HttpVersion::Http2 => Alpn::Http2,
        },
    }
}

pub(super) async fn client_auth(server: &config::Server) -> Result<Option<ClientAuth>, StartError> {
    Ok(match &server.client_auth {
        None => None,
        Some(config::ClientAuth::PeerUid(uids)) => Some(ClientAuth::PeerUid(uids.clone())),
        Some(config::ClientAuth::Header { name, value }) => {
            let value = inputs::read("server.client_auth.value", value).await?;
            Some(ClientAuth::Header {
                name: name.clone(),
                value: value.to_text(),
            })
        }
    })
}

//! The keys of the configuration file. No key is required here: a missing key must not hide other
//! mistakes.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::model::{AllowRule, ExistingCredential, HttpVersion, Listen};
use super::origin::{HostPort, HostText, IssuerText, OriginText, ServerName, Url};
use super::problems::{Complaint, complaint};
use super::routes::PathPrefix;
use super::units::{Count, Limit, Size, Span, Text, Workers, Written};
use super::value::{FilePath, ValueToml};
use crate::dialect::OneOrMany;

/// Top-level tables.
pub(super) const SECTIONS: [&str; 5] = ["server", "store", "dialects", "providers", "upstreams"];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ServerToml {
    pub(super) listen: Option<OneOrMany<Text<Listen>>>,
    pub(super) admin: Option<Text<Admin>>,
    pub(super) allow_remote: Option<bool>,
    pub(super) workers: Option<Text<Workers>>,
    pub(super) max_connections: Option<Text<Count>>,
    pub(super) header_timeout: Option<Text<Limit>>,
    pub(super) body_timeout: Option<Text<Limit>>,
    pub(super) idle_timeout: Option<Text<Limit>>,
    pub(super) shutdown_delay: Option<Text<Span>>,
    pub(super) shutdown_grace: Option<Text<Span>>,
    pub(super) allow_hosts: Option<Vec<Text<HostText>>>,
    pub(super) allow_origins: Option<Vec<Text<OriginText>>>,
    pub(super) client_auth: Option<ClientAuthToml>,
    pub(super) via: Option<bool>,
    pub(super) quitquitquit: Option<bool>,
    pub(super) access_log: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ClientAuthToml {
    pub(super) header: Option<Text<HeaderName>>,
    pub(super) value: Option<ValueToml>,
    pub(super) peer_uid: Option<Vec<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StoreToml {
    pub(super) kind: Option<StoreKindToml>,
    pub(super) path: Option<Text<FilePath>>,
    pub(super) url: Option<ValueToml>,
    pub(super) key: Option<OneOrMany<ValueToml>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum StoreKindToml {
    Memory,
    File,
    Redis,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProviderToml {
    pub(super) dialect: Option<String>,
    pub(super) grant: Option<String>,
    pub(super) auth_method: Option<String>,
    pub(super) token_url: Option<Text<Url>>,
    pub(super) issuer: Option<Text<IssuerText>>,
    pub(super) authorization_url: Option<Text<Url>>,
    pub(super) device_authorization_url: Option<Text<Url>>,
    pub(super) allow_http: Option<bool>,
    pub(super) access_token: Option<ValueToml>,
    pub(super) client_id: Option<ValueToml>,
    pub(super) client_secret: Option<ValueToml>,
    pub(super) username: Option<ValueToml>,
    pub(super) password: Option<ValueToml>,
    pub(super) scope: Option<ValueToml>,
    pub(super) audience: Option<ValueToml>,
    pub(super) resource: Option<ValueToml>,
    pub(super) code: Option<ValueToml>,
    pub(super) redirect_uri: Option<ValueToml>,
    pub(super) refresh_token: Option<ValueToml>,
    pub(super) vars: BTreeMap<String, ValueToml>,
    pub(super) refresh_before: Option<Text<Span>>,
    pub(super) min_interval: Option<Text<Span>>,
    pub(super) ttl: Option<Text<Limit>>,
    pub(super) single_active: Option<bool>,
    pub(super) required: Option<bool>,
    pub(super) timeout: Option<Text<Limit>>,
    pub(super) tls: Option<TlsToml>,
    pub(super) proxy: Option<ValueToml>,
    /// Parsed as [`crate::dialect::Overrides`]; listed here as known keys.
    pub(super) assertion: Option<IgnoredAny>,
    pub(super) client_assertion: Option<IgnoredAny>,
    pub(super) request: Option<IgnoredAny>,
    pub(super) response: Option<IgnoredAny>,
    pub(super) inject: Option<IgnoredAny>,
    pub(super) reject: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsToml {
    pub(super) ca_file: Option<Text<FilePath>>,
    pub(super) client_cert_file: Option<Text<FilePath>>,
    pub(super) client_key_file: Option<Text<FilePath>>,
    pub(super) server_name: Option<Text<ServerName>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UpstreamToml {
    pub(super) url: Option<Text<Url>>,
    pub(super) allow_http: Option<bool>,
    pub(super) provider: Option<String>,
    pub(super) route: Option<RouteToml>,
    pub(super) allow: Vec<Text<AllowRule>>,
    pub(super) http: Option<Text<HttpVersion>>,
    pub(super) connect_to: Option<Text<HostPort>>,
    pub(super) tls: Option<TlsToml>,
    pub(super) proxy: Option<ValueToml>,
    pub(super) timeouts: Option<TimeoutsToml>,
    pub(super) token_wait: Option<Text<Span>>,
    pub(super) replay_limit: Option<Text<Size>>,
    pub(super) max_in_flight: Option<Text<Count>>,
    pub(super) existing_credential: Option<ExistingCredential>,
    pub(super) rewrite_redirects: Option<bool>,
    pub(super) headers: Option<HeadersToml>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RouteToml {
    pub(super) path_prefix: Option<Text<PathPrefix>>,
    pub(super) host: Option<Text<HostText>>,
    pub(super) listen: Option<Text<Listen>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TimeoutsToml {
    pub(super) connect: Option<Text<Limit>>,
    pub(super) response: Option<Text<Limit>>,
    pub(super) body: Option<Text<Limit>>,
    pub(super) idle: Option<Text<Limit>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HeadersToml {
    pub(super) set: BTreeMap<String, ValueToml>,
    pub(super) remove: Vec<Text<HeaderName>>,
}

/// Address of the admin port; `None` for "off".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admin(pub(super) Option<std::net::SocketAddr>);

impl Written for Admin {
    const EXPECTED: &'static str = r#"an address such as "127.0.0.1:9180", or "off""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text == "off" {
            return Ok(Self(None));
        }
        let wrong = |_| Self::expected().hint("write `IP:port`; host names are not resolved");
        text.parse().map(Some).map(Self).map_err(wrong)
    }
}

impl Written for HttpVersion {
    const EXPECTED: &'static str = r#"one of "auto", "1.1" and "2""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        match text {
            "auto" => Ok(Self::Auto),
            "1.1" => Ok(Self::Http1),
            "2" => Ok(Self::Http2),
            _ => Err(Self::expected().hint("in quotes")),
        }
    }
}

impl Written for HeaderName {
    const EXPECTED: &'static str = "the name of a header";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let wrong = |_| Self::expected().hint("letters, digits and `-`");
        text.parse().map_err(wrong)
    }
}

/// Parses a header value and marks it sensitive: it may hold a secret from the environment.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, Complaint> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        complaint("holds a character that is not allowed in a header value")
            .hint("use visible ASCII characters, spaces and tabs")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

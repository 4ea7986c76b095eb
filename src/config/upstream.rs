//! `[upstreams.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};

use super::context::Context;
use super::file::{HeadersToml, RouteToml, UpstreamToml, header_value};
use super::model::{BodyTimeout, ExistingCredential, HttpVersion, Provider, Route, Upstream};
use super::origin::{HostText, Url};
use super::problems::{Complaint, KeyPath, complaint, did_you_mean};
use super::routes::{PathPrefix, check_dots};
use super::server::{limit, span};
use super::units::{Text, Written};
use crate::fields::is_hop_by_hop;

/// Enough for DNS, TCP and TLS over slow networks.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reports and language models take minutes; longer responses are streamed.
const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);

/// The default of hyper and Go. Most load balancers close after 60 s or more; races are retried.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Less than the usual 30 s timeout of HTTP clients.
const DEFAULT_TOKEN_WAIT: Duration = Duration::from_secs(10);

/// Covers nearly every JSON request; allocated only while a request is in flight.
const DEFAULT_REPLAY_LIMIT: usize = 64 * 1024;

/// The providers that upstreams may name.
pub(super) struct Providers<'a> {
    /// Every provider of the file.
    pub(super) names: &'a BTreeSet<String>,
    /// Providers without mistakes.
    pub(super) good: &'a BTreeMap<String, Arc<Provider>>,
}

/// Returns the route even of an invalid upstream: the caller compares the routes of all upstreams.
pub(super) fn upstream(
    name: &str,
    mut toml: UpstreamToml,
    at: &KeyPath,
    providers: &Providers<'_>,
    cx: &mut Context<'_>,
) -> (Option<Route>, Option<Upstream>) {
    let route = cx.problems.keep(&at.key("route"), route(toml.route.take()));
    let upstream = routed(name, toml, route.clone(), at, providers, cx);
    (route, upstream)
}

/// Returns the route; a missing table is the catch-all.
fn route(written: Option<RouteToml>) -> Result<Route, Complaint> {
    let Some(written) = written else {
        return Ok(Route::CatchAll);
    };
    match (written.path_prefix, written.host, written.listen) {
        (Some(Text(PathPrefix(prefix))), None, None) => Ok(Route::PathPrefix(prefix)),
        (None, Some(Text(HostText(host))), None) => Ok(Route::Host(host)),
        (None, None, Some(Text(listen))) => Ok(Route::Listen(listen)),
        _ => Err(
            complaint("needs exactly one of `path_prefix`, `host` and `listen`")
                .hint("an upstream without `route` gets all remaining requests"),
        ),
    }
}

fn routed(
    name: &str,
    toml: UpstreamToml,
    route: Option<Route>,
    at: &KeyPath,
    providers: &Providers<'_>,
    cx: &mut Context<'_>,
) -> Option<Upstream> {
    let url = url(toml.url, toml.allow_http, at, cx);
    let provider = provider_name(toml.provider, at, providers, cx);
    let origin = url.as_ref().map(|(url, _)| &url.origin);
    let tls = cx.tls(&at.key("tls"), toml.tls, origin);
    let connect_to = toml.connect_to.map(|Text(dial)| dial);
    let proxy_at = at.key("proxy");
    let egress = cx.egress(&proxy_at, toml.proxy, origin, connect_to.as_ref());
    let injected = provider.as_ref().and_then(|name| providers.good.get(name));
    let injected = injected.map_or(&[][..], |provider| provider.inject.header_names());
    let headers = toml.headers.unwrap_or_default();
    let (set_headers, remove_headers) = check_headers(headers, injected, &at.key("headers"), cx);
    let timeouts = toml.timeouts.unwrap_or_default();
    let (url, base_path) = url?;
    Some(Upstream {
        name: name.to_owned(),
        origin: url.origin,
        base_path,
        provider: provider?,
        route: route?,
        allow: toml.allow.into_iter().map(|Text(rule)| rule).collect(),
        http: toml.http.map_or(HttpVersion::Auto, |Text(version)| version),
        connect_to: connect_to.map(|dial| (dial.host, dial.port)),
        tls,
        egress,
        connect_timeout: limit(timeouts.connect, DEFAULT_CONNECT_TIMEOUT),
        response_timeout: limit(timeouts.response, DEFAULT_RESPONSE_TIMEOUT),
        body_timeout: BodyTimeout::of(timeouts.body),
        idle_timeout: limit(timeouts.idle, DEFAULT_IDLE_TIMEOUT),
        token_wait: span(toml.token_wait, DEFAULT_TOKEN_WAIT),
        replay_limit: toml
            .replay_limit
            .map_or(DEFAULT_REPLAY_LIMIT, |Text(size)| size.0),
        max_in_flight: toml.max_in_flight.map(|Text(count)| count.0),
        existing_credential: toml
            .existing_credential
            .unwrap_or(ExistingCredential::Replace),
        rewrite_redirects: toml.rewrite_redirects.unwrap_or(true),
        set_headers,
        remove_headers,
    })
}

/// Returns the URL and its path as a prefix for request paths.
fn url(
    written: Option<Text<Url>>,
    allow_http: Option<bool>,
    at: &KeyPath,
    cx: &mut Context<'_>,
) -> Option<(Url, String)> {
    let url_at = at.key("url");
    let Some(Text(url)) = written else {
        let hint = "url = \"https://api.example.com\"";
        cx.problem(&url_at, complaint("is missing").hint(hint));
        return None;
    };
    let url = cx.url(at, "url", url, allow_http)?;
    if url.query.is_some() {
        let query = complaint("the URL of an upstream has no query");
        cx.problem(&url_at, query.hint("each request has its own"));
        return None;
    }
    let base_path = url.path.trim_end_matches('/').to_owned();
    cx.problems.keep(&url_at, check_dots(&base_path))?;
    Some((url, base_path))
}

fn provider_name(
    written: Option<String>,
    at: &KeyPath,
    providers: &Providers<'_>,
    cx: &mut Context<'_>,
) -> Option<String> {
    let at = at.key("provider");
    let Some(name) = written else {
        cx.problem(&at, complaint("is missing").hint("name one of [providers]"));
        return None;
    };
    if providers.names.contains(&name) {
        return Some(name);
    }
    let known = providers.names.iter().map(String::as_str);
    let hint = did_you_mean(&name, known, || "add a table [providers.NAME]".to_owned());
    cx.problem(&at, complaint("no such provider").hint(hint));
    None
}

/// Returns the headers to set and to remove.
fn check_headers(
    written: HeadersToml,
    injected: &[HeaderName],
    at: &KeyPath,
    cx: &mut Context<'_>,
) -> (Vec<(HeaderName, HeaderValue)>, Vec<HeaderName>) {
    let (mut set, mut remove) = (Vec::new(), Vec::new());
    for (name, value) in written.set {
        let at = at.key("set").key(&name);
        let text = value.resolve_fixed(cx.env);
        let value = text.and_then(|text| header_value(text.expose()));
        let value = cx.problems.keep(&at, value);
        let name = HeaderName::from_text(&name).and_then(|name| {
            if set.iter().any(|(known, _)| *known == name) {
                let twice = complaint("is set twice; header names are case-insensitive");
                return Err(twice.hint("remove one"));
            }
            check_header(name, injected)
        });
        let name = cx.problems.keep(&at, name);
        set.extend(name.zip(value));
    }
    for (index, Text(name)) in written.remove.into_iter().enumerate() {
        let at = at.key("remove").index(index);
        let name = cx.problems.keep(&at, check_header(name, injected));
        remove.extend(name);
    }
    (set, remove)
}

fn check_header(name: HeaderName, injected: &[HeaderName]) -> Result<HeaderName, Complaint> {
    let framing = [
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::HOST,
        header::TRAILER,
    ];
    if framing.contains(&name) || is_hop_by_hop(&name) {
        let framing = complaint("is a hop-by-hop or framing field and cannot be changed here");
        return Err(framing.hint("remove it"));
    }
    if injected.contains(&name) {
        return Err(complaint("is the header that carries the token")
            .hint("change `inject` of the provider instead"));
    }
    Ok(name)
}

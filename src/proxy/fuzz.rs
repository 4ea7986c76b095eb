//! Fuzz targets: request targets to the upstream, and response fields and bodies from it.

use std::sync::{Arc, LazyLock};

use http::header::{CONTENT_LOCATION, HOST, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Request, Uri};
use percent_encoding::percent_decode_str;

use super::guard;
use super::headers::{PROXY_STATUS, strip_hop_by_hop, strip_own_proxy_status};
use super::hosts::Hosts;
use super::rewrite::{self, View};
use super::route::{Routes, without_port};
use super::target::{Target, TargetParts};
use super::{authorize, headers};
use crate::clock::Clock;
use crate::config::{Config, NoEnvironment};
use crate::metrics::Metrics;
use crate::token::cell;

const CONFIG: &str = r#"
[providers.p]
access_token = "x"
reject = { body = { "/errcode" = [40001, "x"], "/a/0/b" = [true, ""] } }
[providers.p.inject]
query = { access_token = "{access_token}" }
[upstreams.prefix]
url = "https://api.example/api/v1"
provider = "p"
route = { path_prefix = "/p" }
[upstreams.host]
url = "https://api.example:8443/"
provider = "p"
route = { host = "api.test" }
[upstreams.rest]
url = "https://rest.example/base"
provider = "p"
"#;

/// The upstreams of [`CONFIG`], without pools.
static TARGETS: LazyLock<Vec<Arc<Target>>> = LazyLock::new(|| {
    let Ok(config) = Config::from_toml(CONFIG, &NoEnvironment) else {
        panic!("the fuzzer's configuration is invalid");
    };
    let provider = &config.providers[0];
    let target = |upstream: &Arc<crate::config::Upstream>| {
        Arc::new(Target::new(TargetParts {
            config: Arc::clone(upstream),
            metrics: Metrics::new().upstream(&upstream.name),
            token: cell::cell(Clock::System).1,
            pools: Vec::new(),
            inject_headers: provider.inject.header_names().to_vec(),
            inject_query: provider.inject.query_names().to_vec(),
            reject: provider.reject.clone(),
        }))
    };
    config.upstreams.iter().map(target).collect()
});

static ROUTES: LazyLock<Routes> = LazyLock::new(|| {
    let mut routes = Routes::new(vec!["127.0.0.1:8080".to_owned()]);
    for target in TARGETS.iter() {
        routes.add(Arc::clone(target));
    }
    routes
});

pub use super::client_io::fuzz::client_io;

/// Input: a request target, a line break, and a `Host`.
pub fn request_target(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n');
    let (target, host) = at.map_or((data, &b""[..]), |at| (&data[..at], &data[at + 1..]));
    let Ok(uri) = Uri::try_from(target) else {
        return;
    };
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    if let Ok(host) = HeaderValue::from_bytes(host) {
        let hosts = Hosts::new(["api.test".to_owned()], []);
        if let Ok(text) = host.to_str()
            && guard::is_authority(text)
            && hosts.accept(text)
        {
            let url = format!("http://{}/", text.to_ascii_lowercase());
            let host = url.parse::<Uri>().ok();
            let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
            assert!(host == "api.test" || is_loopback(host), "{text} is {host}");
        }
        request.headers_mut().insert(HOST, host);
    }
    if guard::path(request.uri().path()).is_err() {
        return;
    }
    let Ok(routed) = ROUTES.find(&request, 0) else {
        return;
    };
    let uri = request.uri();
    let injected = "access_token=fresh";
    let Ok(sent) = authorize::path_and_query(uri, &routed, injected, false) else {
        return;
    };
    let base = &routed.target.config.base_path;
    assert!(sent.path().starts_with(base.as_str()), "{sent}");
    assert!(stays_below(sent.path(), base), "{sent} leaves {base}");
    let mut credentials = 0;
    for pair in sent.query().unwrap_or_default().split(['&', ';']) {
        let key = pair.split('=').next().unwrap_or_default();
        let key: Vec<u8> = percent_decode_str(&key.replace('+', " ")).collect();
        credentials += usize::from(key.eq_ignore_ascii_case(b"access_token"));
    }
    assert_eq!(credentials, 1, "{sent}");
    let odd = |byte: &u8| *byte <= b' ' || *byte == 0x7f || *byte == b'#';
    assert!(!sent.as_str().as_bytes().iter().any(odd), "{sent}");
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_matches(['[', ']']);
    let address = bare.parse::<std::net::IpAddr>();
    host == "localhost"
        || host.ends_with(".localhost")
        || address.is_ok_and(|address| address.is_loopback())
}

/// Whether `path` stays below `base` even if the upstream decodes all but slashes before it
/// resolves dot segments.
fn stays_below(path: &str, base: &str) -> bool {
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for segment in path.split('/') {
        let decoded: Vec<u8> = percent_decode_str(segment).collect();
        match decoded.split(|byte| *byte == b';').next() {
            Some(b"..") => drop(segments.pop()),
            Some(b".") => {}
            _ => segments.push(decoded),
        }
    }
    let base: Vec<Vec<u8>> = base
        .split('/')
        .map(|segment| segment.as_bytes().to_vec())
        .collect();
    base == [b""] || segments.starts_with(&base)
}

/// Input lines: a `Location`, a `Set-Cookie`, a `Proxy-Status`, a `Connection`.
pub fn response_fields(data: &[u8]) {
    let mut lines = data.splitn(4, |byte| *byte == b'\n');
    let mut fields = HeaderMap::new();
    let names = [LOCATION, SET_COOKIE, PROXY_STATUS, http::header::CONNECTION];
    for (name, value) in names.into_iter().zip(&mut lines) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.append(name, value);
        }
    }
    if let Some(location) = fields.get(LOCATION).cloned() {
        fields.insert(CONTENT_LOCATION, location);
    }
    let before = fields.clone();
    strip_own_proxy_status(&mut fields);
    for line in fields.get_all(PROXY_STATUS) {
        let mut members = line.as_bytes().split(|byte| *byte == b',');
        assert!(!members.any(|member| {
            let name = member.split(|byte| *byte == b';').next();
            name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"cupbearer"))
        }));
    }
    let target = &TARGETS[0];
    let view = View::new(&target.config, Some("localhost:8080"), "/p");
    rewrite::response(&mut fields, &view);
    let changed = |name| {
        fields
            .get(&name)
            .filter(|new| before.get(&name) != Some(*new))
    };
    if let Some(location) = changed(LOCATION) {
        let value = location.as_bytes();
        let path = value.strip_prefix(b"http://localhost:8080");
        let path = path.unwrap_or(value);
        let below = path.strip_prefix(b"/p");
        assert!(
            below.is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'?' | b'#'))),
            "{location:?}"
        );
    }
    if let Some(cookie) = changed(SET_COOKIE) {
        let last = cookie.as_bytes().rsplit(|byte| *byte == b';').next();
        let path = last.and_then(|part| part.trim_ascii().strip_prefix(b"Path=/p"));
        assert!(
            path.is_some_and(|rest| matches!(rest.first(), None | Some(b'/'))),
            "{cookie:?}"
        );
    }
    strip_hop_by_hop(&mut fields);
    assert!(!headers::has_hop_by_hop(&fields));
}

/// Input: a response's body, as the rejection rules read it.
pub fn reject_body(data: &[u8]) {
    let _ = TARGETS[0].reject.body_matches(data, &HeaderMap::new());
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(text.starts_with(without_port(text)));
    }
}

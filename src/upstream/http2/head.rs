//! Converts heads between HTTP/1.1 and HTTP/2 (RFC 9113 §8).

use http::header::{CONTENT_LENGTH, EXPECT, HOST, TE};
use http::request::Parts;
use http::uri::{self, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body::Body as _;

use crate::fields::{MAX_FIELDS, is_hop_by_hop, is_trailer};
use crate::upstream::http1::parse_length;
use crate::upstream::request::RequestBody;

/// Returns the length for the request's `Content-Length`. Only `body` counts, not the app's head.
pub(super) fn length(head: &Parts, body: &RequestBody) -> Option<u64> {
    if !body.is_end_stream() {
        return body.size_hint().exact();
    }
    // RFC 9110 §8.6: an empty body is announced if the method defines a meaning for a body, or if
    // the app announced a length.
    let expected = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    (expected || head.headers.contains_key(CONTENT_LENGTH)).then_some(0)
}

/// Returns the request for h2. Sensitive values stay sensitive, so HPACK never indexes them.
pub(super) fn request(head: &Parts, length: Option<u64>) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = with_path(&head.uri);
    let mut headers = HeaderMap::with_capacity(head.headers.len() + 1);
    for (name, value) in &head.headers {
        if !is_left_out(name, value) {
            headers.append(name.clone(), value.clone());
        }
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    *request.headers_mut() = headers;
    request
}

/// RFC 9113 §8.3.1: `:path` is never empty.
fn with_path(uri: &Uri) -> Uri {
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    if !path.starts_with('?') {
        return uri.clone();
    }
    let path = format!("/{path}");
    let mut parts = uri::Parts::from(uri.clone());
    parts.path_and_query = path.try_into().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Returns whether a field is connection-specific (RFC 9113 §8.2.2) or has another form in HTTP/2.
fn is_left_out(name: &HeaderName, value: &HeaderValue) -> bool {
    let is_te_trailers = *name == TE && value == "trailers";
    [HOST, EXPECT, CONTENT_LENGTH].contains(name) || is_hop_by_hop(name) && !is_te_trailers
}

/// Removes the fields that are not allowed in a trailer section.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    let wrong = trailers.keys().filter(|name| !is_trailer(name));
    for name in wrong.cloned().collect::<Vec<_>>() {
        trailers.remove(name);
    }
}

/// Returns the response's `Content-Length`. Checks only what h2 does not.
///
/// h2 rejects connection-specific fields, heads over the size limit, and bodies that do not match
/// their `Content-Length`.
pub(super) fn check(fields: &HeaderMap) -> Result<Option<u64>, &'static str> {
    if fields.len() > MAX_FIELDS {
        return Err("too many fields");
    }
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err("more than one content-length"),
        (Some(length), None) => parse_length(length.as_bytes())
            .map(Some)
            .ok_or("an invalid content-length"),
    }
}

#[cfg(test)]
mod tests;

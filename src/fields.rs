//! Limits of message heads, hop-by-hop fields, and fields forbidden in trailers.

use http::HeaderName;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, EXPECT, HOST, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};

/// Limits of message heads, in bytes and fields, for apps and upstreams.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
pub(crate) const MAX_FIELDS: usize = 256;

/// Hop-by-hop fields (RFC 9110 §7.6.1) and fields commonly treated alike. `Trailer` is end to end.
pub(crate) static HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
];

/// Fields forbidden in trailers: framing, routing, authentication and content handling (RFC 9110
/// §6.5.1).
static HEAD_ONLY: [HeaderName; 13] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    EXPECT,
    HOST,
    MAX_FORWARDS,
    SET_COOKIE,
    TRAILER,
    WWW_AUTHENTICATE,
];

pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    // The length alone excludes most names.
    matches!(name.as_str().len(), 2 | 7 | 10 | 16..=19) && HOP_BY_HOP.contains(name)
}

/// Returns whether a field may occur in a trailer section.
pub(crate) fn is_trailer(name: &HeaderName) -> bool {
    !HEAD_ONLY.contains(name) && !HOP_BY_HOP.contains(name)
}

//! Hop-by-hop rules (RFC 9110 §7.6) and one look at a request's fields.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, MAX_FORWARDS, ORIGIN, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};

use crate::fields::{HOP_BY_HOP, is_hop_by_hop};

pub(super) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
pub(super) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Which fields need attention, found in one pass: most requests have none of them, and a look-up of each would cost more than
/// everything else that is done with a request's head.
#[derive(Clone, Copy, Default)]
pub(super) struct Scan {
    pub(super) hosts: u8,
    pub(super) content_lengths: u8,
    pub(super) transfer_encoding: bool,
    pub(super) hop_by_hop: bool,
    pub(super) upgrade: bool,
    pub(super) te: bool,
    pub(super) expect: bool,
    pub(super) cross_site: bool,
    pub(super) via: bool,
    pub(super) authorization: bool,
    pub(super) content_type: bool,
    pub(super) max_forwards: bool,
}

impl Scan {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut scan = Self::default();
        for name in headers.keys() {
            scan.note(name);
        }
        // `keys` yields each name once; only these two matter when repeated.
        if headers.len() != headers.keys_len() {
            scan.hosts = count(headers, &HOST);
            scan.content_lengths = count(headers, &CONTENT_LENGTH);
        }
        scan
    }

    fn note(&mut self, name: &HeaderName) {
        self.hosts |= u8::from(*name == HOST);
        self.content_lengths |= u8::from(*name == CONTENT_LENGTH);
        self.authorization |= *name == AUTHORIZATION;
        self.content_type |= *name == CONTENT_TYPE;
        self.cross_site |= *name == ORIGIN || *name == SEC_FETCH_SITE;
        self.expect |= *name == EXPECT;
        self.max_forwards |= *name == MAX_FORWARDS;
        self.via |= *name == VIA;
        if is_hop_by_hop(name) {
            self.hop_by_hop = true;
            self.transfer_encoding |= *name == TRANSFER_ENCODING;
            self.upgrade |= *name == UPGRADE;
            self.te |= *name == TE;
        }
    }
}

/// Removes what is meant for this hop only: the fields that *every* `Connection` line names, and the known ones.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if names_fields(headers) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Returns the hops that OPTIONS may still make (RFC 9110 §7.6.2). `None` without a valid limit.
pub(super) fn max_forwards(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(MAX_FORWARDS)?.as_bytes();
    let digits = std::str::from_utf8(value).ok()?;
    let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number
        .then(|| digits.parse().unwrap_or(u64::MAX))
        .filter(|_| !digits.is_empty())
}

/// Takes one hop off the limit. To be called when it is more than 0.
pub(super) fn count_forward(headers: &mut HeaderMap) {
    if let Some(left) = max_forwards(headers) {
        headers.insert(MAX_FORWARDS, left.saturating_sub(1).into());
    }
}

/// Joins the parts of a cookie, which HTTP/2 may send apart (RFC 9113 §8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut parts = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (parts.next(), parts.next()) else {
        return;
    };
    let mut whole = first.as_bytes().to_vec();
    for part in std::iter::once(second).chain(parts) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(part.as_bytes());
    }
    // Nothing was added that a value may not hold.
    if let Ok(whole) = HeaderValue::try_from(whole) {
        headers.insert(COOKIE, whole);
    }
}

/// Takes members that bear our name out of an upstream's `Proxy-Status`: nobody else may speak for us (DESIGN.md §5).
pub(super) fn strip_own_proxy_status(headers: &mut HeaderMap) {
    let ours = |line: &HeaderValue| {
        line.as_bytes().split(|byte| *byte == b',').any(|member| {
            let name = member
                .split(|byte| *byte == b';')
                .next()
                .unwrap_or_default();
            name.trim_ascii()
                .trim_ascii_end()
                .eq_ignore_ascii_case(b"cupbearer")
        })
    };
    let kept: Vec<_> = headers
        .get_all(PROXY_STATUS)
        .iter()
        .filter(|line| !ours(line))
        .cloned()
        .collect();
    headers.remove(PROXY_STATUS);
    for line in kept {
        headers.append(PROXY_STATUS, line);
    }
}

/// Whether any hop-by-hop field is there.
pub(super) fn has_hop_by_hop(headers: &HeaderMap) -> bool {
    headers.keys().any(is_hop_by_hop)
}

/// Whether `Connection` asks for an upgrade (RFC 9110 §7.8: without it `Upgrade` means nothing).
pub(super) fn connection_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|line| {
        line.to_str().is_ok_and(|line| {
            line.split(',')
                .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
        })
    })
}

/// Whether `TE` accepts trailers, the one member that may be passed on to an HTTP/2 upstream (RFC 9113 §8.2.2).
pub(super) fn te_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|line| {
        line.to_str().is_ok_and(|line| {
            line.split(',').any(|coding| {
                coding
                    .split(';')
                    .next()
                    .is_some_and(|name| name.trim().eq_ignore_ascii_case("trailers"))
            })
        })
    })
}

/// RFC 9112 §7: one line, one coding.
pub(super) fn only_chunked(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    let first = lines.next();
    lines.next().is_none()
        && first.is_some_and(|line| {
            line.as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked")
        })
}

/// Whether `Connection` holds more than the two options that name no field.
fn names_fields(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|line| {
        let line = line.as_bytes();
        !line.eq_ignore_ascii_case(b"keep-alive") && !line.eq_ignore_ascii_case(b"close")
    })
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // Framing and routing are not the client's to remove.
        .filter(|name| *name != CONTENT_LENGTH && *name != HOST)
        .collect()
}

fn count(headers: &HeaderMap, name: &HeaderName) -> u8 {
    u8::try_from(headers.get_all(name).iter().count()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;

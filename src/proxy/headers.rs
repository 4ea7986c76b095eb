//! Hop-by-hop rules (RFC 9110 §7.6), and one pass over a request's fields.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, MAX_FORWARDS, ORIGIN, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};

use crate::fields::{HOP_BY_HOP, is_hop_by_hop};

pub(super) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
pub(super) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The fields that need attention, found in one pass. Most requests have none of these fields, and
/// a look-up of each would cost more than all other work on a request's head.
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
        // `keys` yields each name once; only repeats of these two matter.
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

/// Removes the fields that any `Connection` line names, and the known hop-by-hop fields.
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

/// Sets the fields that ask for, or confirm, an upgrade to `protocol`.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Returns how often OPTIONS may be forwarded (RFC 9110 §7.6.2). `None` without a valid limit.
pub(super) fn max_forwards(headers: &HeaderMap) -> Option<u64> {
    let digits = headers.get(MAX_FORWARDS)?.to_str().ok()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Decrements a `Max-Forwards` that is greater than 0.
pub(super) fn count_forward(headers: &mut HeaderMap) {
    if let Some(left) = max_forwards(headers) {
        headers.insert(MAX_FORWARDS, left.saturating_sub(1).into());
    }
}

/// Joins the `cookie` fields that HTTP/2 may split (RFC 9113 §8.2.3).
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
    // Never fails: a value may hold the separator.
    if let Ok(whole) = HeaderValue::try_from(whole) {
        headers.insert(COOKIE, whole);
    }
}

/// Removes `Proxy-Status` lines with a member called `cupbearer`: an upstream must not pose as this
/// proxy.
pub(super) fn strip_own_proxy_status(headers: &mut HeaderMap) {
    let own = |line: &HeaderValue| {
        let mut members = line.as_bytes().split(|byte| *byte == b',');
        members.any(|member| {
            let name = without_parameters(member).trim_ascii();
            name.eq_ignore_ascii_case(b"cupbearer")
        })
    };
    let lines = headers.get_all(PROXY_STATUS).iter();
    let kept: Vec<_> = lines.filter(|line| !own(line)).cloned().collect();
    headers.remove(PROXY_STATUS);
    for line in kept {
        headers.append(PROXY_STATUS, line);
    }
}

pub(super) fn has_hop_by_hop(headers: &HeaderMap) -> bool {
    headers.keys().any(is_hop_by_hop)
}

/// Returns whether `Connection` has `upgrade`: RFC 9110 §7.8 ignores `Upgrade` without it.
pub(super) fn connection_upgrade(headers: &HeaderMap) -> bool {
    members(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Returns whether `TE` accepts trailers, the only member that HTTP/2 allows (RFC 9113 §8.2.2).
pub(super) fn te_trailers(headers: &HeaderMap) -> bool {
    members(headers, &TE).any(|coding| {
        let name = without_parameters(coding.as_bytes()).trim_ascii();
        name.eq_ignore_ascii_case(b"trailers")
    })
}

/// Returns whether `Transfer-Encoding` is one line with one coding, `chunked` (RFC 9112 §7).
pub(super) fn only_chunked(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    let first = lines.next().map(|line| line.as_bytes().trim_ascii());
    lines.next().is_none() && first.is_some_and(|line| line.eq_ignore_ascii_case(b"chunked"))
}

/// Returns the members of a list field. Lines that are not visible ASCII count as empty.
pub(super) fn members<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let lines = headers.get_all(name).iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',').map(str::trim))
}

/// Returns the part of a member before its parameters.
pub(super) fn without_parameters(member: &[u8]) -> &[u8] {
    let end = member.iter().position(|byte| *byte == b';');
    &member[..end.unwrap_or(member.len())]
}

/// Returns whether `Connection` holds more than the two options that name no field.
fn names_fields(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|line| {
        let line = line.as_bytes();
        !line.eq_ignore_ascii_case(b"keep-alive") && !line.eq_ignore_ascii_case(b"close")
    })
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // The client may not remove framing and routing.
        .filter(|name| *name != CONTENT_LENGTH && *name != HOST)
        .collect()
}

fn count(headers: &HeaderMap, name: &HeaderName) -> u8 {
    u8::try_from(headers.get_all(name).iter().count()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;

//! The fields that can be referred to (RFC 7541 §2.3 and Appendix A).

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};

use super::{Name, Value};

/// What an entry takes besides its name and its value (RFC 7541 §4.1).
const OVERHEAD: usize = 32;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) value: Value,
    /// RFC 7541 §4.1. In the static table, which takes no room, it is not known.
    pub(super) size: usize,
}

/// The dynamic table behind the static one.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest is the first.
    entries: VecDeque<Entry>,
    size: usize,
    max_size: usize,
}

impl Entry {
    pub(super) fn new(name: Name, value: Value) -> Self {
        Self {
            size: name.as_bytes().len() + value.len() + OVERHEAD,
            name,
            value,
        }
    }
}

impl Table {
    pub(super) const fn new(max_size: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max_size,
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        let index = index.checked_sub(1)?;
        match STATIC.get(index) {
            Some(entry) => Some(entry),
            None => self.entries.get(index - STATIC.len()),
        }
    }

    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict(0);
    }

    /// Makes room for an entry of this size. `false`: there is not that much, and nothing is left.
    pub(super) fn make_room(&mut self, size: usize) -> bool {
        self.evict(size);
        size <= self.max_size
    }

    /// Only where there is room for it.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.size += entry.size;
        self.entries.push_front(entry);
    }

    fn evict(&mut self, more: usize) {
        while self.size + more > self.max_size
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }

    #[cfg(test)]
    pub(super) fn dynamic(&self) -> (usize, impl Iterator<Item = &Entry>) {
        (self.size, self.entries.iter())
    }
}

const fn pseudo(name: &'static str, value: &'static str) -> Entry {
    Entry {
        name: Name::Other(Bytes::from_static(name.as_bytes())),
        value: Value::Field(HeaderValue::from_static(value)),
        size: 0,
    }
}

const fn status(value: &'static str) -> Entry {
    Entry {
        name: Name::Status,
        value: Value::Field(HeaderValue::from_static(value)),
        size: 0,
    }
}

const fn field(name: HeaderName, value: &'static str) -> Entry {
    Entry {
        name: Name::Field(name),
        value: Value::Field(HeaderValue::from_static(value)),
        size: 0,
    }
}

/// The last index of the static table.
pub(super) const STATIC_LENGTH: usize = 61;

static STATIC: [Entry; STATIC_LENGTH] = [
    pseudo(":authority", ""),
    pseudo(":method", "GET"),
    pseudo(":method", "POST"),
    pseudo(":path", "/"),
    pseudo(":path", "/index.html"),
    pseudo(":scheme", "http"),
    pseudo(":scheme", "https"),
    status("200"),
    status("204"),
    status("206"),
    status("304"),
    status("400"),
    status("404"),
    status("500"),
    field(header::ACCEPT_CHARSET, ""),
    field(header::ACCEPT_ENCODING, "gzip, deflate"),
    field(header::ACCEPT_LANGUAGE, ""),
    field(header::ACCEPT_RANGES, ""),
    field(header::ACCEPT, ""),
    field(header::ACCESS_CONTROL_ALLOW_ORIGIN, ""),
    field(header::AGE, ""),
    field(header::ALLOW, ""),
    field(header::AUTHORIZATION, ""),
    field(header::CACHE_CONTROL, ""),
    field(header::CONTENT_DISPOSITION, ""),
    field(header::CONTENT_ENCODING, ""),
    field(header::CONTENT_LANGUAGE, ""),
    field(header::CONTENT_LENGTH, ""),
    field(header::CONTENT_LOCATION, ""),
    field(header::CONTENT_RANGE, ""),
    field(header::CONTENT_TYPE, ""),
    field(header::COOKIE, ""),
    field(header::DATE, ""),
    field(header::ETAG, ""),
    field(header::EXPECT, ""),
    field(header::EXPIRES, ""),
    field(header::FROM, ""),
    field(header::HOST, ""),
    field(header::IF_MATCH, ""),
    field(header::IF_MODIFIED_SINCE, ""),
    field(header::IF_NONE_MATCH, ""),
    field(header::IF_RANGE, ""),
    field(header::IF_UNMODIFIED_SINCE, ""),
    field(header::LAST_MODIFIED, ""),
    field(header::LINK, ""),
    field(header::LOCATION, ""),
    field(header::MAX_FORWARDS, ""),
    field(header::PROXY_AUTHENTICATE, ""),
    field(header::PROXY_AUTHORIZATION, ""),
    field(header::RANGE, ""),
    field(header::REFERER, ""),
    field(header::REFRESH, ""),
    field(header::RETRY_AFTER, ""),
    field(header::SERVER, ""),
    field(header::SET_COOKIE, ""),
    field(header::STRICT_TRANSPORT_SECURITY, ""),
    field(header::TRANSFER_ENCODING, ""),
    field(header::USER_AGENT, ""),
    field(header::VARY, ""),
    field(header::VIA, ""),
    field(header::WWW_AUTHENTICATE, ""),
];

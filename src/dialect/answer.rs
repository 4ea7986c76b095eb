//! A token endpoint's answer and the results of reading it.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

use super::expiry::Expiry;
use crate::secret::Secret;

/// A token endpoint's answer.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    pub status: http::StatusCode,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    /// Local time of arrival; a `Retry-After` date counts from `now` if the answer has no `Date`.
    pub now: SystemTime,
}

/// A token that the vendor issued.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    /// Checked: non-empty, every byte in 0x21–0x7E, at most
    /// [`LONGEST_TOKEN`](super::LONGEST_TOKEN) bytes.
    pub access_token: Secret,
    /// `None` for absent, null and "".
    pub refresh_token: Option<Secret>,
    pub expiry: Expiry,
    /// Tolerated oddities (a token broken over lines), one line each, free of secrets.
    pub warnings: Vec<String>,
}

/// An error answer, or an answer that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub class: FailureClass,
    /// The dialect lists the answer in `final`: only a new login helps.
    pub is_final: bool,
    pub status: u16,
    /// The vendor's own error code.
    pub code: Option<String>,
    /// The vendor's description: escaped, capped by characters, the request's secrets masked.
    pub description: Option<String>,
    /// From `Retry-After`; an HTTP date counts from the answer's `Date`, or else [`Answer::now`].
    pub retry_after: Option<Duration>,
    /// The oddity of an answer without a code: "no token at /access_token (keys: code, data)".
    pub detail: Option<String>,
}

/// Whether a failed fetch is worth repeating with the same inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    Transient,
    Permanent,
}

//! Failures of a token endpoint.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::call::Reply;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Connections are reset before TLS begins.
    Down,
    /// The vendor half-closes each connection after the TLS handshake and never responds.
    HalfClosed,
    /// Responses are delayed. The token is issued (and a single active one invalidated) at once.
    Slow(Duration),
    /// Every response has this HTTP status and a short text.
    Status(u16),
    /// 200 with the HTML page of some gateway.
    Html,
    /// 200 with bytes that are not text.
    Garbage,
    /// 200 with an empty body.
    Empty,
    /// 200 with 2 MiB of valid JSON.
    Huge,
    /// A well-formed response whose token holds control characters.
    ControlBytes,
    /// The vendor's own response to wrong credentials.
    RejectCredentials,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "unknown fault; one of: down, half-closed, slow, 500 (any status), html, garbage, empty, huge, \
     control-bytes, reject"
)]
pub struct UnknownFault;

impl Fault {
    /// Returns the response that replaces the vendor's own, if any.
    pub(super) fn reply(self) -> Option<Reply> {
        const JSON: &str = "application/json";
        const MAINTENANCE: &[u8] = b"<!DOCTYPE html><html><head><title>Maintenance</title></head>\
            <body>Back soon.</body></html>";
        let garbage = b"\x00\xff\xfe{\"access_token\": \x80\x81".as_slice();
        let (media_type, body) = match self {
            Self::Status(status) => {
                let status = StatusCode::from_u16(status);
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                return Some(Reply::text(status, "the vendor has a bad day\n"));
            }
            Self::Html => ("text/html; charset=utf-8", MAINTENANCE.into()),
            Self::Garbage => (JSON, garbage.into()),
            Self::Empty => (JSON, Bytes::new()),
            Self::Huge => (JSON, huge()),
            Self::Down | Self::HalfClosed | Self::Slow(_) => return None,
            Self::ControlBytes | Self::RejectCredentials => return None,
        };
        Some(Reply::new(StatusCode::OK, media_type, body))
    }
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        Ok(match text {
            "down" => Self::Down,
            "half-closed" => Self::HalfClosed,
            "slow" => Self::Slow(Duration::from_secs(5)),
            "html" => Self::Html,
            "garbage" => Self::Garbage,
            "empty" => Self::Empty,
            "huge" => Self::Huge,
            "control-bytes" => Self::ControlBytes,
            "reject" => Self::RejectCredentials,
            status => {
                let status = status.parse().ok();
                let status = status.filter(|status| (400..=599).contains(status));
                Self::Status(status.ok_or(UnknownFault)?)
            }
        })
    }
}

fn huge() -> Bytes {
    let padding = "x".repeat(2 * 1024 * 1024);
    Bytes::from(format!(
        r#"{{"padding":"{padding}","access_token":"never-read","expires_in":3600}}"#
    ))
}

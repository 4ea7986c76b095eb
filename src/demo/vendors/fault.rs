//! The ways in which a token endpoint can fail its clients.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::call::Reply;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Connections are reset before TLS begins.
    Down,
    /// TLS begins well; then the vendor closes its half of the connection, and listens on without ever answering.
    HalfClosed,
    /// Answers come this late. The token is issued (and, single active, the former one killed) at once.
    Slow(Duration),
    /// Every request is answered with this HTTP status and a short text.
    Status(u16),
    /// 200 with the HTML page of some gateway.
    Html,
    /// 200 with bytes that are no text.
    Garbage,
    /// 200 with nothing.
    Empty,
    /// 200 with 2 MiB of valid JSON.
    Huge,
    /// A well-formed answer whose token holds control characters.
    ControlBytes,
    /// The vendor's own way of saying that the credentials are wrong.
    RejectCredentials,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "unknown fault; one of: down, half-closed, slow, 500 (any status), html, garbage, empty, huge, control-bytes, reject"
)]
pub struct UnknownFault;

impl Fault {
    /// What is sent instead of an answer, if this fault replaces it.
    pub(super) fn reply(self) -> Option<Reply> {
        let body = match self {
            Self::Status(status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                return Some(Reply::text(status, "the vendor has a bad day\n"));
            }
            Self::Html => Bytes::from_static(
                b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body>Back soon.</body></html>",
            ),
            Self::Garbage => Bytes::from_static(b"\x00\xff\xfe{\"access_token\": \x80\x81"),
            Self::Empty => Bytes::new(),
            Self::Huge => huge(),
            Self::Down | Self::HalfClosed | Self::Slow(_) | Self::ControlBytes | Self::RejectCredentials => return None,
        };
        let media_type = match self {
            Self::Html => "text/html; charset=utf-8",
            _ => "application/json",
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
                let status = status.parse().map_err(|_| UnknownFault)?;
                if !(400..=599).contains(&status) {
                    return Err(UnknownFault);
                }
                Self::Status(status)
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

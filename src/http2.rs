//! HTTP/2 as bytes (RFC 9113), for the side that asks: [`frame`] has the frames, [`hpack`] the compression of heads (RFC 7541).
//!
//! No sockets, tasks or clocks: who owns a connection calls these with what it has read, and writes what they make.

pub mod frame;
pub mod hpack;
mod huffman;

use std::fmt;

/// Of every window, until SETTINGS or WINDOW_UPDATE change it (RFC 9113 §6.9.2).
pub const FIRST_WINDOW: u32 = 65_535;

/// Of every window at any time (RFC 9113 §6.9.1).
pub const MAX_WINDOW: i64 = (1 << 31) - 1;

/// Of every stream's number (RFC 9113 §5.1.1).
pub const MAX_STREAM: u32 = (1 << 31) - 1;

/// Why a stream or a connection ended (RFC 9113 §7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    pub const NO_ERROR: Self = Self(0x0);
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub const STREAM_CLOSED: Self = Self(0x5);
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub const REFUSED_STREAM: Self = Self(0x7);
    pub const CANCEL: Self = Self(0x8);
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0x0 => "NO_ERROR",
            0x1 => "PROTOCOL_ERROR",
            0x2 => "INTERNAL_ERROR",
            0x3 => "FLOW_CONTROL_ERROR",
            0x4 => "SETTINGS_TIMEOUT",
            0x5 => "STREAM_CLOSED",
            0x6 => "FRAME_SIZE_ERROR",
            0x7 => "REFUSED_STREAM",
            0x8 => "CANCEL",
            0x9 => "COMPRESSION_ERROR",
            0xa => "CONNECT_ERROR",
            0xb => "ENHANCE_YOUR_CALM",
            0xc => "INADEQUATE_SECURITY",
            0xd => "HTTP_1_1_REQUIRED",
            other => return write!(f, "error {other:#x}"),
        })
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The peer broke a rule of the connection, which ends for it (RFC 9113 §5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule} ({reason})")]
pub struct Violation {
    pub reason: Reason,
    pub rule: &'static str,
}

impl Violation {
    pub const fn protocol(rule: &'static str) -> Self {
        Self::new(Reason::PROTOCOL_ERROR, rule)
    }

    pub const fn new(reason: Reason, rule: &'static str) -> Self {
        Self { reason, rule }
    }
}

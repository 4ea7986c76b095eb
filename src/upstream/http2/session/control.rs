//! Frames that come in and hold no message: what they say about streams and the connection (RFC 9113 §6.3 to §6.9).

use super::Session;
use super::stream::{Fault, Receiving};
use crate::http2::frame::{self, flag, kind, setting};
use crate::http2::{MAX_STREAM, MAX_WINDOW, Reason, Violation};

impl Session {
    pub(super) fn rst_stream(
        &mut self,
        head: frame::Head,
        payload: &[u8],
    ) -> Result<(), Violation> {
        self.check_number(head.stream)?;
        let rule = "RST_STREAM of a wrong length";
        let reason = Reason(exactly_one_number(payload, rule)?);
        let Some(stream) = self.live(head.stream) else {
            return self.calm.disturb();
        };
        if stream.receiving == Receiving::Ended {
            // RFC 9113 §8.1: the response is whole, and the rest of the request is of no interest.
            stream.stop();
            return self.calm.disturb();
        }
        stream.fail(match reason {
            // After 1xx that would be untrue.
            Reason::REFUSED_STREAM
                if stream.receiving == Receiving::Head && stream.interims == 0 =>
            {
                Fault::Refused
            }
            reason => Fault::Reset(reason),
        });
        Ok(())
    }

    pub(super) fn window_update(
        &mut self,
        head: frame::Head,
        payload: &[u8],
    ) -> Result<(), Violation> {
        self.calm.disturb()?;
        let rule = "WINDOW_UPDATE of a wrong length";
        let more = i64::from(exactly_one_number(payload, rule)? & MAX_STREAM);
        if head.stream == 0 {
            if more == 0 {
                return Err(Violation::protocol("WINDOW_UPDATE of nothing"));
            }
            self.send_window += more;
            if self.send_window > MAX_WINDOW {
                let rule = "a connection's window that is too large";
                return Err(Violation::new(Reason::FLOW_CONTROL_ERROR, rule));
            }
            return Ok(());
        }
        self.check_number(head.stream)?;
        let Some(stream) = self.live(head.stream) else {
            return Ok(());
        };
        stream.send_window += more;
        if more == 0 {
            let rule = "WINDOW_UPDATE of nothing";
            self.reset(head.stream, Reason::PROTOCOL_ERROR, rule);
        } else if stream.send_window > MAX_WINDOW {
            let rule = "a window that is too large";
            self.reset(head.stream, Reason::FLOW_CONTROL_ERROR, rule);
        } else if let Some(stream) = self.streams.get_mut(&head.stream) {
            Self::resume(&mut self.ready, head.stream, stream);
        }
        Ok(())
    }

    /// Deprecated (RFC 9113 §5.3), and allowed on any stream.
    pub(super) fn priority(&mut self, head: frame::Head) -> Result<(), Violation> {
        if head.stream == 0 {
            return Err(Violation::protocol("PRIORITY of no stream"));
        }
        if head.length != 5 {
            let rule = "PRIORITY of a wrong length";
            self.reset(head.stream, Reason::FRAME_SIZE_ERROR, rule);
        }
        self.calm.disturb()
    }

    pub(super) fn settings(&mut self, head: frame::Head, payload: &[u8]) -> Result<(), Violation> {
        check_connections(head, "SETTINGS of a stream")?;
        self.calm.disturb()?;
        if head.has(flag::ACK) {
            return match payload {
                [] => Ok(()),
                _ => {
                    let rule = "an answer to SETTINGS with settings";
                    Err(Violation::new(Reason::FRAME_SIZE_ERROR, rule))
                }
            };
        }
        let (mut max_streams, mut window) = (None, self.first_window);
        for (name, value) in frame::settings(payload)? {
            match name {
                setting::ENABLE_PUSH if value != 0 => {
                    return Err(Violation::protocol("a server that would be pushed to"));
                }
                setting::MAX_CONCURRENT_STREAMS => max_streams = Some(value as usize),
                setting::INITIAL_WINDOW_SIZE => window = i64::from(value),
                setting::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(Violation::protocol("an invalid SETTINGS_MAX_FRAME_SIZE"));
                }
                // Larger frames than all peers take would keep others waiting; and the table has a size of 0, which is never too large.
                _ => {}
            }
        }
        // Once, however often it is said: it concerns every stream.
        self.resize_windows(window)?;
        if !self.settled {
            self.settled = true;
            max_streams = max_streams.or(Some(usize::MAX));
        }
        self.max_streams = max_streams.or(self.max_streams);
        frame::put(self.output.text(), kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    /// RFC 9113 §6.9.2.
    fn resize_windows(&mut self, size: i64) -> Result<(), Violation> {
        let rule = "a window that is too large";
        const TOO_LARGE: Reason = Reason::FLOW_CONTROL_ERROR;
        if size > MAX_WINDOW {
            return Err(Violation::new(TOO_LARGE, rule));
        }
        let more = size - self.first_window;
        if more == 0 {
            return Ok(());
        }
        self.first_window = size;
        for (id, stream) in &mut self.streams {
            stream.send_window += more;
            if stream.send_window > MAX_WINDOW {
                return Err(Violation::new(TOO_LARGE, rule));
            }
            Self::resume(&mut self.ready, *id, stream);
        }
        Ok(())
    }

    pub(super) fn pong(&mut self, head: frame::Head, payload: &[u8]) -> Result<(), Violation> {
        check_connections(head, "PING of a stream")?;
        if payload.len() != 8 {
            let rule = "PING of a wrong length";
            return Err(Violation::new(Reason::FRAME_SIZE_ERROR, rule));
        }
        self.calm.disturb()?;
        if !head.has(flag::ACK) {
            frame::put(self.output.text(), kind::PING, flag::ACK, 0, payload);
        }
        Ok(())
    }

    pub(super) fn go_away(&mut self, head: frame::Head, payload: &[u8]) -> Result<(), Violation> {
        check_connections(head, "GOAWAY of a stream")?;
        self.calm.disturb()?;
        let rule = "GOAWAY of a wrong length";
        let last = frame::number(payload, rule)? & MAX_STREAM;
        let reason = Reason(frame::number(payload.get(4..).unwrap_or_default(), rule)?);
        self.going_away = Some(reason);
        for (id, stream) in &mut self.streams {
            if *id > last && stream.receiving == Receiving::Head {
                stream.fail(Fault::Refused);
            }
        }
        Ok(())
    }
}

fn check_connections(head: frame::Head, rule: &'static str) -> Result<(), Violation> {
    match head.stream {
        0 => Ok(()),
        _ => Err(Violation::protocol(rule)),
    }
}

fn exactly_one_number(payload: &[u8], rule: &'static str) -> Result<u32, Violation> {
    match payload.len() {
        4 => frame::number(payload, rule),
        _ => Err(Violation::new(Reason::FRAME_SIZE_ERROR, rule)),
    }
}

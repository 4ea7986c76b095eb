//! Content of requests on its way into the output, as far as the windows let it (RFC 9113 §5.2 and §6.9).

use std::collections::VecDeque;
use std::task::Context;

use bytes::Bytes;
use http::HeaderMap;

use super::Session;
use super::stream::Stream;
use crate::http2::frame::{self, flag, kind};
use crate::upstream::http2::head;

/// Whether a request's next frame may be taken from the app.
pub(in crate::upstream::http2) enum Turn {
    Now,
    /// The one before it has to go out first.
    Later,
    /// The peer wants no more.
    Never,
}

impl Session {
    /// Whether the request's next frame may be handed over; the task is woken when it may.
    pub(in crate::upstream::http2) fn turn(&mut self, cx: &Context<'_>, id: u32) -> Turn {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.stopped || stream.fault.is_some() => Turn::Never,
            Some(stream) if stream.pending.is_empty() => Turn::Now,
            Some(stream) => {
                stream.register(cx);
                Turn::Later
            }
            None => Turn::Never,
        }
    }

    /// How much of what was handed over is still here.
    pub(in crate::upstream::http2) fn left(&self, id: u32) -> usize {
        self.streams.get(&id).map_or(0, |it| it.pending.len())
    }

    /// Hands a part of the request over, when it is its turn; `ends` if it is the last. Returns how much of it has to wait.
    pub(in crate::upstream::http2) fn put(&mut self, id: u32, data: Bytes, ends: bool) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        if stream.fault.is_some() || stream.stopped {
            return 0;
        }
        if !data.is_empty() {
            stream.pending = data;
            stream.ends = ends;
            stream.unregister();
            if !std::mem::replace(&mut stream.queued, true) {
                self.ready.push_back(id);
            }
            self.pump();
        } else if ends {
            // The end alone needs no window, and waits for nobody who does.
            stream.sent = true;
            frame::put(self.output.text(), kind::DATA, flag::END_STREAM, id, &[]);
        }
        self.wake_driver();
        self.left(id)
    }

    /// The same for trailers, with which a request ends.
    pub(in crate::upstream::http2) fn put_trailers(&mut self, id: u32, trailers: &HeaderMap) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.fault.is_some() || stream.stopped {
            return;
        }
        stream.sent = true;
        let text = self.output.text();
        frame::put_headers(text, id, true, frame::MAX_PAYLOAD, |out| {
            head::trailers(out, trailers);
        });
        self.wake_driver();
    }

    /// Moves content into the output, a frame of each stream in turn, as long as there is room.
    pub(super) fn pump(&mut self) {
        while self.output.has_room()
            && let Some(id) = self.ready.front().copied()
        {
            let Some(stream) = self.streams.get_mut(&id) else {
                self.ready.pop_front();
                continue;
            };
            // Its window holds it up; it stands in line again when that is opened.
            if stream.pending.is_empty() || stream.send_window <= 0 {
                stream.queued = false;
                self.ready.pop_front();
                continue;
            }
            if self.send_window <= 0 {
                return;
            }
            let windows = self.send_window.min(stream.send_window) as usize;
            let length = stream.pending.len().min(windows).min(frame::MAX_PAYLOAD);
            let data = stream.pending.split_to(length);
            stream.send_window -= length as i64;
            self.send_window -= length as i64;
            let whole = stream.pending.is_empty();
            stream.sent = whole && stream.ends;
            let flags = if stream.sent { flag::END_STREAM } else { 0 };
            frame::put(self.output.text(), kind::DATA, flags, id, &data);
            // Some servers open their windows anew for every few hundred bytes.
            self.calm.earn(4 + length as u32 / 128);
            self.ready.pop_front();
            if whole {
                stream.queued = false;
                stream.wake();
            } else {
                self.ready.push_back(id);
            }
        }
    }

    /// Puts a stream in line again whose window was opened.
    pub(super) fn resume(ready: &mut VecDeque<u32>, id: u32, stream: &mut Stream) {
        if !stream.pending.is_empty() && stream.send_window > 0 && !stream.queued {
            stream.queued = true;
            ready.push_back(id);
        }
    }
}

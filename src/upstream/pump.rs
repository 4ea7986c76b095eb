//! An upload that goes on while its response is on the way.
//!
//! The two halves of an exchange are polled by one task. Once the app is slow to take the response,
//! hyper does not poll that any more; an app that reads nothing before it has sent everything would
//! wait for ever. So the exchange gets a task of its own, and the response is a channel with room
//! for one frame.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;

use super::body::UpstreamBody;
use super::error::BodyError;

/// A response's body whose exchange is in another task. Dropping it ends the exchange.
pub(super) struct Pumped {
    frames: mpsc::Receiver<Step>,
    /// Bytes still to come, if the upstream has stated them.
    left: Option<u64>,
    ended: bool,
}

/// `None` is the end: without it, the exchange has broken off.
type Step = Option<Result<Frame<Bytes>, BodyError>>;

impl Pumped {
    /// Gives `body` a task of its own.
    pub(super) fn spawn(body: UpstreamBody) -> Self {
        let left = body.size_hint().exact();
        let (sender, frames) = mpsc::channel(1);
        tokio::spawn(pump(body, sender));
        Self {
            frames,
            left,
            ended: false,
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.frames.poll_recv(cx).map(|step| {
            let step = step.unwrap_or_else(|| {
                let lost = io::Error::other("its task has ended");
                Some(Err(BodyError::Closed(lost)))
            });
            self.ended = !matches!(step, Some(Ok(_)));
            if let (Some(left), Some(Ok(frame))) = (&mut self.left, &step) {
                let length = frame.data_ref().map_or(0, Bytes::len);
                *left = left.saturating_sub(length as u64);
            }
            step
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

async fn pump(mut body: UpstreamBody, sender: mpsc::Sender<Step>) {
    loop {
        let reserved = tokio::select! {
            reserved = sender.reserve() => reserved,
            // The app takes nothing of its response now: only the upload goes on.
            () = poll_fn(|cx| { body.poll_upload(cx); Poll::Pending }) => return,
        };
        // An error means that the response is not wanted any more.
        let Ok(room) = reserved else { return };
        let step = tokio::select! {
            step = body.frame() => step,
            () = sender.closed() => return,
        };
        let goes_on = matches!(step, Some(Ok(_)));
        room.send(step);
        if !goes_on {
            return;
        }
    }
}

//! Exchanges whose upload continues after the response head.
//!
//! One task polls both halves of an exchange. hyper stops polling the response while the app does
//! not read it, so an app that reads nothing before its upload is complete would wait for ever.
//! Such an exchange gets its own task, with a one-frame channel for the response.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;

use super::error::{BodyError, PollFrame};

/// A response body whose exchange runs in another task. Dropping the body ends the exchange.
pub(super) struct Pumped {
    frames: mpsc::Receiver<Step>,
    /// Bytes still to come, if the response has a length.
    left: Option<u64>,
    ended: bool,
}

/// `None` is the end of the body. A channel that closes without it was cut off.
type Step = Option<Result<Frame<Bytes>, BodyError>>;

impl Pumped {
    /// Moves `body`, of which `left` bytes are still to come, to its own task. `poll_upload`
    /// continues the upload without reading the response.
    pub(super) fn spawn<B, F>(body: B, left: Option<u64>, poll_upload: F) -> Self
    where
        B: Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static,
        F: Fn(&mut B, &mut Context<'_>) + Send + Sync + 'static,
    {
        let (sender, frames) = mpsc::channel(1);
        tokio::spawn(pump(body, poll_upload, sender));
        Self {
            frames,
            left,
            ended: false,
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<BodyError> {
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

    pub(super) fn remaining(&self) -> Option<u64> {
        self.left
    }
}

async fn pump<B, F>(mut body: B, poll_upload: F, sender: mpsc::Sender<Step>)
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
    F: Fn(&mut B, &mut Context<'_>),
{
    loop {
        let reserved = tokio::select! {
            reserved = sender.reserve() => reserved,
            // Never resolves; continues the upload while the app does not read the response.
            () = poll_fn(|cx| { poll_upload(&mut body, cx); Poll::Pending }) => return,
        };
        // An error means that the receiver was dropped.
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

//! One request on its stream, polled by whoever waits for its response, and then by whoever reads that.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::{Body as _, Frame};
use tokio::time::Instant;

use super::head::{self, Content, Head};
use super::session::{Answer, Fault, Turn};
use super::{Slot, Timer};
use crate::upstream::body::{BodyError, RequestBody, UpstreamBody};
use crate::upstream::http1::WrongLength;
use crate::upstream::send::{Ask, Cause, SendError, SendFailure};

pub(in crate::upstream) struct Exchange {
    slot: Slot,
    id: u32,
    upload: Upload,
    app_broke_off: Option<Cause>,
    /// Bytes of the response that are still to be handed out, if that is known.
    remaining: Option<u64>,
    timer: Option<Timer>,
}

/// What is left of a request.
struct Upload {
    body: RequestBody,
    /// It has not come to its end yet.
    open: bool,
    /// How much is still to come, if the head said so.
    left: Option<u64>,
    /// When a frame was last taken from the app.
    moved: Option<Instant>,
    /// The upstream would take more, but the app has sent no more.
    waits_for_app: bool,
    /// How much of the last frame the upstream had not taken when that was last looked at.
    waiting: usize,
}

impl Exchange {
    /// Sends the head.
    fn begin(slot: Slot, head: &Parts, body: RequestBody) -> Result<Box<Self>, SendError> {
        let length = head::length(head, &body);
        let ends = body.is_end_stream();
        let begun = slot.connection.core.lock().begin(head, length, ends);
        let Ok(id) = begun else {
            slot.connection.core.retire();
            return Err(SendError {
                failure: SendFailure::Closed("it takes no more requests".into()),
                reused: slot.reused,
                unsent: true,
            });
        };
        Ok(Box::new(Self {
            slot,
            id,
            upload: Upload {
                body,
                open: !ends,
                left: length,
                moved: None,
                waits_for_app: false,
                waiting: 0,
            },
            app_broke_off: None,
            remaining: None,
            timer: None,
        }))
    }

    /// See [`Slot::send`].
    pub(super) async fn send(
        slot: Slot,
        ask: &Ask<'_>,
        body: RequestBody,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let mut this = Self::begin(slot, ask.head, body)?;
        this.timer = Some(this.slot.connection.timer(Instant::now() + ask.wait));
        match poll_fn(|cx| this.poll_head(cx, ask)).await {
            Ok(head) => Ok(this.respond(head)),
            Err(error) => Err(error),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, ask: &Ask<'_>) -> Poll<Result<Head, SendError>> {
        if let Err(cause) = self.go_on(cx) {
            return Poll::Ready(Err(self.error(SendFailure::App(cause), false)));
        }
        loop {
            let answer = self.slot.connection.core.lock().poll_answer(cx, self.id);
            match answer {
                Poll::Ready(Ok(Answer::Interim(_))) => {}
                Poll::Ready(Ok(Answer::Final(head))) => return Poll::Ready(Ok(head)),
                Poll::Ready(Err(fault)) => {
                    let unsent = self.slot.connection.core.lock().is_unsent(self.id, fault);
                    return Poll::Ready(Err(self.error(fault.into(), unsent)));
                }
                Poll::Pending => break,
            }
        }
        if self.is_overdue(cx, ask.wait) {
            // If the path is dead, every request on this connection would wait as long.
            self.slot.connection.core.retire();
            return Poll::Ready(Err(self.error(SendFailure::Timeout, false)));
        }
        Poll::Pending
    }

    fn error(&self, failure: SendFailure, unsent: bool) -> SendError {
        SendError {
            failure,
            reused: self.slot.reused,
            unsent,
        }
    }

    /// Whether the upstream has had `wait` to take the next part, or to answer after the last one. An app that is slow to send does
    /// not use up the upstream's time.
    fn is_overdue(&mut self, cx: &mut Context<'_>, wait: Duration) -> bool {
        let Some(timer) = &mut self.timer else {
            return false;
        };
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let left = self.slot.connection.core.lock().left(self.id);
            let upload = &mut self.upload;
            if upload.waits_for_app || std::mem::replace(&mut upload.waiting, left) != left {
                upload.moved = Some(now);
            }
            match upload.moved.map(|moved| moved + wait) {
                Some(deadline) if deadline > now => timer.as_mut().reset(deadline),
                _ => return true,
            }
        }
        false
    }

    fn respond(mut self: Box<Self>, head: Head) -> Response<UpstreamBody> {
        if let Some(timer) = self.timer.take() {
            self.slot.connection.timers().push(timer);
        }
        self.remaining = match head.content {
            Content::None => Some(0),
            Content::Length(length) => Some(length),
            Content::Unknown => None,
        };
        // Small answers come with their heads.
        let whole = self.slot.connection.core.lock().take_whole(self.id);
        let body = match whole {
            Some(whole) => UpstreamBody::whole(whole),
            None => UpstreamBody::http2(self),
        };
        head.response.map(|()| body)
    }

    /// The next frame of the body; `None` at its end. What is left of the upload goes on meanwhile.
    pub(in crate::upstream) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.poll_upload(cx);
        if let Some(cause) = self.app_broke_off.take() {
            return Poll::Ready(Some(Err(BodyError::App(cause))));
        }
        let mut session = self.slot.connection.core.lock();
        let frame = match ready!(session.poll_frame(cx, self.id)) {
            None => return Poll::Ready(None),
            Some(Err(fault)) => return Poll::Ready(Some(Err(fault.into()))),
            Some(Ok(frame)) => frame,
        };
        if let (Some(remaining), Some(data)) = (&mut self.remaining, frame.data_ref()) {
            *remaining = remaining.saturating_sub(data.len() as u64);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// What is left of the upload goes on; how it fails is told by [`Self::poll_frame`].
    pub(in crate::upstream) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if self.app_broke_off.is_none() {
            self.app_broke_off = self.go_on(cx).err();
        }
    }

    pub(in crate::upstream) fn is_uploading(&self) -> bool {
        self.upload.open
    }

    /// Every frame was handed out.
    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        self.app_broke_off.is_none() && self.slot.connection.core.lock().is_read(self.id)
    }

    /// Bytes of the body that are still to come, if that is known.
    pub(in crate::upstream) fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// Hands over of the request what app and upstream let it.
    fn go_on(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        self.upload.waits_for_app = false;
        while self.upload.open {
            let turn = self.slot.connection.core.lock().turn(cx, self.id);
            match turn {
                Turn::Now => {}
                Turn::Later => break,
                Turn::Never => self.upload.close(),
            }
            if !self.upload.open {
                break;
            }
            match Pin::new(&mut self.upload.body).poll_frame(cx) {
                Poll::Pending => {
                    self.upload.waits_for_app = true;
                    break;
                }
                Poll::Ready(frame) => self.hand_over(frame.transpose()?)?,
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), Cause> {
        let upload = &mut self.upload;
        upload.moved = Some(Instant::now());
        let core = &self.slot.connection.core;
        let data = match frame.map(Frame::into_data) {
            None => Bytes::new(),
            Some(Ok(data)) => {
                upload.count(data.len() as u64)?;
                if !upload.body.is_end_stream() {
                    upload.waiting = core.lock().put(self.id, data, false);
                    return Ok(());
                }
                data
            }
            Some(Err(frame)) => {
                let Some(trailers) = frame.trailers_ref() else {
                    return Ok(());
                };
                upload.end()?;
                core.lock().put_trailers(self.id, trailers);
                return Ok(());
            }
        };
        upload.end()?;
        upload.waiting = core.lock().put(self.id, data, true);
        Ok(())
    }
}

impl Drop for Exchange {
    /// Resets the stream, unless it is over. That comes before its place is free: the slot is dropped after this.
    fn drop(&mut self) {
        self.slot.connection.core.lock().forget(self.id);
    }
}

impl Upload {
    fn count(&mut self, length: u64) -> Result<(), WrongLength> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(length).ok_or(WrongLength)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), WrongLength> {
        self.close();
        match self.left {
            None | Some(0) => Ok(()),
            Some(_) => Err(WrongLength),
        }
    }

    /// Nothing more of it is sent.
    fn close(&mut self) {
        self.open = false;
        self.body = RequestBody::Empty;
    }
}

impl From<Fault> for SendFailure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed(_) => Self::Protocol(fault.into()),
            Fault::Connection(end) if end.is_protocol() => Self::Protocol(fault.into()),
            Fault::Connection(end) if end.is_silence() => Self::Timeout,
            Fault::Connection(_) | Fault::Reset(_) | Fault::Refused => Self::Closed(fault.into()),
        }
    }
}

impl From<Fault> for BodyError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed(_) => Self::Protocol(fault.into()),
            Fault::Connection(end) if end.is_protocol() => Self::Protocol(fault.into()),
            Fault::Connection(_) | Fault::Reset(_) | Fault::Refused => {
                Self::Closed(std::io::Error::other(fault))
            }
        }
    }
}

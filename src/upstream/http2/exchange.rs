//! One request and response on a stream, polled by the task that reads the response.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Response, StatusCode};
use http_body::{Body as _, Frame};
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::{Owner, StreamPermit};
use super::head;
use crate::upstream::error::{BodyError, Cause, PollFrame, SendError, SendFailure};
use crate::upstream::http1::WrongLength;
use crate::upstream::request::{RequestBody, RequestHead};

/// The rest of both bodies, after the response head.
pub(in crate::upstream) struct Exchange<P: Owner> {
    /// Dropped before `_permit`, so that the stream is reset before the permit is free.
    upload: Upload,
    upload_error: Option<Cause>,
    response: RecvStream,
    /// Only trailers can follow.
    data_ended: bool,
    /// Bytes of the response that are still to come, if the response has a length.
    remaining: Option<u64>,
    _permit: StreamPermit<P>,
}

/// `None`: the response has no body.
type Rest<P> = Option<Box<Exchange<P>>>;

/// A request before its response head.
struct Pending<'a, P: Owner> {
    upload: Upload,
    response: ResponseFuture,
    /// Bytes that the connection had written before this request.
    written_before: u64,
    head: &'a RequestHead<'a>,
    permit: StreamPermit<P>,
}

/// The request body. Dropping it resets the stream, unless both sides have ended it.
struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    /// The body has not ended yet.
    open: bool,
    /// Bytes still to come, if the head announced a length.
    left: Option<u64>,
    /// The part of the app's last frame that waits for flow-control window.
    frame: Bytes,
    /// The upstream would take more, but the app has sent no more.
    waits_for_app: bool,
    /// When the app last sent bytes or the upstream last took bytes.
    moved: Instant,
}

impl<P: Owner> StreamPermit<P> {
    /// Sends a request and waits up to `head.wait` for the response head, counted from the last
    /// progress of the upload.
    ///
    /// Dropping the future resets the stream; the connection stays open.
    pub(in crate::upstream) async fn send(
        self,
        head: &RequestHead<'_>,
        body: RequestBody,
    ) -> Result<Response<Rest<P>>, SendError> {
        let mut pending = Pending::begin(self, head, body)?;
        let mut timer = pin!(sleep_until(pending.upload.moved + head.wait));
        let response = poll_fn(|cx| pending.poll_head(cx, timer.as_mut())).await?;
        pending.respond(response)
    }
}

impl<'a, P: Owner> Pending<'a, P> {
    fn begin(
        permit: StreamPermit<P>,
        head: &'a RequestHead<'a>,
        body: RequestBody,
    ) -> Result<Self, SendError> {
        let connection = &permit.connection;
        let length = head::length(head.parts, &body);
        let ends = body.is_end_stream();
        let written_before = connection.traffic.written();
        let request = head::request(head.parts, length);
        let sent = connection.requests.clone().send_request(request, ends);
        let (response, stream) = sent.map_err(|error| {
            connection.retire();
            SendError {
                failure: SendFailure::Closed(error.into()),
                reused: permit.reused,
                unsent: true,
            }
        })?;
        Ok(Self {
            upload: Upload {
                stream,
                body,
                open: !ends,
                left: length,
                frame: Bytes::new(),
                waits_for_app: false,
                moved: Instant::now(),
            },
            response,
            written_before,
            head,
            permit,
        })
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Result<Response<RecvStream>, SendError>> {
        if let Err(cause) = self.upload.poll(cx) {
            return Poll::Ready(Err(self.error(SendFailure::App(cause), false)));
        }
        if let Poll::Ready(response) = Pin::new(&mut self.response).poll(cx) {
            return Poll::Ready(response.map_err(|error| self.failed(error)));
        }
        if self.upload.is_overdue(cx, timer, self.head) {
            // On a dead path every request on this connection would time out.
            self.permit.connection.retire();
            return Poll::Ready(Err(self.error(SendFailure::Timeout, false)));
        }
        Poll::Pending
    }

    fn respond(self, response: Response<RecvStream>) -> Result<Response<Rest<P>>, SendError> {
        let remaining = head::check(response.headers())
            .map_err(|fault| self.error(SendFailure::Protocol(fault.into()), false))?;
        let bodiless = self.head.parts.method == Method::HEAD
            || response.status() == StatusCode::NO_CONTENT
            || response.status() == StatusCode::NOT_MODIFIED;
        let (head, response) = response.into_parts();
        let rest = if bodiless || response.is_end_stream() {
            None
        } else {
            Some(Box::new(Exchange {
                upload: self.upload,
                upload_error: None,
                response,
                data_ended: false,
                remaining,
                _permit: self.permit,
            }))
        };
        Ok(Response::from_parts(head, rest))
    }

    fn failed(&self, error: h2::Error) -> SendError {
        let connection = &self.permit.connection;
        let refused = error.is_remote()
            && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
        // The head was queued behind all earlier bytes.
        let unwritten = connection.traffic.written() == self.written_before;
        let failure = if connection.silent.load(Ordering::Relaxed) {
            SendFailure::Timeout
        } else if error.is_library() {
            SendFailure::Protocol(error.into())
        } else if error.reason() == Some(Reason::HTTP_1_1_REQUIRED) {
            SendFailure::Closed(format!("{error} (see the upstream's `http`)").into())
        } else {
            SendFailure::Closed(error.into())
        };
        self.error(failure, refused || unwritten)
    }

    fn error(&self, failure: SendFailure, unsent: bool) -> SendError {
        SendError {
            failure,
            reused: self.permit.reused,
            unsent,
        }
    }
}

impl<P: Owner> Exchange<P> {
    /// Returns the next frame of the response body; `None` at its end. Continues the upload.
    pub(in crate::upstream) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<BodyError> {
        self.poll_upload(cx);
        if let Some(cause) = self.upload_error.take() {
            return Poll::Ready(Some(Err(BodyError::App(cause))));
        }
        while !self.data_ended {
            match ready!(self.response.poll_data(cx)).transpose()? {
                Some(data) if data.is_empty() => {}
                Some(data) => return Poll::Ready(Some(Ok(Frame::data(self.take(data))))),
                None => self.data_ended = true,
            }
        }
        let Some(mut trailers) = ready!(self.response.poll_trailers(cx))? else {
            return Poll::Ready(None);
        };
        head::clean_trailers(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    /// Counts `data` and releases its flow-control window.
    fn take(&mut self, data: Bytes) -> Bytes {
        // Fails only for more than the window.
        let _ = self.response.flow_control().release_capacity(data.len());
        if let Some(remaining) = &mut self.remaining {
            *remaining = remaining.saturating_sub(data.len() as u64);
        }
        data
    }

    /// Continues the upload. [`Self::poll_frame`] reports failures.
    pub(in crate::upstream) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if self.upload_error.is_none() {
            self.upload_error = self.upload.poll(cx).err();
        }
    }

    pub(in crate::upstream) fn is_uploading(&self) -> bool {
        self.upload.open
    }

    /// Returns whether every frame has been returned.
    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        self.upload_error.is_none() && self.response.is_end_stream()
    }

    pub(in crate::upstream) fn remaining(&self) -> Option<u64> {
        self.remaining
    }
}

impl Upload {
    /// Sends until the app or the upstream is pending. Fails if the app's body is cut off or has
    /// the wrong length; the caller must then drop the stream.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        self.waits_for_app = false;
        while self.open {
            if !self.frame.is_empty() {
                if self.poll_send_frame(cx).is_pending() {
                    break;
                }
                continue;
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                self.waits_for_app = true;
                break;
            };
            self.take(frame.transpose()?)?;
        }
        Ok(())
    }

    fn take(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), WrongLength> {
        self.moved = Instant::now();
        match frame.map(Frame::into_data) {
            None => self.end()?,
            Some(Ok(data)) => {
                if let Some(left) = &mut self.left {
                    *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                }
                self.stream.reserve_capacity(data.len());
                self.frame = data;
                if self.frame.is_empty() && self.body.is_end_stream() {
                    self.end()?;
                }
            }
            Some(Err(frame)) => {
                if let Ok(mut trailers) = frame.into_trailers() {
                    self.check_end()?;
                    head::clean_trailers(&mut trailers);
                    let _ = self.stream.send_trailers(trailers);
                    self.close();
                }
            }
        }
        Ok(())
    }

    /// Waits for flow-control window, and sends as much of the frame as fits.
    fn poll_send_frame(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let room = self.stream.capacity().min(self.frame.len());
        if room == 0 {
            if !matches!(ready!(self.stream.poll_capacity(cx)), Some(Ok(_))) {
                // The peer has reset the stream; the response future has the error.
                self.close();
            }
            return Poll::Ready(());
        }
        self.moved = Instant::now();
        let part = self.frame.split_to(room);
        let ends = self.frame.is_empty() && self.body.is_end_stream() && self.check_end().is_ok();
        self.send(part, ends);
        Poll::Ready(())
    }

    fn end(&mut self) -> Result<(), WrongLength> {
        self.check_end()?;
        self.send(Bytes::new(), true);
        Ok(())
    }

    fn send(&mut self, data: Bytes, ends: bool) {
        let sent = self.stream.send_data(data, ends);
        if ends || sent.is_err() {
            self.close();
        }
    }

    fn check_end(&self) -> Result<(), WrongLength> {
        match self.left {
            None | Some(0) => Ok(()),
            Some(_) => Err(WrongLength),
        }
    }

    /// Drops the app's body.
    fn close(&mut self) {
        self.open = false;
        self.frame = Bytes::new();
        self.body = RequestBody::Empty;
    }

    /// Returns whether the upstream has had `head.wait` to take the next part, or to respond after
    /// the last part. Time in which the app sends nothing does not count.
    fn is_overdue(
        &self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        head: &RequestHead<'_>,
    ) -> bool {
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let since = if self.waits_for_app { now } else { self.moved };
            let deadline = since + head.wait;
            if deadline <= now {
                return true;
            }
            timer.as_mut().reset(deadline);
        }
        false
    }
}

impl Drop for Upload {
    /// Sends RST_STREAM, which h2 omits if both sides have ended the stream.
    fn drop(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }
}

impl From<h2::Error> for BodyError {
    fn from(error: h2::Error) -> Self {
        if error.is_library() {
            Self::Protocol(error.into())
        } else {
            Self::Closed(io::Error::other(error))
        }
    }
}

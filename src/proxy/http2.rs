//! HTTP/2 from the app (RFC 9113), with prior knowledge (§3.3): one task for the connection, and one for each stream.
//!
//! On [`h2`] itself: hyper's server has no way to send 1xx heads, ends a body that was cancelled as if it were whole, and waits without end
//! for a client that takes nothing of a response.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, COOKIE, DATE, EXPECT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};

use super::accept::{Client, Worker, answer};
use super::respond::{self, ResponseBody};
use super::stream::Rewound;
use super::watch::End;
use super::{AppBody, guard};
use crate::http1::MAX_HEAD;
use crate::http1::encode::is_trailer;
use crate::upstream::send::Cause;
use crate::upstream::{Interim, Stall};

/// Of a request's body, before it is wanted.
const WINDOW: u32 = 256 * 1024;

/// What h2 takes of a head or a trailer section. Of more it makes an answer that is not ours, or the beginning of a section as if it
/// were the whole; so it is more than [`MAX_HEAD`], which is seen to here.
const MAX_FIELD_SECTION: u32 = 4 * MAX_HEAD as u32;

/// Of a response, while the connection has no room for it.
const SEND_BUFFER: usize = 400 * 1024;

const MAX_STREAMS: u32 = 256;

/// How long a connection without requests may take to say goodbye: one whose peer is gone does not answer the last PING either.
const FAREWELL: Duration = Duration::from_secs(5);

/// A request's body as it comes in.
pub(super) struct Incoming {
    stream: RecvStream,
    /// What is still to come of it, if the request says so. That it comes, and no more, is seen to by h2.
    left: Option<u64>,
    /// Only trailers can follow.
    data_ended: bool,
    /// To be told when the body is wanted and the client waits for `100 Continue`.
    wanted: Option<Arc<Notify>>,
}

/// Serves a connection, which began with the preface, to its end.
pub(super) async fn serve(
    worker: Arc<Worker>,
    client: Arc<Client>,
    io: Rewound,
    mut end: oneshot::Receiver<End>,
) {
    client.watch.speaks_http2();
    let handshake = Builder::new()
        .initial_window_size(WINDOW)
        // As much as all streams: one whose body nobody wants yet holds up no other.
        .initial_connection_window_size(MAX_STREAMS * WINDOW)
        .max_header_list_size(MAX_FIELD_SECTION)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(io);
    let mut connection = match handshake.await {
        Ok(connection) => connection,
        Err(error) => return tracing::debug!(%error, "no HTTP/2 connection came about"),
    };
    let mut door_closed = pin!(client.door.closed());
    let (mut asked_to_end, mut leaving) = (false, false);
    let mut farewell = pin!(sleep(Duration::ZERO));
    // One more than there are requests.
    let requests = Arc::new(());
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let (worker, client) = (Arc::clone(&worker), Arc::clone(&client));
                    let request_of_ours = Arc::clone(&requests);
                    tokio::spawn(async move {
                        exchange(worker, client, request, respond).await;
                        drop(request_of_ours);
                    });
                }
                Some(Err(error)) => return tracing::debug!(%error, "client connection ended"),
                None => return,
            },
            // Whatever the reason.
            _ = &mut end, if !asked_to_end => {
                asked_to_end = true;
                connection.graceful_shutdown();
                farewell.as_mut().reset(Instant::now() + FAREWELL);
            }
            () = door_closed.as_mut(), if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
            }
            () = farewell.as_mut(), if asked_to_end => match Arc::strong_count(&requests) {
                1 => return,
                // One that crossed our GOAWAY, or was there already.
                _ => farewell.as_mut().reset(Instant::now() + FAREWELL),
            },
        }
    }
}

/// One request and its response. A client that resets the stream takes both along.
async fn exchange(
    worker: Arc<Worker>,
    client: Arc<Client>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let head_only = request.method() == Method::HEAD;
    let (mut request, wanted) = incoming(request);
    let mut wanted = wanted.map(|wanted| Box::pin(wanted.notified_owned()));
    let mut response = None;
    {
        let early = Early(Mutex::new(&mut respond));
        let answered = answer(&worker, &client, &mut request, Some(&early), &mut response);
        let mut answered = pin!(answered);
        poll_fn(|cx| {
            // First: what was called off before it was begun is not sent on.
            if early.poll_reset(cx).is_ready() || answered.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if (wanted.as_mut()).is_some_and(|wanted| wanted.as_mut().poll(cx).is_ready()) {
                wanted = None;
                early.pass_on(respond::go_on());
            }
            Poll::Pending
        })
        .await;
    }
    let Some(response) = response else {
        return;
    };
    // If it was not sent on, nobody will read its body.
    drop(request);
    let (head, body) = head(response, head_only);
    let ended = head_only || body.is_end_stream();
    let stream = match respond.send_response(head, ended) {
        Ok(stream) if !ended => stream,
        Ok(_) => return,
        Err(error) => {
            tracing::debug!(%error, "a response cannot be sent");
            return respond.send_reset(Reason::INTERNAL_ERROR);
        }
    };
    let patience = worker.proxy.snapshot.load().settings.body_timeout;
    let limit = match body.size_hint().exact() {
        Some(_) => Some(patience.known),
        None => patience.unknown,
    };
    let mut sending = Sending {
        stream,
        body,
        held: Bytes::new(),
        last: false,
        stall: Stall::after(limit),
    };
    poll_fn(|cx| sending.poll(cx)).await;
}

/// The second value is told when its body is wanted before it has come, where the client waits for that.
fn incoming(mut request: Request<RecvStream>) -> (Request<AppBody>, Option<Arc<Notify>>) {
    join_cookies(request.headers_mut());
    let waits = (request.headers().get(EXPECT))
        .is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let wanted = (waits && !request.body().is_end_stream()).then(Arc::default);
    let length = request.headers().get(CONTENT_LENGTH);
    let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let request = request.map(|stream| match stream.is_end_stream() {
        true => AppBody::Empty,
        false => AppBody::Http2(Incoming {
            stream,
            left,
            data_ended: false,
            wanted: wanted.clone(),
        }),
    });
    (request, wanted)
}

/// RFC 9113 §8.2.3: HTTP/2 may send a cookie in parts, which are one field to everybody else.
fn join_cookies(headers: &mut HeaderMap) {
    let mut parts = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (parts.next(), parts.next()) else {
        return;
    };
    let mut whole = first.as_bytes().to_vec();
    for part in std::iter::once(second).chain(parts) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(part.as_bytes());
    }
    // Nothing was added that a value may not hold.
    if let Ok(whole) = HeaderValue::try_from(whole) {
        headers.insert(COOKIE, whole);
    }
}

fn head(response: Response<ResponseBody>, head_only: bool) -> (Response<()>, ResponseBody) {
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_2;
    // RFC 9110 §6.6.1: whoever forwards a response without one adds it.
    if !parts.headers.contains_key(DATE)
        && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
    {
        parts.headers.insert(DATE, now);
    }
    // RFC 9110 §8.6: where nothing may follow, the length is that of something else, which only the upstream knows.
    let bodiless = head_only
        || matches!(
            parts.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    if !body.is_end_stream()
        && let Some(length) = body.size_hint().exact()
        && (length > 0 || !bodiless)
        && !parts.headers.contains_key(CONTENT_LENGTH)
    {
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
    (Response::from_parts(parts, ()), body)
}

/// What comes before the response. The lock is never contended: all is on one task.
struct Early<'a>(Mutex<&'a mut SendResponse<Bytes>>);

impl Early<'_> {
    /// Ready when nobody waits for the response any more.
    fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut respond = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        respond.poll_reset(cx).map(drop)
    }
}

impl Interim for Early<'_> {
    fn pass_on(&self, head: Response<()>) {
        let mut respond = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = respond.send_informational(head) {
            tracing::debug!(%error, "an interim head cannot be sent");
        }
    }
}

/// A response's body on its way out. Dropped before its end, it resets the stream.
struct Sending {
    stream: SendStream<Bytes>,
    body: ResponseBody,
    /// Taken from the body, and waiting for the client's window.
    held: Bytes,
    /// Nothing comes after `held`.
    last: bool,
    /// How long the client may take nothing.
    stall: Stall,
}

/// The response ends here, well or not.
struct Ended;

impl Sending {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            if let Err(Ended) = ready!(self.poll_held(cx)) {
                return Poll::Ready(());
            }
            let taken = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => self.take(frame),
                Some(Err(error)) => {
                    tracing::debug!(%error, "a response broke off");
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    Err(Ended)
                }
                None => self.end(),
            };
            if let Err(Ended) = taken {
                return Poll::Ready(());
            }
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Ended> {
        match frame.into_data() {
            Ok(data) => {
                self.last = self.body.is_end_stream();
                if data.is_empty() && self.last {
                    return self.end();
                }
                self.stream.reserve_capacity(data.len());
                self.held = data;
                Ok(())
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                // Whatever that comes to, it is the end.
                let _ = self.stream.send_trailers(allowed(trailers));
                Err(Ended)
            }
        }
    }

    fn end(&mut self) -> Result<(), Ended> {
        let _ = self.stream.send_data(Bytes::new(), true);
        Err(Ended)
    }

    /// Sends as much of what is held as the client takes, so that each part of it counts as a sign of life.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        while !self.held.is_empty() {
            let room = self.stream.capacity();
            if room == 0 {
                match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Ended)),
                    Poll::Pending => {}
                }
                // A client that reads nothing before it has sent everything.
                self.body.poll_upload(cx);
                let stalled = ready!(self.stall.poll(cx));
                tracing::debug!(%stalled, "a client takes nothing of its response");
                self.stream.send_reset(Reason::CANCEL);
                return Poll::Ready(Err(Ended));
            }
            self.stall.moved();
            let part = self.held.split_to(room.min(self.held.len()));
            let last = self.last && self.held.is_empty();
            if self.stream.send_data(part, last).is_err() || last {
                return Poll::Ready(Err(Ended));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// RFC 9110 §6.5.1.
fn allowed(mut trailers: HeaderMap) -> HeaderMap {
    if trailers.keys().all(is_trailer) {
        return trailers;
    }
    let names: Vec<_> = trailers.keys().cloned().collect();
    for name in names.iter().filter(|name| !is_trailer(name)) {
        trailers.remove(name);
    }
    trailers
}

// === impl Incoming ===

impl Body for Incoming {
    type Data = Bytes;
    type Error = Cause;

    /// An error for whatever ends it before its end: a stream that was cancelled is not whole.
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        let this = self.get_mut();
        if !this.data_ended {
            let polled = this.stream.poll_data(cx);
            // RFC 9110 §10.1.1: not to a client that did not wait for it.
            if let Some(wanted) = this.wanted.take()
                && polled.is_pending()
            {
                wanted.notify_one();
            }
            match ready!(polled) {
                Some(Ok(data)) => {
                    // What was taken may come again. It fails only where nothing comes any more.
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => this.data_ended = true,
            }
        }
        let trailers = match ready!(this.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => trailers,
            Ok(None) => return Poll::Ready(None),
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        let checked = guard::http2_fields(&trailers, MAX_HEAD);
        Poll::Ready(Some(match checked {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(error) => Err(error.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

//! HTTP/1.x from the app (RFC 9112): one task for each connection, which reads a head, has it answered, writes the answer and
//! starts again.
//!
//! A codec of our own. There are no channels and no timers for a request: the body of a request is read off the connection by
//! whoever polls it ([`wire`]), the body of a response is polled and written by the connection's task, and time-outs come from
//! the worker's sweep. Requests in a row (pipelining) are answered one after the other.
//!
//! The rejected alternative is hyper's server, which took 9 000 of 38 000 user instructions of a request, kept 8 KiB for each idle
//! connection, and answers by itself what it cannot parse.

mod buffers;
mod wire;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use self::wire::{Rest, Start, Wire};
use super::accept::{Client, Worker, answer};
use super::error::ProxyError;
use super::respond::{self, ResponseBody};
use super::stream::{ClientStream, Rewound};
use super::watch::End;
use super::{AppBody, upgrade};
use crate::http1::encode::Framing;
use crate::http1::output::Output;
use crate::http1::request::{Asked, Fault};
use crate::http1::{Malformed, fields, response};
use crate::upstream::{Interim, Stall};

pub(super) use self::buffers::Buffers;
pub(super) use self::wire::Incoming;

/// So much of a body that nobody wanted is read, and so long, to keep its connection.
const SKIP: usize = 64 * 1024;
const SKIP_TIME: Duration = Duration::from_millis(500);

/// How long the client has to take a last answer before its connection is closed, and how much of what it still sends is read
/// meanwhile: what is left unread resets the connection, and can take the answer with it (RFC 9112 §9.6).
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER: usize = 16 * 1024 * 1024;

/// A connection, closed when it is dropped, whoever still holds one of its bodies.
struct Connection(Arc<Wire>);

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.0.end());
    }
}

/// What comes after a response.
enum Next {
    Request,
    Close,
}

/// Serves a connection to its end. Returns it if it speaks HTTP/2; nothing was answered on it then.
pub(super) async fn serve(
    worker: &Worker,
    client: &Client,
    stream: ClientStream,
    end: &mut oneshot::Receiver<End>,
) -> Option<Rewound> {
    let (limit, head_time) = {
        let settings = &worker.proxy.snapshot.load().settings;
        (settings.body_timeout.known, settings.header_timeout)
    };
    let wire = Wire::new(
        stream,
        Arc::clone(&worker.buffers),
        Stall::after(Some(limit)),
    );
    let connection = Connection(Arc::new(wire));
    let wire = &connection.0;
    let mut draining = false;
    let mut request = Request::default();
    loop {
        let error = match next(wire, client, &mut request, end, &mut draining, head_time).await {
            Ok(Start::Request(asked)) => {
                match exchange(worker, client, wire, &mut request, asked, end, draining).await {
                    Next::Request => continue,
                    Next::Close => return None,
                }
            }
            Ok(Start::Http2) if !draining => return wire.end(),
            Ok(Start::Http2 | Start::Closed) | Err(End::IdleTimeout | End::Drain) => return None,
            Ok(Start::Fault(fault)) => fault.into(),
            Err(End::HeadTimeout) => ProxyError::RequestTimeout,
        };
        if let Some(stream) = wire.end() {
            Box::pin(refuse(worker, stream, &error)).await;
        }
        return None;
    }
}

/// Waits for the next head. [`End::Drain`] ends the wait only where none has begun to come in.
async fn next(
    wire: &Arc<Wire>,
    client: &Client,
    request: &mut Request<AppBody>,
    end: &mut oneshot::Receiver<End>,
    draining: &mut bool,
    head_time: Duration,
) -> Result<Start, End> {
    // The worker's sweep has had its say once it asked the connection to end.
    let mut last_head: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if let Poll::Ready(start) = wire.poll_start(cx, &client.watch, request) {
            return Poll::Ready(Ok(start));
        }
        if !*draining {
            match ready!(Pin::new(&mut *end).poll(cx)) {
                Ok(End::Drain) | Err(_) => *draining = true,
                Ok(reason) => return Poll::Ready(Err(reason)),
            }
        }
        if wire.is_idle() {
            return Poll::Ready(Err(End::Drain));
        }
        let timer = last_head.get_or_insert_with(|| Box::pin(sleep(head_time)));
        timer.as_mut().poll(cx).map(|()| Err(End::HeadTimeout))
    })
    .await
}

/// One request and its response.
async fn exchange(
    worker: &Worker,
    client: &Client,
    wire: &Arc<Wire>,
    request: &mut Request<AppBody>,
    asked: Asked,
    end: &mut oneshot::Receiver<End>,
    draining: bool,
) -> Next {
    let mut response = None;
    {
        // RFC 9110 §15.2: not to HTTP/1.0.
        let interim = asked.http11.then_some(&**wire as &dyn Interim);
        let mut answered = pin!(answer(worker, client, request, interim, &mut response));
        poll_fn(|cx| match answered.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            // A client that goes away takes its request along.
            Poll::Pending => wire.poll_gone(cx),
        })
        .await;
    }
    let Some(answer) = &mut response else {
        return Next::Close;
    };
    // If it was not sent on: nobody will read its body, and its head is a part of our buffer.
    drop(std::mem::take(request));
    // Any end that comes while a request is answered means: not another one. Nor by a door that is closed: an idle connection
    // that is closed under the app can cost it a request.
    let leaving = draining || client.door.is_closed() || end.try_recv().is_ok();
    let patience = worker.proxy.snapshot.load().settings.body_timeout;
    wire.stalls_after(match answer.body().size_hint().exact() {
        Some(_) => Some(patience.known),
        // Events and tunnels may wait for a client that does something else for a while.
        None => patience.unknown,
    });
    let memory = worker.buffers.take_text();
    let mut sending = Sending::begin(memory, wire, answer, asked, leaving);
    let body = answer.body_mut();
    let mut unmarked = (sending.framing == Framing::Close).then(|| Unmarked { wire, whole: false });
    if poll_fn(|cx| sending.poll(cx, wire, body)).await.is_err() {
        return Next::Close;
    }
    if let Some(unmarked) = &mut unmarked {
        unmarked.whole = true;
    }
    if sending.switches {
        if let (Some(mut upstream), Some(app)) = (body.take_tunnel(), wire.end()) {
            // It holds up the upstream as a request does: the body keeps its place.
            let tunnel = Box::pin(upgrade::join(app, &mut upstream));
            if let Err(error) = tunnel.await {
                tracing::debug!(%error, "upgraded connection ended");
            }
        }
        return Next::Close;
    }
    drop(response);
    let close = sending.close;
    worker.buffers.give_text(sending.output.into_memory());
    let again = match wire.finish() {
        _ if close => false,
        Rest::Nothing => return Next::Request,
        Rest::Unknown => false,
        Rest::Body => Box::pin(skip(wire)).await,
    };
    if again {
        return Next::Request;
    }
    if wire.has_unread()
        && let Some(stream) = wire.end()
    {
        Box::pin(linger(stream)).await;
    }
    Next::Close
}

/// A response whose end is that of the connection: only a reset tells that it is not whole, also where its task is dropped.
struct Unmarked<'a> {
    wire: &'a Wire,
    whole: bool,
}

impl Drop for Unmarked<'_> {
    fn drop(&mut self) {
        if !self.whole {
            self.wire.reset_on_close();
        }
    }
}

/// A response on its way out.
struct Sending {
    output: Output,
    framing: Framing,
    /// The body has not come to its end yet.
    open: bool,
    /// The connection ends with this response.
    close: bool,
    /// 101: it becomes a tunnel.
    switches: bool,
    /// The client understands trailers; others are not sent any (RFC 9110 §6.5.1).
    trailers: bool,
}

/// The response cannot be sent to its end, or nobody is there to read it.
struct BrokeOff;

impl Sending {
    fn begin(
        memory: Vec<u8>,
        wire: &Arc<Wire>,
        response: &mut Response<ResponseBody>,
        asked: Asked,
        leaving: bool,
    ) -> Self {
        let exact = response.body().size_hint().exact();
        let framing = response::framing(response.status(), asked, exact);
        let mut output = Output::with(memory);
        let text = output.begin(framing);
        let rest = wire.begin_response(SKIP, text);
        let close =
            leaving || !asked.keep_alive || rest == Rest::Unknown || framing == Framing::Close;
        response::head(text, response, asked, framing, exact, close);
        fields::recycle(std::mem::take(response.headers_mut()));
        Self {
            output,
            framing,
            open: framing != Framing::None,
            close,
            switches: response.status() == StatusCode::SWITCHING_PROTOCOLS,
            trailers: asked.trailers,
        }
    }

    /// Goes on as far as the upstream and the client let it.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        wire: &Wire,
        body: &mut ResponseBody,
    ) -> Poll<Result<(), BrokeOff>> {
        let mut broke_off = false;
        loop {
            while self.open && self.output.has_room() && !broke_off {
                match self.take(cx, body) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) => {}
                    // What came before it is still passed on.
                    Poll::Ready(Err(BrokeOff)) => broke_off = true,
                }
            }
            if !self.output.is_empty() {
                let Poll::Ready(written) = wire.poll_write(cx, &mut self.output) else {
                    // A client that reads nothing before it has sent everything.
                    body.poll_upload(cx);
                    return Poll::Pending;
                };
                written.map_err(|_| BrokeOff)?;
            } else if broke_off {
                return Poll::Ready(Err(BrokeOff));
            } else if !self.open {
                return Poll::Ready(Ok(()));
            } else {
                return wire.poll_gone(cx).map(|()| Err(BrokeOff));
            }
        }
    }

    fn take(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut ResponseBody,
    ) -> Poll<Result<(), BrokeOff>> {
        let taken = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            None => {
                self.open = false;
                self.output.end()
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "a response broke off");
                return Poll::Ready(Err(BrokeOff));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.output.put(data).and_then(|()| {
                    self.open = !body.is_end_stream();
                    if self.open { Ok(()) } else { self.output.end() }
                }),
                Err(frame) => {
                    self.open = false;
                    match frame.trailers_ref() {
                        Some(trailers) if self.trailers => self.output.end_with(trailers),
                        _ => self.output.end(),
                    }
                }
            },
        };
        Poll::Ready(taken.map_err(|_| BrokeOff))
    }
}

/// Reads over the rest of a body that nobody wanted. Whether it came to its end.
async fn skip(wire: &Wire) -> bool {
    let mut left = SKIP;
    let read = async {
        loop {
            match poll_fn(|cx| wire.poll_skip(cx)).await {
                Ok(0) => return true,
                Ok(length) if length <= left => left -= length,
                Ok(_) | Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(SKIP_TIME, read).await.unwrap_or(false)
}

/// Sends an answer where no request was read, and closes.
pub(super) async fn refuse(
    worker: &Worker,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    error: &ProxyError,
) {
    let text = respond::raw_problem(error, &worker.proxy.metrics);
    // A client that does not read its answer does without.
    if let Ok(Ok(())) = tokio::time::timeout(LINGER_TIME, stream.write_all(&text)).await {
        linger(stream).await;
    }
}

/// Closes a connection on which the client may still be sending, so that it can read what it was answered.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let read = async {
        stream.shutdown().await?;
        let mut buffer = BytesMut::with_capacity(8 * 1024);
        let mut left = LINGER;
        while left > 0 {
            buffer.clear();
            match stream.read_buf(&mut buffer).await? {
                0 => break,
                length => left = left.saturating_sub(length),
            }
        }
        io::Result::Ok(())
    };
    // However that ends, the connection is closed.
    drop(tokio::time::timeout(LINGER_TIME, read).await);
}

impl From<Fault> for ProxyError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge => Self::HeadersTooLarge,
            Fault::Malformed(Malformed::Rule(rule)) => Self::BadRequest(rule),
            Fault::Malformed(Malformed::Syntax(_)) => {
                Self::BadRequest("the request is not valid HTTP/1.1")
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The app's end of a connection: its socket, what was read from it, and where in a request's body we are.
//!
//! It is shared by the connection's task and by whoever reads a request's body, which with an HTTP/2 upstream is another task.
//! The lock is never contended, all of them being on one thread, and is held for single polls of the socket only. A body that
//! outlives its request, or its connection, gets an error: the next request's bytes are not its own.
//!
//! The parts: [`incoming`], the body as its reader sees it, and [`interim`], what is written before a response.

mod incoming;
mod interim;

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{Request, Response};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, Sleep, sleep};

use self::incoming::BodyError;
use self::interim::{CONTINUE, GoOn};
use super::buffers::Buffers;
use crate::http1::decode::{Decoder, Step};
use crate::http1::output::Output;
use crate::http1::request::{self, Asked, Fault, HTTP2_PREFACE, Head};
use crate::http1::{Framing, MAX_HEAD};
use crate::proxy::AppBody;
use crate::proxy::stream::{ClientStream, Rewound};
use crate::proxy::watch::Watch;
use crate::upstream::send::Cause;
use crate::upstream::{Interim, Stall};

pub(in crate::proxy) use self::incoming::Incoming;

/// How much is read at once: the first of them, doubled while reads fill what they are given. A new buffer is had when less
/// than a quarter is left of the old one.
const FIRST_READ: usize = super::buffers::READ;
const LARGEST_READ: usize = 64 * 1024;

/// How often it is looked whether a client is still there whose body is not read at the moment.
const LOOK: Duration = Duration::from_millis(250);

/// What is read of further requests while one is answered. Behind more than that, the end of a client is found by writing only.
const AHEAD: usize = MAX_HEAD;

pub(super) struct Wire {
    state: Mutex<State>,
    buffers: Arc<Buffers>,
}

struct State {
    /// `None` once the connection is over.
    io: Option<ClientStream>,
    /// Read, and not used yet.
    read: BytesMut,
    /// How much to read at once.
    read_size: usize,
    /// How much of `read` is known not to be a whole head.
    seen: usize,
    /// Counts requests, and their ends. A body is good for the one that it came with.
    request: u32,
    body: Decoder,
    /// The body broke the rules, or off: nothing after it can be understood.
    broken: bool,
    /// Still to be written before the body is waited for.
    go_on: GoOn,
    /// Interim heads that are still to be written, by the connection's task: before the response, and before what is left of
    /// `go_on` unless a part of that has gone out.
    early: Vec<u8>,
    /// How long the client may take nothing of what is written to it.
    stall: Stall,
    /// Whoever waits for more of the body.
    reader: Option<Waker>,
    /// The connection's task, where it waits for the end of the body to look out for the end of the connection.
    watcher: Option<Waker>,
    /// When it looks whether the client is still there nevertheless. Had with the first body that does not come with its head.
    look: Option<Pin<Box<Sleep>>>,
}

/// What a connection begins to say.
pub(super) enum Start {
    Request(Asked),
    /// The preface of HTTP/2, which is still there to be read.
    Http2,
    Fault(Fault),
    Closed,
}

/// The same, with what the head says about the body.
enum Beginning {
    Request(Head),
    Http2,
    Fault(Fault),
}

/// What was not read of a request when its response was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Everything was.
    Nothing,
    /// A part of the body.
    Body,
    /// Nobody knows where the next request would begin.
    Unknown,
}

// === impl Wire ===

impl Wire {
    pub(super) fn new(io: ClientStream, buffers: Arc<Buffers>, stall: Stall) -> Self {
        let state = State {
            io: Some(io),
            read: BytesMut::new(),
            read_size: FIRST_READ,
            seen: 0,
            request: 0,
            body: Decoder::DONE,
            broken: false,
            go_on: GoOn::NOTHING,
            early: Vec::new(),
            stall,
            reader: None,
            watcher: None,
            look: None,
        };
        Self {
            state: Mutex::new(state),
            buffers,
        }
    }

    /// Waits for the next head, which goes into `request`. `watch` is told when one begins to come in.
    pub(super) fn poll_start(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        watch: &Watch,
        request: &mut Request<AppBody>,
    ) -> Poll<Start> {
        let mut state = self.lock();
        loop {
            match state.start(watch, request) {
                None => {}
                Some(Beginning::Request(head)) => {
                    *request.body_mut() = match head.framing {
                        Framing::Empty => AppBody::Empty,
                        _ => AppBody::Http1(Incoming {
                            wire: Arc::clone(self),
                            request: state.request,
                        }),
                    };
                    return Poll::Ready(Start::Request(head.asked));
                }
                Some(Beginning::Http2) => return Poll::Ready(Start::Http2),
                Some(Beginning::Fault(fault)) => return Poll::Ready(Start::Fault(fault)),
            }
            match ready!(state.poll_fill(cx, &self.buffers)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Start::Closed),
            }
        }
    }

    /// Nothing of a next request has come in.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().read.is_empty()
    }

    /// Ready when the client has gone away, or takes nothing any more. While a body is being read, it is its reader who finds that
    /// out first. Meanwhile interim heads are written.
    ///
    /// A client that closes its sending half alone is taken for gone, whatever it has sent before: TCP does not tell the two apart,
    /// and who goes away is common. So do nginx, Envoy, Pingora and hyper; RFC 9112 §9.6 leaves it open.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if !state.early.is_empty() && matches!(state.poll_early(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        if !state.body.is_done() {
            remember(&mut state.watcher, cx);
            return state.poll_hung_up(cx);
        }
        // Requests that have come in already hide the end. Nothing of it is passed over: it may belong to another protocol.
        while state.read.len() < AHEAD {
            match ready!(state.poll_fill(cx, &self.buffers)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// The response begins: no more `100 Continue`, unless a part of it was written. What has to come first goes into `text`. Tells
    /// what is known now about the rest of the request, of which `most` would be read to no purpose.
    pub(super) fn begin_response(self: &Arc<Self>, most: usize, text: &mut Vec<u8>) -> Rest {
        let mut state = self.lock();
        text.append(&mut state.early);
        let go_on = state.go_on.take();
        if go_on == CONTINUE && state.body.is_done() {
            // It did not wait for it.
            return state.rest();
        }
        if !go_on.is_empty()
            && let Some(reader) = state.reader.take()
        {
            // It may wait for room to write that in, which it will not do any more.
            reader.wake();
        }
        if go_on == CONTINUE {
            // The client may send the body or not, and nobody can tell.
            state.broken = true;
            return Rest::Unknown;
        }
        text.extend_from_slice(go_on);
        let too_long = state
            .body
            .remaining()
            .is_some_and(|left| left > most as u64);
        // The connection has one of them, and a body the other.
        if too_long && Arc::strong_count(self) == 1 {
            return Rest::Unknown;
        }
        state.rest()
    }

    /// From now on, how long the client may take nothing of what is written to it.
    pub(super) fn stalls_after(&self, limit: Option<Duration>) {
        self.lock().stall.limit_to(limit);
    }

    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        output: &mut Output,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        let state = &mut *state;
        let io = state.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let written = output.poll_write(cx, Pin::new(io));
        state.stall.written(cx, written)
    }

    /// The response is complete. Whoever reads the body reads no more.
    pub(super) fn finish(&self) -> Rest {
        let mut state = self.lock();
        state.overtake();
        let rest = state.rest();
        if rest == Rest::Nothing {
            state.skip_empty_lines();
            state.release(&self.buffers);
        }
        rest
    }

    /// Reads on over the body of a request that was answered; returns how much, 0 at its end. An error if there is no end.
    pub(super) fn poll_skip(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        match ready!(state.poll_step(cx, &self.buffers)) {
            Ok(Step::Data(data)) => Poll::Ready(Ok(data.len())),
            Ok(Step::Trailers(_) | Step::End | Step::More) => {
                state.release(&self.buffers);
                Poll::Ready(Ok(0))
            }
            Err(error) => Poll::Ready(Err(io::Error::other(error))),
        }
    }

    /// Whether something has come in that nobody will read: closing the socket now would reset the connection, and the client
    /// could lose what it has not read yet of our answer.
    pub(super) fn has_unread(&self) -> bool {
        let state = self.lock();
        !state.read.is_empty()
            || !state.body.is_done()
            || state.io.as_ref().is_some_and(ClientStream::is_readable)
    }

    /// Makes the end of the connection one that nobody takes for a good one.
    pub(super) fn reset_on_close(&self) {
        if let Some(io) = &self.lock().io {
            io.reset_on_close();
        }
    }

    /// The connection is over as far as HTTP/1.1 is concerned.
    pub(super) fn end(&self) -> Option<Rewound> {
        let mut state = self.lock();
        state.overtake();
        let front = std::mem::take(&mut state.read).freeze();
        let stall = std::mem::take(&mut state.stall);
        state.io.take().map(|io| Rewound::new(io, front, stall))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interim for Wire {
    /// Written by the connection's task when it next looks out for the end of the connection, which is in this same poll.
    fn pass_on(&self, head: Response<()>) {
        self.lock().put_early(&head);
    }
}

// === impl State ===

impl State {
    /// What has begun to come in, if that can be told. The head of a request goes into `request`.
    fn start(&mut self, watch: &Watch, request: &mut Request<AppBody>) -> Option<Beginning> {
        if self.seen == 0 {
            // They are no beginning of a head: whoever sends one too many may take its time.
            self.skip_empty_lines();
        }
        if self.read.len() <= self.seen {
            return None;
        }
        watch.received();
        let first = self.request == 0;
        if first
            && HTTP2_PREFACE.starts_with(&self.read[..self.read.len().min(HTTP2_PREFACE.len())])
        {
            return (self.read.len() >= HTTP2_PREFACE.len()).then_some(Beginning::Http2);
        }
        // Only what ends a line can complete a head: one that comes in byte by byte is not parsed for each of them.
        let parse = self.seen == 0
            || self.read[self.seen..].contains(&b'\n')
            || self.read.len() >= MAX_HEAD;
        self.seen = self.read.len();
        if !parse {
            return None;
        }
        match request::parse(&mut self.read, request) {
            Ok(Some(head)) => {
                self.seen = 0;
                self.request += 1;
                self.body = Decoder::new(head.framing);
                self.go_on = match head.expects_continue {
                    true => GoOn::WHOLE,
                    false => GoOn::NOTHING,
                };
                Some(Beginning::Request(head))
            }
            Ok(None) => {
                self.seen = self.read.len();
                None
            }
            Err(fault) => Some(Beginning::Fault(fault)),
        }
    }

    /// Reads once. 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<io::Result<usize>> {
        let io = self.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let lent = self.read.capacity() == 0 && self.read_size == FIRST_READ;
        if lent {
            // Cheaper than to ask first whether there is something to read.
            self.read = buffers.take();
        }
        if self.read.capacity() - self.read.len() < self.read_size / 4 {
            self.read.reserve(self.read_size);
        }
        let room = self.read.capacity() - self.read.len();
        // `ReadBuf` keeps nothing from one poll to the next.
        let polled = pin!(io.read_buf(&mut self.read)).poll(cx);
        if lent && polled.is_pending() {
            buffers.give(std::mem::take(&mut self.read));
        }
        let read = ready!(polled)?;
        if read == room && self.read_size < LARGEST_READ {
            self.read_size *= 2;
        }
        Poll::Ready(Ok(read))
    }

    /// Ready when the client has closed its end, looked at once in a while. Who reads the body sees that too, but not while it waits
    /// for a token, a connection, or an upstream that takes nothing; and to read ahead would take from the client what nobody wants.
    fn poll_hung_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            ready!(look.as_mut().poll(cx));
            if self.io.as_ref().is_none_or(ClientStream::is_read_closed) {
                return Poll::Ready(());
            }
            look.as_mut().reset(Instant::now() + LOOK);
        }
    }

    /// The next part of the body.
    fn poll_step(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<Result<Step, Cause>> {
        loop {
            let step = self.body.step(&mut self.read);
            match step.inspect_err(|_| self.broken = true)? {
                Step::More => {}
                step => return Poll::Ready(Ok(step)),
            }
            // RFC 9110 §10.1.1: not to a client that did not wait for it.
            if !self.go_on.is_nothing() && self.read.is_empty() {
                ready!(self.poll_continue(cx))?;
            }
            if ready!(self.poll_fill(cx, buffers))? == 0 {
                self.broken = true;
                return Poll::Ready(Err(BodyError::Closed.into()));
            }
        }
    }

    fn rest(&self) -> Rest {
        if self.broken {
            Rest::Unknown
        } else if self.body.is_done() {
            Rest::Nothing
        } else {
            Rest::Body
        }
    }

    /// From now on nobody reads the body of the request at hand.
    fn overtake(&mut self) {
        self.request = self.request.wrapping_add(1).max(1);
        self.watcher = None;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// The reader of the body has come to its end.
    fn body_ended(&mut self, cx: &Context<'_>) {
        self.reader = None;
        if let Some(watcher) = self.watcher.take()
            && !watcher.will_wake(cx.waker())
        {
            watcher.wake();
        }
    }

    fn skip_empty_lines(&mut self) {
        while self.read.starts_with(b"\r\n") {
            self.read.advance(2);
        }
    }

    /// Gives the buffer back if there is nothing in it.
    fn release(&mut self, buffers: &Buffers) {
        if !self.read.is_empty() || self.read.capacity() == 0 {
            return;
        }
        let buffer = std::mem::take(&mut self.read);
        if self.read_size == FIRST_READ {
            buffers.give(buffer);
        }
        self.read_size = FIRST_READ;
    }
}

fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot
        .as_ref()
        .is_some_and(|waker| waker.will_wake(cx.waker()))
    {
        *slot = Some(cx.waker().clone());
    }
}

#[cfg(test)]
mod tests;

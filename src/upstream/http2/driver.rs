//! The task that reads and writes a connection.
//!
//! One for each, woken by its socket and by whoever has put something into the output: what many requests put there while it waited for its
//! turn leaves in one write.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Core;
use super::session::{End, Session};
use crate::upstream::connect::Stream;
use crate::upstream::counted::Open;
use crate::upstream::pool::Shared;

/// Bytes that are read before others have their turn: what was read is best passed on while it is in the processor's cache.
const TURN: usize = 64 * 1024;

/// A peer that is silent for so long while a stream is open is asked whether it is still there. gRPC servers close
/// connections that ask more often than every 5 minutes; short of that, TCP keep-alive and the response time-out watch the path.
const PING_AFTER: Duration = Duration::from_secs(320);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The clock is not looked at for every read: silence is counted in whole ones of these, after the one in which it began.
const TICK: Duration = Duration::from_secs(64);
const TICKS: u32 = 1 + (PING_AFTER.as_secs() / TICK.as_secs()) as u32;

/// For a goodbye to be taken.
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct Driver {
    io: Stream,
    core: Arc<Core>,
    pool: Weak<Shared>,
    /// Told when SETTINGS have come.
    settled: Option<oneshot::Sender<()>>,
    silence: Silence,
    /// The connection counts for as long as its socket is open.
    _open: Open,
}

/// How long the peer has said nothing while a stream was open.
#[derive(Default)]
struct Silence {
    timer: Option<Pin<Box<Sleep>>>,
    /// It is running.
    armed: bool,
    ticks: u32,
    asked: bool,
}

impl Driver {
    pub(super) fn new(
        io: Stream,
        open: Open,
        core: Arc<Core>,
        pool: Weak<Shared>,
    ) -> (Self, oneshot::Receiver<()>) {
        let (settled, settings) = oneshot::channel();
        let driver = Self {
            io,
            core,
            pool,
            settled: Some(settled),
            silence: Silence::default(),
            _open: open,
        };
        (driver, settings)
    }

    /// Runs a connection to its end.
    pub(super) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        self.core.retire();
        let end = self.core.lock().end;
        if let Some(end) = end {
            tracing::debug!(%end, "upstream connection ended");
        }
        self.core.lock().take_leave();
        // However that goes, the connection is closed.
        drop(tokio::time::timeout(LINGER, poll_fn(|cx| self.poll_close(cx))).await);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut session = self.core.lock();
        session.attend(cx);
        exchange(cx, &mut session, &mut self.io);
        if self.silence.is_too_long(cx, &mut session) {
            session.fail(End::Silent);
        }
        if session.is_leaving() {
            self.core.retire();
        }
        let over = session.is_over();
        let max_streams = session.take_max_streams();
        drop(session);
        if let Some(max) = max_streams {
            self.limit(max);
        }
        match over {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Keeps the pool's view of the peer's limit current.
    fn limit(&mut self, max: usize) {
        self.core.limit_streams(max);
        if let Some(pool) = self.pool.upgrade() {
            pool.stream_freed();
        }
        // Whoever waits for it dials for those for whom the limit is too low.
        if let Some(settled) = self.settled.take() {
            let _ = settled.send(());
        }
    }

    /// Writes what is left, and says that it was all.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.core.lock().poll_write(cx, &mut self.io))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Drop for Driver {
    /// Also if it panicked, or if its runtime ends: nobody waits for a stream that nobody reads.
    fn drop(&mut self) {
        self.core.retire();
        self.core.lock().hang_up(io::ErrorKind::NotConnected);
    }
}

/// Reads and writes as much as the socket lets it. Reading comes first: a connection that has died is found before anything is written on
/// it.
fn exchange(cx: &mut Context<'_>, session: &mut Session, io: &mut Stream) {
    let mut read = 0;
    loop {
        match session.poll_fill(cx, io) {
            Poll::Pending => break,
            Poll::Ready(Ok(length @ 1..)) => {
                read += length;
                if let Err(violation) = session.receive() {
                    return session.fail(End::Violation(violation));
                }
            }
            Poll::Ready(Ok(0)) => return session.hang_up(io::ErrorKind::UnexpectedEof),
            Poll::Ready(Err(error)) => return session.hang_up(error.kind()),
        }
        if read >= TURN {
            cx.waker().wake_by_ref();
            break;
        }
    }
    if let Poll::Ready(Err(error)) = session.poll_write(cx, io) {
        // It takes no more, but may have said why.
        while let Poll::Ready(Ok(1..)) = session.poll_fill(cx, io) {
            if session.receive().is_err() {
                break;
            }
        }
        session.hang_up(error.kind());
    }
}

impl Silence {
    /// Whether a question was not answered.
    fn is_too_long(&mut self, cx: &mut Context<'_>, session: &mut Session) -> bool {
        let heard = std::mem::take(&mut session.heard);
        if heard {
            self.ticks = 0;
            // An answer, whatever it is: the path lives.
            self.armed &= !std::mem::take(&mut self.asked);
        }
        if !self.armed {
            if !session.has_streams() {
                return false;
            }
            self.set(cx, TICK);
        }
        // Polled when it was set, and from then on only when its time has come.
        while let Some(timer) = &mut self.timer
            && timer.is_elapsed()
        {
            if self.asked {
                return true;
            }
            if !session.has_streams() {
                self.armed = false;
                self.ticks = 0;
                return false;
            }
            self.ticks += 1;
            if self.ticks < TICKS {
                self.set(cx, TICK);
                continue;
            }
            self.asked = true;
            session.ping();
            // For the PING to be written.
            cx.waker().wake_by_ref();
            self.set(cx, PING_TIMEOUT);
        }
        false
    }

    fn set(&mut self, cx: &mut Context<'_>, wait: Duration) {
        self.armed = true;
        let deadline = Instant::now() + wait;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer.as_mut().reset(deadline);
        // It is in the future.
        let _ = timer.as_mut().poll(cx);
    }
}

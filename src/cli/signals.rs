//! SIGTERM and SIGINT.

use std::io;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;
use crate::app::Shutdown;

/// From [`Signals::listen`] on, what asks for the end is kept until somebody waits for it.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    /// To be called before anything is opened that an end by signal would leave behind, and outside of any runtime.
    /// The signals in `others` no longer end the process either: somebody will listen to them later.
    pub(super) fn listen(others: &[SignalKind]) -> Result<Self, Failure> {
        Self::try_listen(others)
            .map_err(|error| Failure::Runtime(format!("cannot listen to signals: {error}")))
    }

    fn try_listen(others: &[SignalKind]) -> io::Result<Self> {
        // Registering asks for a runtime, but handlers belong to the process and outlive it: what comes in is delivered by
        // whichever runtime runs next.
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let _inside = runtime.enter();
        for other in others {
            drop(signal(*other)?);
        }
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the first of the two. From then on a second one ends the process at once, with exit code 1.
    /// Must be awaited inside a tokio runtime that goes on after it.
    pub(super) async fn first(mut self) -> Shutdown {
        let shutdown = self.next().await;
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("second signal: stopping at once");
            std::process::exit(1);
        });
        shutdown
    }

    async fn next(&mut self) -> Shutdown {
        tokio::select! {
            _ = self.term.recv() => Shutdown::Term,
            _ = self.interrupt.recv() => Shutdown::Interrupt,
        }
    }
}

//! Shutdown by SIGTERM and SIGINT.

use std::io;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;
use crate::app::Shutdown;

/// SIGTERM and SIGINT, which are kept from [`Signals::listen`] until [`Signals::first`] takes them.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Registers the handlers, outside of any runtime and before anything is opened that needs a
    /// clean shutdown. Signals in `others` no longer end the process; their listeners follow.
    pub(super) fn listen(others: &[SignalKind]) -> Result<Self, Failure> {
        Self::try_listen(others)
            .map_err(|error| Failure::Runtime(format!("cannot listen to signals: {error}")))
    }

    fn try_listen(others: &[SignalKind]) -> io::Result<Self> {
        // Registration needs a runtime, but the handlers belong to the process: the next runtime
        // delivers the signals.
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

    /// Waits for the first signal. While the calling runtime still runs, a second signal ends the
    /// process at once, with exit code 1.
    pub(super) async fn first(mut self) -> Shutdown {
        let shutdown = self.next().await;
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("second signal: exiting at once");
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

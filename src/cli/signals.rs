//! SIGTERM and SIGINT.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::Shutdown;

/// Waits for the first of the two. From then on a second one ends the process at once, with exit code 1.
/// Must be awaited inside a tokio runtime that goes on after it.
pub(super) async fn first() -> Shutdown {
    let (Some(mut term), Some(mut interrupt)) = (
        listen(SignalKind::terminate()),
        listen(SignalKind::interrupt()),
    ) else {
        // The default action is left to those that could not be listened to.
        return std::future::pending().await;
    };
    let shutdown = next(&mut term, &mut interrupt).await;
    tokio::spawn(async move {
        next(&mut term, &mut interrupt).await;
        tracing::warn!("second signal: stopping at once");
        std::process::exit(1);
    });
    shutdown
}

fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind)
        .inspect_err(|error| tracing::warn!(%error, "cannot listen to signals"))
        .ok()
}

async fn next(term: &mut Signal, interrupt: &mut Signal) -> Shutdown {
    tokio::select! {
        _ = term.recv() => Shutdown::Term,
        _ = interrupt.recv() => Shutdown::Interrupt,
    }
}

//! The admin port: status page, `/status`, `/metrics`, probes, reload and refresh by hand.
//!
//! Runs on the control thread; the proxy port serves none of its paths. All data comes from
//! [`Control`], whose types hold no secret.

mod control;
mod guard;
mod page;
mod report;
mod response;
mod routes;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use control::{Control, Readiness, Work};
pub use report::{ProviderReport, ReloadReport, ReplayReport, Report, UpstreamReport};

/// Limit for reading a request head, including the idle time before it: frees the permits of
/// forgotten connections.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Enough for probes, a scraper and some open status pages. More connections wait in the backlog.
const MAX_CONNECTIONS: usize = 128;

/// A connection of this age ends after its current response, and at twice this age in any case: a
/// client that does not read its response must not keep its permit.
const MAX_AGE: Duration = Duration::from_secs(120);

/// How long responses in flight may take once the port shuts down.
const LAST_RESPONSES: Duration = Duration::from_secs(2);

/// Pause after a failed accept, whose usual cause is too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `listener` until `shutdown` resolves; then waits for responses in flight, two seconds at
/// most.
pub async fn serve(
    listener: TcpListener,
    control: Arc<dyn Control>,
    shutdown: impl Future<Output = ()>,
) {
    // If the address is unknown, serving less is the safe choice.
    let local_only = listener
        .local_addr()
        .is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let accept = async {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let tcp = match listener.accept().await {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(%error, "admin port cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection =
                serve_connection(tcp, Arc::clone(&control), local_only, stopping.clone());
            connections.spawn(async move {
                connection.await;
                drop(permit);
            });
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    drop(listener);
    drop(stop);
    let _ = timeout(LAST_RESPONSES, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

async fn serve_connection(
    tcp: TcpStream,
    control: Arc<dyn Control>,
    local_only: bool,
    mut stopping: watch::Receiver<()>,
) {
    let service = service_fn(move |request| {
        let control = Arc::clone(&control);
        async move {
            let parts = request.into_parts().0;
            Ok::<_, Infallible>(routes::respond_to(&parts, &*control, local_only).await)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(tcp), service)
    );
    // Errors of a connection, such as a disconnect or a malformed request, need no log line.
    tokio::select! {
        _ = &mut connection => return,
        _ = stopping.changed() => {}
        () = sleep(MAX_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(MAX_AGE, connection).await;
}

//! The admin port: status page, `/status`, `/metrics`, probes, reload and refresh by hand (DESIGN.md §4).
//!
//! Runs on the control thread; the proxy port never serves any of it. What it shows it gets from [`Control`], whose
//! types hold no secret.

mod guard;
mod page;
mod report;
mod routes;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;
use crate::provider::RefreshError;

pub use report::{ProviderReport, ReloadReport, ReplayReport, Report, UpstreamReport};

/// For a request's head, idle time before it included: a forgotten connection must not hold a place.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A few probes, a scraper and some open status pages. More wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 128;

/// Then the connection ends after its current answer, and after as long again whatever it does: a client that does not
/// read its answer must not hold a place for ever.
const MAX_AGE: Duration = Duration::from_secs(120);

/// How long answers under way may take once the port shuts down.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// After a failed accept: the usual cause, too many open files, does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin port shows and sets in motion.
pub trait Control: Send + Sync + 'static {
    fn metrics(&self) -> &Metrics;

    fn report(&self) -> Report;

    fn readiness(&self) -> Readiness;

    /// `server.allow_hosts`: lower case, without port unless written with one.
    fn allow_hosts(&self) -> Vec<String>;

    /// Fetches a token now; `None` if there is no such provider. The future is dropped when the client goes away.
    fn refresh(&self, provider: &str) -> Option<Work<Result<(), RefreshError>>>;

    /// Ends the process as SIGINT does, requests in flight first. Whether the configuration allows it.
    fn quit(&self) -> bool;

    /// What is logged, as `--log` has it; `None` where that cannot be changed.
    fn log(&self) -> Option<String>;

    /// Changes it. The error says what is wrong with `directives`.
    fn set_log(&self, directives: &str) -> Result<(), String>;

    /// Reads the configuration again. What was changed in words, or every problem of the new file.
    fn reload(&self) -> Work<Result<String, Vec<String>>>;
}

/// An answer that takes time.
pub type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whether this replica should get requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What stands in the way, one line each; empty: ready. A required provider that had its first token never
    /// comes back here, so that one vendor's outage does not take every replica out.
    pub pending: Vec<String>,
    /// The same without that memory: `/readyz?strict`.
    pub pending_now: Vec<String>,
}

/// Serves `listener` until `shutdown`; returns when the answers under way are out, after two seconds at most.
pub async fn serve(
    listener: TcpListener,
    control: Arc<dyn Control>,
    shutdown: impl Future<Output = ()>,
) {
    // The listener is open: it has an address. Where it cannot be told, the narrower service is the safe one.
    let local_only = match listener.local_addr() {
        Ok(address) => address.ip().to_canonical().is_loopback(),
        Err(_) => false,
    };
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let accept = async {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
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
                drop(place);
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
    let _ = timeout(LAST_ANSWERS, async {
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
            let answer = routes::answer(&request.into_parts().0, &*control, local_only).await;
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(tcp), service)
    );
    // A connection's own error (a client that hangs up, a malformed request) concerns nobody else.
    tokio::select! {
        _ = &mut connection => return,
        _ = stopping.changed() => {}
        () = sleep(MAX_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(MAX_AGE, connection).await;
}

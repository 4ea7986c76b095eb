//! An app's connection, served by hyper: HTTP/1.x, or HTTP/2 if it begins with the preface
//! (RFC 9113 §3.3).
//!
//! [`answer`] serves the requests of both. hyper parses and frames, and answers malformed heads
//! with a bare 400, 414 or 431. [`ClientIo`] is between hyper and the socket.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::app_body::{self, AppBody};
use super::client_io::{ClientIo, ClientStream};
use super::error::ProxyError;
use super::handle::handle;
use super::listener::ListenerState;
use super::respond;
use super::response_body::{Measure, ResponseBody};
use super::watch::End;
use super::worker::{Client, ConnectionPermit, Worker};
use super::{headers, upgrade};
use crate::catch_unwind::catch_unwind;
use crate::fields::{MAX_FIELDS, MAX_HEAD};

/// Flow-control window of a request body on HTTP/2.
const WINDOW: u32 = 256 * 1024;

/// Exceeds [`MAX_HEAD`], which the guard checks: hyper itself answers a larger section, or passes
/// its beginning as if that were the whole.
const MAX_FIELD_SECTION: u32 = 4 * MAX_HEAD as u32;

const MAX_STREAMS: u32 = 256;

/// Bytes of each response that h2 buffers.
const SEND_BUFFER: usize = 64 * 1024;

/// How long an HTTP/2 connection without requests may take to close after GOAWAY: an app that is
/// gone does not answer the last PING.
const GOAWAY_WAIT: Duration = Duration::from_secs(5);

enum Http1End {
    ByHyper(hyper::Result<()>),
    /// The connection is idle or stalled.
    Closed,
    HeadTimeout,
}

pub(super) async fn serve(
    worker: Arc<Worker>,
    stream: ClientStream,
    listener: Arc<ListenerState>,
    permit: ConnectionPermit,
) {
    let (member, mut end) = worker.registry.enter();
    let client = Arc::new(Client::new(listener, stream.peer_uid(), member, permit));
    let limit = worker.proxy.snapshot.load().settings.body_timeout.announced;
    client.watch.limit_writes(Some(limit));
    let io = ClientIo::new(stream, Arc::clone(&client.watch));
    if let Some(io) = serve_http1(&worker, &client, io, &mut end).await {
        // Boxed, so that HTTP/1.1 connections hold no memory for HTTP/2.
        Box::pin(serve_http2(worker, client, io, end)).await;
    }
}

/// Sends `error` on a connection that is not served, and closes the connection.
pub(super) async fn refuse(worker: Arc<Worker>, stream: ClientStream, error: ProxyError) {
    let text = respond::raw_problem(&error, &worker.proxy.metrics);
    ClientIo::new(stream, Arc::default()).refuse(&text).await;
}

/// Serves HTTP/1.x. Returns the connection, without any response, if it speaks HTTP/2.
async fn serve_http1(
    worker: &Arc<Worker>,
    client: &Arc<Client>,
    io: ClientIo,
    end: &mut oneshot::Receiver<End>,
) -> Option<ClientIo> {
    let service = service_fn(|request| answer(worker, client, request));
    let mut connection = http1::Builder::new()
        .max_headers(MAX_FIELDS)
        .max_header_size(MAX_HEAD)
        .max_buf_size(2 * MAX_HEAD)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let ended = tokio::select! {
        biased;
        result = &mut connection => Http1End::ByHyper(result),
        reason = end => match reason {
            Ok(End::HeadTimeout) => Http1End::HeadTimeout,
            Ok(End::IdleTimeout | End::Stalled) => Http1End::Closed,
            Ok(End::Drain) | Err(_) => {
                let head_timeout = worker.proxy.snapshot.load().settings.header_timeout;
                drain_http1(client, &mut connection, head_timeout).await
            }
        },
    };
    // `None`: the connection has become a tunnel.
    let parts = connection.into_parts()?;
    let io = parts.io.into_inner();
    match ended {
        Http1End::ByHyper(Err(error)) if error.is_parse_version_h2() => {
            if client.watch.message().number == 0 {
                return Some(io.rewound(parts.read_buf));
            }
            let error = ProxyError::BadRequest("an HTTP/2 preface follows HTTP/1.1 requests");
            let text = respond::raw_problem(&error, &worker.proxy.metrics);
            io.refuse(&text).await;
        }
        Http1End::ByHyper(Err(error)) if error.is_parse() => {
            tracing::debug!(%error, "malformed request head");
            worker.proxy.metrics.count_error("", "malformed_head");
            io.close().await;
        }
        Http1End::ByHyper(Err(error)) => {
            tracing::debug!(%error, "client connection ended");
            io.abort().await;
        }
        Http1End::ByHyper(Ok(())) => io.close().await,
        // Within another response, the app would take a 408 for content.
        Http1End::HeadTimeout if !client.watch.is_blocked() => {
            let text = respond::raw_problem(&ProxyError::RequestTimeout, &worker.proxy.metrics);
            io.refuse(&text).await;
        }
        // The rest of a short upload may still arrive.
        Http1End::Closed if client.watch.message().number > 0 => io.abort().await,
        Http1End::HeadTimeout | Http1End::Closed => {}
    }
    None
}

/// Lets a connection finish its open request, also one whose head has only begun.
async fn drain_http1<S>(
    client: &Client,
    connection: &mut http1::UpgradeableConnection<TokioIo<ClientIo>, S>,
    head_timeout: Duration,
) -> Http1End
where
    S: HttpService<Incoming, ResBody = ResponseBody, Error = Infallible>,
{
    let watch = &client.watch;
    if watch.is_in_head() {
        // hyper takes a connection with a partial head for idle and would close the connection.
        client.leave();
        match timeout(head_timeout, &mut *connection).await {
            Ok(result) => return Http1End::ByHyper(result),
            Err(_) if watch.is_in_head() => return Http1End::HeadTimeout,
            Err(_) => {}
        }
    } else if !watch.is_busy() && !watch.is_blocked() {
        return Http1End::Closed;
    }
    Pin::new(&mut *connection).graceful_shutdown();
    Http1End::ByHyper(connection.await)
}

async fn serve_http2(
    worker: Arc<Worker>,
    client: Arc<Client>,
    io: ClientIo,
    mut end: oneshot::Receiver<End>,
) {
    let service = service_fn(|request| {
        let (worker, client) = (Arc::clone(&worker), Arc::clone(&client));
        async move { answer(&worker, &client, request).await }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        // The sum of all streams: an unread body must not block the others.
        .initial_connection_window_size(MAX_STREAMS * WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_FIELD_SECTION)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut listener_closed = pin!(client.listener.closed());
    let (mut is_ending, mut is_leaving) = (false, false);
    let mut goaway_wait = pin!(sleep(Duration::ZERO));
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "client connection ended");
                }
                return;
            }
            reason = &mut end, if !is_ending => {
                if reason == Ok(End::Stalled) {
                    return tracing::debug!("HTTP/2 connection closed: no window for a response");
                }
                is_ending = true;
                connection.as_mut().graceful_shutdown();
                goaway_wait.as_mut().reset(Instant::now() + GOAWAY_WAIT);
            }
            () = listener_closed.as_mut(), if !is_leaving => {
                is_leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = goaway_wait.as_mut(), if is_ending => {
                if !client.watch.is_busy() {
                    return;
                }
                goaway_wait.as_mut().reset(Instant::now() + GOAWAY_WAIT);
            }
        }
    }
}

/// Answers one request of either version. Never fails: errors and panics become responses.
async fn answer(
    worker: &Arc<Worker>,
    client: &Arc<Client>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let app = request.extensions_mut().remove::<OnUpgrade>();
    let info = RequestInfo {
        version: request.version(),
        method: request.method().clone(),
        // Not `contains_key`: comparing every name is cheaper than hashing one.
        expects_continue: request.headers().keys().any(|name| *name == EXPECT),
    };
    let request = match info.version {
        Version::HTTP_2 => {
            headers::join_cookies(request.headers_mut());
            request.map(AppBody::http2)
        }
        _ => request.map(|body| AppBody::http1(body, info.expects_continue, &client.watch)),
    };
    let response = catch_unwind(handle(worker, client, request)).await;
    let mut response = response.unwrap_or_else(|| {
        let error = ProxyError::Internal("a panic while the request was handled");
        let measure = Measure::start(&client.watch);
        respond::problem(&error, false, measure, &worker.proxy.metrics)
    });
    let limits = worker.proxy.snapshot.load().settings.body_timeout;
    // The app may pause within a stream of events or a tunnel.
    let exact = response.body().size_hint().exact();
    let limit = exact.map_or(limits.streaming, |_| Some(limits.announced));
    match info.version {
        Version::HTTP_2 => finish_http2(client, &mut response, &info, limit),
        _ => finish_http1(client, &mut response, &info, limit),
    }
    if let (Some(app), Some(tunnel)) = (app, response.body_mut().take_tunnel()) {
        client.watch.becomes_tunnel();
        tokio::spawn(upgrade::run(app, tunnel, Arc::clone(client)));
    }
    Ok(response)
}

/// The parts of a request that determine the form of its response.
struct RequestInfo {
    version: Version,
    method: Method,
    /// The app may wait for `100 Continue` before it sends the body.
    expects_continue: bool,
}

/// Adds `Connection: close` where hyper does not know that the connection ends.
fn finish_http1(
    client: &Client,
    response: &mut Response<ResponseBody>,
    info: &RequestInfo,
    limit: Option<Duration>,
) {
    client.watch.limit_writes(limit);
    let has_length = response.body().size_hint().exact().is_some();
    let ends_by_close = info.version == Version::HTTP_10 && !has_length;
    if ends_by_close {
        client.watch.ends_by_close();
    }
    // An unread body, or bytes for a tunnel behind CONNECT, would pass for the next request.
    let watch = &client.watch;
    let rest_is_unread =
        response.body().is_own() && watch.has_long_rest(info.expects_continue, app_body::SKIP);
    let closes =
        ends_by_close || rest_is_unread || info.method == Method::CONNECT || client.is_leaving();
    if closes && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

/// Fixes the framing, as hyper does for HTTP/1.1 only, and registers the body for the sweep.
fn finish_http2(
    client: &Client,
    response: &mut Response<ResponseBody>,
    info: &RequestInfo,
    limit: Option<Duration>,
) {
    let has_no_content = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
    if has_no_content.contains(&response.status()) {
        // RFC 9110 §8.6: a length would be that of another representation.
        response.body_mut().hide_length();
    } else if info.method == Method::HEAD {
        if let Some(length @ 1..) = response.body().size_hint().exact() {
            let headers = response.headers_mut();
            headers.entry(CONTENT_LENGTH).or_insert(length.into());
        }
        response.body_mut().drop_content();
    } else if let Some(limit) = limit {
        let progress = client.watch.track_body(limit);
        response.body_mut().note_progress(progress);
    }
}

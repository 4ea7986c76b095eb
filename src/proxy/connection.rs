//! An app's connection, served by hyper to its end: HTTP/1.x, or HTTP/2 if it begins with the
//! preface (RFC 9113 §3.3).
//!
//! One service answers the requests of both ([`answer`]). hyper parses and frames; heads that it
//! refuses get its bare 400, 414 or 431. [`ClientIo`] is between it and the socket.

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
use super::door::Door;
use super::error::ProxyError;
use super::respond::{self, Shape};
use super::response_body::{Measure, ResponseBody};
use super::watch::End;
use super::worker::{Client, ConnectionPermit, Worker};
use super::{handle, headers, upgrade};
use crate::catch_unwind::catch_unwind;
use crate::upstream::{MAX_FIELDS, MAX_HEAD};

/// How much of a request's body an HTTP/2 app may send before it is read.
const WINDOW: u32 = 256 * 1024;

/// Larger than [`MAX_HEAD`], which the guard checks. hyper answers a larger section by itself, or hands
/// over its beginning as if it were the whole.
const MAX_FIELD_SECTION: u32 = 4 * MAX_HEAD as u32;

const MAX_STREAMS: u32 = 256;

/// How much of each response waits in h2 for an HTTP/2 app to take it.
const SEND_BUFFER: usize = 64 * 1024;

/// How long an HTTP/2 connection without requests may take to close after GOAWAY: an app that is
/// gone does not answer the last PING either.
const GOAWAY_WAIT: Duration = Duration::from_secs(5);

/// Why an HTTP/1.x connection ends.
enum Ended {
    /// hyper is done with it.
    ByHyper(hyper::Result<()>),
    /// The connection is idle, or stands still.
    Closed,
    /// The head of a request did not come in.
    HeadTimeout,
}

/// Serves one connection to its end.
pub(super) async fn serve(
    worker: Arc<Worker>,
    stream: ClientStream,
    door: Arc<Door>,
    permit: ConnectionPermit,
) {
    let (member, mut end) = worker.registry.enter();
    let client = Arc::new(Client::new(door, stream.peer_uid(), member, permit));
    let limit = worker.proxy.snapshot.load().settings.body_timeout.known;
    client.watch.limit_writes(Some(limit));
    let io = ClientIo::new(stream, Arc::clone(&client.watch));
    if let Some(io) = serve_http1(&worker, &client, io, &mut end).await {
        // Boxed, so that connections which speak HTTP/1.1 do not hold memory for it.
        Box::pin(serve_http2(worker, client, io, end)).await;
    }
}

/// Sends `error` on a connection that is not served, and closes it.
pub(super) async fn refuse(worker: Arc<Worker>, stream: ClientStream, error: ProxyError) {
    let text = respond::raw_problem(&error, &worker.proxy.metrics);
    ClientIo::new(stream, Arc::default()).refuse(&text).await;
}

/// Serves HTTP/1.x. Returns the connection if it speaks HTTP/2; nothing was answered on it then.
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
        result = &mut connection => Ended::ByHyper(result),
        reason = end => match reason {
            Ok(End::HeadTimeout) => Ended::HeadTimeout,
            Ok(End::IdleTimeout | End::Stalled) => Ended::Closed,
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
        Ended::ByHyper(Err(error)) if error.is_parse_version_h2() => {
            if client.watch.message().number == 0 {
                return Some(io.rewound(parts.read_buf));
            }
            let error = ProxyError::BadRequest("the preface of HTTP/2 after requests by HTTP/1.1");
            let text = respond::raw_problem(&error, &worker.proxy.metrics);
            io.refuse(&text).await;
        }
        Ended::ByHyper(Err(error)) if error.is_parse() => {
            tracing::debug!(%error, "malformed request head");
            worker.proxy.metrics.count_error("", "malformed_head");
            io.close().await;
        }
        Ended::ByHyper(Err(error)) => {
            tracing::debug!(%error, "client connection ended");
            io.abort().await;
        }
        Ended::ByHyper(Ok(())) => io.close().await,
        // In the middle of another response, a 408 would be taken for a part of it.
        Ended::HeadTimeout if !client.watch.is_blocked() => {
            let text = respond::raw_problem(&ProxyError::RequestTimeout, &worker.proxy.metrics);
            io.refuse(&text).await;
        }
        // The rest of a short upload may still be coming in.
        Ended::Closed if client.watch.message().number > 0 => io.abort().await,
        Ended::HeadTimeout | Ended::Closed => {}
    }
    None
}

/// Lets a connection finish the request at hand, also one whose head has begun to come in.
async fn drain_http1<S>(
    client: &Client,
    connection: &mut http1::UpgradeableConnection<TokioIo<ClientIo>, S>,
    head_timeout: Duration,
) -> Ended
where
    S: HttpService<Incoming, ResBody = ResponseBody, Error = Infallible>,
{
    let watch = &client.watch;
    if watch.is_in_head() {
        // hyper takes a connection with half a head for idle, and would close it.
        client.leave();
        match timeout(head_timeout, &mut *connection).await {
            Ok(result) => return Ended::ByHyper(result),
            Err(_) if watch.is_in_head() => return Ended::HeadTimeout,
            Err(_) => {}
        }
    } else if !watch.is_busy() && !watch.is_blocked() {
        return Ended::Closed;
    }
    Pin::new(&mut *connection).graceful_shutdown();
    Ended::ByHyper(connection.await)
}

/// Serves HTTP/2 to its end.
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
        // As much as all streams: one whose body is not read yet holds up no other.
        .initial_connection_window_size(MAX_STREAMS * WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_FIELD_SECTION)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut listener_closed = pin!(client.door.closed());
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
                    return tracing::debug!("an HTTP/2 app grants no window for a response");
                }
                is_ending = true;
                connection.as_mut().graceful_shutdown();
                goaway_wait.as_mut().reset(Instant::now() + GOAWAY_WAIT);
            }
            () = listener_closed.as_mut(), if !is_leaving => {
                is_leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = goaway_wait.as_mut(), if is_ending => match client.watch.is_busy() {
                false => return,
                // A request that crossed the GOAWAY, or that was there already.
                true => goaway_wait.as_mut().reset(Instant::now() + GOAWAY_WAIT),
            },
        }
    }
}

/// Answers one request of either version. Never fails: every error becomes a response, a panic too.
async fn answer(
    worker: &Arc<Worker>,
    client: &Arc<Client>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let app = request.extensions_mut().remove::<OnUpgrade>();
    let asked = Asked::by(&request);
    let request = match asked.version {
        Version::HTTP_2 => {
            headers::join_cookies(request.headers_mut());
            request.map(AppBody::http2)
        }
        _ => request.map(|body| AppBody::http1(body, asked.expects_continue, &client.watch)),
    };
    let response = catch_unwind(handle(worker, client, request)).await;
    let mut response = response.unwrap_or_else(|| {
        respond::problem(
            &ProxyError::Internal("a panic while the request was handled"),
            Shape::default(),
            Measure::start(&client.watch),
            &worker.proxy.metrics,
        )
    });
    let patience = worker.proxy.snapshot.load().settings.body_timeout;
    // Events and tunnels may wait for an app that does something else for a while.
    let exact = response.body().size_hint().exact();
    let limit = exact.map_or(patience.unknown, |_| Some(patience.known));
    match asked.version {
        Version::HTTP_2 => finish_http2(client, &mut response, &asked, limit),
        _ => finish_http1(client, &mut response, &asked, limit),
    }
    if let (Some(app), Some(tunnel)) = (app, response.body_mut().take_tunnel()) {
        client.watch.becomes_tunnel();
        tokio::spawn(upgrade::run(app, tunnel, Arc::clone(client)));
    }
    Ok(response)
}

/// What the form of a response depends on.
struct Asked {
    version: Version,
    method: Method,
    /// The app may wait for `100 Continue` before it sends the body.
    expects_continue: bool,
}

impl Asked {
    fn by<B>(request: &Request<B>) -> Self {
        Self {
            version: request.version(),
            method: request.method().clone(),
            expects_continue: request.headers().contains_key(EXPECT),
        }
    }
}

/// Says whether the connection ends with this response, where hyper does not know.
fn finish_http1(
    client: &Client,
    response: &mut Response<ResponseBody>,
    asked: &Asked,
    limit: Option<Duration>,
) {
    client.watch.limit_writes(limit);
    let ends_by_close =
        asked.version == Version::HTTP_10 && response.body().size_hint().exact().is_none();
    if ends_by_close {
        client.watch.ends_by_close();
    }
    // Where the rest of a body is not worth reading, nothing tells it from the next request. The
    // same is true of what follows CONNECT, which may be meant for a tunnel.
    let rest_is_unread = response.body().is_own()
        && client
            .watch
            .has_long_rest(asked.expects_continue, app_body::SKIP);
    let closes =
        ends_by_close || rest_is_unread || asked.method == Method::CONNECT || client.is_leaving();
    if closes && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

/// Does what hyper does by itself for HTTP/1.1 only, and what the sweep needs.
fn finish_http2(
    client: &Client,
    response: &mut Response<ResponseBody>,
    asked: &Asked,
    limit: Option<Duration>,
) {
    // RFC 9110 §8.6: where no content follows, a length is that of something else.
    if matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    ) {
        response.body_mut().hide_length();
    } else if asked.method == Method::HEAD {
        let length = response.body().size_hint().exact();
        if let Some(length @ 1..) = length {
            let headers = response.headers_mut();
            headers.entry(CONTENT_LENGTH).or_insert(length.into());
        }
        response.body_mut().drop_content();
    } else if let Some(limit) = limit {
        let taken = client.watch.body_on_its_way(limit);
        response.body_mut().must_be_taken(taken);
    }
}

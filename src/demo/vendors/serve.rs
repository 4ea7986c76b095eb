//! Sockets, TLS and HTTP of a fake vendor.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::call::{Call, Grant, Refusal, Reply};
use super::ledger::Issued;
use super::{Fault, Kind, Role, Shared, State, What};
use super::{api, besender, cncn, ctcfile, identityserver, passport};

/// Serves until it is dropped, and with it every connection.
pub(super) async fn run(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    role: Role,
    shared: Arc<Shared>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => {
                    connections.spawn(connection(stream, acceptor.clone(), role, Arc::clone(&shared)));
                }
                // Out of file descriptors, most likely: they come back when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, role: Role, shared: Arc<Shared>) {
    if role == Role::Token && shared.state().fault == Some(Fault::Down) {
        // A reset is what a client sees of a vendor that is down, without giving up the port.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return;
    }
    let _ = stream.set_nodelay(true);
    // A client that breaks off its handshake or connection is its own business.
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    if role == Role::Token && shared.state().fault == Some(Fault::HalfClosed) {
        let _ = stream.shutdown().await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        return;
    }
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| handle(request, role, Arc::clone(&shared)));
    let io = TokioIo::new(stream);
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await
    };
}

async fn handle(
    request: Request<Incoming>,
    role: Role,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let reply = match role {
        Role::Token => {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let call = Call::new(parts, body);
            match authorization(&shared, &call) {
                Some(reply) => reply,
                None => token(&shared, &call).await,
            }
        }
        Role::Api => {
            let (parts, mut body) = request.into_parts();
            let mut body_bytes = 0;
            while !body.is_end_stream() {
                let Some(frame) = body.frame().await else {
                    break;
                };
                body_bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
            }
            api::serve(
                &shared,
                &parts.method,
                &parts.uri,
                &parts.headers,
                body_bytes,
            )
        }
    };
    Ok(reply.into_response())
}

/// `None` if it is the token endpoint that is asked.
fn authorization(shared: &Shared, call: &Call) -> Option<Reply> {
    let asked =
        shared.kind == Kind::IdentityServer && call.path == identityserver::AUTHORIZATION_PATH;
    asked.then(|| identityserver::authorize(call, &mut shared.state().identity))
}

async fn token(shared: &Shared, call: &Call) -> Reply {
    let (reply, delay) = {
        let mut state = shared.state();
        let fault = state.fault;
        let reply = decide(shared, &mut state, fault, call);
        let delay = match fault {
            Some(Fault::Slow(delay)) => Some(delay),
            _ => None,
        };
        (reply, delay)
    };
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    reply
}

fn decide(shared: &Shared, state: &mut State, fault: Option<Fault>, call: &Call) -> Reply {
    state.counters.token_requests += 1;
    if let Some(fault) = fault
        && let Some(reply) = fault.reply()
    {
        refused(shared, state, format!("fault {fault:?}"));
        return reply;
    }
    let checked = match fault {
        Some(Fault::RejectCredentials) => Err(wrong_credentials(shared.kind)),
        _ => check(shared.kind, state, call),
    };
    let grant = match checked {
        Ok(grant) => grant,
        Err(Refusal { reply, reason }) => {
            refused(shared, state, reason);
            return reply;
        }
    };
    let mut issued = state.ledger.issue(state.life);
    state.counters.issued += 1;
    shared.tell(What::TokenIssued {
        number: issued.number,
        grant: grant.name.clone(),
        life: issued.life,
    });
    if fault == Some(Fault::ControlBytes) {
        issued.token.insert_str(8, "\r\nX-Injected: yes\u{7}");
    }
    answer(shared.kind, &grant, &issued)
}

fn refused(shared: &Shared, state: &mut State, reason: String) {
    state.counters.refused += 1;
    state.record_refusal(format!("token: {reason}"));
    shared.tell(What::TokenRefused { reason });
}

fn check(kind: Kind, state: &mut State, call: &Call) -> Result<Grant, Refusal> {
    match kind {
        Kind::Cncn => cncn::check(call),
        Kind::Besender => besender::check(call),
        Kind::Ctcfile => ctcfile::check(call),
        Kind::IdentityServer => identityserver::check(call, &mut state.identity),
        Kind::Passport => passport::check(call),
    }
}

fn answer(kind: Kind, grant: &Grant, issued: &Issued) -> Reply {
    match kind {
        Kind::Cncn => cncn::answer(issued),
        Kind::Besender => besender::answer(issued),
        Kind::Ctcfile => ctcfile::answer(issued),
        Kind::IdentityServer => identityserver::answer(grant, issued),
        Kind::Passport => passport::answer(issued),
    }
}

fn wrong_credentials(kind: Kind) -> Refusal {
    let reason = "fault RejectCredentials".to_owned();
    match kind {
        Kind::Cncn => cncn::wrong_credentials(reason),
        Kind::Besender => besender::wrong_credentials(reason),
        Kind::Ctcfile => ctcfile::wrong_credentials(reason),
        Kind::IdentityServer => identityserver::wrong_credentials(reason),
        Kind::Passport => passport::wrong_credentials(reason),
    }
}

impl Reply {
    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            http::HeaderValue::from_static(self.media_type),
        );
        headers.extend(
            self.headers
                .into_iter()
                .map(|(name, value)| (Some(name), value)),
        );
        response
    }
}

//! Sockets, TLS and HTTP of a fake vendor.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
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

/// Serves until the future is dropped, which also closes all connections.
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
                    let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                    connections.spawn(connection(stream, acceptor, role, shared));
                }
                // Usually no file descriptor is free until another connection ends.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, role: Role, shared: Arc<Shared>) {
    if role == Role::Token && shared.state().fault == Some(Fault::Down) {
        // Resets the connection, so that the vendor looks down but keeps its port.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return;
    }
    let _ = stream.set_nodelay(true);
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
    let (parts, mut body) = request.into_parts();
    let reply = match role {
        Role::Token => {
            let body = body.collect().await?.to_bytes();
            let call = Call { parts, body };
            match authorization(&shared, &call) {
                Some(reply) => reply,
                None => token(&shared, &call).await,
            }
        }
        Role::Api => {
            let mut body_bytes = 0;
            while let Some(frame) = body.frame().await {
                body_bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
            }
            api::serve(&shared, &parts, body_bytes)
        }
    };
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    response.headers_mut().extend(reply.headers);
    Ok(response)
}

/// Returns the response of the authorization endpoint; `None` for a request of the token endpoint.
fn authorization(shared: &Shared, call: &Call) -> Option<Reply> {
    let is_vendor = shared.kind == Kind::IdentityServer;
    let asked = is_vendor && call.parts.uri.path() == identityserver::AUTHORIZATION_PATH;
    asked.then(|| identityserver::authorize(call, &mut shared.state().identity))
}

async fn token(shared: &Shared, call: &Call) -> Reply {
    let (fault, reply) = {
        let mut state = shared.state();
        (state.fault, decide(shared, &mut state, call))
    };
    if let Some(Fault::Slow(delay)) = fault {
        tokio::time::sleep(delay).await;
    }
    reply
}

fn decide(shared: &Shared, state: &mut State, call: &Call) -> Reply {
    let fault = state.fault;
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
    shared.send(What::TokenIssued {
        number: issued.number,
        grant: grant.name.clone(),
        life: issued.life,
    });
    if fault == Some(Fault::ControlBytes) {
        issued.token.insert_str(8, "\r\nX-Injected: yes\u{7}");
    }
    response(shared.kind, &grant, &issued)
}

fn refused(shared: &Shared, state: &mut State, reason: String) {
    state.counters.refused += 1;
    state.record_refusal(format!("token: {reason}"));
    shared.send(What::TokenRefused { reason });
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

fn response(kind: Kind, grant: &Grant, issued: &Issued) -> Reply {
    match kind {
        Kind::Cncn => cncn::response(issued),
        Kind::Besender => besender::response(issued),
        Kind::Ctcfile => ctcfile::response(issued),
        Kind::IdentityServer => identityserver::response(grant, issued),
        Kind::Passport => passport::response(issued),
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

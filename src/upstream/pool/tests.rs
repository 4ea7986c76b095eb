//! Tests over loopback against a real server that counts opened and closed connections.

mod support;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::Scheme;
use crate::demo::authority::Offer;
use crate::testing::{TestCa, closed_port, destination};
use crate::upstream::connect::Resolver;
use crate::upstream::{RequestBody, SendFailure};
use support::*;

const WAIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_last_returned_connection_is_used_first() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let first = pool.send("/").await.ok().unwrap();
    let second = pool.send("/").await.ok().unwrap();
    assert_eq!((finish(first).await, finish(second).await), (1, 2));
    let last = pool.send("/").await.ok().unwrap();
    let before = pool.send("/").await.ok().unwrap();
    assert_eq!((finish(last).await, finish(before).await), (2, 1));
    assert_eq!((server.opened(), pool.dials(), pool.open()), (2, 2, 2));
}

#[tokio::test]
async fn a_connection_returns_when_the_response_has_been_read() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let streaming = pool.send("/stream").await.ok().unwrap();
    assert_eq!(pool.ask("/").await, 2);
    server.release(1);
    assert_eq!(finish(streaming).await, 1);
    assert_eq!(pool.ask("/").await, 1);
    assert_eq!(server.closed(), 0);
}

#[tokio::test]
async fn a_response_without_a_body_returns_its_connection_at_once() {
    let address = raw_server("HTTP/1.1 204 No Content\r\n\r\n").await;
    let pool = Fixture::new(address, Alpn::Both);
    let _response = pool.send("/").await.ok().unwrap();
    until(|| idle(&pool) == 1).await;
}

#[tokio::test]
async fn a_response_dropped_early_closes_its_connection() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let mut response = pool.send("/stream").await.ok().unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    until(|| pool.open() == 0 && server.closed() == 1).await;
    assert_eq!(pool.ask("/").await, 2);
}

#[tokio::test]
async fn a_cancelled_request_closes_its_connection() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let request = pool.spawn("/hold");
    until(|| server.requests() == 1).await;
    request.abort();
    until(|| pool.open() == 0 && server.closed() == 1).await;
    assert_eq!((pool.dials(), pool.failed_dials()), (1, 0));
}

#[tokio::test]
async fn an_unused_checkout_returns_to_the_pool() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    drop(pool.pool.checkout().await.unwrap());
    let checkout = pool.pool.checkout().await.unwrap();
    assert!(!checkout.is_reused());
    drop(checkout);
    pool.ask("/").await;
    assert!(pool.pool.checkout().await.unwrap().is_reused());
    assert_eq!(server.opened(), 1);
}

#[tokio::test]
async fn a_connection_closed_by_the_peer_is_not_used() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    pool.ask("/").await;
    server.go_away();
    until(|| server.closed() == 1).await;
    settle().await;
    let checkout = pool.pool.checkout().await.unwrap();
    assert!(!checkout.is_reused());
    assert_eq!((pool.dials(), pool.open()), (2, 1));
}

#[tokio::test]
async fn an_unwritten_request_can_be_sent_again() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    pool.ask("/").await;
    let checkout = pool.pool.checkout().await.unwrap();
    server.go_away();
    until(|| server.closed() == 1).await;
    settle().await;
    let request = get(&checkout, "/again");
    let error = send(checkout, request, WAIT).await.err().unwrap();
    assert!(error.reused && error.unsent);
    // With the retry, the caller does not notice.
    assert_eq!(pool.ask("/").await, 2);
}

#[tokio::test]
async fn a_written_request_on_a_broken_connection_is_not_unsent() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    pool.ask("/").await;
    let checkout = pool.pool.checkout().await.unwrap();
    let request = get(&checkout, "/hold");
    let sent = tokio::spawn(send(checkout, request, WAIT));
    until(|| server.requests() == 2).await;
    server.go_away();
    let error = sent.await.unwrap().err().unwrap();
    assert!(error.reused && !error.unsent);
    assert!(matches!(error.failure, SendFailure::Closed(_)));
}

#[tokio::test]
async fn a_response_that_is_not_http_is_a_protocol_error() {
    let pool = Fixture::new(raw_server("SSH-2.0-x\r\n\r\n").await, Alpn::Both);
    let error = pool.send("/").await.err().unwrap();
    assert!(matches!(error.failure, SendFailure::Protocol(_)));
    until(|| pool.open() == 0).await;
}

#[tokio::test]
async fn a_cold_burst_with_fast_responses_shares_connections() {
    // Over TLS, because a plain dial over loopback is faster than any response.
    let ca = TestCa::new();
    let acceptor = ca.server(Offer::default());
    let server = Server::start_with(Speaks::Http1, Some(acceptor)).await;
    let mut destination = destination(Scheme::Https, server.address, Alpn::Both);
    destination.tls = ca.client();
    let pool = Fixture::with(destination, LIMITS);
    join(std::iter::repeat_with(|| pool.spawn("/")).take(50)).await;
    // Here a dial takes as long as a response; slower dials would be fewer.
    assert!(server.opened() < 40, "{}", server.opened());
    assert_eq!(server.requests(), 50);
}

#[tokio::test]
async fn a_cold_burst_with_slow_responses_gets_one_connection_each() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let requests = Vec::from_iter(std::iter::repeat_with(|| pool.spawn("/hold")).take(50));
    until(|| server.requests() == 50).await;
    settle().await;
    assert_eq!((pool.dials(), pool.open()), (50, 50));
    server.release(50);
    join(requests).await;
    until(|| idle(&pool) == 50).await;
    assert_eq!((server.closed(), waiting(&pool)), (0, 0));
}

#[tokio::test]
async fn a_dial_outlives_the_request_that_started_it() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    poll_once(pin!(pool.pool.checkout()));
    until(|| idle(&pool) == 1).await;
    pool.ask("/").await;
    assert_eq!((pool.dials(), dialling(&pool)), (1, 0));
}

#[tokio::test]
async fn a_cancelled_waiter_is_skipped() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let request = {
        let mut given_up = Vec::from_iter((0..5).map(|_| Box::pin(pool.pool.checkout())));
        for waiter in &mut given_up {
            poll_once(waiter.as_mut());
        }
        pool.spawn("/hold")
    };
    until(|| server.requests() == 1).await;
    // A waiter that is cancelled while another request's connection returns.
    let mut waiter = Box::pin(pool.pool.checkout());
    poll_once(waiter.as_mut());
    drop(waiter);
    server.release(1);
    request.await.unwrap();
    until(|| dialling(&pool) == 0 && waiting(&pool) == 0).await;
    assert!(pool.dials() <= 2, "{}", pool.dials());
    assert_eq!(idle(&pool) as u64, pool.dials());
}

/// Nested drops, one per waiter, would overflow the stack.
#[tokio::test]
async fn many_cancelled_waiters_do_not_overflow_the_stack() {
    for speaks in [Speaks::Http1, Speaks::Http2(10)] {
        let server = Server::start(speaks).await;
        let pool = Fixture::new(server.address, alpn(speaks));
        let checkout = pool.pool.checkout().await.unwrap();
        let since = Instant::now();
        let gone = std::iter::repeat_with(|| Waiter {
            since,
            sender: oneshot::channel().0,
        });
        pool.pool.shared.lock().waiters.extend(gone.take(50_000));
        drop(checkout);
        assert_eq!(waiting(&pool), 0);
        assert_eq!(pool.ask("/").await, 1);
    }
}

#[tokio::test]
async fn a_returned_connection_goes_to_a_waiter() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let first = pool.spawn("/hold");
    until(|| server.requests() == 1).await;
    server.stop_accepting().await;
    // The kernel refuses the dial after the connection has returned.
    let mut waiter = pin!(pool.pool.checkout());
    poll_once(waiter.as_mut());
    server.release(1);
    tokio::select! {
        biased;
        first = first => assert_eq!(first.unwrap(), 1),
        _ = waiter => {}
    }
    until(|| waiting(&pool) == 0 && dialling(&pool) == 0).await;
}

#[tokio::test]
async fn before_the_version_is_known_one_failed_dial_fails_all_waiters() {
    let pool = Fixture::new(closed_port().await, Alpn::Both);
    let waiters = Vec::from_iter((0..5).map(|_| {
        let pool = pool.pool.clone();
        tokio::spawn(async move { pool.checkout().await.err() })
    }));
    for waiter in waiters {
        assert!(matches!(
            waiter.await.unwrap(),
            Some(ConnectError::Refused { .. })
        ));
    }
    assert_eq!((pool.failed_dials(), pool.dials()), (1, 0));
    until(|| dialling(&pool) == 0).await;
    assert_eq!((pool.open(), waiting(&pool)), (0, 0));
}

#[tokio::test]
async fn with_http1_each_failed_dial_fails_one_waiter() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let busy = pool.spawn("/hold");
    until(|| server.requests() == 1).await;
    server.stop_accepting().await;
    for _ in 0..3 {
        assert!(pool.pool.checkout().await.is_err());
    }
    let requests = Vec::from_iter((0..3).map(|_| {
        let pool = pool.pool.clone();
        tokio::spawn(async move { pool.checkout().await.is_err() })
    }));
    for waiter in requests {
        assert!(waiter.await.unwrap());
    }
    assert_eq!((pool.failed_dials(), pool.dials()), (6, 1));
    server.release(1);
    busy.await.unwrap();
    assert_eq!((idle(&pool), waiting(&pool), dialling(&pool)), (1, 0, 0));
}

#[tokio::test]
async fn waiters_older_than_the_connect_timeout_share_the_next_failure() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let now = Instant::now();
    let limit = LIMITS.connect;
    let mut receivers = Vec::new();
    {
        let mut state = pool.pool.shared.lock();
        state.version = Some(Version::Http1);
        for since in [now - 2 * limit, now - limit, now - limit / 2, now] {
            let (sender, receiver) = oneshot::channel();
            state.waiters.push_back(Waiter { since, sender });
            receivers.push(receiver);
        }
    }
    let failure = Connector::new(
        destination(Scheme::Http, closed_port().await, Alpn::Both),
        &crate::upstream::tls::TlsProfiles::new(),
    );
    let error = failure.unwrap().connect(WAIT).await.unwrap_err();
    pool.pool.shared.fail_waiters(&error);
    let failed = receivers
        .iter_mut()
        .map(|receiver| matches!(receiver.try_recv(), Ok(Err(_))));
    assert_eq!(Vec::from_iter(failed), [true, true, false, false]);
    pool.pool.shared.fail_waiters(&error);
    assert_eq!(waiting(&pool), 1);
}

#[tokio::test]
async fn after_a_panicked_dial_the_waiters_dial_themselves() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let shared = Arc::clone(&pool.pool.shared);
    shared.lock().dials += 1;
    let request = pool.spawn("/");
    settle().await;
    assert_eq!((waiting(&pool), pool.dials()), (1, 0));
    let dialling_task = Dialling {
        pool: shared,
        ended: false,
    };
    let panicked = tokio::spawn(async move {
        let _dialling = dialling_task;
        panic!("a fault in a dial");
    });
    assert!(panicked.await.is_err());
    assert_eq!(dialling(&pool), 0);
    assert_eq!(request.await.unwrap(), 1);
    assert_eq!((dialling(&pool), pool.dials()), (0, 1));
}

/// Dials that are dropped with the runtime must not start others: that was a deadlock.
#[test]
fn a_runtime_ends_with_dials_and_waiters() {
    let (ended, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let pool = runtime.block_on(async {
            // The kernel accepts; no task answers the TLS handshake.
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let ca = TestCa::new();
            let mut destination =
                destination(Scheme::Https, listener.local_addr().unwrap(), Alpn::Both);
            destination.tls = ca.client();
            let pool = Fixture::with(destination, LIMITS);
            for _ in 0..3 {
                let pool = pool.pool.clone();
                tokio::spawn(async move { drop(pool.checkout().await) });
            }
            // This waiter outlives the runtime's tasks.
            let patient = pool.pool.clone();
            let mut waiter = Box::pin(async move { patient.checkout().await.is_ok() });
            poll_once(waiter.as_mut());
            until(|| waiting(&pool) == 4).await;
            settle().await;
            (pool, waiter, listener, ca)
        });
        drop(runtime);
        assert_eq!(dialling(&pool.0), 0);
        ended.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(10))
        .expect("the runtime ends");
}

#[tokio::test]
async fn idle_connections_are_closed_after_the_idle_limit() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    pool.ask("/").await;
    pass(LIMITS.idle / 2).await;
    assert_eq!(pool.open(), 1);
    pass(LIMITS.idle / 2).await;
    until(|| pool.open() == 0 && server.closed() == 1).await;
    assert!(!pool.pool.shared.lock().sweeping);
    // The next connection restarts the sweep.
    pool.ask("/").await;
    assert!(pool.pool.shared.lock().sweeping);
}

#[tokio::test]
async fn a_busy_connection_is_not_kept_beyond_its_life() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let mut passed = Duration::ZERO;
    while passed < LIFE - LIMITS.idle {
        assert_eq!(pool.ask("/").await, 1);
        pass(LIMITS.idle / 2).await;
        passed += LIMITS.idle / 2;
    }
    let streaming = pool.send("/stream").await.ok().unwrap();
    pass(LIFE - passed).await;
    server.release(1);
    assert_eq!(finish(streaming).await, 1);
    assert_eq!(pool.ask("/").await, 2);
    until(|| server.closed() == 1).await;
}

/// Each connect resolves the name, so a change takes effect within a connection's life.
#[tokio::test]
async fn a_changed_address_is_used_after_a_connections_life() {
    for (speaks, alpn) in [
        (Speaks::Http1, Alpn::Http1),
        (Speaks::Http2(1), Alpn::Http2),
    ] {
        let (old, new) = (Server::start(speaks).await, Server::start(speaks).await);
        let addresses = Arc::new(Mutex::new(vec![old.address]));
        let mut destination = destination(Scheme::Http, old.address, alpn);
        destination.connect_to = Some(("moving.test".to_owned(), 80));
        let pool =
            Fixture::with_resolver(Resolver::Fixed(Arc::clone(&addresses)), destination, LIMITS);
        pool.ask("/").await;
        *addresses.lock().unwrap() = vec![new.address];
        let first = pool.send("/stream").await.ok().unwrap();
        assert_eq!((old.requests(), new.requests()), (2, 0));
        // The open connection has no free stream for this request.
        pool.ask("/").await;
        assert_eq!((old.requests(), new.requests()), (2, 1));
        old.release(1);
        finish(first).await;
        // Always busy, so that the connection is not idle.
        let mut passed = Duration::ZERO;
        while passed < LIFE - LIMITS.idle {
            let both = [pool.send("/stream").await, pool.send("/stream").await];
            old.release(1);
            new.release(1);
            for response in both {
                finish(response.ok().unwrap()).await;
            }
            pass(LIMITS.idle / 2).await;
            passed += LIMITS.idle / 2;
        }
        let before = old.requests();
        assert_eq!(before, new.requests() + 1);
        pass(LIFE - passed).await;
        for _ in 0..3 {
            pool.ask("/").await;
        }
        assert_eq!(old.requests(), before);
        until(|| old.closed() == 1).await;
    }
}

#[tokio::test]
async fn an_expired_connection_does_not_go_to_a_waiter() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let streaming = pool.send("/stream").await.ok().unwrap();
    pass(LIFE).await;
    // As if another dial were pending for ever.
    pool.pool.shared.lock().dials += 1;
    let mut waiter = pin!(pool.pool.checkout());
    poll_once(waiter.as_mut());
    server.release(1);
    finish(streaming).await;
    poll_once(waiter.as_mut());
    until(|| server.closed() == 1).await;
    assert_eq!((waiting(&pool), pool.open()), (1, 0));
}

#[tokio::test]
async fn an_expired_connection_is_not_used_before_the_sweep() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    pool.ask("/").await;
    let later = Instant::now() + LIMITS.idle;
    let mut state = pool.pool.shared.lock();
    assert!(!state.idle[0].usable(later, LIMITS.idle));
    assert!(state.idle[0].usable(later, LIMITS.idle * 2));
    assert!(!state.idle[0].usable(later + LIFE, LIFE * 2));
}

#[tokio::test]
async fn an_upstream_without_a_response_times_out() {
    let server = Server::start(Speaks::Http1).await;
    let pool = Fixture::new(server.address, Alpn::Both);
    let checkout = pool.pool.checkout().await.unwrap();
    let request = get(&checkout, "/hold");
    let sent = tokio::spawn(send(checkout, request, WAIT));
    until(|| server.requests() == 1).await;
    pass(WAIT - Duration::from_millis(100)).await;
    assert!(!sent.is_finished());
    pass(Duration::from_millis(200)).await;
    let error = sent.await.unwrap().err().unwrap();
    assert!(matches!(error.failure, SendFailure::Timeout));
    until(|| pool.open() == 0).await;
}

#[tokio::test]
async fn the_response_timeout_starts_after_the_upload() {
    for speaks in [Speaks::Http1, Speaks::Http2(10)] {
        let server = Server::start(speaks).await;
        let pool = Fixture::new(server.address, alpn(speaks));
        let (mut app, body) = upload(&[]).await;
        let checkout = pool.pool.checkout().await.unwrap();
        let request = with_body(&checkout, "/swallow", body);
        let sent = tokio::spawn(send(checkout, request, WAIT));
        for round in 1..=3 {
            app.write_all(b"3\r\nabc\r\n").await.unwrap();
            until(|| server.counts.swallowed.load(ORDER) == 3 * round).await;
            // Only the app is slow.
            pass(WAIT * 2).await;
            assert!(!sent.is_finished());
        }
        app.write_all(b"0\r\n\r\n").await.unwrap();
        let response = sent.await.unwrap().ok().unwrap();
        assert_eq!(response.headers()["x-length"], "9");
    }
}

#[tokio::test]
async fn an_upload_that_the_upstream_does_not_take_times_out() {
    let pool = Fixture::new(raw_server("").await, Alpn::Both);
    let (mut app, body) = upload(&[]).await;
    let sending = tokio::spawn(async move {
        let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
        while app.write_all(chunk.as_bytes()).await.is_ok() {}
    });
    let checkout = pool.pool.checkout().await.unwrap();
    let request = with_body(&checkout, "/", body);
    let sent = tokio::spawn(send(checkout, request, WAIT));
    // Until all buffers are full.
    for _ in 0..20 {
        settle().await;
    }
    assert!(!sent.is_finished());
    pass(WAIT * 2).await;
    let error = sent.await.unwrap().err().unwrap();
    assert!(matches!(error.failure, SendFailure::Timeout));
    until(|| pool.open() == 0).await;
    sending.abort();
}

#[tokio::test]
async fn an_upload_longer_than_its_response_closes_the_connection() {
    let early = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";
    let pool = Fixture::new(raw_server(early).await, Alpn::Both);
    let (mut app, body) = upload(&[]).await;
    let sending = tokio::spawn(async move {
        let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
        while app.write_all(chunk.as_bytes()).await.is_ok() {}
    });
    let checkout = pool.pool.checkout().await.unwrap();
    let request = with_body(&checkout, "/", body);
    let response = send(checkout, request, WAIT).await.ok().unwrap();
    assert_eq!(response.status(), 413);
    let content = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(content, "no");
    assert_eq!((idle(&pool), pool.open()), (0, 0));
    sending.abort();
}

#[tokio::test]
async fn an_upload_cut_off_by_the_app_is_an_app_error() {
    for speaks in [Speaks::Http1, Speaks::Http2(10)] {
        let server = Server::start(speaks).await;
        let pool = Fixture::new(server.address, alpn(speaks));
        let (mut app, body) = upload(&[]).await;
        app.write_all(b"3\r\nab").await.unwrap();
        let checkout = pool.pool.checkout().await.unwrap();
        let request = with_body(&checkout, "/swallow", body);
        let sent = tokio::spawn(send(checkout, request, WAIT));
        until(|| server.requests() == 1).await;
        drop(app);
        let error = sent.await.unwrap().err().unwrap();
        let failure = error.failure;
        assert!(matches!(failure, SendFailure::App(_)), "{failure:?}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_counted_until_it_is_closed() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhi";
    let pool = Fixture::new(raw_server(switch).await, Alpn::Both);
    let checkout = pool.pool.dial_http1().await.unwrap();
    let request = Request::get("/")
        .header("connection", "upgrade")
        .header("upgrade", "x")
        .body(RequestBody::Empty)
        .unwrap();
    let mut response = send(checkout, request, WAIT).await.ok().unwrap();
    let mut upgraded = response.body_mut().take_tunnel().unwrap();
    drop(response);
    let mut hi = [0; 2];
    upgraded.read_exact(&mut hi).await.unwrap();
    pass(Duration::from_secs(5)).await;
    assert_eq!((pool.open(), idle(&pool)), (1, 0));
    drop(upgraded);
    until(|| pool.open() == 0).await;
}

#[tokio::test]
async fn a_cold_burst_makes_one_http2_connection() {
    let ca = TestCa::new();
    let acceptor = ca.server(Offer {
        http2: true,
        ..Offer::default()
    });
    let server = Server::start_with(Speaks::Http2(100), Some(acceptor)).await;
    let mut destination = destination(Scheme::Https, server.address, Alpn::Both);
    destination.tls = ca.client();
    let pool = Fixture::with(destination, LIMITS);
    let requests = Vec::from_iter(std::iter::repeat_with(|| pool.spawn("/hold")).take(50));
    until(|| server.requests() == 50).await;
    server.release(50);
    join(requests).await;
    assert_eq!((server.opened(), pool.dials(), pool.open()), (1, 1, 1));
    assert_eq!(in_flight(&pool), 0);
}

#[tokio::test]
async fn the_peers_stream_limit_holds_from_the_first_request() {
    let server = Server::start(Speaks::Http2(2)).await;
    let pool = Fixture::new(server.address, Alpn::Http2);
    let requests = Vec::from_iter(std::iter::repeat_with(|| pool.spawn("/hold")).take(5));
    // No stream is refused or waits for the end of another: 2 + 2 + 1.
    until(|| server.requests() == 5).await;
    assert_eq!((server.opened(), in_flight(&pool)), (3, 5));
    server.release(5);
    join(requests).await;
    assert_eq!((in_flight(&pool), waiting(&pool)), (0, 0));
}

#[tokio::test]
async fn dropping_a_request_or_response_frees_its_stream() {
    let server = Server::start(Speaks::Http2(2)).await;
    let pool = Fixture::new(server.address, Alpn::Http2);
    pool.ask("/").await;
    let given_up = pool.spawn("/hold");
    let mut half_read = pool.send("/stream").await.ok().unwrap();
    half_read.body_mut().frame().await.unwrap().unwrap();
    until(|| server.requests() == 3).await;
    assert_eq!(in_flight(&pool), 2);
    given_up.abort();
    drop(half_read);
    until(|| in_flight(&pool) == 0).await;
    let two = [pool.spawn("/"), pool.spawn("/")];
    join(two).await;
    drop(pool.pool.checkout().await.unwrap());
    assert_eq!(in_flight(&pool), 0);
    assert_eq!((server.opened(), pool.open()), (1, 1));
}

#[tokio::test]
async fn a_freed_stream_goes_to_a_waiter() {
    let server = Server::start(Speaks::Http2(1)).await;
    let pool = Fixture::new(server.address, Alpn::Http2);
    pool.ask("/").await;
    // As if another dial were pending for ever.
    pool.pool.shared.lock().dials += 1;
    let first = pool.spawn("/hold");
    until(|| server.requests() == 2).await;
    let given_up = Vec::from_iter((0..3).map(|_| pool.spawn("/hold")));
    let last = pool.spawn("/");
    until(|| waiting(&pool) == 4).await;
    for waiter in given_up {
        waiter.abort();
    }
    server.release(1);
    first.await.unwrap();
    assert_eq!(last.await.unwrap(), 1);
    assert_eq!((waiting(&pool), in_flight(&pool)), (0, 0));
}

#[tokio::test]
async fn after_goaway_streams_finish_and_one_new_connection_is_dialled() {
    let server = Server::start(Speaks::Http2(100)).await;
    let pool = Fixture::new(server.address, Alpn::Http2);
    let old = pool.send("/stream").await.ok().unwrap();
    server.go_away();
    settle().await;
    let requests = Vec::from_iter(std::iter::repeat_with(|| pool.spawn("/")).take(20));
    for request in requests {
        assert_eq!(request.await.unwrap(), 2);
    }
    assert_eq!((pool.dials(), pool.open()), (2, 2));
    server.release(1);
    assert_eq!(finish(old).await, 1);
    until(|| pool.open() == 1 && server.closed() == 1).await;
}

#[tokio::test]
async fn a_connection_with_a_timed_out_request_gets_no_more_requests() {
    let server = Server::start(Speaks::Http2(100)).await;
    let pool = Fixture::new(server.address, Alpn::Http2);
    let old = pool.send("/stream").await.ok().unwrap();
    let checkout = pool.pool.checkout().await.unwrap();
    let request = get(&checkout, "/hold");
    let sent = tokio::spawn(send(checkout, request, WAIT));
    until(|| server.requests() == 2).await;
    pass(WAIT * 2).await;
    let error = sent.await.unwrap().err().unwrap();
    assert!(matches!(error.failure, SendFailure::Timeout));
    assert_eq!(pool.ask("/").await, 2);
    server.release(2);
    assert_eq!(finish(old).await, 1);
    until(|| pool.open() == 1).await;
}

#[tokio::test]
async fn an_http2_connection_in_occasional_use_is_kept() {
    let server = Server::start(Speaks::Http2(100)).await;
    let pool = Fixture::new(server.address, Alpn::Http2);
    for _ in 0..8 {
        assert_eq!(pool.ask("/").await, 1);
        pass(LIMITS.idle / 2).await;
    }
    let long = pool.send("/stream").await.ok().unwrap();
    pass(LIMITS.idle / 2).await;
    pass(LIMITS.idle / 2).await;
    pass(LIMITS.idle / 2).await;
    assert_eq!(pool.pool.shared.lock().http2.len(), 1);
    server.release(1);
    finish(long).await;
    for _ in 0..6 {
        pass(Duration::from_secs(15)).await;
    }
    until(|| pool.open() == 0 && server.closed() == 1).await;
    assert_eq!(server.opened(), 1);
}

#[tokio::test]
async fn an_old_http2_connection_ends_its_streams_and_takes_no_new_ones() {
    let server = Server::start(Speaks::Http2(100)).await;
    let pool = Fixture::new(server.address, Alpn::Http2);
    let long = pool.send("/stream").await.ok().unwrap();
    pass(LIFE).await;
    assert_eq!(pool.ask("/").await, 2);
    assert_eq!(pool.open(), 2);
    server.release(1);
    assert_eq!(finish(long).await, 1);
    until(|| pool.open() == 1).await;
}

#[tokio::test]
async fn request_trailers_lose_forbidden_fields() {
    let server = Server::start(Speaks::Http2(10)).await;
    let pool = Fixture::new(server.address, Alpn::Http2);
    let key = HeaderName::from_static("x-api-key");
    let (mut app, body) = upload(&[AUTHORIZATION, key.clone()]).await;
    app.write_all(
        b"3\r\nabc\r\n0\r\nauthorization: a\r\nx-api-key: b\r\nX-Api-Key: c\r\nx-sum: d\r\n\r\n",
    )
    .await
    .unwrap();
    let checkout = pool.pool.checkout().await.unwrap();
    let request = with_body(&checkout, "/swallow", body);
    let response = send(checkout, request, WAIT).await.ok().unwrap();
    let headers = response.headers();
    assert_eq!(headers["x-sum"], HeaderValue::from_static("d"));
    assert_eq!(headers["x-length"], "3");
    assert!(!headers.contains_key(key) && !headers.contains_key(AUTHORIZATION));
}

const ORDER: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Relaxed;

fn alpn(speaks: Speaks) -> Alpn {
    match speaks {
        Speaks::Http1 => Alpn::Http1,
        Speaks::Http2(_) => Alpn::Http2,
    }
}

fn idle(pool: &Fixture) -> usize {
    pool.pool.shared.lock().idle.len()
}

fn waiting(pool: &Fixture) -> usize {
    pool.pool.shared.lock().waiters.len()
}

fn dialling(pool: &Fixture) -> usize {
    pool.pool.shared.lock().dials
}

fn in_flight(pool: &Fixture) -> usize {
    let state = pool.pool.shared.lock();
    state.http2.iter().map(|open| open.in_flight()).sum()
}

fn poll_once(future: std::pin::Pin<&mut impl Future>) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(future.poll(&mut cx), Poll::Pending));
}

async fn join(tasks: impl IntoIterator<Item = tokio::task::JoinHandle<usize>>) {
    for task in Vec::from_iter(tasks) {
        task.await.unwrap();
    }
}

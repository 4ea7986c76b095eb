//! The start: what cannot work is said before anything runs. And the threads that run then.

use http::Request;
use hyper::body::Incoming;

use crate::client::{Client, whole};
use crate::harness::{App, World, server, with_app};
use crate::upstream::{HTTP1, Server};

/// Why it does not start.
async fn refusal(config: &str) -> String {
    match App::try_start(config).await {
        Ok(_) => panic!("it started with\n{config}"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let world = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let upstream = world.upstream("api", "http://127.0.0.1:1", "");
    for listen in [
        format!("[server]\nlisten = \"{address}\"\nadmin = \"off\"\n{upstream}"),
        format!("[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"{address}\"\n{upstream}"),
        format!(
            "{}{upstream}route = {{ listen = \"{address}\" }}\n",
            server("")
        ),
    ] {
        let error = refusal(&listen).await;
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("in use"), "{error}");
    }
}

#[tokio::test]
async fn a_ca_file_that_is_no_good_is_named() {
    let world = World::new();
    let garbage = world.write(
        "garbage.pem",
        "-----BEGIN CERTIFICATE-----\nsecret!\n-----END CERTIFICATE-----\n",
    );
    let empty = world.write("empty.pem", "");
    let missing = world.path("missing.pem");
    for path in [garbage, empty, missing] {
        let tls = format!("tls = {{ ca_file = {path:?} }}\n");
        let upstream = server("")
            + "[providers.p]\naccess_token = \"x\"\n[upstreams.api]\nurl = \"https://127.0.0.1:1\"\nprovider = \"p\"\n"
            + &tls;
        let provider = server("")
            + "[providers.p]\ntoken_url = \"https://127.0.0.1:1/token\"\nclient_id = \"a\"\nclient_secret = \"b\"\n"
            + &tls
            + "[upstreams.api]\nurl = \"http://127.0.0.1:1\"\nprovider = \"p\"\n";
        for (config, key) in [
            (upstream, "upstreams.api.tls"),
            (provider, "providers.p.tls"),
        ] {
            let error = refusal(&config).await;
            assert!(error.starts_with(key), "{error}");
            assert!(error.contains("ca_file"), "{error}");
            assert!(!error.contains("secret!"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_socket_path_that_is_a_file_is_left_alone() {
    let world = World::new();
    let path = world.write("mine.txt", "precious");
    let config = format!(
        "[server]\nlisten = \"unix:{}\"\nadmin = \"off\"\n{}",
        path.display(),
        world.upstream("api", "http://127.0.0.1:1", "")
    );
    let error = refusal(&config).await;
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "precious");
}

/// No vendor has to be there for the start: that is what `/readyz` tells.
#[tokio::test]
async fn a_vendor_that_is_down_does_not_stop_the_start() {
    let world = World::new();
    let config = server("")
        + "[providers.down]\ntoken_url = \"http://127.0.0.1:1/token\"\nclient_id = \"a\"\nclient_secret = \"b\"\n"
        + "[providers.optional]\ntoken_url = \"http://127.0.0.1:2/token\"\nclient_id = \"a\"\nclient_secret = \"b\"\nrequired = false\n"
        + "[upstreams.a]\nurl = \"http://127.0.0.1:1\"\nprovider = \"down\"\n"
        + "[upstreams.b]\nurl = \"http://127.0.0.1:1\"\nprovider = \"optional\"\nroute = { path_prefix = \"/b\" }\n"
        + &world.upstream(
            "c",
            "http://127.0.0.1:1",
            "route = { path_prefix = \"/c\" }",
        );
    with_app(&config, async |app| {
        let ready = app.admin("/readyz").await;
        assert_eq!(ready.status, 503);
        assert!(
            ready.text().contains("down") && !ready.text().contains("optional"),
            "{}",
            ready.text()
        );
        assert_eq!(app.admin("/healthz").await.status, 200);
    })
    .await;
}

/// Each worker has a pool of its own, which the upstream can count.
#[tokio::test]
async fn two_workers_share_the_connections() {
    let world = World::new();
    for _ in 0..10 {
        let upstream = Server::start(&world.authority, HTTP1, |_: Request<Incoming>| async {
            http::Response::new(whole("ok"))
        })
        .await;
        let config = server("workers = 2") + &world.upstream("api", &upstream.url(), "");
        with_app(&config, async |app| {
            // At once, as a pool of the app's opens them.
            let (mut first, mut second) = tokio::join!(app.connect(), app.connect());
            for _ in 0..3 {
                assert_eq!(first.get("/").await.text(), "ok");
                assert_eq!(second.get("/").await.text(), "ok");
            }
            assert_eq!(
                upstream.connections(),
                2,
                "both connections are on one worker"
            );
        })
        .await;
    }
}

/// Limits hold for the process, whatever the number of workers.
#[tokio::test]
async fn limits_are_those_of_the_process() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP1, |_: Request<Incoming>| async {
        http::Response::new(whole("ok"))
    })
    .await;
    let config =
        server("workers = 2\nmax_connections = 2") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..2 {
            let mut client = app.connect().await;
            assert_eq!(client.get("/").await.text(), "ok");
            clients.push(client);
        }
        let answer = app.connect().await.response().await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (503, "overloaded")
        );
    })
    .await;
}

/// Several listeners, and a Unix socket among them.
#[tokio::test]
async fn every_listener_serves() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP1, |_: Request<Incoming>| async {
        http::Response::new(whole("ok"))
    })
    .await;
    let socket = world.path("proxy.sock");
    let config = format!(
        "[server]\nlisten = [\"127.0.0.1:0\", \"127.0.0.2:0\", \"unix:{}\"]\nadmin = \"off\"\nshutdown_grace = \"1s\"\n{}",
        socket.display(),
        world.upstream("api", &upstream.url(), "")
    );
    with_app(&config, async |app| {
        for index in [0, 1] {
            let mut client = Client::connect(app.nth_address(index)).await;
            assert_eq!(client.get("/").await.text(), "ok");
        }
        let answer = crate::client::Wire::connect_unix(&socket)
            .await
            .request("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        assert_eq!(answer.text(), "ok");
    })
    .await;
}

//! Reloads of listeners and of all else that a running process can change, with apps that go on meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Response;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{Client, Http2Client, Wire, whole};
use crate::harness::{App, World, eventually, server, soon};
use crate::upstream::{HTTP1, Script, Server};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An upstream that answers with the path that it was asked for.
async fn echo(world: &World) -> Server {
    Server::start(
        &world.authority,
        HTTP1,
        |request: http::Request<hyper::body::Incoming>| async move {
            Response::new(whole(request.uri().path().to_owned()))
        },
    )
    .await
}

/// `[server]` with these listeners besides the first one, and so many workers.
fn listening(more: &[String], workers: usize) -> String {
    let mut listen = "\"127.0.0.1:0\"".to_owned();
    for other in more {
        listen.push_str(&format!(", \"{other}\""));
    }
    format!(
        "[server]\nlisten = [{listen}]\nadmin = \"127.0.0.1:0\"\nshutdown_grace = \"3s\"\nworkers = {workers}\n"
    )
}

async fn listeners(app: &App) -> Vec<String> {
    let status = app.status().await;
    let all = status["listeners"].as_array().unwrap();
    all.iter()
        .map(|one| one.as_str().unwrap().to_owned())
        .collect()
}

async fn reload_ok(app: &App, world: &World, config: &str) -> String {
    let answer = app.reload(&world.path("cupbearer.toml"), config).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["detail"].as_str().unwrap().to_owned()
}

async fn start(world: &World, config: &str) -> App {
    App::start_watching(&world.path("cupbearer.toml"), config).await
}

async fn end(mut app: App) {
    app.stop(cupbearer::app::Shutdown::Interrupt);
    app.ended().await.unwrap();
}

/// Apps that ask without a pause until they are stopped, and what did not go well.
struct Apps {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Apps {
    fn new() -> Self {
        Self {
            stop: Arc::default(),
            answered: Arc::default(),
            tasks: Vec::new(),
        }
    }

    /// Keeps its connection until it is told that an answer was the last one there; then it goes to where `address` is.
    fn keep_alive(&mut self, address: &watch::Receiver<SocketAddr>, path: &'static str) {
        self.start(address.clone(), path, true);
    }

    /// A connection for each request.
    fn one_by_one(&mut self, address: &watch::Receiver<SocketAddr>, path: &'static str) {
        self.start(address.clone(), path, false);
    }

    fn start(&mut self, mut address: watch::Receiver<SocketAddr>, path: &'static str, keep: bool) {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::clone(&self.answered));
        self.tasks.push(tokio::spawn(async move {
            let mut failures = Vec::new();
            let mut kept: Option<Client> = None;
            while !stop.load(Ordering::Relaxed) {
                let mut client = match kept.take() {
                    Some(client) => client,
                    None => {
                        let to = *address.borrow();
                        match TcpStream::connect(to).await {
                            Ok(stream) => Wire::new(stream),
                            // Moved, and nobody has told it yet.
                            Err(_) => {
                                let moved = address.wait_for(|now| *now != to);
                                soon("another address", moved).await.unwrap();
                                continue;
                            }
                        }
                    }
                };
                let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                let answer = match client.try_send(request).await {
                    Ok(()) => client.try_response().await,
                    Err(error) => Err(error),
                };
                answered.fetch_add(1, Ordering::Relaxed);
                match answer {
                    Ok(answer) if answer.status == 200 => {
                        if keep && answer.head.get("connection") != Some("close") {
                            kept = Some(client);
                        }
                    }
                    Ok(answer) => failures.push(format!("{}: {}", answer.status, answer.text())),
                    Err(error) => failures.push(error.to_string()),
                }
            }
            failures
        }));
    }

    /// Until this many more requests have been answered.
    async fn go_on(&self, more: usize) {
        let until = self.answered.load(Ordering::Relaxed) + more;
        eventually("requests", async || {
            self.answered.load(Ordering::Relaxed) >= until
                || self.tasks.iter().any(JoinHandle::is_finished)
        })
        .await;
    }

    async fn end_well(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            assert_eq!(task.await.unwrap(), [""; 0]);
        }
    }
}

/// Listeners, upstreams, providers and secrets come, change and go; not one request fails, whatever it came in by.
#[tokio::test]
async fn no_request_fails_while_everything_changes() {
    for workers in [1, 2] {
        let world = World::new();
        let api = echo(&world).await;
        let a = world.upstream("a", &api.url(), "route = { path_prefix = \"/a\" }");
        let b = |route: &str| world.upstream("b", &api.url(), &format!("route = {{ {route} }}"));
        let socket = format!("unix:{}", world.path("more.sock").display());
        let app = start(
            &world,
            &(listening(&[], workers) + &a + &b("listen = \"127.0.0.1:0\"")),
        )
        .await;
        let (_first, first) = watch::channel(app.address());
        let (moving, of_b) = watch::channel(app.nth_address(1));
        let mut apps = Apps::new();
        for _ in 0..2 {
            apps.keep_alive(&first, "/a/x");
            apps.one_by_one(&first, "/a/x");
            apps.keep_alive(&of_b, "/x");
        }
        apps.go_on(50).await;
        let connected = api.connections();
        for round in 0..12 {
            let here = ["127.0.0.2:0", "127.0.0.1:0"][round % 2];
            let more = match round % 3 {
                0 => vec![socket.clone()],
                1 => vec!["127.0.0.3:0".to_owned(), socket.clone()],
                _ => vec![],
            };
            let mut config = listening(&more, workers) + &a + &b(&format!("listen = \"{here}\"\n"));
            if round % 4 > 1 {
                config = config
                    .replace("token-of-b-", "other-token-of-b-")
                    .replace("workers", "max_connections = 999\nworkers");
            }
            if round % 4 == 1 {
                config += &world.upstream("c", &api.url(), "route = { path_prefix = \"/c\" }");
            }
            let told = reload_ok(&app, &world, &config).await;
            assert!(told.contains("added listeners: "), "{told}");
            let now = listeners(&app).await;
            assert_eq!(now[0], app.address().to_string());
            moving.send_replace(now.last().unwrap().parse().unwrap());
            apps.go_on(50).await;
        }
        apps.end_well().await;
        // Of `a` nothing changed, and neither did its connections.
        let text = app.admin("/metrics").await.text();
        assert!(
            text.contains("cupbearer_config_reloads_total{result=\"error\"} 0"),
            "{text}"
        );
        assert!(api.connections() - connected < 200);
        end(app).await;
    }
}

/// What is new serves at once, what is gone refuses, and the file of a Unix socket goes with it.
#[tokio::test]
async fn listeners_come_and_go() {
    for workers in [1, 2] {
        let world = World::new();
        let api = echo(&world).await;
        let rest = world.upstream("a", &api.url(), "");
        let path = world.path("more.sock");
        let app = start(&world, &(listening(&[], workers) + &rest)).await;
        let more = [format!("unix:{}", path.display()), "127.0.0.2:0".to_owned()];
        let told = reload_ok(&app, &world, &(listening(&more, workers) + &rest)).await;
        let now = listeners(&app).await;
        assert_eq!(told, format!("added listeners: {}, {}", now[1], now[2]));
        let second: SocketAddr = now[2].parse().unwrap();
        let mut by_socket = Wire::connect_unix(&path).await;
        let get = format!("GET /x HTTP/1.1\r\nHost: {second}\r\n\r\n");
        assert_eq!(by_socket.request(&get).await.text(), "/x");
        let mut by_port = Client::connect(second).await;
        // A listener's own authority is known from the moment on that it is there.
        assert_eq!(by_port.request(&get).await.text(), "/x");

        let told = reload_ok(&app, &world, &(listening(&[], workers) + &rest)).await;
        assert_eq!(told, format!("removed listeners: {}, {}", now[1], now[2]));
        assert!(!path.exists());
        eventually("the port closes", async || {
            TcpStream::connect(second).await.is_err()
        })
        .await;
        // Who had come in is served, and told to come in elsewhere.
        let localhost = "GET /y HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answer = by_port.request(localhost).await;
        assert_eq!(answer.text(), "/y");
        assert_eq!(answer.head.get("connection"), Some("close"));
        by_port.closed().await;
        let answer = by_socket.request(localhost).await;
        assert_eq!(answer.head.get("connection"), Some("close"));
        by_socket.closed().await;
        assert_eq!(app.get("/z").await.text(), "/z");
        end(app).await;
    }
}

#[tokio::test]
async fn what_is_under_way_on_a_removed_listener_is_finished() {
    let world = World::new();
    let upstream = Script::plain().await;
    let rest = world.upstream("a", &upstream.url(), "");
    let more = ["127.0.0.2:0".to_owned()];
    let app = start(&world, &(listening(&more, 1) + &rest)).await;
    let mut http1 = Client::connect(app.nth_address(1)).await;
    http1
        .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\na")
        .await;
    let (mut of_http1, _) = upstream.request().await;
    let mut http2 = Http2Client::connect(app.nth_address(1)).await;
    let request = http2.request("GET", "/").body(whole("")).unwrap();
    let answer = tokio::spawn(async move {
        let answer = http2.send(request).await;
        (http2, answer)
    });
    let (mut of_http2, _) = upstream.request().await;

    reload_ok(&app, &world, &(listening(&[], 1) + &rest)).await;
    eventually("the port closes", async || {
        TcpStream::connect(app.nth_address(1)).await.is_err()
    })
    .await;
    http1.send("b").await;
    assert_eq!(of_http1.exactly(2).await.unwrap(), b"ab");
    of_http1.send(OK).await;
    assert_eq!(http1.response().await.text(), "ok");
    http1.closed().await;
    of_http2.send(OK).await;
    let (mut http2, answer) = answer.await.unwrap();
    assert_eq!(answer.unwrap().status(), 200);
    // GOAWAY.
    let request = http2.request("GET", "/").body(whole("")).unwrap();
    assert!(http2.send(request).await.is_err());
    end(app).await;
}

/// A port of its own led to one upstream. Its connections must not fall through to another, with another's token.
#[tokio::test]
async fn connections_of_a_removed_port_stay_with_its_upstream() {
    let world = World::new();
    let (own, other) = (echo(&world).await, echo(&world).await);
    let rest = world.upstream("rest", &other.url(), "");
    let with = |route: &str| {
        server("") + &rest + &world.upstream("own", &format!("{}/own", own.url()), route)
    };
    let app = start(&world, &with("route = { listen = \"127.0.0.2:0\" }")).await;
    let mut first = Client::connect(app.nth_address(1)).await;
    let mut second = Client::connect(app.nth_address(1)).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.get("/x").await.text(), "/own/x");
    }
    reload_ok(&app, &world, &with("route = { path_prefix = \"/p\" }")).await;
    assert_eq!(first.get("/x").await.text(), "/own/x");
    reload_ok(&app, &world, &(server("") + &rest)).await;
    assert_eq!(second.get("/x").await.code(), "no_route");
    second.closed().await;
    assert_eq!(app.get("/x").await.text(), "/x");
    end(app).await;
}

/// A port that is kept may lead elsewhere from one request to the next, its connections with it.
#[tokio::test]
async fn a_port_can_change_hands() {
    let world = World::new();
    let api = echo(&world).await;
    let one =
        |name: &str, route: &str| world.upstream(name, &format!("{}/{name}", api.url()), route);
    let port = "route = { listen = \"127.0.0.2:0\" }";
    let app = start(&world, &(server("") + &one("a", port) + &one("b", ""))).await;
    let mut client = Client::connect(app.nth_address(1)).await;
    assert_eq!(client.get("/x").await.text(), "/a/x");
    let told = reload_ok(
        &app,
        &world,
        &(server("") + &one("a", "") + &one("b", port)),
    )
    .await;
    assert_eq!(told, "changed upstreams: a, b");
    let answer = client.get("/x").await;
    assert_eq!(answer.text(), "/b/x");
    assert_eq!(answer.head.get("connection"), None);
    let told = reload_ok(
        &app,
        &world,
        &(listening(&["127.0.0.2:0".to_owned()], 1) + &one("b", "")),
    )
    .await;
    assert_eq!(
        told,
        "removed providers: a; changed upstreams: b; removed upstreams: a"
    );
    assert_eq!(client.get("/x").await.text(), "/b/x");
    end(app).await;
}

/// All that is new is bound before anything changes: one port that is taken, and nothing has happened.
#[tokio::test]
async fn a_port_that_is_taken_changes_nothing() {
    let world = World::new();
    let api = echo(&world).await;
    let rest = world.upstream("a", &api.url(), "");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let path = world.path("more.sock");
    let app = start(&world, &(listening(&[], 1) + &rest)).await;
    let ours = app.address();
    let mut client = app.connect().await;
    assert_eq!(client.get("/x").await.text(), "/x");
    let more = [format!("unix:{}", path.display()), taken.to_string()];
    let cases = [
        (
            listening(&more, 1) + &world.upstream("a", &format!("{}/b", api.url()), ""),
            format!("cannot listen on {taken}: "),
        ),
        (
            (listening(&[], 1) + &rest)
                .replace("admin = \"127.0.0.1:0\"", &format!("admin = \"{taken}\"")),
            format!("cannot listen on {taken}: "),
        ),
        (
            format!(
                "[server]\nlisten = \"0.0.0.0:{}\"\nallow_remote = true\nadmin = \"127.0.0.1:0\"\n{rest}",
                ours.port()
            ),
            format!("this process listens on {ours} until then"),
        ),
        (
            (listening(&[], 2) + &rest),
            "server.workers: a change here needs a restart".to_owned(),
        ),
    ];
    for (count, (config, expected)) in cases.into_iter().enumerate() {
        let answer = app.reload(&world.path("cupbearer.toml"), &config).await;
        assert_eq!(answer.status, 502, "{expected}");
        let problems = answer.json()["problems"].clone();
        assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
        let told = problems[0].as_str().unwrap();
        assert!(told.contains(&expected), "{told}");
        assert_eq!(app.status().await["config_problems"], problems);
        let failed = app
            .metric("cupbearer_config_reloads_total{result=\"error\"}")
            .await;
        assert_eq!(failed, (count + 1) as f64);
        assert!(!path.exists());
        assert_eq!(client.get("/x").await.text(), "/x");
        assert_eq!(listeners(&app).await, [ours.to_string()]);
    }
    end(app).await;
}

/// The answer to the reload still goes out where it was asked for.
#[tokio::test]
async fn the_admin_port_can_move() {
    let world = World::new();
    let rest = world.upstream("a", "http://127.0.0.1:1", "");
    let to = |admin: &str| server("").replace("admin = \"127.0.0.1:0\"", admin) + &rest;
    let app = start(&world, &to("admin = \"127.0.0.1:0\"")).await;
    // Free a moment ago, and of an address that nobody else asks for.
    let free = std::net::TcpListener::bind("127.0.0.9:0").unwrap();
    let next = free.local_addr().unwrap();
    drop(free);
    let told = reload_ok(&app, &world, &to(&format!("admin = \"{next}\""))).await;
    assert_eq!(told, "changed admin port");
    eventually("the old port closes", async || {
        TcpStream::connect(app.admin_address()).await.is_err()
    })
    .await;
    let mut admin = Client::connect(next).await;
    assert_eq!(admin.get("/livez").await.status, 200);
    std::fs::write(world.path("cupbearer.toml"), to("admin = \"off\"")).unwrap();
    let request = "POST /-/reload HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\n\r\n";
    let answer = admin.request(request).await;
    assert_eq!(answer.json()["detail"], "changed admin port");
    eventually("the port closes", async || {
        TcpStream::connect(next).await.is_err()
    })
    .await;
    end(app).await;
}

/// Settings of the server hold for connections that are there already.
#[tokio::test]
async fn settings_change_for_open_connections() {
    let world = World::new();
    let api = echo(&world).await;
    let rest = world.upstream("a", &api.url(), "");
    let app = start(&world, &(server("allow_hosts = [\"app.test\"]") + &rest)).await;
    let mut client = app.connect().await;
    let get = "GET /x HTTP/1.1\r\nHost: app.test\r\n\r\n";
    assert_eq!(client.request(get).await.text(), "/x");
    assert_eq!(
        reload_ok(&app, &world, &(server("") + &rest)).await,
        "changed server settings"
    );
    // Not even where the host was accepted before.
    assert_eq!(client.request(get).await.code(), "host_not_allowed");
    let auth = "client_auth = { header = \"X-Key\", value = \"open-sesame\" }";
    reload_ok(&app, &world, &(server(auth) + &rest)).await;
    assert_eq!(client.get("/x").await.code(), "client_not_allowed");
    let with_key = "GET /x HTTP/1.1\r\nHost: localhost\r\nX-Key: open-sesame\r\n\r\n";
    assert_eq!(client.request(with_key).await.text(), "/x");
    reload_ok(&app, &world, &(server("max_connections = 1") + &rest)).await;
    assert_eq!(app.connect().await.response().await.code(), "overloaded");
    assert_eq!(client.get("/x").await.text(), "/x");
    reload_ok(&app, &world, &(server("idle_timeout = \"300ms\"") + &rest)).await;
    client.closed().await;
    end(app).await;
}

/// `shutdown_grace` is the one that the file said last.
#[tokio::test]
async fn the_grace_changes() {
    let world = World::new();
    let upstream = Script::plain().await;
    let rest = world.upstream("a", &upstream.url(), "");
    let long = server("").replace("\"3s\"", "\"1h\"") + &rest;
    let mut app = start(&world, &long).await;
    let mut client = app.connect().await;
    client
        .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let _asked = upstream.request().await;
    reload_ok(&app, &world, &long.replace("\"1h\"", "\"50ms\"")).await;
    app.stop(cupbearer::app::Shutdown::Interrupt);
    app.ended().await.unwrap();
}

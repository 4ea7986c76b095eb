//! Which upstream a request is for.

use crate::client::{Client, Http2Client, Response, whole};
use crate::harness::{App, World, server, with_app};
use crate::upstream::{HTTP1, Server};
use http::Request;
use hyper::body::Incoming;

/// An upstream that answers with its name, the Host and the path that it was asked for.
async fn named(world: &World, name: &'static str) -> Server {
    Server::start(
        &world.authority,
        HTTP1,
        move |request: Request<Incoming>| async move {
            let path = request.uri().path_and_query().unwrap().as_str();
            http::Response::new(whole(format!("{name} {path}")))
        },
    )
    .await
}

struct Upstreams {
    world: World,
    servers: Vec<(&'static str, Server)>,
}

impl Upstreams {
    async fn start(names: &[&'static str]) -> Self {
        let world = World::new();
        let mut servers = Vec::new();
        for name in names {
            servers.push((*name, named(&world, name).await));
        }
        Self { world, servers }
    }

    /// All of them with their routes; `None` is the catch-all.
    fn config(&self, routes: &[(&str, Option<&str>)]) -> String {
        let mut config = server("allow_hosts = [\"app.test\"]");
        for (name, route) in routes {
            let (_, upstream) = self
                .servers
                .iter()
                .find(|(known, _)| known == name)
                .unwrap();
            let keys = route.map_or_else(String::new, |route| format!("route = {{ {route} }}"));
            let url = upstream.url() + "/base";
            config += &self.world.upstream(name, &url, &keys);
        }
        config
    }
}

async fn ask(app: &App, target: &str, host: &str) -> Response {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    app.connect().await.request(&request).await
}

#[tokio::test]
async fn the_longest_prefix_wins_on_segment_boundaries() {
    let upstreams = Upstreams::start(&["a", "ab", "rest"]).await;
    let config = upstreams.config(&[
        ("a", Some("path_prefix = \"/a\"")),
        ("ab", Some("path_prefix = \"/a/b\"")),
        ("rest", None),
    ]);
    with_app(&config, async |app| {
        for (path, expected) in [
            ("/a", "a /base"),
            ("/a/x", "a /base/x"),
            ("/a/bc", "a /base/bc"),
            ("/a/b", "ab /base"),
            ("/a/b/c?d", "ab /base/c?d"),
            ("/ab", "rest /base/ab"),
            ("/A/x", "rest /base/A/x"),
            ("/%61/x", "rest /base/%61/x"),
            ("/", "rest /base/"),
        ] {
            assert_eq!(ask(app, path, "localhost").await.text(), expected, "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_port_beats_a_host_beats_a_prefix() {
    let upstreams = Upstreams::start(&["port", "host", "prefix"]).await;
    let config = upstreams.config(&[
        ("port", Some("listen = \"127.0.0.2:0\"")),
        ("host", Some("host = \"api.test\"")),
        ("prefix", Some("path_prefix = \"/p\"")),
    ]);
    with_app(&config, async |app| {
        assert_eq!(ask(app, "/p/x", "localhost").await.text(), "prefix /base/x");
        assert_eq!(ask(app, "/p/x", "API.test").await.text(), "host /base/p/x");
        assert_eq!(
            ask(app, "/p/x", "api.test:81").await.text(),
            "host /base/p/x"
        );
        let on_port = async |host: &str| {
            Client::connect(app.nth_address(1))
                .await
                .request(&format!("GET /p/x HTTP/1.1\r\nHost: {host}\r\n\r\n"))
                .await
        };
        assert_eq!(on_port("localhost").await.text(), "port /base/p/x");
        assert_eq!(on_port("api.test").await.text(), "port /base/p/x");
        let none = ask(app, "/x", "localhost").await;
        assert_eq!((none.status.as_u16(), &*none.code()), (404, "no_route"));
    })
    .await;
}

/// `http_proxy=http://127.0.0.1:PORT`: by host only, never to the catch-all; our own authority is none.
#[tokio::test]
async fn absolute_form() {
    let upstreams = Upstreams::start(&["host", "prefix", "rest"]).await;
    let config = upstreams.config(&[
        ("host", Some("host = \"api.test\"")),
        ("prefix", Some("path_prefix = \"/p\"")),
        ("rest", None),
    ]);
    with_app(&config, async |app| {
        let own = app.address();
        for (target, host, expected) in [
            (
                "http://api.test/p/x?y".to_owned(),
                "api.test",
                "host /base/p/x?y",
            ),
            ("http://api.test".to_owned(), "api.test", "host /base/"),
            // RFC 9112 §3.2.2: the target counts, not the field.
            ("http://api.test/x".to_owned(), "localhost", "host /base/x"),
            (format!("http://{own}/p/x"), "localhost", "prefix /base/x"),
            (format!("http://{own}/x"), "localhost", "rest /base/x"),
        ] {
            assert_eq!(ask(app, &target, host).await.text(), expected, "{target}");
        }
        let foreign = ask(app, "http://app.test/x", "app.test").await;
        assert_eq!(
            (foreign.status.as_u16(), &*foreign.code()),
            (404, "no_route")
        );
        let unknown = ask(app, "http://evil.test/x", "localhost").await;
        assert_eq!(
            (unknown.status.as_u16(), &*unknown.code()),
            (421, "host_not_allowed")
        );
    })
    .await;
}

#[tokio::test]
async fn http2_is_routed_by_its_authority() {
    let upstreams = Upstreams::start(&["host", "rest"]).await;
    let config = upstreams.config(&[("host", Some("host = \"api.test\"")), ("rest", None)]);
    with_app(&config, async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        let own = format!("http://{}/x", app.address());
        for (uri, expected) in [
            ("http://api.test/x", "host /base/x"),
            (&own, "rest /base/x"),
        ] {
            let request = Request::get(uri).body(whole("")).unwrap();
            let answer = client.send(request).await.unwrap();
            let body = http_body_util::BodyExt::collect(answer.into_body())
                .await
                .unwrap();
            assert_eq!(body.to_bytes(), expected);
        }
    })
    .await;
}

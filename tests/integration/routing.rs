//! Routes: the choice of the upstream by listener, host and path prefix.

use crate::client::{Client, Http2Client, Response, whole};
use crate::harness::{App, World, server, with_app};
use crate::upstream::{HTTP1, Server};
use http::Request;
use hyper::body::Incoming;

/// Starts an upstream that responds with its name and the request target.
async fn start_named(world: &World, name: &'static str) -> Server {
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
            servers.push((*name, start_named(&world, name).await));
        }
        Self { world, servers }
    }

    /// Returns a configuration with these upstreams. A route of `None` is the catch-all.
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

async fn get(app: &App, target: &str, host: &str) -> Response {
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
            assert_eq!(get(app, path, "localhost").await.text(), expected, "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_listener_precedes_a_host_and_a_host_precedes_a_prefix() {
    let upstreams = Upstreams::start(&["port", "host", "prefix"]).await;
    let config = upstreams.config(&[
        ("port", Some("listen = \"127.0.0.2:0\"")),
        ("host", Some("host = \"api.test\"")),
        ("prefix", Some("path_prefix = \"/p\"")),
    ]);
    with_app(&config, async |app| {
        assert_eq!(get(app, "/p/x", "localhost").await.text(), "prefix /base/x");
        assert_eq!(get(app, "/p/x", "API.test").await.text(), "host /base/p/x");
        assert_eq!(
            get(app, "/p/x", "api.test:81").await.text(),
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
        let none = get(app, "/x", "localhost").await;
        assert_eq!((none.status.as_u16(), &*none.code()), (404, "no_route"));
    })
    .await;
}

/// Apps use the absolute form if `http_proxy` is set. The catch-all takes no foreign host; the
/// proxy's own authority counts as the origin form.
#[tokio::test]
async fn absolute_form_is_routed_by_its_host() {
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
            // RFC 9112 §3.2.2: the target overrides `Host`.
            ("http://api.test/x".to_owned(), "localhost", "host /base/x"),
            (format!("http://{own}/p/x"), "localhost", "prefix /base/x"),
            (format!("http://{own}/x"), "localhost", "rest /base/x"),
        ] {
            assert_eq!(get(app, &target, host).await.text(), expected, "{target}");
        }
        let foreign = get(app, "http://app.test/x", "app.test").await;
        assert_eq!(
            (foreign.status.as_u16(), &*foreign.code()),
            (404, "no_route")
        );
        let unknown = get(app, "http://evil.test/x", "localhost").await;
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
            let response = client.send(request).await.unwrap();
            let body = http_body_util::BodyExt::collect(response.into_body())
                .await
                .unwrap();
            assert_eq!(body.to_bytes(), expected);
        }
    })
    .await;
}

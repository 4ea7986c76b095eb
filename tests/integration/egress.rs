//! Egress proxies (RFC 9110 §9.3.6) for token requests and upstreams, by configuration and by
//! environment. An egress proxy sees host names and nothing of the requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cupbearer::demo::vendors::{FakeVendor, Kind};
use http::Response;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::client::{Head, Wire, whole};
use crate::errors::assert_error;
use crate::harness::{App, World, server, token, with_app, with_app_in};
use crate::upstream::{Acceptor, HTTP2, Script, Server};

/// An egress proxy that resolves the names of a fixed table.
struct Egress {
    acceptor: Acceptor,
    heads: Arc<Mutex<Vec<Head>>>,
}

impl Egress {
    /// Answers every `CONNECT` with `answer`. `names` maps `HOST:PORT` to the address to connect
    /// to.
    async fn start(names: &[(&str, String)], answer: &'static str) -> Self {
        let names = names.iter().cloned();
        let names = names.map(|(name, address)| (name.to_owned(), address));
        let names: Arc<HashMap<String, String>> = Arc::new(names.collect());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heads);
        let acceptor = Acceptor::start(move |tcp| {
            let mut app = Wire::new(tcp);
            let (names, log) = (Arc::clone(&names), Arc::clone(&log));
            async move {
                let head = app.head().await;
                let target = head.first.split(' ').nth(1).unwrap().to_owned();
                log.lock().unwrap().push(head);
                app.send(answer).await;
                if answer == ESTABLISHED {
                    let mut far = TcpStream::connect(&names[&target]).await.unwrap();
                    let _ = copy_bidirectional(&mut app.stream, &mut far).await;
                }
            }
        });
        Self {
            acceptor: acceptor.await,
            heads,
        }
    }

    fn address(&self) -> SocketAddr {
        self.acceptor.address()
    }

    /// Returns the targets of `CONNECT` with their credentials, sorted and without duplicates.
    fn tunnels(&self) -> Vec<(String, Option<String>)> {
        let heads = self.heads.lock().unwrap();
        let mut tunnels: Vec<_> = heads
            .iter()
            .map(|head| {
                let credentials = head.get("proxy-authorization").map(str::to_owned);
                let target = head.first.split(' ').nth(1).unwrap();
                assert_eq!(head.first, format!("CONNECT {target} HTTP/1.1"));
                assert_eq!(head.get("host"), Some(target));
                assert_eq!(head.get("authorization"), None);
                (target.to_owned(), credentials)
            })
            .collect();
        tunnels.sort();
        tunnels.dedup();
        tunnels
    }
}

const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// `user:p@ss`
const BASIC: &str = "Basic dXNlcjpwQHNz";

/// A vendor and an upstream whose names only the egress proxy can resolve.
struct Far {
    world: World,
    config: String,
    egress: Egress,
    _vendor: FakeVendor,
    _upstream: Server,
}

impl Far {
    /// `keys` returns the keys to add to the provider and to the upstream.
    async fn new(keys: impl FnOnce(&Egress) -> [String; 2], answer: &'static str) -> Self {
        let world = World::new();
        let vendor = world.vendor(Kind::Besender, None).await;
        let upstream = Server::start(&world.authority, HTTP2, |_| async {
            Response::new(whole("ok"))
        })
        .await;
        let address = |url: &str| {
            let rest = url.strip_prefix("https://").unwrap();
            rest.split('/').next().unwrap().to_owned()
        };
        let of_vendor = address(&vendor.token_url());
        let egress = Egress::start(
            &[
                ("token.example:443", of_vendor.clone()),
                ("api.example:443", address(&upstream.url())),
            ],
            answer,
        )
        .await;
        let [of_provider, of_upstream] = keys(&egress);
        let tls = format!(
            "tls = {{ ca_file = {:?}, server_name = \"localhost\" }}\n",
            world.path("ca.pem")
        );
        let provider = world
            .vendor_provider("p", &vendor, &of_provider)
            .replace(&of_vendor, "token.example")
            .replace(&world.tls(), &tls);
        let config = server("")
            + &provider
            + &format!(
                "[upstreams.api]\nurl = \"https://api.example\"\nprovider = \"p\"\n\
                 token_wait = \"200ms\"\n{tls}{of_upstream}\n"
            );
        Self {
            world,
            config,
            egress,
            _vendor: vendor,
            _upstream: upstream,
        }
    }
}

#[tokio::test]
async fn token_requests_and_upstream_requests_use_the_proxy_with_its_credentials() {
    let keys = |egress: &Egress| {
        let key = format!("proxy = \"http://user:p%40ss@{}\"\n", egress.address());
        [key.clone(), key]
    };
    let far = Far::new(keys, ESTABLISHED).await;
    with_app(&far.config, async |app| {
        app.ready().await;
        assert_eq!(app.get("/").await.text(), "ok");
        let basic = Some(BASIC.to_owned());
        let expected = [
            ("api.example:443".to_owned(), basic.clone()),
            ("token.example:443".to_owned(), basic),
        ];
        assert_eq!(far.egress.tunnels(), expected);
    })
    .await;
}

#[tokio::test]
async fn https_proxy_of_the_environment_is_used_except_for_loopback() {
    let far = Far::new(|_| [String::new(), String::new()], ESTABLISHED).await;
    let proxy = format!("http://user:p%40ss@{}", far.egress.address());
    let names = ["https_proxy", "HTTPS_PROXY"];
    for name in names {
        let environment = [
            (name, proxy.clone()),
            ("NO_PROXY", "other.example".to_owned()),
        ];
        with_app_in(environment, &far.config, async |app: &App| {
            app.ready().await;
            assert_eq!(app.get("/").await.text(), "ok");
        })
        .await;
        assert_eq!(far.egress.tunnels().len(), 2);
    }
    // A loopback address is connected to directly.
    let near = Server::start(&far.world.authority, HTTP2, |_| async {
        Response::new(whole("near"))
    })
    .await;
    let config = server("") + &far.world.upstream("near", &near.url(), "");
    let unreachable = [("HTTPS_PROXY", "http://127.0.0.1:1")];
    with_app_in(unreachable, &config, async |app: &App| {
        assert_eq!(app.get("/").await.text(), "near");
    })
    .await;
}

#[tokio::test]
async fn a_refused_tunnel_is_a_transient_failure_of_the_token_fetch() {
    let keys = |egress: &Egress| {
        [
            format!("proxy = \"http://{}\"\n", egress.address()),
            String::new(),
        ]
    };
    let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
    let far = Far::new(keys, answer).await;
    with_app(&far.config, async |app| {
        assert_error(&app.get("/").await, "token_unavailable", Some("api"));
        let status = app.admin("/status").await.text();
        assert!(status.contains("407"), "{status}");
        assert_eq!(
            far.egress.tunnels(),
            [("token.example:443".to_owned(), None)]
        );
        let fetches =
            |result| format!("cupbearer_token_fetches_total{{provider=\"p\",result=\"{result}\"}}");
        assert!(app.metric(&fetches("transient")).await > 0.0);
        assert_eq!(app.metric(&fetches("permanent")).await, 0.0);
    })
    .await;
}

/// Without a tunnel the proxy would see the token.
#[tokio::test]
async fn plain_http_uses_a_tunnel_as_well() {
    let world = World::new();
    let upstream = Script::plain().await;
    let far = upstream.address().to_string();
    let egress = Egress::start(&[("api.example:80", far)], ESTABLISHED).await;
    let keys = format!(
        "allow_http = true\nproxy = \"http://{}\"\n",
        egress.address()
    );
    let config = server("") + &world.upstream("api", "http://api.example", &keys);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.first, "GET /x HTTP/1.1");
        assert_eq!(head.get("host"), Some("api.example"));
        assert_eq!(
            head.get("authorization"),
            Some(&*format!("Bearer {}", token("api")))
        );
        assert_eq!(head.get("proxy-authorization"), None);
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert_eq!(client.response().await.text(), "ok");
        assert_eq!(egress.tunnels(), [("api.example:80".to_owned(), None)]);
    })
    .await;
}

//! The request head that the upstream receives, byte for byte.

use crate::checks::OK;
use crate::client::{Head, Http2Client, whole};
use crate::harness::{World, server, soon, token, with_app};
use crate::upstream::Script;

/// Sends a request to an upstream `api` with this URL path and these keys. Returns the forwarded
/// head.
async fn forwarded(world: &World, path: &str, keys: &str, request: &str) -> Head {
    let upstream = Script::tls(&world.authority).await;
    let url = upstream.url() + path;
    let config = server("") + &world.upstream("api", &url, keys);
    forwarded_with(&config, &upstream, request).await
}

async fn forwarded_with(config: &str, upstream: &Script, request: &str) -> Head {
    with_app(config, async |app| {
        let mut client = app.connect().await;
        client.send(request).await;
        let (mut connection, head) = upstream.request().await;
        connection.body(&head, false).await.unwrap();
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
        head
    })
    .await
}

/// Returns the head with the random pseudonym of `Via` replaced by `cupbearer-ID`.
fn without_pseudonym(head: &Head) -> String {
    let via = head.get("via").unwrap();
    let (version, pseudonym) = via.split_once(' ').unwrap();
    assert!(["1.1", "2"].contains(&version), "{version}");
    let id = pseudonym.strip_prefix("cupbearer-").unwrap();
    assert!(id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    head.raw.replace(pseudonym, "cupbearer-ID")
}

#[tokio::test]
async fn a_get_is_forwarded_with_host_via_and_token() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    let head = forwarded_with(
        &config,
        &upstream,
        "GET /orders/42?b=2&a=%20x+y&&c HTTP/1.1\r\nHost: localhost\r\n\
         Accept: */*\r\nX-App: legacy\r\n\r\n",
    )
    .await;
    let expected = format!(
        "GET /orders/42?b=2&a=%20x+y&&c HTTP/1.1\r\n\
         host: {}\r\n\
         accept: */*\r\n\
         x-app: legacy\r\n\
         via: 1.1 cupbearer-ID\r\n\
         authorization: Bearer {}\r\n\r\n",
        upstream.address(),
        token("api")
    );
    assert_eq!(without_pseudonym(&head), expected);
}

#[tokio::test]
async fn a_post_is_forwarded_with_its_framing() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("via = false") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send(
                "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
                 Content-Length: 5\r\n\r\nhello",
            )
            .await;
        let (mut connection, head) = upstream.request().await;
        let expected = format!(
            "POST /x HTTP/1.1\r\nhost: {}\r\ncontent-type: text/plain\r\n\
             content-length: 5\r\nauthorization: Bearer {}\r\n\r\n",
            upstream.address(),
            token("api")
        );
        assert_eq!(head.raw, expected);
        assert_eq!(connection.exactly(5).await.unwrap(), b"hello");
        connection.send(OK).await;
        client.response().await;
        // A chunked body stays chunked.
        client
            .send(
                "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5\r\nhello\r\n0\r\n\r\n",
            )
            .await;
        let head = connection.head().await;
        assert_eq!(head.get("transfer-encoding"), Some("chunked"));
        assert_eq!(head.get("content-length"), None);
        assert_eq!(connection.body(&head, false).await.unwrap(), b"hello");
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn via_can_be_switched_off() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("via = false") + &world.upstream("api", &upstream.url(), "");
    let head = forwarded_with(
        &config,
        &upstream,
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    .await;
    assert_eq!(head.get("via"), None);
}

#[tokio::test]
async fn via_is_appended_to_the_existing_via() {
    let world = World::new();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nVia: 1.0 fred, 1.1 other\r\n\r\n";
    let head = forwarded(&world, "", "", request).await;
    let via = head.all("via").join(", ");
    assert!(
        via.starts_with("1.0 fred, 1.1 other, 1.1 cupbearer-"),
        "{via}"
    );
}

/// RFC 9110 §7.6.1, RFC 6750 §2.
#[tokio::test]
async fn hop_by_hop_fields_and_app_credentials_are_removed() {
    let world = World::new();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\
        Authorization: Basic YXBwOmFwcA==\r\n\
        authorization: Bearer of-the-app\r\n\
        Proxy-Authorization: Basic YXBwOmFwcA==\r\n\
        Connection: keep-alive, X-One\r\n\
        Connection: x-two , Authorization\r\n\
        Keep-Alive: timeout=5\r\n\
        Proxy-Connection: keep-alive\r\n\
        TE: trailers\r\n\
        X-One: 1\r\n\
        X-Two: 2\r\n\
        X-Three: 3\r\n\
        Cookie: a=b\r\n\r\n";
    let head = forwarded(&world, "", "", request).await;
    let bearer = format!("Bearer {}", token("api"));
    assert_eq!(head.get("authorization"), Some(&*bearer));
    let names: Vec<_> = head.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["host", "x-three", "cookie", "via", "authorization"]);
    assert!(!head.raw.contains("of-the-app") && !head.raw.contains("YXBw"));
}

#[tokio::test]
async fn no_field_describes_the_app() {
    let world = World::new();
    let head = forwarded(&world, "", "", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    for (name, _) in &head.fields {
        assert!(!name.starts_with("x-") && name != "forwarded", "{name}");
    }
}

#[tokio::test]
async fn the_path_of_the_url_replaces_the_path_prefix() {
    let world = World::new();
    for (path, target, expected) in [
        ("/api/v2", "/p/orders?x=1", "/api/v2/orders?x=1"),
        ("/api/v2/", "/p/orders", "/api/v2/orders"),
        ("/api/v2", "/p", "/api/v2"),
        ("/api/v2", "/p/", "/api/v2/"),
        ("/api/v2", "/p?x", "/api/v2?x"),
        (
            "/api",
            "/p/%7Euser/a%2Fb;c=d//e",
            "/api/%7Euser/a%2Fb;c=d//e",
        ),
        ("", "/p/orders", "/orders"),
        ("", "/p", "/"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let keys = "route = { path_prefix = \"/p\" }";
        let head = forwarded(&world, path, keys, &request).await;
        assert_eq!(
            head.first,
            format!("GET {expected} HTTP/1.1"),
            "{path} {target}"
        );
    }
}

#[tokio::test]
async fn the_catch_all_prepends_the_path_of_the_url() {
    let world = World::new();
    for (path, target, expected) in [
        ("/api", "/orders?x=1", "/api/orders?x=1"),
        ("/api", "/", "/api/"),
        ("", "/a/b/", "/a/b/"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = forwarded(&world, path, "", &request).await;
        assert_eq!(head.first, format!("GET {expected} HTTP/1.1"));
    }
}

/// All other parameters keep their encoding.
#[tokio::test]
async fn a_token_parameter_replaces_the_one_of_the_app() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("")
        + &format!(
            "[providers.api]\naccess_token = \"t+k/n=1\"\n\
             [providers.api.inject]\nheaders = {{}}\n\
             query = {{ access_token = \"{{access_token}}\", v = \"2\" }}\n\
             [upstreams.api]\nurl = \"{}/api\"\nprovider = \"api\"\n{}",
            upstream.url(),
            world.tls()
        );
    for (target, expected) in [
        ("/x", "/api/x?access_token=t%2Bk%2Fn%3D1&v=2"),
        (
            "/x?b=%20&access_token=mine&a=+",
            "/api/x?b=%20&a=+&access_token=t%2Bk%2Fn%3D1&v=2",
        ),
        (
            "/x?access%5Ftoken=mine&ACCESS_TOKEN=other&access_token",
            "/api/x?access_token=t%2Bk%2Fn%3D1&v=2",
        ),
    ] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer mine\r\n\r\n"
        );
        let head = forwarded_with(&config, &upstream, &request).await;
        assert_eq!(head.first, format!("GET {expected} HTTP/1.1"), "{target}");
        assert_eq!(head.get("authorization"), None);
    }
}

#[tokio::test]
async fn a_token_header_replaces_the_one_of_the_app() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("")
        + &world.upstream("api", &upstream.url(), "")
        + "[providers.api.inject]\nheaders = { X-Access-Token = \"{access_token}\" }\n";
    let head = forwarded_with(
        &config,
        &upstream,
        "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer mine\r\n\
         x-access-token: mine\r\nX-ACCESS-TOKEN: too\r\n\r\n",
    )
    .await;
    assert_eq!(head.get("x-access-token"), Some(&*token("api")));
    assert_eq!(head.get("authorization"), None);
}

#[tokio::test]
async fn configured_headers_are_set_and_removed() {
    let world = World::new();
    let keys = "headers = { set = { X-App = \"cupbearer\", User-Agent = \"c/1\" }, \
        remove = [\"X-Debug\"] }";
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nX-App: mine\r\nX-Debug: 1\r\n\
        User-Agent: a\r\nConnection: X-App\r\n\r\n";
    let head = forwarded(&world, "", keys, request).await;
    assert_eq!(head.get("x-app"), Some("cupbearer"));
    assert_eq!(head.get("user-agent"), Some("c/1"));
    assert_eq!(head.get("x-debug"), None);
}

#[tokio::test]
async fn configured_headers_are_removed_from_trailers() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let keys = "headers = { set = { X-App = \"cupbearer\" }, remove = [\"X-Debug\"] }";
    let config = server("") + &world.upstream("api", &upstream.url(), keys);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nhi\r\n0\r\nX-App: mine\r\nX-Sum: 7\r\nX-Debug: 1\r\n\r\n",
            )
            .await;
        let (mut connection, _) = upstream.request().await;
        let expected = "2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n";
        let body = connection.exactly(expected.len()).await.unwrap();
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    })
    .await;
}

/// RFC 9112 §3.2.4: `OPTIONS` without a path asks about the server.
#[tokio::test]
async fn options_without_a_path_targets_the_url_of_the_upstream() {
    let world = World::new();
    for (target, path, expected) in [
        ("*", "", "*"),
        // hyper parses this target and the next one to the same value.
        ("http://{own}", "", "/"),
        ("http://{own}/", "", "/"),
        ("http://{own}?", "", "/?"),
        ("http://{own}", "/api", "/api/"),
    ] {
        let upstream = Script::tls(&world.authority).await;
        let url = upstream.url() + path;
        let config = server("") + &world.upstream("api", &url, "");
        with_app(&config, async |app| {
            let target = target.replace("{own}", &app.address().to_string());
            let mut client = app.connect().await;
            client
                .send(format!(
                    "OPTIONS {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"
                ))
                .await;
            let (_connection, head) = upstream.request().await;
            assert_eq!(
                head.first,
                format!("OPTIONS {expected} HTTP/1.1"),
                "{target}"
            );
        })
        .await;
    }
}

/// RFC 9110 §7.6.2.
#[tokio::test]
async fn max_forwards_of_options_is_decremented() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        let options = |limit: &str| {
            format!("OPTIONS /a HTTP/1.1\r\nHost: localhost\r\nMax-Forwards: {limit}\r\n\r\n")
        };
        client.send(options("0")).await;
        let response = client.response().await;
        assert_eq!(response.status, 204);
        assert_eq!(response.head.get("proxy-status"), Some("cupbearer"));
        let mut connection = None;
        for (limit, left) in [("1", "0"), ("10", "9"), ("x", "x"), ("", "")] {
            client.send(options(limit)).await;
            let head = match &mut connection {
                None => {
                    let (first, head) = upstream.request().await;
                    connection = Some(first);
                    head
                }
                Some(connection) => connection.head().await,
            };
            assert_eq!(head.get("max-forwards"), Some(left));
            let connection = connection.as_mut().unwrap();
            connection.send("HTTP/1.1 204 No Content\r\n\r\n").await;
            assert_eq!(client.response().await.status, 204);
        }
        // RFC 9110 §7.6.2 defines the field only for OPTIONS and TRACE.
        client
            .send("GET /a HTTP/1.1\r\nHost: localhost\r\nMax-Forwards: 0\r\n\r\n")
            .await;
        let head = connection.unwrap().head().await;
        assert_eq!(head.get("max-forwards"), Some("0"));
    })
    .await;
}

#[tokio::test]
async fn an_app_credential_is_forwarded_if_existing_credential_is_keep() {
    let world = World::new();
    let keys = "existing_credential = \"keep\"";
    let own = "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer mine\r\n\r\n";
    let head = forwarded(&world, "", keys, own).await;
    assert_eq!(head.get("authorization"), Some("Bearer mine"));
    // An empty value counts as absent.
    for none in ["", "Authorization:\r\n", "Authorization:  \r\n"] {
        let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{none}\r\n");
        let head = forwarded(&world, "", keys, &request).await;
        let bearer = format!("Bearer {}", token("api"));
        assert_eq!(head.get("authorization"), Some(&*bearer), "{none:?}");
    }
}

#[tokio::test]
async fn an_http2_request_is_forwarded_as_http1() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        let request = client
            .request("GET", "/a?b=c")
            .header("authorization", "Bearer mine")
            .header("x-app", "1")
            .body(whole(""))
            .unwrap();
        let (response, ()) = tokio::join!(client.send(request), async {
            let (mut connection, head) = upstream.request().await;
            let expected = format!(
                "GET /a?b=c HTTP/1.1\r\nx-app: 1\r\nvia: 2 cupbearer-ID\r\n\
                 authorization: Bearer {}\r\nhost: {}\r\n\r\n",
                token("api"),
                upstream.address()
            );
            let mut lines: Vec<_> = without_pseudonym(&head)
                .lines()
                .map(str::to_owned)
                .collect();
            let mut wanted: Vec<_> = expected.lines().map(str::to_owned).collect();
            lines.sort();
            wanted.sort();
            assert_eq!(lines, wanted);
            connection.send(OK).await;
        });
        let response = soon("the response", async { response.unwrap() }).await;
        assert_eq!(response.status(), 200);
    })
    .await;
}

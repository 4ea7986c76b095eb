//! `rewrite_redirects`: redirects and cookies of the upstream become valid at the proxy.

use http::Request;
use hyper::body::Incoming;

use crate::client::{Head, Http2Client, whole};
use crate::harness::{World, server, soon, with_app};
use crate::upstream::{HTTP1, Script, Server};

/// Response fields that name the upstream; `{up}` is the upstream's authority.
const FIELDS: &str = "Location: https://{up}/base/orders/7?a=b#c\r\n\
    Content-Location: /base/orders\r\n\
    Set-Cookie: id=1; Domain=127.0.0.1; Path=/base/orders; Secure; HttpOnly; SameSite=None\r\n\
    Set-Cookie: wide=2; Path=/\r\n\
    Set-Cookie: __Host-bound=3; Secure; Path=/\r\n\
    Alt-Svc: h3=\":443\"\r\n";

/// Sends `request` to an upstream that responds with `fields`. Returns the head that the app gets
/// and the upstream's authority.
async fn response_head(keys: &str, request: &str, fields: &str) -> (Head, String) {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let authority = upstream.address().to_string();
    let fields = fields.replace("{up}", &authority);
    let config = server("") + &world.upstream("api", &(upstream.url() + "/base"), keys);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(request).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send(format!(
                "HTTP/1.1 302 Found\r\n{fields}Content-Length: 0\r\n\r\n"
            ))
            .await;
        (client.response().await.head, authority)
    })
    .await
}

#[tokio::test]
async fn redirects_and_cookies_get_the_path_prefix() {
    let (head, _) = response_head(
        "route = { path_prefix = \"/p\" }",
        "GET /p/x HTTP/1.1\r\nHost: localhost:1234\r\n\r\n",
        FIELDS,
    )
    .await;
    assert_eq!(head.status(), 302);
    assert_eq!(
        head.get("location"),
        Some("http://localhost:1234/p/orders/7?a=b#c")
    );
    assert_eq!(head.get("content-location"), Some("/p/orders"));
    assert_eq!(head.get("alt-svc"), None);
    assert_eq!(
        head.all("set-cookie"),
        [
            "id=1; HttpOnly; Path=/p/orders",
            "wide=2; Path=/p",
            "__Host-bound=3; Secure; Path=/",
        ]
    );
}

/// With `http_proxy`, the app keeps using the host of the absolute form.
#[tokio::test]
async fn redirects_of_an_absolute_form_request_keep_its_host() {
    let (head, _) = response_head(
        "route = { host = \"api.test\" }",
        "GET http://api.test/x HTTP/1.1\r\nHost: api.test\r\n\r\n",
        FIELDS,
    )
    .await;
    assert_eq!(head.get("location"), Some("http://api.test/orders/7?a=b#c"));
    assert_eq!(head.get("content-location"), Some("/orders"));
    assert_eq!(
        head.all("set-cookie")[..2],
        ["id=1; HttpOnly; Path=/orders", "wide=2; Path=/"]
    );
}

#[tokio::test]
async fn redirects_outside_the_upstream_url_stay_unchanged() {
    for fields in [
        "Location: https://login.example/authorize\r\n",
        "Location: https://{up}/other/x\r\n",
        "Location: https://{up}.evil.example/base/x\r\n",
        "Location: https://{up}@evil.example/base/x\r\n",
        "Location: /elsewhere\r\n",
        "Location: ../x\r\n",
        "Location: //evil.example/base\r\n",
    ] {
        let (head, authority) = response_head(
            "route = { path_prefix = \"/p\" }",
            "GET /p/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
            fields,
        )
        .await;
        let sent = fields.replace("{up}", &authority);
        let sent = sent.trim_end().strip_prefix("Location: ");
        assert_eq!(head.get("location"), sent);
    }
}

#[tokio::test]
async fn redirects_stay_unchanged_if_switched_off() {
    let (head, authority) = response_head(
        "route = { path_prefix = \"/p\" }\nrewrite_redirects = false",
        "GET /p/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        FIELDS,
    )
    .await;
    let sent = FIELDS.replace("{up}", &authority);
    let sent: Vec<_> = sent.lines().collect();
    let mut received: Vec<_> = head.raw.lines().skip(1).map(str::to_lowercase).collect();
    received.retain(|line| {
        !line.is_empty() && !line.starts_with("content-length") && !line.starts_with("date:")
    });
    let mut expected: Vec<_> = sent.iter().map(|line| line.to_lowercase()).collect();
    received.sort();
    expected.sort();
    assert_eq!(received, expected);
}

#[tokio::test]
async fn redirects_of_an_http2_request_are_rewritten() {
    let world = World::new();
    let upstream = Server::start(
        &world.authority,
        HTTP1,
        |request: Request<Incoming>| async move {
            let host = request.headers()["host"].to_str().unwrap().to_owned();
            http::Response::builder()
                .status(201)
                .header("location", format!("https://{host}/base/new"))
                .body(whole(""))
                .unwrap()
        },
    )
    .await;
    let keys = "route = { path_prefix = \"/p\" }";
    let config = server("") + &world.upstream("api", &(upstream.url() + "/base"), keys);
    with_app(&config, async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        let request = client.request("POST", "/p/x").body(whole("{}")).unwrap();
        let response = soon("the response", client.send(request)).await.unwrap();
        let location = format!("http://{}/p/new", app.address());
        assert_eq!(response.headers()["location"], &*location);
    })
    .await;
}

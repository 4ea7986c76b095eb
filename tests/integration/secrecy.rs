//! No log level, metric, error or admin answer holds a secret, whatever fails. Each search has a
//! positive control.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cupbearer::demo::vendors::{Credential, Fault, Kind};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::client::{Http2Client, whole};
use crate::harness::{App, World, eventually, log, server, trace_http, with_app};
use crate::upstream::{HTTP1, HTTP2, Script, Server};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What must not be seen, in all the shapes in which it travels.
#[derive(Default)]
struct Secrets(Vec<String>);

impl Secrets {
    fn add(&mut self, secret: &str) {
        let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        self.0.extend([
            secret.to_owned(),
            STANDARD.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
            utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
            form,
        ]);
    }

    /// Tokens are as good as known by their first half.
    fn add_token(&mut self, token: &str) {
        self.add(token);
        // A JWT's own beginning is the same in all of them.
        let random = token.rsplit('.').next().unwrap();
        self.0.push(random[..random.len() / 2].to_owned());
    }

    fn found<'a>(&'a self, text: &str) -> Vec<&'a str> {
        let secrets = self.0.iter().map(String::as_str);
        secrets.filter(|secret| text.contains(secret)).collect()
    }

    fn assert_unseen(&self, what: &str, text: &str) {
        assert_eq!(self.found(text), Vec::<&str>::new(), "in {what}:\n{text}");
    }
}

/// Everything that the admin port tells.
async fn admin(app: &App) -> String {
    let mut text = String::new();
    for path in [
        "/",
        "/status",
        "/metrics",
        "/readyz?strict",
        "/livez",
        "/nothing",
    ] {
        let answer = app.admin(path).await;
        text += &answer.head.raw;
        text += &answer.text();
    }
    text
}

/// Sends one request with credentials of the app's own; head and body of the answer.
async fn request(app: &App, target: &str, secrets: &Secrets) -> (StatusCode, String) {
    let answer = app
        .connect()
        .await
        .request(&format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer the-apps-own-token\r\n\
             Proxy-Authorization: Basic dGhlLWFwcHM6b3duLXByb3h5LXBhc3N3b3Jk\r\nCookie: session=the-apps-session\r\n\
             X-Cupbearer-Key: the-key-of-the-app\r\n\r\n"
        ))
        .await;
    let text = answer.head.raw.clone() + &answer.text();
    secrets.assert_unseen("an answer", &text);
    (answer.status, text)
}

fn of_the_app() -> Secrets {
    let mut secrets = Secrets::default();
    for secret in [
        "the-apps-own-token",
        "the-apps-session",
        "the-apps:own-proxy-password",
        "the-key-of-the-app",
    ] {
        secrets.add(secret);
    }
    secrets
}

fn of_vendor(kind: Kind, secrets: &mut Secrets) {
    let text = |wanted: &str| {
        kind.credentials()
            .iter()
            .find_map(|(key, credential)| match credential {
                Credential::Text(value) if *key == wanted => Some(*value),
                _ => None,
            })
    };
    let client_secret = text("client_secret").unwrap();
    secrets.add(client_secret);
    if let Some(password) = text("password") {
        secrets.add(password);
    }
    let id = text("client_id").unwrap_or("19");
    secrets
        .0
        .push(STANDARD.encode(format!("{id}:{client_secret}")));
    if kind == Kind::Cncn {
        // What this vendor is really sent.
        let md5 = "9b00957307aaee78b1591bf672b61dc3";
        secrets.add(md5);
        secrets.0.push(STANDARD.encode(format!("{id}:{md5}")));
    }
}

#[tokio::test]
async fn tokens_that_work_are_not_seen() {
    let world = World::new();
    for kind in Kind::ALL {
        let vendor = world.vendor(kind, None).await;
        let upstream = Script::plain().await;
        let name = kind.name();
        let config = server(
            "client_auth = { header = \"X-Cupbearer-Key\", value = \"the-key-of-the-app\" }",
        ) + &world.vendor_provider(name, &vendor, "")
            + &format!(
                "[upstreams.api]\nurl = \"{}\"\nprovider = \"{name}\"\nheaders = {{ set = {{ X-Key = \"a-header-of-the-configuration\" }} }}\n",
                upstream.url()
            );
        let mut secrets = of_the_app();
        secrets.add("a-header-of-the-configuration");
        of_vendor(kind, &mut secrets);
        with_app(&config, async |app| {
            let apps = of_the_app();
            let (answer, head) = tokio::join!(request(app, "/x?q=1", &apps), async {
                let (mut connection, head) = upstream.request().await;
                connection.send(OK).await;
                head
            });
            assert_eq!(answer.0, 200);
            let token = head.get("authorization").unwrap();
            secrets.add_token(token.strip_prefix("Bearer ").unwrap());
            // The token exists, and the upstream fails in the middle.
            for broken in ["", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"] {
                let mut client = app.connect().await;
                client.send("GET / HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer-Key: the-key-of-the-app\r\n\r\n").await;
                let (mut connection, _) = upstream.request().await;
                connection.send(broken).await;
                drop(connection);
                let rest = match client.try_response().await {
                    Ok(answer) => answer.head.raw.clone() + &answer.text(),
                    Err(error) => error.to_string(),
                };
                secrets.assert_unseen("an answer", &rest);
            }
            secrets.assert_unseen("the admin port", &admin(app).await);
        })
        .await;
        secrets.assert_unseen("the log", &log());
        // The same search finds what is there (half of this token, which no other test knows).
        tracing::trace!(target: "cupbearer::control", "{kind} {}", secrets.0.last().unwrap());
        assert_eq!(secrets.found(&log()), [secrets.0.last().unwrap()]);
    }
}

/// h2 and hyper log what they do at `trace`, also for apps and APIs that speak HTTP/2.
#[tokio::test]
async fn tokens_and_app_credentials_are_not_seen_over_http2() {
    let _traced = trace_http();
    let world = World::new();
    let vendor = world.vendor(Kind::Cncn, None).await;
    let upstream = Server::start(
        &world.authority,
        HTTP2,
        |request: Request<Incoming>| async move {
            let token = request.headers()["authorization"].to_str().unwrap();
            Response::new(whole(token.to_owned()))
        },
    )
    .await;
    let config = server("")
        + &world.vendor_provider("cncn", &vendor, "")
        + &format!(
            "[upstreams.api]\nurl = \"{}\"\nprovider = \"cncn\"\n{}",
            upstream.url(),
            world.tls()
        );
    let mut secrets = of_the_app();
    with_app(&config, async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        let request = client
            .request("GET", "/x?q=1")
            .header("authorization", "Bearer the-apps-own-token")
            .header("cookie", "session=the-apps-session")
            .body(whole(""))
            .unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let token = answer.into_body().collect().await.unwrap().to_bytes();
        let token = std::str::from_utf8(&token).unwrap();
        secrets.add_token(token.strip_prefix("Bearer ").unwrap());
    })
    .await;
    let log = log();
    assert!(log.contains("h2::"), "h2 logs at trace");
    secrets.assert_unseen("the log", &log);
}

#[tokio::test]
async fn credentials_are_not_seen_when_vendors_fail() {
    let world = World::new();
    let mut secrets = of_the_app();
    for kind in Kind::ALL {
        of_vendor(kind, &mut secrets);
    }
    for fault in [
        Fault::RejectCredentials,
        Fault::Status(400),
        Fault::Status(503),
        Fault::Garbage,
        Fault::Html,
        Fault::ControlBytes,
        Fault::Down,
    ] {
        let mut config = server("");
        let mut vendors = Vec::new();
        for kind in Kind::ALL {
            let vendor = world.vendor(kind, None).await;
            vendor.set_fault(Some(fault));
            config += &world.vendor_provider(kind.name(), &vendor, "");
            config +=
                &world.vendor_upstream(kind.name(), kind.name(), &vendor, "token_wait = \"200ms\"");
            vendors.push(vendor);
        }
        with_app(&config, async |app| {
            for kind in Kind::ALL {
                let (status, _) = request(app, &format!("/{kind}/x"), &secrets).await;
                assert!(status.is_server_error(), "{kind} {fault:?}: {status}");
            }
            secrets.assert_unseen("the admin port", &admin(app).await);
        })
        .await;
    }
    secrets.assert_unseen("the log", &log());
}

/// A token endpoint that sends back whatever it was sent, in every place of its error answer.
#[tokio::test]
async fn what_a_vendor_echoes_is_masked() {
    const SECRET: &str = "s3cret/with+odd characters&more=";
    const IN_URL: &str = "key-in-the-token-url";
    const PASSWORD: &str = "password-of-a-user";
    let world = World::new();
    let vendor = Server::start(
        &world.authority,
        HTTP1,
        |request: Request<Incoming>| async {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            let decoded: Vec<_> = form_urlencoded::parse(body.as_bytes()).collect();
            let basic = parts
                .headers
                .get("authorization")
                .map(|value| value.to_str().unwrap());
            let basic = basic.unwrap_or_default();
            let basic_text = basic
                .strip_prefix("Basic ")
                .map(|text| STANDARD.decode(text).unwrap());
            let echo = format!(
                "{} {body} {decoded:?} {basic} {}",
                parts.uri,
                String::from_utf8(basic_text.unwrap_or_default()).unwrap()
            );
            let answer =
                serde_json::json!({ "error": "invalid_request", "error_description": echo });
            let mut response = Response::new(whole(answer.to_string()));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
                .headers_mut()
                .insert("content-type", "application/json".parse().unwrap());
            response
        },
    )
    .await;
    let mut config = server("");
    for (name, keys) in [
        ("post", "dialect = \"oauth2-post\"\n".to_owned()),
        ("basic", "dialect = \"oauth2\"\n".to_owned()),
        (
            "user",
            format!(
                "dialect = \"oauth2\"\ngrant = \"password\"\nusername = \"u\"\npassword = \"{PASSWORD}\"\n"
            ),
        ),
    ] {
        config += &format!(
            "[providers.{name}]\n{keys}token_url = \"{}/{name}?key={IN_URL}\"\nclient_id = \"id-{name}\"\nclient_secret = \"{SECRET}\"\n{}\
             [upstreams.{name}]\nurl = \"http://127.0.0.1:1\"\nprovider = \"{name}\"\nroute = {{ path_prefix = \"/{name}\" }}\n",
            vendor.url(),
            world.tls()
        );
    }
    let mut secrets = of_the_app();
    for secret in [SECRET, PASSWORD, IN_URL] {
        secrets.add(secret);
    }
    with_app(&config, async |app| {
        for name in ["post", "basic", "user"] {
            let (status, _) = request(app, &format!("/{name}/x"), &secrets).await;
            assert_eq!(status, 502);
        }
        let told = admin(app).await;
        // What is no secret is still told.
        assert!(told.contains("invalid_request"), "{told}");
        secrets.assert_unseen("the admin port", &told);
        secrets.assert_unseen("the log", &log());
    })
    .await;
}

/// Static tokens, tokens in the query, and an egress proxy's password.
#[tokio::test]
async fn tokens_in_urls_and_the_egress_proxys_password_are_not_seen() {
    const TOKEN: &str = "static-token-that-rides-in-the-query";
    const PASSWORD: &str = "egress-password";
    let egress = Script::plain().await;
    let upstream = Script::plain().await;
    let config = server("")
        + &format!(
            "[providers.p]\naccess_token = \"{TOKEN}\"\n[providers.p.inject]\nheaders = {{}}\nquery = {{ key = \"{{access_token}}\" }}\n\
             [upstreams.far]\nurl = \"https://far.example\"\nprovider = \"p\"\nproxy = \"http://user:{PASSWORD}@{}\"\nroute = {{ path_prefix = \"/far\" }}\n\
             [upstreams.near]\nurl = \"{}\"\nprovider = \"p\"\nroute = {{ path_prefix = \"/near\" }}\n",
            egress.address(),
            upstream.url()
        );
    let mut secrets = of_the_app();
    secrets.add(TOKEN);
    secrets.add(PASSWORD);
    secrets.0.push(STANDARD.encode(format!("user:{PASSWORD}")));
    with_app(&config, async |app| {
        let ((status, text), head) = tokio::join!(request(app, "/far/x", &secrets), async {
            let (mut connection, head) = egress.request().await;
            connection
                .send("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                .await;
            head
        });
        // It really was sent, to whom it is for.
        assert!(head.get("proxy-authorization").is_some());
        assert_eq!(status, 502, "{text}");
        let ((status, _), head) = tokio::join!(
            request(app, "/near/x?key=the-apps-own-token", &secrets),
            async {
                let (mut connection, head) = upstream.request().await;
                connection.send("broken\r\n\r\n").await;
                head
            }
        );
        assert!(head.first.contains(TOKEN));
        assert_eq!(status, 502);
        secrets.assert_unseen("the admin port", &admin(app).await);
    })
    .await;
    secrets.assert_unseen("the log", &log());
}

/// A static token's file may hold anything; a bad one is told without its content.
#[tokio::test]
async fn a_bad_static_token_is_not_seen() {
    let world = World::new();
    let file = world.write("token", "half-a-token\u{7}and-more");
    let config = server("")
        + &format!(
            "[providers.p]\naccess_token = {{ file = {file:?} }}\n[upstreams.u]\nurl = \"http://127.0.0.1:1\"\nprovider = \"p\"\ntoken_wait = \"50ms\"\n"
        );
    let mut secrets = of_the_app();
    secrets.add("half-a-token");
    with_app(&config, async |app| {
        let (status, _) = request(app, "/", &secrets).await;
        assert!(status.is_server_error());
        eventually("the error", async || {
            app.status().await["providers"][0]["last_error"].is_string()
        })
        .await;
        secrets.assert_unseen("the admin port", &admin(app).await);
    })
    .await;
    secrets.assert_unseen("the log", &log());
}

/// Problems of a configuration name keys, never values.
#[tokio::test]
async fn a_bad_configuration_is_not_quoted() {
    for config in [
        "[providers.p]\nclient_secret = 7e3s3cret\n",
        "[providers.p]\nclient_secrett = \"s3cret\"\n",
        "[providers.p]\ntoken_url = \"https://user:s3cret@example.com/\"\n",
        "[providers.p]\ntoken_url = \"http://example.com/?s3cret\"\nclient_id = \"a\"\nclient_secret = \"s3cret\"\n",
        "[providers.p]\ntimeout = \"s3cret\"\n",
        "[providers.p]\nclient_secret = [\"s3cret\"]\n",
        "[providers.p]\nclient_secret = { env = \"NOT_SET\", file = \"s3cret\" }\n",
        "[upstreams.u]\nheaders = { set = { X = \"s3cret\\u0001\" } }\n",
        "[upstreams.u]\nproxy = \"ftp://user:s3cret@host\"\n",
        "[store]\nkey = \"s3cret\"\n",
        "s3cret",
        "a = \"s3cret",
    ] {
        let Err(problems) = App::try_start(config).await else {
            panic!("it started with {config}");
        };
        assert!(!problems.is_empty());
        assert!(!problems.contains("s3cret"), "{config}\n{problems}");
    }
}

//! Authorization servers beyond a shared secret: assertions, chained tokens, metadata, device codes, client certificates.
//! Each of them checks what it is sent as its RFC says.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cupbearer::demo::authority::Offer;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::cli::{command, run};
use crate::client::{Frames, whole};
use crate::harness::{App, World, eventually, log, server, soon, with_app};
use crate::upstream::{HTTP1, Server};

/// What a token endpoint was sent.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    form: HashMap<String, String>,
    authorization: Option<String>,
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// An endpoint that answers by a function of what it was asked: status and JSON.
async fn endpoint(
    world: &World,
    offer: Offer,
    answer: impl Fn(&Asked) -> (u16, Value) + Clone + Send + Sync + 'static,
) -> (Server, Log) {
    let asked = Log::default();
    let seen = Arc::clone(&asked);
    let answer = move |request: Request<Incoming>| {
        let (seen, answer) = (Arc::clone(&seen), answer.clone());
        async move {
            let one = read(request).await;
            let (status, body) = answer(&one);
            seen.lock().unwrap().push(one);
            respond(status, &body)
        }
    };
    (Server::start(&world.authority, offer, answer).await, asked)
}

async fn read(request: Request<Incoming>) -> Asked {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Asked {
        path,
        form: form_urlencoded::parse(&body).into_owned().collect(),
        authorization,
    }
}

fn respond(status: u16, body: &Value) -> Response<Frames> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(whole(body.to_string()))
        .unwrap()
}

/// An API that tells what it was sent as `Authorization`.
async fn api(world: &World) -> Server {
    let answer = |request: Request<Incoming>| async move {
        let seen = read(request).await;
        respond(200, &json!({ "authorization": seen.authorization }))
    };
    Server::start(&world.authority, HTTP1, answer).await
}

fn upstream(world: &World, name: &str, api: &Server) -> String {
    format!(
        "[upstreams.{name}]\nurl = \"{}\"\nprovider = \"{name}\"\nroute = {{ path_prefix = \"/{name}\" }}\n{}",
        api.url(),
        world.tls()
    )
}

fn issued(token: &str) -> (u16, Value) {
    (200, json!({ "access_token": token, "expires_in": 3600 }))
}

/// Checks an ES256 JWT as RFC 7515 §5.2 says; answers header and claims.
fn verified(jwt: &str, key_pem: &str) -> Option<(Value, Value)> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
    let der = der.secret_pkcs8_der();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref());
    let (signed, signature) = jwt.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    public.verify(signed.as_bytes(), &signature).ok()?;
    let (header, claims) = signed.split_once('.')?;
    let decode = |part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    Some((decode(header), decode(claims)))
}

#[tokio::test]
async fn a_client_proves_itself_with_a_signature_and_its_certificates_thumbprint() {
    let world = World::new();
    let identity = world.authority.client("client").unwrap();
    world.write("key.pem", &identity.key);
    world.write("cert.pem", &identity.certificate);
    let key = identity.key.clone();
    let der = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(&der));
    let own_url = Arc::new(Mutex::new(String::new()));
    let audience = Arc::clone(&own_url);
    let seen_ids: Arc<Mutex<Vec<String>>> = Arc::default();
    let ids = Arc::clone(&seen_ids);
    let (vendor, asked) = endpoint(&world, HTTP1, move |asked| {
        let Some((header, claims)) = verified(&asked.form["client_assertion"], &key) else {
            return (
                401,
                json!({ "error": "invalid_client", "error_description": "signature" }),
            );
        };
        let id = claims["jti"].as_str().unwrap().to_owned();
        let good = header["alg"] == "ES256"
            && header["typ"] == "JWT"
            && header["kid"] == "k1"
            && header["x5t#S256"] == thumbprint
            && claims["iss"] == "client"
            && claims["sub"] == "client"
            && claims["aud"] == *audience.lock().unwrap()
            && claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap() == 120
            && !ids.lock().unwrap().contains(&id);
        ids.lock().unwrap().push(id);
        match good {
            // Short, so that there is a second one.
            true => (
                200,
                json!({ "access_token": "signed-for", "expires_in": 1 }),
            ),
            false => (
                400,
                json!({ "error": "invalid_client", "error_description": "claims" }),
            ),
        }
    })
    .await;
    *own_url.lock().unwrap() = format!("{}/token", vendor.url());
    let api = api(&world).await;
    let config = server("")
        + &format!(
            "[providers.x]\ntoken_url = \"{}/token?tenant=eu\"\nauth_method = \"private_key_jwt\"\nclient_id = \"client\"\n\
             client_assertion = {{ lifetime = \"2m\" }}\n\
             vars = {{ kid = \"k1\", private_key = {{ file = {:?} }}, certificate = {{ file = {:?} }} }}\n{}",
            vendor.url(),
            world.path("key.pem"),
            world.path("cert.pem"),
            world.tls()
        )
        + &upstream(&world, "x", &api);
    with_app(&config, async |app| {
        let answer = app.get("/x/").await;
        assert_eq!(answer.json()["authorization"], "Bearer signed-for");
        eventually("a second assertion", async || {
            seen_ids.lock().unwrap().len() > 1
        })
        .await;
        let status = app.status().await;
        assert!(status["providers"][0]["last_error"].is_null(), "{status}");
    })
    .await;
    let asked = asked.lock().unwrap();
    assert!(asked[0].authorization.is_none());
    for one in asked.iter() {
        let assertion = &one.form["client_assertion"];
        assert!(
            !log().contains(assertion.as_str()),
            "an assertion in the log"
        );
    }
}

#[tokio::test]
async fn a_chained_token_is_bought_with_the_one_before_it() {
    let world = World::new();
    let number = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&number);
    let (vendor, asked) = endpoint(&world, HTTP1, move |asked| {
        if asked.path == "/app" {
            let number = counter.fetch_add(1, Ordering::Relaxed) + 1;
            return issued(&format!("app-{number}"));
        }
        // The first one has been revoked.
        match asked.authorization.as_deref() {
            Some("Bearer app-1") => (401, json!({ "error": "invalid_token" })),
            Some("Bearer app-2") => issued("installation"),
            _ => (400, json!({ "error": "invalid_request" })),
        }
    })
    .await;
    let api = api(&world).await;
    let (url, tls) = (vendor.url(), world.tls());
    let config = server("")
        + &format!(
            "[providers.app]\ntoken_url = \"{url}/app\"\nclient_id = \"c\"\nclient_secret = \"s\"\nmin_interval = \"100ms\"\n{tls}\
             [providers.x]\ntoken_url = \"{url}\"\ndialect = \"installation\"\nvars = {{ id = 42 }}\n{tls}\
             [dialects.installation.request]\npath = \"/installations/{{id}}\"\n\
             headers = {{ Authorization = \"Bearer {{provider.app}}\" }}\n\
             [dialects.installation.response]\ntoken = \"/access_token\"\nexpires = \"/expires_in\"\n"
        )
        + &upstream(&world, "x", &api);
    with_app(&config, async |app| {
        app.ready().await;
        let answer = app.get("/x/").await;
        assert_eq!(answer.json()["authorization"], "Bearer installation");
    })
    .await;
    assert_eq!(number.load(Ordering::Relaxed), 2);
    let asked = asked.lock().unwrap();
    let paths: Vec<_> = asked.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(
        paths,
        ["/app", "/installations/42", "/app", "/installations/42"]
    );
    assert!(!log().contains("app-1"), "an inner token in the log");
}

#[tokio::test]
async fn an_issuer_says_where_its_endpoint_is_and_how_clients_authenticate() {
    let world = World::new();
    let own_url = Arc::new(Mutex::new(String::new()));
    let issuer = Arc::clone(&own_url);
    let (vendor, asked) = endpoint(&world, HTTP1, move |asked| {
        let issuer = issuer.lock().unwrap().clone();
        match asked.path.as_str() {
            // Only OpenID Connect's address has it.
            "/realm/.well-known/openid-configuration" => (
                200,
                json!({
                    "issuer": issuer,
                    "token_endpoint": format!("{issuer}/tokens"),
                    "token_endpoint_auth_methods_supported": ["client_secret_post"],
                }),
            ),
            "/realm/tokens" if asked.form.contains_key("client_secret") => issued("found"),
            "/realm/tokens" => (401, json!({ "error": "invalid_client" })),
            _ => (404, json!({})),
        }
    })
    .await;
    *own_url.lock().unwrap() = format!("{}/realm", vendor.url());
    let api = api(&world).await;
    let config = |issuer: &str| {
        server("")
            + &format!(
                "[providers.x]\nissuer = \"{issuer}\"\nclient_id = \"c\"\nclient_secret = \"s\"\n{}",
                world.tls()
            )
            + &upstream(&world, "x", &api)
    };
    with_app(&config(&format!("{}/realm", vendor.url())), async |app| {
        let answer = app.get("/x/").await;
        assert_eq!(answer.json()["authorization"], "Bearer found");
    })
    .await;
    let paths: Vec<_> = (asked.lock().unwrap().iter())
        .map(|one| one.path.clone())
        .collect();
    let expected = [
        "/.well-known/oauth-authorization-server/realm",
        "/realm/.well-known/openid-configuration",
        "/realm/tokens",
    ];
    assert_eq!(paths, expected);
    // RFC 8414 §3.3: metadata of another issuer are not believed.
    with_app(&config(&format!("{}/realm/", vendor.url())), async |app| {
        let answer = app.get("/x/").await;
        assert_eq!(answer.code(), "credentials_rejected", "{}", answer.text());
        let status = app.status().await;
        let told = status["providers"][0]["last_error"].as_str().unwrap();
        assert!(told.contains("its metadata are of the issuer"), "{told}");
    })
    .await;
}

#[tokio::test]
async fn a_client_certificate_stands_in_for_a_secret() {
    let world = World::new();
    let identity = world.authority.client("client").unwrap();
    world.write("key.pem", &identity.key);
    world.write("cert.pem", &identity.certificate);
    let offer = Offer {
        http2: false,
        client_certificate: true,
    };
    let (vendor, asked) = endpoint(&world, offer, |asked| {
        match asked.form["client_id"].as_str() {
            "c" => issued("by-certificate"),
            _ => (401, json!({ "error": "invalid_client" })),
        }
    })
    .await;
    let api = api(&world).await;
    let config = server("")
        + &format!(
            "[providers.x]\ntoken_url = \"{}\"\nauth_method = \"tls_client_auth\"\nclient_id = \"c\"\n\
             tls = {{ ca_file = {:?}, client_cert_file = {:?}, client_key_file = {:?} }}\n",
            vendor.url(),
            world.path("ca.pem"),
            world.path("cert.pem"),
            world.path("key.pem"),
        )
        + &upstream(&world, "x", &api);
    with_app(&config, async |app| {
        let answer = app.get("/x/").await;
        assert_eq!(answer.json()["authorization"], "Bearer by-certificate");
    })
    .await;
    let asked = asked.lock().unwrap();
    assert!(asked[0].authorization.is_none() && !asked[0].form.contains_key("client_secret"));
}

#[tokio::test]
async fn a_code_that_is_typed_on_another_device_logs_in() {
    let world = World::new();
    let polls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&polls);
    let (vendor, asked) = endpoint(&world, HTTP1, move |asked| {
        let form = |name: &str| asked.form.get(name).map(String::as_str);
        match asked.path.as_str() {
            "/device" if form("scope") == Some("tv") && form("client_id") == Some("c") => (
                200,
                json!({
                    "device_code": "hunter2-device-code", "user_code": "WDJB-MJHT",
                    "verification_uri": "https://id.test/device", "expires_in": "600", "interval": "1",
                }),
            ),
            "/token" if form("device_code") == Some("hunter2-device-code") => {
                match counter.fetch_add(1, Ordering::Relaxed) {
                    0 => (400, json!({ "error": "authorization_pending" })),
                    _ => (
                        200,
                        json!({ "access_token": "typed", "expires_in": 3600, "refresh_token": "hunter2-refresh" }),
                    ),
                }
            }
            _ => (400, json!({ "error": "invalid_request" })),
        }
    })
    .await;
    let url = vendor.url();
    let config = |device: &str| {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"off\"\n[store]\nkind = \"file\"\npath = {:?}\n\
             [providers.tv]\ntoken_url = \"{url}/token\"\ndevice_authorization_url = \"{url}{device}\"\n\
             grant = \"device_code\"\nauth_method = \"none\"\nclient_id = \"c\"\nscope = \"tv\"\n{}",
            world.path("store"),
            world.tls()
        )
    };
    world.write("cupbearer.toml", &config("/device"));
    let ran = run(&world, &["login", "tv", "--no-browser"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("Logged in to tv: "), "{}", ran.out);
    for told in ["https://id.test/device", "WDJB-MJHT"] {
        assert!(ran.err.contains(told), "{}", ran.err);
    }
    assert!(!ran.err.contains("hunter2") && !ran.out.contains("hunter2"));
    assert_eq!(polls.load(Ordering::Relaxed), 2);
    let shown = run(&world, &["token", "tv", "--show"]).await;
    assert_eq!(
        (shown.code, shown.out.trim()),
        (0, "typed"),
        "{}",
        shown.err
    );
    let kinds: Vec<_> = (asked.lock().unwrap().iter())
        .filter_map(|one| one.form.get("grant_type").cloned())
        .collect();
    assert_eq!(kinds, ["urn:ietf:params:oauth:grant-type:device_code"; 2]);
    world.write("cupbearer.toml", &config("/other"));
    let ran = run(&world, &["login", "tv", "--no-browser"]).await;
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("answered HTTP 400, invalid_request"),
        "{}",
        ran.err
    );
}

/// RFC 8414, RFC 7636 and RFC 9207 in one login: the issuer alone is configured.
#[tokio::test]
async fn a_browser_login_at_an_issuer_that_says_where() {
    let world = World::new();
    let own_url = Arc::new(Mutex::new(String::new()));
    let issuer = Arc::clone(&own_url);
    let (vendor, asked) = endpoint(&world, HTTP1, move |asked| {
        let issuer = issuer.lock().unwrap().clone();
        match asked.path.as_str() {
            "/.well-known/oauth-authorization-server" => (
                200,
                json!({
                    "issuer": issuer,
                    "token_endpoint": format!("{issuer}/token"),
                    "authorization_endpoint": format!("{issuer}/authorize"),
                    "code_challenge_methods_supported": ["S256"],
                    "authorization_response_iss_parameter_supported": true,
                }),
            ),
            "/token" => (
                200,
                json!({ "access_token": "brought", "expires_in": 3600, "refresh_token": "hunter2" }),
            ),
            _ => (404, json!({})),
        }
    })
    .await;
    let url = vendor.url();
    (*own_url.lock().unwrap()).clone_from(&url);
    world.write(
        "cupbearer.toml",
        &format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"off\"\n[store]\nkind = \"file\"\npath = {:?}\n\
             [providers.web]\nissuer = \"{url}\"\ngrant = \"authorization_code\"\nclient_id = \"c\"\n\
             client_secret = \"s\"\nscope = \"openid\"\n{}",
            world.path("store"),
            world.tls()
        ),
    );
    // A redirect of another issuer, or of none: its code goes nowhere.
    for iss in ["&iss=https%3A%2F%2Fevil.example", ""] {
        let (code, err) = log_in(&world, &format!("{url}/authorize?"), iss).await;
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("issuer"), "{err}");
    }
    let exchanges = || {
        let asked = asked.lock().unwrap();
        let token = asked.iter().filter(|one| one.path == "/token");
        token.cloned().collect::<Vec<_>>()
    };
    assert_eq!(exchanges().len(), 0);
    let iss: String = form_urlencoded::byte_serialize(url.as_bytes()).collect();
    let (code, err) = log_in(&world, &format!("{url}/authorize?"), &format!("&iss={iss}")).await;
    assert_eq!(code, 0, "{err}");
    let exchanges = exchanges();
    assert_eq!(exchanges.len(), 1);
    assert_eq!(exchanges[0].form["code"], "hunter2-code");
    assert_eq!(exchanges[0].form["code_verifier"].len(), 43);
    assert!(!err.contains("hunter2"), "{err}");
}

/// The issuer's word on where the code is from holds until it is exchanged: whoever it names meanwhile gets none.
#[tokio::test]
async fn a_device_code_goes_to_the_server_that_gave_it() {
    let world = World::new();
    let own_url = Arc::new(Mutex::new(String::new()));
    let issuer = Arc::clone(&own_url);
    let (vendor, asked) = endpoint(&world, HTTP1, move |asked| {
        let issuer = issuer.lock().unwrap().clone();
        match asked.path.as_str() {
            "/.well-known/oauth-authorization-server" => (
                200,
                json!({
                    "issuer": issuer,
                    "token_endpoint": format!("{issuer}/token"),
                    "device_authorization_endpoint": format!("{issuer}/device"),
                }),
            ),
            "/device" => (
                200,
                json!({
                    "device_code": "hunter2-device-code", "user_code": "WDJB-MJHT",
                    "verification_uri": "https://id.test/device", "expires_in": 600, "interval": 1,
                }),
            ),
            _ => issued("typed"),
        }
    })
    .await;
    let url = vendor.url();
    (*own_url.lock().unwrap()).clone_from(&url);
    world.write(
        "cupbearer.toml",
        &format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"off\"\n[store]\nkind = \"file\"\npath = {:?}\n\
             [providers.tv]\nissuer = \"{url}\"\ngrant = \"device_code\"\nauth_method = \"none\"\nclient_id = \"c\"\n{}",
            world.path("store"),
            world.tls()
        ),
    );
    let ran = run(&world, &["login", "tv", "--no-browser"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let asked = asked.lock().unwrap();
    let paths: Vec<_> = asked.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/.well-known/oauth-authorization-server",
            "/device",
            "/token"
        ]
    );
}

/// `login` with a browser that is sent back with a code and `more`. Its exit code and what it told.
async fn log_in(world: &World, goes_to: &str, more: &str) -> (i32, String) {
    let mut login = command(&world.path("."), &["login", "web", "--no-browser"]);
    let mut login = login
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(login.stderr.take().unwrap()).lines();
    let mut err = String::new();
    let page = loop {
        let line = soon("the address", told.next_line()).await.unwrap();
        let line = line.unwrap_or_else(|| panic!("it ended: {err}"));
        err.push_str(&line);
        if let Some(query) = line.trim().strip_prefix(goes_to) {
            break form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect::<HashMap<_, _>>();
        }
    };
    assert_eq!(page["code_challenge_method"], "S256");
    let back: http::Uri = page["redirect_uri"].parse().unwrap();
    let mut browser = tokio::net::TcpStream::connect(back.authority().unwrap().as_str())
        .await
        .unwrap();
    let visit = format!(
        "GET /?code=hunter2-code&state={}{more} HTTP/1.1\r\nHost: {}\r\n\r\n",
        page["state"],
        back.authority().unwrap()
    );
    browser.write_all(visit.as_bytes()).await.unwrap();
    while let Some(line) = soon("the end", told.next_line()).await.unwrap() {
        err.push_str(&line);
    }
    (login.wait().await.unwrap().code().unwrap(), err)
}

#[tokio::test]
async fn a_check_buys_a_token_once_however_many_are_bought_with_it() {
    let world = World::new();
    let (vendor, asked) = endpoint(&world, HTTP1, |asked| {
        match (asked.path.as_str(), asked.form.get("subject_token")) {
            ("/inner", None) => issued("shared"),
            ("/bad", None) => (400, json!({ "error": "invalid_client" })),
            ("/outer", Some(subject)) if subject == "shared" => issued("bought"),
            _ => (400, json!({ "error": "invalid_request" })),
        }
    })
    .await;
    let provider = |name: &str, path: &str, more: &str| {
        format!(
            "[providers.{name}]\ntoken_url = \"{}{path}\"\nclient_id = \"{name}\"\nclient_secret = \"s\"\n{more}{}",
            vendor.url(),
            world.tls()
        )
    };
    let with = |inner: &str| {
        format!(
            "grant = \"token_exchange\"\nvars = {{ subject_token = {{ provider = \"{inner}\" }} }}\n"
        )
    };
    let config: String = [
        provider("a", "/outer", &with("inner")),
        provider("b", "/outer", &with("inner")),
        provider("c", "/outer", &with("wrong")),
        provider("d", "/outer", &with("wrong")),
        provider("inner", "/inner", ""),
        provider("wrong", "/bad", ""),
    ]
    .concat();
    world.write("cupbearer.toml", &(server("") + &config));
    let ran = run(&world, &["check", "--online"]).await;
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("no token from: wrong, c, d"),
        "{}{}",
        ran.out,
        ran.err
    );
    let asked = asked.lock().unwrap();
    let paths: Vec<_> = asked.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(paths, ["/inner", "/outer", "/outer", "/bad"]);
}

#[tokio::test]
async fn an_answer_that_a_dialect_does_not_expect_is_explained() {
    let world = World::new();
    let (vendor, _) = endpoint(&world, HTTP1, |_| {
        (
            200,
            json!({ "code": 0, "result": { "appToken": "hunter2-token", "expire": 7200 } }),
        )
    })
    .await;
    world.write(
        "cupbearer.toml",
        &format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[providers.x]\ntoken_url = \"{}\"\nclient_id = \"c\"\nclient_secret = \"s3cret\"\n{}",
            vendor.url(),
            world.tls()
        ),
    );
    let ran = run(&world, &["check", "--online"]).await;
    assert_eq!(ran.code, 1);
    for told in [
        "HTTP 200, content type application/json",
        "it has /code, /result/appToken, /result/expire",
        "response.token: nothing at /access_token; perhaps token = \"/result/appToken\"",
        "perhaps expires = \"/result/expire\"",
    ] {
        assert!(ran.out.contains(told), "{told} in {}", ran.out);
    }
    assert!(!ran.out.contains("hunter2") && !ran.err.contains("hunter2"));
}

/// RFC 8693 §2.1, with the token of another provider as the subject.
#[tokio::test]
async fn another_inner_provider_after_a_reload_buys_another_token() {
    let world = World::new();
    let (vendor, asked) = endpoint(&world, HTTP1, |asked| {
        let form = |name: &str| asked.form.get(name).map(String::as_str);
        match form("grant_type") {
            Some("client_credentials") => issued(&format!("subject-{}", &asked.path[1..])),
            Some("urn:ietf:params:oauth:grant-type:token-exchange")
                if form("subject_token_type")
                    == Some("urn:ietf:params:oauth:token-type:access_token") =>
            {
                issued(&format!("for-{}", form("subject_token").unwrap()))
            }
            _ => (400, json!({ "error": "invalid_request" })),
        }
    })
    .await;
    let api = api(&world).await;
    let (url, tls) = (vendor.url(), world.tls());
    let config = |inner: &str| {
        let id = "client_id = \"c\"\nclient_secret = \"s\"\n";
        server("")
            + &format!(
                "[providers.inner]\ntoken_url = \"{url}/{inner}\"\n{id}{tls}\
                 [providers.x]\ntoken_url = \"{url}/exchange\"\ngrant = \"token_exchange\"\n{id}\
                 vars = {{ subject_token = {{ provider = \"inner\" }} }}\n{tls}"
            )
            + &upstream(&world, "x", &api)
    };
    let path = world.path("cupbearer.toml");
    let mut app = App::start_watching(&path, &config("one")).await;
    let answer = app.get("/x/").await;
    assert_eq!(answer.json()["authorization"], "Bearer for-subject-one");
    let reloaded = app.reload(&path, &config("two")).await;
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    // From the first request on: a token that was bought for another subject is another's.
    let answer = app.get("/x/").await;
    assert_eq!(answer.json()["authorization"], "Bearer for-subject-two");
    app.stop(cupbearer::app::Shutdown::Interrupt);
    app.ended().await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 4);
}

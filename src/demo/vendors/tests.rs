use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;

const FORM: &str = "application/x-www-form-urlencoded";
const MD5_OF_CNCN_SECRET: &str = "9b00957307aaee78b1591bf672b61dc3";

struct Fixture {
    vendor: FakeVendor,
    client: Client,
}

struct Client {
    tls: Arc<ClientConfig>,
}

struct Answer {
    status: StatusCode,
    body: Bytes,
    version: http::Version,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Client {
    fn new(authority: &Authority, alpn: &[&[u8]]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Self { tls: Arc::new(tls) }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, std::io::Error> {
        let other = std::io::Error::other;
        let uri = request.uri().clone();
        let stream = TcpStream::connect(uri.authority().unwrap().as_str()).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let response = if http2 {
            let (mut sender, driver) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .map_err(other)?;
            tokio::spawn(driver);
            sender.send_request(request).await.map_err(other)?
        } else {
            let (mut sender, driver) = hyper::client::conn::http1::handshake(io)
                .await
                .map_err(other)?;
            tokio::spawn(driver);
            let (mut parts, body) = request.into_parts();
            let host = parts.uri.authority().unwrap().as_str().parse().unwrap();
            parts.headers.insert(HOST, host);
            parts.uri = Uri::from(parts.uri.path_and_query().unwrap().clone());
            sender
                .send_request(Request::from_parts(parts, body))
                .await
                .map_err(other)?
        };
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status,
            version: parts.version,
            body: body.collect().await.map_err(other)?.to_bytes(),
        })
    }
}

impl Fixture {
    async fn new(kind: Kind) -> Self {
        Self::with(kind, Options::default()).await
    }

    async fn with(kind: Kind, options: Options) -> Self {
        let authority = Authority::new().unwrap();
        let vendor = FakeVendor::start(&authority, kind, options).await.unwrap();
        let client = Client::new(&authority, &[b"h2", b"http/1.1"]);
        Self { vendor, client }
    }

    async fn post(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::post(self.vendor.token_url());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned())).unwrap();
        self.client.send(request).await.unwrap()
    }

    async fn get(&self, query: &str) -> Answer {
        let request = Request::get(format!("{}{query}", self.vendor.token_url()))
            .header(ACCEPT, "application/json")
            .body(Full::default())
            .unwrap();
        self.client.send(request).await.unwrap()
    }

    async fn api(&self, path: &str, authorization: &[&str]) -> Answer {
        let mut request = Request::get(format!("{}{path}", self.vendor.api_url()));
        for value in authorization {
            request = request.header(AUTHORIZATION, *value);
        }
        let request = request.body(Full::default()).unwrap();
        self.client.send(request).await.unwrap()
    }

    async fn form(&self, body: &str) -> Answer {
        self.post(&[("content-type", FORM)], body).await
    }

    /// Sends a valid token request and returns the token.
    async fn token(&self) -> String {
        let answer = self.good_call().await;
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "{:?}",
            self.vendor.refusals()
        );
        let body = answer.json();
        let token = match self.vendor.kind() {
            Kind::Besender => &body["data"]["token"]["access_token"],
            _ => &body["access_token"],
        };
        token
            .as_str()
            .unwrap_or_else(|| panic!("{body}"))
            .to_owned()
    }

    async fn good_call(&self) -> Answer {
        match self.vendor.kind() {
            Kind::Cncn => {
                let authorization = basic("joelhy", MD5_OF_CNCN_SECRET);
                let headers = cncn_headers(&authorization);
                self.post(&headers, "grant_type=client_credentials").await
            }
            Kind::Besender => {
                let body = json!({ "client_id": 19, "client_secret": "demo-secret-of-besender" });
                self.post(&[("content-type", "application/json")], &body.to_string())
                    .await
            }
            Kind::Ctcfile => self.get(CTCFILE_QUERY).await,
            Kind::IdentityServer => {
                let body = format!("{IDENTITY}&grant_type=client_credentials");
                self.form(&body).await
            }
            Kind::Passport => self.form(PASSPORT_FORM).await,
        }
    }

    #[track_caller]
    fn last_refusal_says(&self, words: &str) {
        let refusals = self.vendor.refusals();
        let last = refusals.last().map(String::as_str).unwrap_or_default();
        assert!(last.contains(words), "'{last}' does not say '{words}'");
    }
}

const CTCFILE_QUERY: &str =
    "?clientId=6zgY2DngtDjAq567k5sWfqJ6S01l&clientSecret=demo%20secret%2Bof%2Fctcfile%26";
const IDENTITY: &str = "client_id=client1&client_secret=demo-secret-of-identityserver";
const PASSPORT_FORM: &str = "grant_type=password&client_id=2&client_secret=demo-secret-of-passport\
     &scope=&username=13800000000&password=demo+password+%26+more";

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn cncn_headers(authorization: &str) -> [(&str, &str); 3] {
    [
        ("authorization", authorization),
        ("accept", "application/json"),
        ("content-type", FORM),
    ]
}

#[tokio::test]
async fn every_vendor_issues_tokens_that_its_api_accepts_over_http1_and_http2() {
    for kind in Kind::ALL {
        for http2 in [false, true] {
            let api = Offer {
                http2,
                client_certificate: false,
            };
            let options = Options {
                api,
                ..Options::default()
            };
            let fixture = Fixture::with(kind, options).await;
            let token = fixture.token().await;
            let answer = fixture
                .api("/orders/42?x=1", &[&format!("Bearer {token}")])
                .await;
            assert_eq!(
                answer.status,
                StatusCode::OK,
                "{:?}",
                fixture.vendor.refusals()
            );
            assert_eq!(answer.version == http::Version::HTTP_2, http2);
            let body = answer.json();
            assert_eq!(body["vendor"], kind.name());
            assert_eq!(body["path"], format!("{}/orders/42", kind.api_path()));
            assert_eq!(
                (&body["query"], &body["token_number"]),
                (&json!("x=1"), &json!(1))
            );
            assert_eq!(fixture.vendor.counters().refused, 0);
        }
    }
}

#[tokio::test]
async fn api_accepts_only_exactly_the_valid_token() {
    for kind in Kind::ALL {
        let fixture = Fixture::new(kind).await;
        let token = fixture.token().await;
        let good = format!("Bearer {token}");
        let cases: [(&[&str], &str); 6] = [
            (&[], "no Authorization header"),
            (&[&good, &good], "more than one"),
            (&[&token], "not 'Bearer TOKEN'"),
            (&[&format!("bearer {token}")], "not 'Bearer TOKEN'"),
            (&[&format!("Bearer  {token}")], "never issued"),
            (&["Bearer nonsense"], "never issued"),
        ];
        for (authorization, why) in cases {
            let answer = fixture.api("/x", authorization).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{kind}: {why}");
            fixture.last_refusal_says(why);
        }
        fixture.vendor.kill_tokens();
        let answer = fixture.api("/x", &[&good]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        fixture.last_refusal_says("token no. 1 was revoked");
        assert_eq!(fixture.vendor.counters().api_rejected, 7);
        let fresh = fixture.token().await;
        assert_ne!(fresh, token);
        let answer = fixture.api("/x", &[&format!("Bearer {fresh}")]).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn expired_tokens_are_refused() {
    let options = Options {
        life: Some(Duration::ZERO),
        ..Options::default()
    };
    let fixture = Fixture::with(Kind::Cncn, options).await;
    let token = fixture.token().await;
    let answer = fixture.api("/x", &[&format!("Bearer {token}")]).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    fixture.last_refusal_says("token no. 1 expired");
}

#[tokio::test]
async fn only_ctcfile_invalidates_the_previous_token() {
    for kind in Kind::ALL {
        let fixture = Fixture::new(kind).await;
        let first = fixture.token().await;
        let second = fixture.token().await;
        let status = fixture
            .api("/x", &[&format!("Bearer {first}")])
            .await
            .status;
        if kind == Kind::Ctcfile {
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            fixture.last_refusal_says("token no. 1 died when no. 2 was issued");
        } else {
            assert_eq!(status, StatusCode::OK, "{kind}");
        }
        let status = fixture
            .api("/x", &[&format!("Bearer {second}")])
            .await
            .status;
        assert_eq!(status, StatusCode::OK, "{kind}");
    }
}

#[tokio::test]
async fn cncn_responds_as_documented() {
    let fixture = Fixture::new(Kind::Cncn).await;
    let body = fixture.good_call().await.json();
    assert_eq!(body["access_token"].as_str().unwrap().len(), 32);
    assert_eq!(body["expires_in"], 3600);
    assert!(body["expires_at"].as_u64().unwrap() > 1_700_000_000);

    let good = basic("joelhy", MD5_OF_CNCN_SECRET);
    let plain = basic("joelhy", "demo-secret-of-cncn");
    let upper = basic("joelhy", &MD5_OF_CNCN_SECRET.to_uppercase());
    let empty = basic("joelhy", "");
    let cc = "grant_type=client_credentials";
    let cases = [
        (
            plain.as_str(),
            cc,
            "invalid_client",
            "用户名或密码错误",
            "19 characters instead of 32",
        ),
        (
            &upper,
            cc,
            "invalid_client",
            "用户名或密码错误",
            "md5(client_secret) is wrong",
        ),
        (
            &empty,
            cc,
            "invalid_request",
            "用户名和密码不能为空",
            "is empty",
        ),
        (
            &good,
            "grant_type=password",
            "unsupported_grant_type",
            "不支持该种验证类型",
            "'password'",
        ),
        (
            &good,
            "",
            "unsupported_grant_type",
            "不支持该种验证类型",
            "''",
        ),
        (
            &good,
            "grant_type=client_credentials&client_id=joelhy",
            "invalid_request",
            "用户名和密码不能为空",
            "client_id is not in the document",
        ),
    ];
    for (authorization, body, error, description, why) in cases {
        let answer = fixture.post(&cncn_headers(authorization), body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{why}");
        assert_eq!(
            answer.json(),
            json!({ "error": error, "error_description": description })
        );
        fixture.last_refusal_says(why);
    }
    let no_accept = [("authorization", good.as_str()), ("content-type", FORM)];
    assert_eq!(
        fixture.post(&no_accept, cc).await.status,
        StatusCode::BAD_REQUEST
    );
    fixture.last_refusal_says("no Accept");
    let answer = fixture.get("").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    fixture.last_refusal_says("GET instead of POST");
    assert_eq!(fixture.vendor.counters().refused, 8);
}

#[tokio::test]
async fn besender_needs_a_numeric_client_id_and_returns_errors_in_its_envelope() {
    let fixture = Fixture::new(Kind::Besender).await;
    let body = fixture.good_call().await.json();
    assert_eq!(
        (&body["code"], &body["data"]["token"]["expires_in"]),
        (&json!(200), &json!(86400))
    );
    assert!(
        body["data"]["token"]["access_token"]
            .as_str()
            .unwrap()
            .len()
            > 800
    );

    let secret = "demo-secret-of-besender";
    let cases = [
        (
            json!({ "client_id": "19", "client_secret": secret }),
            422,
            "a JSON string",
        ),
        (
            json!({ "client_id": 20, "client_secret": secret }),
            401,
            "client_id is wrong",
        ),
        (
            json!({ "client_id": 19, "client_secret": "no" }),
            401,
            "2 characters instead of 23",
        ),
        (
            json!({ "client_id": 19 }),
            422,
            "client_secret is no string",
        ),
        (
            json!({ "client_id": 19, "client_secret": secret, "grant_type": "client_credentials" }),
            422,
            "grant_type is not in the document",
        ),
        (json!([19]), 422, "no object"),
    ];
    for (body, code, why) in cases {
        let answer = fixture
            .post(&[("content-type", "application/json")], &body.to_string())
            .await;
        assert_eq!(answer.status, StatusCode::OK);
        let answer = answer.json();
        assert_eq!(
            (&answer["code"], &answer["data"]),
            (&json!(code), &Value::Null),
            "{why}"
        );
        fixture.last_refusal_says(why);
    }
    let body = json!({ "client_id": 19, "client_secret": secret }).to_string();
    fixture.form(&body).await;
    fixture.last_refusal_says("Content-Type is 'application/x-www-form-urlencoded'");
}

#[tokio::test]
async fn ctcfile_needs_an_escaped_and_complete_query() {
    let fixture = Fixture::new(Kind::Ctcfile).await;
    let body = fixture.good_call().await.json();
    assert_eq!(
        (&body["token_type"], &body["errcode"]),
        (&json!(""), &json!(""))
    );
    let id = "clientId=6zgY2DngtDjAq567k5sWfqJ6S01l";
    let cases = [
        (
            format!("?{id}&clientSecret=demo%20secret+of/ctcfile%26"),
            "40001",
            "clientSecret is wrong",
        ),
        (format!("?{id}"), "40000", "clientSecret is missing"),
        (
            "?clientId=x&clientSecret=y".to_owned(),
            "40001",
            "clientId is wrong",
        ),
        (
            format!("{CTCFILE_QUERY}&grant_type=client_credentials"),
            "40000",
            "grant_type is not in",
        ),
        (
            format!("{CTCFILE_QUERY}&clientId=x"),
            "40000",
            "clientId is given twice",
        ),
    ];
    for (query, errcode, why) in cases {
        let answer = fixture.get(&query).await;
        assert_eq!(answer.status, StatusCode::OK);
        let answer = answer.json();
        assert_eq!(
            (&answer["errcode"], &answer["access_token"]),
            (&json!(errcode), &json!(""))
        );
        fixture.last_refusal_says(why);
    }
    fixture.form("clientId=x").await;
    fixture.last_refusal_says("POST instead of GET");
}

#[tokio::test]
async fn identityserver_supports_seven_grants() {
    let fixture = Fixture::new(Kind::IdentityServer).await;
    let grants = [
        ("client_credentials", "", false),
        ("client_credentials", "&scope=api%20profile", false),
        (
            "password",
            "&username=alice&password=demo-password-of-alice",
            true,
        ),
        (
            "password_ad",
            "&username=CORP%5Calice&password=demo-password-of-alice",
            true,
        ),
        (
            "password",
            "&username=alice&password=demo-password-of-alice&scope=api",
            false,
        ),
        (
            "authorization_code",
            "&code=hdh922&redirect_uri=https%3A%2F%2Fmyapp.com%2Fcallback",
            true,
        ),
        ("sms", "&phone=13800000000&sms=123456", true),
        ("wechat", "&openId=oABC-demo", true),
        ("refresh_token", "&refresh_token=8xLOxBtZp8", true),
    ];
    for (grant, fields, refreshable) in grants {
        let answer = fixture
            .form(&format!("{IDENTITY}&grant_type={grant}{fields}"))
            .await;
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "{:?}",
            fixture.vendor.refusals()
        );
        let body = answer.json();
        assert_eq!(body["expires_in"], 3600);
        assert_eq!(body.get("refresh_token").is_some(), refreshable, "{grant}");
        assert_eq!(
            body.get("id_token").is_some(),
            grant == "authorization_code"
        );
    }
    assert_eq!(fixture.vendor.counters().issued, 9);
}

#[tokio::test]
async fn identityserver_refuses_as_documented() {
    let fixture = Fixture::new(Kind::IdentityServer).await;
    let cases = [
        (
            "client_id=client1&grant_type=client_credentials",
            "invalid_client",
            "neither as Basic",
        ),
        (
            "client_id=client1&client_secret=x&grant_type=client_credentials",
            "invalid_client",
            "1 char",
        ),
        (
            &format!("{IDENTITY}&grant_type=magic"),
            "unsupported_grant_type",
            "'magic'",
        ),
        (
            &format!("{IDENTITY}&grant_type=client_credentials&scope="),
            "invalid_scope",
            "empty",
        ),
        (
            &format!("{IDENTITY}&grant_type=client_credentials&scope=moon"),
            "invalid_scope",
            "'moon'",
        ),
        (
            &format!("{IDENTITY}&grant_type=password&username=alice"),
            "invalid_request",
            "password is missing",
        ),
        (
            &format!("{IDENTITY}&grant_type=password&username=alice&password=x"),
            "invalid_grant",
            "password is wrong",
        ),
        (
            &format!(
                "{IDENTITY}&grant_type=password_ad&username=alice&password=demo-password-of-alice"
            ),
            "invalid_grant",
            "username is wrong",
        ),
        (
            &format!("{IDENTITY}&grant_type=wechat&open_id=oABC-demo"),
            "invalid_request",
            "openId is missing",
        ),
        (
            &format!("{IDENTITY}&grant_type=wechat&openId=x"),
            "invalid_grant",
            "openId is wrong",
        ),
        (
            &format!("{IDENTITY}&grant_type=sms&phone=13800000000&sms=1"),
            "invalid_grant",
            "sms is unknown",
        ),
        (
            &format!("{IDENTITY}&grant_type=refresh_token&refresh_token=x"),
            "invalid_grant",
            "refresh_token is unknown",
        ),
        (
            &format!("{IDENTITY}&grant_type=client_credentials&x=1"),
            "invalid_request",
            "x is not in",
        ),
    ];
    for (body, error, why) in cases {
        let answer = fixture.form(body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{why}");
        assert_eq!(answer.json(), json!({ "error": error }), "{why}");
        fixture.last_refusal_says(why);
    }
}

#[tokio::test]
async fn identityserver_accepts_basic_but_not_basic_and_body() {
    let fixture = Fixture::new(Kind::IdentityServer).await;
    let authorization = basic("client1", "demo%2Dsecret%2Dof%2Didentityserver");
    let headers = [("content-type", FORM), ("authorization", &authorization)];
    let answer = fixture
        .post(&headers, "grant_type=client_credentials")
        .await;
    assert_eq!(
        answer.status,
        StatusCode::OK,
        "{:?}",
        fixture.vendor.refusals()
    );
    let both = format!("{IDENTITY}&grant_type=client_credentials");
    assert_eq!(
        fixture.post(&headers, &both).await.status,
        StatusCode::BAD_REQUEST
    );
    fixture.last_refusal_says("both as Basic and in the body");
}

#[tokio::test]
async fn identityserver_spends_codes_and_rotates_refresh_tokens() {
    let fixture = Fixture::new(Kind::IdentityServer).await;
    let sms = format!("{IDENTITY}&grant_type=sms&phone=13800000000&sms=123456");
    // A request with another error does not spend the code.
    fixture.form(&format!("{sms}&extra=1")).await;
    fixture.last_refusal_says("extra is not in the document");
    let first = fixture.form(&sms).await.json();
    assert_eq!(
        fixture.form(&sms).await.json(),
        json!({ "error": "invalid_grant" })
    );
    fixture.last_refusal_says("sms was used before");

    let refresh = |token: &Value| {
        format!(
            "{IDENTITY}&grant_type=refresh_token&refresh_token={}",
            token.as_str().unwrap()
        )
    };
    let second = fixture.form(&refresh(&first["refresh_token"])).await.json();
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    fixture.form(&refresh(&first["refresh_token"])).await;
    fixture.last_refusal_says("refresh_token was used before");
    let third = fixture.form(&refresh(&second["refresh_token"])).await;
    assert_eq!(third.status, StatusCode::OK);
    fixture.vendor.add_one_time("777");
    let again = sms.replace("123456", "777");
    assert_eq!(fixture.form(&again).await.status, StatusCode::OK);
}

#[tokio::test]
async fn passport_issues_tokens_for_a_year_and_offers_no_refresh() {
    let fixture = Fixture::new(Kind::Passport).await;
    let body = fixture.good_call().await.json();
    assert_eq!(body["expires_in"], 31_536_000);
    assert!(
        body["refresh_token"]
            .as_str()
            .unwrap()
            .starts_with("def502")
    );
    let cases = [
        (
            PASSPORT_FORM.replace("more", "less"),
            401,
            "invalid_credentials",
            "password is wrong",
        ),
        (
            PASSPORT_FORM.replace("of-passport", "of-x"),
            401,
            "invalid_client",
            "client_secret is wrong",
        ),
        (
            PASSPORT_FORM.replace("&scope=", ""),
            400,
            "invalid_request",
            "scope is missing",
        ),
        (
            PASSPORT_FORM.replace("scope=", "scope=x"),
            400,
            "invalid_request",
            "scope is not empty",
        ),
        (
            PASSPORT_FORM.replace("grant_type=password", "grant_type=client_credentials"),
            400,
            "unsupported_grant_type",
            "instead of password",
        ),
        (
            PASSPORT_FORM.replace(
                "grant_type=password",
                "grant_type=refresh_token&refresh_token=x",
            ),
            400,
            "unsupported_grant_type",
            "offers no refresh",
        ),
    ];
    for (body, status, error, why) in cases {
        let answer = fixture.form(&body).await;
        assert_eq!(answer.status.as_u16(), status, "{why}");
        assert_eq!(answer.json()["error"], error, "{why}");
        fixture.last_refusal_says(why);
    }
    let wrong = PASSPORT_FORM.replace("more", "less");
    assert_eq!(
        fixture.form(&wrong).await.json(),
        json!({ "error": "invalid_credentials", "message": "The user credentials were incorrect." })
    );
}

#[tokio::test]
async fn faults_take_effect_and_end() {
    let fixture = Fixture::new(Kind::Ctcfile).await;
    let token = fixture.token().await;
    let fault = |name: &str| fixture.vendor.set_fault(Some(name.parse().unwrap()));

    fault("503");
    assert_eq!(fixture.good_call().await.status.as_u16(), 503);
    fault("html");
    assert!(
        fixture
            .good_call()
            .await
            .body
            .starts_with(b"<!DOCTYPE html>")
    );
    fault("garbage");
    assert!(std::str::from_utf8(&fixture.good_call().await.body).is_err());
    fault("empty");
    assert!(fixture.good_call().await.body.is_empty());
    fault("huge");
    assert!(fixture.good_call().await.body.len() > 2 * 1024 * 1024);
    fault("reject");
    assert_eq!(fixture.good_call().await.json()["errcode"], "40001");
    for silent in ["down", "half-closed"] {
        fault(silent);
        let request = Request::get(fixture.vendor.token_url())
            .body(Full::default())
            .unwrap();
        assert!(fixture.client.send(request).await.is_err(), "{silent}");
    }

    // None of these faults issued a token, so the previous token is still valid.
    let answer = fixture.api("/x", &[&format!("Bearer {token}")]).await;
    assert_eq!(answer.status, StatusCode::OK);
    fault("control-bytes");
    let token = fixture.good_call().await.json()["access_token"].to_string();
    assert!(token.contains("\\r\\n"));
    fixture.vendor.set_fault(None);
    fixture.token().await;
    assert!("418x".parse::<Fault>().is_err() && "200".parse::<Fault>().is_err());
}

#[tokio::test]
async fn a_slow_vendor_invalidates_the_previous_token_at_once() {
    let fixture = Fixture::new(Kind::Ctcfile).await;
    let token = fixture.token().await;
    // Longer than the test runs.
    fixture
        .vendor
        .set_fault(Some(Fault::Slow(Duration::from_secs(3600))));
    let mut call = Box::pin(fixture.good_call());
    let old_is_dead = async {
        while fixture
            .api("/x", &[&format!("Bearer {token}")])
            .await
            .status
            == StatusCode::OK
        {}
    };
    tokio::select! {
        _ = &mut call => panic!("answered at once"),
        () = old_is_dead => {}
    }
    fixture.last_refusal_says("token no. 1 died when no. 2 was issued");
}

#[tokio::test]
async fn events_are_sent_in_order_and_without_tokens() {
    let (events, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let options = Options {
        events: Some(events),
        ..Options::default()
    };
    let fixture = Fixture::with(Kind::Cncn, options).await;
    let token = fixture.token().await;
    fixture.api("/x", &[&format!("Bearer {token}")]).await;
    fixture.api("/x", &[]).await;
    let mut told = Vec::new();
    while let Ok(event) = seen.try_recv() {
        told.push(event.what);
    }
    assert!(!format!("{told:?}").contains(&token));
    assert!(matches!(
        told.as_slice(),
        [
            What::TokenIssued { number: 1, .. },
            What::ApiServed { number: 1, .. },
            What::ApiRejected { .. }
        ]
    ));
}

#[tokio::test]
async fn api_requires_a_client_certificate_if_configured() {
    let api = Offer {
        http2: false,
        client_certificate: true,
    };
    let options = Options {
        api,
        ..Options::default()
    };
    let fixture = Fixture::with(Kind::Cncn, options).await;
    let request = Request::get(fixture.vendor.api_url())
        .body(Full::default())
        .unwrap();
    assert!(fixture.client.send(request).await.is_err());
}

//! Tokens that an API rejects, and concurrent requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::client::Client;
use crate::endpoint::{
    Endpoint, Received, SECRET, config, echo, json, provider, response, token_response, upstream,
};
use crate::harness::{World, eventually, join_all, server, soon, with_app};
use crate::upstream::Script;

const INVALID_TOKEN: &str = "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n";

/// An API that accepts the token `least` and newer ones. It returns the token and the request body.
async fn api_accepting_from(least: Arc<AtomicUsize>) -> Endpoint {
    Endpoint::start(move |request: Received| {
        let least = least.load(Ordering::Relaxed);
        async move {
            let number: usize = request.credential()["Bearer t".len()..].parse().unwrap();
            match number >= least {
                true => response("200 OK", "", &format!("t{number} {}", request.body)),
                false => response("401 Unauthorized", INVALID_TOKEN, "rejected"),
            }
        }
    })
    .await
}

fn least(number: usize) -> Arc<AtomicUsize> {
    Arc::new(AtomicUsize::new(number))
}

/// golang/oauth2#359, #481, #518; Azure/azure-sdk-for-java#37798;
/// open-telemetry/opentelemetry-collector-contrib#35148: the margin before the expiry is fixed and
/// too small. spring-projects/spring-security#7558: the margin was added instead of subtracted.
#[tokio::test]
async fn refresh_before_sets_the_margin_before_the_expiry() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    let config = config(&vendor, &api, "refresh_before = \"30m\"", "");
    with_app(&config, async |app| {
        app.ready().await;
        let status = app.status().await["providers"][0].clone();
        let next = status["next_fetch_in_seconds"].as_u64().unwrap();
        assert!((1600..=1800).contains(&next), "{status}");
    })
    .await;
}

/// golang/oauth2#634, #623: a token that is valid when it is read has expired when it arrives.
/// Cupbearer reads the token after the connection is open.
#[tokio::test]
async fn a_token_that_expires_during_the_connect_is_not_sent() {
    let world = World::new();
    let vendor = Endpoint::start(|request: Received| async move {
        let number = request.number;
        json(
            "200 OK",
            &format!(r#"{{"access_token":"t{number}","expires_in":1}}"#),
        )
    })
    .await;
    let api = Script::tls(&world.authority).await;
    let config = server("")
        + &provider("p", &vendor.url(), "")
        + &format!(
            "[upstreams.api]\nurl = \"{}\"\nprovider = \"p\"\n{}",
            api.url(),
            world.tls()
        );
    with_app(&config, async |app| {
        app.ready().await;
        let mut client = app.connect().await;
        client
            .send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        // The server delays the handshake until the first token has expired.
        eventually("the fourth token", async || vendor.count() >= 4).await;
        let (_connection, head) = api.request().await;
        let sent = head.get("authorization").unwrap();
        assert!(sent.trim_start_matches("Bearer t") >= "3", "{sent}");
    })
    .await;
}

/// coupergateway/couper#167, hashicorp/vault#30882, wso2/api-manager#3032, silenceper/wechat#516,
/// bitwarden/sdk-internal#1098: the app has to handle the 401 for an expired token.
#[tokio::test]
async fn a_401_is_retried_with_a_new_token_and_hidden_from_the_app() {
    let vendor = Endpoint::start(token_response).await;
    let accepted = least(1);
    let api = api_accepting_from(Arc::clone(&accepted)).await;
    let config = config(&vendor, &api, "min_interval = \"1ms\"", "");
    with_app(&config, async |app| {
        assert_eq!(app.get("/x").await.text(), "t1 ");
        accepted.store(2, Ordering::Relaxed);
        let seen = app.get("/x").await;
        assert_eq!((seen.status.as_u16(), &*seen.text()), (200, "t2 "));
        assert_eq!(seen.head.get("www-authenticate"), None);
        assert_eq!((vendor.count(), api.count()), (2, 3));
    })
    .await;
}

/// Couper: custom token requests (`beta_token_request`) do not handle a 401.
#[tokio::test]
async fn a_401_renews_the_token_of_a_custom_dialect() {
    let vendor = Endpoint::start(|request: Received| async move {
        assert_eq!(request.body, r#"{"appId":19}"#);
        let number = request.number;
        json("200 OK", &format!(r#"{{"data":{{"jwt":"t{number}"}}}}"#))
    })
    .await;
    let accepted = least(1);
    let api = api_accepting_from(Arc::clone(&accepted)).await;
    let keys = "grant = \"odd\"\nvars = { app = 19 }\nmin_interval = \"1ms\"\ndialect = \"odd\"";
    let dialect = "[dialects.odd]\ndefault_grant = \"odd\"\n[dialects.odd.grants.odd]\n\
                   json = { appId = \"{app}\" }\n\
                   [dialects.odd.request]\nmethod = \"POST\"\n\
                   [dialects.odd.response]\ntoken = \"/data/jwt\"\n\
                   [dialects.odd.inject]\nheaders = { Authorization = \"Bearer {access_token}\" }\n\
                   [dialects.odd.reject]\nstatus = [401]\n";
    let config = config(&vendor, &api, keys, "")
        .replace("client_id = \"joelhy\"\n", "")
        .replace(&format!("client_secret = \"{SECRET}\"\n"), "")
        + dialect;
    with_app(&config, async |app| {
        assert_eq!(app.get("/x").await.text(), "t1 ");
        accepted.store(2, Ordering::Relaxed);
        assert_eq!(app.get("/x").await.text(), "t2 ");
    })
    .await;
}

/// googleapis/google-cloud-python#18238, thomaslazar/abs-cli#89, box/box-windows-sdk-v2#352: the
/// replayed request lacks its body.
#[tokio::test]
async fn a_replayed_request_has_its_body() {
    let vendor = Endpoint::start(token_response).await;
    let api = api_accepting_from(least(2)).await;
    let config = config(&vendor, &api, "min_interval = \"1ms\"", "");
    with_app(&config, async |app| {
        for framing in [
            "Content-Length: 9\r\n\r\nsome body",
            "Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n5\r\n body\r\n0\r\n\r\n",
        ] {
            let request = format!("POST /x HTTP/1.1\r\nHost: localhost\r\n{framing}");
            let seen = app.connect().await.request(&request).await;
            assert_eq!(seen.text(), "t2 some body");
        }
        assert_eq!(vendor.count(), 2);
    })
    .await;
}

/// bitwarden/sdk-internal#1098, appstrate/appstrate#334: the app gets the API's 401 if the request
/// cannot be replayed, and the token is renewed for the next request.
#[tokio::test]
async fn a_401_that_cannot_be_replayed_renews_the_token() {
    let vendor = Endpoint::start(token_response).await;
    let api = api_accepting_from(least(2)).await;
    let config = config(
        &vendor,
        &api,
        "min_interval = \"1ms\"",
        "replay_limit = \"8B\"",
    );
    with_app(&config, async |app| {
        let request = "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nsome body";
        let seen = app.connect().await.request(request).await;
        assert_eq!((seen.status.as_u16(), &*seen.text()), (401, "rejected"));
        assert_eq!(
            seen.head.get("www-authenticate"),
            Some("Bearer error=\"invalid_token\"")
        );
        // The next request cannot be replayed either, so the new token must have arrived.
        eventually("a renewal", async || {
            app.status().await["providers"][0]["generation"] == 2
        })
        .await;
        assert_eq!(vendor.count(), 2);
        let seen = app.connect().await.request(request).await;
        assert_eq!(seen.text(), "t2 some body");
    })
    .await;
}

/// spring-projects/spring-security#11461, #14123, Dapr, offu/WeRoBot#288: twenty requests fetch
/// twenty tokens.
#[tokio::test]
async fn fifty_concurrent_requests_fetch_one_token() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        let address = app.address();
        let requests =
            (0..50).map(|_| async move { Client::connect(address).await.get("/x").await });
        for seen in soon("fifty responses", join_all(requests)).await {
            assert_eq!(seen.text(), "Bearer t1");
        }
        assert_eq!(vendor.count(), 1);
    })
    .await;
}

/// binarywang/WxJava#1222: the holder of the lock does not check whether the token is already new.
/// w7corp/easywechat#696: of two concurrent fetches, the older token is kept.
#[tokio::test]
async fn fifty_concurrent_rejections_fetch_one_token() {
    let vendor = Endpoint::start(token_response).await;
    let accepted = least(1);
    let api = api_accepting_from(Arc::clone(&accepted)).await;
    let config = config(&vendor, &api, "min_interval = \"1ms\"", "");
    with_app(&config, async |app| {
        assert_eq!(app.get("/x").await.text(), "t1 ");
        accepted.store(2, Ordering::Relaxed);
        let address = app.address();
        let requests =
            (0..50).map(|_| async move { Client::connect(address).await.get("/x").await });
        for seen in soon("fifty responses", join_all(requests)).await {
            assert_eq!(seen.text(), "t2 ");
        }
        assert_eq!((vendor.count(), vendor.max_concurrent()), (2, 1));
    })
    .await;
}

/// binarywang/WxJava#1300, Couper: a late 401 expires the token that was just fetched.
#[tokio::test]
async fn a_late_401_for_an_old_token_keeps_the_new_token() {
    let vendor = Endpoint::start(token_response).await;
    // The response to `/late` waits for a permit.
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let api = Endpoint::start(move |request: Received| {
        let gate = Arc::clone(&held);
        async move {
            if request.credential() != "Bearer t1" {
                return response("200 OK", "", &request.credential());
            }
            if request.head.first.starts_with("GET /late ") {
                gate.acquire().await.unwrap().forget();
            }
            response("401 Unauthorized", INVALID_TOKEN, "")
        }
    })
    .await;
    let config = config(&vendor, &api, "min_interval = \"1ms\"", "");
    with_app(&config, async |app| {
        let mut late = app.connect().await;
        late.send("GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        eventually("the late request at the API", async || api.count() == 1).await;
        assert_eq!(app.get("/x").await.text(), "Bearer t2");
        assert_eq!(vendor.count(), 2);
        gate.add_permits(1);
        // The request is replayed with the current token, and no token is fetched.
        assert_eq!(late.response().await.text(), "Bearer t2");
        for _ in 0..20 {
            assert_eq!(app.get("/x").await.text(), "Bearer t2");
        }
        assert_eq!(vendor.count(), 2);
    })
    .await;
}

/// binarywang/WxJava#324: the old token is dropped before the new one arrives.
#[tokio::test]
async fn the_old_token_is_used_until_the_new_one_arrives() {
    let gate = Arc::new(Semaphore::new(1));
    let held = Arc::clone(&gate);
    let vendor = Endpoint::start(move |request: Received| {
        let gate = Arc::clone(&held);
        async move {
            gate.acquire().await.unwrap().forget();
            token_response(request).await
        }
    })
    .await;
    let api = Endpoint::start(echo).await;
    let config = config(&vendor, &api, "min_interval = \"1ms\"", "");
    with_app(&config, async |app| {
        app.ready().await;
        let mut admin = Client::connect(app.admin_address()).await;
        admin
            .send(
                "POST /-/refresh/p HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\n\
                 Content-Length: 0\r\n\r\n",
            )
            .await;
        eventually("a fetch under way", async || vendor.count() == 2).await;
        for _ in 0..20 {
            assert_eq!(app.get("/x").await.text(), "Bearer t1");
        }
        gate.add_permits(1);
        assert_eq!(admin.response().await.status, 200);
        assert_eq!(app.get("/x").await.text(), "Bearer t2");
    })
    .await;
}

/// chanjarster/weixin-java-tools#275, chanxuehong/wechat#253, paradigmxyz/iron-proxy#141: every
/// client of a credential fetches its own token, which invalidates the tokens of the other clients.
#[tokio::test]
async fn all_upstreams_of_one_credential_share_one_token() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    let second = upstream(&api, "route = { path_prefix = \"/b\" }")
        .replace("[upstreams.api]", "[upstreams.b]")
        .replace("provider = \"p\"", "provider = \"q\"");
    let config = config(&vendor, &api, "", "") + &provider("q", &vendor.url(), "") + &second;
    with_app(&config, async |app| {
        for path in ["/x", "/b/x", "/x", "/b/x"] {
            assert_eq!(app.get(path).await.text(), "Bearer t1");
        }
        assert_eq!(vendor.count(), 1);
    })
    .await;
}

/// azure-identity and others renew on request, so the first request after an hour waits for the
/// fetch.
#[tokio::test]
async fn a_token_is_renewed_without_requests() {
    let vendor = Endpoint::start(|request: Received| async move {
        let number = request.number;
        json(
            "200 OK",
            &format!(r#"{{"access_token":"t{number}","expires_in":1}}"#),
        )
    })
    .await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        let third = tokio::time::timeout(Duration::from_secs(20), async {
            eventually("a third token", async || vendor.count() >= 3).await;
        });
        third.await.unwrap();
        assert_eq!(api.count(), 0);
        assert_eq!(app.get("/x").await.status, 200);
    })
    .await;
}

//! Token endpoints that fail, hang, or repeat themselves.

use std::time::{Duration, Instant};

use crate::client::{Client, Response};
use crate::endpoint::{Endpoint, Received, config, echo, json};
use crate::harness::{App, eventually, join_all, soon, with_app};

async fn at_once(app: &App, requests: usize) -> Vec<Response> {
    let address = app.address();
    let requests =
        (0..requests).map(|_| async move { Client::connect(address).await.get("/x").await });
    soon("all answers", join_all(requests)).await
}

async fn refresh(app: &App) -> Response {
    Client::connect(app.admin_address())
        .await
        .request("POST /-/refresh/p HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\nContent-Length: 0\r\n\r\n")
        .await
}

fn token(number: usize, life: f64) -> String {
    json(
        "200 OK",
        &format!(r#"{{"access_token":"t{number}","expires_in":{life}}}"#),
    )
}

/// Dapr: where there is no token it answers nothing at all, which the app takes for an empty 200.
#[tokio::test]
async fn without_a_token_the_app_gets_an_error_and_no_empty_200() {
    let vendor = Endpoint::start(|_| async { json("500 Internal Server Error", "{}") }).await;
    let api = Endpoint::start(echo).await;
    let config = config(&vendor, &api, "", "token_wait = \"100ms\"");
    with_app(&config, async |app| {
        let seen = app.get("/x").await;
        assert_eq!(
            (seen.status.as_u16(), &*seen.code()),
            (503, "token_unavailable")
        );
        assert_eq!(api.count(), 0);
    })
    .await;
}

/// envoyproxy/envoy#42009: an empty 200 is "a bad token", and never asked for again.
#[tokio::test]
async fn an_empty_200_is_asked_again() {
    let vendor = Endpoint::start(|asked: Received| async move {
        match asked.number {
            1 => json("200 OK", ""),
            number => token(number, 3600.0),
        }
    })
    .await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        assert_eq!(app.get("/x").await.text(), "Bearer t2");
    })
    .await;
}

/// nono-proxy: a route whose first fetch fails is left out for as long as the process lives.
#[tokio::test]
async fn a_first_fetch_that_fails_is_made_good_without_a_restart() {
    let vendor = Endpoint::start(|asked: Received| async move {
        match asked.number {
            1 | 2 => json("503 Service Unavailable", "{}"),
            number => token(number, 3600.0),
        }
    })
    .await;
    let api = Endpoint::start(echo).await;
    let config = config(&vendor, &api, "", "token_wait = \"50ms\"");
    with_app(&config, async |app| {
        assert_eq!(app.get("/x").await.code(), "token_unavailable");
        eventually("the first token", async || {
            app.get("/x").await.status == 200
        })
        .await;
        assert_eq!(vendor.count(), 3);
    })
    .await;
}

/// nono-proxy: while the vendor hangs, each request waits out its own time-out behind the lock of the one before.
#[tokio::test]
async fn those_who_wait_for_a_hanging_vendor_do_not_queue() {
    const WAIT: Duration = Duration::from_millis(500);
    let vendor = Endpoint::start(|_| std::future::pending()).await;
    let api = Endpoint::start(echo).await;
    let keys = format!("token_wait = \"{}ms\"", WAIT.as_millis());
    with_app(&config(&vendor, &api, "", &keys), async |app| {
        let began = Instant::now();
        for seen in at_once(app, 50).await {
            assert_eq!(seen.code(), "token_unavailable");
        }
        let took = began.elapsed();
        assert!((WAIT..WAIT * 10).contains(&took), "{took:?}");
        assert_eq!(vendor.max_concurrent(), 1);
    })
    .await;
}

/// Tyk: whoever waits gives up after 1 s, so that a vendor that takes 2 s serves one request and fails all the others.
#[tokio::test]
async fn those_who_wait_for_a_slow_vendor_all_get_their_token() {
    const SLOW: Duration = Duration::from_millis(1500);
    let vendor = Endpoint::start(|asked: Received| async move {
        tokio::time::sleep(SLOW).await;
        token(asked.number, 3600.0)
    })
    .await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        for seen in at_once(app, 50).await {
            assert_eq!(seen.text(), "Bearer t1");
        }
        assert_eq!(vendor.count(), 1);
    })
    .await;
}

/// envoyproxy/envoy#44674, nono-proxy: while the vendor is down, the expired token goes on being sent.
#[tokio::test]
async fn an_expired_token_is_not_sent_while_the_vendor_is_down() {
    const LIFE: Duration = Duration::from_secs(1);
    let vendor = Endpoint::start(|asked: Received| async move {
        match asked.number {
            1 => token(1, LIFE.as_secs_f64()),
            _ => json("500 Internal Server Error", "{}"),
        }
    })
    .await;
    let api = Endpoint::start(echo).await;
    let config = config(&vendor, &api, "", "token_wait = \"20ms\"");
    with_app(&config, async |app| {
        app.ready().await;
        let mut client = app.connect().await;
        eventually("the end of the token", async || {
            let before = Instant::now();
            let seen = client.get("/x").await;
            if seen.status == 200 {
                return false;
            }
            assert_eq!(seen.code(), "token_unavailable", "{before:?}");
            true
        })
        .await;
        let sent = api.count();
        for _ in 0..20 {
            assert_eq!(client.get("/x").await.code(), "token_unavailable");
        }
        assert_eq!(api.count(), sent);
    })
    .await;
}

/// iron-token-broker: any OAuth `error` is the end, until somebody starts it again.
#[tokio::test]
async fn a_refusal_is_not_the_end() {
    let vendor = Endpoint::start(|asked: Received| async move {
        match asked.number {
            1 => json("400 Bad Request", r#"{"error":"invalid_client"}"#),
            number => token(number, 3600.0),
        }
    })
    .await;
    let api = Endpoint::start(echo).await;
    let config = config(&vendor, &api, "min_interval = \"1ms\"", "");
    with_app(&config, async |app| {
        assert_eq!(app.get("/x").await.code(), "credentials_rejected");
        let told = app.status().await["providers"][0].clone();
        // By itself, too, only later.
        assert!(
            told["next_fetch_in_seconds"].as_u64().unwrap() <= 300,
            "{told}"
        );
        assert_eq!(refresh(app).await.status, 200);
        assert_eq!(app.get("/x").await.text(), "Bearer t2");
    })
    .await;
}

/// hashicorp/vault#25712, apigee/apigee-remote-service-envoy#340, camunda-community-hub/zeebe-client-node-js#245, Cotal-AI/Cotal#986:
/// a login that is refused is repeated for every request.
#[tokio::test]
async fn a_refused_login_is_not_repeated_by_a_storm_of_requests() {
    let vendor =
        Endpoint::start(|_| async { json("403 Forbidden", r#"{"error":"unauthorized_client"}"#) })
            .await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        for _ in 0..4 {
            for seen in at_once(app, 50).await {
                assert_eq!(seen.code(), "credentials_rejected");
            }
        }
        assert_eq!(vendor.count(), 1);
    })
    .await;
}

/// hashicorp/vault#25712: the same for a vendor that is down. The pause is drawn at random, so that it is short now and then.
#[tokio::test]
async fn a_vendor_that_is_down_is_not_stormed() {
    let vendor = Endpoint::start(|_| async { json("503 Service Unavailable", "{}") }).await;
    let api = Endpoint::start(echo).await;
    let config = config(&vendor, &api, "", "token_wait = \"0s\"");
    with_app(&config, async |app| {
        for _ in 0..10 {
            for seen in at_once(app, 50).await {
                assert_eq!(seen.code(), "token_unavailable");
            }
        }
        assert!(vendor.count() <= 8, "{} token requests", vendor.count());
    })
    .await;
}

/// wso2/api-manager#773, GoogleCloudPlatform/esp-v2#137: the vendor gives the same token again until it is dead, and who asks early
/// asks in a hot loop.
#[tokio::test]
async fn a_vendor_that_repeats_its_token_is_not_asked_in_a_loop() {
    const LIFE: f64 = 2.0;
    let began = Instant::now();
    let vendor = Endpoint::start(move |_| async move {
        let age = began.elapsed().as_secs_f64();
        token(1 + (age / LIFE) as usize, LIFE - age % LIFE)
    })
    .await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        let mut client = app.connect().await;
        eventually("the third token", async || {
            let seen = client.get("/x").await;
            assert_eq!(seen.status, 200, "{}", seen.text());
            seen.text() == "Bearer t3"
        })
        .await;
        assert!(vendor.count() <= 30, "{} token requests", vendor.count());
    })
    .await;
}

/// token-refresher: a life below `--margin` makes a negative timer, and a tight loop.
#[tokio::test]
async fn a_life_shorter_than_the_margin_is_not_a_loop() {
    let vendor = Endpoint::start(|asked: Received| async move { token(asked.number, 1.0) }).await;
    let api = Endpoint::start(echo).await;
    let config = config(&vendor, &api, "refresh_before = \"1h\"", "");
    with_app(&config, async |app| {
        let began = Instant::now();
        let mut client = app.connect().await;
        eventually("the fourth token", async || {
            let seen = client.get("/x").await;
            assert_eq!(seen.status, 200, "{}", seen.text());
            seen.text() == "Bearer t4"
        })
        .await;
        // Each of the three before was kept for half of its life, less a tenth of jitter.
        assert!(began.elapsed() >= Duration::from_millis(3 * 450));
    })
    .await;
}

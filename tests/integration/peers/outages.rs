//! Token endpoints that fail, hang or repeat a token.

use std::time::{Duration, Instant};

use crate::client::{Client, Response};
use crate::endpoint::{Endpoint, Received, config, echo, json};
use crate::harness::{App, eventually, join_all, soon, with_app};

/// Sends requests concurrently, each on its own connection.
async fn concurrently(app: &App, requests: usize) -> Vec<Response> {
    let address = app.address();
    let requests =
        (0..requests).map(|_| async move { Client::connect(address).await.get("/x").await });
    soon("all responses", join_all(requests)).await
}

async fn refresh(app: &App) -> Response {
    Client::connect(app.admin_address())
        .await
        .request(
            "POST /-/refresh/p HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\n\
             Content-Length: 0\r\n\r\n",
        )
        .await
}

fn token(number: usize, life: f64) -> String {
    json(
        "200 OK",
        &format!(r#"{{"access_token":"t{number}","expires_in":{life}}}"#),
    )
}

/// Dapr: without a token it sends no response of its own, so the app sees an empty 200.
#[tokio::test]
async fn without_a_token_the_app_gets_a_503() {
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

/// envoyproxy/envoy#42009: an empty 200 counts as a bad token, and the fetch is never retried.
#[tokio::test]
async fn an_empty_200_is_retried() {
    let vendor = Endpoint::start(|request: Received| async move {
        match request.number {
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

/// nono-proxy: a route whose first fetch fails stays disabled until a restart.
#[tokio::test]
async fn a_failed_first_fetch_is_retried_without_a_restart() {
    let vendor = Endpoint::start(|request: Received| async move {
        match request.number {
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

/// nono-proxy: while the vendor hangs, waiting requests time out one after another behind a lock.
#[tokio::test]
async fn requests_that_wait_for_a_hanging_vendor_time_out_together() {
    const WAIT: Duration = Duration::from_millis(500);
    let vendor = Endpoint::start(|_| std::future::pending()).await;
    let api = Endpoint::start(echo).await;
    let keys = format!("token_wait = \"{}ms\"", WAIT.as_millis());
    with_app(&config(&vendor, &api, "", &keys), async |app| {
        let began = Instant::now();
        for seen in concurrently(app, 50).await {
            assert_eq!(seen.code(), "token_unavailable");
        }
        let took = began.elapsed();
        assert!((WAIT..WAIT * 10).contains(&took), "{took:?}");
        assert_eq!(vendor.max_concurrent(), 1);
    })
    .await;
}

/// Tyk: waiting requests give up after 1 s, so a vendor that takes 2 s fails all but one of them.
#[tokio::test]
async fn all_requests_that_wait_for_a_slow_vendor_get_the_token() {
    const SLOW: Duration = Duration::from_millis(1500);
    let vendor = Endpoint::start(|request: Received| async move {
        tokio::time::sleep(SLOW).await;
        token(request.number, 3600.0)
    })
    .await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        for seen in concurrently(app, 50).await {
            assert_eq!(seen.text(), "Bearer t1");
        }
        assert_eq!(vendor.count(), 1);
    })
    .await;
}

/// envoyproxy/envoy#44674, nono-proxy: while the vendor is down, the expired token is still sent.
#[tokio::test]
async fn an_expired_token_is_not_sent_while_the_vendor_is_down() {
    const LIFE: Duration = Duration::from_secs(1);
    let vendor = Endpoint::start(|request: Received| async move {
        match request.number {
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

/// iron-token-broker: any OAuth `error` stops the refresher until a restart.
#[tokio::test]
async fn a_refused_login_is_retried() {
    let vendor = Endpoint::start(|request: Received| async move {
        match request.number {
            1 => json("400 Bad Request", r#"{"error":"invalid_client"}"#),
            number => token(number, 3600.0),
        }
    })
    .await;
    let api = Endpoint::start(echo).await;
    let config = config(&vendor, &api, "min_interval = \"1ms\"", "");
    with_app(&config, async |app| {
        assert_eq!(app.get("/x").await.code(), "credentials_rejected");
        let status = app.status().await["providers"][0].clone();
        // It is also retried without a request, after at most 5 minutes.
        assert!(
            status["next_fetch_in_seconds"].as_u64().unwrap() <= 300,
            "{status}"
        );
        assert_eq!(refresh(app).await.status, 200);
        assert_eq!(app.get("/x").await.text(), "Bearer t2");
    })
    .await;
}

/// hashicorp/vault#25712, apigee/apigee-remote-service-envoy#340,
/// camunda-community-hub/zeebe-client-node-js#245, Cotal-AI/Cotal#986: a refused login is repeated
/// for every request.
#[tokio::test]
async fn many_requests_do_not_repeat_a_refused_login() {
    let vendor =
        Endpoint::start(|_| async { json("403 Forbidden", r#"{"error":"unauthorized_client"}"#) })
            .await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        for _ in 0..4 {
            for seen in concurrently(app, 50).await {
                assert_eq!(seen.code(), "credentials_rejected");
            }
        }
        assert_eq!(vendor.count(), 1);
    })
    .await;
}

/// hashicorp/vault#25712: the same for a vendor that is down. Backoff has full jitter, so some
/// pauses are short.
#[tokio::test]
async fn many_requests_do_not_flood_a_vendor_that_is_down() {
    let vendor = Endpoint::start(|_| async { json("503 Service Unavailable", "{}") }).await;
    let api = Endpoint::start(echo).await;
    let config = config(&vendor, &api, "", "token_wait = \"0s\"");
    with_app(&config, async |app| {
        for _ in 0..10 {
            for seen in concurrently(app, 50).await {
                assert_eq!(seen.code(), "token_unavailable");
            }
        }
        assert!(vendor.count() <= 8, "{} token requests", vendor.count());
    })
    .await;
}

/// wso2/api-manager#773, GoogleCloudPlatform/esp-v2#137: the vendor returns the same token until it
/// expires, so early renewal becomes a hot loop.
#[tokio::test]
async fn a_repeated_token_does_not_cause_a_hot_loop() {
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

/// token-refresher: a life below `--margin` makes the timer negative, which is a hot loop.
#[tokio::test]
async fn a_life_below_the_margin_does_not_cause_a_hot_loop() {
    let vendor =
        Endpoint::start(|request: Received| async move { token(request.number, 1.0) }).await;
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
        // Each of the first three tokens was kept for half of its life, minus 10 % of jitter.
        assert!(began.elapsed() >= Duration::from_millis(3 * 450));
    })
    .await;
}

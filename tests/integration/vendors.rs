//! Tokens of the five vendors, and what requests see of their getting and of their failing.

use std::time::{Duration, Instant};

use cupbearer::demo::vendors::{FakeVendor, Fault, Kind};

use crate::client::{Client, Response};
use crate::harness::{World, eventually, join_all, server, soon, with_app};

/// Which token the API saw; fails on anything but its 200.
fn token_number(response: &Response, vendor: &FakeVendor) -> u64 {
    assert_eq!(
        response.status,
        200,
        "{:?}\n{:?}",
        response.text(),
        vendor.refusals()
    );
    response.json()["token_number"].as_u64().unwrap()
}

#[tokio::test]
async fn all_five_work_as_their_documents_say() {
    let world = World::new();
    let mut config = server("");
    let mut vendors = Vec::new();
    for kind in Kind::ALL {
        let vendor = world.vendor(kind, None).await;
        config += &world.vendor_provider(kind.name(), &vendor, "");
        config += &world.vendor_upstream(kind.name(), kind.name(), &vendor, "");
        vendors.push(vendor);
    }
    with_app(&config, async |app| {
        for vendor in &vendors {
            let kind = vendor.kind();
            let answer = app.get(&format!("/{kind}/orders/42?page=1&x=%20a")).await;
            assert_eq!(token_number(&answer, vendor), 1, "{kind}");
            let seen = answer.json();
            assert_eq!(seen["path"], format!("{}/orders/42", kind.api_path()));
            assert_eq!(seen["query"], "page=1&x=%20a");
            let posted = app
                .connect()
                .await
                .request(&format!(
                    "POST /{kind}/orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
                ))
                .await;
            assert_eq!(token_number(&posted, vendor), 1);
            assert_eq!(posted.json()["body_bytes"], 5);
            assert_eq!(vendor.counters().token_requests, 1, "{kind}");
            assert_eq!(vendor.refusals(), Vec::<String>::new());
        }
        app.ready().await;
        for provider in app.status().await["providers"].as_array().unwrap() {
            assert_eq!(provider["state"], "valid", "{provider}");
            assert_eq!(provider["generation"], 1);
            assert!(provider["last_error"].is_null());
        }
    })
    .await;
}

/// Tokens of one second: a refresh about every half second, for each vendor whose old token lives on.
#[tokio::test]
async fn refreshes_go_on_behind_requests_and_none_fails() {
    const REFRESHES: u64 = 4;
    let world = World::new();
    let mut config = server("");
    let mut vendors = Vec::new();
    for kind in [
        Kind::Cncn,
        Kind::Besender,
        Kind::IdentityServer,
        Kind::Passport,
    ] {
        let vendor = world.vendor(kind, Some(Duration::from_secs(1))).await;
        config += &world.vendor_provider(kind.name(), &vendor, "");
        config += &world.vendor_upstream(kind.name(), kind.name(), &vendor, "");
        vendors.push(vendor);
    }
    with_app(&config, async |app| {
        app.ready().await;
        let mut client = app.connect().await;
        let mut seen = vec![Vec::new(); vendors.len()];
        let mut rounds = 0_u64;
        let requests = async {
            while vendors
                .iter()
                .any(|vendor| vendor.counters().issued <= REFRESHES)
            {
                for (vendor, seen) in vendors.iter().zip(&mut seen) {
                    let answer = client.get(&format!("/{}/x", vendor.kind())).await;
                    let number = token_number(&answer, vendor);
                    if seen.last() != Some(&number) {
                        seen.push(number);
                    }
                }
                rounds += 1;
            }
        };
        soon("refreshes", requests).await;
        assert!(
            rounds > 10 * REFRESHES,
            "{rounds} rounds are too few to tell"
        );
        for (vendor, seen) in vendors.iter().zip(&seen) {
            let kind = vendor.kind();
            assert!(seen.len() as u64 >= REFRESHES, "{kind}: tokens {seen:?}");
            assert!(
                seen.is_sorted(),
                "{kind}: an old token after a new one: {seen:?}"
            );
            assert_eq!(vendor.refusals(), Vec::<String>::new());
            let sample =
                format!("cupbearer_token_fetches_total{{provider=\"{kind}\",result=\"ok\"}}");
            assert!(app.metric(&sample).await >= REFRESHES as f64);
        }
    })
    .await;
}

#[tokio::test]
async fn an_outage_is_noticed_when_the_token_ends_and_not_before() {
    let world = World::new();
    let vendor = world
        .vendor(Kind::Besender, Some(Duration::from_secs(3)))
        .await;
    let config = world.vendor_config(&vendor, "", "token_wait = \"50ms\"");
    with_app(&config, async |app| {
        app.ready().await;
        let began = Instant::now();
        vendor.set_fault(Some(Fault::Down));
        let mut client = app.connect().await;
        let (refused, after) = soon("the token's end", async {
            loop {
                let answer = client.get("/besender/x").await;
                if answer.status != 200 {
                    return (answer, began.elapsed());
                }
                assert_eq!(token_number(&answer, &vendor), 1);
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(
            (refused.status.as_u16(), &*refused.code()),
            (503, "token_unavailable")
        );
        assert!(
            after > Duration::from_millis(2000),
            "given up after {after:?}"
        );
        assert_eq!(
            refused.head.get("proxy-status"),
            Some("cupbearer; error=proxy_internal_error")
        );
        let retry_after: u64 = refused.head.get("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&retry_after));
        assert_eq!(
            vendor.counters().api_rejected,
            0,
            "an expired token was sent"
        );

        let status = app.status().await;
        assert_eq!(status["providers"][0]["state"], "expired");
        assert!(status["providers"][0]["failures"].as_u64().unwrap() >= 1);
        assert!(status["providers"][0]["last_error"].is_string());
        // One vendor's outage does not take replicas out of service; `?strict` reports it.
        assert_eq!(app.admin("/readyz").await.status, 200);
        assert_eq!(app.admin("/readyz?strict").await.status, 503);

        vendor.set_fault(None);
        eventually("recovery", async || {
            client.get("/besender/x").await.status == 200
        })
        .await;
        assert_eq!(app.admin("/readyz?strict").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn wrong_credentials_are_told_and_not_tried_again() {
    let world = World::new();
    for kind in Kind::ALL {
        let vendor = world.vendor(kind, None).await;
        vendor.set_fault(Some(Fault::RejectCredentials));
        with_app(&world.vendor_config(&vendor, "", ""), async |app| {
            let path = format!("/{kind}/x");
            for _ in 0..5 {
                let answer = app.get(&path).await;
                assert_eq!(
                    (answer.status.as_u16(), &*answer.code()),
                    (502, "credentials_rejected"),
                    "{kind}"
                );
                assert_eq!(
                    answer.head.get("proxy-status"),
                    Some("cupbearer; error=proxy_configuration_error")
                );
            }
            let requests = vendor.counters().token_requests;
            assert!(
                (1..=2).contains(&requests),
                "{kind}: {requests} token requests"
            );
            assert_eq!(vendor.counters().api_requests, 0);
            let status = app.status().await;
            let provider = &status["providers"][0];
            assert!(
                provider["next_fetch_in_seconds"].as_u64().unwrap() > 200,
                "{provider}"
            );
            assert_eq!(app.admin("/readyz").await.status, 503);
        })
        .await;
    }
}

/// A vendor's words in Chinese reach the operator.
#[tokio::test]
async fn the_vendors_reason_is_on_the_status_page() {
    let world = World::new();
    let vendor = world.vendor(Kind::Cncn, None).await;
    vendor.set_fault(Some(Fault::RejectCredentials));
    with_app(&world.vendor_config(&vendor, "", ""), async |app| {
        app.get("/cncn/x").await;
        let status = app.status().await;
        let error = status["providers"][0]["last_error"].as_str().unwrap();
        assert!(
            error.contains("invalid_client") && error.contains("用户名或密码错误"),
            "{error}"
        );
    })
    .await;
}

#[tokio::test]
async fn the_first_request_waits_for_the_first_token() {
    const LATE: Duration = Duration::from_millis(400);
    let world = World::new();
    let vendor = world.vendor(Kind::Passport, None).await;
    vendor.set_fault(Some(Fault::Slow(LATE)));
    with_app(&world.vendor_config(&vendor, "", ""), async |app| {
        assert_eq!(app.admin("/readyz").await.status, 503);
        assert_eq!(app.admin("/livez").await.status, 200);
        let began = Instant::now();
        let answer = app.get("/passport/x").await;
        assert_eq!(token_number(&answer, &vendor), 1);
        assert!(began.elapsed() < LATE * 10);
        assert_eq!(app.admin("/readyz").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn token_wait_is_how_long_a_request_waits() {
    const WAIT: Duration = Duration::from_millis(300);
    let world = World::new();
    let vendor = world.vendor(Kind::Passport, None).await;
    vendor.set_fault(Some(Fault::Slow(Duration::from_secs(30))));
    let config = world.vendor_config(
        &vendor,
        "timeout = \"60s\"",
        &format!("token_wait = \"{}ms\"", WAIT.as_millis()),
    );
    with_app(&config, async |app| {
        let began = Instant::now();
        let answer = app.get("/passport/x").await;
        let waited = began.elapsed();
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (503, "token_unavailable")
        );
        assert!(answer.head.get("retry-after").is_some());
        assert!((WAIT..WAIT * 10).contains(&waited), "{waited:?}");
        assert_eq!(vendor.counters().api_requests, 0);
    })
    .await;
}

#[tokio::test]
async fn a_hundred_first_requests_fetch_one_token() {
    let world = World::new();
    let vendor = world.vendor(Kind::IdentityServer, None).await;
    vendor.set_fault(Some(Fault::Slow(Duration::from_millis(200))));
    with_app(&world.vendor_config(&vendor, "", ""), async |app| {
        let address = app.address();
        let requests = (0..100).map(|_| async move {
            Client::connect(address)
                .await
                .get("/identityserver/x")
                .await
        });
        for answer in soon("a hundred answers", join_all(requests)).await {
            assert_eq!(token_number(&answer, &vendor), 1);
        }
        assert_eq!(vendor.counters().token_requests, 1);
    })
    .await;
}

#[tokio::test]
async fn two_providers_of_one_identity_share_one_token() {
    let world = World::new();
    // This vendor kills a token when it issues the next: two fetches would be seen as a 401.
    let vendor = world.vendor(Kind::Ctcfile, None).await;
    let config = server("")
        + &world.vendor_provider("first", &vendor, "")
        + &world.vendor_provider("second", &vendor, "min_interval = \"9s\"")
        + &world.vendor_upstream("a", "first", &vendor, "")
        + &world.vendor_upstream("b", "second", &vendor, "");
    with_app(&config, async |app| {
        for path in ["/a/x", "/b/x", "/a/x", "/b/x"] {
            assert_eq!(token_number(&app.get(path).await, &vendor), 1);
        }
        assert_eq!(vendor.counters().token_requests, 1);
    })
    .await;
}

/// What cannot be sent again reaches the app as the API said it.
#[tokio::test]
async fn a_401_of_the_api_is_the_apps_to_see() {
    let world = World::new();
    let vendor = world.vendor(Kind::Cncn, None).await;
    let config = world.vendor_config(&vendor, "", "replay_limit = 0");
    with_app(&config, async |app| {
        assert_eq!(token_number(&app.get("/cncn/x").await, &vendor), 1);
        vendor.kill_tokens();
        let answer = app
            .connect()
            .await
            .request("POST /cncn/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            .await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json()["error_description"], "访问令牌无效或已过期");
        assert_eq!(
            answer.head.get("www-authenticate"),
            Some("Bearer error=\"invalid_token\"")
        );
        assert_eq!(answer.code(), "");
    })
    .await;
}

/// What vendors answer on a bad day is no token, is told, and gets better by itself.
#[tokio::test]
async fn nonsense_of_a_vendor_is_an_outage_and_never_a_token() {
    let world = World::new();
    for fault in [
        Fault::Garbage,
        Fault::Html,
        Fault::Huge,
        Fault::Empty,
        Fault::ControlBytes,
        Fault::Status(500),
        Fault::Status(429),
        Fault::Down,
    ] {
        let vendor = world.vendor(Kind::Cncn, None).await;
        vendor.set_fault(Some(fault));
        let config = world.vendor_config(&vendor, "", "token_wait = \"200ms\"");
        with_app(&config, async |app| {
            let answer = app.get("/cncn/x").await;
            assert_eq!(
                (answer.status.as_u16(), &*answer.code()),
                (503, "token_unavailable"),
                "{fault:?}: {}",
                answer.text()
            );
            assert_eq!(vendor.counters().api_requests, 0, "{fault:?}");
            let status = app.status().await;
            assert!(status["providers"][0]["last_error"].is_string(), "{status}");
        })
        .await;
    }
}

/// `POST /-/refresh/NAME`.
#[tokio::test]
async fn a_refresh_by_hand() {
    let world = World::new();
    let vendor = world.vendor(Kind::Besender, None).await;
    let config = world.vendor_config(&vendor, "min_interval = \"1h\"", "");
    with_app(&config, async |app| {
        app.ready().await;
        let post = async |more: &str| {
            Client::connect(app.admin_address())
                .await
                .request(&format!(
                    "POST /-/refresh/besender HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: 0\r\n\r\n"
                ))
                .await
        };
        assert_eq!(post("").await.status, 403);
        let early = post("X-Cupbearer: 1\r\n").await;
        assert_eq!(early.status, 429);
        assert!(early.head.get("retry-after").is_some());
        assert_eq!(vendor.counters().token_requests, 1);
    })
    .await;

    let vendor = world.vendor(Kind::Besender, None).await;
    let config = world.vendor_config(&vendor, "min_interval = \"0s\"", "");
    with_app(&config, async |app| {
        app.ready().await;
        let done = Client::connect(app.admin_address())
            .await
            .request("POST /-/refresh/besender HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert_eq!(done.status, 200, "{}", done.text());
        assert_eq!(vendor.counters().issued, 2);
        assert_eq!(token_number(&app.get("/besender/x").await, &vendor), 2);
    })
    .await;
}

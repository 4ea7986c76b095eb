//! Token responses that other programs could not read.

use serde_json::Value;

use crate::client::Response;
use crate::endpoint::{Endpoint, Received, config, echo, json, response};
use crate::harness::{App, log, with_app};

/// Runs `test` with a token endpoint that sends `text` to every request, and with an API that
/// returns the credential of each request.
async fn with_token_response(
    text: String,
    provider: &str,
    test: impl AsyncFnOnce(&App, &Endpoint, &Endpoint),
) {
    let vendor = Endpoint::start(move |_: Received| std::future::ready(text.clone())).await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, provider, ""), async |app| {
        test(app, &vendor, &api).await;
    })
    .await;
}

/// Asserts that five requests get the token `t1` from one fetch. Returns the status of the
/// provider.
async fn assert_fetched_once(text: String, provider: &str) -> Value {
    let mut status = Value::Null;
    with_token_response(text, provider, async |app, vendor, _| {
        for _ in 0..5 {
            let seen = app.get("/x").await;
            assert_eq!((seen.status.as_u16(), &*seen.text()), (200, "Bearer t1"));
        }
        assert_eq!(vendor.count(), 1);
        status = app.status().await["providers"][0].clone();
    })
    .await;
    status
}

fn next_fetch(provider: &Value) -> u64 {
    provider["next_fetch_in_seconds"].as_u64().unwrap()
}

/// Couper: without `expires_in` the TTL is 0, so every request fetches a token.
#[tokio::test]
async fn a_token_without_an_expiry_is_not_fetched_for_every_request() {
    assert_fetched_once(json("200 OK", r#"{"access_token":"t1"}"#), "").await;
}

/// golang.org/x/oauth2: a token without an expiry is never renewed.
#[tokio::test]
async fn a_token_without_an_expiry_is_renewed_within_an_hour() {
    let status = assert_fetched_once(json("200 OK", r#"{"access_token":"t1"}"#), "").await;
    assert!((3200..=3600).contains(&next_fetch(&status)), "{status}");
}

/// Couper, SecureAuthCorp/oauth2c#37: `a string in `expires_in` is ignored.
#[tokio::test]
async fn expires_in_may_be_a_string() {
    let text = json("200 OK", r#"{"access_token":"t1","expires_in":"1000"}"#);
    let status = assert_fetched_once(text, "").await;
    assert!((770..=800).contains(&next_fetch(&status)), "{status}");
}

/// golang.org/x/oauth2: a fractional `expires_in` fails the login.
#[tokio::test]
async fn expires_in_may_be_fractional() {
    let text = json("200 OK", r#"{"access_token":"t1","expires_in":999.5}"#);
    let status = assert_fetched_once(text, "").await;
    assert!((770..=800).contains(&next_fetch(&status)), "{status}");
}

/// grafana/grafana#19730: with `expires_on` alone, every request fetches a token.
#[tokio::test]
async fn the_dialect_names_the_field_of_the_expiry() {
    // 2100-01-01.
    let text = json(
        "200 OK",
        r#"{"access_token":"t1","expires_on":"4102444800"}"#,
    );
    let status = assert_fetched_once(text, "response = { expires = \"/expires_on\" }").await;
    assert!(next_fetch(&status) > 365 * 24 * 3600, "{status}");
}

/// Couper: no token is kept for longer than 86,400 s.
#[tokio::test]
async fn a_token_of_a_year_is_kept_for_a_year() {
    let text = json("200 OK", r#"{"access_token":"t1","expires_in":31536000}"#);
    let status = assert_fetched_once(text, "").await;
    assert!(next_fetch(&status) > 300 * 24 * 3600, "{status}");
}

/// surfkansas: a token with a life below 300 s is fetched every 30 s.
#[tokio::test]
async fn a_token_of_200_seconds_is_fetched_once() {
    let text = json("200 OK", r#"{"access_token":"t1","expires_in":200}"#);
    let status = assert_fetched_once(text, "").await;
    assert!((150..=160).contains(&next_fetch(&status)), "{status}");
}

/// Couper: a 201 counts as a failure.
#[tokio::test]
async fn a_201_is_a_success() {
    let text = json("201 Created", r#"{"access_token":"t1","expires_in":3600}"#);
    assert_fetched_once(text, "").await;
}

/// nono-proxy: the response body is read without its framing, so chunks break it.
#[tokio::test]
async fn a_chunked_token_response_is_read() {
    let text = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n\
                13\r\n{\"access_token\":\"t1\r\n15\r\n\",\"expires_in\":3600}\n\r\n0\r\n\r\n";
    assert_fetched_once(text.to_owned(), "").await;
}

/// golang.org/x/oauth2: JSON under `text/plain` is parsed as a form, which has no token.
#[tokio::test]
async fn json_under_text_plain_is_parsed_as_json() {
    let text = r#"{"access_token":"t1","expires_in":3600}"#;
    assert_fetched_once(
        response(
            "200 OK",
            "Content-Type: text/plain; charset=utf-8\r\n",
            text,
        ),
        "",
    )
    .await;
}

/// surfkansas: a token without a `token_type`, or with an empty one, is refused.
#[tokio::test]
async fn a_missing_or_empty_token_type_is_accepted() {
    for kind in ["", "\"token_type\":\"\",", "\"token_type\":null,"] {
        let text = format!("{{{kind}\"access_token\":\"t1\",\"expires_in\":3600}}");
        assert_fetched_once(json("200 OK", &text), "").await;
    }
}

/// golang/oauth2#484 and others: `token_type` becomes the scheme of the Authorization field.
#[tokio::test]
async fn the_token_type_is_not_used_as_the_scheme() {
    let text = r#"{"access_token":"t1","token_type":"bearer_token","expires_in":3600}"#;
    assert_fetched_once(json("200 OK", text), "").await;
}

/// golang/oauth2#551: support for a token in an envelope with a code was requested and declined.
#[tokio::test]
async fn a_token_in_an_envelope_is_found() {
    let text = r#"{"code":200,"message":"ok","data":{"token":"t1","ttl":3600}}"#;
    let keys = "response = { token = \"/data/token\", expires = \"/data/ttl\", \
                ok = { \"/code\" = [200] } }";
    assert_fetched_once(json("200 OK", text), keys).await;
}

/// golang/oauth2#526 (Withings): the token is one level deeper, and `status` is 0 on success.
#[tokio::test]
async fn a_nested_token_is_found() {
    let text = r#"{"status":0,"body":{"access_token":"t1","expires_in":10800}}"#;
    let keys = "response = { token = \"/body/access_token\", expires = \"/body/expires_in\", \
                ok = { \"/status\" = [0] } }";
    assert_fetched_once(json("200 OK", text), keys).await;
}

/// magodo/terraform-provider-restful#157: the field of the token is called `token`.
#[tokio::test]
async fn the_dialect_names_the_field_of_the_token() {
    let text = json("200 OK", r#"{"token":"t1","expires_in":3600}"#);
    assert_fetched_once(text, "response = { token = \"/token\" }").await;
}

/// Couper: a 200 without a token is a success, and the upstream gets `Authorization: Bearer `.
#[tokio::test]
async fn a_200_without_a_token_is_a_failed_fetch() {
    for body in [
        "{}",
        r#"{"access_token":""}"#,
        r#"{"access_token":null,"expires_in":3600}"#,
    ] {
        with_token_response(json("200 OK", body), "", async |app, _, api| {
            let seen = app.get("/x").await;
            assert_eq!(seen.code(), "credentials_rejected", "{body}");
            assert_eq!(api.count(), 0, "{body}");
        })
        .await;
    }
}

/// Couper looks only at the status. GitHub and others refuse a login with 200 and an `error`.
#[tokio::test]
async fn an_error_inside_a_200_is_a_failed_fetch() {
    let text = r#"{"error":"bad_verification_code","expires_in":3600}"#;
    with_token_response(json("200 OK", text), "", async |app, _, api| {
        assert_eq!(app.get("/x").await.code(), "credentials_rejected");
        assert_eq!(api.count(), 0);
        let status = app.status().await["providers"][0].to_string();
        assert!(status.contains("bad_verification_code"), "{status}");
    })
    .await;
}

/// golang.org/x/oauth2, librefang/librefang#5525: the error contains the whole body, so the log
/// does as well.
#[tokio::test]
async fn an_error_quotes_nothing_of_the_body_but_the_oauth_error() {
    const LEAK: &str = "leak-7f3a9c";
    let text = format!(
        r#"{{"error":"invalid_client","error_description":"no such client",
            "trace":"{LEAK}","access_token":"{LEAK}"}}"#
    );
    for text in [
        json("400 Bad Request", &text),
        json("500 Internal Server Error", &format!("<pre>{LEAK}</pre>")),
    ] {
        with_token_response(text, "", async |app, _, _| {
            let seen = app.connect().await.get("/x").await;
            let shown: Vec<Response> = vec![
                seen,
                app.admin("/status").await,
                app.admin("/metrics").await,
                app.admin("/").await,
            ];
            for shown in shown {
                assert!(!shown.text().contains(LEAK), "{}", shown.text());
            }
            // An empty log would pass the next assertion.
            assert!(log().contains("no new token"));
            assert!(!log().contains(LEAK));
        })
        .await;
    }
}

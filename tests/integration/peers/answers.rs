//! Answers of token endpoints that others could not read.

use serde_json::Value;

use crate::client::Response;
use crate::endpoint::{Endpoint, Received, config, echo, json, response};
use crate::harness::{App, log, with_app};

/// A token endpoint that gives this answer to every request, and an API that tells what it was shown.
async fn answered(
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

/// Five requests with the token `t1`, which was asked for once; what the status says of the provider then.
async fn serves(text: String, provider: &str) -> Value {
    let mut told = Value::Null;
    answered(text, provider, async |app, vendor, _| {
        for _ in 0..5 {
            let seen = app.get("/x").await;
            assert_eq!((seen.status.as_u16(), &*seen.text()), (200, "Bearer t1"));
        }
        assert_eq!(vendor.count(), 1);
        told = app.status().await["providers"][0].clone();
    })
    .await;
    told
}

fn next_fetch(provider: &Value) -> u64 {
    provider["next_fetch_in_seconds"].as_u64().unwrap()
}

/// Couper: without `expires_in` its TTL is 0, and every request fetches a token.
#[tokio::test]
async fn a_token_without_an_expiry_is_not_fetched_for_every_request() {
    serves(json("200 OK", r#"{"access_token":"t1"}"#), "").await;
}

/// golang.org/x/oauth2: a token without an expiry is never renewed.
#[tokio::test]
async fn a_token_without_an_expiry_is_renewed_all_the_same() {
    let told = serves(json("200 OK", r#"{"access_token":"t1"}"#), "").await;
    assert!((3200..=3600).contains(&next_fetch(&told)), "{told}");
}

/// Couper, SecureAuthCorp/oauth2c#37: `expires_in` as a string counts as none.
#[tokio::test]
async fn expires_in_may_be_a_string() {
    let text = json("200 OK", r#"{"access_token":"t1","expires_in":"1000"}"#);
    let told = serves(text, "").await;
    assert!((770..=800).contains(&next_fetch(&told)), "{told}");
}

/// golang.org/x/oauth2: a fractional `expires_in` fails the login.
#[tokio::test]
async fn expires_in_may_be_fractional() {
    let text = json("200 OK", r#"{"access_token":"t1","expires_in":999.5}"#);
    let told = serves(text, "").await;
    assert!((770..=800).contains(&next_fetch(&told)), "{told}");
}

/// grafana/grafana#19730: where there is only `expires_on`, every request fetches a token.
#[tokio::test]
async fn an_expiry_under_another_name_is_found_where_the_dialect_says() {
    // 2100-01-01.
    let text = json(
        "200 OK",
        r#"{"access_token":"t1","expires_on":"4102444800"}"#,
    );
    let told = serves(text, "response = { expires = \"/expires_on\" }").await;
    assert!(next_fetch(&told) > 365 * 24 * 3600, "{told}");
}

/// Couper: no token is kept for longer than 86,400 s, whatever the vendor says.
#[tokio::test]
async fn a_token_of_a_year_is_kept_for_a_year() {
    let text = json("200 OK", r#"{"access_token":"t1","expires_in":31536000}"#);
    let told = serves(text, "").await;
    assert!(next_fetch(&told) > 300 * 24 * 3600, "{told}");
}

/// surfkansas: a token that lives for less than 300 s is fetched every 30 s.
#[tokio::test]
async fn a_token_of_200_seconds_is_not_fetched_every_30() {
    let text = json("200 OK", r#"{"access_token":"t1","expires_in":200}"#);
    let told = serves(text, "").await;
    assert!((150..=160).contains(&next_fetch(&told)), "{told}");
}

/// Couper: a 201 counts as a failure.
#[tokio::test]
async fn a_201_is_a_success() {
    let text = json("201 Created", r#"{"access_token":"t1","expires_in":3600}"#);
    serves(text, "").await;
}

/// nono-proxy: the answer is read as raw bytes, so that a chunked one is not understood.
#[tokio::test]
async fn a_chunked_answer_is_read() {
    let text = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
                13\r\n{\"access_token\":\"t1\r\n15\r\n\",\"expires_in\":3600}\n\r\n0\r\n\r\n";
    serves(text.to_owned(), "").await;
}

/// golang.org/x/oauth2: JSON under `text/plain` is parsed as a query string, and no token found in it.
#[tokio::test]
async fn json_under_text_plain_is_json() {
    let text = r#"{"access_token":"t1","expires_in":3600}"#;
    serves(
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
async fn an_empty_token_type_does_not_matter() {
    for kind in ["", "\"token_type\":\"\",", "\"token_type\":null,"] {
        let text = format!("{{{kind}\"access_token\":\"t1\",\"expires_in\":3600}}");
        serves(json("200 OK", &text), "").await;
    }
}

/// golang/oauth2#484 and others: what stands in `token_type` ends up in front of the token.
#[tokio::test]
async fn the_token_type_never_builds_the_header() {
    let text = r#"{"access_token":"t1","token_type":"bearer_token","expires_in":3600}"#;
    serves(json("200 OK", text), "").await;
}

/// golang/oauth2#551: a token in an envelope with a code of its own was asked for, and refused.
#[tokio::test]
async fn a_token_in_an_envelope_is_found() {
    let text = r#"{"code":200,"message":"ok","data":{"token":"t1","ttl":3600}}"#;
    let keys = "response = { token = \"/data/token\", expires = \"/data/ttl\", ok = { \"/code\" = [200] } }";
    serves(json("200 OK", text), keys).await;
}

/// golang/oauth2#526 (Withings): the token is one level down, and `status` is 0.
#[tokio::test]
async fn a_token_one_level_down_is_found() {
    let text = r#"{"status":0,"body":{"access_token":"t1","expires_in":10800}}"#;
    let keys = "response = { token = \"/body/access_token\", expires = \"/body/expires_in\", ok = { \"/status\" = [0] } }";
    serves(json("200 OK", text), keys).await;
}

/// magodo/terraform-provider-restful#157: the token is called `token`.
#[tokio::test]
async fn a_token_by_another_name_is_found() {
    let text = json("200 OK", r#"{"token":"t1","expires_in":3600}"#);
    serves(text, "response = { token = \"/token\" }").await;
}

/// Couper: a 200 without a token is a success, and `Authorization: Bearer ` goes out with nothing behind it.
#[tokio::test]
async fn a_200_without_a_token_is_no_token() {
    for body in [
        "{}",
        r#"{"access_token":""}"#,
        r#"{"access_token":null,"expires_in":3600}"#,
    ] {
        answered(json("200 OK", body), "", async |app, _, api| {
            let seen = app.get("/x").await;
            assert_eq!(seen.code(), "credentials_rejected", "{body}");
            assert_eq!(api.count(), 0, "{body}");
        })
        .await;
    }
}

/// Couper: only the status counts. GitHub and others answer a refused login with 200 and an `error`.
#[tokio::test]
async fn an_error_inside_a_200_is_a_failure() {
    let text = r#"{"error":"bad_verification_code","expires_in":3600}"#;
    answered(json("200 OK", text), "", async |app, _, api| {
        assert_eq!(app.get("/x").await.code(), "credentials_rejected");
        assert_eq!(api.count(), 0);
        let told = app.status().await["providers"][0].to_string();
        assert!(told.contains("bad_verification_code"), "{told}");
    })
    .await;
}

/// golang.org/x/oauth2, librefang/librefang#5525: the error holds the whole body, which then stands in the log.
#[tokio::test]
async fn an_error_text_holds_no_body() {
    const LEAK: &str = "leak-7f3a9c";
    let text = format!(
        r#"{{"error":"invalid_client","error_description":"no such client","trace":"{LEAK}","access_token":"{LEAK}"}}"#
    );
    for text in [
        json("400 Bad Request", &text),
        json("500 Internal Server Error", &format!("<pre>{LEAK}</pre>")),
    ] {
        answered(text, "", async |app, _, _| {
            let seen = app.connect().await.get("/x").await;
            let told: Vec<Response> = vec![
                seen,
                app.admin("/status").await,
                app.admin("/metrics").await,
                app.admin("/").await,
            ];
            for told in told {
                assert!(!told.text().contains(LEAK), "{}", told.text());
            }
            // Without this, a log that is empty would pass.
            assert!(log().contains("no new token"));
            assert!(!log().contains(LEAK));
        })
        .await;
    }
}

//! CNCN: client credentials, Basic with the MD5 of the secret, HTTP 400 with a Chinese text.

use http::StatusCode;
use md5::{Digest as _, Md5};
use serde_json::json;

use super::Credential;
use super::call::{Call, Grant, Refusal, Reply, matches};
use super::ledger::Issued;

pub(super) const PATH: &str = "/v2/token";
pub(super) const CREDENTIALS: &[(&str, Credential)] = &[
    ("client_id", Credential::Text(CLIENT_ID)),
    ("client_secret", Credential::Text(CLIENT_SECRET)),
];

const CLIENT_ID: &str = "joelhy";
const CLIENT_SECRET: &str = "demo-secret-of-cncn";

pub(super) fn check(call: &Call) -> Result<Grant, Refusal> {
    call.is_post(PATH).map_err(invalid_request)?;
    call.accepts_json().map_err(invalid_request)?;
    let credentials = call.basic().map_err(invalid_request)?;
    let Some((client_id, password)) = credentials else {
        return Err(invalid_request("no Authorization header".to_owned()));
    };
    if client_id.is_empty() || password.is_empty() {
        return Err(invalid_request("client id or secret is empty".to_owned()));
    }
    matches("client_id", &client_id, CLIENT_ID).map_err(wrong_credentials)?;
    let hashed = md5_hex(CLIENT_SECRET);
    matches("md5(client_secret)", &password, &hashed).map_err(wrong_credentials)?;
    let mut form = call.form().map_err(invalid_request)?;
    let grant = form.take("grant_type").unwrap_or_default();
    if grant != "client_credentials" {
        let reason = format!("grant_type is '{grant}' instead of client_credentials");
        let description = "不支持该种验证类型";
        return Err(refusal("unsupported_grant_type", description, reason));
    }
    form.finish().map_err(invalid_request)?;
    Ok(Grant::new(&grant))
}

pub(super) fn response(issued: &Issued) -> Reply {
    let expires_in = issued.expires_in();
    let body = json!({
        "access_token": issued.token,
        "token_type": "Bearer",
        "expires_in": expires_in,
        "expires_at": issued.issued_at + expires_in,
    });
    in_chinese(StatusCode::OK, &body).uncached()
}

pub(super) fn wrong_credentials(reason: String) -> Refusal {
    refusal("invalid_client", "用户名或密码错误", reason)
}

fn invalid_request(reason: String) -> Refusal {
    refusal("invalid_request", "用户名和密码不能为空", reason)
}

fn refusal(error: &str, description: &str, reason: String) -> Refusal {
    let body = json!({ "error": error, "error_description": description });
    Refusal::new(in_chinese(StatusCode::BAD_REQUEST, &body), reason)
}

fn in_chinese(status: StatusCode, body: &serde_json::Value) -> Reply {
    Reply::new(status, "application/json;charset=utf-8", body.to_string())
}

fn md5_hex(text: &str) -> String {
    format!("{:032x}", u128::from_be_bytes(Md5::digest(text).into()))
}

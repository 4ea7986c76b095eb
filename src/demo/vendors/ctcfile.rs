//! ctcfile: GET with the secret in the query, `errcode` in the body; single active token.

use http::StatusCode;
use serde_json::json;

use super::Credential;
use super::call::{Call, Grant, Refusal, Reply, matches};
use super::ledger::Issued;

pub(super) const PATH: &str = "/oauth/accesstoken";
pub(super) const CREDENTIALS: &[(&str, Credential)] = &[
    ("client_id", Credential::Text(CLIENT_ID)),
    ("client_secret", Credential::Text(CLIENT_SECRET)),
];

const CLIENT_ID: &str = "6zgY2DngtDjAq567k5sWfqJ6S01l";
/// With characters that must be escaped in a query.
const CLIENT_SECRET: &str = "demo secret+of/ctcfile&";

pub(super) fn check(call: &Call) -> Result<Grant, Refusal> {
    call.is_get(PATH).map_err(bad_request)?;
    call.accepts_json().map_err(bad_request)?;
    call.has_no_authorization().map_err(bad_request)?;
    let mut query = call.query().map_err(bad_request)?;
    let client_id = query.need("clientId").map_err(bad_request)?;
    let client_secret = query.need("clientSecret").map_err(bad_request)?;
    query.finish().map_err(bad_request)?;
    matches("clientId", &client_id, CLIENT_ID).map_err(wrong_credentials)?;
    matches("clientSecret", &client_secret, CLIENT_SECRET).map_err(wrong_credentials)?;
    Ok(Grant::new("client_credentials"))
}

pub(super) fn response(issued: &Issued) -> Reply {
    envelope(&issued.token, issued.expires_in(), "", "").with(http::header::VARY, "Accept")
}

pub(super) fn wrong_credentials(reason: String) -> Refusal {
    Refusal::new(
        envelope("", 0, "40001", "clientId或clientSecret错误"),
        reason,
    )
}

fn bad_request(reason: String) -> Refusal {
    Refusal::new(envelope("", 0, "40000", "请求参数错误"), reason)
}

fn envelope(token: &str, expires_in: u64, errcode: &str, errmsg: &str) -> Reply {
    let body = json!({
        "token_type": "",
        "access_token": token,
        "expires_in": expires_in,
        "refresh_token": "",
        "errcode": errcode,
        "errmsg": errmsg,
    });
    Reply::json(StatusCode::OK, &body)
}

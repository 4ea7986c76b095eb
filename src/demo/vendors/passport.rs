//! Passport: the password grant with an empty `scope`, and tokens of one year. Issues refresh
//! tokens but offers no refresh.

use http::StatusCode;
use serde_json::json;

use super::Credential;
use super::call::{Call, Grant, Refusal, Reply, matches};
use super::ledger::{Issued, random_hex};

pub(super) const PATH: &str = "/oauth/token";
pub(super) const CREDENTIALS: &[(&str, Credential)] = &[
    ("client_id", Credential::Text(CLIENT_ID)),
    ("client_secret", Credential::Text(CLIENT_SECRET)),
    ("username", Credential::Text(USERNAME)),
    ("password", Credential::Text(PASSWORD)),
];

const CLIENT_ID: &str = "2";
const CLIENT_SECRET: &str = "demo-secret-of-passport";
const USERNAME: &str = "13800000000";
const PASSWORD: &str = "demo password & more";

pub(super) fn check(call: &Call) -> Result<Grant, Refusal> {
    call.is_post(PATH).map_err(invalid_request)?;
    call.has_no_authorization().map_err(invalid_request)?;
    let mut form = call.form().map_err(invalid_request)?;
    let grant = form.need("grant_type").map_err(invalid_request)?;
    if grant == "refresh_token" {
        let reason = "grant_type=refresh_token: the document offers no refresh".to_owned();
        return Err(unsupported_grant_type(reason));
    }
    if grant != "password" {
        let reason = format!("grant_type is '{grant}' instead of password");
        return Err(unsupported_grant_type(reason));
    }
    let client_id = form.need("client_id").map_err(invalid_request)?;
    let client_secret = form.need("client_secret").map_err(invalid_request)?;
    let username = form.need("username").map_err(invalid_request)?;
    let password = form.need("password").map_err(invalid_request)?;
    match form.take("scope").as_deref() {
        Some("") => {}
        Some(_) => return Err(invalid_request("scope is not empty".to_owned())),
        None => return Err(invalid_request("field scope is missing".to_owned())),
    }
    form.finish().map_err(invalid_request)?;
    matches("client_id", &client_id, CLIENT_ID).map_err(invalid_client)?;
    matches("client_secret", &client_secret, CLIENT_SECRET).map_err(invalid_client)?;
    matches("username", &username, USERNAME).map_err(wrong_credentials)?;
    matches("password", &password, PASSWORD).map_err(wrong_credentials)?;
    Ok(Grant::new(&grant))
}

pub(super) fn response(issued: &Issued) -> Reply {
    let body = json!({
        "token_type": "Bearer",
        "expires_in": issued.expires_in(),
        "access_token": issued.token,
        "refresh_token": format!("def502{}", random_hex(600)),
    });
    Reply::json(StatusCode::OK, &body).uncached()
}

pub(super) fn wrong_credentials(reason: String) -> Refusal {
    let message = "The user credentials were incorrect.";
    refusal(
        StatusCode::UNAUTHORIZED,
        "invalid_credentials",
        message,
        reason,
    )
}

fn invalid_client(reason: String) -> Refusal {
    let message = "Client authentication failed";
    refusal(StatusCode::UNAUTHORIZED, "invalid_client", message, reason)
}

fn invalid_request(reason: String) -> Refusal {
    let message = "The request is missing a required parameter, includes an invalid parameter \
        value, includes a parameter more than once, or is otherwise malformed.";
    refusal(StatusCode::BAD_REQUEST, "invalid_request", message, reason)
}

fn unsupported_grant_type(reason: String) -> Refusal {
    let message = "The authorization grant type is not supported by the authorization server.";
    refusal(
        StatusCode::BAD_REQUEST,
        "unsupported_grant_type",
        message,
        reason,
    )
}

fn refusal(status: StatusCode, error: &str, message: &str, reason: String) -> Refusal {
    let body = json!({ "error": error, "message": message });
    Refusal::new(Reply::json(status, &body), reason)
}

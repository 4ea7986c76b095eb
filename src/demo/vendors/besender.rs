//! Besender: a JSON request with a numeric client id and no grant type, an envelope as response.

use http::StatusCode;
use serde_json::{Value, json};

use super::Credential;
use super::call::{Call, Grant, Refusal, Reply, matches};
use super::ledger::Issued;

pub(super) const PATH: &str = "/open/api/v1/access_token";
pub(super) const CREDENTIALS: &[(&str, Credential)] = &[
    ("client_id", Credential::Integer(CLIENT_ID)),
    ("client_secret", Credential::Text(CLIENT_SECRET)),
];

const CLIENT_ID: i64 = 19;
const CLIENT_SECRET: &str = "demo-secret-of-besender";

pub(super) fn check(call: &Call) -> Result<Grant, Refusal> {
    call.is_post(PATH).map_err(bad_parameter)?;
    call.has_no_authorization().map_err(bad_parameter)?;
    let mut fields = call.json().map_err(bad_parameter)?;
    let client_id = fields.remove("client_id");
    let client_secret = fields.remove("client_secret");
    if let Some(name) = fields.keys().next() {
        let reason = format!("field {name} is not in the document");
        return Err(bad_parameter(reason));
    }
    match client_id {
        Some(Value::Number(number)) if number.as_i64() == Some(CLIENT_ID) => {}
        Some(Value::Number(_)) => {
            return Err(wrong_credentials("client_id is wrong".to_owned()));
        }
        Some(Value::String(_)) => {
            let reason = "client_id is a JSON string instead of a number".to_owned();
            return Err(bad_parameter(reason));
        }
        _ => return Err(bad_parameter("client_id is missing".to_owned())),
    }
    let Some(Value::String(client_secret)) = client_secret else {
        return Err(bad_parameter("client_secret is no string".to_owned()));
    };
    matches("client_secret", &client_secret, CLIENT_SECRET).map_err(wrong_credentials)?;
    Ok(Grant::new("client_credentials"))
}

pub(super) fn response(issued: &Issued) -> Reply {
    let body = json!({
        "code": 200,
        "data": {
            "token": {
                "token_type": "Bearer",
                "expires_in": issued.expires_in(),
                "access_token": issued.token,
            },
            "userInfo": { "id": 2, "account": "test007", "score": "461.74970" },
        },
    });
    Reply::json(StatusCode::OK, &body)
}

pub(super) fn wrong_credentials(reason: String) -> Refusal {
    refusal(401, "客户端ID或秘钥错误", reason)
}

fn bad_parameter(reason: String) -> Refusal {
    refusal(422, "参数错误", reason)
}

/// The document shows success as `code` in the body; failures are returned likewise, with HTTP 200.
fn refusal(code: u16, message: &str, reason: String) -> Refusal {
    let body = json!({ "code": code, "message": message, "data": null });
    Refusal::new(Reply::json(StatusCode::OK, &body), reason)
}

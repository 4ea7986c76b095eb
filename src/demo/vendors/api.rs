//! A vendor's API, which needs a valid token in exactly the right header.

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::call::Reply;
use super::ledger::Ledger;
use super::{Kind, Shared, What};

pub(super) fn serve(shared: &Shared, parts: &Parts, body_bytes: u64) -> Reply {
    let Parts { method, uri, .. } = parts;
    let path = uri.path();
    let request = format!("{method} {path}");
    let checked = {
        let mut state = shared.state();
        state.counters.api_requests += 1;
        let checked = token_number(&parts.headers, &state.ledger);
        if let Err(reason) = &checked {
            state.counters.api_rejected += 1;
            state.record_refusal(format!("api: {request}: {reason}"));
        }
        checked
    };
    match checked {
        Err(reason) => {
            shared.send(What::ApiRejected { request, reason });
            rejection(shared.kind)
        }
        Ok(number) => {
            shared.send(What::ApiServed { number, request });
            if !is_below(path, shared.kind.api_path()) {
                return Reply::text(StatusCode::NOT_FOUND, "no such path on this vendor's API\n");
            }
            let body = json!({
                "vendor": shared.kind.name(),
                "method": method.as_str(),
                "path": path,
                "query": uri.query(),
                "body_bytes": body_bytes,
                "token": "accepted",
                "token_number": number,
            });
            Reply::json(StatusCode::OK, &body)
        }
    }
}

fn token_number(headers: &HeaderMap, ledger: &Ledger) -> Result<u64, String> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err("no Authorization header".to_owned());
    };
    if values.next().is_some() {
        return Err("more than one Authorization header".to_owned());
    }
    let token = value
        .to_str()
        .ok()
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or("Authorization is not 'Bearer TOKEN'")?;
    ledger.check(token)
}

fn is_below(path: &str, base: &str) -> bool {
    path.strip_prefix(base)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Rejects a token. The documents do not specify the response.
fn rejection(kind: Kind) -> Reply {
    let expired = "访问令牌无效或已过期";
    let body = match kind {
        Kind::Cncn => json!({ "error": "invalid_token", "error_description": expired }),
        Kind::Besender => json!({ "code": 401, "message": "Unauthenticated.", "data": null }),
        Kind::Ctcfile => json!({ "errcode": "40101", "errmsg": "access_token已失效" }),
        Kind::IdentityServer => json!({ "error": "invalid_token" }),
        Kind::Passport => json!({ "message": "Unauthenticated." }),
    };
    Reply::json(StatusCode::UNAUTHORIZED, &body)
        .with(WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")
}

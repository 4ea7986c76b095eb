//! Control flow: configured tokens, such as an API key, a personal access token or a projected
//! service-account token.
//!
//! Reading the value replaces the exchange; all other steps are the same as for other providers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::clock::Now;
use crate::config::Value;
use crate::dialect::{Expiry, Issued, Problem, Var, check_token};
use crate::provider::exchange::{FetchError, Fetched};
use crate::provider::inputs;

/// Reads the value of `access_token`.
pub async fn read(provider: &str, value: &Value, now: Now) -> Result<Fetched, FetchError> {
    let key = format!("providers.{provider}.access_token");
    let token = match inputs::read(&key, value).await? {
        Var::Text(token) => token,
        Var::Integer(_) | Var::Boolean(_) => return Err(unusable(key, "it must be a string")),
    };
    if let Err(reason) = check_token(token.expose()) {
        return Err(unusable(key, reason));
    }
    let expiry = match jwt_expiry(token.expose()) {
        Some(at) if at <= now.wall => return Err(FetchError::ExpiredStatic { key }),
        Some(at) => Expiry::At { at, date: None },
        None => Expiry::Unstated,
    };
    Ok(Fetched {
        issued: Issued {
            access_token: token,
            refresh_token: None,
            expiry,
            warnings: Vec::new(),
        },
        sent: now,
    })
}

fn unusable(path: String, reason: &str) -> FetchError {
    FetchError::Inject(Problem {
        path,
        message: reason.to_owned(),
    })
}

/// Returns `exp` (RFC 7519 §4.1.4) of a JWT. The signature is for the API to check.
fn jwt_expiry(token: &str) -> Option<SystemTime> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    let seconds = claims.get("exp")?.as_f64()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, test::TestClock};

    fn jwt(payload: &str) -> String {
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", encode(r#"{"alg":"none"}"#), encode(payload))
    }

    #[test]
    fn expiry_is_the_exp_claim_of_a_jwt() {
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(jwt_expiry(&jwt(r#"{"exp":1767225700}"#)), at(1_767_225_700));
        assert_eq!(
            jwt_expiry(&jwt(r#"{"exp":1767225700.0}"#)),
            at(1_767_225_700)
        );
        for other in [
            "ghp_0123",
            "a.b.c",
            "a.b",
            &jwt("{}"),
            &jwt(r#"{"exp":"x"}"#),
            &jwt(r#"{"exp":-1}"#),
            &jwt(r#"{"exp":1e300}"#),
        ] {
            assert_eq!(jwt_expiry(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn expired_jwt_is_an_error() {
        let now = Clock::Test(TestClock::new()).now();
        let seconds = now.wall.duration_since(UNIX_EPOCH).unwrap().as_secs();
        for (exp, good) in [(seconds + 1, true), (seconds, false), (seconds - 9, false)] {
            let token = jwt(&format!(r#"{{"exp":{exp}}}"#));
            let value = Value::Literal(Var::Text(token.as_str().into()));
            let read = read("x", &value, now).await;
            assert_eq!(read.is_ok(), good);
            if let Err(error) = read {
                let text = error.to_string();
                assert!(
                    text.starts_with(
                        "providers.x.access_token: the configured access_token has expired"
                    ),
                    "{text}"
                );
                assert!(!text.contains(&token));
            }
        }
    }

    #[tokio::test]
    async fn unsendable_token_is_refused_and_not_quoted() {
        let now = Clock::Test(TestClock::new()).now();
        for text in ["two words", "line\nbreak", "ключ"] {
            let value = Value::Literal(Var::Text(text.into()));
            let error = read("x", &value, now).await.unwrap_err().to_string();
            assert!(error.contains("providers.x.access_token"), "{error}");
            assert!(!error.contains(text), "{error}");
        }
    }
}

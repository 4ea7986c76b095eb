//! IdentityServer: seven grants, the client's secret in the body or as Basic, rotating refresh
//! tokens.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Credential;
use super::call::{Call, Fields, Grant, Refusal, Reply, matches};
use super::ledger::{Issued, random_hex};

pub(super) const PATH: &str = "/connect/token";
pub(super) const AUTHORIZATION_PATH: &str = "/connect/authorize";
pub(super) const CREDENTIALS: &[(&str, Credential)] = &[
    ("grant", Credential::Text("password")),
    ("client_id", Credential::Text(CLIENT_ID)),
    ("client_secret", Credential::Text(CLIENT_SECRET)),
    ("username", Credential::Text(USERNAME)),
    ("password", Credential::Text(PASSWORD)),
];

const CLIENT_ID: &str = "client1";
const CLIENT_SECRET: &str = "demo-secret-of-identityserver";
const USERNAME: &str = "alice";
const PASSWORD: &str = "demo-password-of-alice";
const AD_USERNAME: &str = "CORP\\alice";
const REDIRECT_URI: &str = "https://myapp.com/callback";
const PHONE: &str = "13800000000";
const OPEN_ID: &str = "oABC-demo";
const SCOPES: [&str; 4] = ["api", "openid", "profile", "offline_access"];

/// The vendor's state in addition to its access tokens.
pub(super) struct Accounts {
    /// Authorization and SMS codes, and whether they were used; each is valid once.
    codes: HashMap<String, bool>,
    /// The requests that codes of the authorization endpoint are bound to.
    authorized: HashMap<String, Authorized>,
    /// Refresh tokens, and whether they were used; each is valid once.
    refresh: HashMap<String, bool>,
}

/// A granted authorization request.
struct Authorized {
    redirect_uri: String,
    /// RFC 7636 §4.2, S256.
    challenge: Option<String>,
}

impl Default for Accounts {
    /// Knows the document's code `hdh922`, the SMS code `123456`, and the refresh token
    /// `8xLOxBtZp8` of the document's sample response.
    fn default() -> Self {
        Self {
            codes: ["hdh922", "123456"]
                .map(|code| (code.to_owned(), false))
                .into(),
            authorized: HashMap::new(),
            refresh: HashMap::from([("8xLOxBtZp8".to_owned(), false)]),
        }
    }
}

impl Accounts {
    pub(super) fn add_one_time(&mut self, code: &str) {
        self.codes.insert(code.to_owned(), false);
    }

    fn new_refresh_token(&mut self) -> String {
        let token = random_hex(40);
        self.refresh.insert(token.clone(), false);
        token
    }
}

/// Marks a one-time value as used.
fn spend(used: &mut HashMap<String, bool>, what: &str, value: &str) -> Result<(), Refusal> {
    let reason = match used.get_mut(value) {
        Some(used @ false) => {
            *used = true;
            return Ok(());
        }
        Some(true) => "was used before",
        None => "is unknown",
    };
    Err(invalid_grant(format!("{what} {reason}")))
}

pub(super) fn check(call: &Call, accounts: &mut Accounts) -> Result<Grant, Refusal> {
    call.is_post(PATH).map_err(invalid_request)?;
    let mut form = call.form().map_err(invalid_request)?;
    authenticate(call, &mut form)?;
    let name = form.need("grant_type").map_err(invalid_request)?;
    let offline = check_scope(&mut form)?;
    let check = credential_check(&name, &mut form)?;
    // Before the check, so that only a request without other errors spends a code.
    form.finish().map_err(invalid_request)?;
    check(accounts)?;
    let mut grant = Grant::new(&name);
    if offline && name != "client_credentials" {
        grant.refresh_token = Some(accounts.new_refresh_token());
    }
    grant.id_token = name == "authorization_code";
    Ok(grant)
}

/// The authorization endpoint, for a user who is logged in and agrees to every request
/// (RFC 6749 §4.1.1, RFC 7636, RFC 8252 §7.3).
pub(super) fn authorize(call: &Call, accounts: &mut Accounts) -> Reply {
    match authorized(call, accounts) {
        Ok(location) => {
            let mut reply = Reply::text(StatusCode::FOUND, "");
            reply.headers.push((LOCATION, location));
            reply
        }
        // Without a redirect, because the URI of an invalid request cannot be trusted.
        Err(_) => Reply::text(StatusCode::BAD_REQUEST, "invalid_request"),
    }
}

fn authorized(call: &Call, accounts: &mut Accounts) -> Result<HeaderValue, String> {
    call.is_get(AUTHORIZATION_PATH)?;
    let mut query = call.query()?;
    matches("response_type", &query.need("response_type")?, "code")?;
    matches("client_id", &query.need("client_id")?, CLIENT_ID)?;
    let redirect_uri = query.need("redirect_uri")?;
    let loopback = redirect_uri.strip_prefix("http://127.0.0.1");
    if redirect_uri != REDIRECT_URI && !loopback.is_some_and(|rest| rest.starts_with([':', '/'])) {
        return Err("redirect_uri is not registered".to_owned());
    }
    let state = query.need("state")?;
    let challenge = query.take("code_challenge");
    if challenge.is_some() {
        let method = query.need("code_challenge_method")?;
        matches("code_challenge_method", &method, "S256")?;
    }
    check_scope(&mut query).map_err(|refusal| refusal.reason)?;
    query.finish()?;
    let code = random_hex(32);
    let back = form_urlencoded::Serializer::new(String::new())
        .append_pair("code", &code)
        .append_pair("state", &state)
        .finish();
    let location = format!("{redirect_uri}?{back}");
    accounts.add_one_time(&code);
    let bound = Authorized {
        redirect_uri,
        challenge,
    };
    accounts.authorized.insert(code, bound);
    location
        .try_into()
        .map_err(|_| "redirect_uri cannot be sent".to_owned())
}

fn challenge_of(verifier: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()))
}

pub(super) fn response(grant: &Grant, issued: &Issued) -> Reply {
    let mut body = json!({
        "access_token": issued.token,
        "token_type": "Bearer",
        "expires_in": issued.expires_in(),
    });
    if let Some(token) = &grant.refresh_token {
        body["refresh_token"] = json!(token);
    }
    if grant.id_token {
        body["id_token"] = json!(format!("eyJhbGciOiJSUzI1NiJ9.{}", random_hex(64)));
    }
    Reply::json(StatusCode::OK, &body).uncached()
}

pub(super) fn wrong_credentials(reason: String) -> Refusal {
    refusal("invalid_client", reason)
}

type Check = Box<dyn FnOnce(&mut Accounts) -> Result<(), Refusal>>;

/// Takes the credentials of a grant from the form. Returns their check, which spends a code or
/// token.
fn credential_check(grant: &str, form: &mut Fields) -> Result<Check, Refusal> {
    let verifier = match grant {
        "authorization_code" => form.take("code_verifier"),
        _ => None,
    };
    let mut need = |name: &str| form.need(name).map_err(invalid_request);
    Ok(match grant {
        "client_credentials" => Box::new(|_| Ok(())),
        "password" | "password_ad" => {
            let (username, password) = (need("username")?, need("password")?);
            let expected = match grant {
                "password" => USERNAME,
                _ => AD_USERNAME,
            };
            Box::new(move |_| {
                matches("username", &username, expected)
                    .and_then(|()| matches("password", &password, PASSWORD))
                    .map_err(invalid_grant)
            })
        }
        "authorization_code" => {
            let (code, redirect_uri) = (need("code")?, need("redirect_uri")?);
            Box::new(move |accounts| {
                let bound = accounts.authorized.get(&code);
                let expected = bound.map_or(REDIRECT_URI, |bound| &bound.redirect_uri);
                matches("redirect_uri", &redirect_uri, expected).map_err(invalid_grant)?;
                let challenge = bound.and_then(|bound| bound.challenge.as_deref());
                if verifier.as_deref().map(challenge_of).as_deref() != challenge {
                    let reason = "code_verifier does not fit the code_challenge".to_owned();
                    return Err(invalid_grant(reason));
                }
                spend(&mut accounts.codes, "code", &code)
            })
        }
        "refresh_token" => {
            let token = need("refresh_token")?;
            Box::new(move |accounts| spend(&mut accounts.refresh, "refresh_token", &token))
        }
        "sms" => {
            let (phone, code) = (need("phone")?, need("sms")?);
            Box::new(move |accounts| {
                matches("phone", &phone, PHONE).map_err(invalid_grant)?;
                spend(&mut accounts.codes, "sms", &code)
            })
        }
        "wechat" => {
            let open_id = need("openId")?;
            Box::new(move |_| matches("openId", &open_id, OPEN_ID).map_err(invalid_grant))
        }
        other => {
            let reason = format!("grant_type '{other}' is not in the document");
            return Err(refusal("unsupported_grant_type", reason));
        }
    })
}

/// Accepts Basic or body, never both (RFC 6749 §2.3); Basic parts are form-encoded (§2.3.1).
fn authenticate(call: &Call, form: &mut Fields) -> Result<(), Refusal> {
    let basic = call.basic().map_err(invalid_request)?;
    let (client_id, client_secret) = match (basic, form.take("client_secret")) {
        (Some(_), Some(_)) => {
            let reason = "client_secret both as Basic and in the body".to_owned();
            return Err(invalid_request(reason));
        }
        (Some((user, password)), None) => {
            if form.take("client_id").is_some_and(|id| id != CLIENT_ID) {
                let reason = "client_id in the body is not that of Basic".to_owned();
                return Err(invalid_request(reason));
            }
            (form_decoded(&user), form_decoded(&password))
        }
        (None, Some(secret)) => (form.need("client_id").map_err(invalid_request)?, secret),
        (None, None) => {
            let reason = "client_secret neither as Basic nor in the body".to_owned();
            return Err(wrong_credentials(reason));
        }
    };
    matches("client_id", &client_id, CLIENT_ID)
        .and_then(|()| matches("client_secret", &client_secret, CLIENT_SECRET))
        .map_err(wrong_credentials)
}

/// Returns whether `offline_access` is granted. Without `scope`, all allowed scopes are.
fn check_scope(form: &mut Fields) -> Result<bool, Refusal> {
    let Some(scope) = form.take("scope") else {
        return Ok(true);
    };
    if scope.is_empty() {
        let reason = "scope is empty: leave the field out".to_owned();
        return Err(refusal("invalid_scope", reason));
    }
    match scope.split(' ').find(|name| !SCOPES.contains(name)) {
        Some(name) => {
            let reason = format!("scope '{name}' is not registered");
            Err(refusal("invalid_scope", reason))
        }
        None => Ok(scope.split(' ').any(|name| name == "offline_access")),
    }
}

fn form_decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8_lossy()
        .into_owned()
}

fn invalid_request(reason: String) -> Refusal {
    refusal("invalid_request", reason)
}

fn invalid_grant(reason: String) -> Refusal {
    refusal("invalid_grant", reason)
}

fn refusal(error: &str, reason: String) -> Refusal {
    Refusal::new(
        Reply::json(StatusCode::BAD_REQUEST, &json!({ "error": error })).uncached(),
        reason,
    )
}

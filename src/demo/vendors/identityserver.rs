//! IdentityServer: seven grants, the client's secret in the body or as Basic, rotating refresh tokens.

use std::collections::{HashMap, HashSet};

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

/// What this vendor must remember beside its access tokens.
pub(super) struct Accounts {
    /// Authorization and SMS codes that were not used yet.
    one_time: HashSet<String>,
    spent: HashSet<String>,
    /// What codes of the authorization endpoint are bound to.
    authorized: HashMap<String, Authorized>,
    /// Refresh tokens by whether they were used; each is good for one use.
    refresh: HashMap<String, bool>,
}

/// An authorization request that was granted.
struct Authorized {
    redirect_uri: String,
    /// RFC 7636 §4.2, S256.
    challenge: Option<String>,
}

impl Default for Accounts {
    /// Knows the document's code `hdh922` and the SMS code `123456`, each good for one use, and the refresh
    /// token `8xLOxBtZp8` of the document's sample answer.
    fn default() -> Self {
        Self {
            one_time: ["hdh922", "123456"].map(str::to_owned).into(),
            spent: HashSet::new(),
            authorized: HashMap::new(),
            refresh: HashMap::from([("8xLOxBtZp8".to_owned(), false)]),
        }
    }
}

impl Accounts {
    pub(super) fn add_one_time(&mut self, code: &str) {
        self.one_time.insert(code.to_owned());
    }

    fn spend(&mut self, what: &str, code: &str) -> Result<(), Refusal> {
        if self.one_time.remove(code) {
            self.spent.insert(code.to_owned());
            return Ok(());
        }
        let reason = if self.spent.contains(code) {
            format!("{what} was used before")
        } else {
            format!("{what} is unknown")
        };
        Err(refusal("invalid_grant", reason))
    }

    fn rotate(&mut self, token: &str) -> Result<(), Refusal> {
        let reason = match self.refresh.get_mut(token) {
            Some(used @ false) => {
                *used = true;
                return Ok(());
            }
            Some(true) => "refresh_token was used before",
            None => "refresh_token is unknown",
        };
        Err(refusal("invalid_grant", reason.to_owned()))
    }

    fn new_refresh_token(&mut self) -> String {
        let token = random_hex(40);
        self.refresh.insert(token.clone(), false);
        token
    }
}

pub(super) fn check(call: &Call, accounts: &mut Accounts) -> Result<Grant, Refusal> {
    call.is_post(PATH).map_err(invalid_request)?;
    let mut form = call.form().map_err(invalid_request)?;
    authenticate(call, &mut form)?;
    let name = form.need("grant_type").map_err(invalid_request)?;
    let offline = check_scope(&mut form)?;
    let proof = Proof::take(&name, &mut form)?;
    // Only a request that is right in every other way may spend a code.
    form.finish().map_err(invalid_request)?;
    proof.check(accounts)?;
    let mut grant = Grant::new(&name);
    if offline && !matches!(proof, Proof::Client) {
        grant.refresh_token = Some(accounts.new_refresh_token());
    }
    grant.id_token = matches!(proof, Proof::Code { .. });
    Ok(grant)
}

/// The authorization endpoint, for a user who is logged in and agrees to everything (RFC 6749 §4.1.1, RFC 7636,
/// RFC 8252 §7.3).
pub(super) fn authorize(call: &Call, accounts: &mut Accounts) -> Reply {
    match authorized(call, accounts) {
        Ok(location) => {
            let mut reply = Reply::text(StatusCode::FOUND, "");
            reply.headers.push((LOCATION, location));
            reply
        }
        // Whoever asks wrongly is told so on the spot: where to send him back to is not to be trusted.
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
        matches(
            "code_challenge_method",
            &query.need("code_challenge_method")?,
            "S256",
        )?;
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

pub(super) fn answer(grant: &Grant, issued: &Issued) -> Reply {
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

/// What a grant shows to get a token.
enum Proof {
    Client,
    Password {
        username: String,
        password: String,
        expected: &'static str,
    },
    Code {
        code: String,
        redirect_uri: String,
        verifier: Option<String>,
    },
    Refresh {
        token: String,
    },
    Sms {
        phone: String,
        code: String,
    },
    WeChat {
        open_id: String,
    },
}

impl Proof {
    fn take(grant: &str, form: &mut Fields) -> Result<Self, Refusal> {
        let verifier = match grant {
            "authorization_code" => form.take("code_verifier"),
            _ => None,
        };
        let mut need = |name: &str| form.need(name).map_err(invalid_request);
        Ok(match grant {
            "client_credentials" => Self::Client,
            "password" | "password_ad" => Self::Password {
                username: need("username")?,
                password: need("password")?,
                expected: if grant == "password" {
                    USERNAME
                } else {
                    AD_USERNAME
                },
            },
            "authorization_code" => Self::Code {
                code: need("code")?,
                redirect_uri: need("redirect_uri")?,
                verifier,
            },
            "refresh_token" => Self::Refresh {
                token: need("refresh_token")?,
            },
            "sms" => Self::Sms {
                phone: need("phone")?,
                code: need("sms")?,
            },
            "wechat" => Self::WeChat {
                open_id: need("openId")?,
            },
            other => {
                let reason = format!("grant_type '{other}' is not in the document");
                return Err(refusal("unsupported_grant_type", reason));
            }
        })
    }

    fn check(&self, accounts: &mut Accounts) -> Result<(), Refusal> {
        match self {
            Self::Client => Ok(()),
            Self::Password {
                username,
                password,
                expected,
            } => matches("username", username, expected)
                .and_then(|()| matches("password", password, PASSWORD))
                .map_err(invalid_grant),
            Self::Code {
                code,
                redirect_uri,
                verifier,
            } => {
                let bound = accounts.authorized.get(code);
                let expected = bound.map_or(REDIRECT_URI, |bound| bound.redirect_uri.as_str());
                matches("redirect_uri", redirect_uri, expected).map_err(invalid_grant)?;
                let challenge = bound.and_then(|bound| bound.challenge.as_deref());
                if verifier.as_deref().map(challenge_of).as_deref() != challenge {
                    let reason = "code_verifier does not fit the code_challenge".to_owned();
                    return Err(invalid_grant(reason));
                }
                accounts.spend("code", code)
            }
            Self::Refresh { token } => accounts.rotate(token),
            Self::Sms { phone, code } => {
                matches("phone", phone, PHONE).map_err(invalid_grant)?;
                accounts.spend("sms", code)
            }
            Self::WeChat { open_id } => matches("openId", open_id, OPEN_ID).map_err(invalid_grant),
        }
    }
}

/// Basic or body, never both (RFC 6749 §2.3); Basic parts are form-encoded (§2.3.1).
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
        (None, Some(secret)) => {
            let client_id = form.need("client_id").map_err(invalid_request)?;
            (client_id, secret)
        }
        (None, None) => {
            let reason = "client_secret neither as Basic nor in the body".to_owned();
            return Err(wrong_credentials(reason));
        }
    };
    matches("client_id", &client_id, CLIENT_ID)
        .and_then(|()| matches("client_secret", &client_secret, CLIENT_SECRET))
        .map_err(wrong_credentials)
}

/// Whether `offline_access` is granted: without `scope`, everything that is allowed is.
fn check_scope(form: &mut Fields) -> Result<bool, Refusal> {
    let Some(scope) = form.take("scope") else {
        return Ok(true);
    };
    if scope.is_empty() {
        let reason = "scope is empty: leave the field out".to_owned();
        return Err(refusal("invalid_scope", reason));
    }
    match scope.split(' ').find(|name| !SCOPES.contains(name)) {
        Some(name) => Err(refusal(
            "invalid_scope",
            format!("scope '{name}' is not registered"),
        )),
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
    Refusal {
        reply: Reply::json(StatusCode::BAD_REQUEST, &json!({ "error": error })).uncached(),
        reason,
    }
}

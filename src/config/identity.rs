//! Which providers are the same to their vendor: they share one token (DESIGN.md §2, "Providers").

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::Value;
use super::origin::Url;
use crate::dialect::{ExchangePlan, Var};

/// The identity's parts as a JSON array, so that no two lists of parts are written alike.
///
/// Secrets, one-time inputs and life-cycle keys are left out: they change while the token stays good. Variables of
/// the user's own may name the subject (`open_id`, a tenant) or be half a secret, which cannot be told apart: they
/// are in it as digests, so that two tenants never share a token and nothing can be read back.
pub(super) fn identity(
    url: &Url,
    plan: &ExchangePlan,
    variables: &BTreeMap<String, Value>,
) -> String {
    let part = |name: &str| variables.get(name).map_or(Json::Null, plain);
    let own: Vec<_> = variables
        .iter()
        .filter(|(name, _)| !is_named_part(name))
        .filter(|(name, _)| !is_secret(name) || BEARERS.contains(&name.as_str()))
        .filter(|(name, _)| !plan.one_time.contains(name))
        .map(|(name, value)| {
            let value = if BEARERS.contains(&name.as_str()) {
                place(value)
            } else if SUBJECTS.contains(&name.as_str()) {
                plain(value)
            } else {
                digested(value)
            };
            json!([name, value])
        })
        .collect();
    json!([
        format!("{}{}", url.origin.url(), url.path),
        // Some vendors take credentials in the URL.
        url.query.as_deref().map(digest),
        plan.grant,
        part("client_id"),
        own,
        part("scope"),
        part("audience"),
        part("resource"),
    ])
    .to_string()
}

/// Of a provider whose endpoint is found by its issuer.
pub(super) fn of_issuer(identity: &str) -> String {
    json!(["issuer", identity]).to_string()
}

/// Variables that are known to name who the token is for.
const SUBJECTS: [&str; 3] = ["username", "phone", "open_id"];

/// Tokens that say who the bought token is for (RFC 8693, RFC 7523). What they are changes all the time; where they come from
/// does not.
const BEARERS: [&str; 3] = ["subject_token", "actor_token", "assertion"];

fn is_named_part(name: &str) -> bool {
    matches!(name, "client_id" | "scope" | "audience" | "resource")
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "code" | "redirect_uri" | "code_verifier")
        || ["secret", "password", "passwd", "token", "private_key"]
            .iter()
            .any(|word| name.contains(word))
}

fn plain(value: &Value) -> Json {
    match value {
        Value::Literal(Var::Text(text)) => json!(text.expose()),
        // As text: the vendor sees no difference in a form.
        Value::Literal(Var::Integer(number)) => json!(number.to_string()),
        Value::Literal(Var::Boolean(flag)) => json!(flag.to_string()),
        Value::Env { value, .. } => json!(value.expose()),
        Value::File(path) => json!({ "file": path.to_string_lossy() }),
        Value::Command(command) => json!({ "command": command }),
        // Whose, is added when all identities are known.
        Value::Provider { name: _, identity } => json!({ "provider": identity }),
    }
}

fn place(value: &Value) -> Json {
    match value {
        Value::Env { name, .. } => json!({ "env": name }),
        other => digested(other),
    }
}

fn digested(value: &Value) -> Json {
    match plain(value) {
        Json::String(text) => json!({ "sha256": digest(&text) }),
        place => place,
    }
}

fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! The identity of a provider at its vendor; providers of one identity share one token.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::model::Value;
use super::origin::Url;
use crate::dialect::{ExchangePlan, Var};

/// Returns the identity as a JSON array, so that different parts never yield the same text.
///
/// Secrets, one-time inputs and life-cycle keys change while the token stays valid, so the identity
/// omits them. The user's own variables may name the subject (`open_id`, a tenant) or be half a
/// secret. The identity holds them as digests: two tenants never share a token, and no value can be
/// read back. Secrets that the dialect lists in its `identity` appear by their [source].
///
/// Grants with a person's login cannot tell two logins of one client apart, so the provider's
/// `name` is added.
pub(super) fn identity(
    name: &str,
    url: &Url,
    plan: &ExchangePlan,
    variables: &BTreeMap<String, Value>,
) -> String {
    let part = |name: &str| variables.get(name).map_or(Json::Null, plain);
    let own: Vec<_> = variables
        .iter()
        .filter(|(name, _)| !PARTS.contains(&name.as_str()))
        .filter(|(name, _)| !is_credential(name, plan))
        .filter(|(name, _)| !plan.one_time.contains(name))
        .map(|(name, value)| {
            let value = if BEARERS.contains(&name.as_str()) || plan.identity.contains(name) {
                source(value)
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
        is_personal(plan).then_some(name),
    ])
    .to_string()
}

/// Marks the identity of a provider that discovers its endpoint.
pub(super) fn of_issuer(identity: &str) -> String {
    json!(["issuer", identity]).to_string()
}

/// Adds the identities of the providers whose tokens are used, by variable. Digests keep the text
/// short: nested JSON would double its escapes with every link of a chain.
pub(super) fn of_chain(identity: &str, inner: &BTreeMap<String, String>) -> String {
    let inner: Vec<_> = (inner.iter())
        .map(|(variable, identity)| json!([variable, digest(identity)]))
        .collect();
    json!([identity, inner]).to_string()
}

/// Returns whether a variable is a secret that the identity omits.
pub(super) fn is_credential(name: &str, plan: &ExchangePlan) -> bool {
    is_secret(name)
        && !BEARERS.contains(&name)
        && !plan.identity.iter().any(|listed| listed == name)
}

/// Returns whether a person's input, a code or a refresh token, decides who the subject is.
fn is_personal(plan: &ExchangePlan) -> bool {
    plan.required_variables().contains("refresh_token")
        || plan.spends("code")
        || plan.spends("device_code")
}

/// Variables with a fixed position in the identity.
const PARTS: [&str; 4] = ["client_id", "scope", "audience", "resource"];

/// Variables that name the subject.
const SUBJECTS: [&str; 3] = ["username", "phone", "open_id"];

/// Tokens that name the subject (RFC 8693, RFC 7523). Their values change, their sources do not.
const BEARERS: [&str; 3] = ["subject_token", "actor_token", "assertion"];

/// Decides by the end of the name: `app_secret` is a secret, `requested_token_type` is not. The
/// identity holds an unrecognized secret as a digest.
fn is_secret(name: &str) -> bool {
    const ENDS: [&str; 6] = [
        "secret",
        "secret_key",
        "password",
        "passwd",
        "token",
        "private_key",
    ];
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "code" | "redirect_uri" | "code_verifier")
        || ENDS.iter().any(|end| name.ends_with(end))
}

fn plain(value: &Value) -> Json {
    match value {
        Value::Literal(Var::Text(text)) => json!(text.expose()),
        // As text: a form shows the vendor no difference.
        Value::Literal(Var::Integer(number)) => json!(number.to_string()),
        Value::Literal(Var::Boolean(flag)) => json!(flag.to_string()),
        Value::Env { value, .. } => json!(value.expose()),
        Value::File(path) => json!({ "file": path.to_string_lossy() }),
        // Arguments may be secrets.
        Value::Command(command) => json!({ "command": digest(&json!(command).to_string()) }),
        // Empty here; [`of_chain`] adds the final identity.
        Value::Provider { name: _, identity } => json!({ "provider": identity }),
    }
}

/// Describes where a value comes from; a literal by its digest.
pub(super) fn source(value: &Value) -> Json {
    match value {
        Value::Env { name, .. } => json!({ "env": name }),
        other => digested(other),
    }
}

fn digested(value: &Value) -> Json {
    match plain(value) {
        Json::String(text) => json!({ "sha256": digest(&text) }),
        source => source,
    }
}

fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

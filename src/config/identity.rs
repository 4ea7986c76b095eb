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
///
/// Where a person decides whose token it is, nothing else tells two logins of one client apart: there, the provider's
/// `name` does. Secrets that the dialect lists in its `identity` are in it by their [place].
pub(super) fn identity(
    name: &str,
    url: &Url,
    plan: &ExchangePlan,
    variables: &BTreeMap<String, Value>,
) -> String {
    let part = |name: &str| variables.get(name).map_or(Json::Null, plain);
    let own: Vec<_> = variables
        .iter()
        .filter(|(name, _)| !is_named_part(name))
        .filter(|(name, _)| !is_credential(name, plan))
        .filter(|(name, _)| !plan.one_time.contains(name))
        .map(|(name, value)| {
            let value = if BEARERS.contains(&name.as_str()) || plan.identity.contains(name) {
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
        is_personal(plan).then_some(name),
    ])
    .to_string()
}

/// Of a provider whose endpoint is found by its issuer.
pub(super) fn of_issuer(identity: &str) -> String {
    json!(["issuer", identity]).to_string()
}

/// Of a provider that buys its token with others: by variable, the digests of theirs. As they are, each link of a chain
/// would double what is to be escaped of the one before.
pub(super) fn of_chain(identity: &str, inner: &BTreeMap<String, String>) -> String {
    let inner: Vec<_> = (inner.iter())
        .map(|(variable, identity)| json!([variable, digest(identity)]))
        .collect();
    json!([identity, inner]).to_string()
}

/// Whether a variable is a secret that the identity leaves out.
pub(super) fn is_credential(name: &str, plan: &ExchangePlan) -> bool {
    is_secret(name)
        && !BEARERS.contains(&name)
        && !plan.identity.iter().any(|listed| listed == name)
}

/// Who is logged in is known only by what a person brought: a code, or a refresh token got elsewhere.
fn is_personal(plan: &ExchangePlan) -> bool {
    plan.required_variables().contains("refresh_token")
        || plan.begins_with("code")
        || plan.begins_with("device_code")
}

/// Variables that are known to name who the token is for.
const SUBJECTS: [&str; 3] = ["username", "phone", "open_id"];

/// Tokens that say who the bought token is for (RFC 8693, RFC 7523). What they are changes all the time; where they come from
/// does not.
const BEARERS: [&str; 3] = ["subject_token", "actor_token", "assertion"];

fn is_named_part(name: &str) -> bool {
    matches!(name, "client_id" | "scope" | "audience" | "resource")
}

/// By the end of the name: `app_secret` is one, `requested_token_type` says which token is wanted. One that is not known as
/// such only joins the identity, as a digest.
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
        // As text: the vendor sees no difference in a form.
        Value::Literal(Var::Integer(number)) => json!(number.to_string()),
        Value::Literal(Var::Boolean(flag)) => json!(flag.to_string()),
        Value::Env { value, .. } => json!(value.expose()),
        Value::File(path) => json!({ "file": path.to_string_lossy() }),
        // Its arguments may be secrets.
        Value::Command(command) => json!({ "command": digest(&json!(command).to_string()) }),
        // Whose, is added when all identities are known.
        Value::Provider { name: _, identity } => json!({ "provider": identity }),
    }
}

/// Where a value comes from; of one that is written down, the digest.
pub(super) fn place(value: &Value) -> Json {
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

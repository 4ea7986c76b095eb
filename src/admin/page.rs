//! The status page: one document that fetches `/status` every two seconds.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use sha2::{Digest, Sha256};

use super::response::{AdminResponse, respond};

const HTML: &str = include_str!("page/page.html");
const CSS: &str = include_str!("page/page.css");
const JS: &str = include_str!("page/page.js");

/// The page and its policy: only this script and this style may run, and the script cannot turn
/// text into markup. Names in the page come from the configuration, and errors from vendors.
static PAGE: LazyLock<(Bytes, HeaderValue)> = LazyLock::new(|| {
    let page = HTML.replace("/*CSS*/", CSS).replace("/*JS*/", JS);
    let policy = format!(
        "default-src 'none'; connect-src 'self'; img-src data:; script-src 'sha256-{}'; \
         style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'",
        BASE64_STANDARD.encode(Sha256::digest(JS)),
        BASE64_STANDARD.encode(Sha256::digest(CSS)),
    );
    let policy = HeaderValue::try_from(policy).expect("base64 and the text above are ASCII");
    (Bytes::from(page), policy)
});

pub(super) fn page() -> AdminResponse {
    let (page, policy) = &*PAGE;
    let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", page.clone());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    response
}

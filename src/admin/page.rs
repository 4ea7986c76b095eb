//! The status page: one document that asks `/status` every two seconds.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest, Sha256};

use super::routes::respond;

/// A part of the page: bytes with a symbol, so that `src/link/build.rs` can put them where they are not memory of each sidecar.
macro_rules! part {
    ($file:literal) => {{
        static TEXT: [u8; include_bytes!($file).len()] = *include_bytes!($file);
        match str::from_utf8(&TEXT) {
            Ok(text) => text,
            Err(_) => panic!("a part of the page is not UTF-8"),
        }
    }};
}

static HTML: &str = part!("page/page.html");
static CSS: &str = part!("page/page.css");
static JS: &str = part!("page/page.js");

/// Names in the page come from the configuration and errors from vendors: only this script and this style may run, and
/// the script cannot turn text into markup.
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

pub(super) fn answer() -> Response<Full<Bytes>> {
    let (page, policy) = &*PAGE;
    let mut answer = respond(StatusCode::OK, "text/html; charset=utf-8", page.clone());
    answer
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, policy.clone());
    answer
}

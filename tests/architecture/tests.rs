//! The checker catches what it is there for.

use std::collections::BTreeMap;

use crate::{Violation, check};

/// A crate that keeps to the rules, with one file more.
fn with_file(name: &str, text: &str) -> Vec<String> {
    let mut sources: BTreeMap<String, String> = [
        ("src/lib.rs", "pub mod proxy;\npub mod provider;"),
        ("src/provider/cell.rs", "use crate::clock::Clock;"),
        (
            "src/provider.rs",
            "pub mod cell;\n#[cfg(test)]\npub(crate) mod testing;\nuse crate::config::Config;",
        ),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .into();
    sources.insert(name.to_owned(), text.to_owned());
    let report = check(&sources);
    report.violations.iter().map(Violation::to_string).collect()
}

#[track_caller]
fn caught(name: &str, text: &str, line: usize, rule: &str) {
    let found = with_file(name, text);
    let place = format!("{name}:{line}: ");
    let [only] = found.as_slice() else {
        panic!("expected one violation in {text:?}, found {found:#?}");
    };
    assert!(only.starts_with(&place) && only.contains(rule), "{only}");
}

#[track_caller]
fn passes(name: &str, text: &str) {
    let found = with_file(name, text);
    assert!(found.is_empty(), "{text:?}: {found:#?}");
}

#[test]
fn a_planted_import_is_caught_however_it_is_written() {
    for text in [
        "\nuse crate::provider::refresher::Refresher;",
        "\nuse crate::provider::{cell::Token, refresher};",
        "\nuse crate::{metrics, provider::store as shelf};",
        "\nuse crate::provider;",
        "\nuse crate::provider::{self};",
        "\nuse crate::provider::*;",
        "\nuse crate::*;",
        "\nuse crate as all;",
        "\nuse super::super::provider::Status;",
        "\nfn f() { crate::provider::spawn(vec![]); }",
        "\nfn f(deps: &super::super::provider::Deps) {}",
        "\nmod inner { use super::super::super::provider::Deps; }",
        "\npub(crate) use crate::admin::Control;",
        "\nmacro_rules! m { () => { $crate::cli::run() } }",
        "\nstruct S<'a>(&'a crate::app::App);",
        "\nconst C: char = '\"'; use crate::demo::setup; // \"",
    ] {
        caught("src/proxy/forward.rs", text, 2, "proxy may not name");
    }
}

#[test]
fn what_is_allowed_passes() {
    let text = "use crate::provider::cell::{CellReader, Token};\nuse crate::upstream::Pool;\n\
        use super::error::ProxyError;\nuse super::super::metrics::Metrics;\nuse std::{fmt, io::{self, Read}};\n\
        pub(in crate::proxy) fn f<'a>(x: &'a crate::secret::Secret) -> impl use<'a> Sized { self::g::<crate::clock::Now>(x) }\n\
        mod inner { use super::Token; use super::super::route; }";
    passes("src/proxy/forward.rs", text);
    passes("src/main.rs", "fn main() { cupbearer::cli::main() }");
    passes(
        "src/admin/report.rs",
        "use crate::provider::{State, Status};",
    );
}

#[test]
fn comments_strings_and_test_code_do_not_count() {
    for text in [
        "//! [`crate::provider::refresher`]\n/* use crate::admin; /* nested */ unsafe */",
        "const A: &str = \"use crate::admin::X; \\\" unsafe\"; const B: &str = r#\"crate::cli::X \" unsafe\"#;",
        "#[cfg(test)]\nmod tests { use crate::provider::refresher; fn f() { unsafe {} } }",
        "#[cfg(test)]\n#[derive(Debug)]\nuse crate::{admin, cli::{a, b}};",
        "#[cfg(all(test, unix))]\npub(super) fn f<A, B>(a: crate::admin::A) -> [u8; 2] { crate::cli::x() }",
        "struct S {\n#[cfg(test)]\nseen: Vec<crate::admin::A>,\nb: u8 }",
        "#![cfg(test)]\nuse crate::cli::run;",
    ] {
        passes("src/proxy/forward.rs", text);
    }
    // Declared under #[cfg(test)] in provider.rs, so that all of its file and folder is test code.
    passes("src/provider/testing.rs", "use crate::proxy::Proxy;");
    passes("src/provider/testing/more.rs", "use crate::proxy::Proxy;");
}

#[test]
fn code_after_test_code_counts_again() {
    let text = "#[cfg(test)]\nuse crate::{admin, cli};\nuse crate::admin::A;";
    caught(
        "src/proxy/forward.rs",
        text,
        3,
        "proxy may not name admin::A",
    );
    let text = "struct S {\n#[cfg(test)] a: crate::admin::A,\nb: crate::admin::B }";
    caught(
        "src/proxy/forward.rs",
        text,
        3,
        "proxy may not name admin::B",
    );
    let text = "#[cfg(any(test, feature = \"x\"))]\nuse crate::admin::A;";
    caught(
        "src/proxy/forward.rs",
        text,
        2,
        "proxy may not name admin::A",
    );
}

#[test]
fn each_area_is_held_to_its_own_list() {
    for (file, text, rule) in [
        (
            "src/clock.rs",
            "use crate::secret::Secret;",
            "nothing else of the crate",
        ),
        (
            "src/dialect/template.rs",
            "use crate::config::Value;",
            "dialect may not name config::Value",
        ),
        (
            "src/config/value.rs",
            "use crate::clock::Now;",
            "config may not name clock::Now",
        ),
        (
            "src/upstream/pool.rs",
            "use crate::provider::cell::Token;",
            "upstream may not name",
        ),
        (
            "src/provider/exchange.rs",
            "use crate::upstream::Pool;",
            "provider may not name upstream::Pool",
        ),
        (
            "src/provider/source.rs",
            "use crate::proxy::Proxy;",
            "provider may not name proxy::Proxy",
        ),
        (
            "src/provider/cell.rs",
            "use super::store::Store;",
            "provider::cell may not name provider::store::Store",
        ),
        (
            "src/admin/routes.rs",
            "use crate::provider::store::Store;",
            "admin may not name provider::store::Store",
        ),
        (
            "src/app.rs",
            "use crate::demo::setup::Setup;",
            "app may not name demo",
        ),
        (
            "src/demo/setup.rs",
            "use crate::cli::words;",
            "demo may not name cli",
        ),
        (
            "src/main.rs",
            "fn main() { cupbearer::app::bind(); }",
            "main may not name app::bind",
        ),
        (
            "src/lib.rs",
            "pub use crate::proxy::Proxy;",
            "lib.rs may not name proxy::Proxy",
        ),
        ("src/utils.rs", "", "no rule for `utils`"),
        ("src/proxy/mod.rs", "", "never mod.rs"),
        (
            "src/proxy/x.rs",
            "#[path = \"../y.rs\"] mod y;",
            "no #[path]",
        ),
    ] {
        caught(file, text, 1, rule);
    }
}

#[test]
fn monopolies_are_guarded() {
    for (file, text, rule) in [
        (
            "src/provider/exchange.rs",
            "use rustls::ClientConfig;",
            "speak TLS",
        ),
        (
            "src/upstream/pool.rs",
            "type T = tokio_rustls::client::TlsStream<u8>;",
            "speak TLS",
        ),
        (
            "src/upstream/body.rs",
            "fn f() { unsafe { g() } }",
            "no unsafe",
        ),
        (
            "src/provider/source.rs",
            "use super::cell::CellWriter;",
            "only the refresher",
        ),
        (
            "src/proxy/guard.rs",
            "const K: &str = \"application/problem+json\";",
            "proxy/respond.rs",
        ),
        (
            "src/proxy/guard.rs",
            "fn f() { *response.status_mut() = status; }",
            "sets a status",
        ),
    ] {
        caught(file, text, 1, rule);
    }
    passes("src/upstream/tls.rs", "use rustls::ClientConfig;");
    passes(
        "src/upstream/connect/stream.rs",
        "use tokio_rustls::client::TlsStream;",
    );
    passes(
        "src/proxy/respond.rs",
        "const K: &str = \"application/problem+json\";",
    );
}

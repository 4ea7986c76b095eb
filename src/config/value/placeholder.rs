//! Literals that stand for a value that is still to be written: `${X}`, `{{ x }}`, `<secret>`.

use regex_lite::Regex;
use std::sync::LazyLock;

/// Samples that documents and dashboards show, without case and separators.
const SAMPLES: [&str; 8] = [
    "changeme",
    "changethis",
    "replaceme",
    "replacethis",
    "placeholder",
    "fixme",
    "todo",
    "tbd",
];

/// `${NAME}`, `${NAME:-default}` and `$(command)` anywhere; `$NAME` and `%NAME%` alone.
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\$\{([A-Za-z_][A-Za-z0-9_.]*)(?::?[-=?+][^}]*)?\}|^\$([A-Z_][A-Z0-9_]{2,})$|^%([A-Z_][A-Z0-9_]{2,})%$",
    )
});

/// `{{ x }}` anywhere; `<secret>` and `[secret]` alone.
static MARKED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\{\{[^{}]*\}\}|^<[A-Za-z][A-Za-z0-9 _.-]*>$"));

/// `your-client-secret`.
static YOUR: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^(your|insert|enter)(client|api|app|access)?(id|secret|key|token|password)(here)?$")
});

/// Returns the right spelling if a literal looks like a placeholder.
pub(super) fn hint(literal: &str) -> Option<String> {
    let text = literal.trim();
    if let Some(found) = VARIABLE.captures(text) {
        let names = found.iter().skip(1).flatten();
        let name = names
            .map(|name| name.as_str())
            .find(|name| is_variable(name));
        let name = name.unwrap_or("NAME");
        return Some(format!(
            "write {{ env = \"{name}\" }}; text is never expanded"
        ));
    }
    let separators = [' ', '-', '_', '.'];
    let plain = text.to_ascii_lowercase().replace(separators, "");
    let is_placeholder =
        MARKED.is_match(text) || SAMPLES.contains(&&*plain) || YOUR.is_match(&plain);
    is_placeholder.then(|| {
        "write the value or its source: { env = \"NAME\" }, { file = \"/path\" }".to_owned()
    })
}

/// Whether a name has the form of an environment variable. Any other name may be a pasted secret.
pub(super) fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && (name.bytes()).all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_')
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the patterns of this file are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_get_the_right_spelling() {
        for (literal, env) in [
            ("${CC_SECRET}", Some("CC_SECRET")),
            ("${CC_SECRET:-none}", Some("CC_SECRET")),
            ("api://${TENANT}/.default", Some("TENANT")),
            ("${secret}", Some("NAME")),
            ("$CC_SECRET", Some("CC_SECRET")),
            ("%CC_SECRET%", Some("CC_SECRET")),
            ("{{ secret }}", None),
            ("{{ .Values.secret }}", None),
            ("<secret>", None),
            ("<your client-secret>", None),
            ("changeme", None),
            ("Change-Me", None),
            ("CHANGE_ME", None),
            ("YOUR_CLIENT_SECRET", None),
            ("your-api-key-here", None),
        ] {
            let hint = hint(literal).unwrap_or_else(|| panic!("{literal}"));
            match env {
                Some(name) => assert!(hint.starts_with(&format!("write {{ env = \"{name}\" }}"))),
                None => assert!(hint.contains("{ file ="), "{literal}: {hint}"),
            }
        }
    }

    #[test]
    fn other_literals_are_values() {
        for literal in [
            "",
            "s3cret",
            "hunter2",
            "pa$$word",
            "$2y$10$abc",
            "a{b}c",
            "{}",
            "<a>b</a>",
            "<>",
            "%20",
            "$AB",
            "100%",
            "change",
            "my-app",
            "mykeys",
            "secret",
            "token",
        ] {
            assert_eq!(hint(literal), None, "{literal}");
        }
    }
}

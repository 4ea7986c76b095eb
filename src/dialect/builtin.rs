//! The dialects that come with the program.

use std::sync::LazyLock;

use super::schema::DialectToml;

const TEXTS: [(&str, &str); 7] = [
    ("oauth2", include_str!("builtin/oauth2.toml")),
    ("oauth2-post", include_str!("builtin/oauth2-post.toml")),
    ("cncn", include_str!("builtin/cncn.toml")),
    ("besender", include_str!("builtin/besender.toml")),
    ("ctcfile", include_str!("builtin/ctcfile.toml")),
    (
        "identityserver",
        include_str!("builtin/identityserver.toml"),
    ),
    ("passport", include_str!("builtin/passport.toml")),
];

static PARSED: LazyLock<Vec<(&str, DialectToml)>> = LazyLock::new(|| {
    let parse = |(name, text): (&'static str, &str)| {
        let dialect = toml::from_str(text).expect("a built-in dialect, each of which a test reads");
        (name, dialect)
    };
    TEXTS.map(parse).into()
});

/// The built-in dialects as (name, TOML text), in the order in which they are listed to users.
pub fn builtin() -> &'static [(&'static str, &'static str)] {
    &TEXTS
}

pub(super) fn find(name: &str) -> Option<&'static DialectToml> {
    let (_, dialect) = PARSED.iter().find(|(known, _)| *known == name)?;
    Some(dialect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_and_starts_with_a_line_about_itself() {
        for (name, text) in builtin() {
            assert!(find(name).is_some());
            let first = text.lines().next().unwrap();
            assert!(
                first.starts_with("# ") && first.ends_with('.'),
                "{name}: {first}"
            );
            assert!(text.contains("Document"), "{name} names its document");
        }
    }
}

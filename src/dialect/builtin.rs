//! The dialects that come with the program.

use std::sync::{LazyLock, OnceLock};

use super::schema::DialectToml;

/// Names with the texts of `builtin/NAME.toml`. These are bytes with a symbol each, so that `src/link/build.rs` can put them where they are
/// not memory of each sidecar.
macro_rules! builtin {
    ($($name:literal),+ $(,)?) => {
        [$(($name, {
            static TEXT: [u8; include_bytes!(concat!("builtin/", $name, ".toml")).len()] =
                *include_bytes!(concat!("builtin/", $name, ".toml"));
            match str::from_utf8(&TEXT) {
                Ok(text) => text,
                Err(_) => panic!("a dialect is not UTF-8"),
            }
        })),+]
    };
}

/// By group, in the order in which they are listed to users.
static TEXTS: &[(&str, &str)] = &builtin![
    // OAuth 2.0 servers
    "oauth2",
    "oauth2-post",
    "identityserver",
    "passport",
    "auth0",
    "keycloak",
    "cognito",
    "okta",
    // China
    "cncn",
    "besender",
    "ctcfile",
    "wechat",
    "wechat-stable",
    "wechat-component",
    "wechat-authorizer",
    "wecom",
    "feishu",
    "dingtalk",
    "dingtalk-legacy",
    "baidu",
    "douyin",
    "kuaishou",
    "esign",
    "getui",
    "yonyou",
    "huawei-push",
    "vivo-push",
    "tencent-faceid",
    "cj-dropshipping",
    // Clouds
    "huawei-iam",
    "keystone",
    "azure-ad",
    "azure-imds",
    "databricks",
    "google-metadata",
    "google-metadata-identity",
    "google-service-account",
    // Infrastructure
    "vault-approle",
    "kubernetes",
    "docker-registry",
    // Services
    "adobe-ims",
    "amazon-sp-api",
    "atlassian",
    "bitbucket",
    "box",
    "docusign",
    "dropbox",
    "ebay",
    "github-app",
    "gitlab",
    "hubspot",
    "paypal",
    "quickbooks",
    "reddit",
    "salesforce",
    "salesforce-data-cloud",
    "servicenow",
    "shopify",
    "slack",
    "snowflake",
    "spotify",
    "strava",
    "twitch",
    "xero",
    "zoho",
    "zoom",
];

static SHELF: LazyLock<Shelf> = LazyLock::new(Shelf::new);

/// Each is parsed when a configuration first names it: a running proxy holds only those that it uses.
struct Shelf {
    /// A dialect is 3 KB, so those that nobody names are no more than their place.
    parsed: Vec<OnceLock<Box<DialectToml>>>,
}

/// The built-in dialects as (name, TOML text), in the order in which they are listed to users.
pub fn builtin() -> &'static [(&'static str, &'static str)] {
    TEXTS
}

/// One of them, as it is written; `None` if there is none of this name.
pub fn find_builtin(name: &str) -> Option<&'static DialectToml> {
    SHELF.find(name)
}

impl Shelf {
    fn new() -> Self {
        Self {
            parsed: TEXTS.iter().map(|_| OnceLock::new()).collect(),
        }
    }

    fn find(&self, name: &str) -> Option<&DialectToml> {
        let at = TEXTS.iter().position(|(known, _)| *known == name)?;
        let parse = || toml::from_str(TEXTS[at].1);
        let dialect = self.parsed[at].get_or_init(|| {
            Box::new(parse().expect("a built-in dialect, each of which a test reads"))
        });
        Some(dialect)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn each_says_what_it_is_and_where_that_is_written() {
        for (name, _) in builtin() {
            let dialect = find_builtin(name).unwrap();
            let about = dialect.about.as_deref().unwrap_or_default();
            assert!(
                about.ends_with('.') && about.len() <= 110,
                "{name}: {about}"
            );
            for (key, value) in [
                ("group", &dialect.group),
                ("document", &dialect.document),
                ("checked", &dialect.checked),
            ] {
                assert!(value.is_some(), "{name} has no `{key}`");
            }
        }
    }

    #[test]
    fn groups_stand_together() {
        let mut groups: Vec<_> = (builtin().iter())
            .map(|(name, _)| find_builtin(name).unwrap().group.as_deref())
            .collect();
        groups.dedup();
        let different: BTreeSet<_> = groups.iter().collect();
        assert_eq!(groups.len(), different.len(), "{groups:?}");
    }

    #[test]
    fn only_what_is_named_is_parsed() {
        let shelf = Shelf::new();
        assert!(shelf.find("wechat").is_some() && shelf.find("none").is_none());
        let parsed = shelf.parsed.iter().zip(TEXTS);
        let parsed = parsed.filter(|(dialect, _)| dialect.get().is_some());
        let names: Vec<_> = parsed.map(|(_, (name, _))| *name).collect();
        assert_eq!(names, ["wechat"]);
    }

    #[test]
    fn every_file_is_built_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dialect/builtin");
        let files: BTreeSet<_> = (fs::read_dir(folder).unwrap())
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        let names = builtin().iter().map(|(name, _)| format!("{name}.toml"));
        assert_eq!(files, names.collect());
    }
}

//! The built-in dialects.

use std::sync::OnceLock;

use super::schema::DialectToml;

/// Names with the texts of `builtin/NAME.toml`.
macro_rules! builtin {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("builtin/", $name, ".toml")))),+]
    };
}

/// By group, in the order of the list that users see.
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

static PARSED: Parsed = Parsed::new();

/// Dialects that are parsed on first use: a running proxy holds only those that its configuration
/// names. Boxed, as a parsed dialect is 3 KB.
struct Parsed([OnceLock<Box<DialectToml>>; TEXTS.len()]);

/// The built-in dialects as (name, TOML text), in the order of the list that users see.
pub fn builtin() -> &'static [(&'static str, &'static str)] {
    TEXTS
}

/// The built-in dialect of this name.
pub fn find_builtin(name: &str) -> Option<&'static DialectToml> {
    PARSED.find(name)
}

impl Parsed {
    const fn new() -> Self {
        Self([const { OnceLock::new() }; TEXTS.len()])
    }

    fn find(&self, name: &str) -> Option<&DialectToml> {
        let at = TEXTS.iter().position(|(known, _)| *known == name)?;
        let dialect = self.0[at].get_or_init(|| {
            let dialect = toml::from_str(TEXTS[at].1);
            Box::new(dialect.expect("a built-in dialect, each of which a test reads"))
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
    fn every_dialect_has_its_descriptive_keys() {
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
    fn groups_are_contiguous() {
        let mut groups: Vec<_> = (builtin().iter())
            .map(|(name, _)| find_builtin(name).unwrap().group.as_deref())
            .collect();
        groups.dedup();
        let different: BTreeSet<_> = groups.iter().collect();
        assert_eq!(groups.len(), different.len(), "{groups:?}");
    }

    #[test]
    fn only_named_dialects_are_parsed() {
        let dialects = Parsed::new();
        assert!(dialects.find("wechat").is_some() && dialects.find("none").is_none());
        let parsed = dialects.0.iter().zip(TEXTS);
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

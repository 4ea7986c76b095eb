//! Where a provider's token endpoint is, and who says so: the provider, its dialect, or an issuer.

use super::*;
use crate::config::context::Context;

const NO_TOKEN_URL: &str =
    "token_url = \"https://…\"; a provider with a ready token has `access_token` instead";

/// RFC 7591 §2 and RFC 8705 §2, the stronger ones first.
const AUTH_METHODS: [&str; 7] = [
    "private_key_jwt",
    "tls_client_auth",
    "self_signed_tls_client_auth",
    "client_secret_basic",
    "client_secret_post",
    "client_secret_jwt",
    "none",
];

impl Parts<'_> {
    /// The provider's own, or its dialect's.
    pub(super) fn token_url(
        &self,
        toml: &mut ProviderToml,
        plan: Option<&Plan>,
        variables: &Variables,
        cx: &mut Context<'_>,
    ) -> Option<Url> {
        let at = self.at.key("token_url");
        let written = match toml.token_url.take() {
            Some(written) => written,
            None if cx.problems.is_struck_out(&at) => return None,
            None => match &plan?.defaults.token_url {
                Some(template) => self.default_url(template, &at, variables, cx)?,
                None => {
                    cx.problem(&at, complaint("is missing").hint(NO_TOKEN_URL));
                    return None;
                }
            },
        };
        cx.url(self.at, "token_url", Some(written), toml.allow_http)
    }

    /// Of the dialect, with this provider's variables.
    pub(super) fn default_url(
        &self,
        template: &UrlTemplate,
        at: &KeyPath,
        variables: &Variables,
        cx: &mut Context<'_>,
    ) -> Option<Text<Url>> {
        let known = variables.fixed();
        let late: Vec<_> = template
            .variables()
            .filter(|name| variables.has(name))
            .collect();
        for name in late.into_iter().filter(|name| !known.contains_key(*name)) {
            cx.problem(
                &variables.at(name)?,
                complaint(
                    "can only be text or `{ env = \"NAME\" }`: the token URL is made with it",
                )
                .hint("where tokens come from is known from the start"),
            );
        }
        match template.fill(&known) {
            Ok(text) => match Url::from_text(&text) {
                Ok(url) => Some(Text(url)),
                Err(_) => {
                    cx.problem(
                        at,
                        complaint("what the dialect makes of its variables is no URL")
                            .hint("write token_url = \"https://…\" here"),
                    );
                    None
                }
            },
            Err(_) => {
                for name in template.variables().filter(|name| !variables.has(name)) {
                    self.missing(name, "the token_url of the dialect", cx);
                }
                None
            }
        }
    }

    /// Who says itself where its endpoints are, instead of `token_url`.
    pub(super) fn issuer(
        &self,
        toml: &mut ProviderToml,
        choices: Vec<(String, ExchangePlan)>,
        cx: &mut Context<'_>,
    ) -> Option<(IssuerText, Issuer)> {
        let Text(written) = toml.issuer.take()?;
        if toml.token_url.is_some() {
            cx.problem(
                &self.at.key("issuer"),
                complaint("stands beside `token_url`")
                    .hint("remove either key: one finds the other"),
            );
        }
        let url = Some(Text(written.url.clone()));
        cx.url(self.at, "issuer", url, toml.allow_http)?;
        let issuer = Issuer {
            well_known: written.well_known(),
            text: written.text.clone(),
            choices,
        };
        Some((written, issuer))
    }

    /// How the client could authenticate with the variables that there are, where the issuer is to decide. The plan becomes
    /// the first of them.
    pub(super) fn auth_choices(
        &self,
        toml: &ProviderToml,
        plan: Option<&mut Plan>,
        variables: &Variables,
    ) -> Vec<(String, ExchangePlan)> {
        let (None, Some(_), Some(plan)) = (&toml.auth_method, &toml.issuer, plan) else {
            return Vec::new();
        };
        let has_certificate = (toml.tls.as_ref()).is_some_and(|tls| tls.client_cert_file.is_some());
        let usual = plan.exchange.auth_method.clone();
        let names = usual.iter().map(String::as_str).chain(AUTH_METHODS);
        let mut choices: Vec<(String, ExchangePlan)> = Vec::new();
        for name in names {
            let known = choices.iter().any(|(known, _)| known == name);
            if known || (name.contains("tls_client_auth") && !has_certificate) {
                continue;
            }
            let Some(choice) = self.dialects.compile_with(&self.used(toml), name) else {
                continue;
            };
            let missing = choice
                .exchange
                .missing_variables(&|name| variables.has(name));
            if missing
                .iter()
                .all(|name| self.comes_later(&choice.exchange, name))
            {
                choices.push((name.to_owned(), choice.exchange));
            }
        }
        if let Some((_, first)) = choices.first() {
            plan.exchange = first.clone();
        }
        choices
    }

    /// RFC 8705 §2: the certificate is what authenticates.
    pub(super) fn check_client_certificate(
        &self,
        toml: &ProviderToml,
        plan: &ExchangePlan,
        tls: &Tls,
        cx: &mut Context<'_>,
    ) {
        let method = plan.auth_method.as_deref().unwrap_or_default();
        let wants = matches!(method, "tls_client_auth" | "self_signed_tls_client_auth");
        let at = self.at.key("tls").key("client_cert_file");
        let is_told = cx.problems.has_any_in(&self.at.key("tls"));
        if wants && tls.client_cert.is_none() && toml.issuer.is_none() && !is_told {
            cx.problem(
                &at,
                complaint(format!(
                    "is missing: auth_method `{method}` is done with it"
                ))
                .hint("tls = { client_cert_file = \"…\", client_key_file = \"…\" }"),
            );
        }
    }

    /// Where `login` asks for a device code. Only a grant with one begins there.
    pub(super) fn device_url(
        &self,
        toml: &mut ProviderToml,
        plan: &Plan,
        variables: &Variables,
        cx: &mut Context<'_>,
    ) -> Option<String> {
        const KEY: &str = "device_authorization_url";
        let at = self.at.key(KEY);
        let wants = plan.exchange.begins_with("device_code");
        let written = match toml.device_authorization_url.take() {
            Some(written) => written,
            None => {
                let template = plan.defaults.device_authorization_url.as_ref();
                self.default_url(template.filter(|_| wants)?, &at, variables, cx)?
            }
        };
        let url = cx.url(self.at, KEY, Some(written), toml.allow_http)?;
        if !wants {
            let grant = &plan.exchange.grant;
            cx.problem(
                &at,
                complaint(format!(
                    "grant `{grant}` has no device code to be asked for"
                ))
                .hint("it belongs to grant = \"device_code\"; remove the key"),
            );
        }
        Some(format!("{}{}", url.origin.url(), url.path_and_query()))
    }

    /// Where `login` sends the browser. Only a grant with a code begins there.
    pub(super) fn authorization_url(
        &self,
        toml: &mut ProviderToml,
        plan: &Plan,
        variables: &Variables,
        cx: &mut Context<'_>,
    ) -> Option<String> {
        let defaults = &plan.defaults;
        let plan = &plan.exchange;
        let wants = plan.begins_with("code");
        let written = match toml.authorization_url.take() {
            Some(written) => written,
            None => {
                let at = self.at.key("authorization_url");
                let template = defaults.authorization_url.as_ref().filter(|_| wants)?;
                self.default_url(template, &at, variables, cx)?
            }
        };
        let url = cx.url(self.at, "authorization_url", Some(written), toml.allow_http)?;
        if !wants {
            cx.problem(
                &self.at.key("authorization_url"),
                complaint(format!(
                    "grant `{}` has no code to be authorized",
                    plan.grant
                ))
                .hint("it belongs to grant = \"authorization_code\"; remove the key"),
            );
        }
        Some(format!("{}{}", url.origin.url(), url.path_and_query()))
    }
}

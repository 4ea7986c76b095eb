//! A provider's endpoint URLs: from the provider, its dialect, or an issuer.

use super::*;
use crate::config::context::Context;

const NO_TOKEN_URL: &str =
    "token_url = \"https://…\"; a provider with a given token has `access_token` instead";

/// RFC 7591 §2 and RFC 8705 §2, stronger methods first.
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
    /// Returns the provider's token URL, or its dialect's.
    pub(super) fn token_url(
        &self,
        toml: &mut ProviderToml,
        plan: Option<&Plan>,
        variables: &Variables,
        cx: &mut Context<'_>,
    ) -> Option<Url> {
        // An invalid issuer has its own problem; do not also report a missing token_url.
        if self.table.contains_key("issuer") {
            return None;
        }
        let at = self.at.key("token_url");
        let url = match toml.token_url.take() {
            Some(Text(url)) => url,
            None if cx.problems.has_unread(&at) => return None,
            None => match &plan?.defaults.token_url {
                Some(template) => self.default_url(template, &at, variables, cx)?,
                None => {
                    cx.problem(&at, complaint("is missing").hint(NO_TOKEN_URL));
                    return None;
                }
            },
        };
        cx.url(self.at, "token_url", url, toml.allow_http)
    }

    /// Fills the dialect's URL template with this provider's variables.
    fn default_url(
        &self,
        template: &UrlTemplate,
        at: &KeyPath,
        variables: &Variables,
        cx: &mut Context<'_>,
    ) -> Option<Url> {
        let known = variables.fixed();
        let late = |name: &&str| variables.has(name) && !known.contains_key(*name);
        for name in template.variables().filter(late) {
            let message = "can only be text or `{ env = \"NAME\" }`: it is part of a URL";
            let hint = "endpoint URLs must be known at the start";
            cx.problem(&variables.at(name)?, complaint(message).hint(hint));
        }
        let Ok(text) = template.fill(&known) else {
            for name in template.variables().filter(|name| !variables.has(name)) {
                self.missing(name, "the token_url of the dialect", cx);
            }
            return None;
        };
        let url = Url::from_text(&text).map_err(|_| {
            complaint("the dialect and its variables give an invalid URL")
                .hint("write token_url = \"https://…\" here")
        });
        cx.problems.keep(at, url)
    }

    /// Returns the issuer that replaces `token_url`.
    pub(super) fn issuer(
        &self,
        toml: &mut ProviderToml,
        choices: Vec<(String, ExchangePlan)>,
        cx: &mut Context<'_>,
    ) -> Option<(Url, Issuer)> {
        let Text(written) = toml.issuer.take()?;
        if toml.token_url.is_some() {
            let both = complaint("cannot be used together with `token_url`");
            let hint = "remove one of the keys: the issuer states its token URL";
            cx.problem(&self.at.key("issuer"), both.hint(hint));
        }
        let issuer = Issuer {
            well_known: written.well_known(),
            text: written.text,
            choices,
        };
        let url = cx.url(self.at, "issuer", written.url, toml.allow_http)?;
        Some((url, issuer))
    }

    /// Returns the auth methods that the variables allow, if the issuer is to choose one. The first
    /// becomes the plan.
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
        let mut choices: Vec<(String, ExchangePlan)> = Vec::new();
        for name in usual.as_deref().into_iter().chain(AUTH_METHODS) {
            let known = choices.iter().any(|(known, _)| known == name);
            if known || (name.contains("tls_client_auth") && !has_certificate) {
                continue;
            }
            let Some(Plan { exchange, .. }) = self.dialects.compile_with(&self.used(toml), name)
            else {
                continue;
            };
            let missing = exchange.missing_variables(&|name| variables.has(name));
            if missing.iter().all(|name| self.comes_later(&exchange, name)) {
                choices.push((name.to_owned(), exchange));
            }
        }
        if let Some((_, first)) = choices.first() {
            plan.exchange = first.clone();
        }
        choices
    }

    /// Requires a client certificate for the methods of RFC 8705 §2.
    pub(super) fn check_client_certificate(
        &self,
        plan: &ExchangePlan,
        tls: &Tls,
        cx: &mut Context<'_>,
    ) {
        let method = plan.auth_method.as_deref().unwrap_or_default();
        let required = matches!(method, "tls_client_auth" | "self_signed_tls_client_auth");
        let at = self.at.key("tls");
        if required && tls.client_cert.is_none() && !cx.problems.has_any_in(&at) {
            let missing = complaint(format!("is missing: auth_method `{method}` needs it"));
            let hint = "tls = { client_cert_file = \"…\", client_key_file = \"…\" }";
            cx.problem(&at.key("client_cert_file"), missing.hint(hint));
        }
    }

    /// Returns `authorization_url` and `device_authorization_url`, at which a login begins.
    pub(super) fn login_urls(
        &self,
        toml: &mut ProviderToml,
        plan: &Plan,
        variables: &Variables,
        cx: &mut Context<'_>,
    ) -> [Option<String>; 2] {
        let (code, device) = (
            toml.authorization_url.take(),
            toml.device_authorization_url.take(),
        );
        let defaults = &plan.defaults;
        let code = (
            "authorization_url",
            code,
            &defaults.authorization_url,
            "code",
        );
        let device = (
            "device_authorization_url",
            device,
            &defaults.device_authorization_url,
            "device_code",
        );
        [code, device].map(|(key, written, template, input)| {
            let at = self.at.key(key);
            let is_used = plan.exchange.spends(input);
            let url = match written {
                Some(Text(url)) => url,
                None => {
                    let template = template.as_ref().filter(|_| is_used)?;
                    self.default_url(template, &at, variables, cx)?
                }
            };
            let url = cx.url(self.at, key, url, toml.allow_http)?;
            if !is_used {
                let grant = &plan.exchange.grant;
                let unused =
                    complaint(format!("has no effect: grant `{grant}` needs no `{input}`"));
                cx.problem(&at, unused.hint("remove the key"));
            }
            Some(format!("{}{}", url.origin.url(), url.path_and_query()))
        })
    }
}

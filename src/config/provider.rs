//! `[providers.NAME]`: where tokens come from.

mod addresses;
mod checks;
mod variables;

use std::time::Duration;

use toml::{Table, Value as TomlValue};

use super::context::Context;
use super::dialects::{Dialects, Use};
use super::file::ProviderToml;
use super::identity::{identity, of_issuer};
use super::origin::{IssuerText, Url};
use super::problems::{KeyPath, Problems, complaint};
use super::read::{Tree, section};
use super::server::{limit, span};
use super::units::{Text, Written};
use super::value::EmptyLiteral;
use super::{BrowserRules, Endpoint, Issuer, LifeCycle, Provider, Tls, TokenSource, Value};
use crate::dialect::schema::{AssertionToml, RequestToml, ResponseToml};
use crate::dialect::{
    ExchangePlan, InjectPlan, Overrides, Plan, UrlTemplate, Var, WELL_KNOWN, nearest,
};

use variables::{Variables, check_unused, injected, variables};

const DEFAULT_DIALECT: &str = "oauth2";

/// Of a whole token request. Slow vendors take seconds; one that takes longer is better asked again.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A broken API cannot make us fetch more often than this; a healed one is noticed soon enough.
const DEFAULT_MIN_INTERVAL: Duration = Duration::from_secs(5);

/// Variables of the authorization request (RFC 6749 §4.1.1, RFC 8707; `audience` is Auth0's and others').
const AUTHORIZATION_REQUEST: [&str; 5] =
    ["client_id", "redirect_uri", "scope", "audience", "resource"];

/// Parts of the dialect that a provider may override.
const OVERRIDES: [&str; 6] = [
    "assertion",
    "client_assertion",
    "request",
    "response",
    "inject",
    "reject",
];

/// A provider and what the checks across providers need to know of it.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) provider: Provider,
    /// What must be equal where the identity is.
    pub(super) exchange: Exchange,
}

/// All that decides how the token request looks, besides variables.
#[derive(Debug, PartialEq)]
pub(super) struct Exchange {
    pub(super) dialect: String,
    auth_method: Option<String>,
    assertion: Option<AssertionToml>,
    client_assertion: Option<AssertionToml>,
    request: RequestToml,
    response: ResponseToml,
}

pub(super) fn provider(
    name: &str,
    mut written: Tree,
    at: &KeyPath,
    dialects: &Dialects,
    durable_store: bool,
    cx: &mut Context<'_>,
) -> Option<Checked> {
    let mut override_tables = take_overrides(&mut written);
    let overrides: Overrides = section(&mut override_tables, at, &mut cx.problems)?;
    let toml: ProviderToml = section(&mut written, at, &mut cx.problems)?;
    let parts = Parts {
        name,
        at,
        overrides,
        override_tables: override_tables.0.as_table()?,
        dialects,
        durable_store,
        unread: Unread::of(at, &cx.problems),
    };
    let is_endpoint = toml.token_url.is_some() || cx.problems.is_struck_out(&at.key("token_url"));
    let is_endpoint = is_endpoint || toml.issuer.is_some();
    let is_static =
        toml.access_token.is_some() || cx.problems.is_struck_out(&at.key("access_token"));
    match (is_endpoint, is_static) {
        (_, false) => parts.endpoint(toml, cx),
        (false, true) => parts.fixed(toml, cx),
        (true, true) => {
            cx.problem(
                &at.key("access_token"),
                complaint("stands beside `token_url`").hint(
                    "a provider either fetches its tokens or is given one; remove either key",
                ),
            );
            None
        }
    }
}

fn take_overrides(Tree(written): &mut Tree) -> Tree {
    let mut taken = Table::new();
    if let Some(table) = written.as_table_mut() {
        taken.extend(OVERRIDES.iter().filter_map(|key| table.remove_entry(*key)));
    }
    Tree(TomlValue::Table(taken))
}

fn dialect_of(toml: &ProviderToml) -> &str {
    toml.dialect.as_deref().unwrap_or(DEFAULT_DIALECT)
}

/// A provider on its way.
struct Parts<'a> {
    name: &'a str,
    at: &'a KeyPath,
    overrides: Overrides,
    override_tables: &'a Table,
    dialects: &'a Dialects,
    durable_store: bool,
    /// What could not be read may be what asks for a variable.
    unread: Unread,
}

impl Parts<'_> {
    fn endpoint(self, mut toml: ProviderToml, cx: &mut Context<'_>) -> Option<Checked> {
        let at = self.at;
        let mut variables = variables(&mut toml, at, cx);
        let mut plan = self.dialects.compile(&self.used(&toml), cx);
        if let Some(plan) = &plan {
            variables.add_chained(&plan.exchange, at);
        }
        let choices = self.auth_choices(&toml, plan.as_mut(), &variables);
        let is_made = plan
            .as_ref()
            .is_some_and(|plan| plan.exchange.made.is_some());
        if is_made {
            return self.made(toml, plan?, variables, cx);
        }
        // One that cannot be used is told; that there is no token_url either is no second mistake.
        let by_issuer = toml.issuer.is_some() || cx.problems.is_struck_out(&at.key("issuer"));
        let issuer = self.issuer(&mut toml, choices, cx);
        let url = match &issuer {
            Some((issuer, _)) => Some(issuer.url.clone()),
            None if by_issuer => None,
            None => self.token_url(&mut toml, plan.as_ref(), &variables, cx),
        };
        let origin = url.as_ref().map(|url| &url.origin);
        let tls = cx.tls(&at.key("tls"), toml.tls.take(), origin);
        let egress_later = cx.egress_later(toml.proxy.is_some());
        let egress = cx.egress(&at.key("proxy"), toml.proxy.take(), origin, None);
        let plan = plan?;
        let authorization_url = self.authorization_url(&mut toml, &plan, &variables, cx);
        let device_authorization_url = self.device_url(&mut toml, &plan, &variables, cx);
        self.check_client_certificate(&toml, &plan.exchange, &tls, cx);
        self.check_variables(
            &plan,
            dialect_of(&toml),
            &variables,
            authorization_url.is_some() || (issuer.is_some() && plan.exchange.begins_with("code")),
            cx,
        );
        let url = url?;
        let variables = variables.into_values();
        let life = life(&mut toml, &plan);
        let exchange = Exchange {
            dialect: dialect_of(&toml).to_owned(),
            auth_method: toml.auth_method,
            assertion: self.overrides.assertion,
            client_assertion: self.overrides.client_assertion,
            request: self.overrides.request,
            response: self.overrides.response,
        };
        let identity = identity(self.name, &url, &plan.exchange, &variables);
        let endpoint = Endpoint {
            identity: match &issuer {
                Some(_) => of_issuer(&identity),
                None => identity,
            },
            issuer: issuer.map(|(_, issuer)| Box::new(issuer)),
            device_authorization_url,
            allow_http: toml.allow_http == Some(true),
            path_and_query: url.path_and_query(),
            authorization_url,
            token_url: url.origin,
            timeout: limit(toml.timeout, DEFAULT_TIMEOUT),
            tls,
            egress,
            egress_later,
            browser: BrowserRules::default(),
            plan: plan.exchange,
        };
        Some(Checked {
            exchange,
            provider: Provider {
                name: self.name.to_owned(),
                source: TokenSource::Endpoint(Box::new(endpoint)),
                inject: plan.inject,
                reject: plan.reject,
                variables,
                life,
            },
        })
    }

    fn fixed(self, mut toml: ProviderToml, cx: &mut Context<'_>) -> Option<Checked> {
        let at = self.at;
        self.check_fixed_keys(&toml, cx);
        let access_token = toml.access_token.take();
        let variables = variables(&mut toml, at, cx);
        // They are told to be out of place already; compiling with them would only say so again.
        (toml.grant, toml.auth_method) = (None, None);
        let compiled = self.dialects.compile_static(&self.used(&toml), cx);
        let token_at = at.key("access_token");
        let access_token = cx.value(&token_at, access_token?, EmptyLiteral::Refused)?;
        if matches!(
            &access_token,
            Value::Literal(Var::Integer(_) | Var::Boolean(_))
        ) {
            cx.problem(
                &token_at,
                complaint("expected text in quotes").hint("access_token = \"…\""),
            );
        }
        let (inject, reject) = compiled?;
        let used_by = format!("`inject` of dialect `{}`", dialect_of(&toml));
        if !self.unread.request && !self.unread.inject {
            self.check_injected(&inject, dialect_of(&toml), &variables, cx);
            check_unused(&variables, &injected(&inject, false), &used_by, cx);
        }
        Some(Checked {
            exchange: Exchange {
                dialect: dialect_of(&toml).to_owned(),
                auth_method: None,
                assertion: None,
                client_assertion: None,
                request: RequestToml::default(),
                response: ResponseToml::default(),
            },
            provider: Provider {
                name: self.name.to_owned(),
                source: TokenSource::Static { access_token },
                inject,
                reject,
                variables: variables.into_values(),
                life: LifeCycle {
                    refresh_before: None,
                    min_interval: DEFAULT_MIN_INTERVAL,
                    ttl: None,
                    single_active: false,
                    required: toml.required.unwrap_or(true),
                },
            },
        })
    }

    /// A token that the dialect makes by itself.
    fn made(
        self,
        mut toml: ProviderToml,
        plan: Plan,
        variables: Variables,
        cx: &mut Context<'_>,
    ) -> Option<Checked> {
        let written = [
            ("token_url", toml.token_url.is_some()),
            ("issuer", toml.issuer.is_some()),
            ("authorization_url", toml.authorization_url.is_some()),
            ("single_active", toml.single_active.is_some()),
            ("timeout", toml.timeout.is_some()),
            ("tls", toml.tls.is_some()),
            ("proxy", toml.proxy.is_some()),
        ];
        for (key, _) in written.iter().filter(|(_, written)| *written) {
            let hint = "remove the key";
            let complaint = complaint(format!(
                "has no meaning: grant `{}` makes its token without asking anybody",
                plan.exchange.grant
            ));
            cx.problem(&self.at.key(key), complaint.hint(hint));
        }
        for name in plan.exchange.known_variables() {
            if let Some(at) = variables.at(&name).filter(|_| variables.is_chained(&name)) {
                let complaint = complaint(format!(
                    "is signed with the token of another provider, but grant `{}` buys nothing",
                    plan.exchange.grant
                ));
                cx.problem(
                    &at,
                    complaint.hint("take a grant that asks a token endpoint"),
                );
            }
        }
        self.check_variables(&plan, dialect_of(&toml), &variables, false, cx);
        let life = life(&mut toml, &plan);
        Some(Checked {
            exchange: Exchange {
                dialect: dialect_of(&toml).to_owned(),
                auth_method: toml.auth_method,
                assertion: self.overrides.assertion,
                client_assertion: self.overrides.client_assertion,
                request: self.overrides.request,
                response: self.overrides.response,
            },
            provider: Provider {
                name: self.name.to_owned(),
                source: TokenSource::Made(Box::new(plan.exchange.made?)),
                inject: plan.inject,
                reject: plan.reject,
                variables: variables.into_values(),
                life,
            },
        })
    }

    fn used<'u>(&'u self, toml: &'u ProviderToml) -> Use<'u> {
        Use {
            at: self.at,
            dialect: dialect_of(toml),
            overrides: &self.overrides,
            written: self.override_tables,
            broken: self.unread.request || self.unread.inject || self.unread.rest,
            grant: toml.grant.as_deref(),
            auth_method: toml.auth_method.as_deref(),
        }
    }

    fn check_variables(
        &self,
        plan: &Plan,
        dialect: &str,
        variables: &Variables,
        asks_for_authorization: bool,
        cx: &mut Context<'_>,
    ) {
        if self.unread.request {
            return;
        }
        self.check_one_time(&plan.exchange, cx);
        self.check_missing(&plan.exchange, dialect, variables, cx);
        variables.check_keys(&plan.exchange, cx);
        if self.unread.inject {
            return;
        }
        self.check_injected(&plan.inject, dialect, variables, cx);
        let mut known = plan.exchange.known_variables();
        known.extend(injected(&plan.inject, false));
        known.extend(plan.defaults.variables().map(str::to_owned));
        if asks_for_authorization {
            known.extend(AUTHORIZATION_REQUEST.map(str::to_owned));
        }
        let grant = format!("grant `{}` of dialect `{dialect}`", plan.exchange.grant);
        check_unused(variables, &known, &grant, cx);
    }

    /// Keys that say how tokens are fetched mean nothing where none is.
    fn check_fixed_keys(&self, toml: &ProviderToml, cx: &mut Context<'_>) {
        let written = [
            ("grant", toml.grant.is_some()),
            ("auth_method", toml.auth_method.is_some()),
            ("issuer", toml.issuer.is_some()),
            ("authorization_url", toml.authorization_url.is_some()),
            (
                "device_authorization_url",
                toml.device_authorization_url.is_some(),
            ),
            ("allow_http", toml.allow_http.is_some()),
            ("refresh_before", toml.refresh_before.is_some()),
            ("min_interval", toml.min_interval.is_some()),
            ("ttl", toml.ttl.is_some()),
            ("single_active", toml.single_active.is_some()),
            ("timeout", toml.timeout.is_some()),
            ("tls", toml.tls.is_some()),
            ("proxy", toml.proxy.is_some()),
        ];
        for (key, _) in written.iter().filter(|(_, written)| *written) {
            cx.problem(
                &self.at.key(key),
                complaint("has no meaning beside `access_token`")
                    .hint("a provider that is given its token fetches none; remove the key"),
            );
        }
    }
}

/// The provider's own keys, then the dialect's, then ours.
fn life(toml: &mut ProviderToml, plan: &Plan) -> LifeCycle {
    let defaults = &plan.defaults;
    let min_interval = defaults.min_interval.unwrap_or(DEFAULT_MIN_INTERVAL);
    let refresh_before = toml.refresh_before.as_ref().map(|text| text.0.0);
    LifeCycle {
        refresh_before: refresh_before.or(defaults.refresh_before),
        min_interval: span(toml.min_interval.take(), min_interval),
        ttl: toml.ttl.as_ref().map(|text| text.0.0).or(defaults.ttl),
        single_active: toml.single_active.unwrap_or(plan.exchange.single_active),
        required: toml.required.unwrap_or(true),
    }
}

/// Parts of a provider that could not be read: what they are about is not known.
#[derive(Clone, Copy, Debug)]
struct Unread {
    /// What is asked for, and how.
    request: bool,
    inject: bool,
    /// `response` or `reject`.
    rest: bool,
}

impl Unread {
    fn of(at: &KeyPath, problems: &Problems) -> Self {
        let unread: Vec<_> = problems.struck_out_in(at).collect();
        // A misspelt `grant` decides as much as one of the wrong type.
        let any = |keys: &[&str]| {
            unread
                .iter()
                .any(|key| nearest(key, keys.iter().copied()).is_some())
        };
        Self {
            request: any(&[
                "dialect",
                "grant",
                "auth_method",
                "request",
                "assertion",
                "client_assertion",
            ]),
            inject: any(&["inject"]),
            rest: any(&["response", "reject"]),
        }
    }
}

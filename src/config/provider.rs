//! `[providers.NAME]`.

mod addresses;
mod checks;
mod variables;

use std::time::Duration;

use toml::{Table, Value as TomlValue};

use super::context::Context;
use super::dialects::{Dialects, Use};
use super::file::ProviderToml;
use super::identity::{identity, of_issuer};
use super::model::{BrowserRules, Endpoint, Issuer, LifeCycle, Provider, Tls, TokenSource, Value};
use super::origin::Url;
use super::problems::{KeyPath, Problems, complaint};
use super::read::{Tree, section};
use super::server::limit;
use super::units::{Text, Written};
use super::value::{EmptyLiteral, known_text};
use crate::dialect::{
    ExchangePlan, InjectPlan, Overrides, Plan, TOKEN_WITH_SCHEME, UrlTemplate, Var, WELL_KNOWN,
    check_token, nearest,
};

use variables::{Variables, check_unused, injected, variables};

const DEFAULT_DIALECT: &str = "oauth2";

/// Limit on one token request. Slow vendors take seconds; a longer request is better retried.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds the fetch rate when an API is broken, and still notices soon that the API works again.
const DEFAULT_MIN_INTERVAL: Duration = Duration::from_secs(5);

/// Variables of the authorization request: RFC 6749 §4.1.1, RFC 8707, and Auth0's `audience`.
const AUTHORIZATION_REQUEST: [&str; 5] =
    ["client_id", "redirect_uri", "scope", "audience", "resource"];

/// Dialect tables that a provider may override.
const OVERRIDES: [&str; 6] = [
    "assertion",
    "client_assertion",
    "request",
    "response",
    "inject",
    "reject",
];

/// A provider, and the input of checks across providers.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) provider: Provider,
    pub(super) request: RequestSettings,
}

/// The settings, other than variables, that shape the token request. Providers of one identity must
/// agree on them; only endpoints can share an identity.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RequestSettings {
    dialect: String,
    auth_method: Option<String>,
    /// Without `inject` and `reject`.
    overrides: Overrides,
}

impl RequestSettings {
    fn new(dialect: String, auth_method: Option<String>, overrides: Overrides) -> Self {
        Self {
            dialect,
            auth_method,
            overrides: Overrides {
                inject: Default::default(),
                reject: Default::default(),
                ..overrides
            },
        }
    }
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
        table: written.0.as_table()?,
        overrides,
        override_tables: override_tables.0.as_table()?,
        dialects,
        durable_store,
        unread: Unread::of(at, &cx.problems),
    };
    if !parts.table.contains_key("access_token") {
        return parts.endpoint(toml, cx);
    }
    if !parts.table.contains_key("token_url") && toml.issuer.is_none() {
        return parts.fixed(toml, cx);
    }
    let both = complaint("cannot be used together with `token_url` or `issuer`");
    let hint = "a provider either fetches its tokens or has a given token; remove one of the keys";
    cx.problem(&at.key("access_token"), both.hint(hint));
    None
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

/// The input for one provider.
struct Parts<'a> {
    name: &'a str,
    at: &'a KeyPath,
    /// The keys of the file, unreadable ones included, without the overrides.
    table: &'a Table,
    overrides: Overrides,
    override_tables: &'a Table,
    dialects: &'a Dialects,
    durable_store: bool,
    unread: Unread,
}

impl Parts<'_> {
    fn endpoint(self, mut toml: ProviderToml, cx: &mut Context<'_>) -> Option<Checked> {
        let mut variables = variables(&mut toml, self.at, cx);
        let mut plan = self.dialects.compile(&self.used(&toml), cx);
        if let Some(plan) = &plan {
            variables.add_chained(&plan.exchange, self.at);
        }
        let choices = self.auth_choices(&toml, plan.as_mut(), &variables);
        match plan {
            Some(plan) if plan.exchange.local_token.is_some() => {
                self.self_signed(&toml, plan, variables, cx)
            }
            plan => self.fetched(toml, plan, variables, choices, cx),
        }
    }

    fn fetched(
        self,
        mut toml: ProviderToml,
        plan: Option<Plan>,
        variables: Variables,
        choices: Vec<(String, ExchangePlan)>,
        cx: &mut Context<'_>,
    ) -> Option<Checked> {
        let at = self.at;
        let (url, issuer) = self.issuer(&mut toml, choices, cx).unzip();
        let url = url.or_else(|| self.token_url(&mut toml, plan.as_ref(), &variables, cx));
        let origin = url.as_ref().map(|url| &url.origin);
        let tls = cx.tls(&at.key("tls"), toml.tls.take(), origin);
        let egress_later = cx.egress_later(toml.proxy.is_some());
        let egress = cx.egress(&at.key("proxy"), toml.proxy.take(), origin, None);
        let plan = plan?;
        let [authorization_url, device_authorization_url] =
            self.login_urls(&mut toml, &plan, &variables, cx);
        self.check_client_certificate(&plan.exchange, &tls, cx);
        let asks_for_authorization =
            authorization_url.is_some() || (issuer.is_some() && plan.exchange.spends("code"));
        let dialect = dialect_of(&toml);
        self.check_variables(&plan, dialect, &variables, asks_for_authorization, cx);
        let url = url?;
        let variables = variables.into_values();
        let life = life(&toml, &plan);
        let identity = identity(self.name, &url, &plan.exchange, &variables);
        let endpoint = Endpoint {
            identity: match &issuer {
                Some(_) => of_issuer(&identity),
                None => identity,
            },
            issuer: issuer.map(Box::new),
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
        let request = RequestSettings::new(dialect.to_owned(), toml.auth_method, self.overrides);
        let provider = Provider {
            name: self.name.to_owned(),
            source: TokenSource::Endpoint(Box::new(endpoint)),
            inject: plan.inject,
            reject: plan.reject,
            variables,
            life,
        };
        Some(Checked { provider, request })
    }

    fn fixed(self, mut toml: ProviderToml, cx: &mut Context<'_>) -> Option<Checked> {
        const FETCHING: [&str; 12] = [
            "grant",
            "auth_method",
            "authorization_url",
            "device_authorization_url",
            "allow_http",
            "refresh_before",
            "min_interval",
            "ttl",
            "single_active",
            "timeout",
            "tls",
            "proxy",
        ];
        let at = self.at;
        self.refuse_keys(&FETCHING, "has no effect together with `access_token`", cx);
        let access_token = toml.access_token.take();
        let variables = variables(&mut toml, at, cx);
        // Both are reported already; the compiler would report them again.
        (toml.grant, toml.auth_method) = (None, None);
        let compiled = self.dialects.compile_static(&self.used(&toml), cx);
        let token_at = at.key("access_token");
        let access_token = cx.value(&token_at, access_token?, EmptyLiteral::Refused)?;
        if let Value::Literal(Var::Integer(_) | Var::Boolean(_)) = access_token {
            let expected = complaint("expected text in quotes");
            cx.problem(&token_at, expected.hint("access_token = \"…\""));
        }
        // A file may hold another token by the time it is used, but the scheme stays in it.
        let is_file = matches!(access_token, Value::File(_));
        if let Some(text) = known_text(&access_token)
            && let Err(reason) = check_token(text.expose())
            && (!is_file || reason == TOKEN_WITH_SCHEME)
        {
            cx.problem(&token_at, complaint(reason));
        }
        let (inject, reject) = compiled?;
        if !self.unread.request && !self.unread.inject {
            let dialect = dialect_of(&toml);
            self.check_injected(&inject, dialect, &variables, cx);
            let used_by = format!("`inject` of dialect `{dialect}`");
            check_unused(&variables, &injected(&inject, false), &used_by, cx);
        }
        Some(Checked {
            request: RequestSettings::default(),
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

    /// Checks a provider whose dialect signs the token itself.
    fn self_signed(
        self,
        toml: &ProviderToml,
        plan: Plan,
        variables: Variables,
        cx: &mut Context<'_>,
    ) -> Option<Checked> {
        const ENDPOINT: [&str; 7] = [
            "token_url",
            "issuer",
            "authorization_url",
            "single_active",
            "timeout",
            "tls",
            "proxy",
        ];
        let grant = format!("grant `{}`", plan.exchange.grant);
        let message = format!("has no effect: {grant} makes its token without a token endpoint");
        self.refuse_keys(&ENDPOINT, &message, cx);
        for name in plan.exchange.known_variables() {
            if let Some(at) = variables.at(&name).filter(|_| variables.is_chained(&name)) {
                let chained =
                    format!("uses the token of another provider, but {grant} has no use for it");
                let hint = "choose a grant with a token endpoint";
                cx.problem(&at, complaint(chained).hint(hint));
            }
        }
        self.check_variables(&plan, dialect_of(toml), &variables, false, cx);
        Some(Checked {
            request: RequestSettings::default(),
            provider: Provider {
                name: self.name.to_owned(),
                life: life(toml, &plan),
                source: TokenSource::SelfSigned(Box::new(plan.exchange.local_token?)),
                inject: plan.inject,
                reject: plan.reject,
                variables: variables.into_values(),
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

    fn refuse_keys(&self, keys: &[&str], message: &str, cx: &mut Context<'_>) {
        for key in keys.iter().filter(|key| self.table.contains_key(**key)) {
            let refused = complaint(message).hint("remove the key");
            cx.problem(&self.at.key(key), refused);
        }
    }
}

/// The provider's keys take precedence over the dialect's defaults.
fn life(toml: &ProviderToml, plan: &Plan) -> LifeCycle {
    let defaults = &plan.defaults;
    let refresh_before = toml.refresh_before.map(|Text(span)| span.0);
    let min_interval = toml.min_interval.map(|Text(span)| span.0);
    LifeCycle {
        refresh_before: refresh_before.or(defaults.refresh_before),
        min_interval: (min_interval.or(defaults.min_interval)).unwrap_or(DEFAULT_MIN_INTERVAL),
        ttl: toml.ttl.map(|Text(limit)| limit.0).or(defaults.ttl),
        single_active: toml.single_active.unwrap_or(plan.exchange.single_active),
        required: toml.required.unwrap_or(true),
    }
}

/// Which keys could not be read; checks that depend on them are skipped.
#[derive(Clone, Copy, Debug)]
struct Unread {
    /// Keys that shape the token request.
    request: bool,
    inject: bool,
    /// `response` or `reject`.
    rest: bool,
}

impl Unread {
    fn of(at: &KeyPath, problems: &Problems) -> Self {
        let unread: Vec<_> = problems.unread_in(at).collect();
        // A misspelt `grant` counts like a `grant` of the wrong type.
        let any = |keys: &[&str]| {
            let similar = |key: &&str| nearest(key, keys.iter().copied()).is_some();
            unread.iter().any(similar)
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

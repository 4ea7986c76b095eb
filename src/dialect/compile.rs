//! Compiling tables to a [`Plan`]: the dialect, the dialects that it extends, and overrides.
//!
//! Nearer tables win: the provider's own tables, then the dialect, then the dialects that it
//! extends. Inside one dialect the grant (or `[refresh]`) overrides the auth method, which
//! overrides `[request]`.

mod choose;

use std::collections::BTreeMap;

use choose::{choose_auth, choose_grant};

use super::computed::{Recipe, Recipes, parse_var};
use super::field::{Field, Problem, field, join};
use super::layer::{Assertions, Kind, Layer, merge};
use super::one_or_many::OneOrMany;
use super::schema::{DialectToml, InjectToml, Ordered, RejectToml, ResponseToml};
use super::suggest::hint;
use super::template::{Place, Template};
use super::{
    Defaults, ExchangePlan, Extent, InjectPlan, LocalTokenPlan, Plan, RejectRules, RequestPlan,
    ResponseRules, Source, builtin,
};

/// A dialect and its name.
type Named<'a> = (&'a str, &'a DialectToml);

/// One dialect of the chain of `extends`. All request tables are parsed, so that errors in unused
/// grants are reported, too.
struct Level<'a> {
    toml: &'a DialectToml,
    request: Layer,
    auth: BTreeMap<&'a str, Layer>,
    grants: BTreeMap<&'a str, Layer>,
    refresh: Option<Layer>,
    device: Option<Layer>,
    vars: Vec<(&'a str, Field<(), Template>)>,
    /// `[grants.NAME] token`
    tokens: BTreeMap<&'a str, Field<(), Template>>,
}

/// The tables that all requests of one provider share.
struct Merger<'a> {
    own: Layer,
    /// The dialect and the dialects that it extends, nearest first.
    levels: Vec<Level<'a>>,
    auth: Option<String>,
    vars: Recipes,
}

/// Merges and parses the tables; reports every problem, not just the first.
pub fn compile(source: &Source<'_>) -> Result<Plan, Vec<Problem>> {
    compile_as(source, Extent::Whole)
}

/// [`compile`] for a source that may be incomplete; an incomplete plan is `Err` without problems.
pub fn compile_as(source: &Source<'_>, extent: Extent) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    let own = Layer::parse(&source.overrides.request, "request", &mut problems);
    let own = own.with_assertions(&Assertions::parse(
        &source.overrides.assertion,
        &source.overrides.client_assertion,
        "",
        &mut problems,
    ));
    let chain = chain(source, &mut problems)?;
    let levels = parse_levels(&chain, &mut problems);
    let grant = choose_grant(source, &levels, extent, &mut problems);
    let auth = choose_auth(source, &levels, extent, &mut problems);
    let vars = vars(&levels, &mut problems);
    let merger = Merger {
        own,
        levels,
        auth,
        vars,
    };
    let exchange = merger.exchange(source, grant, extent, &mut problems);
    let (inject, reject) = inject_and_reject(source, &chain, &merger.vars, extent, &mut problems);
    let defaults = Defaults::parse(&chain, &mut problems);
    match exchange {
        Some(exchange) if problems.is_empty() => Ok(Plan {
            exchange,
            defaults,
            inject,
            reject,
        }),
        _ => Err(problems),
    }
}

/// [`compile`] for a provider with a fixed `access_token`, which needs no grant and no request.
pub fn compile_static(source: &Source<'_>) -> Result<(InjectPlan, RejectRules), Vec<Problem>> {
    let own = source.overrides;
    let written = [
        ("request", own.request != Default::default()),
        ("assertion", own.assertion.is_some()),
        ("client_assertion", own.client_assertion.is_some()),
        ("response", own.response != Default::default()),
    ];
    let message = "a provider with `access_token` sends no token request; remove this table";
    let useless = written.into_iter().filter(|(_, written)| *written);
    let mut problems: Vec<_> = useless
        .map(|(table, _)| Problem::new(table, message))
        .collect();
    let chain = chain(source, &mut problems)?;
    let levels = parse_levels(&chain, &mut Vec::new());
    let vars = vars(&levels, &mut problems);
    let plans = inject_and_reject(source, &chain, &vars, Extent::Whole, &mut problems);
    if problems.is_empty() {
        return Ok(plans);
    }
    Err(problems)
}

/// The dialect and the dialects that it extends, nearest first. Returns on an unknown name, from
/// which other problems might only follow.
fn chain<'a>(
    source: &Source<'a>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<Named<'a>>, Vec<Problem>> {
    let mut chain: Vec<Named<'_>> = Vec::new();
    let mut next = Some(source.dialect).filter(|name| !name.is_empty());
    while let Some(name) = next {
        // `[dialects.oauth2]` with `extends = "oauth2"` extends the built-in one.
        let is_own_name = chain.last().is_some_and(|(child, _)| *child == name);
        let user = source.user.get(name).filter(|_| !is_own_name);
        let message = match user.or_else(|| builtin::find_builtin(name)) {
            Some(toml) if chain.iter().any(|(_, known)| std::ptr::eq(*known, toml)) => {
                "the dialects extend each other in a circle".to_owned()
            }
            Some(toml) => {
                chain.push((name, toml));
                next = toml.extends.as_deref();
                continue;
            }
            None if is_own_name => "a dialect cannot extend itself".to_owned(),
            None => {
                let user = source.user.keys().map(String::as_str);
                let known = user.chain(builtin().iter().map(|(name, _)| *name));
                format!("unknown dialect{}", hint(name, known))
            }
        };
        problems.push(match chain.last() {
            Some((child, _)) => Problem::new("extends", format!("{message} (dialect `{child}`)")),
            None => Problem::new("dialect", message),
        });
        return Err(std::mem::take(problems));
    }
    Ok(chain)
}

fn parse_levels<'a>(chain: &[Named<'a>], problems: &mut Vec<Problem>) -> Vec<Level<'a>> {
    let levels = chain
        .iter()
        .map(|(name, toml)| Level::parse(name, toml, problems));
    levels.collect()
}

impl<'a> Level<'a> {
    fn parse(name: &str, toml: &'a DialectToml, problems: &mut Vec<Problem>) -> Self {
        let mut found = Vec::new();
        let assertions = Assertions::parse(&toml.assertion, &toml.client_assertion, "", &mut found);
        let level = Self {
            toml,
            request: Layer::parse(&toml.request, "request", &mut found)
                .with_assertions(&assertions),
            auth: (toml.auth.iter())
                .map(|(name, table)| (name, Layer::parse(table, &join("auth", name), &mut found)))
                .collect(),
            grants: (toml.grants.iter())
                .map(|(name, table)| {
                    let path = join("grants", name);
                    (name, Layer::parse(&table.request(), &path, &mut found))
                })
                .collect(),
            refresh: (toml.refresh.as_ref())
                .map(|table| Layer::parse(table, "refresh", &mut found)),
            device: (toml.device.as_ref()).map(|table| Layer::parse(table, "device", &mut found)),
            vars: (toml.vars.iter())
                .filter_map(|(name, value)| Some((name, parse_var(name, value, &mut found)?)))
                .collect(),
            tokens: (toml.grants.iter())
                .filter_map(|(name, grant)| {
                    let at = join(&join("grants", name), "token");
                    let token = grant.token.as_deref()?;
                    Some((name, field(token, at, Place::Exchange, &mut found)?))
                })
                .collect(),
        };
        problems.extend(found.into_iter().map(|problem| Problem {
            message: format!("{} (dialect `{name}`)", problem.message),
            ..problem
        }));
        level
    }
}

/// `[vars]`; the nearest dialect wins.
fn vars(levels: &[Level<'_>], problems: &mut Vec<Problem>) -> Recipes {
    let mut vars = Recipes::default();
    for (name, field) in levels.iter().flat_map(|level| &level.vars) {
        let recipe = || Recipe::Template(field.clone());
        vars.0.entry((*name).to_owned()).or_insert_with(recipe);
    }
    vars.break_cycles(problems);
    vars
}

/// `[vars]` and the assertions of one request.
fn recipes(layers: &[(Kind, Layer)], vars: &Recipes, problems: &mut Vec<Problem>) -> Recipes {
    let merged = Assertions::merged(layers);
    let mut recipes = vars.clone();
    for (name, layer) in [
        ("assertion", merged.grant),
        ("client_assertion", merged.client),
    ] {
        if let Some(plan) = layer.plan() {
            let recipe = Recipe::Assertion(Box::new(plan));
            recipes.0.insert(name.to_owned(), recipe);
        }
    }
    recipes.break_cycles(problems);
    recipes
}

impl Merger<'_> {
    /// Returns `None` for an incomplete source.
    fn exchange(
        &self,
        source: &Source<'_>,
        grant: Option<String>,
        extent: Extent,
        problems: &mut Vec<Problem>,
    ) -> Option<ExchangePlan> {
        let name = grant.as_deref();
        let one_time = name.and_then(|grant| {
            let mut grants = self.levels.iter().map(|level| level.toml.grants.get(grant));
            grants.find_map(|grant| grant?.one_time.clone())
        });
        let one_time = one_time.unwrap_or_default();
        // Merged even after an unknown name, so that the other problems show.
        let mut clashes = Vec::new();
        let layers = self.layers(&self.own, |level| level.grants.get(name?));
        let request = finish(&layers, &self.vars, &mut clashes);
        let refresh = self.extra(|level| level.refresh.as_ref(), &mut clashes);
        let spends_device_code = one_time.iter().any(|name| name == "device_code");
        let device = spends_device_code
            .then(|| self.extra(|level| level.device.as_ref(), &mut clashes))
            .flatten();
        let local_token = name.and_then(|grant| self.local_token(grant, &layers, &mut clashes));
        // Not every grant of a dialect fits its default auth method: only a provider combines them.
        if extent == Extent::Whole {
            problems.append(&mut clashes);
        }
        let tomls = self.levels.iter().map(|level| level.toml);
        let response = response_rules(source, tomls.clone(), &request, refresh.is_some(), problems);
        if extent == Extent::Whole && local_token.is_none() {
            response.check_token(problems);
        }
        if extent != Extent::Part {
            check_one_time(&one_time, name, &request, problems);
        }
        if local_token.is_none() && !response.finds_token() {
            return None;
        }
        let single_active = tomls.clone().find_map(|toml| toml.single_active);
        let identity = tomls.clone().find_map(|toml| toml.identity.clone());
        Some(ExchangePlan {
            grant: grant?,
            auth_method: self.auth.clone(),
            request,
            refresh,
            device,
            local_token,
            response,
            one_time,
            single_active: single_active.unwrap_or(false),
            identity: identity.unwrap_or_default(),
        })
    }

    /// All layers of one request, nearest first; `table` is the grant, `[refresh]` or `[device]`.
    fn layers<'s>(
        &'s self,
        own: &Layer,
        table: impl Fn(&'s Level<'_>) -> Option<&'s Layer>,
    ) -> Vec<(Kind, Layer)> {
        let mut layers = vec![(Kind::Provider, own.clone())];
        for level in &self.levels {
            let auth = self.auth.as_deref().and_then(|auth| level.auth.get(auth));
            layers.extend(table(level).map(|layer| (Kind::Table, layer.clone())));
            layers.extend(auth.map(|layer| (Kind::Auth, layer.clone())));
            layers.push((Kind::Table, level.request.clone()));
        }
        layers
    }

    /// The refresh or device authorization request, if the dialect has one. Shares the provider's
    /// credentials, but not its parameters, which belong to the grant.
    fn extra(
        &self,
        table: for<'s> fn(&'s Level<'_>) -> Option<&'s Layer>,
        problems: &mut Vec<Problem>,
    ) -> Option<RequestPlan> {
        self.levels.iter().find_map(table)?;
        let layers = self.layers(&self.own.clone().without_parameters(), table);
        // Problems of tables that both requests share are already reported for the grant.
        let mut found = Vec::new();
        let plan = finish(&layers, &self.vars, &mut found);
        found.retain(|problem| !problems.contains(problem));
        problems.append(&mut found);
        Some(plan)
    }

    fn local_token(
        &self,
        grant: &str,
        layers: &[(Kind, Layer)],
        problems: &mut Vec<Problem>,
    ) -> Option<LocalTokenPlan> {
        let token = self
            .levels
            .iter()
            .find_map(|level| level.tokens.get(grant))?;
        let recipes = recipes(layers, &self.vars, &mut Vec::new());
        Some(LocalTokenPlan {
            computed: recipes.for_templates([&token.value], Place::Exchange, problems),
            token: token.clone(),
        })
    }
}

fn finish(layers: &[(Kind, Layer)], vars: &Recipes, problems: &mut Vec<Problem>) -> RequestPlan {
    let mut plan = merge(layers, problems);
    let recipes = recipes(layers, vars, problems);
    plan.computed = recipes.for_templates(plan.templates(), Place::Exchange, problems);
    plan
}

fn check_one_time(
    one_time: &[String],
    grant: Option<&str>,
    request: &RequestPlan,
    problems: &mut Vec<Problem>,
) {
    let known: Vec<_> = request.needs(&|_| false).into_keys().collect();
    for name in one_time
        .iter()
        .filter(|name| !known.contains(&name.as_str()))
    {
        let hint = hint(name, known.iter().copied());
        let message = format!("names a variable that the grant does not use{hint}");
        let path = join(&join("grants", grant.unwrap_or_default()), "one_time");
        problems.push(Problem::new(path, message));
    }
}

fn response_rules<'a>(
    source: &Source<'_>,
    tomls: impl Iterator<Item = &'a DialectToml>,
    request: &RequestPlan,
    has_refresh: bool,
    problems: &mut Vec<Problem>,
) -> ResponseRules {
    let mut merged = source.overrides.response.clone();
    tomls.for_each(|toml| inherit_response(&mut merged, &toml.response));
    // A refresh token that no request can spend is dropped: some vendors send one needlessly.
    let spends = request.needs(&|_| false).contains_key("refresh_token");
    merged.refresh_token = (has_refresh || spends).then(|| {
        let default = || OneOrMany(vec!["/refresh_token".to_owned()]);
        merged.refresh_token.take().unwrap_or_else(default)
    });
    ResponseRules::parse(&merged, problems)
}

fn inherit_response(own: &mut ResponseToml, from: &ResponseToml) {
    inherit(&mut own.token, &from.token);
    inherit(&mut own.expires, &from.expires);
    inherit(&mut own.expires_unit, &from.expires_unit);
    inherit(&mut own.refresh_token, &from.refresh_token);
    inherit(&mut own.ok, &from.ok);
    inherit(&mut own.error, &from.error);
    inherit(&mut own.error_description, &from.error_description);
    inherit(&mut own.permanent, &from.permanent);
    inherit(&mut own.transient, &from.transient);
}

fn inject_and_reject(
    source: &Source<'_>,
    chain: &[Named<'_>],
    vars: &Recipes,
    extent: Extent,
    problems: &mut Vec<Problem>,
) -> (InjectPlan, RejectRules) {
    let mut inject: InjectToml = source.overrides.inject.clone();
    let mut reject: RejectToml = source.overrides.reject.clone();
    for (_, toml) in chain {
        inherit(&mut inject.headers, &toml.inject.headers);
        inherit(&mut inject.query, &toml.inject.query);
        inherit(&mut reject.status, &toml.reject.status);
        inherit(&mut reject.grpc_status, &toml.reject.grpc_status);
        inherit(&mut reject.body, &toml.reject.body);
    }
    (
        InjectPlan::parse(&inject, vars, extent, problems),
        RejectRules::parse(&reject, problems),
    )
}

fn inherit<T: Clone>(own: &mut Option<T>, inherited: &Option<T>) {
    if own.is_none() {
        own.clone_from(inherited);
    }
}

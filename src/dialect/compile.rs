//! From tables to a [`Plan`]: the dialect, what it extends, and the provider's overrides.
//!
//! A dialect is laid over what it extends: every key that it writes beats an inherited one. Inside one
//! dialect the grant (or `[refresh]`) beats the auth method, which beats `[request]`. The provider's own
//! tables beat them all.

mod choose;

use std::collections::BTreeMap;

use choose::{choose_auth, choose_grant};

use super::computed::{Recipe, Recipes, field, parse_var};
use super::layer::{Assertions, Field, Kind, Layer, join, merge};
use super::one_or_many::OneOrMany;
use super::schema::{DialectToml, InjectToml, Ordered, RejectToml, ResponseToml};
use super::suggest::hint;
use super::template::{Place, Template};
use super::{
    Defaults, ExchangePlan, Extent, InjectPlan, MadePlan, Plan, Problem, RejectRules, RequestPlan,
    ResponseRules, Source, builtin,
};

/// One dialect of the chain of `extends`, its request tables parsed: all of them, so that a mistake in a grant
/// shows before somebody uses it.
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

/// Merges and parses; reports every problem, not just the first.
pub fn compile(source: &Source<'_>) -> Result<Plan, Vec<Problem>> {
    compile_as(source, Extent::Whole)
}

/// Like [`compile`], of what need not be whole; a plan that lacks something is then an error without problems.
pub fn compile_as(source: &Source<'_>, extent: Extent) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    let own = Layer::parse(&source.overrides.request, "request", &mut problems);
    let own = own.with_assertions(&Assertions::parse(
        source.overrides.assertion.as_ref(),
        source.overrides.client_assertion.as_ref(),
        "",
        &mut problems,
    ));
    let chain = chain(source, &mut problems)?;
    let levels: Vec<_> = chain
        .iter()
        .map(|(name, toml)| Level::parse(name, toml, &mut problems))
        .collect();
    let grant = choose_grant(source, &levels, extent, &mut problems);
    let auth = choose_auth(source, &levels, extent, &mut problems);
    let vars = vars(&levels, &mut problems);
    // Merged even so if a name was wrong: what else is wrong should show.
    let mut clashes = Vec::new();
    let auth_name = auth.as_deref();
    let request = request_plan(
        &own,
        &levels,
        grant.as_deref(),
        auth_name,
        &vars,
        &mut clashes,
    );
    let extra = |written, clashes: &mut Vec<Problem>| {
        extra_plan(&own, &levels, written, auth_name, &vars, clashes)
    };
    let refresh = extra(|level| level.refresh.as_ref(), &mut clashes);
    let spends = |input: &str| {
        let written = written_one_time(&levels, grant.as_deref()?)?;
        written.iter().any(|name| name == input).then_some(())
    };
    let device =
        spends("device_code").and_then(|()| extra(|level| level.device.as_ref(), &mut clashes));
    let made = made_plan(
        &own,
        &levels,
        grant.as_deref(),
        auth_name,
        &vars,
        &mut clashes,
    );
    // Not every grant of a dialect is meant for its default auth method: only a provider says which two go together.
    if extent == Extent::Whole {
        problems.append(&mut clashes);
    }
    let response = response_rules(source, &chain, &request, refresh.is_some(), &mut problems);
    if extent == Extent::Whole && made.is_none() {
        response.check_token(&mut problems);
    }
    let one_time = one_time(&levels, grant.as_deref(), &request, extent, &mut problems);
    let (inject, reject) = inject_and_reject(source, &chain, &vars, extent, &mut problems);
    let defaults = Defaults::parse(&chain, &mut problems);
    let brings_token = response.finds_token() || made.is_some();
    match grant {
        Some(grant) if problems.is_empty() && brings_token => Ok(Plan {
            defaults,
            exchange: ExchangePlan {
                grant,
                auth_method: auth,
                request,
                refresh,
                device,
                made,
                response,
                one_time,
                single_active: (chain.iter())
                    .find_map(|(_, toml)| toml.single_active)
                    .unwrap_or(false),
                identity: (chain.iter())
                    .find_map(|(_, toml)| toml.identity.clone())
                    .unwrap_or_default(),
            },
            inject,
            reject,
        }),
        _ => Err(problems),
    }
}

/// Like [`compile`] for a provider that has a ready `access_token`: no grant, no request.
pub fn compile_static(source: &Source<'_>) -> Result<(InjectPlan, RejectRules), Vec<Problem>> {
    let mut problems = Vec::new();
    let written = [
        ("request", source.overrides.request != Default::default()),
        ("assertion", source.overrides.assertion.is_some()),
        (
            "client_assertion",
            source.overrides.client_assertion.is_some(),
        ),
        ("response", source.overrides.response != Default::default()),
    ];
    for (table, _) in written.iter().filter(|(_, written)| *written) {
        problems.push(Problem {
            path: (*table).to_owned(),
            message: "a provider with `access_token` asks for no token; take this table away"
                .into(),
        });
    }
    let chain = chain(source, &mut problems)?;
    let levels: Vec<_> = (chain.iter())
        .map(|(name, toml)| Level::parse(name, toml, &mut Vec::new()))
        .collect();
    let vars = vars(&levels, &mut problems);
    let plans = inject_and_reject(source, &chain, &vars, Extent::Whole, &mut problems);
    if problems.is_empty() {
        return Ok(plans);
    }
    Err(problems)
}

/// The dialect and what it extends, nearest first. An unknown name ends everything: what else would be
/// reported might only follow from it.
fn chain<'a>(
    source: &Source<'a>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<(&'a str, &'a DialectToml)>, Vec<Problem>> {
    let mut chain: Vec<(&str, &DialectToml)> = Vec::new();
    let mut next = Some(source.dialect).filter(|name| !name.is_empty());
    while let Some(name) = next {
        // `[dialects.oauth2]` with `extends = "oauth2"` stands on the built-in one.
        let of_its_own_name = chain.last().is_some_and(|(child, _)| *child == name);
        let user = source.user.get(name).filter(|_| !of_its_own_name);
        let message = match user.or_else(|| builtin::find_builtin(name)) {
            Some(toml) if chain.iter().any(|(_, known)| std::ptr::eq(*known, toml)) => {
                "the dialects extend each other in a circle".to_owned()
            }
            Some(toml) => {
                chain.push((name, toml));
                next = toml.extends.as_deref();
                continue;
            }
            None if of_its_own_name => "a dialect cannot extend itself".to_owned(),
            None => {
                let user = source.user.keys().map(String::as_str);
                let known = user.chain(builtin().iter().map(|(name, _)| *name));
                format!("unknown dialect{}", hint(name, known))
            }
        };
        problems.push(match chain.last() {
            Some((child, _)) => Problem {
                path: "extends".to_owned(),
                message: format!("{message} (dialect `{child}`)"),
            },
            None => Problem {
                path: "dialect".to_owned(),
                message,
            },
        });
        return Err(std::mem::take(problems));
    }
    Ok(chain)
}

impl<'a> Level<'a> {
    fn parse(name: &str, toml: &'a DialectToml, problems: &mut Vec<Problem>) -> Self {
        let mut found = Vec::new();
        let assertions = Assertions::parse(
            toml.assertion.as_ref(),
            toml.client_assertion.as_ref(),
            "",
            &mut found,
        );
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
                    Some((
                        name,
                        field(grant.token.as_deref()?, at, Place::Exchange, &mut found)?,
                    ))
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

/// `[vars]`, each as the nearest dialect writes it.
fn vars(levels: &[Level<'_>], problems: &mut Vec<Problem>) -> Recipes {
    let mut vars = Recipes::default();
    for (name, field) in levels.iter().flat_map(|level| &level.vars) {
        let recipe = || Recipe::Template(field.clone());
        vars.0.entry((*name).to_owned()).or_insert_with(recipe);
    }
    vars.break_circles(problems);
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
    recipes.break_circles(problems);
    recipes
}

fn request_plan(
    own: &Layer,
    levels: &[Level<'_>],
    grant: Option<&str>,
    auth: Option<&str>,
    vars: &Recipes,
    problems: &mut Vec<Problem>,
) -> RequestPlan {
    let mut layers = vec![(Kind::Provider, own.clone())];
    for level in levels {
        let grant = grant.and_then(|grant| level.grants.get(grant));
        layers.extend(in_order(level, grant, auth));
    }
    finish(&layers, vars, problems)
}

fn finish(layers: &[(Kind, Layer)], vars: &Recipes, problems: &mut Vec<Problem>) -> RequestPlan {
    let mut plan = merge(layers, problems);
    let recipes = recipes(layers, vars, problems);
    plan.computed = recipes.for_templates(plan.templates(), Place::Exchange, problems);
    plan
}

/// The refresh or device authorization request, if the vendor offers it. Of the provider's own `[request]` it takes who asks,
/// but not what is asked: those are the grant's parameters.
fn extra_plan(
    own: &Layer,
    levels: &[Level<'_>],
    written: for<'a> fn(&'a Level<'_>) -> Option<&'a Layer>,
    auth: Option<&str>,
    vars: &Recipes,
    problems: &mut Vec<Problem>,
) -> Option<RequestPlan> {
    if levels.iter().all(|level| written(level).is_none()) {
        return None;
    }
    let mut layers = vec![(Kind::Provider, own.clone().without_parameters())];
    for level in levels {
        layers.extend(in_order(level, written(level), auth));
    }
    // What is wrong with the tables that both share was reported with the grant.
    let mut found = Vec::new();
    let plan = finish(&layers, vars, &mut found);
    problems.extend(
        found
            .into_iter()
            .filter(|problem| !problems.contains(problem))
            .collect::<Vec<_>>(),
    );
    Some(plan)
}

/// A token that the grant makes by itself.
fn made_plan(
    own: &Layer,
    levels: &[Level<'_>],
    grant: Option<&str>,
    auth: Option<&str>,
    vars: &Recipes,
    problems: &mut Vec<Problem>,
) -> Option<MadePlan> {
    let grant = grant?;
    let token = levels.iter().find_map(|level| level.tokens.get(grant))?;
    let mut layers = vec![(Kind::Provider, own.clone())];
    for level in levels {
        layers.extend(in_order(level, level.grants.get(grant), auth));
    }
    let recipes = recipes(&layers, vars, &mut Vec::new());
    Some(MadePlan {
        computed: recipes.for_templates([&token.value], Place::Exchange, problems),
        token: token.clone(),
    })
}

fn in_order(level: &Level<'_>, grant: Option<&Layer>, auth: Option<&str>) -> Vec<(Kind, Layer)> {
    let auth = auth.and_then(|auth| level.auth.get(auth));
    let mut layers = Vec::new();
    layers.extend(grant.map(|layer| (Kind::Table, layer.clone())));
    layers.extend(auth.map(|layer| (Kind::Auth, layer.clone())));
    layers.push((Kind::Table, level.request.clone()));
    layers
}

fn written_one_time<'a>(levels: &[Level<'a>], grant: &str) -> Option<&'a Vec<String>> {
    let mut levels = levels.iter();
    levels.find_map(|level| level.toml.grants.get(grant)?.one_time.as_ref())
}

fn one_time(
    levels: &[Level<'_>],
    grant: Option<&str>,
    request: &RequestPlan,
    extent: Extent,
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let Some(grant) = grant else {
        return Vec::new();
    };
    let written = written_one_time(levels, grant).cloned().unwrap_or_default();
    let known: Vec<_> = request.needs(&|_| false).into_keys().collect();
    for name in &written {
        if !known.contains(&name.as_str()) && extent != Extent::Part {
            problems.push(Problem {
                path: join(&join("grants", grant), "one_time"),
                message: format!(
                    "names a variable that the grant does not use{}",
                    hint(name, known.iter().copied())
                ),
            });
        }
    }
    written
}

fn response_rules(
    source: &Source<'_>,
    chain: &[(&str, &DialectToml)],
    request: &RequestPlan,
    has_refresh: bool,
    problems: &mut Vec<Problem>,
) -> ResponseRules {
    let mut merged = source.overrides.response.clone();
    for (_, toml) in chain {
        inherit_response(&mut merged, &toml.response);
    }
    // A refresh token that nothing here can spend is not kept: a vendor may send one and offer no refresh.
    let spends = request.needs(&|_| false).contains_key("refresh_token");
    merged.refresh_token = if has_refresh || spends {
        let default = || OneOrMany(vec!["/refresh_token".to_owned()]);
        Some(merged.refresh_token.unwrap_or_else(default))
    } else {
        None
    };
    ResponseRules::parse(&merged, problems)
}

fn inherit_response(own: &mut ResponseToml, inherited: &ResponseToml) {
    inherit(&mut own.token, &inherited.token);
    inherit(&mut own.expires, &inherited.expires);
    inherit(&mut own.expires_unit, &inherited.expires_unit);
    inherit(&mut own.refresh_token, &inherited.refresh_token);
    inherit(&mut own.ok, &inherited.ok);
    inherit(&mut own.error, &inherited.error);
    inherit(&mut own.error_description, &inherited.error_description);
    inherit(&mut own.permanent, &inherited.permanent);
    inherit(&mut own.transient, &inherited.transient);
}

fn inject_and_reject(
    source: &Source<'_>,
    chain: &[(&str, &DialectToml)],
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

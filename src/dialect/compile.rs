//! Compiling tables to a [`Plan`]: the dialect, the dialects that it extends, and overrides.
//!
//! Nearer tables win: the provider's own tables, then the dialect, then the dialects that it
//! extends. Inside one dialect the grant (or `[refresh]`) overrides the auth method, which
//! overrides `[request]`.

mod choose;

use choose::{choose_auth, choose_grant};

use super::builtin::{builtin, find_builtin};
use super::computed::{Recipe, Recipes};
use super::defaults::Defaults;
use super::exchange::{ExchangePlan, Merger};
use super::field::Problem;
use super::inject::{InjectPlan, RejectRules};
use super::layer::{Assertions, Layer};
use super::level::{Level, inherit};
use super::schema::{DialectToml, InjectToml, RejectToml};
use super::source::{Extent, Source};
use super::suggest::hint;
use super::template::Place;

/// A dialect and its name.
type Named<'a> = (&'a str, &'a DialectToml);

/// How one provider gets a token and how requests carry the token.
#[derive(Clone, Debug)]
pub struct Plan {
    pub exchange: ExchangePlan,
    pub defaults: Defaults,
    pub inject: InjectPlan,
    pub reject: RejectRules,
}

/// Merges and parses the tables; reports every problem, not just the first.
pub fn compile(source: &Source<'_>) -> Result<Plan, Vec<Problem>> {
    compile_as(source, Extent::Whole)
}

/// [`compile`] for a source that may be incomplete; an incomplete plan is `Err` without problems.
pub fn compile_as(source: &Source<'_>, extent: Extent) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    let own = Layer::parse(
        &source.overrides.request,
        "request",
        Place::Exchange,
        &mut problems,
    );
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
        let message = match user.or_else(|| find_builtin(name)) {
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

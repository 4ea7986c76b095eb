//! The token requests of one provider, merged from the dialects and the provider's overrides.

use std::collections::{BTreeMap, BTreeSet};

use super::computed::{Computed, Recipe, Recipes};
use super::field::{Problem, join};
use super::layer::{Assertions, Kind, Layer};
use super::level::{Level, inherit};
use super::local_token::LocalTokenPlan;
use super::one_or_many::OneOrMany;
use super::places::check_places;
use super::request::RequestPlan;
use super::response::ResponseRules;
use super::schema::{DialectToml, ResponseToml};
use super::source::{Extent, Source};
use super::suggest::hint;
use super::template::Place;
use super::value::Variables;

/// The token requests and how to read their answers.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangePlan {
    /// The grant's name, as in `[grants.NAME]`.
    pub grant: String,
    /// The auth method's name, as in `[auth]`; `None` where the dialect offers no choice.
    pub auth_method: Option<String>,
    pub request: RequestPlan,
    /// Present only if the dialect has `[refresh]`.
    pub refresh: Option<RequestPlan>,
    /// Present only if the dialect has `[device]` and the grant spends a `device_code`.
    pub device: Option<RequestPlan>,
    /// Builds the token locally, in place of `request`.
    pub local_token: Option<LocalTokenPlan>,
    pub response: ResponseRules,
    /// Variables that the first exchange spends.
    pub one_time: Vec<String>,
    /// The dialect's default; the provider's `single_active` overrides it.
    pub single_active: bool,
    /// Names of secrets that identify the token's owner.
    pub identity: Vec<String>,
    /// Name of the authorization code in the redirect after a login.
    pub code_parameter: String,
}

/// The tables that all requests of one provider share.
pub(super) struct Merger<'a> {
    pub(super) own: Layer,
    /// The dialect and the dialects that it extends, nearest first.
    pub(super) levels: Vec<Level<'a>>,
    pub(super) auth: Option<String>,
    pub(super) vars: Recipes,
}

impl ExchangePlan {
    /// Whether the first exchange spends this one-time input: a `code`, a `device_code`.
    pub fn spends(&self, input: &str) -> bool {
        self.one_time.iter().any(|name| name == input)
    }

    /// Names of the variables without which no token can be fetched; a refresh may need others.
    pub fn required_variables(&self) -> BTreeSet<String> {
        self.missing_variables(&|_| false)
    }

    /// [`Self::required_variables`] less those that are `given`; a given computed variable needs
    /// none of its inputs.
    pub fn missing_variables(&self, given: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
        let needs = match &self.local_token {
            Some(token) => token.needs(given),
            None => self.request.needs(given),
        };
        let missing = needs
            .into_iter()
            .filter(|(name, needed)| *needed && !given(name));
        missing.map(|(name, _)| name.to_owned()).collect()
    }

    /// Every variable that request, refresh or device authorization can use.
    pub fn known_variables(&self) -> BTreeSet<String> {
        let sent = self
            .requests()
            .flat_map(|request| request.needs(&|_| false));
        let local = self.local_token.iter();
        let local = local.flat_map(|token| token.needs(&|_| false));
        sent.chain(local).map(|(name, _)| name.to_owned()).collect()
    }

    /// Signing keys in `variables` that cannot sign their assertion: the variable's name and the
    /// reason, which does not quote the key.
    pub fn unusable_keys(&self, variables: &Variables) -> BTreeMap<String, String> {
        let sent = self.requests().map(|request| &request.computed);
        sent.chain(self.local_token.iter().map(|token| &token.computed))
            .flat_map(Computed::recipes)
            .filter_map(|recipe| match recipe {
                Recipe::Assertion(plan) => plan.check_key(variables)?.err(),
                Recipe::Template(_) => None,
            })
            .collect()
    }

    fn requests(&self) -> impl Iterator<Item = &RequestPlan> {
        std::iter::once(&self.request)
            .chain(&self.refresh)
            .chain(&self.device)
    }
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
    pub(super) fn exchange(
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
        let request = finish(&layers, &self.vars, Place::Exchange, &mut clashes);
        let refresh = self.extra(|level| level.refresh.as_ref(), Place::Refresh, &mut clashes);
        let spends_device_code = one_time.iter().any(|name| name == "device_code");
        let device = spends_device_code
            .then(|| self.extra(|level| level.device.as_ref(), Place::Exchange, &mut clashes))
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
            check_places(&response, problems);
        }
        if extent != Extent::Part {
            check_one_time(&one_time, name, &request, problems);
        }
        if local_token.is_none() && !response.finds_token() {
            return None;
        }
        let single_active = tomls.clone().find_map(|toml| toml.single_active);
        let identity = tomls.clone().find_map(|toml| toml.identity.clone());
        let code_parameter = tomls
            .clone()
            .find_map(|toml| toml.code_parameter.as_deref());
        let code_parameter = code_parameter.unwrap_or("code");
        check_code_parameter(code_parameter, problems);
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
            code_parameter: code_parameter.to_owned(),
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
        place: Place,
        problems: &mut Vec<Problem>,
    ) -> Option<RequestPlan> {
        self.levels.iter().find_map(table)?;
        let layers = self.layers(&self.own.clone().without_parameters(), table);
        // Problems of tables that both requests share are already reported for the grant.
        let mut found = Vec::new();
        let plan = finish(&layers, &self.vars, place, &mut found);
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
        Some(LocalTokenPlan::new(token.clone(), &recipes, problems))
    }
}

fn finish(
    layers: &[(Kind, Layer)],
    vars: &Recipes,
    place: Place,
    problems: &mut Vec<Problem>,
) -> RequestPlan {
    let plan = RequestPlan::merge(layers, problems);
    let recipes = recipes(layers, vars, problems);
    plan.with_recipes(&recipes, place, problems)
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

fn check_code_parameter(name: &str, problems: &mut Vec<Problem>) {
    /// RFC 6749 §4.1.2, RFC 9207.
    const TAKEN: [&str; 4] = ["state", "iss", "error", "error_description"];
    if name.is_empty() || TAKEN.contains(&name) {
        let message = "must be a query parameter that holds nothing but the code";
        problems.push(Problem::new("code_parameter", message));
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
    inherit(&mut own.issued_at, &from.issued_at);
    inherit(&mut own.refresh_token, &from.refresh_token);
    inherit(&mut own.ok, &from.ok);
    inherit(&mut own.error, &from.error);
    inherit(&mut own.error_description, &from.error_description);
    inherit(&mut own.permanent, &from.permanent);
    inherit(&mut own.transient, &from.transient);
    inherit(&mut own.final_, &from.final_);
}

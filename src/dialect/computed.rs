//! Variables computed from others: `[vars]`, `{assertion}`, `{client_assertion}`. Each is computed
//! once per fetch.

use std::collections::{BTreeMap, BTreeSet};

use super::assertion::AssertionPlan;
use super::field::{Field, Problem, field, join};
use super::needs::order;
use super::schema::Scalar;
use super::template::{BUILT_INS, CHAINED, Place, Scope, Template, check_use};
use super::value::{Values, is_name};

/// How a variable is computed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Recipe {
    Template(Field<(), Template>),
    Assertion(Box<AssertionPlan>),
}

/// Recipes by name, without cycles after [`Recipes::break_cycles`].
#[derive(Clone, Debug, Default)]
pub(super) struct Recipes(pub(super) BTreeMap<String, Recipe>);

/// The recipes that some templates need, each after its own inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Computed(Vec<(String, Recipe)>);

impl Recipe {
    pub(super) fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Template(field) => vec![&field.value],
            Self::Assertion(plan) => plan.templates(),
        }
    }

    fn variables(&self) -> impl Iterator<Item = (&str, bool)> {
        self.templates().into_iter().flat_map(Template::variables)
    }
}

impl Recipes {
    /// Removes the variables that need themselves, and reports each cycle once.
    pub(super) fn break_cycles(&mut self, problems: &mut Vec<Problem>) {
        let order = order(self.0.keys().map(String::as_str), |name| {
            let variables = self.0.get(name).into_iter().flat_map(Recipe::variables);
            variables.map(|(needed, _)| needed)
        });
        let mut circular = BTreeSet::new();
        for cycle in order.cycles {
            let message = format!(
                "the variables need each other in a circle: {}",
                cycle.join(" → ")
            );
            problems.push(Problem::new(path_of(cycle[0]), message));
            circular.extend(cycle.into_iter().map(str::to_owned));
        }
        self.0.retain(|name, _| !circular.contains(name));
    }

    /// The recipes that `templates` need; reports recipes that use variables unknown at `place`.
    pub(super) fn for_templates<'a>(
        &self,
        templates: impl IntoIterator<Item = &'a Template>,
        place: Place,
        problems: &mut Vec<Problem>,
    ) -> Computed {
        let mut computed = Computed::default();
        for (name, _) in templates.into_iter().flat_map(Template::variables) {
            self.add(name, place, &mut computed, problems);
        }
        computed
    }

    fn add(&self, name: &str, place: Place, computed: &mut Computed, problems: &mut Vec<Problem>) {
        let Some(recipe) = self.0.get(name) else {
            return;
        };
        if computed.get(name).is_some() {
            return;
        }
        for template in recipe.templates() {
            if let Err(message) = check_use(template, place) {
                let problem = Problem::new(path_of(name), message);
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        for (needed, _) in recipe.variables() {
            self.add(needed, place, computed, problems);
        }
        computed.0.push((name.to_owned(), recipe.clone()));
    }
}

/// One entry of `[vars]`.
pub(super) fn parse_var(
    name: &str,
    value: &Scalar,
    problems: &mut Vec<Problem>,
) -> Option<Field<(), Template>> {
    let path = join("vars", name);
    let message = match name {
        _ if !is_name(name) => "a variable's name is made of letters, digits, `_`, `-` and `.`",
        "assertion" | "client_assertion" => "is made by the table of that name",
        "access_token" => "is the token itself, which no variable can replace",
        _ if BUILT_INS.contains(&name) || name.starts_with(CHAINED) => {
            "has a meaning already: choose another name"
        }
        _ => return field(&value.to_string(), path, Place::Computed, problems),
    };
    problems.push(Problem::new(path, message));
    None
}

/// The variable's path in the dialect.
fn path_of(name: &str) -> String {
    match name {
        "assertion" | "client_assertion" => name.to_owned(),
        name => format!("vars.{name}"),
    }
}

impl Computed {
    pub(super) fn get(&self, name: &str) -> Option<&Recipe> {
        let mut all = self.0.iter();
        all.find_map(|(known, recipe)| (known == name).then_some(recipe))
    }

    /// Computes all values except those that the provider gives itself.
    pub(super) fn values(&self, scope: Scope<'_>) -> Result<Values, Problem> {
        let mut values = Values::new();
        for (name, recipe) in &self.0 {
            if scope.variables.contains_key(name) {
                continue;
            }
            let scope = scope.with(&values);
            let lacks = |(name, needed): (&str, bool)| needed && !scope.has(name);
            if recipe.variables().any(lacks) {
                continue;
            }
            let value = match recipe {
                Recipe::Template(field) => {
                    (field.value.fill_typed(scope)).map_err(|message| field.problem(message))?
                }
                Recipe::Assertion(plan) => Some(plan.sign(scope)?),
            };
            if let Some(value) = value {
                values.insert(name.clone(), value);
            }
        }
        Ok(values)
    }

    /// The variables that `templates` can use, each with whether the templates require it from a
    /// provider that has the `given` ones.
    pub(super) fn needs<'a>(
        &'a self,
        templates: &[&'a Template],
        given: &dyn Fn(&str) -> bool,
    ) -> BTreeMap<&'a str, bool> {
        let mut needs = BTreeMap::new();
        for (name, required) in templates.iter().flat_map(|template| template.variables()) {
            self.need(name, required, given, &mut needs);
        }
        needs
    }

    fn need<'a>(
        &'a self,
        name: &'a str,
        required: bool,
        given: &dyn Fn(&str) -> bool,
        needs: &mut BTreeMap<&'a str, bool>,
    ) {
        let recipe = self.get(name);
        *needs.entry(name).or_default() |= required && recipe.is_none();
        if let Some(recipe) = recipe
            && !given(name)
        {
            for (needed, inner) in recipe.variables() {
                self.need(needed, required && inner, given, needs);
            }
        }
    }

    pub(super) fn recipes(&self) -> impl Iterator<Item = &Recipe> {
        self.0.iter().map(|(_, recipe)| recipe)
    }

    /// Names of the values that hold more than literal text of the dialect.
    pub(super) fn made_of_variables(&self) -> impl Iterator<Item = &str> {
        let all = self.0.iter();
        all.filter(|(_, recipe)| recipe.templates().iter().any(|it| it.has_placeholders()))
            .map(|(name, _)| name.as_str())
    }
}

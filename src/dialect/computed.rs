//! Variables that a dialect makes of others: `[vars]`, `{assertion}`, `{client_assertion}`. Each is made once per fetch.

use std::collections::{BTreeMap, BTreeSet};

use super::assertion::AssertionPlan;
use super::filter::Value;
use super::layer::{Field, join, template};
use super::needs::order;
use super::schema::Scalar;
use super::template::{Place, Scope, Template, check_use, is_name};
use super::{BUILT_INS, CHAINED, Problem};

/// How one of them is made.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Recipe {
    Template(Field<(), Template>),
    Assertion(Box<AssertionPlan>),
}

/// By name. Not in a circle: see [`Recipes::break_circles`].
#[derive(Clone, Debug, Default)]
pub(super) struct Recipes(pub(super) BTreeMap<String, Recipe>);

/// Those that some templates need, each after the ones that it needs itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Computed(Vec<(String, Recipe)>);

/// Their values. What lacks a variable is not there.
pub(super) type Values = BTreeMap<String, Value>;

// === impl Recipe ===

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

// === impl Recipes ===

impl Recipes {
    /// Removes the variables that need themselves, and reports each circle once.
    pub(super) fn break_circles(&mut self, problems: &mut Vec<Problem>) {
        let order = order(self.0.keys().map(String::as_str), |name| {
            let variables = self.0.get(name).into_iter().flat_map(Recipe::variables);
            variables.map(|(needed, _)| needed)
        });
        let mut circular = BTreeSet::new();
        for circle in order.circles {
            problems.push(Problem {
                path: path_of(circle[0]),
                message: format!(
                    "the variables need each other in a circle: {}",
                    circle.join(" → ")
                ),
            });
            circular.extend(circle.into_iter().map(str::to_owned));
        }
        self.0.retain(|name, _| !circular.contains(name));
    }

    /// What `templates` need, and whether all of it may stand where they do.
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
                let path = path_of(name);
                let known = |problem: &Problem| problem.path == path && problem.message == message;
                if !problems.iter().any(known) {
                    problems.push(Problem { path, message });
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
        "access_token" => "is the token itself, which nothing can be put in place of",
        _ if BUILT_INS.contains(&name) || name.starts_with(CHAINED) => {
            "has a meaning already: choose another name"
        }
        _ => return field(&value.to_string(), path, Place::Computed, problems),
    };
    problems.push(Problem {
        path,
        message: message.to_owned(),
    });
    None
}

pub(super) fn field(
    text: &str,
    path: String,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Option<Field<(), Template>> {
    let value = template(text, &path, place, problems)?;
    Some(Field {
        name: (),
        value,
        path,
    })
}

/// Where it is written.
pub(super) fn path_of(name: &str) -> String {
    match name {
        "assertion" | "client_assertion" => name.to_owned(),
        name => format!("vars.{name}"),
    }
}

// === impl Computed ===

impl Computed {
    pub(super) fn get(&self, name: &str) -> Option<&Recipe> {
        let mut all = self.0.iter();
        all.find_map(|(known, recipe)| (known == name).then_some(recipe))
    }

    /// Makes them all. The provider's own value of the same name beats a computed one, which is then not made.
    pub(super) fn values(&self, scope: Scope<'_>) -> Result<Values, Problem> {
        let mut values = Values::new();
        for (name, recipe) in &self.0 {
            if scope.variables.contains_key(name) {
                continue;
            }
            let scope = Scope {
                computed: Some(&values),
                ..scope
            };
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

    /// What `templates` need of a provider that has `given`: every name that can be of use, and whether nothing can be sent
    /// without it.
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
        let own = required && recipe.is_none();
        let before = needs.insert(name, own);
        if before == Some(true) {
            needs.insert(name, true);
        }
        // Looked at twice only where it turns out to be required.
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

    /// The names of those that hold something else than text of the dialect.
    pub(super) fn made_of_variables(&self) -> impl Iterator<Item = &str> {
        let all = self.0.iter();
        all.filter(|(_, recipe)| recipe.templates().iter().any(|it| it.has_holes()))
            .map(|(name, _)| name.as_str())
    }
}

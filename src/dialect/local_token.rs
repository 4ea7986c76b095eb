//! A token that is built locally, such as a self-signed JWT.

use std::collections::BTreeMap;

use super::answer::Issued;
use super::computed::{Computed, Recipes};
use super::expiry::{self, Expiry};
use super::field::{Field, Problem};
use super::response::check_token;
use super::selector::jwt_exp;
use super::template::{Place, Scope, Template};
use super::value::{Frozen, Variables};
use crate::secret::Secret;

/// A token that is built locally, from `[grants.NAME] token`.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalTokenPlan {
    token: Field<(), Template>,
    pub(super) computed: Computed,
}

impl LocalTokenPlan {
    pub(super) fn new(
        token: Field<(), Template>,
        recipes: &Recipes,
        problems: &mut Vec<Problem>,
    ) -> Self {
        Self {
            computed: recipes.for_templates([&token.value], Place::Exchange, problems),
            token,
        }
    }

    /// Builds a token. Its `exp` gives the expiry; without `exp` the provider's `ttl` decides.
    pub fn make(&self, variables: &Variables, frozen: &Frozen) -> Result<Issued, Problem> {
        let scope = Scope::of_request(variables, frozen);
        let values = self.computed.values(scope)?;
        let scope = scope.with(&values);
        let token = self.token.fill(scope)?.unwrap_or_default();
        check_token(&token).map_err(|reason| self.token.problem(reason))?;
        let exp = jwt_exp(&token);
        Ok(Issued {
            expiry: exp.map_or(Expiry::Unstated, |exp| expiry::at_unix(exp, None)),
            access_token: Secret::new(token.as_str()),
            refresh_token: None,
            warnings: Vec::new(),
        })
    }

    pub(super) fn needs(&self, given: &dyn Fn(&str) -> bool) -> BTreeMap<&str, bool> {
        self.computed.needs(&[&self.token.value], given)
    }
}

//! A token that is built locally, such as a self-signed JWT.

use std::collections::BTreeMap;

use super::field::Problem;
use super::response::check_token;
use super::selector::jwt_exp;
use super::template::Scope;
use super::value::{Frozen, Variables};
use super::{Expiry, Issued, LocalTokenPlan, expiry};
use crate::secret::Secret;

impl LocalTokenPlan {
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

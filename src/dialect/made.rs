//! A token that is made here: a JWT that signs for itself. Nobody is asked for it.

use std::collections::BTreeMap;

use super::response::check_token;
use super::selector::jwt_exp;
use super::template::Scope;
use super::{Expiry, Frozen, Issued, MadePlan, Problem, Variables, expiry};
use crate::secret::Secret;

impl MadePlan {
    /// Makes one. Its life is what its own `exp` says; without one, the provider's `ttl` decides.
    pub fn make(&self, variables: &Variables, frozen: &Frozen) -> Result<Issued, Problem> {
        let scope = Scope {
            frozen: Some(frozen),
            ..Scope::of(variables)
        };
        let values = self.computed.values(scope)?;
        let scope = Scope {
            computed: Some(&values),
            ..scope
        };
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

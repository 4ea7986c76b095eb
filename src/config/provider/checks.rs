//! Checks that a provider has every variable its dialect needs.

use super::*;
use crate::config::context::Context;

impl Parts<'_> {
    pub(super) fn check_one_time(&self, plan: &ExchangePlan, cx: &mut Context<'_>) {
        if plan.one_time.is_empty() || self.durable_store {
            return;
        }
        let (name, grant) = (self.name, &plan.grant);
        let lost = "whose one-time input is lost without a persistent store";
        let message = format!("provider `{name}` uses grant `{grant}`, {lost}");
        cx.problem(
            &KeyPath::root().key("store").key("kind"),
            complaint(message).hint("set store.kind = \"file\" and store.path"),
        );
    }

    pub(super) fn check_missing(
        &self,
        plan: &ExchangePlan,
        dialect: &str,
        variables: &Variables,
        cx: &mut Context<'_>,
    ) {
        let grant = format!("grant `{}` of dialect `{dialect}`", plan.grant);
        for name in plan.missing_variables(&|name| variables.has(name)) {
            if !variables.has(&name) && !self.comes_later(plan, &name) {
                self.missing(&name, &grant, cx);
            }
        }
    }

    pub(super) fn check_injected(
        &self,
        inject: &InjectPlan,
        dialect: &str,
        variables: &Variables,
        cx: &mut Context<'_>,
    ) {
        for name in injected(inject, false) {
            if let Some(at) = variables.at(&name).filter(|_| variables.is_chained(&name)) {
                let message = "the token of another provider is only for token requests";
                let hint = "`inject` carries the provider's own token";
                cx.problem(&at, complaint(message).hint(hint));
            }
        }
        for name in injected(inject, true) {
            if !variables.has(&name) {
                self.missing(&name, &format!("`inject` of dialect `{dialect}`"), cx);
            }
        }
    }

    pub(super) fn missing(&self, name: &str, needed_by: &str, cx: &mut Context<'_>) {
        let (at, hint) = if WELL_KNOWN.contains(&name) {
            let hint = format!("{name} = \"…\", or {name} = {{ env = \"NAME\" }}");
            (self.at.key(name), hint)
        } else {
            let hint = format!("vars = {{ {name} = \"…\" }}");
            (self.at.key("vars").key(name), hint)
        };
        let missing = complaint(format!("is missing: {needed_by} needs it"));
        cx.problem(&at, missing.hint(hint));
    }

    /// Returns whether `cupbearer login` or the store provides the variable.
    pub(super) fn comes_later(&self, plan: &ExchangePlan, name: &str) -> bool {
        match name {
            "refresh_token" => self.durable_store,
            "redirect_uri" | "code_verifier" => plan.spends("code"),
            _ => plan.one_time.iter().any(|input| input == name),
        }
    }
}

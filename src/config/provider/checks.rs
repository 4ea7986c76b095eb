//! Whether a provider has all that its dialect asks for, and nothing that it does not.

use super::*;
use crate::config::context::Context;

impl Parts<'_> {
    pub(super) fn check_one_time(&self, plan: &ExchangePlan, cx: &mut Context<'_>) {
        if plan.one_time.is_empty() || self.durable_store {
            return;
        }
        cx.problem(
            &KeyPath::root().key("store").key("kind"),
            complaint(format!(
                "provider `{}` uses grant `{}`, whose one-time input must outlive a restart",
                self.name, plan.grant
            ))
            .hint("set store.kind = \"file\" and store.path"),
        );
    }

    pub(super) fn check_missing(
        &self,
        plan: &ExchangePlan,
        dialect: &str,
        variables: &Variables,
        cx: &mut Context<'_>,
    ) {
        for name in plan.missing_variables(&|name| variables.has(name)) {
            if !variables.has(&name) && !self.comes_later(plan, &name) {
                let grant = format!("grant `{}` of dialect `{dialect}`", plan.grant);
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
            if variables.is_chained(&name)
                && let Some(at) = variables.at(&name)
            {
                cx.problem(
                    &at,
                    complaint("the token of another provider is only for token requests")
                        .hint("`inject` is for the provider's own token"),
                );
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

    /// Whether `cupbearer login` provides the variable: one-time inputs and what belongs to them, and a refresh
    /// token that the store keeps.
    pub(super) fn comes_later(&self, plan: &ExchangePlan, name: &str) -> bool {
        match name {
            "refresh_token" => self.durable_store,
            "redirect_uri" | "code_verifier" => plan.begins_with("code"),
            _ => plan.one_time.iter().any(|input| input == name),
        }
    }
}

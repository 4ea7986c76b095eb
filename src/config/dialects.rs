//! `[dialects.NAME]`: compiles a provider's dialect, overrides and grant.

use std::collections::{BTreeMap, BTreeSet};

use toml::Table;

use super::context::Context;
use super::problems::{KeyPath, complaint};
use super::read::{Tree, section};
use crate::dialect::{self, DialectToml, Extent, InjectPlan, Overrides, Plan, RejectRules, Source};

/// The user's dialects.
#[derive(Debug, Default)]
pub(super) struct Dialects {
    user: BTreeMap<String, DialectToml>,
    /// Dialects with unreadable keys, which their plans may lack.
    broken: BTreeSet<String>,
    /// The tables of the file.
    written: BTreeMap<String, Tree>,
}

/// One provider's use of a dialect.
#[derive(Debug)]
pub(super) struct Use<'a> {
    pub(super) at: &'a KeyPath,
    pub(super) dialect: &'a str,
    pub(super) overrides: &'a Overrides,
    /// The tables of the overrides.
    pub(super) written: &'a Table,
    /// Whether a key of the overrides could not be read.
    pub(super) broken: bool,
    pub(super) grant: Option<&'a str>,
    pub(super) auth_method: Option<&'a str>,
}

impl Dialects {
    pub(super) fn read(tables: Vec<(String, Tree)>, at: &KeyPath, cx: &mut Context<'_>) -> Self {
        let mut dialects = Self::default();
        for (name, mut tree) in tables {
            let at = at.key(&name);
            let dialect = section(&mut tree, &at, &mut cx.problems).unwrap_or_default();
            if cx.problems.has_unread(&at) {
                dialects.broken.insert(name.clone());
            }
            dialects.user.insert(name.clone(), dialect);
            dialects.written.insert(name, tree);
        }
        dialects
    }

    /// Compiles a provider's plan. Problems are reported at the dialect or provider they come from.
    pub(super) fn compile(&self, used: &Use<'_>, cx: &mut Context<'_>) -> Option<Plan> {
        let extent = self.extent(used.dialect);
        let with_overrides = if used.broken { Extent::Part } else { extent };
        let compile = |source: &Source<'_>| dialect::compile_as(source, with_overrides);
        let plan = self.run(used, compile, cx);
        // An incomplete plan would cause false problems in later checks.
        plan.filter(|_| extent == Extent::Whole)
    }

    /// Compiles with another auth method, if the dialect has one.
    pub(super) fn compile_with(&self, used: &Use<'_>, auth_method: &str) -> Option<Plan> {
        let source = Source {
            auth_method: Some(auth_method),
            ..self.source(used)
        };
        dialect::compile(&source).ok()
    }

    /// Compiles for a provider with a configured `access_token`.
    pub(super) fn compile_static(
        &self,
        used: &Use<'_>,
        cx: &mut Context<'_>,
    ) -> Option<(InjectPlan, RejectRules)> {
        if self.extent(used.dialect) != Extent::Whole {
            return None;
        }
        self.run(used, dialect::compile_static, cx)
    }

    /// Compiles every grant of every dialect, so that unused dialects report their mistakes, too.
    pub(super) fn check(&self, at: &KeyPath, cx: &mut Context<'_>) {
        for (name, dialect) in &self.user {
            let extent = self.extent(name).max(Extent::Base);
            for grant in std::iter::once(None).chain(dialect.grants.names().map(Some)) {
                let used = Use {
                    at: &at.key(name),
                    dialect: name,
                    overrides: &Overrides::default(),
                    written: &Table::new(),
                    broken: false,
                    grant,
                    auth_method: None,
                };
                self.run(&used, |source| dialect::compile_as(source, extent), cx);
            }
        }
    }

    fn run<T>(
        &self,
        used: &Use<'_>,
        compile: impl FnOnce(&Source<'_>) -> Result<T, Vec<dialect::Problem>>,
        cx: &mut Context<'_>,
    ) -> Option<T> {
        let report = |problems: Vec<dialect::Problem>| {
            for problem in problems {
                let at = self.writer(used, &problem.path);
                cx.problem(&at.dotted(&problem.path), complaint(problem.message));
            }
        };
        compile(&self.source(used)).map_err(report).ok()
    }

    fn source<'a>(&'a self, used: &Use<'a>) -> Source<'a> {
        Source {
            dialect: used.dialect,
            user: &self.user,
            overrides: used.overrides,
            grant: used.grant,
            auth_method: used.auth_method,
        }
    }

    /// Returns the table that holds a key: the provider, its dialect, or one that this extends.
    fn writer(&self, used: &Use<'_>, path: &str) -> KeyPath {
        let of_provider = matches!(path, "" | "dialect" | "grant" | "auth_method");
        if of_provider || !self.user.contains_key(used.dialect) || wrote(used.written, path) {
            return used.at.clone();
        }
        let table = |name: &str| self.written.get(name)?.0.as_table();
        let writer = (self.chain(used.dialect))
            .find(|name| table(name).is_some_and(|table| wrote(table, path)));
        let dialects = KeyPath::root().key("dialects");
        dialects.key(writer.unwrap_or(used.dialect))
    }

    fn extent(&self, dialect: &str) -> Extent {
        match self.chain(dialect).any(|name| self.broken.contains(name)) {
            true => Extent::Part,
            false => Extent::Whole,
        }
    }

    /// Returns the dialect and those of the user that it extends, nearest first.
    fn chain<'a>(&'a self, dialect: &'a str) -> impl Iterator<Item = &'a str> {
        let extends = |name: &&'a str| self.user.get(*name)?.extends.as_deref();
        // The limit ends a cycle; the compiler reports it.
        std::iter::successors(Some(dialect), extends).take(self.user.len() + 1)
    }
}

/// Returns whether a table holds the first two keys of `path`, or three in `grants` and `auth`. The
/// rest is ambiguous: names may contain dots.
fn wrote(table: &Table, path: &str) -> bool {
    let mut keys = path.split('.');
    let first = keys.next().unwrap_or_default();
    let depth = match first {
        "grants" | "auth" => 2,
        _ => 1,
    };
    let found = table.get(first);
    let found = found.and_then(|value| {
        keys.take(depth)
            .try_fold(value, |value, key| value.get(key))
    });
    found.is_some()
}

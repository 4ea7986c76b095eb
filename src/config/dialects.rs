//! `[dialects.NAME]`, and how a provider's dialect, overrides and grant are compiled.

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
    /// Those in which something could not be read: what is compiled from one may lack it.
    broken: BTreeSet<String>,
    /// As they are written.
    written: BTreeMap<String, Tree>,
}

/// How one provider uses a dialect.
#[derive(Debug)]
pub(super) struct Use<'a> {
    pub(super) at: &'a KeyPath,
    pub(super) dialect: &'a str,
    pub(super) overrides: &'a Overrides,
    /// The overrides as they are written.
    pub(super) written: &'a Table,
    /// Something in the overrides could not be read.
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
            if cx.problems.is_struck_out(&at) {
                dialects.broken.insert(name.clone());
            }
            dialects.user.insert(name.clone(), dialect);
            dialects.written.insert(name, tree);
        }
        dialects
    }

    /// Compiles a provider's plan; `None` if there are problems, which are then told in the place they come from.
    pub(super) fn compile(&self, used: &Use<'_>, cx: &mut Context<'_>) -> Option<Plan> {
        let extent = self.extent(used.dialect);
        let with_overrides = if used.broken { Extent::Part } else { extent };
        let compile = |source: &Source<'_>| dialect::compile_as(source, with_overrides);
        let plan = self.run(used, compile, cx);
        // The plan of a dialect that lacks something would only lead to complaints that are none.
        plan.filter(|_| extent == Extent::Whole)
    }

    /// The plan with another auth method, where there is one and nothing is wrong with it.
    pub(super) fn compile_with(&self, used: &Use<'_>, auth_method: &str) -> Option<Plan> {
        let source = Source {
            dialect: used.dialect,
            user: &self.user,
            overrides: used.overrides,
            grant: used.grant,
            auth_method: Some(auth_method),
        };
        dialect::compile(&source).ok()
    }

    /// [`Self::compile`] for a provider that is given its token.
    pub(super) fn compile_static(
        &self,
        used: &Use<'_>,
        cx: &mut Context<'_>,
    ) -> Option<(InjectPlan, RejectRules)> {
        match self.extent(used.dialect) {
            Extent::Whole => self.run(used, dialect::compile_static, cx),
            Extent::Base | Extent::Part => None,
        }
    }

    /// Compiles every grant of every dialect, used or not, so that a mistake shows when it is made.
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
        let source = Source {
            dialect: used.dialect,
            user: &self.user,
            overrides: used.overrides,
            grant: used.grant,
            auth_method: used.auth_method,
        };
        let problems = match compile(&source) {
            Ok(compiled) => return Some(compiled),
            Err(problems) => problems,
        };
        for problem in problems {
            let at = self.writer(used, &problem.path);
            cx.problem(&at.dotted(&problem.path), complaint(problem.message));
        }
        None
    }

    /// Who wrote a key: the provider, its dialect, or a dialect that this one extends.
    fn writer(&self, used: &Use<'_>, path: &str) -> KeyPath {
        let of_provider = matches!(path, "" | "dialect" | "grant" | "auth_method");
        if of_provider || !self.user.contains_key(used.dialect) || wrote(used.written, path) {
            return used.at.clone();
        }
        let wrote_it = |name: &&str| {
            let tree = self.written.get(*name);
            tree.and_then(|tree| tree.0.as_table())
                .is_some_and(|table| wrote(table, path))
        };
        let writer = self.chain(used.dialect).find(wrote_it);
        let dialects = KeyPath::root().key("dialects");
        dialects.key(writer.unwrap_or(used.dialect))
    }

    /// Whether the dialect or one that it extends could not be read whole.
    fn extent(&self, dialect: &str) -> Extent {
        if self.chain(dialect).any(|name| self.broken.contains(name)) {
            return Extent::Part;
        }
        Extent::Whole
    }

    /// The user's dialects that this one is made of, nearest first.
    fn chain<'a>(&'a self, dialect: &'a str) -> impl Iterator<Item = &'a str> {
        let extends = |name: &&'a str| self.user.get(*name)?.extends.as_deref();
        // Circles are for the compiler to tell; here they only have to end.
        std::iter::successors(Some(dialect), extends).take(self.user.len() + 1)
    }
}

/// Whether a table holds the key of this path: its table and its name, and of `grants` and `auth` one more. The rest of
/// a path cannot be told apart from a name with dots in it.
fn wrote(table: &Table, path: &str) -> bool {
    let mut keys = path.split('.');
    let Some(first) = keys.next() else {
        return false;
    };
    let depth = if matches!(first, "grants" | "auth") {
        2
    } else {
        1
    };
    let mut found = table.get(first);
    for key in keys.take(depth) {
        found = found.and_then(|value| value.get(key));
    }
    found.is_some()
}

//! `[dialects.NAME]`, and how a provider's dialect, overrides and grant are compiled.

use std::collections::{BTreeMap, BTreeSet};

use toml::Table;

use super::context::Context;
use super::problems::{KeyPath, complaint};
use super::read::{Tree, section};
use crate::dialect::{self, DialectToml, Overrides, Source};

/// The user's dialects.
#[derive(Debug, Default)]
pub(super) struct Dialects {
    user: BTreeMap<String, DialectToml>,
    /// Something in the user's dialects could not be read: what is compiled from one may lack it.
    broken: bool,
}

/// How one provider uses a dialect.
#[derive(Debug)]
pub(super) struct Use<'a> {
    pub(super) at: &'a KeyPath,
    pub(super) dialect: &'a str,
    pub(super) overrides: &'a Overrides,
    /// The overrides as they are written.
    pub(super) written: &'a Table,
    pub(super) grant: Option<&'a str>,
    pub(super) auth_method: Option<&'a str>,
}

impl Dialects {
    pub(super) fn read(tables: Vec<(String, Tree)>, at: &KeyPath, cx: &mut Context<'_>) -> Self {
        let mut dialects = Self::default();
        for (name, mut tree) in tables {
            let at = at.key(&name);
            match section(&mut tree, &at, &mut cx.problems) {
                Some(dialect) => dialects.user.insert(name, dialect),
                None => dialects.user.insert(name, DialectToml::default()),
            };
            dialects.broken |= cx.problems.is_struck_out(&at);
        }
        dialects
    }

    /// Runs one of the compilers; `None` if there are problems, which are then told in the place they come from.
    pub(super) fn compile<T>(
        &self,
        used: &Use<'_>,
        compile: impl FnOnce(&Source<'_>) -> Result<T, Vec<dialect::Problem>>,
        cx: &mut Context<'_>,
    ) -> Option<T> {
        let of_user = self.user.contains_key(used.dialect);
        if of_user && self.broken {
            return None;
        }
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
            let at = if of_user && !used.wrote(&problem.path) {
                KeyPath::root().key("dialects").key(used.dialect)
            } else {
                used.at.clone()
            };
            cx.problem(&at.dotted(&problem.path), complaint(problem.message));
        }
        None
    }

    /// Compiles what no provider uses, so that a mistake shows when it is made.
    pub(super) fn check_unused(&self, used: &BTreeSet<String>, at: &KeyPath, cx: &mut Context<'_>) {
        if self.broken {
            return;
        }
        let unused = self.user.iter().filter(|(name, _)| !used.contains(*name));
        for (name, dialect) in unused {
            let own: Vec<_> = dialect.grants.names().map(Some).collect();
            let grants = if dialect.default_grant.is_some() || own.is_empty() {
                vec![None]
            } else {
                own
            };
            for grant in grants {
                let used = Use {
                    at: &at.key(name),
                    dialect: name,
                    overrides: &Overrides::default(),
                    written: &Table::new(),
                    grant,
                    auth_method: None,
                };
                // A base that others extend may leave the choice of a grant to them.
                let compile = |source: &Source<'_>| {
                    dialect::compile(source).map_err(|mut problems| {
                        problems.retain(|problem| problem.path != "grant");
                        problems
                    })
                };
                self.compile(&used, compile, cx);
            }
        }
    }
}

impl Use<'_> {
    /// Whether a path inside the dialect or provider was written by the provider.
    fn wrote(&self, path: &str) -> bool {
        let mut keys = path.split('.');
        let table = match keys.next() {
            Some("" | "dialect" | "grant" | "auth_method") | None => return true,
            Some(first) => self.written.get(first),
        };
        table.is_some_and(|table| keys.next().is_none_or(|key| table.get(key).is_some()))
    }
}

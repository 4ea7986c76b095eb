//! What a new configuration changes, and which of its changes need a restart. Pure.

use std::fmt;

use crate::config::{Config, Problem, Server};

/// At most this many names of a kind are listed.
const LISTED: usize = 8;

/// What a reload changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) server: bool,
    pub(super) admin: bool,
    pub(super) listeners: Names,
    pub(super) providers: Names,
    pub(super) upstreams: Names,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) added: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) removed: Vec<String>,
}

/// Returns one problem for each changed key that is only read when the process starts.
pub(super) fn needs_restart(old: &Config, new: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |path: &str, made: &str| {
        problems.push(Problem {
            path: path.to_owned(),
            message: format!("a change here needs a restart: {made} when the process starts"),
            hint: Some("nothing was changed".to_owned()),
        });
    };
    if old.server.workers != new.server.workers {
        add("server.workers", "the threads are made");
    }
    if old.store != new.store {
        add("store", "the store is opened");
    }
    problems
}

/// Returns whether `[server]` differs in more than its listeners, which are reported by name.
pub(super) fn settings_differ(old: &Server, new: &Server) -> bool {
    let without_listeners = |server: &Server| Server {
        listen: Vec::new(),
        admin: None,
        ..server.clone()
    };
    without_listeners(old) != without_listeners(new)
}

impl Names {
    /// Compares two lists that are sorted by name; `same` compares two items of one name.
    pub(super) fn between<T>(
        old: &[T],
        new: &[T],
        name: fn(&T) -> &str,
        same: impl Fn(&T, &T) -> bool,
    ) -> Self {
        let find = |list: &[T], item| list.binary_search_by(|it| name(it).cmp(name(item)));
        let mut names = Self::default();
        for item in new {
            match find(old, item) {
                Ok(index) if same(&old[index], item) => {}
                Ok(_) => names.changed.push(name(item).to_owned()),
                Err(_) => names.added.push(name(item).to_owned()),
            }
        }
        let removed = old.iter().filter(|item| find(new, item).is_err());
        names.removed = removed.map(|item| name(item).to_owned()).collect();
        names
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("added listeners", &self.listeners.added),
            ("removed listeners", &self.listeners.removed),
            ("added providers", &self.providers.added),
            ("changed providers", &self.providers.changed),
            ("removed providers", &self.providers.removed),
            ("added upstreams", &self.upstreams.added),
            ("changed upstreams", &self.upstreams.changed),
            ("removed upstreams", &self.upstreams.removed),
        ];
        let mut parts: Vec<_> = kinds
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(kind, names)| format!("{kind}: {}", listed(names)))
            .collect();
        if self.admin {
            parts.push("changed admin port".to_owned());
        }
        if self.server {
            parts.push("changed server settings".to_owned());
        }
        if parts.is_empty() {
            parts.push("nothing changed".to_owned());
        }
        f.write_str(&parts.join("; "))
    }
}

fn listed(names: &[String]) -> String {
    let mut text = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED {
        text.push_str(&format!(" and {} more", names.len() - LISTED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NoEnvironment;

    fn config(server: &str, rest: &str) -> Config {
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:8080\", \"127.0.0.1:8081\"]\n{server}\n\
             [providers.p]\naccess_token = \"x\"\n\
             [upstreams.u]\nurl = \"https://api.test\"\nprovider = \"p\"\n{rest}"
        );
        Config::from_toml(&text, &NoEnvironment).unwrap()
    }

    fn restart(old: &Config, new: &Config) -> Vec<String> {
        needs_restart(old, new)
            .into_iter()
            .map(|problem| problem.path)
            .collect()
    }

    #[test]
    fn changes_that_need_a_restart_are_named() {
        let old = config("", "");
        for (server, rest, expected) in [
            ("", "", None),
            ("idle_timeout = \"9s\"", "", None),
            ("shutdown_grace = \"1s\"", "http = \"1.1\"", None),
            ("admin = \"off\"", "", None),
            ("", "route = { listen = \"127.0.0.1:9\" }", None),
            ("workers = 2", "", Some("server.workers")),
            (
                "",
                "[store]\nkind = \"file\"\npath = \"/tmp/x\"",
                Some("store"),
            ),
        ] {
            let new = config(server, rest);
            for (old, new) in [(&old, &new), (&new, &old)] {
                let found = restart(old, new);
                assert_eq!(found, Vec::from_iter(expected), "{server}{rest}");
            }
        }
    }

    #[test]
    fn settings_do_not_include_the_listeners() {
        let old = config("", "");
        let mut new = old.clone();
        new.server.listen.pop();
        new.server.admin = None;
        assert!(!settings_differ(&old.server, &new.server));
        new.server.via = false;
        assert!(settings_differ(&old.server, &new.server));
    }

    #[test]
    fn changes_are_listed_by_name() {
        let names = |old: &[(&str, u8)], new: &[(&str, u8)]| {
            let own = |list: &[(&str, u8)]| -> Vec<(String, u8)> {
                list.iter()
                    .map(|(name, value)| ((*name).to_owned(), *value))
                    .collect()
            };
            Names::between(&own(old), &own(new), |item| &item.0, |a, b| a.1 == b.1)
        };
        let changes = Changes {
            server: true,
            admin: true,
            listeners: names(&[("a:1", 1)], &[("a:2", 1)]),
            providers: names(
                &[("a", 1), ("b", 1), ("c", 1)],
                &[("b", 1), ("c", 2), ("d", 1)],
            ),
            upstreams: Names::default(),
        };
        assert_eq!(
            changes.to_string(),
            "added listeners: a:2; removed listeners: a:1; added providers: d; \
             changed providers: c; removed providers: a; changed admin port; \
             changed server settings"
        );
        assert_eq!(Changes::default().to_string(), "nothing changed");
        let many: Vec<_> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(listed(&many), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}

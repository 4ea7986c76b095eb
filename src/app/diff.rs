//! What a new configuration changes, and what of it only a restart can bring about. Pure.

use std::collections::BTreeSet;
use std::fmt;

use crate::config::{Config, Listen, Problem, Route};

/// At most this many names of a kind are told.
const TOLD: usize = 8;

/// What a reload changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) server: bool,
    pub(super) providers: Names,
    pub(super) upstreams: Names,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) added: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) removed: Vec<String>,
}

/// Sockets, threads and the store are made once. One problem for each key that differs.
pub(super) fn needs_restart(old: &Config, new: &Config) -> Vec<Problem> {
    let server = |key: &str, differs: bool| differs.then(|| format!("server.{key}"));
    let keys = [
        server(
            "listen",
            sorted(&old.server.listen) != sorted(&new.server.listen),
        ),
        server("admin", old.server.admin != new.server.admin),
        server("workers", old.server.workers != new.server.workers),
        server(
            "shutdown_grace",
            old.server.shutdown_grace != new.server.shutdown_grace,
        ),
        (old.store != new.store).then(|| "store".to_owned()),
    ];
    let routes = [(new, old), (old, new)]
        .into_iter()
        .flat_map(|(one, other)| {
            let listens = listens(other);
            let missing = one
                .upstreams
                .iter()
                .filter(move |upstream| match &upstream.route {
                    Route::Listen(listen) => !listens.contains(listen),
                    _ => false,
                });
            missing.map(|upstream| format!("upstreams.{}.route.listen", upstream.name))
        });
    let mut paths: Vec<_> = keys.into_iter().flatten().chain(routes).collect();
    paths.sort();
    paths.dedup();
    let problem = |path| Problem {
        path,
        message: "a change here needs a restart".to_owned(),
        hint: Some("nothing was changed".to_owned()),
    };
    paths.into_iter().map(problem).collect()
}

fn sorted(listens: &[Listen]) -> Vec<&Listen> {
    let mut sorted: Vec<_> = listens.iter().collect();
    sorted.sort();
    sorted
}

fn listens(config: &Config) -> BTreeSet<&Listen> {
    let routes = config.upstreams.iter().map(|upstream| &upstream.route);
    let listens = routes.filter_map(|route| match route {
        Route::Listen(listen) => Some(listen),
        Route::PathPrefix(_) | Route::Host(_) | Route::CatchAll => None,
    });
    listens.collect()
}

impl Names {
    /// Of two lists in the order of their names; `same` compares two of one name.
    pub(super) fn between<T>(
        old: &[T],
        new: &[T],
        name: fn(&T) -> &str,
        same: impl Fn(&T, &T) -> bool,
    ) -> Self {
        let mut names = Self::default();
        for item in new {
            match old.binary_search_by(|other| name(other).cmp(name(item))) {
                Ok(place) if same(&old[place], item) => {}
                Ok(_) => names.changed.push(name(item).to_owned()),
                Err(_) => names.added.push(name(item).to_owned()),
            }
        }
        let gone = |item: &&T| {
            new.binary_search_by(|other| name(other).cmp(name(item)))
                .is_err()
        };
        names.removed = old
            .iter()
            .filter(gone)
            .map(|item| name(item).to_owned())
            .collect();
        names
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            server,
            providers,
            upstreams,
        } = self;
        let kinds = [
            ("added providers", &providers.added),
            ("changed providers", &providers.changed),
            ("removed providers", &providers.removed),
            ("added upstreams", &upstreams.added),
            ("changed upstreams", &upstreams.changed),
            ("removed upstreams", &upstreams.removed),
        ];
        let mut parts: Vec<_> = kinds
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(kind, names)| format!("{kind}: {}", told(names)))
            .collect();
        if *server {
            parts.push("changed server settings".to_owned());
        }
        if parts.is_empty() {
            return f.write_str("nothing changed");
        }
        f.write_str(&parts.join("; "))
    }
}

fn told(names: &[String]) -> String {
    let mut text = names[..names.len().min(TOLD)].join(", ");
    if names.len() > TOLD {
        text.push_str(&format!(" and {} more", names.len() - TOLD));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    struct Empty;

    impl Environment for Empty {
        fn var(&self, _name: &str) -> Option<String> {
            None
        }
    }

    fn config(server: &str, rest: &str) -> Config {
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:8080\", \"127.0.0.1:8081\"]\n{server}\n\
             [providers.p]\naccess_token = \"x\"\n\
             [upstreams.u]\nurl = \"https://api.test\"\nprovider = \"p\"\n{rest}"
        );
        Config::from_toml(&text, &Empty).unwrap()
    }

    fn restart(old: &Config, new: &Config) -> Vec<String> {
        needs_restart(old, new)
            .into_iter()
            .map(|problem| problem.path)
            .collect()
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = config("", "");
        for (server, rest, expected) in [
            ("", "", None),
            ("idle_timeout = \"9s\"", "", None),
            ("shutdown_delay = \"1s\"", "http = \"1.1\"", None),
            ("workers = 2", "", Some("server.workers")),
            ("admin = \"off\"", "", Some("server.admin")),
            ("shutdown_grace = \"1s\"", "", Some("server.shutdown_grace")),
            (
                "",
                "[store]\nkind = \"file\"\npath = \"/tmp/x\"",
                Some("store"),
            ),
            (
                "",
                "route = { listen = \"127.0.0.1:9\" }",
                Some("upstreams.u.route.listen"),
            ),
        ] {
            let new = config(server, rest);
            assert_eq!(
                restart(&old, &new),
                Vec::from_iter(expected),
                "{server}{rest}"
            );
            assert_eq!(
                restart(&new, &old),
                Vec::from_iter(expected),
                "{server}{rest}"
            );
        }
    }

    #[test]
    fn the_order_of_listeners_means_nothing() {
        let old = config("", "");
        let mut new = old.clone();
        new.server.listen.reverse();
        assert_eq!(restart(&old, &new), [""; 0]);
        new.server.listen.pop();
        assert_eq!(restart(&old, &new), ["server.listen"]);
    }

    #[test]
    fn an_upstream_may_change_its_name_and_keep_its_port() {
        let listen = "route = { listen = \"127.0.0.1:9\" }";
        let old = config("", listen);
        let mut new = config("", listen);
        let mut upstream = (*new.upstreams[0]).clone();
        upstream.name = "other".to_owned();
        new.upstreams[0] = upstream.into();
        assert_eq!(restart(&old, &new), [""; 0]);
    }

    #[test]
    fn changes_are_told_by_name() {
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
            providers: names(
                &[("a", 1), ("b", 1), ("c", 1)],
                &[("b", 1), ("c", 2), ("d", 1)],
            ),
            upstreams: Names::default(),
        };
        assert_eq!(
            changes.to_string(),
            "added providers: d; changed providers: c; removed providers: a; changed server settings"
        );
        assert_eq!(Changes::default().to_string(), "nothing changed");
        let many: Vec<_> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(told(&many), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}

//! Architecture: who may name whom, checked over the sources.
//!
//! Two flows meet only at the token cell: CONTROL (`provider`) fills it, DATA (`proxy`) reads it. The table [`AREAS`]
//! says which part may name which; a file is checked by every path it writes, in `use` and in code. Comments, strings
//! and test code do not count. What a file may name grows only by a line in this table, where a reviewer sees it.

#[path = "architecture/lexer.rs"]
mod lexer;
#[path = "architecture/paths.rs"]
mod paths;
#[path = "architecture/test_code.rs"]
mod test_code;
#[path = "architecture/tests.rs"]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use lexer::{Kind, Token, begins, lex};
use paths::{Reference, references};
use test_code::without_tests;

/// A part of the crate, and what else of the crate it may name.
struct Area {
    /// A module path without `crate`; the longest one that fits a file counts.
    path: &'static str,
    /// Module paths with all that is in them; `provider::Type` stands for the types right in `provider`, and for no
    /// module of it.
    may: &'static [&'static str],
}

const AREAS: &[Area] = &[
    // The build script: no part of the crate.
    area("link", &[]),
    area("clock", &[]),
    area("secret", &[]),
    area("dialect", &["secret"]),
    area("config", &["dialect", "secret"]),
    // For the names of the states, which are values of a label.
    area("metrics", &["provider::State"]),
    // Bytes, and nothing of ours.
    area("http1", &[]),
    area("upstream", &["config", "http1", "metrics", "secret"]),
    // Where the two flows meet. It must not lead on to the rest of `provider`.
    area("provider::cell", &["clock", "dialect", "secret"]),
    area(
        "provider",
        &[
            "clock",
            "config",
            "dialect",
            "metrics",
            "secret",
            "upstream::connect",
            "upstream::tls",
        ],
    ),
    // Neither the refresher nor the store: a request never fetches.
    area(
        "proxy",
        &[
            "clock",
            "config",
            "dialect::Injection",
            "dialect::RejectRules",
            "http1",
            "metrics",
            "provider::cell",
            "secret",
            "upstream",
        ],
    ),
    area("admin", &["clock", "config", "metrics", "provider::Type"]),
    // Its worker threads run the data plane; that a control thread runs refreshers is wired in `app`.
    area(
        "runtime",
        &["metrics", "proxy::Proxy", "proxy::accept", "proxy::door"],
    ),
    area(
        "app",
        &[
            "admin", "clock", "config", "dialect", "metrics", "provider", "proxy", "runtime",
            "secret", "upstream",
        ],
    ),
    area(
        "demo",
        &[
            "app", "clock", "config", "dialect", "metrics", "provider", "secret", "upstream",
        ],
    ),
    area(
        "cli",
        &[
            "admin", "app", "clock", "config", "demo", "dialect", "metrics", "provider", "proxy",
            "runtime", "secret", "upstream",
        ],
    ),
    // A list of targets, which are where what they fuzz is; compiled for tests only.
    area(
        "fuzz",
        &[
            "config", "dialect", "http1", "provider", "proxy", "upstream",
        ],
    ),
    // `lib.rs` lists the modules, and nothing else.
    area("", &[]),
    area("main", &["cli"]),
];

/// Something that only a few files may do.
struct Monopoly {
    what: What,
    /// Module paths with all that is in them.
    only_in: &'static [&'static str],
    /// Where the rule holds; "" is everywhere.
    within: &'static str,
    rule: &'static str,
}

enum What {
    Word(&'static str),
    /// Part of a string literal.
    Text(&'static str),
}

const TLS: &[&str] = &["upstream::tls", "upstream::connect", "demo"];

const MONOPOLIES: &[Monopoly] = &[
    Monopoly {
        what: What::Word("rustls"),
        only_in: TLS,
        within: "",
        rule: "only upstream::tls and upstream::connect speak TLS (and the demo's servers)",
    },
    Monopoly {
        what: What::Word("tokio_rustls"),
        only_in: TLS,
        within: "",
        rule: "only upstream::tls and upstream::connect speak TLS (and the demo's servers)",
    },
    Monopoly {
        what: What::Word("rustls_native_certs"),
        only_in: TLS,
        within: "",
        rule: "only upstream::tls and upstream::connect speak TLS (and the demo's servers)",
    },
    Monopoly {
        what: What::Word("unsafe"),
        only_in: &[],
        within: "",
        rule: "no unsafe code",
    },
    Monopoly {
        what: What::Word("CellWriter"),
        only_in: &["provider::cell", "provider::refresher"],
        within: "",
        rule: "only the refresher writes a token cell",
    },
    Monopoly {
        what: What::Text("problem+json"),
        only_in: &["proxy::respond", "admin"],
        within: "",
        rule: "errors become responses in proxy/respond.rs (and, on its own port, in admin)",
    },
    Monopoly {
        what: What::Word("status_mut"),
        only_in: &["proxy::respond"],
        within: "proxy",
        rule: "errors become responses in proxy/respond.rs: no other file of the proxy sets a status",
    },
];

const fn area(path: &'static str, may: &'static [&'static str]) -> Area {
    Area { path, may }
}

#[test]
fn the_sources_keep_to_the_architecture() {
    let sources = read_sources();
    let report = check(&sources);
    let list: String = report
        .violations
        .iter()
        .map(|violation| format!("\n  {violation}"))
        .collect();
    assert!(
        report.violations.is_empty(),
        "{} violations of tests/architecture.rs:{list}",
        report.violations.len()
    );
    // The checker has eyes: these are there, whatever else changes.
    for (file, named) in [
        ("src/config.rs", "dialect::"),
        ("src/provider.rs", "config::"),
        ("src/proxy/target.rs", "provider::cell::"),
    ] {
        let seen = report.references.get(file).into_iter().flatten();
        assert!(
            seen.clone().any(|path| path.starts_with(named)),
            "{file} was read, but not that it names {named}"
        );
    }
}

/// What the checker found.
#[derive(Default)]
struct Report {
    violations: Vec<Violation>,
    /// Per file: the paths within the crate that it names.
    references: BTreeMap<String, Vec<String>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

/// All of `src`, by path from the package's root.
fn read_sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut sources = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).expect("the sources are readable");
        for path in entries.map(|entry| entry.expect("the sources are readable").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("the sources are UTF-8");
                sources.insert(name_in_package(root, &path), text);
            }
        }
    }
    sources
}

fn name_in_package(root: &Path, path: &Path) -> String {
    let relative: PathBuf = path
        .strip_prefix(root)
        .expect("it was found below")
        .to_owned();
    relative
        .to_str()
        .expect("file names are ASCII")
        .replace('\\', "/")
}

fn check(sources: &BTreeMap<String, String>) -> Report {
    let mut files: Vec<File> = sources
        .iter()
        .map(|(name, text)| File::read(name, text))
        .collect();
    let test_modules: Vec<String> = files
        .iter()
        .flat_map(|file| file.test_modules.iter().cloned())
        .collect();
    files.retain(|file| {
        !file.only_for_tests
            && !test_modules
                .iter()
                .any(|module| within(&file.module, module))
    });
    let mut report = Report::default();
    for file in files {
        file.check(&mut report.violations);
        let paths = file.references.into_iter().map(|reference| reference.path);
        report.references.insert(file.name, paths.collect());
    }
    report.violations.sort();
    report.violations.dedup();
    report
}

/// Whether `path` is `module` or in it; everything is in "".
fn within(path: &str, module: &str) -> bool {
    module.is_empty()
        || path
            .strip_prefix(module)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn permits(entry: &str, path: &str) -> bool {
    let Some(module) = entry.strip_suffix("::Type") else {
        return within(path, entry);
    };
    let rest = path
        .strip_prefix(module)
        .and_then(|rest| rest.strip_prefix("::"));
    rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()))
}

struct File {
    name: String,
    /// Without `crate`; "" for `lib.rs`, "main" for `main.rs`.
    module: String,
    tokens: Vec<Token>,
    references: Vec<Reference>,
    /// Modules that it declares under `#[cfg(test)]`.
    test_modules: Vec<String>,
    /// `#![cfg(test)]`
    only_for_tests: bool,
}

impl File {
    fn read(name: &str, text: &str) -> Self {
        let module = module_of(name);
        let all = lex(text);
        let only_for_tests = begins(&all, &["#", "!", "[", "cfg", "(", "test", ")", "]"]);
        let (tokens, test_modules) = without_tests(all, &module);
        let references = references(&module, &tokens);
        Self {
            name: name.to_owned(),
            module,
            tokens,
            references,
            test_modules,
            only_for_tests,
        }
    }

    fn check(&self, violations: &mut Vec<Violation>) {
        self.check_place(violations);
        self.check_references(violations);
        for monopoly in MONOPOLIES {
            self.check_monopoly(monopoly, violations);
        }
    }

    fn check_place(&self, violations: &mut Vec<Violation>) {
        if self.name.ends_with("/mod.rs") {
            let rule = "modules are name.rs and the folder name/, never mod.rs";
            violations.push(self.violation(1, rule));
        }
        for (index, token) in self.tokens.iter().enumerate() {
            // With another path than its name says, a module would be checked by the wrong rule.
            if token.is("#") && begins(&self.tokens[index..], &["#", "[", "path", "="]) {
                violations
                    .push(self.violation(token.line, "no #[path]: a file is where its name says"));
            }
        }
    }

    fn check_references(&self, violations: &mut Vec<Violation>) {
        let Some(area) = self.area() else {
            let rule = format!(
                "no rule for `{}`: say in tests/architecture.rs what it may name",
                self.module
            );
            violations.push(self.violation(1, rule));
            return;
        };
        for Reference { line, path } in &self.references {
            let own = !area.path.is_empty() && within(path, area.path);
            let child_of_root = area.path.is_empty() && !path.contains("::") && path != "*";
            if !own && !child_of_root && !area.may.iter().any(|entry| permits(entry, path)) {
                let may = match area.may {
                    [] => "nothing else of the crate".to_owned(),
                    some => some.join(", "),
                };
                let who = if area.path.is_empty() {
                    "lib.rs"
                } else {
                    area.path
                };
                let path = if path.is_empty() {
                    "the crate's root"
                } else {
                    path
                };
                let rule = format!("{who} may not name {path}; it may name {may}");
                violations.push(self.violation(*line, rule));
            }
        }
    }

    /// The area with the longest path that fits.
    fn area(&self) -> Option<&'static Area> {
        if self.module.is_empty() {
            return AREAS.iter().find(|area| area.path.is_empty());
        }
        AREAS
            .iter()
            .filter(|area| !area.path.is_empty() && within(&self.module, area.path))
            .max_by_key(|area| area.path.len())
    }

    fn check_monopoly(&self, monopoly: &Monopoly, violations: &mut Vec<Violation>) {
        let allowed = monopoly
            .only_in
            .iter()
            .any(|module| within(&self.module, module));
        if allowed || !within(&self.module, monopoly.within) {
            return;
        }
        for token in &self.tokens {
            let found = match (&monopoly.what, &token.kind) {
                (What::Word(word), Kind::Word) => token.text == *word,
                (What::Text(part), Kind::Text) => token.text.contains(part),
                _ => false,
            };
            if found {
                violations.push(self.violation(token.line, monopoly.rule));
            }
        }
    }

    fn violation(&self, line: usize, rule: impl Into<String>) -> Violation {
        Violation {
            file: self.name.clone(),
            line,
            rule: rule.into(),
        }
    }
}

/// `src/proxy/route.rs` → `proxy::route`
fn module_of(file: &str) -> String {
    let path = file.strip_prefix("src/").unwrap_or(file);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" {
        return String::new();
    }
    path.replace('/', "::")
}

//! Architecture: who may name whom, checked over the sources.
//!
//! Two flows meet only at the token cell: CONTROL (`provider`) fills it, DATA (`proxy`) reads it. The table [`AREAS`]
//! says which part may name which; a file is checked by every path it writes, in `use` and in code. Comments, strings
//! and test code do not count. What a file may name grows only by a line in this table, where a reviewer sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A part of the crate, and what else of the crate it may name.
struct Area {
    /// A module path without `crate`; the longest one that fits a file counts.
    path: &'static str,
    /// Module paths with all that is in them; `provider::Type` stands for the types right in `provider`, and for no
    /// module of it.
    may: &'static [&'static str],
}

const AREAS: &[Area] = &[
    area("clock", &[]),
    area("secret", &[]),
    area("dialect", &["secret"]),
    area("config", &["dialect", "secret"]),
    // For the names of the states, which are values of a label.
    area("metrics", &["provider::State"]),
    area("upstream", &["config", "metrics", "secret"]),
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
            "metrics",
            "provider::cell",
            "secret",
            "upstream",
        ],
    ),
    area("admin", &["clock", "config", "metrics", "provider::Type"]),
    // Its worker threads run the data plane; that a control thread runs refreshers is wired in `app`.
    area("runtime", &["metrics", "proxy::Proxy", "proxy::accept"]),
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

// --- One file ---

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

/// A path within the crate that a file names.
struct Reference {
    line: usize,
    path: String,
}

impl File {
    fn read(name: &str, text: &str) -> Self {
        let module = module_of(name);
        let all = lex(text);
        let only_for_tests = starts_with(&all, &["#", "!", "[", "cfg", "(", "test", ")", "]"]);
        let (tokens, test_modules) = without_tests(all, &module);
        let references = Walk::new(&module, &tokens).references();
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
            if token.is("#") && starts_with(&self.tokens[index..], &["#", "[", "path", "="]) {
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

// --- Test code ---

/// The tokens outside of test code, and the modules declared in it that have files of their own.
fn without_tests(tokens: Vec<Token>, module: &str) -> (Vec<Token>, Vec<String>) {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut test_modules = Vec::new();
    let mut rest = tokens.as_slice();
    while let Some(token) = rest.first() {
        let Some(attribute) = test_attribute(rest) else {
            kept.push(token.clone());
            rest = &rest[1..];
            continue;
        };
        let item = &rest[attribute..];
        if let Some(name) = declared_module(item) {
            test_modules.push(join(module, &name));
        }
        rest = &item[item_length(item)..];
    }
    (kept, test_modules)
}

/// The length of a `#[cfg(test)]` or `#[cfg(all(test, …))]` at the start. `any(test, …)` is product code, too.
fn test_attribute(tokens: &[Token]) -> Option<usize> {
    let test = starts_with(tokens, &["#", "[", "cfg", "(", "test", ")", "]"])
        || starts_with(tokens, &["#", "[", "cfg", "(", "all", "(", "test", ","])
        || starts_with(tokens, &["#", "[", "test", "]"]);
    test.then(|| 1 + group_length(&tokens[1..]))
}

/// The name in `mod name;`, with or without a visibility.
fn declared_module(item: &[Token]) -> Option<String> {
    let mut rest = item;
    while starts_with(rest, &["#", "["]) {
        rest = &rest[1 + group_length(&rest[1..])..];
    }
    if starts_with(rest, &["pub"]) {
        rest = &rest[1..];
        if starts_with(rest, &["("]) {
            rest = &rest[group_length(rest)..];
        }
    }
    match rest {
        [keyword, name, end, ..] if keyword.is("mod") && end.is(";") => Some(name.text.clone()),
        _ => None,
    }
}

/// To the end of an item, statement, field or variant.
fn item_length(item: &[Token]) -> usize {
    let mut at = 0;
    while starts_with(&item[at..], &["#", "["]) {
        at += 1 + group_length(&item[at + 1..]);
    }
    const ITEMS: [&str; 13] = [
        "async",
        "const",
        "enum",
        "extern",
        "fn",
        "impl",
        "macro_rules",
        "mod",
        "pub",
        "static",
        "struct",
        "trait",
        "type",
    ];
    let first = item.get(at).map(|token| token.text.as_str());
    let is_use = item[at..]
        .iter()
        .take_while(|token| !token.is(";") && !token.is("{"))
        .any(|token| token.is("use"));
    let is_item = first.is_some_and(|first| ITEMS.contains(&first));
    while let Some(token) = item.get(at) {
        match token.text.as_str() {
            _ if token.kind == Kind::Text => at += 1,
            ";" => return at + 1,
            "," if !is_item && !is_use => return at + 1,
            ")" | "]" | "}" => return at,
            "{" => {
                at += group_length(&item[at..]);
                if !is_use {
                    return at;
                }
            }
            "(" | "[" => at += group_length(&item[at..]),
            _ => at += 1,
        }
    }
    at
}

/// The length of the bracketed group at the start.
fn group_length(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        if token.kind != Kind::Sign {
            continue;
        }
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

// --- Paths ---

/// Collects the paths within the crate that are named by a file.
struct Walk<'a> {
    tokens: &'a [Token],
    at: usize,
    /// The file's module and the inline ones around the current token, each with the depth it ends at.
    module: String,
    inline: Vec<(usize, String)>,
    depth: usize,
    found: Vec<Reference>,
}

impl<'a> Walk<'a> {
    fn new(module: &str, tokens: &'a [Token]) -> Self {
        Self {
            tokens,
            at: 0,
            module: module.to_owned(),
            inline: Vec::new(),
            depth: 0,
            found: Vec::new(),
        }
    }

    fn references(mut self) -> Vec<Reference> {
        while let Some(token) = self.tokens.get(self.at) {
            if token.kind == Kind::Sign {
                self.bracket(&token.text);
            } else if token.is("mod") && self.is(2, "{") {
                let outer = self.module.clone();
                self.module = join(&outer, &self.tokens[self.at + 1].text);
                self.inline.push((self.depth, outer));
                self.at += 2;
                continue;
            } else if token.is("use") && !self.is(1, "<") {
                self.at += 1;
                if self.is(0, "::") {
                    // An extern crate, which `crate::` is not.
                    self.at += 1;
                }
                self.use_tree(&[]);
                continue;
            } else if self.is_path_start(token) {
                self.path();
                continue;
            }
            self.at += 1;
        }
        self.found
    }

    fn bracket(&mut self, sign: &str) {
        match sign {
            "{" => self.depth += 1,
            "}" => {
                self.depth = self.depth.saturating_sub(1);
                if let Some((_, outer)) = self.inline.pop_if(|(depth, _)| *depth == self.depth) {
                    self.module = outer;
                }
            }
            _ => {}
        }
    }

    fn is_path_start(&self, token: &Token) -> bool {
        let relative = ["crate", "self", "super", "cupbearer"];
        let after_path = self.at > 0 && self.tokens[self.at - 1].is("::");
        token.kind == Kind::Word
            && relative.contains(&token.text.as_str())
            && self.is(1, "::")
            && !after_path
    }

    fn is(&self, ahead: usize, text: &str) -> bool {
        self.tokens
            .get(self.at + ahead)
            .is_some_and(|token| token.is(text))
    }

    /// A path in code.
    fn path(&mut self) {
        let mut path = Vec::new();
        let line = self.tokens[self.at].line;
        while let Some(token) = self
            .tokens
            .get(self.at)
            .filter(|token| token.kind == Kind::Word)
        {
            path.push(token.text.clone());
            self.at += 1;
            if !self.is(0, "::") {
                break;
            }
            self.at += 1;
        }
        self.add(line, &path);
    }

    /// A tree of a `use`, of which `prefix` stands before.
    fn use_tree(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        while let Some(token) = self.tokens.get(self.at) {
            let line = token.line;
            self.at += 1;
            if token.is("{") {
                while !self.is(0, "}") && self.at < self.tokens.len() {
                    self.use_tree(&path);
                    if self.is(0, ",") {
                        self.at += 1;
                    }
                }
                self.at += 1;
                return;
            }
            path.push(token.text.clone());
            if self.is(0, "::") {
                self.at += 1;
                continue;
            }
            self.add(line, &path);
            while !["}", ",", ";"].iter().any(|end| self.is(0, end)) && self.at < self.tokens.len()
            {
                // `as name`
                self.at += 1;
            }
            return;
        }
    }

    fn add(&mut self, line: usize, path: &[String]) {
        if let Some(path) = resolve(&self.module, path) {
            self.found.push(Reference { line, path });
        }
    }
}

/// The path from the crate's root; `None` for what is outside of it or has been brought into scope by a `use`.
fn resolve(module: &str, path: &[String]) -> Option<String> {
    let mut base: Vec<&str> = module.split("::").filter(|name| !name.is_empty()).collect();
    let mut rest = path.iter().map(String::as_str).peekable();
    match *rest.peek()? {
        "crate" => base.clear(),
        "cupbearer" if module == "main" => base.clear(),
        "self" => {}
        "super" => {
            base.pop();
        }
        _ => return None,
    }
    rest.next();
    for name in rest {
        match name {
            "self" => {}
            "super" => {
                base.pop();
            }
            name => base.push(name),
        }
    }
    Some(base.join("::"))
}

fn join(module: &str, name: &str) -> String {
    if module.is_empty() {
        return name.to_owned();
    }
    format!("{module}::{name}")
}

// --- Tokens ---

#[derive(Clone, Debug)]
struct Token {
    line: usize,
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An identifier, keyword or number.
    Word,
    /// One character, or `::`.
    Sign,
    /// A string literal, without its quotes.
    Text,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.kind != Kind::Text && self.text == text
    }
}

fn starts_with(tokens: &[Token], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.is(text))
}

/// As much of Rust's lexical structure as is needed to know what is code.
fn lex(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        rest: text,
        line: 1,
        tokens: Vec::new(),
    };
    while !lexer.rest.is_empty() {
        lexer.next();
    }
    lexer.tokens
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn next(&mut self) {
        let first = self.rest.chars().next().unwrap_or(' ');
        if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.block_comment();
        } else if let Some((opening, hashes)) = raw_string(self.rest) {
            let closing = format!("\"{}", "#".repeat(hashes));
            self.skip(opening);
            let length = self.rest.find(&closing).unwrap_or(self.rest.len());
            self.push(Kind::Text, length);
            self.skip(closing.len().min(self.rest.len()));
        } else if first == '"' {
            self.string();
        } else if first == '\'' {
            self.quote();
        } else if first.is_alphanumeric() || first == '_' {
            self.word();
        } else if self.rest.starts_with("::") {
            self.push(Kind::Sign, 2);
        } else if first.is_whitespace() {
            self.skip(first.len_utf8());
        } else {
            self.push(Kind::Sign, first.len_utf8());
        }
    }

    fn skip(&mut self, length: usize) {
        self.line += self.rest[..length].matches('\n').count();
        self.rest = &self.rest[length..];
    }

    fn push(&mut self, kind: Kind, length: usize) {
        self.tokens.push(Token {
            line: self.line,
            kind,
            text: self.rest[..length].to_owned(),
        });
        self.skip(length);
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while !self.rest.is_empty() {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.skip(self.rest.chars().next().map_or(1, char::len_utf8));
            }
        }
    }

    fn string(&mut self) {
        self.skip(1);
        let mut escaped = false;
        let end = self.rest.find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        self.push(Kind::Text, end.unwrap_or(self.rest.len()));
        self.skip(1.min(self.rest.len()));
    }

    /// A character literal, or the sign of a lifetime or label.
    fn quote(&mut self) {
        let mut ahead = self.rest.char_indices().skip(1);
        let second = ahead.next().map(|(_, c)| c);
        let third = ahead.next().map(|(_, c)| c);
        if second == Some('\\') {
            // `'\''`: what is escaped cannot be the end.
            let end = self.rest[3..]
                .find('\'')
                .map_or(self.rest.len(), |end| end + 4);
            self.skip(end);
        } else if third == Some('\'') {
            let length = second.map_or(0, char::len_utf8);
            self.skip(length + 2);
        } else {
            self.skip(1);
            self.word();
            // A lifetime names nothing.
            self.tokens.pop();
        }
    }

    fn word(&mut self) {
        let rest = self.rest.strip_prefix("r#").unwrap_or(self.rest);
        self.rest = rest;
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        self.push(Kind::Word, end.unwrap_or(rest.len()));
    }
}

/// The length of the opening of a raw string, and the number of its hashes. Prefixed plain strings (`b"…"`) are a word
/// and a string, which is as good.
fn raw_string(text: &str) -> Option<(usize, usize)> {
    let prefix = ["br", "cr", "r"]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))?;
    let rest = &text[prefix.len()..];
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..]
        .starts_with('"')
        .then_some((prefix.len() + hashes + 1, hashes))
}

// --- The checker itself ---

/// A crate that keeps to the rules, with one file more.
fn with_file(name: &str, text: &str) -> Vec<String> {
    let mut sources: BTreeMap<String, String> = [
        ("src/lib.rs", "pub mod proxy;\npub mod provider;"),
        ("src/provider/cell.rs", "use crate::clock::Clock;"),
        (
            "src/provider.rs",
            "pub mod cell;\n#[cfg(test)]\npub(crate) mod testing;\nuse crate::config::Config;",
        ),
    ]
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .into();
    sources.insert(name.to_owned(), text.to_owned());
    let report = check(&sources);
    report.violations.iter().map(Violation::to_string).collect()
}

#[track_caller]
fn caught(name: &str, text: &str, line: usize, rule: &str) {
    let found = with_file(name, text);
    let place = format!("{name}:{line}: ");
    let [only] = found.as_slice() else {
        panic!("expected one violation in {text:?}, found {found:#?}");
    };
    assert!(only.starts_with(&place) && only.contains(rule), "{only}");
}

#[track_caller]
fn passes(name: &str, text: &str) {
    let found = with_file(name, text);
    assert!(found.is_empty(), "{text:?}: {found:#?}");
}

#[test]
fn a_planted_import_is_caught_however_it_is_written() {
    for text in [
        "\nuse crate::provider::refresher::Refresher;",
        "\nuse crate::provider::{cell::Token, refresher};",
        "\nuse crate::{metrics, provider::store as shelf};",
        "\nuse crate::provider;",
        "\nuse crate::provider::{self};",
        "\nuse crate::provider::*;",
        "\nuse crate::*;",
        "\nuse crate as all;",
        "\nuse super::super::provider::Status;",
        "\nfn f() { crate::provider::spawn(vec![]); }",
        "\nfn f(deps: &super::super::provider::Deps) {}",
        "\nmod inner { use super::super::super::provider::Deps; }",
        "\npub(crate) use crate::admin::Control;",
        "\nmacro_rules! m { () => { $crate::cli::run() } }",
        "\nstruct S<'a>(&'a crate::app::App);",
        "\nconst C: char = '\"'; use crate::demo::setup; // \"",
    ] {
        caught("src/proxy/forward.rs", text, 2, "proxy may not name");
    }
}

#[test]
fn what_is_allowed_passes() {
    let text = "use crate::provider::cell::{CellReader, Token};\nuse crate::upstream::Pool;\n\
        use super::error::ProxyError;\nuse super::super::metrics::Metrics;\nuse std::{fmt, io::{self, Read}};\n\
        pub(in crate::proxy) fn f<'a>(x: &'a crate::secret::Secret) -> impl use<'a> Sized { self::g::<crate::clock::Now>(x) }\n\
        mod inner { use super::Token; use super::super::route; }";
    passes("src/proxy/forward.rs", text);
    passes("src/main.rs", "fn main() { cupbearer::cli::main() }");
    passes(
        "src/admin/report.rs",
        "use crate::provider::{State, Status};",
    );
}

#[test]
fn comments_strings_and_test_code_do_not_count() {
    for text in [
        "//! [`crate::provider::refresher`]\n/* use crate::admin; /* nested */ unsafe */",
        "const A: &str = \"use crate::admin::X; \\\" unsafe\"; const B: &str = r#\"crate::cli::X \" unsafe\"#;",
        "#[cfg(test)]\nmod tests { use crate::provider::refresher; fn f() { unsafe {} } }",
        "#[cfg(test)]\n#[derive(Debug)]\nuse crate::{admin, cli::{a, b}};",
        "#[cfg(all(test, unix))]\npub(super) fn f<A, B>(a: crate::admin::A) -> [u8; 2] { crate::cli::x() }",
        "struct S {\n#[cfg(test)]\nseen: Vec<crate::admin::A>,\nb: u8 }",
        "#![cfg(test)]\nuse crate::cli::run;",
    ] {
        passes("src/proxy/forward.rs", text);
    }
    // Declared under #[cfg(test)] in provider.rs, so that all of its file and folder is test code.
    passes("src/provider/testing.rs", "use crate::proxy::Proxy;");
    passes("src/provider/testing/more.rs", "use crate::proxy::Proxy;");
}

#[test]
fn code_after_test_code_counts_again() {
    let text = "#[cfg(test)]\nuse crate::{admin, cli};\nuse crate::admin::A;";
    caught(
        "src/proxy/forward.rs",
        text,
        3,
        "proxy may not name admin::A",
    );
    let text = "struct S {\n#[cfg(test)] a: crate::admin::A,\nb: crate::admin::B }";
    caught(
        "src/proxy/forward.rs",
        text,
        3,
        "proxy may not name admin::B",
    );
    let text = "#[cfg(any(test, feature = \"x\"))]\nuse crate::admin::A;";
    caught(
        "src/proxy/forward.rs",
        text,
        2,
        "proxy may not name admin::A",
    );
}

#[test]
fn each_area_is_held_to_its_own_list() {
    for (file, text, rule) in [
        (
            "src/clock.rs",
            "use crate::secret::Secret;",
            "nothing else of the crate",
        ),
        (
            "src/dialect/template.rs",
            "use crate::config::Value;",
            "dialect may not name config::Value",
        ),
        (
            "src/config/value.rs",
            "use crate::clock::Now;",
            "config may not name clock::Now",
        ),
        (
            "src/upstream/pool.rs",
            "use crate::provider::cell::Token;",
            "upstream may not name",
        ),
        (
            "src/provider/exchange.rs",
            "use crate::upstream::Pool;",
            "provider may not name upstream::Pool",
        ),
        (
            "src/provider/source.rs",
            "use crate::proxy::Proxy;",
            "provider may not name proxy::Proxy",
        ),
        (
            "src/provider/cell.rs",
            "use super::store::Store;",
            "provider::cell may not name provider::store::Store",
        ),
        (
            "src/admin/routes.rs",
            "use crate::provider::store::Store;",
            "admin may not name provider::store::Store",
        ),
        (
            "src/app.rs",
            "use crate::demo::setup::Setup;",
            "app may not name demo",
        ),
        (
            "src/demo/setup.rs",
            "use crate::cli::words;",
            "demo may not name cli",
        ),
        (
            "src/main.rs",
            "fn main() { cupbearer::app::bind(); }",
            "main may not name app::bind",
        ),
        (
            "src/lib.rs",
            "pub use crate::proxy::Proxy;",
            "lib.rs may not name proxy::Proxy",
        ),
        ("src/utils.rs", "", "no rule for `utils`"),
        ("src/proxy/mod.rs", "", "never mod.rs"),
        (
            "src/proxy/x.rs",
            "#[path = \"../y.rs\"] mod y;",
            "no #[path]",
        ),
    ] {
        caught(file, text, 1, rule);
    }
}

#[test]
fn monopolies_are_guarded() {
    for (file, text, rule) in [
        (
            "src/provider/exchange.rs",
            "use rustls::ClientConfig;",
            "speak TLS",
        ),
        (
            "src/upstream/pool.rs",
            "type T = tokio_rustls::client::TlsStream<u8>;",
            "speak TLS",
        ),
        (
            "src/upstream/body.rs",
            "fn f() { unsafe { g() } }",
            "no unsafe",
        ),
        (
            "src/provider/source.rs",
            "use super::cell::CellWriter;",
            "only the refresher",
        ),
        (
            "src/proxy/guard.rs",
            "const K: &str = \"application/problem+json\";",
            "proxy/respond.rs",
        ),
        (
            "src/proxy/guard.rs",
            "fn f() { *response.status_mut() = status; }",
            "sets a status",
        ),
    ] {
        caught(file, text, 1, rule);
    }
    passes("src/upstream/tls.rs", "use rustls::ClientConfig;");
    passes(
        "src/upstream/connect/stream.rs",
        "use tokio_rustls::client::TlsStream;",
    );
    passes(
        "src/proxy/respond.rs",
        "const K: &str = \"application/problem+json\";",
    );
}

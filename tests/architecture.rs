//! The import check: which room of the crate may name which other room. Paths that begin with
//! `crate`, `super` or `self` count, except in comments and test modules.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

use regex_lite::{Captures, Regex};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// Rooms, and what their code may name. A file belongs to the longest room that holds it.
const RULES: &str = "
    main -> cli
    cli -> admin app clock config demo dialect login metrics provider proxy runtime secret status \
        store token upstream
    demo -> app clock config dialect metrics provider secret store upstream
    app -> admin clock config dialect metrics provider proxy runtime secret status store token \
        upstream
    runtime -> metrics proxy::Proxy proxy::accept proxy::listener proxy::worker
    admin -> clock config metrics status
    proxy -> catch_unwind clock config dialect::Frozen dialect::Injection dialect::RejectRules \
        fields metrics secret token::cell upstream
    login provider::offline -> clock config dialect login provider secret store token
    provider -> catch_unwind clock config dialect metrics secret status store token \
        upstream::connect upstream::tls
    store -> config dialect provider::inputs secret
    token -> clock config dialect secret
    upstream -> config fields metrics secret
    metrics -> status
    config -> dialect fields secret
    dialect -> secret
    catch_unwind clock fields lib secret status ->
    fuzz -> config dialect provider proxy store upstream
";

/// A word, and the only rooms whose code may hold the word.
const WORDS: [(&str, &[&str]); 2] = [
    ("rustls::", &["upstream::connect", "upstream::tls", "demo"]),
    ("CellWriter", &["token::cell", "provider::refresher"]),
];

#[test]
fn rooms_name_only_what_the_rules_allow() {
    let mut wrong = Vec::new();
    for (file, module, code) in sources() {
        let rule_of_file = rule(&module);
        let (room, allowed) = rule_of_file.unwrap_or_else(|| panic!("{file} has no rule"));
        for path in imports(&module, &code) {
            let mut entries = allowed.split_whitespace().chain([room]);
            if rule(&path).is_some() && !entries.any(|entry| within(&path, entry)) {
                wrong.push(format!("{file} names {path}; the rule: {room} ->{allowed}"));
            }
        }
        for (word, rooms) in WORDS {
            if code.contains(word) && !rooms.iter().any(|room| within(&module, room)) {
                wrong.push(format!("{file} uses {word}; only {rooms:?} may"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn paths_are_found_however_they_are_written() {
    let code = "use crate::{admin, app::{self, x as y,}};\nuse super::{\n    error::*,\n};\n\
        fn f(a: &super::super::cli::Run) -> crate::demo::X { self::g::<std::io::Error>() }";
    let expected = "admin app app::x cli::Run demo::X proxy::error::* proxy::route::g";
    assert_eq!(
        Vec::from_iter(imports("proxy::route", code)).join(" "),
        expected
    );
}

fn rule(path: &str) -> Option<(&'static str, &'static str)> {
    let rules = RULES.lines().filter_map(|rule| rule.split_once(" ->"));
    let rooms = rules
        .flat_map(|(rooms, allowed)| rooms.split_whitespace().map(move |room| (room, allowed)));
    let holding = rooms.filter(|(room, _)| within(path, room));
    holding.max_by_key(|(room, _)| room.len())
}

fn within(path: &str, room: &str) -> bool {
    path.strip_prefix(room)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Returns the paths, from the crate's root, that the code of `module` names.
fn imports(module: &str, code: &str) -> BTreeSet<String> {
    // Innermost groups first: `a::{b, c::{d, e}}` becomes `a::{b, c::d, c::e}`.
    let group = Regex::new(r"((?:\w+::)+)\{([^{}]*)\}").unwrap();
    let flatten = |group: &Captures<'_>| {
        let names = group[2].split(',').map(str::trim);
        let names = names.filter(|name| !name.is_empty());
        let paths = names.map(|name| format!("{}{name}", &group[1]));
        Vec::from_iter(paths).join(", ")
    };
    let mut code = code.to_owned();
    while group.is_match(&code) {
        code = group.replace_all(&code, &flatten).into_owned();
    }
    let path = Regex::new(r"\b(?:crate|cupbearer|self|super)::(?:\w+::)*(?:\w+|\*)").unwrap();
    path.find_iter(&code)
        .map(|path| resolve(module, path.as_str()))
        .collect()
}

fn resolve(module: &str, path: &str) -> String {
    let mut names: Vec<&str> = module.split("::").collect();
    for name in path.split("::") {
        match name {
            "crate" | "cupbearer" => names.clear(),
            "super" => drop(names.pop()),
            "self" if module == "lib" => names.clear(),
            "self" => {}
            name => names.push(name),
        }
    }
    names.join("::")
}

/// Reads all of `src` but the test modules: file name, module path, and code without comments.
fn sources() -> Vec<(String, String, String)> {
    let comment = Regex::new(r"(?m)^\s*//.*$| // .*$").unwrap();
    let test = Regex::new(r"#\[cfg\(test\)\]\n(?:pub\S* )?mod (\w+)( \{|;)").unwrap();
    let mut paths = vec![PathBuf::from("src")];
    let (mut sources, mut tests) = (Vec::new(), Vec::new());
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        let file = path.to_str().unwrap();
        let Some(module) = file.strip_suffix(".rs") else {
            continue;
        };
        let module = module["src/".len()..].replace('/', "::");
        let text = fs::read_to_string(&path).unwrap();
        let mut code = comment.replace_all(&text, "").into_owned();
        for found in test.captures_iter(&code.clone()) {
            tests.push(resolve(&module, &format!("self::{}", &found[1])));
            if &found[2] == " {" {
                code.truncate(found.get(0).unwrap().start());
            }
        }
        sources.push((file.to_owned(), module, code));
    }
    sources.retain(|(_, module, _)| !tests.iter().any(|test| within(module, test)));
    assert!(sources.len() > 100, "no more than {} files", sources.len());
    sources
}

//! Test code, and how it is left out.

use crate::lexer::{Kind, Token, begins};
use crate::paths::join;

/// The tokens outside of test code, and the modules declared in it that have files of their own.
pub(crate) fn without_tests(tokens: Vec<Token>, module: &str) -> (Vec<Token>, Vec<String>) {
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
    let test = begins(tokens, &["#", "[", "cfg", "(", "test", ")", "]"])
        || begins(tokens, &["#", "[", "cfg", "(", "all", "(", "test", ","])
        || begins(tokens, &["#", "[", "test", "]"]);
    test.then(|| 1 + group_length(&tokens[1..]))
}

/// The name in `mod name;`, with or without a visibility.
fn declared_module(item: &[Token]) -> Option<String> {
    let mut rest = item;
    while begins(rest, &["#", "["]) {
        rest = &rest[1 + group_length(&rest[1..])..];
    }
    if begins(rest, &["pub"]) {
        rest = &rest[1..];
        if begins(rest, &["("]) {
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
    while begins(&item[at..], &["#", "["]) {
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

//! Paths: what of the crate a file names, in `use` and in code.

use crate::lexer::{Kind, Token};

/// A path within the crate that a file names.
pub(crate) struct Reference {
    pub(crate) line: usize,
    /// Without `crate`.
    pub(crate) path: String,
}

/// What the file of this module names, in the order of its text.
pub(crate) fn references(module: &str, tokens: &[Token]) -> Vec<Reference> {
    Walk::new(module, tokens).references()
}

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

pub(crate) fn join(module: &str, name: &str) -> String {
    if module.is_empty() {
        return name.to_owned();
    }
    format!("{module}::{name}")
}

//! Tokens: as much of Rust's lexical structure as is needed to know what is code.

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier, keyword or number.
    Word,
    /// One character, or `::`.
    Sign,
    /// A string literal, without its quotes.
    Text,
}

impl Token {
    pub(crate) fn is(&self, text: &str) -> bool {
        self.kind != Kind::Text && self.text == text
    }
}

pub(crate) fn begins(tokens: &[Token], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.is(text))
}

pub(crate) fn lex(text: &str) -> Vec<Token> {
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

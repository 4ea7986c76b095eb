//! The vendor's words listed in `permanent`, `transient` and `final` of `[response]`.

use std::fmt;

use http::StatusCode;
use regex_lite::Regex;

use super::field::{Problem, join};
use super::one_or_many::OneOrMany;
use super::schema::Scalar;

/// Prefix of an HTTP status: `status:404`.
const STATUS: &str = "status:";

/// Prefix of a regular expression: `re:rate limit`.
const PATTERN: &str = "re:";

/// What a vendor said in one answer.
#[derive(Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) code: Option<&'a str>,
    pub(super) description: Option<&'a str>,
    pub(super) status: StatusCode,
}

/// The most specific kind of word that matched. A later kind says more about the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    Status,
    Code,
    /// A phrase or a pattern.
    Text,
}

/// One list of words.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Words(Vec<Word>);

#[derive(Clone)]
enum Word {
    Status(StatusCode),
    /// Equals the whole code.
    Code(String),
    /// Occurs in the code or the description, in either case. Also equals a code.
    Phrase(String),
    /// Matches a part of the code or of the description.
    Pattern(Regex),
}

impl Words {
    pub(super) fn parse(
        written: Option<&OneOrMany<Scalar>>,
        default: &[&str],
        key: &str,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let texts = match written {
            Some(list) => list.0.iter().map(ToString::to_string).collect(),
            None => Vec::from_iter(default.iter().map(|&text| text.to_owned())),
        };
        let mut words = Vec::new();
        for text in texts {
            match Word::parse(&text) {
                Ok(word) => words.push(word),
                Err(message) => problems.push(Problem::new(join("response", key), message)),
            }
        }
        Self(words)
    }

    pub(super) fn matches(&self, said: Said<'_>) -> Option<Match> {
        let found = self.0.iter().filter_map(|word| word.matches(said));
        found.max()
    }

    /// Whether the list holds this very code.
    pub(super) fn lists(&self, code: &str) -> bool {
        (self.0.iter()).any(|word| matches!(word, Word::Code(listed) if listed == code))
    }

    /// Whether a word is looked for in the code or the description.
    pub(super) fn reads_texts(&self) -> bool {
        let mut words = self.0.iter();
        words.any(|word| !matches!(word, Word::Status(_)))
    }

    /// Whether the lists have a word in common.
    pub(super) fn contradicts(&self, other: &Self) -> bool {
        self.0.iter().any(|word| other.0.contains(word))
    }
}

impl Word {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(status) = text.strip_prefix(STATUS) {
            let status = StatusCode::from_bytes(status.as_bytes());
            let message = "`status:` needs an HTTP status, as in \"status:404\"";
            return status.map(Self::Status).map_err(|_| message);
        }
        if let Some(pattern) = text.strip_prefix(PATTERN) {
            let message = "not a regular expression after `re:`";
            let pattern = Regex::new(pattern).map_err(|_| message)?;
            return match pattern.is_match("") {
                true => Err("the pattern after `re:` matches every answer"),
                false => Ok(Self::Pattern(pattern)),
            };
        }
        if text.trim().is_empty() {
            return Err("contains an empty text");
        }
        let in_codes = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
        Ok(match text.chars().all(in_codes) {
            true => Self::Code(text.to_owned()),
            false => Self::Phrase(text.to_lowercase()),
        })
    }

    fn matches(&self, said: Said<'_>) -> Option<Match> {
        let mut texts = said.code.into_iter().chain(said.description);
        let (kind, matches) = match self {
            Self::Status(status) => (Match::Status, *status == said.status),
            Self::Code(code) => (Match::Code, said.code == Some(code)),
            Self::Phrase(phrase) => {
                let matches = texts.any(|text| text.to_lowercase().contains(phrase));
                (Match::Text, matches)
            }
            Self::Pattern(pattern) => (Match::Text, texts.any(|text| pattern.is_match(text))),
        };
        matches.then_some(kind)
    }

    fn source(&self) -> String {
        match self {
            Self::Status(status) => format!("{STATUS}{}", status.as_str()),
            Self::Code(text) | Self::Phrase(text) => text.clone(),
            Self::Pattern(pattern) => format!("{PATTERN}{pattern}"),
        }
    }
}

/// Compares the texts: a compiled pattern has no equality.
impl PartialEq for Word {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(toml: &str) -> Result<Words, Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Table {
            list: OneOrMany<Scalar>,
        }
        let table: Table = toml::from_str(&format!("list = {toml}")).unwrap();
        let mut problems = Vec::new();
        let words = Words::parse(Some(&table.list), &[], "transient", &mut problems);
        match problems.is_empty() {
            true => Ok(words),
            false => Err(problems.into_iter().map(|it| it.message).collect()),
        }
    }

    fn said<'a>(status: u16, code: &'a str, description: &'a str) -> Said<'a> {
        Said {
            code: Some(code).filter(|text| !text.is_empty()),
            description: Some(description).filter(|text| !text.is_empty()),
            status: StatusCode::from_u16(status).unwrap(),
        }
    }

    #[test]
    fn codes_match_whole_and_phrases_and_patterns_match_parts() {
        for (list, status, code, description, expected) in [
            ("[-1, 'busy']", 200, "-1", "", Some(Match::Code)),
            ("[-1, 'busy']", 200, "busy", "", Some(Match::Code)),
            ("[-1, 'busy']", 200, "busybody", "we are busy, -1", None),
            ("'status:404'", 404, "", "", Some(Match::Status)),
            ("'status:404'", 400, "404", "404", None),
            (
                "'Rate Limit exceeded'",
                403,
                "",
                "API rate limit exceeded for ID 7",
                Some(Match::Text),
            ),
            ("'rate limit'", 403, "API Rate Limit", "", Some(Match::Text)),
            (
                "'请求过于频繁'",
                200,
                "7",
                "您的请求过于频繁。",
                Some(Match::Text),
            ),
            ("'re:^4500\\d$'", 200, "45009", "", Some(Match::Text)),
            ("'re:^4500\\d$'", 200, "145009", "", None),
            (
                "'re:(?i)being processed'",
                400,
                "invalid_grant",
                "Is Being Processed",
                Some(Match::Text),
            ),
            (
                "['status:400', 'x', 're:try later']",
                400,
                "x",
                "try later",
                Some(Match::Text),
            ),
            ("[]", 400, "x", "y", None),
        ] {
            let found = words(list)
                .unwrap()
                .matches(said(status, code, description));
            assert_eq!(found, expected, "{list} {status} {code} {description}");
        }
    }

    #[test]
    fn words_that_can_match_nothing_or_everything_are_refused() {
        for (list, message) in [
            (
                "'status:abc'",
                "`status:` needs an HTTP status, as in \"status:404\"",
            ),
            ("'re:('", "not a regular expression after `re:`"),
            ("'re:'", "the pattern after `re:` matches every answer"),
            ("'re:.*'", "the pattern after `re:` matches every answer"),
            ("['a', ' ']", "contains an empty text"),
        ] {
            assert_eq!(words(list).unwrap_err(), [message], "{list}");
        }
    }

    #[test]
    fn lists_with_a_common_word_contradict_each_other() {
        let list = words("['a', 'too many', 're:x+', 1]").unwrap();
        for other in ["'a'", "'Too Many'", "'re:x+'", "'1'"] {
            assert!(list.contradicts(&words(other).unwrap()), "{other}");
        }
        assert!(!list.contradicts(&words("['b', 're:x']").unwrap()));
        assert!(list.lists("a") && !list.lists("too many"));
    }
}

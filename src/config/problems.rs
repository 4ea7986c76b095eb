//! What is wrong and where: collected, so that an operator mends everything in one round.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;

use super::Problem;
use crate::dialect::nearest;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// A dotted key path, `providers.cncn.client_secret`, quoted as TOML would where a key is not bare.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyPath(String);

impl KeyPath {
    pub(super) fn root() -> Self {
        Self::default()
    }

    pub(super) fn key(&self, key: &str) -> Self {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push('.');
        }
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !key.is_empty() && key.chars().all(bare) {
            path.push_str(key);
        } else {
            // Escaped, so that a key cannot forge a line of its own in a log.
            path.push_str(&format!("\"{}\"", key.escape_debug()));
        }
        Self(path)
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// Adds a path that is dotted already.
    pub(super) fn dotted(&self, rest: &str) -> Self {
        let rest = rest.replace(char::is_control, "?");
        match (self.0.is_empty(), rest.is_empty()) {
            (_, true) => self.clone(),
            (true, false) => Self(rest),
            (false, false) => Self(format!("{}.{rest}", self.0)),
        }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mistake whose place is known only to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Complaint {
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Neither part may quote a value of the file.
pub(super) fn complaint(message: impl Into<String>) -> Complaint {
    Complaint {
        message: message.into(),
        hint: None,
    }
}

#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<Problem>,
    /// What could not be read and was taken out. It is not missing, so nothing more is said of it.
    struck_out: BTreeSet<String>,
}

impl Problems {
    pub(super) fn add(&mut self, at: &KeyPath, complaint: Complaint) {
        if !self.is_struck_out(at) {
            self.push(at, complaint);
        }
    }

    pub(super) fn strike_out(&mut self, at: &KeyPath, complaint: Complaint) {
        self.push(at, complaint);
        self.struck_out.insert(at.0.clone());
    }

    /// Whether this key, or anything beneath it, could not be read.
    pub(super) fn is_struck_out(&self, at: &KeyPath) -> bool {
        let mut from_here = self
            .struck_out
            .range::<str, _>((Bound::Included(at.0.as_str()), Bound::Unbounded));
        // Siblings such as `a-b` sort between `a` and `a.c`, hence not only the next one.
        from_here
            .by_ref()
            .take_while(|path| path.starts_with(&at.0))
            .any(|path| matches!(path.as_bytes().get(at.0.len()), None | Some(b'.' | b'[')))
    }

    /// The keys of this table that could not be read, or in which something could not be.
    pub(super) fn struck_out_in(&self, table: &KeyPath) -> impl Iterator<Item = &str> {
        let inside = self.struck_out.iter().filter_map(|path| {
            let rest = path.strip_prefix(&table.0)?.strip_prefix('.')?;
            rest.split(['.', '[']).next()
        });
        inside.filter(|key| !key.is_empty())
    }

    pub(super) fn has_any_in(&self, table: &KeyPath) -> bool {
        let inside = |path: &str| {
            path.strip_prefix(&table.0)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        self.found
            .iter()
            .any(|problem| problem.path == table.0 || inside(&problem.path))
    }

    fn push(&mut self, at: &KeyPath, complaint: Complaint) {
        self.found.push(Problem {
            path: at.to_string(),
            message: complaint.message,
            hint: complaint.hint,
        });
    }

    /// The value, or `None` and one more problem.
    pub(super) fn keep<T>(&mut self, at: &KeyPath, result: Result<T, Complaint>) -> Option<T> {
        result.map_err(|complaint| self.add(at, complaint)).ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// By path, each once: two providers of one faulty dialect find the same mistake.
    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort();
        self.found.dedup();
        self.found
    }
}

/// The known name that `wrong` was probably meant to be, as a hint; or `otherwise`.
pub(super) fn did_you_mean<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
    otherwise: impl FnOnce() -> String,
) -> String {
    nearest(wrong, known).map_or_else(otherwise, |name| format!("did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_toml_would_quote() {
        let path = KeyPath::root().key("providers").key("a.b").key("c\nd");
        assert_eq!(path.to_string(), r#"providers."a.b"."c\nd""#);
        assert_eq!(KeyPath::root().key("").to_string(), "\"\"");
        assert_eq!(path.index(2).to_string(), format!("{path}[2]"));
        assert_eq!(KeyPath::root().dotted("a.b").to_string(), "a.b");
        assert_eq!(KeyPath::root().key("x").dotted("").to_string(), "x");
    }

    #[test]
    fn problems_read_as_one_line() {
        let mut problem = Problem {
            path: "server.workers".into(),
            message: "expected an integer".into(),
            hint: None,
        };
        assert_eq!(problem.to_string(), "server.workers: expected an integer");
        problem.hint = Some("write 1".into());
        assert_eq!(
            problem.to_string(),
            "server.workers: expected an integer (write 1)"
        );
        problem.path.clear();
        assert_eq!(problem.to_string(), "expected an integer (write 1)");
    }

    #[test]
    fn what_was_struck_out_is_not_complained_about_again() {
        let mut problems = Problems::default();
        let at = KeyPath::root().key("a");
        problems.strike_out(&at.key("b"), complaint("expected an integer"));
        problems.strike_out(&KeyPath::root().key("a-b"), complaint("unknown key"));
        problems.add(&at, complaint("needs one of b and c"));
        problems.add(&at.key("b"), complaint("is missing"));
        problems.add(&at.key("bb"), complaint("is empty"));
        let paths: Vec<_> = problems.into_sorted().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, ["a-b", "a.b", "a.bb"]);
    }

    #[test]
    fn problems_are_sorted_and_told_once() {
        let mut problems = Problems::default();
        for key in ["b", "a", "b"] {
            problems.add(&KeyPath::root().key(key), complaint("is missing"));
        }
        let paths: Vec<_> = problems.into_sorted().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, ["a", "b"]);
    }
}

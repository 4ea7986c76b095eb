//! Collects every problem and its place, so that one run reports all of them.

use std::collections::BTreeSet;
use std::fmt;

use crate::dialect::nearest;

/// A mistake in the configuration and its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Dotted key path: `providers.cncn.client_secret`.
    pub path: String,
    /// Never quotes a value.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
}

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

/// A dotted key path such as `providers.cncn.client_secret`; keys are quoted as in TOML.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyPath(String);

impl KeyPath {
    pub(super) fn root() -> Self {
        Self::default()
    }

    pub(super) fn key(&self, key: &str) -> Self {
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !key.is_empty() && key.chars().all(bare) {
            return self.join(key);
        }
        // Escaped: a key must not forge a log line.
        self.join(&format!("\"{}\"", key.escape_debug()))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// Appends a path that is already dotted.
    pub(super) fn dotted(&self, rest: &str) -> Self {
        if rest.is_empty() {
            return self.clone();
        }
        self.join(&rest.replace(char::is_control, "?"))
    }

    fn join(&self, rest: &str) -> Self {
        let dot = if self.0.is_empty() { "" } else { "." };
        Self(format!("{}{dot}{rest}", self.0))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mistake whose key path only the caller knows.
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

/// Neither message nor hint may quote a value of the file.
pub(super) fn complaint(message: impl Into<String>) -> Complaint {
    Complaint {
        message: message.into(),
        hint: None,
    }
}

#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<Problem>,
    /// Keys that could not be read. They are not missing, so no later check complains about them.
    unread: BTreeSet<String>,
}

impl Problems {
    pub(super) fn add(&mut self, at: &KeyPath, complaint: Complaint) {
        if !self.has_unread(at) {
            self.push(at, complaint);
        }
    }

    pub(super) fn add_unread(&mut self, at: &KeyPath, complaint: Complaint) {
        self.push(at, complaint);
        self.unread.insert(at.0.clone());
    }

    fn push(&mut self, at: &KeyPath, complaint: Complaint) {
        self.found.push(Problem {
            path: at.0.clone(),
            message: complaint.message,
            hint: complaint.hint,
        });
    }

    /// Returns whether this key, or any key below, could not be read.
    pub(super) fn has_unread(&self, at: &KeyPath) -> bool {
        // Siblings such as `a-b` sort between `a` and `a.c`: more than the next path counts.
        (self.unread.range(at.0.clone()..))
            .take_while(|path| path.starts_with(&at.0))
            .any(|path| matches!(path.as_bytes().get(at.0.len()), None | Some(b'.' | b'[')))
    }

    /// Returns the keys of this table for which [`Self::has_unread`] holds.
    pub(super) fn unread_in(&self, table: &KeyPath) -> impl Iterator<Item = &str> {
        let inside = self.unread.iter().filter_map(|path| {
            let rest = path.strip_prefix(&table.0)?.strip_prefix('.')?;
            rest.split(['.', '[']).next()
        });
        inside.filter(|key| !key.is_empty())
    }

    pub(super) fn has_any_in(&self, table: &KeyPath) -> bool {
        self.found.iter().any(|problem| {
            let rest = problem.path.strip_prefix(&table.0);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// Returns the value, or adds a problem.
    pub(super) fn keep<T>(&mut self, at: &KeyPath, result: Result<T, Complaint>) -> Option<T> {
        result.map_err(|complaint| self.add(at, complaint)).ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Sorts by path and removes duplicates: two providers of a faulty dialect find one mistake.
    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort();
        self.found.dedup();
        self.found
    }
}

/// Returns a hint with the known name that is closest to `wrong`, or `otherwise`.
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
    fn paths_are_quoted_as_in_toml() {
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
    fn unread_keys_get_no_second_problem() {
        let mut problems = Problems::default();
        let at = KeyPath::root().key("a");
        problems.add_unread(&at.key("b"), complaint("expected an integer"));
        problems.add_unread(&KeyPath::root().key("a-b"), complaint("unknown key"));
        problems.add(&at, complaint("needs one of b and c"));
        problems.add(&at.key("b"), complaint("is missing"));
        problems.add(&at.key("bb"), complaint("is empty"));
        let paths: Vec<_> = problems.into_sorted().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, ["a-b", "a.b", "a.bb"]);
    }

    #[test]
    fn problems_are_sorted_and_reported_once() {
        let mut problems = Problems::default();
        for key in ["b", "a", "b"] {
            problems.add(&KeyPath::root().key(key), complaint("is missing"));
        }
        let paths: Vec<_> = problems.into_sorted().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, ["a", "b"]);
    }
}

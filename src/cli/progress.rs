//! A progress line, on terminals only.

use std::io::{self, IsTerminal as _, Write};

/// Erases its line when dropped.
pub(super) struct Progress<W: Write> {
    to: Option<W>,
    shown: String,
}

/// Limit that fits on most terminals: a wrapped line cannot be erased.
const WIDTH: usize = 78;

/// Erases the current line.
const ERASE: &str = "\r\x1b[2K";

impl Progress<io::Stderr> {
    pub(super) fn on_stderr() -> Self {
        let stderr = io::stderr();
        Self::new(stderr.is_terminal().then_some(stderr))
    }
}

impl<W: Write> Progress<W> {
    fn new(to: Option<W>) -> Self {
        Self {
            to,
            shown: String::new(),
        }
    }

    /// Replaces the line.
    pub(super) fn show(&mut self, text: &str) {
        let Some(to) = &mut self.to else {
            return;
        };
        let line = match text.char_indices().nth(WIDTH) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_owned(),
        };
        if line != self.shown {
            let _ = write!(to, "{ERASE}{line}").and_then(|()| to.flush());
            self.shown = line;
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        if let (Some(to), false) = (&mut self.to, self.shown.is_empty()) {
            let _ = write!(to, "{ERASE}").and_then(|()| to.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_replaces_the_previous_one_and_is_erased_at_the_end() {
        let mut seen = Vec::new();
        let mut progress = Progress::new(Some(&mut seen));
        progress.show("waiting for a");
        progress.show("waiting for a");
        progress.show(&"长".repeat(100));
        drop(progress);
        let text = String::from_utf8(seen).unwrap();
        let lines: Vec<_> = text.split(ERASE).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1], "waiting for a");
        assert_eq!(lines[2].chars().count(), WIDTH + 1);
        assert_eq!(lines[3], "");
    }

    #[test]
    fn without_a_terminal_nothing_is_shown() {
        let mut progress = Progress::<Vec<u8>>::new(None);
        progress.show("waiting");
        assert!(progress.shown.is_empty());
    }
}

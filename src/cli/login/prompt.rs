//! Asking people, or whatever stands behind standard input.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::secret::Secret;

/// Where answers come from. Questions go to standard error, so that standard output stays what was asked for.
pub(super) struct Prompt {
    /// Questions are asked; otherwise answers are only read.
    terminal: bool,
}

impl Prompt {
    pub(super) fn standard(from_stdin: bool) -> Self {
        Self {
            terminal: !from_stdin && io::stdin().is_terminal(),
        }
    }

    #[allow(
        clippy::unused_self,
        reason = "the one place that people are told things"
    )]
    pub(super) fn tell(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Reads one line. A secret is not shown while it is typed. Ctrl-C puts the terminal back as it was.
    pub(super) async fn ask(&self, name: &str, secret: bool) -> Result<Secret, Failure> {
        let hidden = (self.terminal && secret).then(Hidden::new).flatten();
        if self.terminal {
            let remark = if hidden.is_some() { " (not shown)" } else { "" };
            eprint!("{name}{remark}: ");
            let _ = io::stderr().flush();
        }
        let line = tokio::select! {
            line = read() => line,
            _ = tokio::signal::ctrl_c() => Err(Failure::Runtime("interrupted".to_owned())),
        };
        if hidden.is_some() {
            // The line's end was not shown either.
            eprintln!();
        }
        answer(name, line?)
    }
}

/// On a thread of its own: a read of a terminal cannot be cancelled, and nobody waits for this one at the end.
async fn read() -> Result<Option<Zeroizing<String>>, Failure> {
    let (sender, line) = oneshot::channel();
    let unreadable = |error: io::Error| Failure::Runtime(format!("cannot read an answer: {error}"));
    std::thread::Builder::new()
        .name("prompt".to_owned())
        .spawn(move || drop(sender.send(read_line(&mut io::stdin().lock()))))
        .map_err(unreadable)?;
    match line.await {
        Ok(line) => line.map_err(unreadable),
        Err(_) => Err(Failure::Runtime("cannot read an answer".to_owned())),
    }
}

/// `None` at the end of the input.
fn read_line(from: &mut dyn BufRead) -> io::Result<Option<Zeroizing<String>>> {
    // Room for nearly every answer: a string that grows leaves copies behind.
    let mut line = Zeroizing::new(String::with_capacity(8 * 1024));
    let read = from.read_line(&mut line)?;
    Ok((read > 0).then_some(line))
}

fn answer(name: &str, line: Option<Zeroizing<String>>) -> Result<Secret, Failure> {
    let line = line.ok_or_else(|| {
        Failure::Runtime(format!(
            "standard input ended where `{name}` was expected, one line for each answer"
        ))
    })?;
    let text = line.trim();
    if text.is_empty() {
        return Err(Failure::Runtime(format!("`{name}` is empty")));
    }
    Ok(Secret::new(text))
}

/// A terminal that does not echo, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    /// `None` if that cannot be: then the answer shows, which is better than none.
    fn new() -> Option<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Nothing that could be done about it.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_an_answer() {
        let mut input = &b"13800000000\n 123456 \r\n\nlast"[..];
        let mut next = || answer("x", read_line(&mut input).unwrap());
        assert_eq!(next().unwrap().expose(), "13800000000");
        assert_eq!(next().unwrap().expose(), "123456");
        assert!(next().unwrap_err().to_string().contains("`x` is empty"));
        assert_eq!(next().unwrap().expose(), "last");
        assert!(next().unwrap_err().to_string().contains("ended"));
    }
}

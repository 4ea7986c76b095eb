//! Questions to a person on a terminal, or lines read from standard input.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::secret::Secret;

/// Source of answers. Questions go to standard error; standard output holds only the result.
pub(super) struct Prompt {
    /// Whether questions are shown; otherwise lines are only read.
    terminal: bool,
}

impl Prompt {
    pub(super) fn standard(from_stdin: bool) -> Self {
        Self {
            terminal: !from_stdin && io::stdin().is_terminal(),
        }
    }

    /// Reads one line, without echo for a secret. Ctrl-C restores the terminal.
    pub(super) async fn ask(&self, name: &str, secret: bool) -> Result<Secret, Failure> {
        let hidden = (self.terminal && secret).then(NoEcho::new).flatten();
        if self.terminal {
            let remark = if hidden.is_some() { " (not shown)" } else { "" };
            eprint!("{name}{remark}: ");
            let _ = io::stderr().flush();
        }
        let line = tokio::select! {
            line = read() => line,
            _ = tokio::signal::ctrl_c() => Err(Failure::runtime("interrupted")),
        };
        if hidden.is_some() {
            // The newline was not echoed either.
            eprintln!();
        }
        answer(name, line?)
    }
}

/// Reads on its own thread: a read of a terminal cannot be cancelled and must not delay the exit.
async fn read() -> Result<Option<Zeroizing<String>>, Failure> {
    let (sender, line) = oneshot::channel();
    let unreadable = |error: io::Error| Failure::Runtime(format!("cannot read an answer: {error}"));
    std::thread::Builder::new()
        .name("prompt".to_owned())
        .spawn(move || drop(sender.send(read_line(&mut io::stdin().lock()))))
        .map_err(unreadable)?;
    match line.await {
        Ok(line) => line.map_err(unreadable),
        Err(_) => Err(Failure::runtime("cannot read an answer")),
    }
}

/// Returns `None` at the end of the input.
fn read_line(from: &mut dyn BufRead) -> io::Result<Option<Zeroizing<String>>> {
    // Large enough for almost every answer: a string that grows leaves copies in memory.
    let mut line = Zeroizing::new(String::with_capacity(8 * 1024));
    let read = from.read_line(&mut line)?;
    Ok((read > 0).then_some(line))
}

fn answer(name: &str, line: Option<Zeroizing<String>>) -> Result<Secret, Failure> {
    let Some(line) = line else {
        return Err(Failure::Runtime(format!(
            "standard input ended before the line for `{name}`"
        )));
    };
    match line.trim() {
        "" => Err(Failure::Runtime(format!("`{name}` is empty"))),
        text => Ok(Secret::new(text)),
    }
}

/// Switches the terminal's echo off until dropped.
struct NoEcho(Termios);

impl NoEcho {
    /// Returns `None` if echo cannot be switched off; the answer is then visible.
    fn new() -> Option<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
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

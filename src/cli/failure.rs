//! How a verb can fail, and the exit code that says so.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Problem;

/// Why the command did not do what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Exit code 1.
    #[error("{0}")]
    Runtime(String),
    /// Exit code 1; what is wrong has been shown already.
    #[error("failed")]
    Shown,
    /// A command of the user's could not be started; the exit code is the one that shells use for it.
    #[error("{0}")]
    NotStarted(String, u8),
    /// The exit code of a command of the user's, which said itself what it had to say.
    #[error("the command ended with exit code {0}")]
    Exit(u8),
    /// Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Exit code 78 (EX_CONFIG): there is no configuration to read.
    #[error("{0}")]
    NoConfig(String),
    /// Exit code 78: what is in it is wrong.
    #[error("{} has {}", path.display(), count(.problems.len()))]
    BadConfig {
        path: PathBuf,
        problems: Vec<Problem>,
    },
    /// Standard output is gone.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            // `cupbearer dialects | head`: the reader has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Runtime(_) | Self::Shown | Self::Output(_) => 1,
            Self::NotStarted(_, code) | Self::Exit(code) => *code,
            Self::Usage(_) => 2,
            Self::NoConfig(_) | Self::BadConfig { .. } => 78,
        })
    }

    /// Tells people: `error: …`, one line per problem, hints below; of a configuration, the file above them.
    pub fn report(&self, to: &mut dyn Write) {
        // Nobody to tell it to: the exit code has to do.
        let _ = match self {
            Self::Shown | Self::Exit(_) => Ok(()),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Self::BadConfig { problems, .. } => writeln!(to, "{self}:").and_then(|()| {
                problems
                    .iter()
                    .try_for_each(|problem| write_problem(to, "error", problem))
            }),
            Self::Runtime(_)
            | Self::NotStarted(..)
            | Self::Usage(_)
            | Self::NoConfig(_)
            | Self::Output(_) => {
                writeln!(to, "error: {self}")
            }
        };
    }
}

fn count(problems: usize) -> String {
    match problems {
        1 => "a problem".to_owned(),
        _ => format!("{problems} problems"),
    }
}

/// `error: providers.x.client_secret: …`, with the hint on a line of its own.
pub(super) fn write_problem(
    to: &mut dyn Write,
    level: &str,
    problem: &Problem,
) -> Result<(), io::Error> {
    let Problem {
        path,
        message,
        hint,
    } = problem;
    if path.is_empty() {
        writeln!(to, "{level}: {message}")?;
    } else {
        writeln!(to, "{level}: {path}: {message}")?;
    }
    match hint {
        Some(hint) => writeln!(to, "  hint: {hint}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(failure: &Failure) -> String {
        let mut text = Vec::new();
        failure.report(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_problem_gets_its_line_and_hint() {
        let failure = Failure::BadConfig {
            path: "a/b.toml".into(),
            problems: vec![
                Problem {
                    path: "providers.x.client_secret".to_owned(),
                    message: "is missing".to_owned(),
                    hint: Some("set it".to_owned()),
                },
                Problem {
                    path: String::new(),
                    message: "no upstreams".to_owned(),
                    hint: None,
                },
            ],
        };
        assert_eq!(
            reported(&failure),
            "a/b.toml has 2 problems:\n\
             error: providers.x.client_secret: is missing\n  hint: set it\nerror: no upstreams\n"
        );
        assert_eq!(failure.exit_code(), ExitCode::from(78));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit_code(), ExitCode::SUCCESS);
        assert_eq!(reported(&failure), "");
        let failure = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(failure.exit_code(), ExitCode::FAILURE);
        assert!(reported(&failure).starts_with("error: cannot write the output"));
    }
}

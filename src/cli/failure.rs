//! Errors of a verb, and their exit codes.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Problem;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Exit code 1.
    #[error("{0}")]
    Runtime(String),
    /// The command of `exec` could not be started; carries the exit code that shells use for that.
    #[error("{0}")]
    NotStarted(String, u8),
    /// The command of `exec` failed and has reported the reason itself; carries its exit code.
    #[error("the command ended with exit code {0}")]
    Exit(u8),
    /// Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Exit code 78 (EX_CONFIG): no readable configuration.
    #[error("{0}")]
    NoConfig(String),
    /// Exit code 78: the configuration is invalid.
    #[error("{} has {}", path.display(), count(.problems.len()))]
    BadConfig {
        path: PathBuf,
        problems: Vec<Problem>,
    },
    /// Exit code 1; 0 if standard output is a closed pipe.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// Wraps the text of `error`, for exit code 1.
    pub(super) fn runtime(error: impl Display) -> Self {
        Self::Runtime(error.to_string())
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            // `cupbearer dialects | head`: the reader has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Runtime(_) | Self::Output(_) => 1,
            Self::NotStarted(_, code) | Self::Exit(code) => *code,
            Self::Usage(_) => 2,
            Self::NoConfig(_) | Self::BadConfig { .. } => 78,
        })
    }

    /// Writes `error: …`; for an invalid configuration its path, then a line and hint per problem.
    pub fn report(&self, to: &mut dyn Write) {
        // If standard error is closed, only the exit code is left.
        let _ = match self {
            Self::Exit(_) => Ok(()),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Self::BadConfig { problems, .. } => writeln!(to, "{self}:").and_then(|()| {
                let mut problems = problems.iter();
                problems.try_for_each(|problem| write_problem(to, "error", problem))
            }),
            _ => writeln!(to, "error: {self}"),
        };
    }
}

fn count(problems: usize) -> String {
    match problems {
        1 => "a problem".to_owned(),
        _ => format!("{problems} problems"),
    }
}

/// Writes `error: providers.x.client_secret: …`, with the hint on its own line.
pub(super) fn write_problem(to: &mut dyn Write, level: &str, problem: &Problem) -> io::Result<()> {
    let path = match problem.path.as_str() {
        "" => String::new(),
        path => format!("{path}: "),
    };
    writeln!(to, "{level}: {path}{}", problem.message)?;
    match &problem.hint {
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

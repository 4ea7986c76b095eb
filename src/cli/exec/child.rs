//! The command, its signals and its end.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{self, SignalKind};

use crate::cli::failure::Failure;

pub(super) struct Child {
    process: tokio::process::Child,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot start {program}: {source}")]
pub(super) struct StartError {
    program: String,
    pub(super) source: io::Error,
}

impl Child {
    /// Starts `command` (program and arguments) with more variables, and without the `hidden` ones.
    pub(super) fn start(
        command: &[OsString],
        variables: &BTreeMap<String, String>,
        hidden: &[String],
    ) -> Result<Self, Failure> {
        // clap asks for one word at least.
        let (program, arguments) = command.split_first().expect("there is a command");
        let mut command = Command::new(program);
        command.args(arguments);
        for name in hidden {
            command.env_remove(name);
        }
        let process = command
            .envs(variables)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| StartError {
                program: program.display().to_string(),
                source,
            })?;
        Ok(Self { process })
    }

    /// Passes signals on until the command ends. Its exit code; 128 and more if a signal ended it, as shells tell it.
    pub(super) async fn supervise(mut self, signals: &mut Signals) -> io::Result<u8> {
        loop {
            tokio::select! {
                status = self.process.wait() => return Ok(code(status?)),
                signal = signals.next() => self.pass_on(signal),
            }
        }
    }

    fn pass_on(&self, signal: Signal) {
        // Ctrl-C on a terminal goes to all its processes; a second one would be taken for impatience.
        let from_terminal = matches!(signal, Signal::INT | Signal::QUIT);
        if from_terminal && io::stdin().is_terminal() {
            return;
        }
        let id = self.process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

pub(super) fn code_of_signal(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(1)
}

/// What others send to us and mean the command.
pub(super) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Inside a tokio runtime.
    pub(super) fn listen() -> io::Result<Self> {
        let kinds = [
            (Signal::HUP, SignalKind::hangup()),
            (Signal::INT, SignalKind::interrupt()),
            (Signal::QUIT, SignalKind::quit()),
            (Signal::USR1, SignalKind::user_defined1()),
            (Signal::USR2, SignalKind::user_defined2()),
            (Signal::TERM, SignalKind::terminate()),
        ];
        let all = kinds
            .into_iter()
            .map(|(signal, kind)| Ok((signal, unix::signal(kind)?)));
        all.collect::<io::Result<_>>().map(Self)
    }

    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (signal, source) in &mut self.0 {
                if source.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*signal);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

//! The command of `exec`: start, signals and exit code.

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

impl Child {
    /// Starts `command` (program and arguments), with `variables` added and `hidden` ones removed.
    pub(super) fn start(
        command: &[OsString],
        variables: &BTreeMap<String, String>,
        hidden: &[String],
    ) -> Result<Self, Failure> {
        let (program, arguments) = command.split_first().expect("clap requires one word");
        let mut command = Command::new(program);
        command.args(arguments);
        for name in hidden {
            command.env_remove(name);
        }
        let process = command.envs(variables).kill_on_drop(true).spawn();
        let process = process.map_err(|error| {
            let code = if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            };
            Failure::NotStarted(format!("cannot start {}: {error}", program.display()), code)
        })?;
        Ok(Self { process })
    }

    /// Forwards signals until the command ends. Returns its exit code, as shells do: 128 and the
    /// signal's number if a signal ended it.
    pub(super) async fn supervise(mut self, signals: &mut Signals) -> io::Result<u8> {
        loop {
            tokio::select! {
                status = self.process.wait() => return Ok(code(status?)),
                signal = signals.next() => self.forward(signal),
            }
        }
    }

    fn forward(&self, signal: Signal) {
        // The terminal sends Ctrl-C to the command too; a second one might end it at once.
        let from_terminal = matches!(signal, Signal::INT | Signal::QUIT);
        if from_terminal && io::stdin().is_terminal() {
            return;
        }
        let id = self.process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // Fails if the command has just ended.
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

/// Signals that are meant for the command.
pub(super) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Must be called inside a tokio runtime.
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

    /// Waits for the next signal. Cancel safe.
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

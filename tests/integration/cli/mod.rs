//! The program as a child process: its output and its exit codes.

mod check;
mod run;

use std::path::Path;
use std::process::{Output, Stdio};

use cupbearer::dialect;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use crate::harness::{World, soon};

const SECRET: &str = "s3cret-of-the-file";

#[tokio::test]
async fn wrong_usage_exits_with_code_2() {
    let world = World::new();
    for arguments in [
        &["fly"][..],
        &["run", "--fly"],
        &[],
        &["check", "--force"],
        &["dialects", "cncm"],
        &["completions", "cobol"],
        &["run", "--log", "a=b=c"],
    ] {
        write_valid_config(&world);
        let ran = run(&world, arguments).await;
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        assert!(!ran.err.is_empty());
    }
}

#[tokio::test]
async fn version_help_dialects_and_completions_print_to_stdout() {
    let world = World::new();
    let version = run(&world, &["version"]).await;
    assert_eq!(
        (version.code, &*version.out),
        (0, concat!("cupbearer ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    assert_eq!(run(&world, &["--version"]).await.out, version.out);
    let help = run(&world, &["help"]).await;
    assert_eq!(help.code, 0);
    for verb in [
        "run",
        "check",
        "status",
        "dialects",
        "health",
        "demo",
        "completions",
        "version",
    ] {
        assert!(
            help.out.contains(&format!("\n  {verb} ")),
            "no {verb} in\n{}",
            help.out
        );
    }
    let list = run(&world, &["dialects"]).await;
    assert_eq!(list.code, 0);
    for (name, _) in dialect::builtin() {
        assert!(
            list.out.contains(&format!("\n  {name} ")),
            "no {name} in\n{}",
            list.out
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&world, &["completions", shell]).await;
        assert_eq!(script.code, 0);
        assert!(script.out.contains("cupbearer"), "{shell}");
    }
}

/// Writes a valid configuration with free ports.
fn write_valid_config(world: &World) {
    world.write(
        "cupbearer.toml",
        &format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
             [providers.cncn]\ndialect = \"cncn\"\n\
             token_url = \"https://api.example.cn/v2/token\"\n\
             client_id = \"joelhy\"\nclient_secret = \"{SECRET}\"\n\
             [upstreams.cncn]\nurl = \"https://api.example.cn/api\"\nprovider = \"cncn\"\n\
             route = {{ path_prefix = \"/cncn\" }}\n"
        ),
    );
}

/// Returns the command `cupbearer ARGUMENTS` in `folder`, without environment variables.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cupbearer"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The output and the exit code of a process that has ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs `cupbearer ARGUMENTS` in the folder of `world`.
pub(crate) async fn run(world: &World, arguments: &[&str]) -> Ran {
    run_command(command(&world.path("."), arguments)).await
}

async fn run_command(mut command: Command) -> Ran {
    soon("the end of the command", command.output())
        .await
        .unwrap()
        .into()
}

/// A process of `cupbearer run` that listens.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// Address of the first listener.
    pub(crate) listen: String,
    /// URL of the admin port.
    admin: String,
    log: tokio::io::Lines<BufReader<ChildStderr>>,
}

impl Running {
    pub(crate) async fn start(world: &World, arguments: &[&str]) -> Self {
        Self::of(command(&world.path("."), arguments)).await
    }

    /// Starts the program with a limit of `files` open files.
    pub(crate) async fn with_files(world: &World, files: u32) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(format!("ulimit -n {files}; exec \"$0\" run"))
            .arg(env!("CARGO_BIN_EXE_cupbearer"))
            .current_dir(world.path("."))
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Self::of(shell).await
    }

    async fn of(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut listen, mut admin) = (None, None);
        while listen.is_none() || admin.is_none() {
            let line = soon("a log line", log.next_line()).await.unwrap();
            let line = line.expect("the program listens before it ends");
            let entry: serde_json::Value = serde_json::from_str(&line).expect("log lines are JSON");
            let message = entry["message"].as_str().unwrap_or_default();
            if let Some(address) = message.strip_prefix("listening on http://") {
                listen = Some(address.to_owned());
            }
            if let Some(url) = message.strip_prefix("admin page at ") {
                admin = Some(url.trim_end_matches('/').to_owned());
            }
        }
        Self {
            child,
            listen: listen.unwrap(),
            admin: admin.unwrap(),
            log,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(&self.child, signal);
    }

    /// Waits for a log line that contains `what`, and returns it.
    pub(crate) async fn logs(&mut self, what: &str) -> String {
        soon(what, async {
            loop {
                let line = self.log.next_line().await.unwrap().unwrap();
                if line.contains(what) {
                    return line;
                }
            }
        })
        .await
    }

    /// Waits for the end. Returns the exit code and the rest of the log.
    pub(crate) async fn ended(mut self) -> (i32, String) {
        let mut text = String::new();
        while let Some(line) = soon("a log line", self.log.next_line()).await.unwrap() {
            text += &line;
            text.push('\n');
        }
        let status = soon("the end of the process", self.child.wait())
            .await
            .unwrap();
        (status.code().unwrap(), text)
    }
}

fn kill(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

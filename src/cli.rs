//! The command line: one file per verb. Everything a user of the library needs lives elsewhere.

mod admin;
mod background;
mod chained;
mod check;
mod completions;
mod config_file;
mod core_dumps;
mod demo;
mod dialects;
mod exec;
mod explain;
mod failure;
mod health;
mod http;
mod log;
mod login;
mod progress;
mod run;
mod signals;
mod status;
mod table;
mod token;
mod version;
mod words;

#[cfg(test)]
mod tests;

use std::io::Write;

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

pub use failure::Failure;

/// A reverse-proxy sidecar that puts a valid access token on every request.
///
/// Your app speaks plain HTTP to Cupbearer on localhost; Cupbearer fetches tokens, keeps them
/// fresh, adds them to the requests and forwards these over TLS. Every flag can also be given as
/// CUPBEARER_FLAG_NAME.
#[derive(Debug, Parser)]
#[command(
    name = "cupbearer",
    version,
    arg_required_else_help = true,
    after_help = "New here? `cupbearer demo` shows it working: no account, no network, \
                  no configuration.\n\
                  Exit codes: 0 fine, 1 failed, 2 wrong usage, 78 bad configuration.",
    mut_args(with_environment),
    mut_subcommands(|verb| verb.mut_args(with_environment))
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    log: log::LogArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the proxy.
    Run(run::RunArgs),
    /// Check the configuration; with --online, fetch every token once.
    Check(check::CheckArgs),
    /// Log in: exchange a code from the browser or a text message for a token that `run` renews.
    Login(login::LoginArgs),
    /// Show the state of a provider's token; with --show, the token itself.
    Token(token::TokenArgs),
    /// Show the state of a running proxy.
    Status(status::StatusArgs),
    /// Run a command behind the proxy: free ports, tokens first, `CUPBEARER_<UPSTREAM>_URL` set.
    Exec(exec::ExecArgs),
    /// List the built-in token dialects, or explain one.
    Dialects(dialects::DialectsArgs),
    /// List the errors that apps get, or explain one and say what to do.
    Explain(explain::ExplainArgs),
    /// Exit with 0 if a running proxy is ready, for exec probes.
    Health(health::HealthArgs),
    /// Try the proxy with five fake vendors.
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Print the version.
    Version,
}

impl Cli {
    /// Parses the process's arguments. Wrong usage and `--help` end the process.
    #[must_use]
    pub fn from_process_args() -> Self {
        Self::parse()
    }

    /// Runs the verb. Requested output goes to `out`, logs and warnings to standard error.
    pub fn run(self, out: &mut dyn Write) -> Result<(), Failure> {
        let log = &self.log;
        match self.verb {
            Verb::Run(args) => run::run(&args, log),
            Verb::Check(args) => check::run(&args, log, out),
            Verb::Login(args) => login::run(&args, log, out),
            Verb::Token(args) => token::run(&args, log, out),
            Verb::Status(args) => status::run(&args, out),
            Verb::Exec(args) => exec::run(&args, log),
            Verb::Dialects(args) => dialects::run(&args, out),
            Verb::Explain(args) => explain::run(&args, out),
            Verb::Health(args) => health::run(&args, out),
            Verb::Demo(args) => demo::run(&args, log, out),
            Verb::Completions(args) => completions::run(&args, out),
            Verb::Version => version::run(out),
        }
    }
}

/// Hides values of environment variables in `--help`. Variables of switches also accept `1`, `yes`
/// and `on`.
fn with_environment(arg: Arg) -> Arg {
    let arg = arg.hide_env_values(true);
    match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
        _ => arg,
    }
}

/// Returns a runtime that runs on the calling thread.
fn tokio_runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::runtime)
}

/// Indents lines that are not empty, to show a file's text.
fn indented(text: &str) -> String {
    let indent = |line| format!("    {line}").trim_end().to_owned() + "\n";
    text.lines().map(indent).collect()
}

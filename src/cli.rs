//! The command line: one file per verb, and no logic that a user of the library would miss.

mod admin;
mod apart;
mod background;
mod chained;
mod check;
mod completions;
mod config_file;
mod core_dumps;
mod demo;
mod dialects;
mod exec;
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

use clap::{Parser, Subcommand};

pub use failure::Failure;

/// A reverse-proxy sidecar that puts a valid access token on every request.
///
/// Your app speaks plain HTTP to Cupbearer on localhost; Cupbearer fetches tokens, keeps them fresh, adds them
/// to the requests and forwards these over TLS. Every flag can also be given as CUPBEARER_FLAG_NAME.
#[derive(Debug, Parser)]
#[command(
    name = "cupbearer",
    version,
    arg_required_else_help = true,
    after_help = "New here? `cupbearer demo` shows it working: no account, no network, no configuration.\n\
                  Exit codes: 0 fine, 1 failed, 2 wrong usage, 78 bad configuration."
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    log: log::LogArgs,
}

// Arguments are described when their verb is given: a sidecar's every start would describe all the others.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Verb {
    /// Run the proxy.
    Run(run::RunArgs),
    /// Check the configuration; with --online, fetch every token once.
    Check(check::CheckArgs),
    /// Log in: a code from the browser or a text message becomes a token that the proxy keeps alive.
    Login(login::LoginArgs),
    /// Show the state of a provider's token; with --show, the token itself.
    Token(token::TokenArgs),
    /// Show the state of a running proxy.
    Status(status::StatusArgs),
    /// Run a command with the proxy in front of it: free ports, tokens first, CUPBEARER_<UPSTREAM>_URL set.
    Exec(exec::ExecArgs),
    /// List the token dialects that are built in, or explain one.
    Dialects(dialects::DialectsArgs),
    /// Exit with 0 if a running proxy is ready (for exec probes).
    Health(health::HealthArgs),
    /// See it work: five fake vendors, and the proxy in front of them.
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Print the version.
    Version,
}

impl Cli {
    /// What the process was started with. Wrong usage, and asking for help, end it here, with clap's explanation. Never inlined: what
    /// it needs of the stack is free again behind it.
    #[inline(never)]
    #[must_use]
    pub fn of_process() -> Self {
        Self::parse()
    }

    /// Does what was asked for; what people asked to see goes to `out`, everything else to standard error.
    pub fn run(self, out: &mut dyn Write) -> Result<(), Failure> {
        let log = &self.log;
        match self.verb {
            Verb::Run(args) => run::run(&args, log),
            Verb::Check(args) => aside(|| check::run(&args, log, out)),
            Verb::Login(args) => aside(|| login::run(&args, log, out)),
            Verb::Token(args) => aside(|| token::run(&args, log, out)),
            Verb::Status(args) => aside(|| status::run(&args, out)),
            Verb::Exec(args) => aside(|| exec::run(&args, log)),
            Verb::Dialects(args) => aside(|| dialects::run(&args, out)),
            Verb::Health(args) => aside(|| health::run(&args, out)),
            Verb::Demo(args) => aside(|| demo::run(&args, log, out)),
            Verb::Completions(args) => aside(|| completions::run(&args, out)),
            Verb::Version => version::run(out),
        }
    }
}

/// A verb that ends, in a function of its own: inlined, it would take from the stack of a proxy for as long as that runs.
#[inline(never)]
fn aside(verb: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    verb()
}

//! `cupbearer completions SHELL`.

use std::io::Write;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;
use super::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    // Buffered: clap_complete panics if its output is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cupbearer", &mut script);
    out.write_all(&script)?;
    Ok(())
}

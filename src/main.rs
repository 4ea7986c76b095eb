//! The `cupbearer` command: parse, run, exit code.

use std::io;
use std::process::ExitCode;

use clap::Parser as _;
use cupbearer::cli::Cli;

fn main() -> ExitCode {
    // Wrong usage ends here, with clap's explanation and exit code 2.
    let cli = Cli::parse();
    match cli.run(&mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(&mut io::stderr());
            failure.exit_code()
        }
    }
}

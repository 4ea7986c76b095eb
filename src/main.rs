//! The `cupbearer` command: parse, run, exit code.

use std::io;
use std::process::ExitCode;

use cupbearer::cli::Cli;

fn main() -> ExitCode {
    // Wrong usage exits here with code 2.
    match Cli::from_process_args().run(&mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(&mut io::stderr());
            failure.exit_code()
        }
    }
}

//! The `cupbearer` command: parse, run, exit code.

use std::io;
use std::process::ExitCode;

use cupbearer::cli::Cli;

fn main() -> ExitCode {
    // Wrong usage ends here, with exit code 2.
    let done = Cli::from_process_args().run(&mut io::stdout());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(&mut io::stderr());
            failure.exit_code()
        }
    }
}

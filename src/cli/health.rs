//! `cupbearer health`: for exec probes in an image without a shell.

use std::io::Write;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::admin::AdminArgs;
use super::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// Ask whether the process lives (/livez) instead of whether it is ready (/readyz)
    #[arg(long, env = "CUPBEARER_LIVE", hide_env_values = true, value_parser = BoolishValueParser::new())]
    live: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &HealthArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let (path, word) = if args.live {
        ("/livez", "alive")
    } else {
        ("/readyz", "ready")
    };
    let answer = args
        .admin
        .server()?
        .get_blocking(path)
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    if answer.status == http::StatusCode::OK {
        writeln!(out, "{word}")?;
        return Ok(());
    }
    let body = String::from_utf8_lossy(&answer.body);
    let reason = body.lines().next().unwrap_or_default().trim();
    Err(Failure::Runtime(
        format!("not {word}: {} {reason}", answer.status)
            .trim_end()
            .to_owned(),
    ))
}

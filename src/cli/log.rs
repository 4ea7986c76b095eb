//! `--log` and `--log-format`: logs go to standard error.

mod events;

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::events::Events;
use super::failure::Failure;
use crate::app::LogControl;

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// off, error, warn, info, debug, trace (in a release the same as debug), or a filter such as
    /// `info,cupbearer::provider=debug`
    #[arg(
        long,
        value_name = "LEVEL",
        value_parser = directives,
        env = "CUPBEARER_LOG",
        global = true,
        help_heading = "Logging"
    )]
    log: Option<String>,

    /// Format of log lines [default: human on a terminal, json otherwise]
    #[arg(
        long,
        value_name = "FORMAT",
        env = "CUPBEARER_LOG_FORMAT",
        global = true,
        help_heading = "Logging"
    )]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

impl LogArgs {
    /// Starts logging, with the filter `default` unless `--log` is given.
    pub(super) fn start(&self, default: &str) -> Result<Log, Failure> {
        // An empty environment variable counts as unset.
        let written = self.log.as_deref().filter(|text| !text.trim().is_empty());
        let text = written.unwrap_or(default);
        let filter = filter(text).map_err(|error| Failure::Usage(format!("--log: {error}")))?;
        let terminal = io::stderr().is_terminal();
        let usual = if terminal {
            LogFormat::Human
        } else {
            LogFormat::Json
        };
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let lines = layer().with_writer(io::stderr);
        let (filter, handle) = reload::Layer::new(filter);
        let log = Events.with(filter);
        let started = match self.log_format.unwrap_or(usual) {
            LogFormat::Human => log.with(lines.with_ansi(colour)).try_init(),
            LogFormat::Json => log.with(lines.json().flatten_event(true)).try_init(),
        };
        started.map_err(|error| Failure::Runtime(format!("cannot start logging: {error}")))?;
        let directives = Mutex::new(text.to_owned());
        Ok(Log { directives, handle })
    }
}

/// The log's filter, which can be changed while running.
pub(super) struct Log {
    directives: Mutex<String>,
    handle: reload::Handle<Targets, Events>,
}

impl LogControl for Log {
    fn directives(&self) -> String {
        self.lock().clone()
    }

    fn set(&self, directives: &str) -> Result<(), String> {
        let filter = filter(directives)?;
        let mut current = self.lock();
        let reloaded = self.handle.reload(filter);
        reloaded.map_err(|error| error.to_string())?;
        directives.clone_into(&mut current);
        drop(current);
        tracing::warn!(directives, "log filter changed through the admin port");
        Ok(())
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, String> {
        self.directives
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Validates `--log`, so that a wrong filter is wrong usage for every verb.
fn directives(text: &str) -> Result<String, String> {
    filter(text).map(|_| text.to_owned())
}

/// Parses a filter. A single level applies to Cupbearer only: libraries stay at `warn`, since their
/// logs are long and include headers.
fn filter(text: &str) -> Result<Targets, String> {
    let advice = || {
        format!(
            "use one of {} or a filter such as info,cupbearer::provider=debug",
            LEVELS.join(", ")
        )
    };
    // `Targets` would take an unknown word for a module's name and an empty level for all levels.
    if levels(text).any(|level| !LEVELS.contains(&level.to_ascii_lowercase().as_str())) {
        return Err(format!("unknown level; {}", advice()));
    }
    let level = text.trim().to_ascii_lowercase();
    let directives = match level.as_str() {
        "off" | "error" => level,
        _ if LEVELS.contains(&level.as_str()) => format!("warn,cupbearer={level}"),
        _ => text.to_owned(),
    };
    // Not `EnvFilter`, whose regular expression engines take a third of a megabyte of code.
    directives
        .parse()
        .map_err(|error| format!("{error}; {}", advice()))
}

/// Returns the level of each part of a filter: the text after the target, or the whole part.
fn levels(text: &str) -> impl Iterator<Item = &str> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts.map(|part| {
        part.rsplit_once('=')
            .map_or(part, |(_, level)| level.trim())
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_level_alone_keeps_libraries_quiet() {
        let mut text: Vec<String> = filter("DEBUG")
            .unwrap()
            .to_string()
            .split(',')
            .map(str::to_owned)
            .collect();
        text.sort();
        assert_eq!(text, ["cupbearer=debug", "warn"]);
        assert_eq!(filter("off").unwrap().to_string(), "off");
    }

    #[test]
    fn filters_are_kept_as_written_and_invalid_ones_are_errors() {
        assert_eq!(filter("hyper=trace").unwrap().to_string(), "hyper=trace");
        assert!(filter("cupbearer=debug,hyper=warn").is_ok());
        assert!(filter("info,cupbearer::provider=debug").is_ok());
        assert!(filter("a=b=c").is_err());
        assert!(filter("cupbearer=debgu").is_err());
    }

    #[test]
    fn an_unknown_level_is_wrong_usage() {
        for wrong in [
            "debgu",
            "verbose",
            "warning",
            "info,debgu",
            "cupbearer",
            "nonsense=",
            "info,cupbearer= ",
            "cupbearer=5",
        ] {
            let error = filter(wrong).unwrap_err();
            assert!(
                error.contains("off, error, warn, info, debug, trace"),
                "{error}"
            );
            let error = crate::cli::Cli::try_parse_from(["cupbearer", "version", "--log", wrong]);
            assert_eq!(error.unwrap_err().exit_code(), 2);
        }
    }
}

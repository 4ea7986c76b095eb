//! `--log` and `--log-format`: everything that is told along the way goes to standard error.

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
    /// off, error, warn, info, debug, trace (in a release the same as debug), or a filter such as `info,cupbearer::provider=debug`
    #[arg(
        long,
        value_name = "LEVEL",
        value_parser = directives,
        env = "CUPBEARER_LOG",
        global = true,
        help_heading = "Logging"
    )]
    log: Option<String>,

    /// How log lines look [default: human on a terminal, json otherwise]
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
    /// Starts logging, at `default` where `--log` is not given.
    pub(super) fn start(&self, default: &str) -> Result<Log, Failure> {
        // An empty variable of the environment is one that is not set.
        let written = self.log.as_deref().filter(|text| !text.trim().is_empty());
        let text = written.unwrap_or(default);
        let filter = filter(text).map_err(|error| Failure::Usage(format!("--log: {error}")))?;
        let terminal = io::stderr().is_terminal();
        let format = self.log_format.unwrap_or(if terminal {
            LogFormat::Human
        } else {
            LogFormat::Json
        });
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let lines = layer().with_writer(io::stderr);
        let (filter, handle) = reload::Layer::new(filter);
        let log = Events.with(filter);
        let started = match format {
            LogFormat::Human => log.with(lines.with_ansi(colour)).try_init(),
            LogFormat::Json => log.with(lines.json().flatten_event(true)).try_init(),
        };
        started.map_err(|error| Failure::Runtime(format!("cannot start logging: {error}")))?;
        Ok(Log {
            directives: Mutex::new(text.to_owned()),
            handle,
        })
    }
}

/// The running log.
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
        self.handle
            .reload(filter)
            .map_err(|error| error.to_string())?;
        directives.clone_into(&mut current);
        drop(current);
        tracing::warn!(directives, "what is logged was changed by the admin port");
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

/// What `--log` takes, so that a wrong one is wrong usage for every verb.
fn directives(text: &str) -> Result<String, String> {
    filter(text).map(|_| text.to_owned())
}

/// A level alone is about Cupbearer; the libraries below it stay at `warn`, for they tell too much to be read,
/// and headers among it.
fn filter(text: &str) -> Result<Targets, String> {
    let advice = || {
        format!(
            "use one of {} or a filter such as info,cupbearer::provider=debug",
            LEVELS.join(", ")
        )
    };
    // The filter would take a word for the name of a module, and an empty level for all of them.
    if levels(text).any(|level| !LEVELS.contains(&level.to_ascii_lowercase().as_str())) {
        return Err(format!("no level; {}", advice()));
    }
    let level = text.trim().to_ascii_lowercase();
    let directives = match level.as_str() {
        "off" | "error" => level,
        _ if LEVELS.contains(&level.as_str()) => format!("warn,cupbearer={level}"),
        _ => text.to_owned(),
    };
    // Not `EnvFilter`: it filters by spans as well, with two regular expression engines, a third of a megabyte of code.
    directives
        .parse()
        .map_err(|error| format!("{error}; {}", advice()))
}

/// The level of each part of a filter: what follows its target, or all of it.
fn levels(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(',').map(str::trim);
    let parts = parts.filter(|part| !part.is_empty());
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
    fn filters_are_taken_as_written_and_nonsense_is_wrong_usage() {
        assert_eq!(filter("hyper=trace").unwrap().to_string(), "hyper=trace");
        assert!(filter("cupbearer=debug,hyper=warn").is_ok());
        assert!(filter("info,cupbearer::provider=debug").is_ok());
        assert!(filter("a=b=c").is_err());
        assert!(filter("cupbearer=debgu").is_err());
    }

    #[test]
    fn a_word_that_is_no_level_is_wrong_usage() {
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

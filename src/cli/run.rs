//! `cupbearer run`.

use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::SignalKind;

use super::config_file::{ConfigArgs, Loaded};
use super::core_dumps;
use super::failure::Failure;
use super::log::LogArgs;
use super::signals::Signals;
use crate::app::{self, ConfigFile};
use crate::config::{Listen, ProcessEnvironment};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &RunArgs, log: &LogArgs) -> Result<(), Failure> {
    let Loaded { path, config } = args.config.load()?.with_commands_checked()?;
    let file = ConfigFile::new(path.clone(), ProcessEnvironment);
    let log = log.start("info")?;
    core_dumps::disable();
    app::raise_open_files();
    // Before binding: a signal may arrive as soon as a port is open. SIGHUP reloads.
    let signals = Signals::listen(&[SignalKind::hangup()])?;
    let (providers, upstreams) = (config.providers.len(), config.upstreams.len());
    let bound = app::bind(config)
        .map_err(Failure::runtime)?
        .watch(file)
        .log_by(Arc::new(log));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %path.display(),
        providers,
        upstreams,
        "starting"
    );
    for listener in bound.listeners() {
        tracing::info!("listening on {}", address(&listener));
    }
    if let Some(admin) = bound.admin() {
        tracing::info!("admin page at http://{admin}/");
    }
    bound.run(signals.first()).map_err(Failure::runtime)
}

/// Formats a listener as a URL for an app.
pub(super) fn address(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => format!("http://{address}"),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}

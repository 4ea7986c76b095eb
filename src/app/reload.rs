//! Reloads the configuration file on SIGHUP, on `POST /-/reload`, or when a file has changed: the
//! configuration file, a file that is read only with it, or after a failed reload any named file.
//! Files are checked every 2 s, and a change counts once two checks in a row find the same content.
//!
//! All steps that can fail come first, so that a bad file changes nothing: reading, checking,
//! comparing with the running configuration, and binding new listeners. [`Live::apply`] cannot
//! fail. Unchanged upstreams keep their connections, unchanged listeners their sockets, and
//! unchanged identities their token; a changed secret is passed to the running refresher. A changed
//! identity gets a new cell. Each request keeps the snapshot with which it started.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use zeroize::Zeroizing;

use super::files::{self, Stamps};
use super::listen::{self, Opened};
use super::listeners;
use super::live::Live;
use super::prepare::{StartError, client_auth, connect, ok_unless};
use super::snapshot::{AdminChange, Prepared};
use super::view::View;
use crate::config::{self, Config, Environment, Listen, Problem};
use crate::provider;
use crate::proxy::Proxy;
use crate::upstream::tls::TlsProfiles;

/// How often the files are checked.
const POLL: Duration = Duration::from_secs(2);

/// The watched configuration file.
#[derive(Clone)]
pub struct ConfigFile {
    path: PathBuf,
    environment: Arc<dyn Environment + Send + Sync>,
    /// SHA-256 of the running configuration's file.
    digest: Option<[u8; 32]>,
    pub(super) poll: Duration,
}

/// Applies a changed configuration file.
pub(super) struct Reloader {
    file: Option<ConfigFile>,
    seen: Mutex<Seen>,
    live: tokio::sync::Mutex<Live>,
    profiles: TlsProfiles,
    proxy: Arc<Proxy>,
    view: Arc<View>,
}

/// Identifies all that a configuration is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    /// SHA-256 of the configuration file.
    digest: [u8; 32],
    /// Modification stamps of the files whose change causes a reload.
    files: Stamps,
}

#[derive(Debug, Default)]
struct Seen {
    /// At the last reload, good or bad.
    acted: Option<Content>,
    /// At the last check, if different.
    last: Option<Content>,
}

impl ConfigFile {
    /// To be called right after the configuration was read from `path`, because only later changes
    /// cause a reload.
    pub fn new(path: PathBuf, environment: impl Environment + Send + Sync + 'static) -> Self {
        let digest = read(&path).map(|(_, digest)| digest).ok();
        Self {
            path,
            environment: Arc::new(environment),
            digest,
            poll: POLL,
        }
    }

    /// Reads the configuration and all files that it names. Blocks.
    fn read(&self) -> (Option<Content>, Result<Config, Vec<String>>) {
        let unreadable = |error: &dyn std::fmt::Display| {
            vec![format!("{}: cannot be read: {error}", self.path.display())]
        };
        let (bytes, digest) = match read(&self.path) {
            Ok(found) => found,
            Err(error) => return (None, Err(unreadable(&error))),
        };
        let mut files = Stamps::default();
        let config = match std::str::from_utf8(&bytes) {
            Ok(text) => {
                // Taken before the files are read, so that no later change is missed.
                files = Stamps::of(config::named_files(text));
                Config::from_toml(text, &*self.environment).map_err(|it| in_words(&it))
            }
            Err(_) => Err(unreadable(&"it is not UTF-8 text")),
        };
        (Some(Content { digest, files }), config)
    }

    /// Returns the present content, with `files`; `None` while the configuration file is missing,
    /// because it may just be being replaced. Blocks.
    fn look(&self, files: &Stamps) -> Option<Content> {
        let (_, digest) = read(&self.path).ok()?;
        let files = files.again();
        Some(Content { digest, files })
    }
}

impl Reloader {
    pub(super) fn new(
        file: Option<ConfigFile>,
        files: Stamps,
        live: Live,
        profiles: TlsProfiles,
        proxy: Arc<Proxy>,
        view: Arc<View>,
    ) -> Self {
        let digest = file.as_ref().and_then(|file| file.digest);
        let seen = Seen {
            acted: digest.map(|digest| Content { digest, files }),
            last: None,
        };
        Self {
            file,
            seen: Mutex::new(seen),
            live: tokio::sync::Mutex::new(live),
            profiles,
            proxy,
            view,
        }
    }

    /// Applies the present file. Returns what changed, or all problems of the file.
    ///
    /// Cancel safe: a started reload continues.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<String, Vec<String>> {
        let this = Arc::clone(self);
        let work = tokio::spawn(async move {
            let mut live = this.live.lock().await;
            let result = this.attempt(&mut live).await;
            this.report(&result);
            result
        });
        work.await
            .unwrap_or_else(|_| Err(vec!["the reload panicked: please report it".to_owned()]))
    }

    /// Starts a task that reloads on SIGHUP and when a file has changed.
    pub(super) fn watch(self: &Arc<Self>) {
        if let Some(file) = self.file.clone() {
            tokio::spawn(Arc::clone(self).reload_on_change(file));
        }
    }

    async fn reload_on_change(self: Arc<Self>, file: ConfigFile) {
        let mut hangups = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!(%error, "cannot handle SIGHUP"))
            .ok();
        let mut polls = interval(file.poll);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = tokio::select! {
                Some(()) = async { hangups.as_mut()?.recv().await } => true,
                _ = polls.tick() => self.has_changed(&file).await,
            };
            if due {
                // The result is logged and counted by then.
                let _ = self.reload().await;
            } else if let Ok(mut live) = self.live.try_lock() {
                live.forget_retired();
            }
        }
    }

    /// Returns whether the content is new, and the same as at the last check: then it is completely
    /// written.
    async fn has_changed(&self, file: &ConfigFile) -> bool {
        let files = self.seen().acted.as_ref().map(|it| it.files.clone());
        let file = file.clone();
        let found = in_background(move || file.look(&files.unwrap_or_default())).await;
        self.seen().look(found.ok().flatten())
    }

    /// Watches only these files beside the configuration file.
    fn watch_only(&self, files: &BTreeSet<PathBuf>) {
        if let Some(acted) = &mut self.seen().acted {
            acted.files.keep(files);
        }
    }

    async fn attempt(&self, live: &mut Live) -> Result<String, Vec<String>> {
        let Some(file) = self.file.clone() else {
            return Err(vec!["there is no configuration file to reload".to_owned()]);
        };
        if self.view.is_ending() {
            return Err(vec!["the process is shutting down".to_owned()]);
        }
        let (found, config) = in_background(move || file.read()).await?;
        if found.is_some() {
            self.seen().acted = found;
        }
        let config = config?;
        let problems = super::diff::needs_restart(live.config(), &config);
        if !problems.is_empty() {
            // No change of another file can make the reload succeed.
            self.watch_only(&BTreeSet::new());
            return Err(in_words(&problems));
        }
        let (config, prepared) = self.prepare(live, config).await?;
        check_injections(live, &config).await?;
        for warning in &config.warnings {
            tracing::warn!("configuration: {warning}");
        }
        self.watch_only(&files::read_once(&config));
        // Remembers that the process was ready before the new providers count.
        self.view.readiness();
        let show = |live: &Live| self.view.show(live);
        let changes = live.apply(config, prepared, &self.proxy, show).await;
        Ok(changes.to_string())
    }

    /// Reads the files that the configuration names, and opens its new listeners.
    async fn prepare(
        &self,
        live: &Live,
        config: Config,
    ) -> Result<(Config, Prepared), Vec<String>> {
        let profiles = self.profiles.clone();
        let missing = live.listeners.missing(&listeners::wanted(&config));
        let admin = config.server.admin;
        let admin_moves = admin != live.config().server.admin;
        let (config, connectors, sockets) = in_background(move || {
            let connectors = connect(&config, &profiles);
            let sockets = open(&missing, admin.filter(|_| admin_moves));
            (config, connectors, sockets)
        })
        .await?;
        let mut problems = Vec::new();
        let mut keep = |errors: Vec<StartError>| {
            problems.extend(errors.iter().map(|error| explain(error, live)));
        };
        let connectors = connectors.map_err(&mut keep);
        let sockets = sockets.map_err(&mut keep);
        let (Ok(connectors), Ok((opened, admin))) = (connectors, sockets) else {
            return Err(problems);
        };
        let client_auth = client_auth(&config.server).await;
        let prepared = Prepared {
            connectors,
            client_auth: client_auth.map_err(|error| vec![error.to_string()])?,
            opened,
            admin: match admin_moves {
                true => AdminChange::Moves(admin),
                false => AdminChange::Stays,
            },
        };
        Ok((config, prepared))
    }

    fn report(&self, result: &Result<String, Vec<String>>) {
        self.proxy.metrics.count_reload(result.is_ok());
        self.view.reloaded(result);
        match result {
            Ok(changes) => tracing::info!("configuration reloaded: {changes}"),
            Err(problems) => {
                tracing::error!("reload failed; still running the previous configuration");
                for problem in problems {
                    tracing::error!("configuration: {problem}");
                }
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Returns whether to reload: `found` is new, and the same as at the last check.
    fn look(&mut self, found: Option<Content>) -> bool {
        let found = found.filter(|found| self.acted.as_ref() != Some(found));
        let settled = found.is_some() && self.last == found;
        self.last = found;
        settled
    }
}

type Sockets = (Vec<Opened>, Option<std::net::TcpListener>);

/// Blocks.
fn open(missing: &[Listen], admin: Option<SocketAddr>) -> Result<Sockets, Vec<StartError>> {
    let mut errors = Vec::new();
    let opened = missing.iter().map(listen::open);
    let opened = opened.filter_map(|it| it.map_err(|error| errors.push(error)).ok());
    let opened = opened.collect();
    let admin = admin.map(listen::open_tcp).transpose();
    let admin = admin
        .map_err(|error| errors.push(error))
        .unwrap_or_default();
    ok_unless(errors, (opened, admin))
}

fn explain(error: &StartError, live: &Live) -> String {
    if let StartError::Listen { listen, source } = error
        && source.kind() == io::ErrorKind::AddrInUse
        && let Some(ours) = live.in_the_way_of(listen)
    {
        return format!(
            "{error}: this process listens on {ours} until then, \
             so that this change needs a restart"
        );
    }
    error.to_string()
}

/// Checks the variables that `[inject]` names while the present token is still in use.
async fn check_injections(live: &Live, config: &Config) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for touched in live.touched(config) {
        if let Err(error) = provider::check_injection(touched).await {
            problems.push(format!("providers.{}.inject: {error}", touched.name));
        }
    }
    ok_unless(problems, ())
}

/// Runs `work` off the control thread: a configuration of ten thousand upstreams takes long to
/// read.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Vec<String>> {
    let failed = |error: tokio::task::JoinError| vec![io::Error::from(error).to_string()];
    spawn_blocking(work).await.map_err(failed)
}

fn in_words(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Returns the file's content, which may hold secrets, and its digest. Blocks.
fn read(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, [u8; 32])> {
    let bytes = Zeroizing::new(std::fs::read(path)?);
    let digest = Sha256::digest(&bytes).into();
    Ok((bytes, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_content_is_due_when_it_was_seen_twice() {
        let content = |byte| Content {
            digest: [byte; 32],
            files: Stamps::default(),
        };
        let [old, one, two] = [1, 2, 3].map(|byte| Some(content(byte)));
        let mut seen = Seen {
            acted: old.clone(),
            last: None,
        };
        for (found, due) in [
            (&old, false),
            (&one, false),
            (&two, false),
            (&two, true),
            (&None, false),
            (&one, false),
            (&None, false),
            (&one, false),
            (&one, true),
            (&old, false),
        ] {
            assert_eq!(seen.look(found.clone()), due, "{found:?}");
        }
    }
}

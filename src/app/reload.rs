//! Reload: the configuration file is read again, on SIGHUP, on `POST /-/reload`, or because its content has changed, or that of a file
//! which it names: one that is read with it alone, or after a failed reload any.
//!
//! Everything that can fail comes before anything is changed, so that a bad file changes nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};
use zeroize::Zeroizing;

use super::control::View;
use super::doors;
use super::files::{self, Stamps};
use super::listen::{self, Opened};
use super::live::Live;
use super::snapshot::{AdminChange, Prepared};
use super::{StartError, client_auth, connect};
use crate::config::{self, Config, Environment, Listen, Problem};
use crate::provider;
use crate::proxy::Proxy;
use crate::upstream::tls::TlsProfiles;

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(2);

/// The configuration file, watched from now on.
#[derive(Clone)]
pub struct ConfigFile {
    path: PathBuf,
    environment: Arc<dyn Environment + Send + Sync>,
    /// What the running configuration was read from.
    digest: Option<[u8; 32]>,
    pub(super) poll: Duration,
}

/// Brings a changed file into force.
pub(super) struct Reloader {
    file: Option<ConfigFile>,
    seen: Mutex<Seen>,
    live: tokio::sync::Mutex<Live>,
    profiles: TlsProfiles,
    proxy: Arc<Proxy>,
    view: Arc<View>,
}

/// What a configuration is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    /// Of its own file.
    digest: [u8; 32],
    /// Those besides that matter.
    files: Stamps,
}

/// What the files' content was.
#[derive(Debug, Default)]
struct Seen {
    /// At the last reload, good or bad.
    acted: Option<Content>,
    /// At the last look, where that was another.
    last: Option<Content>,
}

impl ConfigFile {
    /// To be called right after the configuration was read from `path`: only later changes count as such.
    pub fn new(path: PathBuf, environment: impl Environment + Send + Sync + 'static) -> Self {
        let digest = std::fs::read(&path)
            .map(|bytes| digest(&Zeroizing::new(bytes)))
            .ok();
        Self {
            path,
            environment: Arc::new(environment),
            digest,
            poll: POLL,
        }
    }

    /// The configuration as it is written now, with all files that it names. Blocks.
    fn read(&self) -> (Option<Content>, Result<Config, Vec<String>>) {
        let unreadable = |error: &dyn std::fmt::Display| {
            vec![format!("{}: cannot be read: {error}", self.path.display())]
        };
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) => return (None, Err(unreadable(&error))),
        };
        let mut content = Content {
            digest: digest(&bytes),
            files: Stamps::default(),
        };
        let config = match std::str::from_utf8(&bytes) {
            Ok(text) => {
                // Before they are read.
                content.files = Stamps::of(config::named_files(text));
                Config::from_toml(text, &*self.environment).map_err(|it| told(&it))
            }
            Err(_) => Err(unreadable(&"it is not UTF-8 text")),
        };
        (Some(content), config)
    }

    /// What it is now, with `files`. `None` for a file that is missing for a moment: it is being replaced. Blocks.
    fn look(&self, files: &Stamps) -> Option<Content> {
        let bytes = std::fs::read(&self.path).ok()?;
        Some(Content {
            digest: digest(&Zeroizing::new(bytes)),
            files: files.again(),
        })
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

    /// Reads the file and makes it the running configuration. What was changed, or all that is wrong with it.
    ///
    /// Cancel safe: once begun it goes on, whoever asked.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<String, Vec<String>> {
        let this = Arc::clone(self);
        let work = tokio::spawn(async move {
            let mut live = this.live.lock().await;
            let result = this.attempt(&mut live).await;
            this.tell(&result);
            result
        });
        work.await
            .unwrap_or_else(|_| Err(vec!["the reload panicked: please report it".to_owned()]))
    }

    /// Reloads on SIGHUP and when a file has changed. For as long as the runtime lives.
    pub(super) fn watch(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        let file = self.file.clone()?;
        let this = Arc::clone(self);
        Some(tokio::spawn(
            async move { this.wait_and_reload(&file).await },
        ))
    }

    async fn wait_and_reload(self: &Arc<Self>, file: &ConfigFile) {
        let mut hangups = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!(%error, "cannot listen to SIGHUP"))
            .ok();
        let mut looks = interval(file.poll);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let hangup = async {
                match &mut hangups {
                    Some(signal) => signal.recv().await,
                    None => std::future::pending().await,
                }
            };
            let due = tokio::select! {
                Some(()) = hangup => true,
                _ = looks.tick() => self.has_changed(file).await,
            };
            if due {
                // It has told its result.
                let _ = self.reload().await;
            } else if let Ok(mut live) = self.live.try_lock() {
                live.forget_retired();
            }
        }
    }

    /// Whether there is a new content, and was the same one at the last look: nobody is writing it.
    async fn has_changed(&self, file: &ConfigFile) -> bool {
        let files = self.seen().acted.as_ref().map(|it| it.files.clone());
        let file = file.clone();
        let found = in_background(move || file.look(&files.unwrap_or_default())).await;
        self.seen().look(found.ok().flatten())
    }

    /// Of the files besides only these matter now.
    fn only(&self, files: &BTreeSet<PathBuf>) {
        if let Some(acted) = &mut self.seen().acted {
            acted.files.keep(files);
        }
    }

    async fn attempt(&self, live: &mut Live) -> Result<String, Vec<String>> {
        let Some(file) = self.file.clone() else {
            return Err(vec![
                "there is no configuration file to read again".to_owned(),
            ]);
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
            // No other file can help.
            self.only(&BTreeSet::new());
            return Err(told(&problems));
        }
        let (config, prepared) = self.prepare(live, config).await?;
        check_injections(live, &config).await?;
        for warning in &config.warnings {
            tracing::warn!("configuration: {warning}");
        }
        self.only(&files::read_once(&config));
        // Who was ready stays so, whatever providers are new.
        self.view.remember_ready();
        let changes = live
            .apply(config, prepared, &self.proxy, |live| self.view.show(live))
            .await;
        Ok(changes.to_string())
    }

    /// Reads the files that the configuration names, and opens the sockets that it asks for.
    async fn prepare(
        &self,
        live: &Live,
        config: Config,
    ) -> Result<(Config, Prepared), Vec<String>> {
        let profiles = self.profiles.clone();
        let missing = live.doors.missing(&doors::wanted(&config));
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
            problems.extend(errors.iter().map(|error| in_words(error, live)));
        };
        let connectors = connectors.map_err(&mut keep);
        let sockets = sockets.map_err(&mut keep);
        let (Ok(connectors), Ok((opened, admin_socket))) = (connectors, sockets) else {
            return Err(problems);
        };
        let client_auth = client_auth(&config.server)
            .await
            .map_err(|error| vec![error.to_string()])?;
        let prepared = Prepared {
            connectors,
            client_auth,
            opened,
            admin: match admin_moves {
                true => AdminChange::Moves(admin_socket),
                false => AdminChange::Stays,
            },
        };
        Ok((config, prepared))
    }

    fn tell(&self, result: &Result<String, Vec<String>>) {
        self.proxy.metrics.count_reload(result.is_ok());
        self.view.reloaded(result);
        match result {
            Ok(changes) => tracing::info!("configuration reloaded: {changes}"),
            Err(problems) => {
                tracing::error!("configuration not reloaded, the old one goes on");
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
    /// Whether what was found is to be acted on: it is new, and the same as at the last look.
    fn look(&mut self, found: Option<Content>) -> bool {
        let Some(found) = found.filter(|found| self.acted.as_ref() != Some(found)) else {
            self.last = None;
            return false;
        };
        let again = self.last.as_ref() == Some(&found);
        self.last = Some(found);
        again
    }
}

type Sockets = (Vec<Opened>, Option<std::net::TcpListener>);

/// Blocks.
fn open(missing: &[Listen], admin: Option<SocketAddr>) -> Result<Sockets, Vec<StartError>> {
    let mut errors = Vec::new();
    let mut opened = Vec::with_capacity(missing.len());
    for listen in missing {
        match listen::open(listen) {
            Ok(socket) => opened.push(socket),
            Err(error) => errors.push(error),
        }
    }
    let admin = admin
        .map(listen::open_tcp)
        .transpose()
        .map_err(|error| errors.push(error))
        .unwrap_or_default();
    if errors.is_empty() {
        Ok((opened, admin))
    } else {
        Err(errors)
    }
}

fn in_words(error: &StartError, live: &Live) -> String {
    if let StartError::Listen { listen, source } = error
        && source.kind() == io::ErrorKind::AddrInUse
        && let Some(ours) = live.in_the_way_of(listen)
    {
        return format!(
            "{error}: this process listens on {ours} until then, so that this change needs a restart"
        );
    }
    error.to_string()
}

/// A variable that `[inject]` names must be there before the token that is in use is taken out for its sake.
async fn check_injections(live: &Live, config: &Config) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for touched in live.touched(config) {
        if let Err(error) = provider::check_injection(touched).await {
            problems.push(format!("providers.{}.inject: {error}", touched.name));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Off the control thread: a configuration of ten thousand upstreams takes a while.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Vec<String>> {
    let failed = |error: tokio::task::JoinError| vec![io::Error::from(error).to_string()];
    spawn_blocking(work).await.map_err(failed)
}

fn told(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_acted_on_when_it_was_seen_twice() {
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

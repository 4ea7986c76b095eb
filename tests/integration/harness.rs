//! The program under test ([`App`]), and what tests need around it ([`World`]).

use std::fmt::Write as _;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cupbearer::app::{self, ConfigFile, RunError, Shutdown};
use cupbearer::config::{Config, Environment, Listen, NoEnvironment};
use cupbearer::demo::authority::{Authority, Offer};
use cupbearer::demo::vendors::{Credential, FakeVendor, Kind, Options};
use http::StatusCode;
use tokio::sync::oneshot;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, registry, reload};

use crate::client::{Client, Response};

/// Time limit of every wait. Generous, because the machine may be busy.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Waits for `future`. Panics after [`TIME_LIMIT`], so that no test hangs.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TIME_LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: timed out after {TIME_LIMIT:?}"),
    }
}

/// Polls until `fact` is true. Panics after [`TIME_LIMIT`].
pub(crate) async fn eventually(what: &str, mut fact: impl AsyncFnMut() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    soon(what, async {
        while !fact().await {
            ticks.tick().await;
        }
    })
    .await;
}

/// Runs all futures concurrently and returns their results in the same order.
pub(crate) async fn join_all<T: Send + 'static>(
    work: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = work.map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

/// A running program, in a thread of its own.
pub(crate) struct App {
    listeners: Vec<Listen>,
    admin: Option<SocketAddr>,
    stop: Option<oneshot::Sender<Shutdown>>,
    ended: Option<oneshot::Receiver<Result<(), RunError>>>,
}

/// Runs `test` against the program, then shuts the program down. Panics if that fails.
pub(crate) async fn with_app<T>(config: &str, test: impl AsyncFnOnce(&App) -> T) -> T {
    with_app_in(NoEnvironment, config, test).await
}

/// Does the same as [`with_app`], with environment variables.
pub(crate) async fn with_app_in<T>(
    environment: impl Environment,
    config: &str,
    test: impl AsyncFnOnce(&App) -> T,
) -> T {
    let mut app = match App::try_start_from(&environment, config, None).await {
        Ok(app) => app,
        Err(error) => panic!("{error}\nin\n{config}"),
    };
    let result = test(&app).await;
    app.stop(Shutdown::Interrupt);
    app.ended().await.unwrap();
    result
}

/// Returns the table `[server]` with free ports and with more keys.
pub(crate) fn server(more: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         shutdown_grace = \"3s\"\n{more}\n"
    )
}

impl App {
    pub(crate) async fn start(config: &str) -> Self {
        match Self::try_start(config).await {
            Ok(app) => app,
            Err(error) => panic!("{error}\nin\n{config}"),
        }
    }

    /// Starts the program from a file, for [`App::reload`].
    pub(crate) async fn start_watching(file: &Path, config: &str) -> Self {
        std::fs::write(file, config).unwrap();
        match Self::try_start_from(&NoEnvironment, config, Some(file)).await {
            Ok(app) => app,
            Err(error) => panic!("{error}\nin\n{config}"),
        }
    }

    /// The error is the text that the command line would print.
    pub(crate) async fn try_start(config: &str) -> Result<Self, String> {
        Self::try_start_from(&NoEnvironment, config, None).await
    }

    async fn try_start_from(
        environment: &dyn Environment,
        config: &str,
        file: Option<&Path>,
    ) -> Result<Self, String> {
        start_log();
        let file = file.map(|file| ConfigFile::new(file.to_owned(), NoEnvironment));
        let config = Config::from_toml(config, environment).map_err(|problems| {
            let lines = problems
                .iter()
                .map(|problem| format!("{}: {}\n", problem.path, problem.message));
            lines.collect::<String>()
        })?;
        let (stop, stopped) = oneshot::channel();
        let (tell_start, started) = oneshot::channel();
        let (tell_end, ended) = oneshot::channel();
        let body = move || match app::bind(config) {
            Err(error) => drop(tell_start.send(Err(error.to_string()))),
            Ok(bound) => {
                let _ = tell_start.send(Ok((bound.listeners(), bound.admin())));
                let bound = match file {
                    Some(file) => bound.watch(file),
                    None => bound,
                };
                // A test that failed drops the sender.
                let outcome = bound.run(async { stopped.await.unwrap_or(Shutdown::Interrupt) });
                let _ = tell_end.send(outcome);
            }
        };
        std::thread::Builder::new()
            .name("app".to_owned())
            .spawn(body)
            .unwrap();
        let (listeners, admin) = soon("the start of the program", started).await.unwrap()?;
        Ok(Self {
            listeners,
            admin,
            stop: Some(stop),
            ended: Some(ended),
        })
    }

    /// Returns the address of the first listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.nth_address(0)
    }

    pub(crate) fn nth_address(&self, index: usize) -> SocketAddr {
        match &self.listeners[index] {
            Listen::Tcp(address) => *address,
            Listen::Unix(path) => panic!("listener {index} is the socket {}", path.display()),
        }
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin.unwrap()
    }

    /// Opens a new connection to the first listener.
    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// Sends `GET path` on a new connection.
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.connect().await.get(path).await
    }

    /// Sends `GET path` to the admin port.
    pub(crate) async fn admin(&self, path: &str) -> Response {
        Client::connect(self.admin_address()).await.get(path).await
    }

    /// Writes `config` to the file of [`App::start_watching`] and reloads it.
    pub(crate) async fn reload(&self, file: &Path, config: &str) -> Response {
        std::fs::write(file, config).unwrap();
        let mut client = Client::connect(self.admin_address()).await;
        let request = "POST /-/reload HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\n\r\n";
        client.request(request).await
    }

    pub(crate) async fn status(&self) -> serde_json::Value {
        let answer = self.admin("/status").await;
        assert_eq!(answer.status, 200);
        answer.json()
    }

    /// Returns a sample of `/metrics`, or 0 if there is none. `name` includes the labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").await.text();
        let sample = text.lines().find_map(|line| line.strip_prefix(name));
        sample.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    pub(crate) async fn ready(&self) {
        eventually("ready", async || {
            self.admin("/readyz").await.status == StatusCode::OK
        })
        .await;
    }

    pub(crate) fn stop(&mut self, how: Shutdown) {
        let _ = self.stop.take().expect("stopped once").send(how);
    }

    /// Waits until the program has ended.
    pub(crate) async fn ended(&mut self) -> Result<(), RunError> {
        let ended = self.ended.take().expect("waited for once");
        soon("the end of the program", ended)
            .await
            .expect("the program panicked")
    }
}

/// A certificate authority and a temporary folder, and the configuration texts that use them.
pub(crate) struct World {
    pub(crate) authority: Authority,
    folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            authority: Authority::new().unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        world.write("ca.pem", &world.authority.pem());
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Returns `tls = { ca_file = … }` with this world's authority.
    pub(crate) fn tls(&self) -> String {
        format!("tls = {{ ca_file = {:?} }}\n", self.path("ca.pem"))
    }

    /// Returns an upstream with a static token, the one of [`token`].
    pub(crate) fn upstream(&self, name: &str, url: &str, more: &str) -> String {
        let tls = if url.starts_with("https:") {
            self.tls()
        } else {
            String::new()
        };
        format!(
            "[providers.{name}]\naccess_token = \"{}\"\n\
             [upstreams.{name}]\nurl = \"{url}\"\nprovider = \"{name}\"\n{tls}{more}\n",
            token(name)
        )
    }

    pub(crate) async fn vendor(&self, kind: Kind, life: Option<Duration>) -> FakeVendor {
        let options = Options {
            life,
            api: Offer::default(),
            events: None,
        };
        FakeVendor::start(&self.authority, kind, options)
            .await
            .unwrap()
    }

    /// Returns a provider for a fake vendor.
    pub(crate) fn vendor_provider(&self, name: &str, vendor: &FakeVendor, more: &str) -> String {
        let mut text = format!(
            "[providers.{name}]\ndialect = \"{}\"\ntoken_url = \"{}\"\n{}",
            vendor.kind(),
            vendor.token_url(),
            self.tls()
        );
        for (key, credential) in vendor.kind().credentials() {
            let _ = match credential {
                Credential::Text(value) => writeln!(text, "{key} = {}", toml::Value::from(*value)),
                Credential::Integer(value) => writeln!(text, "{key} = {value}"),
            };
        }
        text + more + "\n"
    }

    /// Returns an upstream for the vendor's API, with the path prefix `/NAME`.
    pub(crate) fn vendor_upstream(
        &self,
        name: &str,
        provider: &str,
        vendor: &FakeVendor,
        more: &str,
    ) -> String {
        format!(
            "[upstreams.{name}]\nurl = \"{}\"\nprovider = \"{provider}\"\n\
             route = {{ path_prefix = \"/{name}\" }}\n{}{more}\n",
            vendor.api_url(),
            self.tls()
        )
    }

    /// Returns server, provider and upstream of a vendor. Both have the name of the vendor.
    pub(crate) fn vendor_config(
        &self,
        vendor: &FakeVendor,
        provider: &str,
        upstream: &str,
    ) -> String {
        let name = vendor.kind().name();
        server("")
            + &self.vendor_provider(name, vendor, provider)
            + &self.vendor_upstream(name, name, vendor, upstream)
    }
}

/// The token of [`World::upstream`].
pub(crate) fn token(name: &str) -> String {
    format!("token-of-{name}-0123456789")
}

/// Returns this process's log so far: Cupbearer's lines at TRACE, all others at WARN.
pub(crate) fn log() -> String {
    start_log();
    String::from_utf8_lossy(&lock_log()).into_owned()
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn lock_log() -> MutexGuard<'static, Vec<u8>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Log;

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        lock_log().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Logs hyper and h2 at TRACE as well, until the returned guard is dropped.
pub(crate) fn trace_http() -> impl Drop {
    struct Quiet;
    impl Drop for Quiet {
        fn drop(&mut self) {
            set_filter(OWN_LINES);
        }
    }
    set_filter("warn,cupbearer=trace,h2=trace,hyper=trace");
    Quiet
}

const OWN_LINES: &str = "warn,cupbearer=trace";

fn set_filter(filter: &str) {
    start_log()
        .reload(filter.parse::<Targets>().unwrap())
        .unwrap();
}

/// Starts the log that all tests share: threads of the program do not belong to one test.
fn start_log() -> &'static reload::Handle<Targets, Registry> {
    static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();
    FILTER.get_or_init(|| {
        let (filter, handle) = reload::Layer::new(OWN_LINES.parse::<Targets>().unwrap());
        let lines = layer().with_ansi(false).with_writer(|| Log);
        registry().with(filter).with(lines).init();
        handle
    })
}

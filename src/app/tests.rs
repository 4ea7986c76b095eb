//! Reloads of the whole app, with the demo's vendors as upstreams.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use serde_json::Value as Json;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::config::NoEnvironment;
use crate::demo::authority::{Authority, Offer};
use crate::demo::setup::Setup;
use crate::demo::vendors::{FakeVendor, Kind};
use crate::testing::{self, Response};

const LONG: Duration = Duration::from_secs(30);

/// The running app, its five vendors and its configuration file.
struct TestApp {
    setup: Setup,
    folder: tempfile::TempDir,
    text: String,
    address: SocketAddr,
    admin: SocketAddr,
    stop: Option<oneshot::Sender<Shutdown>>,
    thread: Option<JoinHandle<()>>,
}

impl TestApp {
    /// Polls the files so rarely that only `POST /-/reload` reloads.
    async fn start() -> Self {
        Self::with("", Duration::from_secs(3600)).await
    }

    async fn with(more: &str, poll: Duration) -> Self {
        let (events, _) = mpsc::unbounded_channel();
        let setup = Setup::start(events).await.unwrap();
        for vendor in setup.vendors() {
            vendor.set_life(Duration::from_secs(3600));
        }
        let folder = tempfile::tempdir().unwrap();
        let text = format!("{}\n{more}", setup.config("127.0.0.1:0", "127.0.0.1:0"));
        let path = folder.path().join("cupbearer.toml");
        // As in a Kubernetes mount: the file is a link through another link, which is replaced.
        publish(&folder, "first", &text);
        std::os::unix::fs::symlink("data/cupbearer.toml", &path).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (tell, bound) = oneshot::channel();
        let config = Config::from_toml(&text, &NoEnvironment).unwrap();
        let thread = std::thread::spawn(move || {
            let mut file = ConfigFile::new(path, NoEnvironment);
            file.poll = poll;
            let bound = bind(config).unwrap().watch(file);
            let Some(Listen::Tcp(address)) = bound.listeners().pop() else {
                panic!("no port");
            };
            tell.send((address, bound.admin().unwrap())).unwrap();
            bound
                .run(async { stopped.await.unwrap_or(Shutdown::Interrupt) })
                .unwrap();
        });
        let (address, admin) = bound.await.unwrap();
        let app = Self {
            setup,
            folder,
            text,
            address,
            admin,
            stop: Some(stop),
            thread: Some(thread),
        };
        for kind in Kind::ALL {
            assert_eq!(app.get(&format!("/{kind}/x")).await.status, 200, "{kind}");
        }
        app
    }

    fn vendor(&self, kind: Kind) -> &FakeVendor {
        let mut vendors = self.setup.vendors().iter();
        vendors.find(|vendor| vendor.kind() == kind).unwrap()
    }

    fn token_requests(&self) -> [u64; 5] {
        Kind::ALL.map(|kind| self.vendor(kind).counters().token_requests)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("cupbearer.toml")
    }

    /// Writes `text` and sends `POST /-/reload`.
    async fn reload(&self, text: &str) -> Response {
        std::fs::write(self.path(), text).unwrap();
        self.admin("POST /-/reload").await
    }

    async fn reload_ok(&self, text: &str) -> String {
        let answer = self.reload(text).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["detail"].as_str().unwrap().to_owned()
    }

    async fn get(&self, path: &str) -> Response {
        ask(self.address, &format!("GET {path}")).await
    }

    async fn admin(&self, line: &str) -> Response {
        ask(self.admin, line).await
    }

    async fn status(&self) -> Json {
        self.admin("GET /status").await.json()
    }

    async fn metrics(&self) -> String {
        self.admin("GET /metrics").await.body
    }

    /// Returns the configuration with `add` in one table.
    fn edited(&self, table: &str, add: &str) -> String {
        let head = format!("[{table}]\n");
        assert!(self.text.contains(&head));
        self.text.replace(&head, &format!("{head}{add}\n"))
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

/// Replaces the linked folder by a new one, atomically.
fn publish(folder: &tempfile::TempDir, name: &str, text: &str) {
    let root = folder.path();
    std::fs::create_dir(root.join(name)).unwrap();
    std::fs::write(root.join(name).join("cupbearer.toml"), text).unwrap();
    std::os::unix::fs::symlink(name, root.join("data.new")).unwrap();
    std::fs::rename(root.join("data.new"), root.join("data")).unwrap();
}

async fn ask(address: SocketAddr, line: &str) -> Response {
    let port = address.port();
    let head =
        format!("{line} HTTP/1.1\r\nHost: localhost:{port}\r\nX-Cupbearer: 1\r\nContent-Length: 0");
    timeout(LONG, Response::to(address, &head)).await.unwrap()
}

/// Sends requests without a pause, on several connections, until stopped.
struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: SocketAddr, path: &'static str) -> Self {
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let tasks = (0..4).map(|_| {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask(address, &format!("GET {path}")).await;
                    count.fetch_add(1, Ordering::Relaxed);
                    if answer.status != 200 {
                        failures.push(format!("{}: {}", answer.status, answer.body));
                    }
                }
                failures
            })
        });
        Self {
            tasks: tasks.collect(),
            stop,
            count,
        }
    }

    /// Waits for `more` further responses.
    async fn wait_for(&self, more: usize) {
        let until = self.count.load(Ordering::Relaxed) + more;
        while self.count.load(Ordering::Relaxed) < until {
            tokio::task::yield_now().await;
        }
    }

    async fn stop_without_failures(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            assert_eq!(task.await.unwrap(), [""; 0]);
        }
    }
}

#[tokio::test]
async fn an_unchanged_file_changes_nothing() {
    let app = TestApp::start().await;
    let before = app.token_requests();
    assert_eq!(app.reload_ok(&app.text).await, "nothing changed");
    assert_eq!(app.token_requests(), before);
    let metrics = app.metrics().await;
    assert!(metrics.contains("cupbearer_config_reloads_total{result=\"ok\"} 1"));
}

#[tokio::test]
async fn reloads_fail_no_request_and_fetch_no_token_for_unchanged_providers() {
    let app = TestApp::start().await;
    let before = app.token_requests();
    let load = Load::start(app.address, "/cncn/x");
    load.wait_for(20).await;
    for round in 0..6 {
        // Changes of another upstream and of the server settings.
        let text = match round % 3 {
            0 => app.edited("upstreams.besender", "replay_limit = 0"),
            1 => app.edited("server", "idle_timeout = \"50s\""),
            _ => app.text.clone(),
        };
        assert_ne!(app.reload_ok(&text).await, "nothing changed");
        load.wait_for(20).await;
    }
    for round in 0..6 {
        // Changes of the upstream, of its provider, and of the provider's injection.
        let text = match round % 4 {
            0 => app.edited("upstreams.cncn", "token_wait = \"9s\""),
            1 => app.edited("providers.cncn", "refresh_before = \"1m\""),
            2 => format!(
                "{}\n[providers.cncn.inject]\n\
                 headers = {{ Authorization = \"Bearer {{access_token}}\", X-Also = \"a\" }}",
                app.text
            ),
            _ => app.text.clone(),
        };
        assert!(app.reload_ok(&text).await.contains("cncn"));
        load.wait_for(20).await;
    }
    load.stop_without_failures().await;
    assert_eq!(app.token_requests(), before);
}

#[tokio::test]
async fn connections_of_unchanged_upstreams_stay_open() {
    let app = TestApp::start().await;
    // Sequential requests need one connection.
    let connected = "cupbearer_upstream_connects_total{result=\"ok\",upstream=\"cncn\"} 1\n";
    for text in [
        app.edited("upstreams.besender", "replay_limit = 0"),
        app.edited("server", "idle_timeout = \"50s\""),
        app.edited("providers.cncn", "refresh_before = \"1m\""),
    ] {
        assert_ne!(app.reload_ok(&text).await, "nothing changed");
        assert_eq!(app.get("/cncn/x").await.status, 200);
        assert!(app.metrics().await.contains(connected));
    }
    app.reload_ok(&app.edited("upstreams.cncn", "http = \"1.1\""))
        .await;
    assert_eq!(app.get("/cncn/x").await.status, 200);
    assert!(!app.metrics().await.contains(connected));
}

#[tokio::test]
async fn a_changed_identity_fetches_a_new_token_and_fails_no_request() {
    let app = TestApp::start().await;
    let kind = Kind::IdentityServer;
    let before = app.vendor(kind).counters().token_requests;
    let load = Load::start(app.address, "/identityserver/x");
    load.wait_for(20).await;
    let other = app.edited("providers.identityserver", "scope = \"api\"");
    for (count, text) in [(1, &other), (2, &app.text), (3, &other)] {
        assert_eq!(
            app.reload_ok(text).await,
            "changed providers: identityserver; changed upstreams: identityserver"
        );
        load.wait_for(20).await;
        assert_eq!(app.vendor(kind).counters().token_requests, before + count);
        assert_eq!(app.admin("GET /readyz").await.status, 200);
    }
    load.stop_without_failures().await;
}

#[tokio::test]
async fn a_changed_secret_keeps_the_token_and_is_used_for_the_next_fetch() {
    let app = TestApp::start().await;
    let wrong = app
        .edited("providers.cncn", "min_interval = \"1ms\"")
        .replace("demo-secret-of-cncn", "wrong");
    let before = app.token_requests();
    assert_eq!(app.reload_ok(&wrong).await, "changed providers: cncn");
    assert_eq!(app.get("/cncn/x").await.status, 200);
    assert_eq!(app.token_requests(), before);
    let refused = app.admin("POST /-/refresh/cncn").await;
    assert_eq!(refused.status, 502, "{}", refused.body);
    assert_eq!(app.get("/cncn/x").await.status, 200);
    // The refused fetch would be retried after minutes; the reload retries at once.
    let fetches = app.vendor(Kind::Cncn).counters().issued;
    assert_eq!(app.reload_ok(&app.text).await, "changed providers: cncn");
    timeout(LONG, async {
        while app.vendor(Kind::Cncn).counters().issued == fetches {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_changed_url_takes_effect() {
    let app = TestApp::start().await;
    assert_eq!(
        app.get("/besender/x").await.json()["path"],
        "/open/api/v1/x"
    );
    let text = app.text.replace("/open/api/v1\"", "/open/api/v1/deeper\"");
    assert_eq!(app.reload_ok(&text).await, "changed upstreams: besender");
    assert_eq!(
        app.get("/besender/x").await.json()["path"],
        "/open/api/v1/deeper/x"
    );
}

#[tokio::test]
async fn added_and_removed_providers_and_upstreams_take_effect() {
    let more = "[providers.key]\naccess_token = \"k\"\n\
        [upstreams.more]\nurl = \"http://127.0.0.1:1\"\nprovider = \"key\"\n\
        route = { path_prefix = \"/more\" }\n";
    let app = TestApp::start().await;
    assert_eq!(app.get("/more/x").await.status, 404);
    let text = format!("{}\n{more}", app.text);
    assert_eq!(
        app.reload_ok(&text).await,
        "added providers: key; added upstreams: more"
    );
    assert_eq!(app.get("/more/x").await.status, 502);
    let metrics = app.metrics().await;
    assert!(metrics.contains("provider=\"key\"") && metrics.contains("upstream=\"more\""));
    let status = app.status().await;
    assert_eq!(status["providers"].as_array().unwrap().len(), 6);
    assert_eq!(
        app.reload_ok(&app.text).await,
        "removed providers: key; removed upstreams: more"
    );
    assert_eq!(app.get("/more/x").await.status, 404);
    let metrics = app.metrics().await;
    assert!(!metrics.contains("provider=\"key\""), "{metrics}");
    assert!(!metrics.contains("upstream=\"more\""), "{metrics}");
    assert_eq!(app.status().await["providers"].as_array().unwrap().len(), 5);
    assert_eq!(app.admin("POST /-/refresh/key").await.status, 404);
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_reported() {
    let app = TestApp::start().await;
    let bad_tls = format!(
        "{}\n[upstreams.more]\nurl = \"https://localhost\"\nprovider = \"cncn\"\n\
         tls = {{ ca_file = \"/nonexistent\" }}",
        app.edited("upstreams.cncn", "allow = [\"GET /nothing\"]")
    );
    let cases = [
        ("{".to_owned(), "not valid TOML"),
        (
            app.edited("upstreams.cncn", "nonsense = 1\nallow = [\"GET /nothing\"]"),
            "upstreams.cncn.nonsense",
        ),
        (bad_tls, "upstreams.more.tls"),
        (
            app.edited("server", "workers = 2"),
            "server.workers: a change here needs a restart",
        ),
    ];
    for (count, (text, expected)) in cases.iter().enumerate() {
        let answer = app.reload(text).await;
        assert_eq!(answer.status, 502);
        let problems = answer.json()["problems"].clone();
        assert!(
            problems[0].as_str().unwrap().contains(expected),
            "{problems}"
        );
        assert_eq!(app.status().await["config_problems"], problems);
        assert_eq!(app.get("/cncn/x").await.status, 200);
        let metrics = app.metrics().await;
        let line = format!(
            "cupbearer_config_reloads_total{{result=\"error\"}} {}",
            count + 1
        );
        assert!(metrics.contains(&line));
    }
    std::fs::remove_file(app.path()).unwrap();
    let answer = app.admin("POST /-/reload").await;
    assert!(
        answer.status == 502 && answer.body.contains("cannot be read"),
        "{}",
        answer.body
    );
    app.reload_ok(&app.text).await;
    assert_eq!(app.status().await["config_problems"], serde_json::json!([]));
}

#[tokio::test]
async fn a_replaced_link_causes_a_reload() {
    let app = TestApp::with("", Duration::from_millis(10)).await;
    let loads = [
        Load::start(app.address, "/cncn/x"),
        Load::start(app.address, "/besender/x"),
    ];
    let text = app.text.replace("/open/api/v1\"", "/open/api/v1/deeper\"");
    publish(&app.folder, "second", &text);
    timeout(LONG, async {
        while app.get("/besender/x").await.json()["path"] != "/open/api/v1/deeper/x" {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    for load in loads {
        load.wait_for(20).await;
        load.stop_without_failures().await;
    }
    let metrics = app.metrics().await;
    assert!(metrics.contains("cupbearer_config_reloads_total{result=\"ok\"} 1"));
    assert!(metrics.contains("cupbearer_config_reloads_total{result=\"error\"} 0"));
}

/// Changes only files that the configuration names. Each failed reload is reported once, however
/// often the files are polled.
#[tokio::test]
async fn a_failed_reload_is_retried_when_a_named_file_changes() {
    let app = TestApp::with("", Duration::from_millis(5)).await;
    let path = |name: &str| app.folder.path().join(name);
    let text = app.edited("upstreams.cncn", "allow = [\"GET /nothing\"]");
    let text = format!(
        "{text}\n[providers.more]\naccess_token = {{ file = {:?} }}\n\
         [upstreams.more]\nurl = \"https://localhost\"\nprovider = \"more\"\n\
         tls = {{ ca_file = {:?} }}",
        path("token"),
        path("ca.pem")
    );
    std::fs::write(app.path(), text).unwrap();
    let reloads = async |result: &str| {
        let line = format!("cupbearer_config_reloads_total{{result=\"{result}\"}} ");
        let metrics = app.metrics().await;
        let count = metrics.lines().find_map(|it| it.strip_prefix(&line));
        count.unwrap().parse::<u32>().unwrap()
    };
    let until = async |result: &str, count: u32| {
        let counted = async {
            while reloads(result).await < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, counted).await.unwrap();
    };
    until("error", 1).await;
    std::fs::write(path("token"), "a-token-0123456789").unwrap();
    until("error", 2).await;
    // Two problems before: both files were missing.
    let problems = app.status().await["config_problems"].clone();
    assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
    let authority = Authority::new().unwrap();
    std::fs::write(path("ca.pem"), "no certificate").unwrap();
    until("error", 3).await;
    assert_eq!(app.get("/cncn/x").await.status, 200);
    std::fs::write(path("ca.pem"), authority.pem()).unwrap();
    until("ok", 1).await;
    assert_eq!(app.get("/cncn/x").await.status, 403);
    // Token requests read credential files themselves, so that a change is no reason to reload.
    std::fs::write(path("token"), "another-token-0123456789").unwrap();
    std::fs::write(path("ca.pem"), authority.pem() + "\n").unwrap();
    until("ok", 2).await;
    assert_eq!((reloads("error").await, reloads("ok").await), (3, 2));
}

/// Starts an upstream with mutual TLS that responds with the fingerprint of the client certificate.
async fn mutual(authority: &Authority) -> SocketAddr {
    let offer = Offer {
        client_certificate: true,
        ..Default::default()
    };
    let config = authority.server(&["localhost"], offer).unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(config);
    let serve = move |tcp| {
        let tls = tls.clone();
        async move {
            let Ok(mut stream) = tls.accept(tcp).await else {
                return;
            };
            let shown = fingerprint(&stream.get_ref().1.peer_certificates().unwrap()[0]);
            let length = shown.len();
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{shown}");
            while testing::read_head(&mut stream).await.is_ok() {
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        }
    };
    testing::accept_each(serve).await.0
}

fn fingerprint(der: &[u8]) -> String {
    use sha2::Digest as _;
    format!("{:x?}", sha2::Sha256::digest(der).as_slice())
}

/// As with cert-manager, certificate and key are written one after the other.
#[tokio::test]
async fn a_renewed_client_certificate_is_used() {
    use rustls_pki_types::pem::PemObject as _;
    let authority = Authority::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("ca.pem"), authority.pem()).unwrap();
    let identities = ["one", "two"].map(|name| authority.client(name).unwrap());
    let shown = identities.each_ref().map(|it| {
        let der = rustls_pki_types::CertificateDer::from_pem_slice(it.certificate.as_bytes());
        fingerprint(&der.unwrap())
    });
    std::fs::write(path("tls.crt"), &identities[0].certificate).unwrap();
    std::fs::write(path("tls.key"), &identities[0].key).unwrap();
    let address = mutual(&authority).await;
    let more = format!(
        "[upstreams.mutual]\nurl = \"https://localhost:{}\"\nconnect_to = \"{address}\"\n\
         provider = \"cncn\"\n\
         route = {{ path_prefix = \"/mutual\" }}\n\
         tls = {{ ca_file = {:?}, client_cert_file = {:?}, client_key_file = {:?} }}\n",
        address.port(),
        path("ca.pem"),
        path("tls.crt"),
        path("tls.key")
    );
    let app = TestApp::with(&more, Duration::from_millis(5)).await;
    let get = async || {
        let answer = app.get("/mutual/x").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    };
    assert_eq!(get().await, shown[0]);
    std::fs::write(path("tls.crt"), &identities[1].certificate).unwrap();
    let failed = "cupbearer_config_reloads_total{result=\"error\"} 1\n";
    let told = async {
        while !app.metrics().await.contains(failed) {
            assert_eq!(get().await, shown[0]);
        }
    };
    timeout(LONG, told).await.unwrap();
    std::fs::write(path("tls.key"), &identities[1].key).unwrap();
    let renewed = async { while get().await != shown[1] {} };
    timeout(LONG, renewed).await.unwrap();
    let status = app.status().await;
    assert_eq!(status["reloads"][0]["detail"], "changed upstreams: mutual");
    assert_eq!(status["reloads"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn concurrent_reloads_run_one_after_the_other() {
    let app = Arc::new(TestApp::start().await);
    let text = app.edited("providers.cncn", "refresh_before = \"1m\"");
    std::fs::write(app.path(), text).unwrap();
    let asked: Vec<_> = (0..5)
        .map(|_| {
            let app = Arc::clone(&app);
            tokio::spawn(async move { app.admin("POST /-/reload").await.body })
        })
        .collect();
    let mut changed = 0;
    for answer in asked {
        changed += usize::from(answer.await.unwrap().contains("changed providers: cncn"));
    }
    assert_eq!(changed, 1);
}

//! Reloads of the real app, in front of the demo's vendors.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::config::Environment;
use crate::demo::setup::Setup;
use crate::demo::vendors::{FakeVendor, Kind};

const LONG: Duration = Duration::from_secs(30);

struct Empty;

impl Environment for Empty {
    fn var(&self, _name: &str) -> Option<String> {
        None
    }
}

/// The app in front of five vendors, and the file that it was started with.
struct World {
    setup: Setup,
    folder: tempfile::TempDir,
    text: String,
    address: SocketAddr,
    admin: SocketAddr,
    stop: Option<oneshot::Sender<Shutdown>>,
    thread: Option<JoinHandle<()>>,
}

struct Answer {
    status: u16,
    body: String,
}

impl World {
    /// With a poll so slow that only `POST /-/reload` reloads.
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
        // As Kubernetes mounts it: the file is a link through a link that is swapped.
        publish(&folder, "first", &text);
        std::os::unix::fs::symlink("data/cupbearer.toml", &path).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (tell, bound) = oneshot::channel();
        let config = Config::from_toml(&text, &Empty).unwrap();
        let thread = std::thread::spawn(move || {
            let mut file = ConfigFile::new(path, Empty);
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
        let world = Self {
            setup,
            folder,
            text,
            address,
            admin,
            stop: Some(stop),
            thread: Some(thread),
        };
        for kind in Kind::ALL {
            assert_eq!(world.get(&format!("/{kind}/x")).await.status, 200, "{kind}");
        }
        world
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

    /// Writes `text` and asks for a reload.
    async fn reload(&self, text: &str) -> Answer {
        std::fs::write(self.path(), text).unwrap();
        self.admin("POST /-/reload").await
    }

    async fn reload_ok(&self, text: &str) -> String {
        let answer = self.reload(text).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["detail"].as_str().unwrap().to_owned()
    }

    async fn get(&self, path: &str) -> Answer {
        ask(self.address, &format!("GET {path}")).await
    }

    async fn admin(&self, line: &str) -> Answer {
        ask(self.admin, line).await
    }

    async fn status(&self) -> Json {
        self.admin("GET /status").await.json()
    }

    async fn metrics(&self) -> String {
        self.admin("GET /metrics").await.body
    }

    /// A change of one provider's or upstream's table.
    fn edited(&self, table: &str, add: &str) -> String {
        let head = format!("[{table}]\n");
        assert!(self.text.contains(&head));
        self.text.replace(&head, &format!("{head}{add}\n"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

impl Answer {
    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Puts a new folder in the place of the old one, at once.
fn publish(folder: &tempfile::TempDir, name: &str, text: &str) {
    let root = folder.path();
    std::fs::create_dir(root.join(name)).unwrap();
    std::fs::write(root.join(name).join("cupbearer.toml"), text).unwrap();
    std::os::unix::fs::symlink(name, root.join("data.new")).unwrap();
    std::fs::rename(root.join("data.new"), root.join("data")).unwrap();
}

async fn ask(address: SocketAddr, line: &str) -> Answer {
    let request = format!(
        "{line} HTTP/1.1\r\nHost: localhost:{}\r\nX-Cupbearer: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        address.port()
    );
    let exchange = async {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        text
    };
    let text = timeout(LONG, exchange).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = body.to_owned();
    Answer { status, body }
}

/// Requests without a pause, on several connections, until it is stopped.
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

    /// Until this many more requests have been answered.
    async fn goes_on(&self, more: usize) {
        let until = self.count.load(Ordering::Relaxed) + more;
        while self.count.load(Ordering::Relaxed) < until {
            tokio::task::yield_now().await;
        }
    }

    async fn without_failures(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            assert_eq!(task.await.unwrap(), [""; 0]);
        }
    }
}

#[tokio::test]
async fn an_unchanged_file_changes_nothing() {
    let world = World::start().await;
    let before = world.token_requests();
    assert_eq!(world.reload_ok(&world.text).await, "nothing changed");
    assert_eq!(world.token_requests(), before);
    let metrics = world.metrics().await;
    assert!(metrics.contains("cupbearer_config_reloads_total{result=\"ok\"} 1"));
}

#[tokio::test]
async fn no_request_fails_and_no_untouched_provider_is_asked_again() {
    let world = World::start().await;
    let before = world.token_requests();
    let load = Load::start(world.address, "/cncn/x");
    load.goes_on(20).await;
    for round in 0..6 {
        // Another upstream each time, then the server's own settings.
        let text = match round % 3 {
            0 => world.edited("upstreams.besender", "replay_limit = 0"),
            1 => world.edited("server", "idle_timeout = \"50s\""),
            _ => world.text.clone(),
        };
        assert_ne!(world.reload_ok(&text).await, "nothing changed");
        load.goes_on(20).await;
    }
    for round in 0..6 {
        // Its own settings, its provider's secret, its provider's way of sending.
        let text = match round % 4 {
            0 => world.edited("upstreams.cncn", "token_wait = \"9s\""),
            1 => world.edited("providers.cncn", "refresh_before = \"1m\""),
            2 => format!(
                "{}\n[providers.cncn.inject]\nheaders = {{ Authorization = \"Bearer {{access_token}}\", X-Also = \"a\" }}",
                world.text
            ),
            _ => world.text.clone(),
        };
        assert!(world.reload_ok(&text).await.contains("cncn"));
        load.goes_on(20).await;
    }
    load.without_failures().await;
    assert_eq!(world.token_requests(), before);
}

#[tokio::test]
async fn connections_of_untouched_upstreams_live_on() {
    let world = World::start().await;
    // One request at a time needs one connection.
    let connected = "cupbearer_upstream_connects_total{result=\"ok\",upstream=\"cncn\"} 1\n";
    for text in [
        world.edited("upstreams.besender", "replay_limit = 0"),
        world.edited("server", "idle_timeout = \"50s\""),
        world.edited("providers.cncn", "refresh_before = \"1m\""),
    ] {
        assert_ne!(world.reload_ok(&text).await, "nothing changed");
        assert_eq!(world.get("/cncn/x").await.status, 200);
        assert!(world.metrics().await.contains(connected));
    }
    world
        .reload_ok(&world.edited("upstreams.cncn", "http = \"1.1\""))
        .await;
    assert_eq!(world.get("/cncn/x").await.status, 200);
    assert!(!world.metrics().await.contains(connected));
}

#[tokio::test]
async fn a_changed_identity_is_a_new_token_and_no_failed_request() {
    let world = World::start().await;
    let kind = Kind::IdentityServer;
    let before = world.vendor(kind).counters().token_requests;
    let load = Load::start(world.address, "/identityserver/x");
    load.goes_on(20).await;
    let other = world.edited("providers.identityserver", "scope = \"api\"");
    for (count, text) in [(1, &other), (2, &world.text), (3, &other)] {
        assert_eq!(
            world.reload_ok(text).await,
            "changed providers: identityserver; changed upstreams: identityserver"
        );
        load.goes_on(20).await;
        assert_eq!(world.vendor(kind).counters().token_requests, before + count);
        // Who was ready stays ready.
        assert_eq!(world.admin("GET /readyz").await.status, 200);
    }
    load.without_failures().await;
}

#[tokio::test]
async fn a_changed_secret_keeps_the_token_and_counts_for_the_next_one() {
    let world = World::start().await;
    let wrong = world
        .edited("providers.cncn", "min_interval = \"1ms\"")
        .replace("demo-secret-of-cncn", "wrong");
    let before = world.token_requests();
    assert_eq!(world.reload_ok(&wrong).await, "changed providers: cncn");
    assert_eq!(world.get("/cncn/x").await.status, 200);
    assert_eq!(world.token_requests(), before);
    let refused = world.admin("POST /-/refresh/cncn").await;
    assert_eq!(refused.status, 502, "{}", refused.body);
    assert_eq!(world.get("/cncn/x").await.status, 200);
    // A refusal is retried after minutes; the right secret at once.
    let fetches = world.vendor(Kind::Cncn).counters().issued;
    assert_eq!(
        world.reload_ok(&world.text).await,
        "changed providers: cncn"
    );
    timeout(LONG, async {
        while world.vendor(Kind::Cncn).counters().issued == fetches {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_changed_url_takes_effect() {
    let world = World::start().await;
    assert_eq!(
        world.get("/besender/x").await.json()["path"],
        "/open/api/v1/x"
    );
    let text = world
        .text
        .replace("/open/api/v1\"", "/open/api/v1/deeper\"");
    assert_eq!(world.reload_ok(&text).await, "changed upstreams: besender");
    assert_eq!(
        world.get("/besender/x").await.json()["path"],
        "/open/api/v1/deeper/x"
    );
}

#[tokio::test]
async fn what_comes_and_goes() {
    let more = "[providers.key]\naccess_token = \"k\"\n\
        [upstreams.more]\nurl = \"http://127.0.0.1:1\"\nprovider = \"key\"\nroute = { path_prefix = \"/more\" }\n";
    let world = World::start().await;
    assert_eq!(world.get("/more/x").await.status, 404);
    let text = format!("{}\n{more}", world.text);
    assert_eq!(
        world.reload_ok(&text).await,
        "added providers: key; added upstreams: more"
    );
    assert_eq!(world.get("/more/x").await.status, 502);
    let metrics = world.metrics().await;
    assert!(metrics.contains("provider=\"key\"") && metrics.contains("upstream=\"more\""));
    let status = world.status().await;
    assert_eq!(status["providers"].as_array().unwrap().len(), 6);
    assert_eq!(
        world.reload_ok(&world.text).await,
        "removed providers: key; removed upstreams: more"
    );
    assert_eq!(world.get("/more/x").await.status, 404);
    let metrics = world.metrics().await;
    assert!(!metrics.contains("provider=\"key\""), "{metrics}");
    assert!(!metrics.contains("upstream=\"more\""), "{metrics}");
    assert_eq!(
        world.status().await["providers"].as_array().unwrap().len(),
        5
    );
    assert_eq!(world.admin("POST /-/refresh/key").await.status, 404);
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_reported() {
    let world = World::start().await;
    let bad_tls = format!(
        "{}\n[upstreams.more]\nurl = \"https://localhost\"\nprovider = \"cncn\"\ntls = {{ ca_file = \"/nonexistent\" }}",
        world.edited("upstreams.cncn", "allow = [\"GET /nothing\"]")
    );
    let cases = [
        ("{".to_owned(), "not valid TOML"),
        (
            world.edited("upstreams.cncn", "nonsense = 1\nallow = [\"GET /nothing\"]"),
            "upstreams.cncn.nonsense",
        ),
        (bad_tls, "upstreams.more.tls"),
        (
            world.edited("server", "workers = 2"),
            "server.workers: a change here needs a restart",
        ),
    ];
    for (count, (text, expected)) in cases.iter().enumerate() {
        let answer = world.reload(text).await;
        assert_eq!(answer.status, 502);
        let problems = answer.json()["problems"].clone();
        assert!(
            problems[0].as_str().unwrap().contains(expected),
            "{problems}"
        );
        assert_eq!(world.status().await["config_problems"], problems);
        assert_eq!(world.get("/cncn/x").await.status, 200);
        let metrics = world.metrics().await;
        let line = format!(
            "cupbearer_config_reloads_total{{result=\"error\"}} {}",
            count + 1
        );
        assert!(metrics.contains(&line));
    }
    std::fs::remove_file(world.path()).unwrap();
    let answer = world.admin("POST /-/reload").await;
    assert!(
        answer.status == 502 && answer.body.contains("cannot be read"),
        "{}",
        answer.body
    );
    world.reload_ok(&world.text).await;
    assert_eq!(
        world.status().await["config_problems"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn a_swapped_link_is_noticed() {
    let world = World::with("", Duration::from_millis(10)).await;
    let loads = [
        Load::start(world.address, "/cncn/x"),
        Load::start(world.address, "/besender/x"),
    ];
    let text = world
        .text
        .replace("/open/api/v1\"", "/open/api/v1/deeper\"");
    publish(&world.folder, "second", &text);
    timeout(LONG, async {
        while world.get("/besender/x").await.json()["path"] != "/open/api/v1/deeper/x" {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    for load in loads {
        load.goes_on(20).await;
        load.without_failures().await;
    }
    let metrics = world.metrics().await;
    assert!(metrics.contains("cupbearer_config_reloads_total{result=\"ok\"} 1"));
    assert!(metrics.contains("cupbearer_config_reloads_total{result=\"error\"} 0"));
}

/// Its file is not touched; what it names is. Each failure is told once, however often the files
/// are looked at.
#[tokio::test]
async fn a_reload_that_failed_is_tried_again_when_what_it_names_changes() {
    let world = World::with("", Duration::from_millis(5)).await;
    let path = |name: &str| world.folder.path().join(name);
    let text = world.edited("upstreams.cncn", "allow = [\"GET /nothing\"]");
    let text = format!(
        "{text}\n[providers.more]\naccess_token = {{ file = {:?} }}\n\
         [upstreams.more]\nurl = \"https://localhost\"\nprovider = \"more\"\ntls = {{ ca_file = {:?} }}",
        path("token"),
        path("ca.pem")
    );
    std::fs::write(world.path(), text).unwrap();
    let reloads = async |result: &str| {
        let line = format!("cupbearer_config_reloads_total{{result=\"{result}\"}} ");
        let metrics = world.metrics().await;
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
    // Both were missing before.
    let problems = world.status().await["config_problems"].clone();
    assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
    let authority = crate::demo::authority::Authority::new().unwrap();
    std::fs::write(path("ca.pem"), "no certificate").unwrap();
    until("error", 3).await;
    assert_eq!(world.get("/cncn/x").await.status, 200);
    std::fs::write(path("ca.pem"), authority.pem()).unwrap();
    until("ok", 1).await;
    assert_eq!(world.get("/cncn/x").await.status, 403);
    // Credentials are read by those who need them: no reason for a reload.
    std::fs::write(path("token"), "another-token-0123456789").unwrap();
    std::fs::write(path("ca.pem"), authority.pem() + "\n").unwrap();
    until("ok", 2).await;
    assert_eq!((reloads("error").await, reloads("ok").await), (3, 2));
}

/// What its clients show, answered by an upstream that lets nobody in without a certificate.
async fn mutual(authority: &crate::demo::authority::Authority) -> SocketAddr {
    let offer = crate::demo::authority::Offer {
        client_certificate: true,
        ..Default::default()
    };
    let config = authority.server(&["localhost"], offer).unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let mut stream = tls.accept(tcp).await?;
                let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
                let shown = fingerprint(&shown);
                let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
                loop {
                    let count = stream.read(&mut buffer).await?;
                    if count == 0 {
                        return std::io::Result::Ok(());
                    }
                    read.extend_from_slice(&buffer[..count]);
                    if read.ends_with(b"\r\n\r\n") {
                        read.clear();
                        let length = shown.len();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{shown}");
                        stream.write_all(answer.as_bytes()).await?;
                    }
                }
            });
        }
    });
    address
}

fn fingerprint(der: &[u8]) -> String {
    use sha2::Digest as _;
    format!("{:x?}", sha2::Sha256::digest(der).as_slice())
}

/// As cert-manager does it. Certificate and key may well be written one after the other.
#[tokio::test]
async fn a_renewed_client_certificate_is_shown() {
    use rustls_pki_types::pem::PemObject as _;
    let authority = crate::demo::authority::Authority::new().unwrap();
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
        "[upstreams.mutual]\nurl = \"https://localhost:{}\"\nconnect_to = \"{address}\"\nprovider = \"cncn\"\n\
         route = {{ path_prefix = \"/mutual\" }}\n\
         tls = {{ ca_file = {:?}, client_cert_file = {:?}, client_key_file = {:?} }}\n",
        address.port(),
        path("ca.pem"),
        path("tls.crt"),
        path("tls.key")
    );
    let world = World::with(&more, Duration::from_millis(5)).await;
    let get = async || {
        let answer = world.get("/mutual/x").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    };
    assert_eq!(get().await, shown[0]);
    std::fs::write(path("tls.crt"), &identities[1].certificate).unwrap();
    let failed = "cupbearer_config_reloads_total{result=\"error\"} 1\n";
    let told = async {
        while !world.metrics().await.contains(failed) {
            assert_eq!(get().await, shown[0]);
        }
    };
    timeout(LONG, told).await.unwrap();
    std::fs::write(path("tls.key"), &identities[1].key).unwrap();
    let renewed = async { while get().await != shown[1] {} };
    timeout(LONG, renewed).await.unwrap();
    let status = world.status().await;
    assert_eq!(status["reloads"][0]["detail"], "changed upstreams: mutual");
    assert_eq!(status["reloads"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn reloads_at_once_come_one_after_the_other() {
    let world = Arc::new(World::start().await);
    let text = world.edited("providers.cncn", "refresh_before = \"1m\"");
    std::fs::write(world.path(), text).unwrap();
    let asked: Vec<_> = (0..5)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.admin("POST /-/reload").await.body })
        })
        .collect();
    let mut changed = 0;
    for answer in asked {
        changed += usize::from(answer.await.unwrap().contains("changed providers: cncn"));
    }
    assert_eq!(changed, 1);
}

//! Requests over a real socket, with a fake `Control`.

use std::future::{pending, ready};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use http::StatusCode;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::metrics::Metrics;
use crate::status::{RefreshError, State, Status};
use crate::testing::Response;

#[tokio::test]
async fn liveness_probes_succeed() {
    let admin = Admin::start(Fake::default()).await;
    for path in ["/livez", "/healthz"] {
        let answer = admin.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
}

#[tokio::test]
async fn readyz_names_what_is_pending() {
    let admin = Admin::start(Fake::default()).await;
    assert_eq!(admin.get("/readyz").await.status, 200);
    assert_eq!(admin.get("/readyz?strict").await.status, 200);

    admin.fake.set_readiness(&[], &["provider cncn: expired"]);
    assert_eq!(admin.get("/readyz").await.status, 200);
    assert_eq!(admin.get("/readyz?strictly=no").await.status, 200);
    for strict in ["/readyz?strict", "/readyz?strict=1", "/readyz?a=b&strict"] {
        let answer = admin.get(strict).await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.body, "not ready\nprovider cncn: expired\n");
    }

    admin
        .fake
        .set_readiness(&["provider cncn: no token yet"], &[]);
    let answer = admin.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "not ready\nprovider cncn: no token yet\n");
}

#[tokio::test]
async fn status_is_json_and_reads_back() {
    let admin = Admin::start(Fake::default()).await;
    let answer = admin.get("/status").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let read_back: Report = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(read_back, admin.fake.report());
    let provider = &answer.json()["providers"][0];
    assert_eq!(provider["state"], "stale");
    assert_eq!(provider["expires_at"], "2026-01-01T00:01:30Z");
    assert_eq!(provider["expires_in_seconds"], 90);
    assert_eq!(provider["next_fetch_in_seconds"], -5);
    assert_eq!(provider["fetched_at"], Json::Null);
    assert_eq!(provider["last_error"], "<b>\"账号\"</b>\n");
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let admin = Admin::start(Fake::default()).await;
    let answer = admin.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(answer.body.contains("cupbearer_build_info{version="));
}

#[tokio::test]
async fn the_page_is_self_contained_and_locked_down() {
    let admin = Admin::start(Fake::default()).await;
    let answer = admin.get("/").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for (open, close, directive) in [
        ("<script>", "</script>", "script-src"),
        ("<style>", "</style>", "style-src"),
    ] {
        assert_eq!(answer.body.matches(open).count(), 1);
        let (_, rest) = answer.body.split_once(open).unwrap();
        let (inline, _) = rest.split_once(close).unwrap();
        let allowed = format!("{directive} 'sha256-{}'", sha256_base64(inline));
        assert!(policy.contains(&allowed), "{policy} lacks {allowed}");
    }
    // The icon's namespace is the only URL with a scheme.
    let outside = answer.body.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("://"));
    assert!(!outside.contains("innerHTML"));
}

#[tokio::test]
async fn log_directives_can_be_read_and_replaced() {
    let admin = Admin::start(Fake::default()).await;
    assert_eq!(admin.get("/-/log").await.body, "info\n");
    let set = async |path: &str, more: &str| {
        let line = format!("POST {path} HTTP/1.1");
        admin
            .ask(&line, &format!("Host: localhost{more}"))
            .await
            .status
    };
    const KEY: &str = "\r\nX-Cupbearer: 1";
    assert_eq!(set("/-/log/debug", "").await, 403);
    assert_eq!(set("/-/log/loud", KEY).await, 400);
    assert_eq!(admin.get("/-/log").await.body, "info\n");
    assert_eq!(set("/-/log/info,cupbearer::provider=debug", KEY).await, 200);
    assert_eq!(
        admin.get("/-/log").await.body,
        "info,cupbearer::provider=debug\n"
    );
}

#[tokio::test]
async fn quitquitquit_needs_no_header_but_is_refused_from_another_site() {
    let admin = Admin::start(Fake::default()).await;
    let quit = async |line: &str, more: &str| {
        admin
            .ask(line, &format!("Host: localhost{more}"))
            .await
            .status
    };
    const POST: &str = "POST /quitquitquit HTTP/1.1";
    assert_eq!(quit(POST, "").await, 403);
    admin.fake.may_quit.store(true, Ordering::Relaxed);
    let asked = admin.fake.quits.load(Ordering::Relaxed);
    assert_eq!(quit("GET /quitquitquit HTTP/1.1", "").await, 405);
    assert_eq!(quit(POST, "\r\nOrigin: https://evil.test").await, 403);
    assert_eq!(quit(POST, "\r\nSec-Fetch-Site: cross-site").await, 403);
    assert_eq!(admin.ask(POST, "Host: evil.test").await.status, 421);
    assert_eq!(admin.fake.quits.load(Ordering::Relaxed), asked);
    assert_eq!(quit(POST, "").await, 200);
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_no_body() {
    let admin = Admin::start(Fake::default()).await;
    for path in ["/", "/status", "/metrics", "/livez", "/readyz"] {
        let answer = admin
            .ask(&format!("HEAD {path} HTTP/1.1"), "Host: localhost")
            .await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.body, "", "{path}");
        assert_ne!(answer.header("content-length"), "0", "{path}");
    }
}

#[tokio::test]
async fn other_methods_and_paths_are_refused_as_problems() {
    let admin = Admin::start(Fake::default()).await;
    for (line, allow) in [
        ("DELETE /livez HTTP/1.1", "GET, HEAD"),
        ("POST /status HTTP/1.1", "GET, HEAD"),
        ("GET /-/reload HTTP/1.1", "POST"),
        ("HEAD /-/refresh/cncn HTTP/1.1", "POST"),
        ("OPTIONS /-/reload HTTP/1.1", "POST"),
    ] {
        let answer = admin.ask(line, "Host: localhost\r\nX-Cupbearer: 1").await;
        assert_eq!(answer.status, 405, "{line}");
        assert_eq!(answer.header("allow"), allow, "{line}");
    }
    for path in [
        "/nothing",
        "/status/",
        "/-/",
        "/-/refresh",
        "//",
        "/livez/../status",
    ] {
        let answer = admin.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let problem = answer.json();
        assert_eq!(problem["type"], "urn:cupbearer:error:not_found");
        assert_eq!(problem["title"], "Not Found");
        assert_eq!(problem["status"], 404);
        assert!(problem.get("problems").is_none());
    }
}

#[tokio::test]
async fn a_host_that_foreign_dns_could_own_is_misdirected() {
    let admin = Admin::start(Fake::default()).await;
    for host in [
        "localhost",
        "LOCALHOST:9180",
        "127.0.0.1",
        "127.8.9.10:80",
        "[::1]:9180",
        "[::ffff:127.0.0.1]",
        "admin.test",
        "Admin.Test:9999",
        "ported.test:9180",
    ] {
        let answer = admin
            .ask("GET /status HTTP/1.1", &format!("Host: {host}"))
            .await;
        assert_eq!(answer.status, 200, "{host}");
    }
    for host in [
        "evil.test",
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "10.0.0.1",
        "0.0.0.0",
        "[::2]",
        "ported.test:80",
        "ported.test",
    ] {
        for line in [
            "GET / HTTP/1.1",
            "GET /status HTTP/1.1",
            "POST /-/reload HTTP/1.1",
            "GET /x HTTP/1.1",
        ] {
            let answer = admin
                .ask(line, &format!("Host: {host}\r\nX-Cupbearer: 1"))
                .await;
            assert_eq!(answer.status, 421, "{line} {host}");
            assert!(answer.body.contains("server.allow_hosts"));
        }
        for path in ["/livez", "/healthz", "/readyz", "/metrics"] {
            let answer = admin
                .ask(&format!("GET {path} HTTP/1.1"), &format!("Host: {host}"))
                .await;
            assert_eq!(answer.status, 200, "{path} {host}");
        }
    }
    assert_eq!(admin.fake.reloads(), 0);
}

#[tokio::test]
async fn a_host_that_is_missing_or_ambiguous_is_a_bad_request() {
    let admin = Admin::start(Fake::default()).await;
    for headers in [
        "X-None: 1",
        "Host: localhost\r\nHost: localhost",
        "Host:",
        "Host: evil.test@localhost",
        "Host: local host",
    ] {
        let answer = admin.ask("GET /status HTTP/1.1", headers).await;
        assert_eq!(answer.status, 400, "{headers}");
    }
    let absolute = "GET http://evil.test/status HTTP/1.1";
    assert_eq!(admin.ask(absolute, "Host: localhost").await.status, 421);
}

#[tokio::test]
async fn changes_need_the_header_and_no_foreign_site() {
    let admin = Admin::start(Fake::default()).await;
    let own = format!(
        "Host: {}\r\nOrigin: http://{}",
        admin.address, admin.address
    );
    for (headers, status) in [
        ("Host: localhost".to_owned(), 403),
        ("Host: localhost\r\nX-Cupbearer: 0".to_owned(), 403),
        (
            "Host: localhost\r\nX-Cupbearer: 1\r\nOrigin: https://evil.test".to_owned(),
            403,
        ),
        (
            "Host: localhost\r\nX-Cupbearer: 1\r\nOrigin: null".to_owned(),
            403,
        ),
        (
            "Host: localhost\r\nX-Cupbearer: 1\r\nOrigin: http://localhost:1".to_owned(),
            403,
        ),
        (
            "Host: localhost\r\nX-Cupbearer: 1\r\nSec-Fetch-Site: cross-site".to_owned(),
            403,
        ),
        (
            "Host: localhost\r\nX-Cupbearer: 1\r\nSec-Fetch-Site: same-site".to_owned(),
            403,
        ),
        (
            format!("{own}\r\nX-Cupbearer: 1\r\nSec-Fetch-Site: same-origin"),
            200,
        ),
        ("Host: localhost\r\nX-Cupbearer: 1".to_owned(), 200),
    ] {
        for path in ["/-/reload", "/-/refresh/cncn"] {
            let answer = admin.ask(&format!("POST {path} HTTP/1.1"), &headers).await;
            assert_eq!(answer.status, status, "{path} {headers}");
        }
    }
    assert_eq!(admin.fake.reloads(), 2);
    assert_eq!(admin.fake.refreshed(), ["cncn", "cncn"]);
}

#[tokio::test]
async fn refresh_responds_when_the_fetch_has_ended() {
    let admin = Admin::start(Fake::default()).await;
    let answer = admin.post("/-/refresh/unknown").await;
    assert_eq!((answer.status, admin.fake.refreshed().len()), (404, 0));
    assert_eq!(admin.post("/-/refresh/").await.status, 404);

    assert_eq!(admin.post("/-/refresh/cnc%6E").await.status, 200);
    assert_eq!(admin.fake.refreshed(), ["cncn"]);

    admin
        .fake
        .set_refresh(Err(RefreshError::Failed("vendor said \"no\"".to_owned())));
    let answer = admin.post("/-/refresh/cncn").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["type"], "urn:cupbearer:error:refresh_failed");
    assert_eq!(answer.json()["detail"], "vendor said \"no\"");

    for (wait, seconds) in [(0, "1"), (1000, "1"), (1001, "2"), (4200, "5")] {
        let retry_after = Duration::from_millis(wait);
        admin
            .fake
            .set_refresh(Err(RefreshError::TooSoon { retry_after }));
        let answer = admin.post("/-/refresh/cncn").await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("retry-after"), seconds);
    }
}

#[tokio::test]
async fn reload_reports_the_changes_or_all_problems() {
    let admin = Admin::start(Fake::default()).await;
    let answer = admin.post("/-/reload").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["detail"], "nothing changed");

    let problems = ["server.listen: taken", "providers.x: <unknown>"];
    admin
        .fake
        .set_reload(Err(problems.map(str::to_owned).to_vec()));
    let answer = admin.post("/-/reload").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.json()["problems"], serde_json::json!(problems));
}

#[tokio::test]
async fn off_loopback_only_probes_and_metrics_are_served() {
    let admin = Admin::start_at("0.0.0.0:0", Fake::default()).await;
    for path in ["/livez", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
    for path in ["/", "/status", "/nothing"] {
        let answer = admin.get(path).await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.body.contains("not a loopback address"));
    }
    assert_eq!(admin.post("/-/reload").await.status, 403);
    assert_eq!(admin.post("/-/refresh/cncn").await.status, 403);
    assert_eq!(admin.fake.reloads(), 0);
    assert!(admin.fake.refreshed().is_empty());
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let admin = Admin::start(Fake::default()).await;
    let mut tcp = TcpStream::connect(admin.address).await.unwrap();
    for _ in 0..3 {
        tcp.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            assert_ne!(tcp.read_buf(&mut answer).await.unwrap(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silent_connections_release_their_permits() {
    let admin = Admin::start(Fake::default()).await;
    let started = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(admin.address).await.unwrap());
    }
    assert_eq!(admin.get("/livez").await.status, 200);
    assert!(started.elapsed() >= HEADER_TIMEOUT && started.elapsed() < MAX_AGE);
    assert_eq!(silent[0].read(&mut [0; 512]).await.unwrap(), 0);
}

#[tokio::test]
async fn shutdown_waits_for_a_response_in_flight() {
    let (release, released) = oneshot::channel::<()>();
    let admin = Admin::start(Fake::default()).await;
    let (asked, mut answering) = admin.start_slow_reload(released).await;
    asked.await.unwrap();
    let Admin {
        stop,
        served,
        address,
        ..
    } = admin;
    stop.send(()).unwrap();
    // The listener closes first.
    while TcpStream::connect(address).await.is_ok() {}
    release.send(()).unwrap();
    let mut answer = String::new();
    answering.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_no_longer_than_its_limit() {
    let (_never, released) = oneshot::channel::<()>();
    let admin = Admin::start(Fake::default()).await;
    let (asked, _answering) = admin.start_slow_reload(released).await;
    asked.await.unwrap();
    let started = Instant::now();
    admin.stop.send(()).unwrap();
    admin.served.await.unwrap();
    assert!(started.elapsed() >= LAST_RESPONSES && started.elapsed() < 2 * LAST_RESPONSES);
}

/// Prometheus's own linter is the judge of names, types and help texts.
#[test]
fn promtool_accepts_the_metrics() {
    let metrics = Metrics::new();
    metrics.count_reload(true);
    for name in ["cncn", "汉字 \"quoted\" \\ \n"] {
        let upstream = metrics.upstream(name);
        for status in [
            StatusCode::OK,
            StatusCode::NOT_FOUND,
            StatusCode::BAD_GATEWAY,
        ] {
            upstream.count(status);
            upstream.duration.observe(0.003);
        }
        metrics.count_error(name, "upstream_refused");
        upstream.in_flight.inc();
        upstream.connections.inc();
        upstream.connected.inc();
        upstream.replayed.inc();
        upstream.rejections.inc();
        let provider = metrics.provider(name);
        provider.fetched.inc();
        provider.fetch_duration.observe(0.2);
        provider.expiry.set(f64::INFINITY);
        provider.fetched_at.set(1_767_225_600.0);
        provider.set_state(State::Valid);
    }
    let (samples, _) = metrics.render();
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) if std::env::var_os("CI").is_some() => panic!("promtool: {error}"),
        Err(error) => {
            println!("skipped: promtool: {error}");
            return;
        }
    };
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(samples.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "{said}\n{samples}"
    );
}

#[test]
fn errors_are_summed_by_upstream() {
    let metrics = Metrics::new();
    metrics.count_error("a", "upstream_refused");
    metrics.count_error("a", "upstream_tls");
    metrics.count_error("b", "upstream_tls");
    metrics.upstream("c");
    let errors = metrics.errors_by_upstream();
    assert_eq!((errors["a"], errors["b"], errors.get("c")), (2, 1, None));
}

fn sha256_base64(text: &str) -> String {
    use base64::Engine;
    use sha2::Digest;
    base64::prelude::BASE64_STANDARD.encode(sha2::Sha256::digest(text))
}

struct Admin {
    address: SocketAddr,
    fake: Arc<Fake>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Admin {
    async fn start(fake: Fake) -> Self {
        Self::start_at("127.0.0.1:0", fake).await
    }

    async fn start_at(address: &str, fake: Fake) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fake = Arc::new(fake);
        let (stop, stopped) = oneshot::channel();
        let control = Arc::clone(&fake);
        let served = tokio::spawn(serve(listener, control, async {
            let _ = stopped.await;
        }));
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            fake,
            stop,
            served,
        }
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(&format!("GET {path} HTTP/1.1"), "Host: localhost")
            .await
    }

    async fn post(&self, path: &str) -> Response {
        let line = format!("POST {path} HTTP/1.1");
        self.ask(&line, "Host: localhost\r\nX-Cupbearer: 1").await
    }

    async fn ask(&self, line: &str, headers: &str) -> Response {
        Response::to(self.address, &format!("{line}\r\n{headers}")).await
    }

    /// Starts a reload that ends when `released` resolves. The first value resolves when it has
    /// begun.
    async fn start_slow_reload(
        &self,
        released: oneshot::Receiver<()>,
    ) -> (oneshot::Receiver<()>, TcpStream) {
        let (begun, asked) = oneshot::channel();
        *self.fake.slow_reload.lock().unwrap() = Some(Box::pin(async move {
            begun.send(()).unwrap();
            if released.await.is_err() {
                pending::<()>().await;
            }
            Ok("done".to_owned())
        }));
        let mut tcp = TcpStream::connect(self.address).await.unwrap();
        let request = "POST /-/reload HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\n\r\n";
        tcp.write_all(request.as_bytes()).await.unwrap();
        (asked, tcp)
    }
}

type ReloadResult = Result<String, Vec<String>>;

struct Fake {
    metrics: Metrics,
    readiness: Mutex<Readiness>,
    refresh: Mutex<Result<(), RefreshError>>,
    refreshed: Mutex<Vec<String>>,
    reload: Mutex<ReloadResult>,
    slow_reload: Mutex<Option<Work<ReloadResult>>>,
    reloads: Mutex<usize>,
    log: Mutex<String>,
    may_quit: AtomicBool,
    quits: AtomicUsize,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            metrics: Metrics::new(),
            readiness: Mutex::default(),
            refresh: Mutex::new(Ok(())),
            refreshed: Mutex::default(),
            reload: Mutex::new(Ok("nothing changed".to_owned())),
            slow_reload: Mutex::default(),
            reloads: Mutex::default(),
            log: Mutex::new("info".to_owned()),
            may_quit: AtomicBool::default(),
            quits: AtomicUsize::default(),
        }
    }
}

impl Fake {
    fn set_readiness(&self, pending: &[&str], pending_now: &[&str]) {
        let lines = |list: &[&str]| list.iter().map(|line| (*line).to_owned()).collect();
        *self.readiness.lock().unwrap() = Readiness {
            pending: lines(pending),
            pending_now: lines(pending_now),
        };
    }

    fn set_refresh(&self, result: Result<(), RefreshError>) {
        *self.refresh.lock().unwrap() = result;
    }

    fn set_reload(&self, result: ReloadResult) {
        *self.reload.lock().unwrap() = result;
    }

    fn refreshed(&self) -> Vec<String> {
        self.refreshed.lock().unwrap().clone()
    }

    fn reloads(&self) -> usize {
        *self.reloads.lock().unwrap()
    }
}

impl Control for Fake {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn report(&self) -> Report {
        let now = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        let status = Status {
            state: State::Stale,
            generation: 3,
            expires_at: Some(now + Duration::from_millis(90_900)),
            fetched_at: None,
            next_fetch_at: Some(now - Duration::from_secs(5)),
            failures: 2,
            last_error: Some("<b>\"账号\"</b>\n".to_owned()),
        };
        Report {
            version: "0.1.0".to_owned(),
            ready: true,
            providers: vec![ProviderReport::new("cncn", true, None, false, &status, now)],
            ..Report::default()
        }
    }

    fn readiness(&self) -> Readiness {
        self.readiness.lock().unwrap().clone()
    }

    fn allow_hosts(&self) -> Vec<String> {
        vec!["admin.test".to_owned(), "ported.test:9180".to_owned()]
    }

    fn refresh(&self, provider: &str) -> Option<Work<Result<(), RefreshError>>> {
        if provider != "cncn" {
            return None;
        }
        self.refreshed.lock().unwrap().push(provider.to_owned());
        Some(Box::pin(ready(self.refresh.lock().unwrap().clone())))
    }

    fn quit(&self) -> bool {
        self.quits.fetch_add(1, Ordering::Relaxed);
        self.may_quit.load(Ordering::Relaxed)
    }

    fn log(&self) -> Option<String> {
        Some(self.log.lock().unwrap().clone())
    }

    fn set_log(&self, directives: &str) -> Result<(), String> {
        if directives == "loud" {
            return Err("no level".to_owned());
        }
        directives.clone_into(&mut self.log.lock().unwrap());
        Ok(())
    }

    fn reload(&self) -> Work<ReloadResult> {
        *self.reloads.lock().unwrap() += 1;
        match self.slow_reload.lock().unwrap().take() {
            Some(slow) => slow,
            None => Box::pin(ready(self.reload.lock().unwrap().clone())),
        }
    }
}

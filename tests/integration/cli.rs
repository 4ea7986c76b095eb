//! The command itself, as a black box: what it prints, and its exit codes.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use cupbearer::demo::vendors::{Fault, Kind};
use cupbearer::dialect;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use crate::client::{Client, whole};
use crate::harness::{World, eventually, server, soon};
use crate::upstream::{HTTP1, Server};

/// In a folder of its own and with an empty environment: what the machine has set must not matter.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cupbearer"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) async fn run(world: &World, arguments: &[&str]) -> Ran {
    run_command(command(&world.path("."), arguments)).await
}

async fn run_command(mut command: Command) -> Ran {
    soon("the command's end", command.output())
        .await
        .unwrap()
        .into()
}

const SECRET: &str = "s3cret-of-the-file";

/// A whole configuration on free ports.
fn good(world: &World) {
    world.write(
        "cupbearer.toml",
        &format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
             [providers.cncn]\ndialect = \"cncn\"\ntoken_url = \"https://api.example.cn/v2/token\"\nclient_id = \"joelhy\"\nclient_secret = \"{SECRET}\"\n\
             [upstreams.cncn]\nurl = \"https://api.example.cn/api\"\nprovider = \"cncn\"\nroute = {{ path_prefix = \"/cncn\" }}\n"
        ),
    );
}

#[tokio::test]
async fn check_says_that_all_is_well() {
    let world = World::new();
    good(&world);
    let ran = run(&world, &["check"]).await;
    assert_eq!((ran.code, &*ran.err), (0, ""));
    for told in [
        "cncn",
        "https://api.example.cn/v2/token",
        "client_credentials",
        "/cncn/…",
        "cupbearer.toml is fine",
    ] {
        assert!(ran.out.contains(told), "no {told} in\n{}", ran.out);
    }
    assert!(!ran.out.contains(SECRET));
    // By flag and by environment.
    std::fs::rename(world.path("cupbearer.toml"), world.path("other.toml")).unwrap();
    assert_eq!(
        run(&world, &["check", "--config", "other.toml"]).await.code,
        0
    );
    let mut by_environment = command(&world.path("."), &["check"]);
    by_environment.env("CUPBEARER_CONFIG", "other.toml");
    assert_eq!(run_command(by_environment).await.code, 0);
}

/// All errors at once, each with its place and a hint, none with a value; exit code 78 (EX_CONFIG).
#[tokio::test]
async fn check_tells_everything_that_is_wrong() {
    let world = World::new();
    world.write(
        "cupbearer.toml",
        "[server]\nlistne = \"127.0.0.1:0\"\nworkers = \"s3cret\"\n\
         [providers.a]\ndialect = \"cncm\"\ntoken_url = \"http://api.example.cn/token\"\nclient_id = \"a\"\nclient_secret = { env = \"NOT_SET_S\" }\n\
         [providers.b]\ntoken_url = \"https://u:s3cret@api.example.cn/\"\nclient_id = \"b\"\nclient_secret = { file = \"/nonexistent/s\" }\n\
         [upstreams.w]\nurl = \"https://one.example\"\nprovider = \"aa\"\ntls = { ca_file = \"/nonexistent/ca.pem\" }\n\
         [upstreams.x]\nurl = \"https://two.example\"\nprovider = \"a\"\nroute = { path_prefix = \"/p\" }\n\
         [upstreams.y]\nurl = \"https://two.example\"\nprovider = \"b\"\nroute = { path_prefix = \"/p\" }\ntoken_wait = 5\n",
    );
    for verb in ["check", "run"] {
        let ran = run(&world, &[verb]).await;
        assert_eq!((ran.code, &*ran.out), (78, ""), "{}", ran.err);
        for line in [
            "error: server.listne: ",
            "did you mean",
            "error: server.workers: ",
            "error: providers.a.dialect: ",
            "error: providers.a.token_url: ",
            "error: providers.a.client_secret: ",
            "error: providers.b.token_url: ",
            "error: providers.b.client_secret: ",
            "error: upstreams.w.provider: ",
            "error: upstreams.w.tls.ca_file: ",
            "error: upstreams.y.token_wait: ",
            "have the same path_prefix",
        ] {
            assert!(ran.err.contains(line), "no `{line}` in\n{}", ran.err);
        }
        assert!(!ran.err.contains("s3cret"), "{}", ran.err);
    }
}

#[tokio::test]
async fn no_configuration_shows_how_to_start() {
    let world = World::new();
    for verb in ["check", "run"] {
        let ran = run(&world, &[verb, "--config", "missing.toml"]).await;
        assert_eq!(ran.code, 78);
        assert!(
            ran.err.contains("missing.toml does not exist"),
            "{}",
            ran.err
        );
    }
    if !Path::new("/etc/cupbearer/cupbearer.toml").exists() {
        let ran = run(&world, &["run"]).await;
        assert_eq!(ran.code, 78);
        assert!(ran.err.contains("[providers.example]"), "{}", ran.err);
    }
    let broken = world.write("broken.toml", "[providers.a\nclient_secret = \"s3cret\"\n");
    let ran = run(&world, &["check", "--config", broken.to_str().unwrap()]).await;
    assert_eq!(ran.code, 78);
    assert!(
        ran.err.contains("line 1") && !ran.err.contains("s3cret"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2() {
    let world = World::new();
    for arguments in [
        &["fly"][..],
        &["run", "--fly"],
        &[],
        &["check", "--force"],
        &["dialects", "cncm"],
        &["completions", "cobol"],
        &["run", "--log", "a=b=c"],
    ] {
        good(&world);
        let ran = run(&world, arguments).await;
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        assert!(!ran.err.is_empty());
    }
}

#[tokio::test]
async fn version_help_dialects_and_completions() {
    let world = World::new();
    let version = run(&world, &["version"]).await;
    assert_eq!(
        (version.code, &*version.out),
        (0, concat!("cupbearer ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    assert_eq!(run(&world, &["--version"]).await.out, version.out);
    let help = run(&world, &["help"]).await;
    assert_eq!(help.code, 0);
    for verb in [
        "run",
        "check",
        "status",
        "dialects",
        "health",
        "demo",
        "completions",
        "version",
    ] {
        assert!(
            help.out.contains(&format!("\n  {verb} ")),
            "no {verb} in\n{}",
            help.out
        );
    }
    let list = run(&world, &["dialects"]).await;
    assert_eq!(list.code, 0);
    for (name, _) in dialect::builtin() {
        assert!(
            list.out.contains(&format!("\n  {name} ")),
            "no {name} in\n{}",
            list.out
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&world, &["completions", shell]).await;
        assert_eq!(script.code, 0);
        assert!(script.out.contains("cupbearer"), "{shell}");
    }
}

/// What `dialects NAME` shows as an example is a configuration that `check` accepts.
#[tokio::test]
async fn examples_of_dialects_are_valid() {
    const KEY: &str = include_str!("../../src/dialect/tests/samples/rfc7515-a2.json");
    let world = World::new();
    for (name, _) in dialect::builtin() {
        let text = run(&world, &["dialects", name]).await.out;
        let example = text.split("In cupbearer.toml:\n").nth(1).unwrap();
        let example = example.split("\nThe dialect itself:").next().unwrap();
        let folder = world.path("state").display().to_string();
        world.write(
            "cupbearer.toml",
            &example.replace("/var/lib/cupbearer", &folder),
        );
        let mut check = command(&world.path("."), &["check"]);
        for rest in example.split("{ env = \"").skip(1) {
            let variable = rest.split('"').next().unwrap();
            let is_key = variable.ends_with("PRIVATE_KEY");
            check.env(variable, if is_key { KEY } else { "value" });
        }
        let ran = run_command(check).await;
        assert_eq!(ran.code, 0, "{}\n{example}", ran.err);
    }
}

#[tokio::test]
async fn demo_once_shows_five_vendors_that_work() {
    let world = World::new();
    let ran = run(&world, &["demo", "--once"]).await;
    assert_eq!(ran.code, 0, "{}\n{}", ran.out, ran.err);
    for kind in Kind::ALL {
        let row = ran
            .out
            .lines()
            .find(|line| line.starts_with(kind.name()) && line.contains(" 200 "));
        assert!(
            row.is_some_and(|row| row.contains("yes, no. 1")),
            "{kind}\n{}",
            ran.out
        );
    }
}

#[tokio::test]
async fn check_online_fetches_tokens() {
    let world = World::new();
    let mut config = String::new();
    let mut vendors = Vec::new();
    for kind in Kind::ALL {
        let vendor = world.vendor(kind, None).await;
        config += &world.vendor_provider(kind.name(), &vendor, "");
        config += &world.vendor_upstream(kind.name(), kind.name(), &vendor, "");
        vendors.push(vendor);
    }
    world.write("cupbearer.toml", &config);
    let ran = run(&world, &["check", "--online"]).await;
    assert_eq!(ran.code, 0, "{}\n{}", ran.out, ran.err);
    for vendor in &vendors {
        // Fetching kills the token that a running proxy uses (single active): only with --force.
        let fetched = u64::from(vendor.kind() != Kind::Ctcfile);
        assert_eq!(vendor.counters().issued, fetched, "{}", vendor.kind());
    }
    let ran = run(&world, &["check", "--online", "--force"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    for vendor in &vendors {
        assert_eq!(vendor.refusals(), Vec::<String>::new());
        assert!(vendor.counters().issued > 0);
    }
    for secret in [
        "demo-secret-of",
        "demo secret",
        "demo-password",
        "9b00957307aaee78b1591bf672b61dc3",
        "eyJ0eXAi",
    ] {
        assert!(!ran.out.contains(secret), "{}", ran.out);
    }
    vendors[0].set_fault(Some(Fault::RejectCredentials));
    let ran = run(&world, &["check", "--online"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("用户名或密码错误"), "{}", ran.out);
    assert!(
        ran.err.contains("cncn") && !ran.err.contains("besender"),
        "{}",
        ran.err
    );
}

/// `cupbearer run`, with the ports that it took.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) listen: String,
    admin: String,
    log: tokio::io::Lines<BufReader<ChildStderr>>,
}

impl Running {
    pub(crate) async fn start(world: &World, arguments: &[&str]) -> Self {
        Self::of(command(&world.path("."), arguments)).await
    }

    /// With no more open files than that.
    pub(crate) async fn with_files(world: &World, files: u32) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(format!("ulimit -n {files}; exec \"$0\" run"))
            .arg(env!("CARGO_BIN_EXE_cupbearer"))
            .current_dir(world.path("."))
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Self::of(shell).await
    }

    async fn of(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut listen, mut admin) = (None, None);
        while listen.is_none() || admin.is_none() {
            let line = soon("a log line", log.next_line()).await.unwrap();
            let line = line.expect("it ended before it listened");
            let entry: serde_json::Value = serde_json::from_str(&line).expect("a log line is JSON");
            let message = entry["message"].as_str().unwrap_or_default();
            if let Some(address) = message.strip_prefix("listening on http://") {
                listen = Some(address.to_owned());
            }
            if let Some(url) = message.strip_prefix("admin page at ") {
                admin = Some(url.trim_end_matches('/').to_owned());
            }
        }
        Self {
            child,
            listen: listen.unwrap(),
            admin: admin.unwrap(),
            log,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(&self.child, signal);
    }

    /// Waits for a line of the log.
    pub(crate) async fn logs(&mut self, what: &str) {
        soon(what, async {
            while !self.log.next_line().await.unwrap().unwrap().contains(what) {}
        })
        .await;
    }

    /// The exit code, and what was logged until then.
    pub(crate) async fn ended(mut self) -> (i32, String) {
        let mut text = String::new();
        while let Some(line) = soon("a log line", self.log.next_line()).await.unwrap() {
            text += &line;
            text.push('\n');
        }
        let status = soon("the end", self.child.wait()).await.unwrap();
        (status.code().unwrap(), text)
    }
}

#[tokio::test]
async fn run_status_health_and_sigterm() {
    let world = World::new();
    let vendor = world.vendor(Kind::Cncn, None).await;
    let config = world
        .vendor_config(&vendor, "", "")
        .replace("[server]\n", "[server]\nshutdown_delay = \"400ms\"\n");
    world.write("cupbearer.toml", &config);
    let running = Running::start(&world, &["run"]).await;
    let mut client = Client::connect(running.listen.parse().unwrap()).await;
    assert_eq!(client.get("/cncn/x").await.status, 200);

    let health = run(&world, &["health", "--admin", &running.admin]).await;
    assert_eq!(
        (health.code, &*health.out),
        (0, "ready\n"),
        "{}",
        health.err
    );
    let live = run(&world, &["health", "--live", "--admin", &running.admin]).await;
    assert_eq!((live.code, &*live.out), (0, "alive\n"));
    let mut by_environment = command(&world.path("."), &["status"]);
    by_environment.env("CUPBEARER_ADMIN", &running.admin);
    let status = run_command(by_environment).await;
    assert_eq!(status.code, 0, "{}", status.err);
    for told in ["ready", "cncn", "valid", &running.listen] {
        assert!(status.out.contains(told), "no {told} in\n{}", status.out);
    }
    let json = run(&world, &["status", "--json", "--admin", &running.admin]).await;
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["upstreams"][0]["requests"], 1);

    let admin = running.admin.clone();
    running.signal(Signal::TERM);
    eventually("not ready", async || {
        run(&world, &["health", "--admin", &admin]).await.code == 1
    })
    .await;
    let (code, log) = running.ended().await;
    assert_eq!(code, 0, "{log}");
    client.closed().await;
    assert!(!log.contains("demo-secret-of-cncn"), "{log}");
    let gone = run(&world, &["status", "--admin", &admin]).await;
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains("is the proxy running?"), "{}", gone.err);
}

/// For the Jobs of clusters without native sidecars, and for whoever wants to see more without a restart.
#[tokio::test]
async fn the_admin_port_changes_the_log_and_ends_the_process() {
    let world = World::new();
    let upstream = world.upstream("api", "http://127.0.0.1:1", "");
    let config = server("shutdown_delay = \"1h\"\nquitquitquit = true") + &upstream;
    world.write("cupbearer.toml", &config);
    let mut running = Running::start(&world, &["run"]).await;
    let admin = running
        .admin
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let admin: std::net::SocketAddr = admin.parse().unwrap();
    let post = async |path: &str| {
        let request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\n\r\n");
        Client::connect(admin).await.request(&request).await
    };
    assert_eq!(post("/-/log/loud").await.status, 400);
    assert_eq!(post("/-/log/trace").await.status, 200);
    let log = Client::connect(admin).await.get("/-/log").await;
    assert_eq!(log.text(), "trace\n");
    // An app's own mistake: told at debug only.
    Client::connect(running.listen.parse().unwrap())
        .await
        .request("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
        .await;
    soon("a line of more detail", async {
        loop {
            let line = running.log.next_line().await.unwrap().unwrap();
            if line.contains("\"DEBUG\"") && line.contains("request refused") {
                return;
            }
        }
    })
    .await;
    assert_eq!(post("/quitquitquit").await.status, 200);
    assert_eq!(running.ended().await.0, 0);
}

#[tokio::test]
async fn sigint_ends_at_once_and_a_second_signal_sooner() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP1, |_| async {
        std::future::pending::<()>().await;
        http::Response::new(whole(""))
    })
    .await;
    let config = "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nshutdown_delay = \"1h\"\nshutdown_grace = \"1h\"\n"
        .to_owned()
        + &world.upstream("api", &upstream.url(), "");
    world.write("cupbearer.toml", &config);
    let running = Running::start(&world, &["run"]).await;
    running.signal(Signal::INT);
    assert_eq!(running.ended().await.0, 0);

    // With a request that never ends.
    let mut running = Running::start(&world, &["run"]).await;
    let mut client = Client::connect(running.listen.parse().unwrap()).await;
    client
        .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    eventually("a request", async || upstream.connections() == 1).await;
    running.signal(Signal::INT);
    let line = soon("a log line", async {
        loop {
            let line = running.log.next_line().await.unwrap().unwrap();
            if line.contains("shutting down") {
                return line;
            }
        }
    })
    .await;
    assert!(line.contains("Interrupt"), "{line}");
    running.signal(Signal::TERM);
    assert_eq!(running.ended().await.0, 1);
}

fn kill(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

/// Whether the kernel would call a handler of the process's own.
fn handles(child: &Child, signal: Signal) -> bool {
    let status = format!("/proc/{}/status", child.id().unwrap());
    let status = std::fs::read_to_string(status).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    caught & (1 << (signal.as_raw() - 1)) != 0
}

/// The log is a pipe that is full, so that the first line stops the start, before the proxy runs. The signals that come
/// then are kept.
#[tokio::test]
async fn a_signal_during_the_start_ends_it_well() {
    let world = World::new();
    world.write(
        "cupbearer.toml",
        &(server("") + &world.upstream("api", "http://127.0.0.1:1", "")),
    );
    for end in [Signal::TERM, Signal::INT] {
        let (mut log, mut full) = std::io::pipe().unwrap();
        fcntl_setfl(&full, OFlags::NONBLOCK).unwrap();
        let mut filled = 0;
        while let Ok(count) = full.write(&[b' '; 4096]) {
            filled += count;
        }
        // Of the pipe, not of this end: the program must wait for room.
        fcntl_setfl(&full, OFlags::empty()).unwrap();
        let mut child = command(&world.path("."), &["run"])
            .stderr(full)
            .spawn()
            .unwrap();
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            eventually("a handler", async || handles(&child, signal)).await;
        }
        kill(&child, Signal::HUP);
        kill(&child, end);
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = Vec::new();
            log.read_to_end(&mut text).map(|_| text)
        });
        let status = soon("the end", child.wait()).await.unwrap();
        let text = reading.await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&text[filled..]);
        assert_eq!(status.code(), Some(0), "{status}: {text}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_exit_code_1() {
    let world = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = format!("[server]\nlisten = \"{address}\"\nadmin = \"off\"\n")
        + &world.upstream("api", "http://127.0.0.1:1", "");
    world.write("cupbearer.toml", &config);
    let ran = run(&world, &["run"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains(&address.to_string()), "{}", ran.err);
}

/// A secret in the environment, a file and a command, as an app's own would be.
#[tokio::test]
async fn values_come_from_everywhere() {
    let world = World::new();
    let vendor = world.vendor(Kind::Cncn, None).await;
    let secret = world.write("secret", "demo-secret-of-cncn\n");
    for value in [
        "{ env = \"CNCN_SECRET\" }".to_owned(),
        format!("{{ file = {secret:?} }}"),
        format!("{{ command = [\"/bin/cat\", {secret:?}] }}"),
    ] {
        let config = world
            .vendor_config(&vendor, "", "")
            .replace("\"demo-secret-of-cncn\"", &value);
        world.write("cupbearer.toml", &config);
        let mut check = command(&world.path("."), &["check", "--online"]);
        check.env("CNCN_SECRET", "demo-secret-of-cncn");
        let ran = run_command(check).await;
        assert_eq!(ran.code, 0, "{value}: {}\n{}", ran.out, ran.err);
    }
    assert_eq!(vendor.counters().issued, 3);
    assert_eq!(vendor.life(), Duration::from_secs(3600));
}

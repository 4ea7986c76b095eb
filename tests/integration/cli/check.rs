//! `cupbearer check`: reports, exit codes, and the values that it reads.

use std::path::Path;
use std::time::Duration;

use cupbearer::demo::vendors::{Fault, Kind};
use cupbearer::dialect;

use super::{SECRET, command, run, run_command, write_valid_config};
use crate::harness::World;

#[tokio::test]
async fn a_valid_configuration_is_summarized_without_secrets() {
    let world = World::new();
    write_valid_config(&world);
    let ran = run(&world, &["check"]).await;
    assert_eq!((ran.code, &*ran.err), (0, ""));
    for text in [
        "cncn",
        "https://api.example.cn/v2/token",
        "client_credentials",
        "/cncn/…",
        "cupbearer.toml is fine",
    ] {
        assert!(ran.out.contains(text), "no {text} in\n{}", ran.out);
    }
    assert!(!ran.out.contains(SECRET));
    // The file may be named by a flag or a variable.
    std::fs::rename(world.path("cupbearer.toml"), world.path("other.toml")).unwrap();
    assert_eq!(
        run(&world, &["check", "--config", "other.toml"]).await.code,
        0
    );
    let mut by_environment = command(&world.path("."), &["check"]);
    by_environment.env("CUPBEARER_CONFIG", "other.toml");
    assert_eq!(run_command(by_environment).await.code, 0);
}

/// Exit code 78 is EX_CONFIG of `sysexits.h`.
#[tokio::test]
async fn all_problems_are_reported_at_once_without_values() {
    let world = World::new();
    world.write(
        "cupbearer.toml",
        "[server]\nlistne = \"127.0.0.1:0\"\nworkers = \"s3cret\"\n\
         [providers.a]\ndialect = \"cncm\"\ntoken_url = \"http://api.example.cn/token\"\n\
         client_id = \"a\"\nclient_secret = { env = \"NOT_SET_S\" }\n\
         [providers.b]\ntoken_url = \"https://u:s3cret@api.example.cn/\"\n\
         client_id = \"b\"\nclient_secret = { file = \"/nonexistent/s\" }\n\
         [upstreams.w]\nurl = \"https://one.example\"\nprovider = \"aa\"\n\
         tls = { ca_file = \"/nonexistent/ca.pem\" }\n\
         [upstreams.x]\nurl = \"https://two.example\"\nprovider = \"a\"\n\
         route = { path_prefix = \"/p\" }\n\
         [upstreams.y]\nurl = \"https://two.example\"\nprovider = \"b\"\n\
         route = { path_prefix = \"/p\" }\ntoken_wait = 5\n",
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
async fn a_missing_or_malformed_file_is_explained() {
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
async fn check_accepts_the_example_of_every_dialect() {
    const KEY: &str = include_str!("../../../src/dialect/tests/samples/rfc7515-a2.json");
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
async fn check_online_fetches_a_token_of_each_provider() {
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
        // Single active: a new token would invalidate the one that a running proxy uses.
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

#[tokio::test]
async fn secrets_may_come_from_the_environment_a_file_or_a_command() {
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

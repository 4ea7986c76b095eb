use std::collections::BTreeSet;

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_has_a_hidden_environment_variable() {
    let mut flags = BTreeSet::new();
    let mut command = Cli::command();
    command.build();
    for verb in command.get_subcommands().chain([&command]) {
        for flag in verb.get_arguments().filter(|arg| !arg.is_positional()) {
            let name = flag.get_long().unwrap();
            if ["help", "version"].contains(&name) {
                continue;
            }
            let variable = format!("CUPBEARER_{}", name.replace('-', "_").to_uppercase());
            assert_eq!(
                flag.get_env().and_then(|name| name.to_str()),
                Some(variable.as_str()),
                "{} --{name}",
                verb.get_name()
            );
            assert!(
                flag.is_hide_env_values_set(),
                "{} --{name}",
                verb.get_name()
            );
            flags.insert(name.to_owned());
        }
    }
    assert!(flags.len() >= 12, "only {flags:?} seen");
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    for wrong in [
        &["cupbearer", "fly"][..],
        &["cupbearer", "run", "--fly"],
        &["cupbearer"],
    ] {
        assert_eq!(
            Cli::try_parse_from(wrong).unwrap_err().exit_code(),
            2,
            "{wrong:?}"
        );
    }
    for fine in [
        &["cupbearer", "help", "run"][..],
        &["cupbearer", "--version"],
    ] {
        assert_eq!(
            Cli::try_parse_from(fine).unwrap_err().exit_code(),
            0,
            "{fine:?}"
        );
    }
}

#[test]
fn log_flags_may_stand_after_the_verb() {
    Cli::try_parse_from(["cupbearer", "run", "--log", "debug", "--log-format", "json"]).unwrap();
}

fn output(args: &[&str]) -> Result<String, Failure> {
    let mut out = Vec::new();
    let cli = Cli::try_parse_from([&["cupbearer"], args].concat()).unwrap();
    cli.run(&mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn version_is_one_line() {
    let expected = format!("cupbearer {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(output(&["version"]).unwrap(), expected);
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = output(&["completions", shell]).unwrap();
        assert!(script.contains("dialects"), "{shell}");
    }
}

#[test]
fn force_without_online_is_wrong_usage() {
    let failure = output(&["check", "--force"]).err().unwrap();
    assert!(matches!(failure, Failure::Usage(_)));
}

#[test]
fn force_without_show_is_wrong_usage() {
    let failure = output(&["token", "x", "--force"]).err().unwrap();
    assert!(matches!(failure, Failure::Usage(_)));
}

#[test]
fn an_unknown_provider_is_wrong_usage_and_the_known_ones_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cupbearer.toml");
    std::fs::write(&path, "[providers.there]\naccess_token = 't'\n").unwrap();
    let path = path.to_str().unwrap();
    for verb in ["login", "token"] {
        let failure = output(&[verb, "absent", "--config", path]).err().unwrap();
        assert!(matches!(failure, Failure::Usage(_)));
        assert!(failure.to_string().contains("it has there"), "{failure}");
    }
}

#[test]
fn an_admin_url_must_be_plain_http() {
    let failure = output(&["health", "--admin", "https://127.0.0.1:1"])
        .err()
        .unwrap();
    assert!(matches!(failure, Failure::Usage(_)));
}

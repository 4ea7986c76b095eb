//! `--config`: finds and reads the configuration.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::{Failure, write_problem};
use crate::config::{Config, Environment, ProcessEnvironment};
use crate::provider::inputs;

/// Tried in this order without `--config`.
const DEFAULT_FILES: [&str; 2] = ["cupbearer.toml", "/etc/cupbearer/cupbearer.toml"];

/// A first configuration, shown when there is none.
const STARTER: &str = r#"[upstreams.example]
url      = "https://api.example.com"
provider = "example"
[providers.example]
token_url     = "https://login.example.com/oauth2/token"
client_id     = "my-app"
client_secret = { env = "EXAMPLE_CLIENT_SECRET" }
"#;

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The configuration [default: cupbearer.toml, then /etc/cupbearer/cupbearer.toml]
    #[arg(long, value_name = "FILE", env = "CUPBEARER_CONFIG")]
    config: Option<PathBuf>,
}

/// A valid configuration and its path.
pub(super) struct Loaded {
    pub(super) path: PathBuf,
    pub(super) config: Config,
}

impl ConfigArgs {
    /// Reads and checks the configuration; writes warnings to standard error.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        self.load_with(&ProcessEnvironment)
    }

    pub(super) fn load_with(&self, environment: &dyn Environment) -> Result<Loaded, Failure> {
        let (path, text) = self.read()?.ok_or_else(no_config)?;
        match Config::from_toml(&text, environment) {
            Ok(config) => {
                for warning in &config.warnings {
                    write_problem(&mut io::stderr(), "warning", warning)?;
                }
                Ok(Loaded { path, config })
            }
            Err(problems) => Err(Failure::BadConfig { path, problems }),
        }
    }

    /// Reads the file; `None` if no file is named and no default file exists.
    pub(super) fn read(&self) -> Result<Option<(PathBuf, String)>, Failure> {
        if let Some(path) = &self.config {
            let text = read(path)?.ok_or_else(|| {
                Failure::NoConfig(format!(
                    "{} does not exist (named by --config or CUPBEARER_CONFIG)",
                    path.display()
                ))
            })?;
            return Ok(Some((path.clone(), text)));
        }
        for path in DEFAULT_FILES.map(PathBuf::from) {
            if let Some(text) = read(&path)? {
                return Ok(Some((path, text)));
            }
        }
        Ok(None)
    }
}

impl Loaded {
    /// Runs every `command` of the configuration once, so that a failing one stops the start, not
    /// the first fetch. Not part of [`ConfigArgs::load`]: verbs for one provider must not run other
    /// providers' commands.
    pub(super) fn with_commands_checked(self) -> Result<Self, Failure> {
        // Saves the runtime's descriptors and memory.
        if !inputs::has_commands(&self.config) {
            return Ok(self);
        }
        let checks = inputs::check_commands(&self.config);
        let problems = super::tokio_runtime()?.block_on(checks);
        if problems.is_empty() {
            return Ok(self);
        }
        let path = self.path;
        Err(Failure::BadConfig { path, problems })
    }
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::NoConfig(format!(
            "cannot read {}: {error}",
            path.display()
        ))),
    }
}

fn no_config() -> Failure {
    let tried = DEFAULT_FILES.join(" nor ");
    Failure::NoConfig(format!(
        "no configuration: there is neither {tried}\n\n\
         To start, save this as cupbearer.toml and put your vendor's values in:\n\n\
         {}\n\
         Then run `cupbearer check`. `cupbearer dialects` lists other token requests, and \
         `cupbearer demo` is a tour.",
        super::indented(STARTER)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starter_is_a_valid_configuration() {
        let config = Config::from_toml(STARTER, &[("EXAMPLE_CLIENT_SECRET", "s")]).unwrap();
        assert_eq!((config.providers.len(), config.upstreams.len()), (1, 1));
    }

    #[test]
    fn a_named_file_must_exist() {
        let args = ConfigArgs {
            config: Some("/nonexistent/cupbearer.toml".into()),
        };
        let Err(Failure::NoConfig(message)) = args.load() else {
            panic!("loaded");
        };
        assert!(message.contains("/nonexistent/cupbearer.toml does not exist"));
    }

    #[test]
    fn problems_are_reported_with_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        for (text, line) in [
            ("a = 1\nb = = 2", "error: line 2, column 5: not valid TOML"),
            ("a = 1", "error: a: unknown key"),
        ] {
            std::fs::write(&path, text).unwrap();
            let args = ConfigArgs {
                config: Some(path.clone()),
            };
            let mut told = Vec::new();
            args.load().err().unwrap().report(&mut told);
            let told = String::from_utf8(told).unwrap();
            let heading = format!("{} has a problem:\n{line}", path.display());
            assert!(told.starts_with(&heading), "{told}");
        }
    }

    #[test]
    fn a_failing_credential_command_is_an_error_of_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        let upstreams = "[upstreams.u]\nurl = 'https://a.example'\nprovider = 'p'\n";
        let check = |secret: &str| {
            let provider = "[providers.p]\ntoken_url = 'https://a.example'\nclient_id = 'c'\n";
            let text = format!("{upstreams}{provider}client_secret = {{ command = {secret} }}\n");
            std::fs::write(&path, text).unwrap();
            let args = ConfigArgs {
                config: Some(path.clone()),
            };
            args.load().and_then(Loaded::with_commands_checked)
        };
        assert!(check("['printf', 'x']").is_ok());
        for command in ["['/nonexistent/x']", "['true']", "['false']"] {
            let Err(Failure::BadConfig { problems, .. }) = check(command) else {
                panic!("{command} is fine");
            };
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].path, "providers.p.client_secret");
            assert!(problems[0].hint.is_some());
        }
    }

    #[test]
    fn a_missing_configuration_shows_how_to_start() {
        let message = no_config().to_string();
        assert!(message.contains("neither cupbearer.toml nor /etc/cupbearer/cupbearer.toml"));
        assert!(message.contains("    token_url     = "));
    }
}

//! Control flow: values of variables, read for each fetch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::config::{ClientAuth, Config, Problem, TokenSource, Value, value_text};
use crate::dialect::{Var, Variables, WELL_KNOWN};
use crate::secret::Secret;

/// Maximum size of a value: a larger file is not a credential.
const MAX_BYTES: u64 = 1024 * 1024;

/// Time limit of `command = […]`. A slower secret manager should write a file on a timer.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

const BY_HAND: &str = "run it by hand, as the user and in the folder of Cupbearer: \
                       it must print the value and nothing else";

/// Maximum number of commands that run at once during a check.
const COMMANDS_AT_ONCE: usize = 16;

/// Failure to read a value. Names the key, never the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    #[error("{key}: the token of another provider cannot be used here")]
    OtherProvider { key: String },
    #[error("{key}: cannot read {}: {reason}", path.display())]
    File {
        key: String,
        path: PathBuf,
        reason: String,
    },
    #[error("{key}: the command `{program}` {reason}")]
    Command {
        key: String,
        program: String,
        reason: String,
    },
}

/// Reads all variables except the tokens of other providers. `provider` is for the key paths of
/// errors.
pub async fn resolve(
    provider: &str,
    values: &BTreeMap<String, Value>,
) -> Result<Variables, InputError> {
    let mut variables = Variables::new();
    for (name, value) in values {
        if !matches!(value, Value::Provider { .. }) {
            let var = read(&variable_key(provider, name), value).await?;
            variables.insert(name.clone(), var);
        }
    }
    Ok(variables)
}

/// Reads the value at the path `key` of the configuration.
pub async fn read(key: &str, value: &Value) -> Result<Var, InputError> {
    match value {
        Value::Literal(var) => Ok(var.clone()),
        Value::Env { value, .. } => Ok(Var::Text(value.clone())),
        Value::File(path) => Ok(Var::Text(read_file(key, path).await?)),
        Value::Command(words) => {
            let output = output(words).await.map_err(|reason| InputError::Command {
                key: key.to_owned(),
                program: program(words),
                reason,
            });
            output.map(Var::Text)
        }
        Value::Provider { .. } => Err(InputError::OtherProvider {
            key: key.to_owned(),
        }),
    }
}

/// Returns whether any value of the configuration is a command.
pub fn has_commands(config: &Config) -> bool {
    values(config)
        .iter()
        .any(|(_, value)| matches!(value, Value::Command(_)))
}

/// Runs each distinct command of the configuration once and returns a problem for each unusable
/// output. Other values were checked when the configuration was read.
pub async fn check_commands(config: &Config) -> Vec<Problem> {
    let mut keys_of: BTreeMap<&[String], Vec<String>> = BTreeMap::new();
    for (key, value) in values(config) {
        if let Value::Command(words) = value {
            keys_of.entry(words).or_default().push(key);
        }
    }
    let commands: Vec<_> = keys_of.into_iter().collect();
    let mut problems = Vec::new();
    for batch in commands.chunks(COMMANDS_AT_ONCE) {
        let mut running = JoinSet::new();
        for (words, keys) in batch {
            let (words, keys) = (words.to_vec(), keys.clone());
            running.spawn(async move {
                let reason = output(&words).await.err()?;
                Some((words, reason, keys))
            });
        }
        while let Some(ended) = running.join_next().await {
            let Ok(Some((words, reason, keys))) = ended else {
                continue;
            };
            let message = format!("the command `{}` {reason}", program(&words));
            problems.extend(keys.into_iter().map(|path| Problem {
                path,
                message: message.clone(),
                hint: Some(BY_HAND.to_owned()),
            }));
        }
    }
    problems.sort();
    problems
}

/// All values of the configuration, with their keys.
fn values(config: &Config) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    for provider in &config.providers {
        let at = |name: &str| variable_key(&provider.name, name);
        let variables = provider.variables.iter();
        all.extend(variables.map(|(name, value)| (at(name), value)));
        if let TokenSource::Static { access_token } = &provider.source {
            all.push((at("access_token"), access_token));
        }
    }
    if let Some(ClientAuth::Header { value, .. }) = &config.server.client_auth {
        all.push(("server.client_auth.value".to_owned(), value));
    }
    match &config.store.keys[..] {
        [only] => all.push(("store.key".to_owned(), only)),
        several => {
            let several = several.iter().enumerate();
            all.extend(several.map(|(index, value)| (format!("store.key[{index}]"), value)));
        }
    }
    all
}

/// Returns the key path of a variable.
fn variable_key(provider: &str, name: &str) -> String {
    if name == "access_token" || WELL_KNOWN.contains(&name) {
        return format!("providers.{provider}.{name}");
    }
    format!("providers.{provider}.vars.{name}")
}

/// Returns the variables that need no I/O: literals and environment variables.
pub fn ready(values: &BTreeMap<String, Value>) -> Variables {
    let ready = values.iter().filter_map(|(name, value)| match value {
        Value::Literal(var) => Some((name.clone(), var.clone())),
        Value::Env { value, .. } => Some((name.clone(), Var::Text(value.clone()))),
        Value::File(_) | Value::Command(_) | Value::Provider { .. } => None,
    });
    ready.collect()
}

/// Returns a digest of all files of `values`, which changes when a credential is replaced. An
/// unreadable file has its own mark, so that its return is also a change.
pub async fn fingerprint<'a>(values: impl IntoIterator<Item = &'a Value>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for value in values {
        if let Value::File(path) = value {
            match read_bytes(path).await {
                Ok(bytes) => {
                    hash.update([1]);
                    hash.update(Sha256::digest(&*bytes));
                }
                Err(_) => hash.update([0]),
            }
        }
    }
    hash.finalize().into()
}

async fn read_file(key: &str, path: &Path) -> Result<Secret, InputError> {
    let failed = |reason: String| InputError::File {
        key: key.to_owned(),
        path: path.to_owned(),
        reason,
    };
    let bytes = (read_bytes(path).await).map_err(|error| failed(error.to_string()))?;
    value_text(&bytes).map_err(|content| failed(format!("the file holds {content}")))
}

async fn read_bytes(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    read_capped(tokio::fs::File::open(path).await?).await
}

/// Only the program is shown: arguments may be secret.
fn program(words: &[String]) -> String {
    words.first().cloned().unwrap_or_default()
}

/// Returns the output of a command, or a reason why the output is unusable. Standard error is
/// discarded: failing tools often print their input, and the standard error of Cupbearer is a log.
async fn output(words: &[String]) -> Result<Secret, String> {
    let mut child = Command::new(program(words))
        .args(words.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let stdout = child.stdout.take().ok_or("has no output")?;
    let work = async { Ok::<_, std::io::Error>((read_capped(stdout).await?, child.wait().await?)) };
    let (bytes, status) = timeout(COMMAND_TIMEOUT, work)
        .await
        .map_err(|_| format!("did not finish within {COMMAND_TIMEOUT:?}"))?
        .map_err(|error| format!("cannot be read: {error}"))?;
    if !status.success() {
        return Err(format!(
            "failed ({status}); its standard error is not shown, as it may hold a secret"
        ));
    }
    value_text(&bytes).map_err(|content| format!("printed {content}"))
}

async fn read_capped(source: impl AsyncRead + Unpin) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // Large enough for nearly every credential: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).await?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(std::io::Error::other("it is larger than 1 MiB")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> Value {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Value::File(path)
    }

    fn command(words: &[&str]) -> Value {
        Value::Command(words.iter().map(ToString::to_string).collect())
    }

    async fn read_text(value: &Value) -> Result<String, InputError> {
        match read("providers.x.client_secret", value).await? {
            Var::Text(secret) => Ok(secret.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn line_ends_at_the_end_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            ("s3cret\n\n", "s3cret"),
            (" s3cret ", " s3cret "),
        ] {
            assert_eq!(read_text(&file(&dir, "a", text)).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn files_are_read_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let value = file(&dir, "a", "one");
        assert_eq!(read_text(&value).await.unwrap(), "one");
        let before = fingerprint([&value]).await;
        assert_eq!(fingerprint([&value]).await, before);
        file(&dir, "a", "two");
        assert_eq!(read_text(&value).await.unwrap(), "two");
        assert_ne!(fingerprint([&value]).await, before);
        std::fs::remove_file(dir.path().join("a")).unwrap();
        assert_ne!(fingerprint([&value]).await, before);
    }

    #[tokio::test]
    async fn errors_name_the_key_and_never_the_value() {
        let dir = tempfile::tempdir().unwrap();
        for (value, expected) in [
            (file(&dir, "empty", ""), "holds nothing"),
            (file(&dir, "newline", "\n"), "holds nothing"),
            (Value::File(dir.path().join("absent")), "cannot read"),
            (
                command(&["/nonexistent/prog", "hunter2"]),
                "cannot be started",
            ),
            (command(&["true"]), "printed nothing"),
            (command(&["sh", "-c", "echo hunter2; exit 3"]), "failed"),
        ] {
            let error = read_text(&value).await.unwrap_err().to_string();
            assert!(error.starts_with("providers.x.client_secret: "), "{error}");
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn command_runs_without_a_shell() {
        let value = command(&["printf", "%s\\n", "a; b $HOME"]);
        assert_eq!(read_text(&value).await.unwrap(), "a; b $HOME");
    }

    #[tokio::test]
    async fn check_runs_each_distinct_command_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let once = format!("['sh', '-c', 'echo x >> {}; exit 7']", log.display());
        let text = format!(
            "[server]\nclient_auth = {{ header = 'X-Key', value = {{ command = ['true'] }} }}\n\
             [store]\nkey = [{{ command = {once} }}, {{ command = ['printf', 'x'] }}]\n\
             [providers.p]\ntoken_url = 'https://a.example'\nclient_id = 'c'\n\
             client_secret = {{ command = {once} }}\n\
             request = {{ headers = {{ X-A = '{{a}}' }} }}\n\
             vars = {{ a = {{ command = ['/nonexistent/x'] }} }}\n\
             [providers.q]\naccess_token = {{ command = ['false', 'hunter2'] }}\n"
        );
        let config = Config::from_toml(&text, &crate::config::ProcessEnvironment).unwrap();
        let told: Vec<_> = (check_commands(&config).await.iter())
            .map(|problem| format!("{}: {}", problem.path, problem.message))
            .collect();
        let expected = [
            "providers.p.client_secret: the command `sh` failed (exit status: 7)",
            "providers.p.vars.a: the command `/nonexistent/x` cannot be started",
            "providers.q.access_token: the command `false` failed",
            "server.client_auth.value: the command `true` printed nothing",
            "store.key[0]: the command `sh` failed",
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(
                told.starts_with(expected) && !told.contains("hunter2"),
                "{told}"
            );
        }
        assert_eq!(std::fs::read_to_string(log).unwrap(), "x\n");
    }

    #[tokio::test]
    async fn standard_error_of_a_command_is_discarded() {
        let read_end = command(&[
            "sh",
            "-c",
            "test \"$(readlink /proc/self/fd/2)\" = /dev/null && echo x",
        ]);
        assert_eq!(read_text(&read_end).await.unwrap(), "x");
    }

    #[tokio::test]
    async fn endless_output_of_a_command_is_an_error() {
        let error = read_text(&command(&["yes"])).await.unwrap_err();
        assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
    }
}

//! CONTROL, inputs: where each variable comes from → its value, afresh for every fetch.

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

use crate::config::{ClientAuth, Config, Problem, TokenSource, Value};
use crate::dialect::{Var, Variables, WELL_KNOWN};
use crate::secret::Secret;

/// A credential is a line, a token, at most a key: whatever is longer is the wrong file.
const MAX_BYTES: u64 = 1024 * 1024;

/// For `command = […]`. A secret manager that takes longer is better called by a timer that writes a file.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// How many of them run at once while the configuration is checked.
const COMMANDS_AT_ONCE: usize = 16;

/// Why a value could not be had. Names the key, never the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    #[error("{key}: {} is empty", path.display())]
    EmptyFile { key: String, path: PathBuf },
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

/// All of a provider's variables but the tokens of other providers. `provider` is only for the errors' key paths.
pub async fn resolve(
    provider: &str,
    values: &BTreeMap<String, Value>,
) -> Result<Variables, InputError> {
    let mut variables = Variables::new();
    for (name, value) in values {
        let key = variable_key(provider, name);
        // Comes from a refresher, not from here.
        if matches!(value, Value::Provider { .. }) {
            continue;
        }
        variables.insert(name.clone(), read(&key, value).await?);
    }
    Ok(variables)
}

/// One value. `key` is its path in the configuration.
pub async fn read(key: &str, value: &Value) -> Result<Var, InputError> {
    match value {
        Value::Literal(var) => Ok(var.clone()),
        Value::Env { value, .. } => Ok(Var::Text(value.clone())),
        Value::File(path) => Ok(Var::Text(read_file(key, path).await?)),
        Value::Command(words) => Ok(Var::Text(run(key, words).await?)),
        Value::Provider { .. } => Err(InputError::OtherProvider {
            key: key.to_owned(),
        }),
    }
}

/// Whether any value of the configuration is a command's.
pub fn has_commands(config: &Config) -> bool {
    values(config)
        .iter()
        .any(|(_, value)| matches!(value, Value::Command(_)))
}

/// Runs every command of the configuration once, each text once, and tells whose answers cannot be used.
///
/// What comes from elsewhere was looked at when the configuration was read.
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
                let reason = answer(&words).await.err()?;
                Some((words, reason, keys))
            });
        }
        while let Some(ended) = running.join_next().await {
            let Ok(Some((words, reason, keys))) = ended else {
                continue;
            };
            let program = program(&words);
            problems.extend(keys.into_iter().map(|path| Problem {
                path,
                message: format!("the command `{program}` {reason}"),
                hint: Some(BY_HAND.to_owned()),
            }));
        }
    }
    problems.sort();
    problems
}

const BY_HAND: &str = "run it by hand, as the user and in the folder that Cupbearer runs in: it must print the value \
                       and nothing else";

/// Every value that a configuration reads, with its key.
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
        several => all.extend(
            (several.iter().enumerate())
                .map(|(index, value)| (format!("store.key[{index}]"), value)),
        ),
    }
    all
}

/// Where a variable stands in the file.
fn variable_key(provider: &str, name: &str) -> String {
    if name == "access_token" || WELL_KNOWN.contains(&name) {
        return format!("providers.{provider}.{name}");
    }
    format!("providers.{provider}.vars.{name}")
}

/// Those variables that need no reading: literals and the environment's.
pub fn ready(values: &BTreeMap<String, Value>) -> Variables {
    let ready = values.iter().filter_map(|(name, value)| match value {
        Value::Literal(var) => Some((name.clone(), var.clone())),
        Value::Env { value, .. } => Some((name.clone(), Var::Text(value.clone()))),
        Value::File(_) | Value::Command(_) | Value::Provider { .. } => None,
    });
    ready.collect()
}

/// A digest of every file that the values come from: it changes when a credential was replaced.
///
/// A file that cannot be read counts as such, so that its coming back is a change too.
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
    let bytes = read_bytes(path)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let secret = text(&bytes).map_err(|reason| failed(reason.to_owned()))?;
    if secret.is_empty() {
        return Err(InputError::EmptyFile {
            key: key.to_owned(),
            path: path.to_owned(),
        });
    }
    Ok(secret)
}

async fn read_bytes(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let file = tokio::fs::File::open(path).await?;
    // Room for one read of nearly every credential: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    capped(file, &mut bytes).await?;
    Ok(bytes)
}

async fn run(key: &str, words: &[String]) -> Result<Secret, InputError> {
    answer(words).await.map_err(|reason| InputError::Command {
        key: key.to_owned(),
        program: program(words),
        reason,
    })
}

/// Arguments may be secrets; the program's name is none.
fn program(words: &[String]) -> String {
    words.first().cloned().unwrap_or_default()
}

/// What a command prints, or in words why that is nothing to use.
///
/// Its standard error goes nowhere: tools that fail like to print what they were given, and our own standard error is
/// a log that others read.
async fn answer(words: &[String]) -> Result<Secret, String> {
    let mut child = Command::new(program(words))
        .args(words.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let stdout = child.stdout.take();
    let work = async {
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
        if let Some(stdout) = stdout {
            capped(stdout, &mut bytes).await?;
        }
        Ok::<_, std::io::Error>((bytes, child.wait().await?))
    };
    let (bytes, status) = timeout(COMMAND_TIMEOUT, work)
        .await
        .map_err(|_| format!("was not done within {COMMAND_TIMEOUT:?}"))?
        .map_err(|error| format!("cannot be read: {error}"))?;
    if !status.success() {
        return Err(format!(
            "failed ({status}); what it wrote to standard error is not shown, as it may hold a secret"
        ));
    }
    let secret = text(&bytes).map_err(str::to_owned)?;
    if secret.is_empty() {
        return Err("printed nothing".to_owned());
    }
    Ok(secret)
}

async fn capped(source: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> std::io::Result<()> {
    source.take(MAX_BYTES + 1).read_to_end(into).await?;
    if into.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(())
}

/// UTF-8 without one trailing newline.
fn text(bytes: &[u8]) -> Result<Secret, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text")?;
    let text = text
        .strip_suffix("\r\n")
        .or_else(|| text.strip_suffix('\n'))
        .unwrap_or(text);
    Ok(Secret::new(text))
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
    async fn exactly_one_trailing_newline_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            ("s3cret\n\n", "s3cret\n"),
            (" s3cret ", " s3cret "),
        ] {
            assert_eq!(read_text(&file(&dir, "a", text)).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn files_are_read_again_each_time() {
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
            (file(&dir, "empty", ""), "is empty"),
            (file(&dir, "newline", "\n"), "is empty"),
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
    async fn a_command_is_run_without_a_shell() {
        let value = command(&["printf", "%s\\n", "a; b $HOME"]);
        assert_eq!(read_text(&value).await.unwrap(), "a; b $HOME");
    }

    #[tokio::test]
    async fn commands_of_the_whole_configuration_are_run_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let once = format!("['sh', '-c', 'echo x >> {}; exit 7']", log.display());
        let text = format!(
            "[server]\nclient_auth = {{ header = 'X-Key', value = {{ command = ['true'] }} }}\n\
             [store]\nkey = [{{ command = {once} }}, {{ command = ['printf', 'x'] }}]\n\
             [providers.p]\ntoken_url = 'https://a.example'\nclient_id = 'c'\n\
             client_secret = {{ command = {once} }}\n\
             request = {{ headers = {{ X-A = '{{a}}' }} }}\nvars = {{ a = {{ command = ['/nonexistent/x'] }} }}\n\
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
    async fn what_a_command_tells_on_standard_error_is_not_ours_to_tell() {
        let read_end = command(&[
            "sh",
            "-c",
            "test \"$(readlink /proc/self/fd/2)\" = /dev/null && echo x",
        ]);
        assert_eq!(read_text(&read_end).await.unwrap(), "x");
    }

    #[tokio::test]
    async fn a_command_that_prints_for_ever_is_cut_off() {
        let error = read_text(&command(&["yes"])).await.unwrap_err();
        assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
    }
}

//! Files besides its own that a configuration stands on, and whether they are what they were.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::config::{ClientAuth, Config, Tls, Value};

/// What files were at one moment. One that is not there is something, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(BTreeMap<PathBuf, Option<Stamp>>);

/// Another one for whatever is done to a file, or to a link on the way to it. There may be thousands of files: to look at one costs
/// less than to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    mode: u32,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Also in its owner and the like.
    changed: (i64, i64),
}

/// Those that are read when a configuration comes into force, and no more after that: of upstreams, and for `client_auth`. Token
/// requests read theirs anew each time.
pub(super) fn read_once(config: &Config) -> BTreeSet<PathBuf> {
    let upstreams = config.upstreams.iter().flat_map(|it| of_tls(&it.tls));
    let mut files: BTreeSet<_> = upstreams.cloned().collect();
    if let Some(ClientAuth::Header {
        value: Value::File(path),
        ..
    }) = &config.server.client_auth
    {
        files.insert(path.clone());
    }
    files
}

fn of_tls(tls: &Tls) -> impl Iterator<Item = &PathBuf> {
    let client = tls.client_cert.iter().flat_map(|(cert, key)| [cert, key]);
    tls.ca_file.iter().chain(client)
}

impl Stamps {
    /// Blocks.
    pub(super) fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamps = files.into_iter().map(|file| {
            let stamp = std::fs::metadata(&file).ok().map(|it| Stamp {
                file: (it.dev(), it.ino()),
                size: it.size(),
                mode: it.mode(),
                modified: (it.mtime(), it.mtime_nsec()),
                changed: (it.ctime(), it.ctime_nsec()),
            });
            (file, stamp)
        });
        Self(stamps.collect())
    }

    /// The same files, as they are now. Blocks.
    pub(super) fn again(&self) -> Self {
        Self::of(self.0.keys().cloned())
    }

    /// Lets go of all but these.
    pub(super) fn keep(&mut self, files: &BTreeSet<PathBuf>) {
        self.0.retain(|file, _| files.contains(file));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::config::{Environment, named_files};

    #[test]
    fn whatever_is_done_to_a_file_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("one")).unwrap();
        fs::create_dir(path("two")).unwrap();
        fs::write(path("two/file"), "1").unwrap();
        symlink("one", path("data")).unwrap();
        let mut last = Stamps::of([path("data/file"), path("other")]);
        let mut changes = |what: &str, change: &dyn Fn()| {
            assert_eq!(last.again(), last, "before: {what}");
            change();
            let now = last.again();
            assert_ne!(now, last, "{what}");
            last = now;
        };
        changes("it is there", &|| {
            fs::write(path("one/file"), "1").unwrap();
        });
        changes("it is written", &|| {
            fs::write(path("one/file"), "22").unwrap();
        });
        changes("it may be read", &|| {
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(path("one/file"), mode).unwrap();
        });
        changes("the link is swapped", &|| {
            symlink("two", path("new")).unwrap();
            fs::rename(path("new"), path("data")).unwrap();
        });
        changes("the other one is there", &|| {
            fs::write(path("other"), "").unwrap();
        });
        changes("it is gone", &|| fs::remove_file(path("two/file")).unwrap());
    }

    struct Empty;

    impl Environment for Empty {
        fn var(&self, _name: &str) -> Option<String> {
            None
        }
    }

    #[test]
    fn what_is_read_once_is_among_what_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let certificate = "-----BEGIN CERTIFICATE-----\n";
        let (ca, cert) = (write("ca", certificate), write("cert", certificate));
        let (key, secret) = (
            write("key", "-----BEGIN PRIVATE KEY-----\n"),
            write("secret", "s"),
        );
        let of_provider = write("other", certificate);
        let text = format!(
            "[server]\nclient_auth = {{ header = 'X-Key', value = {{ file = {secret:?} }} }}\n\
             [providers.p]\ntoken_url = 'https://a.test'\nclient_id = 'c'\nclient_secret = {{ file = {secret:?} }}\n\
             tls = {{ ca_file = {of_provider:?} }}\n\
             [upstreams.u]\nurl = 'https://a.test'\nprovider = 'p'\n\
             tls = {{ ca_file = {ca:?}, client_cert_file = {cert:?}, client_key_file = {key:?} }}\n"
        );
        let config = Config::from_toml(&text, &Empty).unwrap();
        let read = read_once(&config);
        assert_eq!(read, BTreeSet::from([ca, cert, key, secret]));
        let named = named_files(&text);
        assert!(read.is_subset(&named) && named.contains(&of_provider));
    }
}

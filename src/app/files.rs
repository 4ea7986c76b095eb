//! The files that a configuration names, and whether they have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::config::{ClientAuth, Config, Tls, Value};

/// Modification stamps of files; `None` for a missing file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(BTreeMap<PathBuf, Option<Stamp>>);

/// Differs after any change of a file or of a link on its path. Cheaper than reading the file, as
/// there may be thousands of files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    /// Device and inode.
    file: (u64, u64),
    size: u64,
    mode: u32,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Seconds and nanoseconds; differs after a change of the owner, too.
    changed: (i64, i64),
}

/// Returns the files that are read only when a configuration is applied: TLS files of upstreams,
/// and the value of `client_auth`. Files of token requests are read for each request.
pub(super) fn read_once(config: &Config) -> BTreeSet<PathBuf> {
    let upstreams = config.upstreams.iter().flat_map(|it| tls_files(&it.tls));
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

fn tls_files(tls: &Tls) -> impl Iterator<Item = &PathBuf> {
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

    /// Returns the present stamps of the same files. Blocks.
    pub(super) fn again(&self) -> Self {
        Self::of(self.0.keys().cloned())
    }

    /// Drops the stamps of all other files.
    pub(super) fn keep(&mut self, files: &BTreeSet<PathBuf>) {
        self.0.retain(|file, _| files.contains(file));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::config::NoEnvironment;
    use crate::config::named_files;

    #[test]
    fn every_change_of_a_file_changes_its_stamp() {
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

    #[test]
    fn files_read_once_are_among_the_named_files() {
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
             [providers.p]\ntoken_url = 'https://a.test'\nclient_id = 'c'\n\
             client_secret = {{ file = {secret:?} }}\n\
             tls = {{ ca_file = {of_provider:?} }}\n\
             [upstreams.u]\nurl = 'https://a.test'\nprovider = 'p'\n\
             tls = {{ ca_file = {ca:?}, client_cert_file = {cert:?}, client_key_file = {key:?} }}\n"
        );
        let config = Config::from_toml(&text, &NoEnvironment).unwrap();
        let read = read_once(&config);
        assert_eq!(read, BTreeSet::from([ca, cert, key, secret]));
        let named = named_files(&text);
        assert!(read.is_subset(&named) && named.contains(&of_provider));
    }
}

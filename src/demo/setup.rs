//! The demo's setup: five vendors, the files that they need, and the proxy's configuration.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::authority::{Authority, AuthorityError, Offer};
use super::vendors::{Credential, Event, FakeVendor, Kind, Options, StartError};

/// All parts of the demo but the proxy. Dropping it stops the vendors and removes the files.
pub struct Setup {
    vendors: Vec<FakeVendor>,
    folder: PrivateFolder,
}

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Vendor(#[from] StartError),
    #[error("cannot write the demo's files under {}: {source}", folder.display())]
    Files { folder: PathBuf, source: io::Error },
}

impl Setup {
    /// Starts all five vendors as tasks of the current runtime and writes the CA file.
    pub async fn start(events: UnboundedSender<Event>) -> Result<Self, SetupError> {
        let authority = Authority::new()?;
        let folder = PrivateFolder::create(&std::env::temp_dir())?;
        folder.write(CA_FILE, &authority.pem())?;
        let mut vendors = Vec::with_capacity(Kind::ALL.len());
        for kind in Kind::ALL {
            for (key, credential) in kind.credentials() {
                if let Credential::Text(secret) = credential
                    && is_in_file(kind, key)
                {
                    folder.write(&secret_file(kind), &format!("{secret}\n"))?;
                }
            }
            let options = Options {
                life: life(kind),
                api: Offer {
                    http2: speaks_http2(kind),
                    client_certificate: false,
                },
                events: Some(events.clone()),
            };
            vendors.push(FakeVendor::start(&authority, kind, options).await?);
        }
        Ok(Self { vendors, folder })
    }

    pub fn vendors(&self) -> &[FakeVendor] {
        &self.vendors
    }

    /// Returns the proxy's configuration, in the form that a user would write.
    pub fn config(&self, listen: &str, admin: &str) -> String {
        let (listen, admin) = (quoted(listen), quoted(admin));
        let mut text = format!("[server]\nlisten = {listen}\nadmin  = {admin}\n");
        for vendor in &self.vendors {
            self.write_vendor(&mut text, vendor);
        }
        text
    }

    /// Saves a configuration next to the CA file, for use with other commands.
    pub fn save_config(&self, text: &str) -> Result<PathBuf, SetupError> {
        self.folder.write("cupbearer.toml", text)
    }

    fn write_vendor(&self, text: &mut String, vendor: &FakeVendor) {
        let kind = vendor.kind();
        let tls = format!(
            "tls           = {{ ca_file = {} }}",
            self.quoted_path(CA_FILE)
        );
        let mut lines = vec![
            String::new(),
            format!("[providers.{kind}]"),
            format!("dialect       = {}", quoted(kind.name())),
            format!("token_url     = {}", quoted(&vendor.token_url())),
        ];
        for (key, credential) in kind.credentials() {
            let value = match credential {
                Credential::Text(_) if is_in_file(kind, key) => {
                    format!("{{ file = {} }}", self.quoted_path(&secret_file(kind)))
                }
                Credential::Text(value) => quoted(value),
                Credential::Integer(value) => value.to_string(),
            };
            lines.push(format!("{key:<13} = {value}"));
        }
        lines.extend([
            tls.clone(),
            String::new(),
            format!("[upstreams.{kind}]"),
            format!("url           = {}", quoted(&vendor.api_url())),
            format!("provider      = {}", quoted(kind.name())),
            format!("route         = {{ path_prefix = \"/{kind}\" }}"),
            tls,
        ]);
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
    }

    fn quoted_path(&self, name: &str) -> String {
        quoted(&self.folder.path(name).to_string_lossy())
    }
}

const CA_FILE: &str = "ca.pem";

/// Short lifetimes, so that refreshes can be watched. Passport keeps its year, which is unusual.
fn life(kind: Kind) -> Option<Duration> {
    let seconds = match kind {
        Kind::Cncn => 20,
        Kind::Besender => 30,
        Kind::Ctcfile => 25,
        Kind::IdentityServer => 22,
        Kind::Passport => return None,
    };
    Some(Duration::from_secs(seconds))
}

/// Some of the vendors, to show that ALPN decides.
fn speaks_http2(kind: Kind) -> bool {
    matches!(kind, Kind::Besender | Kind::Passport)
}

/// Returns whether a credential is configured as a file: one is enough to show that way.
fn is_in_file(kind: Kind, key: &str) -> bool {
    kind == Kind::Ctcfile && key == "client_secret"
}

fn secret_file(kind: Kind) -> String {
    format!("{kind}.secret")
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A folder that only this user can access; removed with its content when dropped.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn create(parent: &Path) -> Result<Self, SetupError> {
        // Fails if the folder exists, so that no other user can have prepared it.
        let digits = &uuid::Uuid::new_v4().simple().to_string()[..8];
        let folder = parent.join(format!("cupbearer-demo-{digits}"));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => Ok(Self(folder)),
            Err(source) => Err(SetupError::Files { folder, source }),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, SetupError> {
        let path = self.path(name);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| SetupError::Files {
                folder: self.0.clone(),
                source,
            })?;
        Ok(path)
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // A folder that is left behind holds demo secrets only.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn config_names_every_vendor_and_only_files_that_exist() {
        let (events, _watch) = tokio::sync::mpsc::unbounded_channel();
        let setup = Setup::start(events).await.unwrap();
        let text = setup.config("127.0.0.1:0", "127.0.0.1:0");
        let table: toml::Table = text.parse().unwrap();
        for kind in Kind::ALL {
            let provider = &table["providers"][kind.name()];
            assert_eq!(provider["dialect"].as_str(), Some(kind.name()));
            let ca_file = provider["tls"]["ca_file"].as_str().unwrap();
            assert!(Path::new(ca_file).is_file());
            assert_eq!(
                table["upstreams"][kind.name()]["route"]["path_prefix"].as_str(),
                Some(format!("/{kind}").as_str())
            );
        }
        assert_eq!(
            table["providers"]["besender"]["client_id"].as_integer(),
            Some(19)
        );
        let secret = table["providers"]["ctcfile"]["client_secret"]["file"]
            .as_str()
            .unwrap();
        let secret = std::fs::read_to_string(secret).unwrap();
        assert_eq!(secret, "demo secret+of/ctcfile&\n");
    }

    #[tokio::test]
    async fn files_are_private_and_gone_afterwards() {
        let (events, _watch) = tokio::sync::mpsc::unbounded_channel();
        let setup = Setup::start(events).await.unwrap();
        let path = setup.save_config("# demo\n").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let folder = path.parent().unwrap().to_owned();
        assert_eq!(mode(&folder), 0o700);
        drop(setup);
        assert!(!folder.exists());
    }
}

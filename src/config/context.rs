//! State that the checks of all sections share: environment, problems and checked PEM files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::egress::{Egress, EgressProxy, EnvironmentProxy};
use super::environment::Environment;
use super::file::TlsToml;
use super::model::{Tls, Value};
use super::origin::{HostPort, Origin, Scheme, Url};
use super::problems::{Complaint, KeyPath, Problems, complaint};
use super::units::Text;
use super::value::{EmptyLiteral, FilePath, ValueToml, read_file};

pub(super) struct Context<'a> {
    pub(super) env: &'a dyn Environment,
    pub(super) problems: Problems,
    pub(super) warnings: Problems,
    environment_proxy: Arc<EnvironmentProxy>,
    /// Results per file: thousands of upstreams may name the same CA file.
    pem_files: HashMap<(PathBuf, Pem), Result<(), Complaint>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Pem {
    Certificate,
    PrivateKey,
}

impl<'a> Context<'a> {
    pub(super) fn new(env: &'a dyn Environment) -> Self {
        Self {
            env,
            problems: Problems::default(),
            warnings: Problems::default(),
            environment_proxy: Arc::new(EnvironmentProxy::read(env)),
            pem_files: HashMap::new(),
        }
    }

    pub(super) fn problem(&mut self, at: &KeyPath, complaint: Complaint) {
        self.problems.add(at, complaint);
    }

    pub(super) fn value(
        &mut self,
        at: &KeyPath,
        written: ValueToml,
        empty: EmptyLiteral,
    ) -> Option<Value> {
        self.problems.keep(at, written.resolve(empty, self.env))
    }

    /// Checks a URL that receives credentials. `at` is the table with `key` and `allow_http`.
    pub(super) fn url(
        &mut self,
        at: &KeyPath,
        key: &str,
        url: Url,
        allow_http: Option<bool>,
    ) -> Option<Url> {
        if url.origin.needs_permission() && allow_http != Some(true) {
            self.problem(
                &at.key(key),
                complaint("a plain http:// URL off loopback would send credentials unencrypted")
                    .hint("use https://, or set allow_http = true in the same table"),
            );
            return None;
        }
        Some(url)
    }

    /// Checks the `tls` table of a connection to `origin`, if the origin is known.
    pub(super) fn tls(
        &mut self,
        at: &KeyPath,
        written: Option<TlsToml>,
        origin: Option<&Origin>,
    ) -> Tls {
        let Some(written) = written else {
            return Tls::default();
        };
        if origin.is_some_and(|origin| origin.scheme == Scheme::Http) {
            self.problem(
                at,
                complaint("has no effect on an http:// URL").hint("remove `tls`, or use https://"),
            );
        }
        let (cert, key) = (written.client_cert_file, written.client_key_file);
        let (cert_at, key_at) = (at.key("client_cert_file"), at.key("client_key_file"));
        let lone = match (&cert, &key) {
            (Some(_), None) => Some((&cert_at, "client_key_file")),
            (None, Some(_)) => Some((&key_at, "client_cert_file")),
            _ => None,
        };
        if let Some((at, other)) = lone {
            let lone = complaint(format!("needs `{other}` in the same table"));
            self.problem(at, lone.hint("set both or neither"));
        }
        let cert = self.pem(&cert_at, cert, Pem::Certificate);
        let key = self.pem(&key_at, key, Pem::PrivateKey);
        Tls {
            ca_file: self.pem(&at.key("ca_file"), written.ca_file, Pem::Certificate),
            client_cert: cert.zip(key),
            server_name: written.server_name.map(|Text(name)| name.0),
        }
    }

    fn pem(&mut self, at: &KeyPath, written: Option<Text<FilePath>>, kind: Pem) -> Option<PathBuf> {
        let Text(FilePath(path)) = written?;
        let checked = self
            .pem_files
            .entry((path.clone(), kind))
            .or_insert_with(|| check_pem(&path, kind));
        self.problems.keep(at, checked.clone()).map(|()| path)
    }

    /// Returns the proxy for connections to `origin`, or to `connect_to` in its place.
    pub(super) fn egress(
        &mut self,
        at: &KeyPath,
        written: Option<ValueToml>,
        origin: Option<&Origin>,
        connect_to: Option<&HostPort>,
    ) -> Option<EgressProxy> {
        let proxy = match (written, origin) {
            (Some(value), _) => super::egress::written(value, self.env),
            (None, Some(origin)) => {
                let (host, port) =
                    connect_to.map_or((&origin.host, origin.port), |dial| (&dial.host, dial.port));
                self.environment_proxy.to(origin.scheme, host, port)
            }
            (None, None) => return None,
        };
        self.problems.keep(at, proxy).flatten()
    }

    /// Returns the choice for hosts known later. `written`: the provider sets `proxy`.
    pub(super) fn egress_later(&self, written: bool) -> Egress {
        Egress((!written).then(|| Arc::clone(&self.environment_proxy)))
    }
}

/// Checks for the right kind of PEM block; the TLS setup parses certificates and keys.
fn check_pem(path: &Path, kind: Pem) -> Result<(), Complaint> {
    let bytes = read_file(path)?;
    let (label, missing) = match kind {
        Pem::Certificate => ("CERTIFICATE-----", "holds no certificate in PEM form"),
        Pem::PrivateKey => ("PRIVATE KEY-----", "holds no private key in PEM form"),
    };
    let found = bytes.split(|byte| *byte == b'\n').any(|line| {
        line.starts_with(b"-----BEGIN ") && line.trim_ascii_end().ends_with(label.as_bytes())
    });
    if found {
        return Ok(());
    }
    Err(complaint(missing).hint("convert DER with `openssl x509` or `openssl pkey`"))
}

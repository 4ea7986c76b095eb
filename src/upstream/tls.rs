//! TLS profiles: trusted roots and client certificates.
//!
//! Connectors with the same files share one rustls configuration and its session store, across
//! upstreams, providers and workers. TLS 1.2 or newer; verification cannot be turned off.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::client::ClientConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, CipherSuite, RootCertStore};
use zeroize::Zeroizing;

use crate::config::Tls;

/// The profiles in use. Cheap to clone; the clones share all profiles.
#[derive(Clone)]
pub struct TlsProfiles {
    provider: Arc<CryptoProvider>,
    cache: Arc<Mutex<Cache>>,
}

#[derive(Default)]
struct Cache {
    /// Loaded once, on first use: parsing takes tens of milliseconds.
    system_roots: Option<Arc<RootCertStore>>,
    /// Keyed by file content, so that a reload sees a changed file behind an unchanged path.
    /// Weak: a profile lives as long as its connectors.
    profiles: HashMap<Fingerprint, Weak<ClientConfig>>,
}

/// SHA-256 of the CA file, and of the client certificate and key files.
type Fingerprint = (Option<[u8; 32]>, Option<([u8; 32], [u8; 32])>);

/// A start-up error in a `tls` table.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    #[error("{key} {}: cannot be read: {source}", path.display())]
    Read {
        key: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{key} {}: {reason}", path.display())]
    Content {
        key: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error(
        "no CA certificates found on this system{detail}: \
         install the ca-certificates package or set ca_file"
    )]
    NoSystemRoots { detail: String },
    #[error("{0} is not a host name that a certificate can hold: set server_name")]
    ServerName(String),
}

impl TlsProfiles {
    pub fn new() -> Self {
        Self {
            provider: Arc::new(provider()),
            cache: Arc::default(),
        }
    }

    /// Reads the files and returns their configuration. Blocks on the file system.
    pub fn get(&self, tls: &Tls) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let ca = tls.ca_file.as_ref();
        let ca = ca.map(|path| PemFile::read("ca_file", path)).transpose()?;
        let client = match &tls.client_cert {
            Some((certificate, key)) => Some((
                PemFile::read("client_cert_file", certificate)?,
                PemFile::read("client_key_file", key)?,
            )),
            None => None,
        };
        let digests = |(cert, key): &(PemFile, PemFile)| (cert.digest(), key.digest());
        let fingerprint = (
            ca.as_ref().map(PemFile::digest),
            client.as_ref().map(digests),
        );
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = cache.profiles.get(&fingerprint).and_then(Weak::upgrade) {
            return Ok(config);
        }
        let roots = match ca {
            Some(file) => Arc::new(file.roots()?),
            None => cache.system_roots()?,
        };
        let config = Arc::new(self.build(roots, client)?);
        cache.profiles.retain(|_, known| known.strong_count() > 0);
        cache.profiles.insert(fingerprint, Arc::downgrade(&config));
        Ok(config)
    }

    fn build(
        &self,
        roots: Arc<RootCertStore>,
        client: Option<(PemFile, PemFile)>,
    ) -> Result<ClientConfig, TlsConfigError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let Some((certificate, key)) = client else {
            return Ok(builder.with_no_client_auth());
        };
        let loaded = (self.provider.key_provider)
            .load_private_key(key.private_key()?)
            .map_err(|error| key.content(format!("cannot be used: {error}")))?;
        let certified = CertifiedKey::new(certificate.certificates()?, loaded);
        if !key_may_match(&certified) {
            return Err(key.content("is not the key of the certificate in client_cert_file"));
        }
        Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))))
    }
}

/// Returns whether the private key may belong to the first certificate.
///
/// rustls cannot parse every certificate, such as X.509 version 1. The server judges such a
/// certificate, unless the certificate does not contain the public key.
fn key_may_match(certified: &CertifiedKey) -> bool {
    use rustls::{Error, InconsistentKeys};
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => true,
        Err(Error::InvalidCertificate(_)) => {
            let (Some(public), Some(certificate)) =
                (certified.key.public_key(), certified.cert.first())
            else {
                return true;
            };
            let mut parts = certificate.windows(public.len());
            parts.any(|part| part == public.as_ref())
        }
        Err(_) => false,
    }
}

/// Returns rustls' provider with AES-128 before AES-256, as browsers and Go offer. Servers without
/// a preference take the first. AES-128 costs less, mostly in memory: aws-lc's AES-GCM has 100 KiB
/// of code for each key length.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
            CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => 1,
            _ => 2,
        });
    provider
}

impl Default for TlsProfiles {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a TLS connection failed, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFailure {
    /// The peer's certificate was not accepted: `tls_certificate_error` of RFC 9209; otherwise
    /// `tls_protocol_error`.
    pub certificate: bool,
    pub reason: String,
}

impl TlsFailure {
    /// Looks for a TLS error in `error` and its sources.
    ///
    /// Applies after the handshake too: with TLS 1.3 a refusal of the client certificate arrives
    /// with the first read.
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::from(tls));
            }
            // `source()` of an `io::Error` skips its inner error.
            next = match error.downcast_ref::<io::Error>() {
                Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
                None => error.source(),
            };
        }
        None
    }
}

impl From<&rustls::Error> for TlsFailure {
    fn from(error: &rustls::Error) -> Self {
        use rustls::{AlertDescription as Alert, Error};
        let reason = match error {
            Error::InvalidCertificate(certificate) => certificate_reason(certificate),
            Error::InvalidMessage(_) => {
                format!("the server does not speak TLS ({error}): check the URL's scheme and port")
            }
            Error::PeerIncompatible(_) => {
                format!("no TLS version or cipher in common ({error}): TLS 1.2 or newer is needed")
            }
            Error::AlertReceived(alert) => match alert {
                Alert::NoApplicationProtocol => {
                    "it supports none of the offered HTTP versions (ALPN)".to_owned()
                }
                Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied => format!(
                    "it did not accept our client certificate ({alert:?}): check client_cert_file"
                ),
                Alert::UnrecognisedName => {
                    "it does not know the requested name: check server_name".to_owned()
                }
                _ => error.to_string(),
            },
            other => other.to_string(),
        };
        Self {
            certificate: matches!(error, Error::InvalidCertificate(_)),
            reason,
        }
    }
}

fn certificate_reason(error: &CertificateError) -> String {
    use CertificateError as Reason;
    let untrusted = match error {
        Reason::Expired | Reason::ExpiredContext { .. } => {
            return "certificate has expired, or this machine's clock is wrong".to_owned();
        }
        Reason::NotValidYet | Reason::NotValidYetContext { .. } => {
            return "certificate is not valid yet, or this machine's clock is wrong".to_owned();
        }
        Reason::NotValidForName => {
            return "certificate is for another name; set server_name if that name is right"
                .to_owned();
        }
        Reason::NotValidForNameContext {
            expected,
            presented,
        } => {
            return format!(
                "certificate is not for {} but for {}; set server_name if that name is right",
                expected.to_str(),
                list(presented)
            );
        }
        Reason::UnknownIssuer => {
            "signed by a CA that is not among the roots; set ca_file to that CA"
        }
        // The likely cause: a renewed CA whose old certificate is still in `ca_file`.
        Reason::BadSignature => {
            "signed with another key than the root of the same name; is ca_file out of date?"
        }
        Reason::BadEncoding => "it is damaged, or no X.509 certificate",
        Reason::Revoked => "its CA has revoked it",
        Reason::InvalidPurpose | Reason::InvalidPurposeContext { .. } => {
            "it is not meant for servers (extended key usage)"
        }
        Reason::UnhandledCriticalExtension => UNKNOWN_EXTENSION,
        Reason::Other(other) => other_reason(&format!("{:?}", other.0)),
        _ => BROKEN_RULE,
    };
    format!("certificate not trusted: {untrusted}")
}

const UNKNOWN_EXTENSION: &str = "it has an unsupported critical extension";
const BROKEN_RULE: &str = "it breaks a rule of RFC 5280";

/// Explains webpki errors that have no rustls variant, by their names.
fn other_reason(name: &str) -> &'static str {
    match name {
        "CaUsedAsEndEntity" => {
            "it is a CA's own certificate: the server needs a certificate that a CA has signed"
        }
        "EndEntityUsedAsCa" => "it is signed by a certificate that is not a CA's",
        "NameConstraintViolation" => "its CA may not sign for that name",
        "PathLenConstraintViolated" | "MaximumPathDepthExceeded" => {
            "there are more intermediate CAs than its CA allows"
        }
        "UnsupportedCertVersion" => "it is not of X.509 version 3",
        "UnsupportedCriticalExtension" => UNKNOWN_EXTENSION,
        _ => BROKEN_RULE,
    }
}

/// Lists at most five names: certificates of content networks hold hundreds.
fn list(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| plain_name(name)).collect();
    match &names[..] {
        [] => "no name at all".to_owned(),
        few if few.len() <= 5 => few.join(", "),
        [first @ .., _] => format!("{} and {} more", first[..4].join(", "), names.len() - 4),
    }
}

/// Returns `a.test` for rustls' `DnsName("a.test")`, and `192.0.2.1` for `IpAddress(192.0.2.1)`.
fn plain_name(name: &str) -> &str {
    let arguments = name.split_once('(').map(|(_kind, rest)| rest);
    let inner = arguments.and_then(|rest| rest.strip_suffix(')'));
    inner.map_or(name, |inner| inner.trim_matches('"'))
}

impl Cache {
    fn system_roots(&mut self) -> Result<Arc<RootCertStore>, TlsConfigError> {
        if let Some(roots) = &self.system_roots {
            return Ok(Arc::clone(roots));
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Some systems ship a root that does not parse, next to good ones.
        let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let first = found.errors.first();
            let detail = first.map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(TlsConfigError::NoSystemRoots { detail });
        }
        Ok(Arc::clone(self.system_roots.insert(Arc::new(roots))))
    }
}

struct PemFile {
    /// Name of the configuration key, for errors.
    key: &'static str,
    path: PathBuf,
    pem: Zeroizing<Vec<u8>>,
}

impl PemFile {
    fn read(key: &'static str, path: &Path) -> Result<Self, TlsConfigError> {
        let path = path.to_owned();
        match std::fs::read(&path) {
            Ok(pem) => Ok(Self {
                key,
                path,
                pem: Zeroizing::new(pem),
            }),
            Err(source) => Err(TlsConfigError::Read { key, path, source }),
        }
    }

    fn digest(&self) -> [u8; 32] {
        use sha2::Digest;
        sha2::Sha256::digest(&self.pem).into()
    }

    fn roots(&self) -> Result<RootCertStore, TlsConfigError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots
                .add(certificate)
                .map_err(|error| self.content(format!("holds a bad certificate: {error}")))?;
        }
        Ok(roots)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
        let found = CertificateDer::pem_slice_iter(&self.pem)
            .collect::<Result<Vec<_>, _>>()
            // Without the parser's reason, which quotes the file and so perhaps a private key.
            .map_err(|_| self.content("is damaged: not a series of whole PEM sections"))?;
        if found.is_empty() {
            return Err(self.content("holds no PEM certificate (-----BEGIN CERTIFICATE-----)"));
        }
        Ok(found)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
        PrivateKeyDer::from_pem_slice(&self.pem).map_err(|_| {
            self.content("holds no unencrypted PEM private key (-----BEGIN PRIVATE KEY-----)")
        })
    }

    fn content(&self, reason: impl Into<String>) -> TlsConfigError {
        TlsConfigError::Content {
            key: self.key,
            path: self.path.clone(),
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests;

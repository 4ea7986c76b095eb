//! TLS profiles: which roots are trusted and which client certificate is shown.
//!
//! Connectors with the same files share one rustls configuration and with it the resumption store, whatever
//! upstream, provider or worker they belong to. Verification is always on; nothing here can turn it off.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
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

/// The profiles in use. Cheap to clone; the clones share everything.
#[derive(Clone)]
pub struct TlsProfiles {
    shared: Arc<Shared>,
}

struct Shared {
    provider: Arc<CryptoProvider>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// Parsing the system's roots takes tens of milliseconds: done once, and only when somebody needs them.
    system_roots: Option<Arc<RootCertStore>>,
    /// By what the files held, so that a reload sees a changed file behind an unchanged path.
    /// Weak: a profile lives as long as somebody connects with it.
    profiles: HashMap<Fingerprint, Weak<ClientConfig>>,
}

/// SHA-256 of the CA file, of the certificate file and of the key file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Fingerprint {
    ca: Option<[u8; 32]>,
    client: Option<([u8; 32], [u8; 32])>,
}

/// What is wrong with a `tls` table: a start-up error.
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
        "no CA certificates found on this system{detail}: install its ca-certificates package or set ca_file"
    )]
    NoSystemRoots { detail: String },
    #[error("{0} is not a name that a certificate can be checked against: set server_name")]
    ServerName(String),
}

impl TlsProfiles {
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                provider: Arc::new(provider()),
                cache: Mutex::default(),
            }),
        }
    }

    /// The configuration for these files, read now. Blocks on the file system.
    pub fn get(&self, tls: &Tls) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let files = Files::read(tls)?;
        let fingerprint = files.fingerprint();
        let mut cache = self
            .shared
            .cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = cache.profiles.get(&fingerprint).and_then(Weak::upgrade) {
            return Ok(config);
        }
        let roots = match &files.ca {
            Some(file) => Arc::new(file.roots()?),
            None => cache.system_roots()?,
        };
        let config = Arc::new(self.build(roots, files.client)?);
        cache.profiles.retain(|_, known| known.strong_count() > 0);
        cache.profiles.insert(fingerprint, Arc::downgrade(&config));
        Ok(config)
    }

    fn build(
        &self,
        roots: Arc<RootCertStore>,
        client: Option<(PemFile, PemFile)>,
    ) -> Result<ClientConfig, TlsConfigError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.shared.provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let Some((certificate, key)) = client else {
            return Ok(builder.with_no_client_auth());
        };
        let loader = self.shared.provider.key_provider;
        let loaded = loader
            .load_private_key(key.private_key()?)
            .map_err(|error| key.content(format!("cannot be used: {error}")))?;
        let certified = CertifiedKey::new(certificate.certificates()?, loaded);
        if !fits(&certified) {
            return Err(key.content("is not the key of the certificate in client_cert_file"));
        }
        Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))))
    }
}

/// Returns whether the private key can be the one of the first certificate.
///
/// rustls cannot parse every certificate, X.509 version 1 among others. Such a certificate is sent
/// all the same, for the server to judge, unless the key's public half is nowhere in it.
fn fits(certified: &CertifiedKey) -> bool {
    use rustls::{Error, InconsistentKeys};
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => true,
        Err(Error::InvalidCertificate(_)) => {
            let (Some(public), Some(certificate)) =
                (certified.key.public_key(), certified.cert.first())
            else {
                return true;
            };
            certificate
                .windows(public.len())
                .any(|part| part == public.as_ref())
        }
        Err(_) => false,
    }
}

/// rustls' own, with AES-128 offered before AES-256, as browsers and Go do: servers without a preference of their own take the first, and
/// it costs less, most of all in memory, since aws-lc's AES-GCM is 100 KiB of code for each length of key.
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

impl fmt::Debug for TlsProfiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsProfiles").finish_non_exhaustive()
    }
}

/// Why a TLS connection failed, in words for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFailure {
    /// The peer's certificate was not accepted: RFC 9209's `tls_certificate_error`, otherwise `tls_protocol_error`.
    pub certificate: bool,
    pub reason: String,
}

impl TlsFailure {
    /// Looks for a TLS error in `error` and its sources.
    ///
    /// Useful after the handshake too: with TLS 1.3 a server's refusal of the client certificate arrives with
    /// the first read.
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::from(tls));
            }
            // An io::Error's source() is its inner error's source: the inner error itself would be skipped.
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
        if let Error::InvalidCertificate(certificate) = error {
            return Self {
                certificate: true,
                reason: certificate_reason(certificate),
            };
        }
        let reason = match error {
            Error::InvalidMessage(_) => format!(
                "what answers there does not speak TLS ({error}): check the URL's scheme and port"
            ),
            Error::PeerIncompatible(_) => {
                format!("no TLS version or cipher in common ({error}): TLS 1.2 or newer is needed")
            }
            Error::AlertReceived(Alert::NoApplicationProtocol) => {
                "it speaks none of the HTTP versions that were offered (ALPN)".to_owned()
            }
            Error::AlertReceived(
                alert @ (Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied),
            ) => format!(
                "it did not accept our client certificate ({alert:?}): check client_cert_file"
            ),
            Error::AlertReceived(Alert::UnrecognisedName) => {
                "it does not know the name that was asked for: check server_name".to_owned()
            }
            other => other.to_string(),
        };
        Self {
            certificate: false,
            reason,
        }
    }
}

fn certificate_reason(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "certificate not trusted: signed by a CA that is not among the roots; set ca_file to that CA"
                .to_owned()
        }
        // What a renewed CA looks like whose old certificate is still in ca_file.
        CertificateError::BadSignature => {
            "certificate not trusted: signed with another key than that of the CA of the same name \
             in the roots; is ca_file out of date?"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired, or this machine's clock is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate is not valid yet, or this machine's clock is wrong".to_owned()
        }
        CertificateError::NotValidForName => {
            "certificate is for another name; set server_name if that name is right".to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "certificate is not for {} but for {}; set server_name if that name is right",
            expected.to_str(),
            list(presented)
        ),
        CertificateError::BadEncoding => {
            "certificate not trusted: it is damaged, or no X.509 certificate".to_owned()
        }
        CertificateError::Revoked => "certificate not trusted: its CA has revoked it".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate not trusted: it is not meant for servers (extended key usage)".to_owned()
        }
        CertificateError::UnhandledCriticalExtension => {
            "certificate not trusted: it has a critical extension that is not known here".to_owned()
        }
        CertificateError::Other(other) => format!(
            "certificate not trusted: {}",
            other_reason(&format!("{:?}", other.0))
        ),
        _ => "certificate not trusted: it breaks a rule of RFC 5280".to_owned(),
    }
}

/// webpki's reasons that rustls has no variant for, known only by their names.
fn other_reason(name: &str) -> &'static str {
    match name {
        "CaUsedAsEndEntity" => {
            "it is a CA's own certificate: the server needs one that a CA has signed for it"
        }
        "EndEntityUsedAsCa" => "it is signed by a certificate that is not a CA's",
        "NameConstraintViolation" => "its CA may not sign for that name",
        "PathLenConstraintViolated" | "MaximumPathDepthExceeded" => {
            "there are more intermediate CAs than its CA allows"
        }
        "UnsupportedCertVersion" => "it is not of X.509 version 3",
        "UnsupportedCriticalExtension" => "it has a critical extension that is not known here",
        _ => "it breaks a rule of RFC 5280",
    }
}

/// At most five: certificates of content networks hold hundreds.
fn list(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| plain_name(name)).collect();
    match &names[..] {
        [] => "no name at all".to_owned(),
        few if few.len() <= 5 => few.join(", "),
        [first @ .., _] => format!("{} and {} more", first[..4].join(", "), names.len() - 4),
    }
}

/// `other.test` of rustls' `DnsName("other.test")`, and `192.0.2.1` of its `IpAddress(192.0.2.1)`.
fn plain_name(name: &str) -> &str {
    let inner = name
        .split_once('(')
        .and_then(|(_kind, rest)| rest.strip_suffix(')'));
    inner.map_or(name, |inner| inner.trim_matches('"'))
}

impl Cache {
    fn system_roots(&mut self) -> Result<Arc<RootCertStore>, TlsConfigError> {
        if let Some(roots) = &self.system_roots {
            return Ok(Arc::clone(roots));
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Some systems ship a root that does not parse; that is no reason to refuse the others.
        let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let detail = found
                .errors
                .first()
                .map(|error| format!(" ({error})"))
                .unwrap_or_default();
            return Err(TlsConfigError::NoSystemRoots { detail });
        }
        Ok(Arc::clone(self.system_roots.insert(Arc::new(roots))))
    }
}

struct Files {
    ca: Option<PemFile>,
    client: Option<(PemFile, PemFile)>,
}

struct PemFile {
    key: &'static str,
    path: PathBuf,
    pem: Zeroizing<Vec<u8>>,
}

impl Files {
    fn read(tls: &Tls) -> Result<Self, TlsConfigError> {
        let ca = match &tls.ca_file {
            Some(path) => Some(PemFile::read("ca_file", path)?),
            None => None,
        };
        let client = match &tls.client_cert {
            Some((certificate, key)) => Some((
                PemFile::read("client_cert_file", certificate)?,
                PemFile::read("client_key_file", key)?,
            )),
            None => None,
        };
        Ok(Self { ca, client })
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            ca: self.ca.as_ref().map(PemFile::digest),
            client: self
                .client
                .as_ref()
                .map(|(certificate, key)| (certificate.digest(), key.digest())),
        }
    }
}

impl PemFile {
    fn read(key: &'static str, path: &Path) -> Result<Self, TlsConfigError> {
        match std::fs::read(path) {
            Ok(pem) => Ok(Self {
                key,
                path: path.to_owned(),
                pem: Zeroizing::new(pem),
            }),
            Err(source) => Err(TlsConfigError::Read {
                key,
                path: path.to_owned(),
                source,
            }),
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
            // Without the parser's reason: it quotes the file, which may hold the key as well.
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

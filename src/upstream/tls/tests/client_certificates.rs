//! Client certificates that rustls cannot parse, sent to a server that accepts all of them.

use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ServerConfig;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls::{SupportedProtocolVersion, version};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::{Origin, Scheme};
use crate::upstream::connect::{Alpn, Connector, Destination};

/// X.509 version 1, signed with its own key, valid until 2126: made by `openssl req -new` and
/// `openssl x509 -req -signkey`, which write version 1 if no extension is requested.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBJjCBzQIUb5RdJZHA0uOOfc8NRHNimF+za9YwCgYIKoZIzj0EAwIwFTETMBEG
A1UEAwwKb2xkIGNsaWVudDAgFw0yNjExMjkyMzM1MTNaGA8yMTI2MTEwNTIzMzUx
M1owFTETMBEGA1UEAwwKb2xkIGNsaWVudDBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABK4apIHv/G1iWrD0CwblPVJzJ0lqGioLeAXUZfVf5Y8mFaO/4vBm5actHuaK
0EDwfEAnM589VaccdLW7+dLhFqYwCgYIKoZIzj0EAwIDSAAwRQIhAItB5CF3BY3l
AnM+5wss/CRPiwwoianjA/6UIvnCmyWDAiBsjo2nOz2EyMXaeCbjGUtm2N9BcGJ1
s1bCKqtniV48CQ==
-----END CERTIFICATE-----
";

const VERSION_1_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgnGRMIcCKOsOVrKBt
M63R2o4nJ71IXQ8gcvv/dzQthR+hRANCAASuGqSB7/xtYlqw9AsG5T1ScydJahoq
C3gF1GX1X+WPJhWjv+LwZuWnLR7mitBA8HxAJzOfPVWnHHS1u/nS4Ram
-----END PRIVATE KEY-----
";

/// Keeps the certificates that clients send, and checks that the client has the key.
#[derive(Debug)]
struct Recorder {
    seen: Mutex<Vec<Vec<u8>>>,
    public: SubjectPublicKeyInfoDer<'static>,
}

impl ClientCertVerifier for Recorder {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.seen.lock().unwrap().push(end_entity.to_vec());
        Ok(ClientCertVerified::assertion())
    }

    /// rustls verifies TLS 1.2 signatures with parsed certificates only.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature_with_raw_key(
            message,
            &self.public,
            signature,
            &algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Makes a certificate that is its own CA, and writes it as `ca.pem`.
fn certificate_for_localhost(
    folder: &TempDir,
) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    (certificate.der().clone(), key)
}

/// Starts a server that says "hello" to one client. Returns the server's port.
async fn start(
    folder: &TempDir,
    recorder: Arc<Recorder>,
    version: &'static SupportedProtocolVersion,
) -> u16 {
    let (certificate, key) = certificate_for_localhost(folder);
    let config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(recorder)
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = acceptor.accept(tcp).await.unwrap();
        tls.write_all(b"hello").await.unwrap();
        tls.shutdown().await.unwrap();
    });
    port
}

/// Writes both as files of `folder`.
fn tls(folder: &TempDir, certificate: &str, key: &str) -> Tls {
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("client.pem"), certificate).unwrap();
    std::fs::write(path("client.key"), key).unwrap();
    Tls {
        client_cert: Some((path("client.pem"), path("client.key"))),
        ca_file: Some(path("ca.pem")),
        ..Tls::default()
    }
}

#[tokio::test]
async fn a_version_1_client_certificate_is_sent() {
    let certificate = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
    let parsed = rustls::server::ParsedCertificate::try_from(&certificate);
    assert!(matches!(parsed, Err(Error::InvalidCertificate(_))));
    let key = PrivateKeyDer::from_pem_slice(VERSION_1_KEY.as_bytes()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    for version in [&version::TLS12, &version::TLS13] {
        let folder = TempDir::new().unwrap();
        let recorder = Arc::new(Recorder {
            seen: Mutex::default(),
            public: key.public_key().unwrap().into_owned(),
        });
        let port = start(&folder, Arc::clone(&recorder), version).await;
        let destination = Destination {
            origin: Origin {
                scheme: Scheme::Https,
                host: "localhost".to_owned(),
                port,
                authority: format!("localhost:{port}"),
            },
            connect_to: None,
            tls: tls(&folder, VERSION_1, VERSION_1_KEY),
            egress: None,
            alpn: Alpn::Http1,
        };
        let connector = Connector::new(destination, &TlsProfiles::new()).unwrap();
        let mut io = connector.connect(Duration::from_secs(10)).await.unwrap().io;
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello", "{version:?}");
        assert_eq!(*recorder.seen.lock().unwrap(), [&*certificate]);
    }
}

#[test]
fn a_key_that_is_not_in_an_unparsable_certificate_is_a_start_up_error() {
    let folder = TempDir::new().unwrap();
    certificate_for_localhost(&folder);
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let no_certificate = "-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n";
    for (certificate, key) in [(VERSION_1, &*other), (no_certificate, VERSION_1_KEY)] {
        let tls = tls(&folder, certificate, key);
        let error = TlsProfiles::new().get(&tls).unwrap_err().to_string();
        assert!(error.starts_with("client_key_file"), "{error}");
        assert!(
            error.ends_with("the certificate in client_cert_file"),
            "{error}"
        );
    }
}

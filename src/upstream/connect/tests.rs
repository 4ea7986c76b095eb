//! Tests over loopback against a TLS server with a new CA.

use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::HandshakeKind;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::secret::Secret;
use crate::testing::{closed_port, origin, read_head};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn alpn_selects_the_http_version() {
    let ca = Ca::new();
    let both = ca.server(&["localhost"]).alpn(&["h2", "http/1.1"]).start();
    let old = ca.server(&["localhost"]).alpn(&["http/1.1"]).start();
    let silent = ca.server(&["localhost"]).start();
    for (server, alpn, http2) in [
        (&both, Alpn::Both, true),
        (&both, Alpn::Http2, true),
        (&both, Alpn::Http1, false),
        (&old, Alpn::Both, false),
        (&silent, Alpn::Both, false),
    ] {
        let mut destination = ca.destination(*server);
        destination.alpn = alpn;
        let mut connected = connect(destination).await.unwrap();
        assert_eq!(connected.http2, http2, "{server:?} {alpn:?}");
        assert_eq!(hello(&mut connected.io).await, "hello");
    }
}

#[tokio::test]
async fn required_http2_without_alpn_h2_is_an_error() {
    let ca = Ca::new();
    let old = ca.server(&["localhost"]).alpn(&["http/1.1"]).start();
    let silent = ca.server(&["localhost"]).start();
    for server in [old, silent] {
        let mut destination = ca.destination(server);
        destination.alpn = Alpn::Http2;
        let failure = tls_failure(connect(destination).await);
        assert!(!failure.certificate);
        assert!(failure.reason.contains("ALPN"), "{failure:?}");
    }
}

#[tokio::test]
async fn with_alpn_restricts_a_connector() {
    let ca = Ca::new();
    let server = ca.server(&["localhost"]).alpn(&["h2", "http/1.1"]).start();
    let connector = Connector::new(ca.destination(server), &TlsProfiles::new()).unwrap();
    assert!(connector.connect(LIMIT).await.unwrap().http2);
    let restricted = connector.with_alpn(Alpn::Http1);
    assert!(!restricted.connect(LIMIT).await.unwrap().http2);
}

#[tokio::test]
async fn plain_http_uses_the_configured_version() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (alpn, http2) in [
        (Alpn::Http1, false),
        (Alpn::Both, false),
        (Alpn::Http2, true),
    ] {
        let mut destination = plain(address);
        destination.alpn = alpn;
        let connected = connect(destination).await.unwrap();
        assert!(matches!(connected.io, Stream::Plain(_)));
        assert_eq!(connected.http2, http2);
    }
}

#[tokio::test]
async fn sockets_have_nodelay_and_keepalive() {
    let ca = Ca::new();
    let connected = connect(ca.destination(ca.server(&["localhost"]).start()))
        .await
        .unwrap();
    let Stream::Tls(tls) = &connected.io else {
        panic!("no TLS");
    };
    let tcp = tls.get_ref().0.tcp();
    assert!(tcp.nodelay().unwrap());
    assert!(socket2::SockRef::from(tcp).keepalive().unwrap());
    assert!(connected.io.is_write_vectored());
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_not_trusted() {
    let ca = Ca::new();
    let server = ca.server(&["localhost"]).start();
    for (other, words) in [
        (Ca::named("another CA"), "set ca_file to that CA"),
        (Ca::new(), "is ca_file out of date?"),
    ] {
        let failure = tls_failure(connect(other.destination(server)).await);
        assert!(failure.certificate);
        assert!(failure.reason.contains("not trusted"), "{failure:?}");
        assert!(failure.reason.contains(words), "{failure:?}");
    }
}

#[tokio::test]
async fn system_roots_do_not_trust_a_new_ca() {
    let ca = Ca::new();
    let mut destination = ca.destination(ca.server(&["localhost"]).start());
    destination.tls.ca_file = None;
    match Connector::new(destination, &TlsProfiles::new()) {
        Ok(connector) => assert!(tls_failure(connector.connect(LIMIT).await).certificate),
        // A container without ca-certificates.
        Err(error) => assert!(matches!(error, TlsConfigError::NoSystemRoots { .. })),
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_trusted() {
    let ca = Ca::new();
    let server = ca.server(&["other.test", "10.1.2.3"]).start();
    let failure = tls_failure(connect(ca.destination(server)).await);
    assert!(failure.certificate);
    assert!(failure.reason.contains("localhost"), "{failure:?}");
    assert!(failure.reason.contains("other.test"), "{failure:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_not_trusted() {
    let ca = Ca::new();
    let server = ca.server(&["localhost"]).expired().start();
    let failure = tls_failure(connect(ca.destination(server)).await);
    assert!(failure.certificate);
    assert!(failure.reason.contains("expired"), "{failure:?}");
}

#[tokio::test]
async fn server_name_replaces_the_name_that_is_checked() {
    let ca = Ca::new();
    let server = ca.server(&["inner.test"]).start();
    let mut destination = ca.destination(server);
    destination.tls.server_name = Some("inner.test".to_owned());
    let mut connected = connect(destination).await.unwrap();
    assert_eq!(hello(&mut connected.io).await, "hello");
}

#[tokio::test]
async fn an_ip_address_can_be_the_checked_name() {
    let ca = Ca::new();
    let server = ca.server(&["127.0.0.1"]).start();
    let mut destination = ca.destination(server);
    destination.origin = origin(Scheme::Https, "127.0.0.1", server.port());
    connect(destination).await.unwrap();
}

#[tokio::test]
async fn connect_to_replaces_only_the_dialled_address() {
    let ca = Ca::new();
    let server = ca.server(&["api.example.invalid"]).start();
    let mut destination = ca.destination(server);
    destination.origin = origin(Scheme::Https, "api.example.invalid", 443);
    destination.connect_to = Some(("127.0.0.1".to_owned(), server.port()));
    connect(destination.clone()).await.unwrap();

    destination.origin = origin(Scheme::Https, "another.example.invalid", 443);
    assert!(tls_failure(connect(destination).await).certificate);
}

#[tokio::test]
async fn a_client_certificate_is_sent() {
    let ca = Ca::new();
    let server = ca
        .server(&["localhost"])
        .demand_client_certificate()
        .start();
    let mut destination = ca.destination(server);
    destination.tls.client_cert = Some(ca.client_certificate());
    let mut connected = connect(destination).await.unwrap();
    assert_eq!(hello(&mut connected.io).await, "hello");
}

/// With TLS 1.3 the refusal arrives after the handshake.
#[tokio::test]
async fn a_missing_client_certificate_fails_the_first_read() {
    let ca = Ca::new();
    let server = ca
        .server(&["localhost"])
        .demand_client_certificate()
        .start();
    let mut connected = connect(ca.destination(server)).await.unwrap();
    let error = connected.io.read(&mut [0; 16]).await.unwrap_err();
    let failure = TlsFailure::find(&error).unwrap();
    assert!(!failure.certificate);
    assert!(failure.reason.contains("client_cert_file"), "{failure:?}");
}

#[tokio::test]
async fn a_session_resumes_from_another_connector() {
    let ca = Ca::new();
    let server = ca.server(&["localhost"]).alpn(&["h2", "http/1.1"]).start();
    let profiles = TlsProfiles::new();
    let first = Connector::new(ca.destination(server), &profiles).unwrap();
    let second = first.with_alpn(Alpn::Http1);
    let third = Connector::new(ca.destination(server), &profiles).unwrap();
    let stranger = Connector::new(ca.destination(server), &TlsProfiles::new()).unwrap();
    for (connector, resumed) in [
        (first, false),
        (second, true),
        (third, true),
        (stranger, false),
    ] {
        let mut connected = connector.connect(LIMIT).await.unwrap();
        // Session tickets arrive with the first read.
        assert_eq!(hello(&mut connected.io).await, "hello");
        let kind = handshake_kind(&connected.io);
        assert_eq!(kind == Some(HandshakeKind::Resumed), resumed, "{kind:?}");
    }
}

#[tokio::test]
async fn a_refused_connect_names_the_peer() {
    let address = closed_port().await;
    let error = connect(plain(address)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_unresolved() {
    let mut destination = plain("127.0.0.1:80".parse().unwrap());
    // The resolver itself rejects a label over 63 bytes, so no query leaves this machine.
    let name = format!("{}.invalid", "x".repeat(64));
    destination.origin = origin(Scheme::Http, &name, 80);
    let error = connect(destination).await.unwrap_err();
    assert!(matches!(error, ConnectError::Resolve { .. }), "{error}");
    assert!(error.to_string().contains(&format!("{name}:80")));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_without_an_answer_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ca = Ca::new();
    let destination = ca.destination(listener.local_addr().unwrap());
    let error = connect(destination).await.unwrap_err();
    assert!(
        matches!(
            &error,
            ConnectError::Timeout { stage: Stage::Handshake, limit, .. } if *limit == LIMIT
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_cut_off_handshake_is_a_closed_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ca = Ca::new();
    let destination = ca.destination(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        // Reads first, because closing with unread bytes would be a reset.
        tcp.read_u8().await.unwrap();
    });
    let error = connect(destination).await.unwrap_err();
    assert!(matches!(error, ConnectError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_peer_without_tls_is_a_protocol_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ca = Ca::new();
    let destination = ca.destination(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        pending::<()>().await;
    });
    let failure = tls_failure(connect(destination).await);
    assert!(!failure.certificate);
    assert!(failure.reason.contains("does not speak TLS"), "{failure:?}");
}

#[tokio::test]
async fn records_that_arrive_together_are_read_together() {
    const LONG: &[u8] = &[b'x'; 20_000];
    const FEW: &[&[u8]] = &[b"head", b"and", b"body"];
    const MUCH: &[&[u8]] = &[b"head", LONG, b"end"];
    for (records, length) in [(FEW, 11), (MUCH, 20_007)] {
        let ca = Ca::new();
        let server = ca.server(&["localhost"]).says(records).start();
        let mut io = connect(ca.destination(server)).await.unwrap().io;
        let (mut buffer, mut reads) = (vec![0; 64 * 1024], 1);
        // The server writes all records before another task runs.
        let mut read = io.read(&mut buffer).await.unwrap();
        while read < length {
            read += io.read(&mut buffer[read..]).await.unwrap();
            reads += 1;
        }
        assert_eq!(buffer[..length], records.concat());
        // The next read continues after a long read.
        assert!(reads <= 1 + length / 8_000, "{reads} reads of {length}");
    }
}

#[tokio::test]
async fn an_egress_proxy_opens_the_tunnel() {
    let ca = Ca::new();
    let server = ca.server(&["api.example.invalid"]).start();
    let (proxy, request) = egress_proxy(Some(server), "HTTP/1.1 200 OK\r\nVia: x\r\n\r\n").await;
    let mut destination = ca.destination(server);
    destination.origin = origin(Scheme::Https, "api.example.invalid", 443);
    destination.egress = Some(EgressProxy {
        authorization: Some(Secret::new("Basic dTpw")),
        ..proxy
    });
    let mut connected = connect(destination).await.unwrap();
    assert_eq!(hello(&mut connected.io).await, "hello");
    assert_eq!(
        request.await.unwrap(),
        "CONNECT api.example.invalid:443 HTTP/1.1\r\nHost: api.example.invalid:443\r\n\
         Proxy-Authorization: Basic dTpw\r\n\r\n"
    );
}

#[tokio::test]
async fn an_interim_response_of_the_egress_proxy_is_skipped() {
    let ca = Ca::new();
    let server = ca.server(&["localhost"]).start();
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    let (proxy, _request) = egress_proxy(Some(server), answer).await;
    let mut destination = ca.destination(server);
    destination.egress = Some(proxy);
    connect(destination).await.unwrap();
}

#[tokio::test]
async fn an_egress_refusal_names_the_status_and_no_secret() {
    for (answer, expected, words) in [
        ("HTTP/1.1 407 Auth\r\n\r\n", Some(407), "user name"),
        ("HTTP/1.1 503 Busy\r\n\r\n", Some(503), "503"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", None, "not HTTP"),
        ("HTTP/1.1 200 OK\r\n\r\nsurprise", None, "bytes of its own"),
    ] {
        let (proxy, _request) = egress_proxy(None, answer).await;
        let mut destination = plain("127.0.0.1:1".parse().unwrap());
        destination.egress = Some(EgressProxy {
            authorization: Some(Secret::new("Basic hunter2")),
            ..proxy
        });
        let error = connect(destination).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(
            matches!(error, ConnectError::Egress { status, .. } if status == expected),
            "{text}"
        );
        assert!(
            text.contains(words) && text.contains("egress proxy"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn an_egress_proxys_response_head_is_bounded() {
    let answer: &str = Box::leak(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(9000)).into());
    let (proxy, _request) = egress_proxy(None, answer).await;
    let mut destination = plain("127.0.0.1:1".parse().unwrap());
    destination.egress = Some(proxy);
    let error = connect(destination).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Egress { status: None, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn an_unreachable_egress_proxy_is_named() {
    let mut destination = plain("127.0.0.1:1".parse().unwrap());
    destination.egress = Some(EgressProxy {
        host: "127.0.0.1".to_owned(),
        port: closed_port().await.port(),
        authorization: None,
    });
    let error = connect(destination).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Refused { peer, .. } if peer.egress));
    assert!(error.to_string().contains("egress proxy"), "{error}");
}

#[test]
fn bad_tls_files_are_start_up_errors_that_name_the_file() {
    let ca = Ca::new();
    let other = Ca::new();
    let missing = ca.path("missing.pem");
    let garbage = ca.write("garbage.pem", "hunter2");
    let torn = ca.write("torn.pem", "-----BEGIN CERTIFICATE-----\nhunter2");
    let (certificate, key) = ca.client_certificate();
    let (_, foreign_key) = other.client_certificate();
    let with_ca = |path: &PathBuf| Tls {
        ca_file: Some(path.clone()),
        ..Tls::default()
    };
    let with_client = |certificate: &PathBuf, key: &PathBuf| Tls {
        ca_file: Some(ca.path("ca.pem")),
        client_cert: Some((certificate.clone(), key.clone())),
        ..Tls::default()
    };
    for (tls, key, file) in [
        (with_ca(&missing), "ca_file", &missing),
        (with_ca(&garbage), "ca_file", &garbage),
        (with_ca(&torn), "ca_file", &torn),
        (with_client(&garbage, &key), "client_cert_file", &garbage),
        (
            with_client(&certificate, &missing),
            "client_key_file",
            &missing,
        ),
        (
            with_client(&certificate, &garbage),
            "client_key_file",
            &garbage,
        ),
        (
            with_client(&certificate, &foreign_key),
            "client_key_file",
            &foreign_key,
        ),
    ] {
        let error = TlsProfiles::new().get(&tls).unwrap_err().to_string();
        assert!(error.starts_with(key), "{error}");
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn an_invalid_server_name_is_a_start_up_error() {
    let ca = Ca::new();
    let mut destination = ca.destination("127.0.0.1:1".parse().unwrap());
    destination.tls.server_name = Some("not a name".to_owned());
    let connector = Connector::new(destination, &TlsProfiles::new());
    let error = connector.err().unwrap();
    assert!(matches!(error, TlsConfigError::ServerName(_)), "{error}");
}

#[test]
fn profiles_are_shared_by_content_and_forgotten_when_unused() {
    let ca = Ca::new();
    let profiles = TlsProfiles::new();
    let tls = Tls {
        ca_file: Some(ca.path("ca.pem")),
        ..Tls::default()
    };
    let named = Tls {
        server_name: Some("inner.test".to_owned()),
        ..tls.clone()
    };
    let first = profiles.get(&tls).unwrap();
    assert!(Arc::ptr_eq(&first, &profiles.get(&named).unwrap()));

    let other = Ca::new();
    std::fs::copy(other.path("ca.pem"), ca.path("ca.pem")).unwrap();
    let changed = profiles.get(&tls).unwrap();
    assert!(!Arc::ptr_eq(&first, &changed));

    let old = Arc::downgrade(&first);
    drop(first);
    assert!(old.upgrade().is_none());
}

async fn connect(destination: Destination) -> Result<Connected, ConnectError> {
    let connector = Connector::new(destination, &TlsProfiles::new()).unwrap();
    connector.connect(LIMIT).await
}

fn tls_failure(result: Result<Connected, ConnectError>) -> TlsFailure {
    match result {
        Err(ConnectError::Tls { failure, .. }) => failure,
        other => panic!("not a TLS error: {other:?}"),
    }
}

async fn hello(io: &mut Stream) -> String {
    let mut text = [0; 5];
    io.read_exact(&mut text).await.unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

fn handshake_kind(io: &Stream) -> Option<HandshakeKind> {
    match io {
        Stream::Plain(_) => None,
        Stream::Tls(tls) => tls.get_ref().1.handshake_kind(),
    }
}

fn plain(address: SocketAddr) -> Destination {
    Destination {
        origin: origin(Scheme::Http, &address.ip().to_string(), address.port()),
        connect_to: None,
        tls: Tls::default(),
        egress: None,
        alpn: Alpn::Http1,
    }
}

/// Reads a request head, answers, and joins the client to `target`. The second value receives the
/// head.
async fn egress_proxy(
    target: Option<SocketAddr>,
    answer: &'static str,
) -> (EgressProxy, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = EgressProxy {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
        authorization: None,
    };
    let request = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let head = read_head(&mut tcp).await.unwrap();
        tcp.write_all(answer.as_bytes()).await.unwrap();
        tokio::spawn(async move {
            let Some(target) = target else {
                return pending().await;
            };
            let mut server = TcpStream::connect(target).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut tcp, &mut server).await;
        });
        head
    });
    (proxy, request)
}

struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Ca {
    fn new() -> Self {
        Self::named("a CA made on the spot")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ca = Self {
            issuer,
            folder: TempDir::new().unwrap(),
        };
        ca.write("ca.pem", &ca.issuer.pem());
        ca
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn server(&self, names: &[&str]) -> Server<'_> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Server {
            ca: self,
            params: CertificateParams::new(names).unwrap(),
            alpn: Vec::new(),
            mtls: false,
            records: &[b"hello"],
        }
    }

    fn client_certificate(&self) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            self.write("client.pem", &certificate.pem()),
            self.write("client.key", &key.serialize_pem()),
        )
    }

    /// `https://localhost`, dialled at `server`.
    fn destination(&self, server: SocketAddr) -> Destination {
        Destination {
            origin: origin(Scheme::Https, "localhost", server.port()),
            connect_to: None,
            tls: Tls {
                ca_file: Some(self.path("ca.pem")),
                ..Tls::default()
            },
            egress: None,
            alpn: Alpn::Both,
        }
    }
}

/// Builds a TLS server that says "hello" on each connection and keeps the connection.
struct Server<'a> {
    ca: &'a Ca,
    params: CertificateParams,
    alpn: Vec<Vec<u8>>,
    mtls: bool,
    records: &'static [&'static [u8]],
}

impl Server<'_> {
    fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        self
    }

    fn expired(mut self) -> Self {
        self.params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        self.params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self
    }

    fn demand_client_certificate(mut self) -> Self {
        self.mtls = true;
        self
    }

    /// Each in a separate record and segment.
    fn says(mut self, records: &'static [&'static [u8]]) -> Self {
        self.records = records;
        self
    }

    fn start(self) -> SocketAddr {
        let records = self.records;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(self.config()));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut tls = acceptor.accept(tcp).await?;
                    for record in records {
                        tls.write_all(record).await?;
                        tls.flush().await?;
                    }
                    tls.read(&mut [0; 16]).await
                });
            }
        });
        address
    }

    fn config(self) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if self.mtls {
            let mut roots = RootCertStore::empty();
            roots.add(self.ca.issuer.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = KeyPair::generate().unwrap();
        let certificate = self.params.signed_by(&key, &self.ca.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = self.alpn;
        config
    }
}

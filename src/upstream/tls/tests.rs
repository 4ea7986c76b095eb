mod client_certificates;

use std::fmt;

use rustls::SupportedCipherSuite;

use super::*;

#[test]
fn system_roots_are_loaded_only_when_needed() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, params.self_signed(&key).unwrap().pem()).unwrap();
    let profiles = TlsProfiles::new();
    let loaded = || {
        let cache = profiles.cache.lock().unwrap();
        cache.system_roots.is_some()
    };

    let tls = Tls {
        ca_file: Some(ca_file),
        ..Tls::default()
    };
    profiles.get(&tls).unwrap();
    assert!(!loaded());

    // A container without ca-certificates has none.
    let found = profiles.get(&Tls::default()).is_ok();
    assert_eq!(loaded(), found);
}

#[test]
fn aes_128_is_offered_first_and_no_suite_is_missing() {
    let offered: Vec<_> = provider()
        .cipher_suites
        .iter()
        .map(SupportedCipherSuite::suite)
        .collect();
    assert_eq!(offered[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
    let rest: Vec<_> = offered
        .iter()
        .filter(|suite| !format!("{suite:?}").starts_with("TLS13"))
        .collect();
    assert_eq!(
        *rest[0],
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    );
    let default = aws_lc_rs::default_provider().cipher_suites;
    assert_eq!(offered.len(), default.len());
    assert!(default.iter().all(|suite| offered.contains(&suite.suite())));
}

#[test]
fn long_name_lists_are_shortened() {
    let names: Vec<_> = (1..=6).map(|n| n.to_string()).collect();
    assert_eq!(list(&[]), "no name at all");
    assert_eq!(list(&names[..5]), "1, 2, 3, 4, 5");
    assert_eq!(list(&names), "1, 2, 3, 4 and 2 more");
    let debug = ["DnsName(\"other.test\")", "IpAddress(192.0.2.1)", "c.test"];
    assert_eq!(
        list(&debug.map(str::to_owned)),
        "other.test, 192.0.2.1, c.test"
    );
}

#[test]
fn certificate_errors_are_explained() {
    #[derive(Debug)]
    struct CaUsedAsEndEntity;
    impl fmt::Display for CaUsedAsEndEntity {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("x")
        }
    }
    impl StdError for CaUsedAsEndEntity {}
    let other = rustls::OtherError(Arc::new(CaUsedAsEndEntity));
    for (error, words) in [
        (
            CertificateError::Other(other),
            "it is a CA's own certificate",
        ),
        (CertificateError::Revoked, "revoked"),
        (CertificateError::BadEncoding, "damaged"),
        (
            CertificateError::UnhandledCriticalExtension,
            "critical extension",
        ),
        (CertificateError::UnknownRevocationStatus, "RFC 5280"),
    ] {
        let reason = certificate_reason(&error);
        assert!(reason.contains(words), "{reason}");
        assert!(!reason.contains("Other"), "{reason}");
    }
}

#[test]
fn a_tls_error_is_found_inside_nested_io_errors() {
    let alert = rustls::AlertDescription::CertificateRequired;
    let inner = io::Error::other(rustls::Error::AlertReceived(alert));
    let outer = io::Error::other(inner);
    assert!(TlsFailure::find(&outer).is_some_and(|failure| !failure.certificate));
    assert_eq!(TlsFailure::find(&io::Error::other("no")), None);
}

//! The RFCs' test vectors, and keys and signatures that OpenSSL makes and verifies.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use super::*;

/// The claims that all examples of RFC 7515 §A sign.
const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

/// RFC 7515 §A.2.1.
const RSA_JWK: &str = r#"{"kty":"RSA","kid":"2010-12-29","e":"AQAB",
"n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
"d":"Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ",
"p":"4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc",
"q":"uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc",
"dp":"BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12Sk3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTwrA86rZtu5Mbr1C1XsmvkxHQAdYo0",
"dq":"h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjeeHcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd2w9cjz3_-kyNlxAr2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU",
"qi":"IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_QJQ3ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-ZQwVK0JKSHuLFkuQ3U"}"#;

/// RFC 7515 §A.3.1.
const EC_JWK: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#;

/// RFC 8037 §A.1.
const ED25519_JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

#[test]
fn signatures_match_the_rfcs() {
    for (jwk, alg, input, signature) in [
        // RFC 7515 §A.1
        (
            r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#,
            Some(Alg::HS256),
            format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{CLAIMS}"),
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        // §A.2
        (
            RSA_JWK,
            None,
            format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}"),
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        // RFC 8037 §A.4
        (
            ED25519_JWK,
            None,
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ] {
        let key = SigningKey::parse(jwk, alg).unwrap();
        let made = key.signature(input.as_bytes()).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(made), signature, "{:?}", key.alg);
    }
}

#[test]
fn a_jwt_has_its_header_its_claims_and_a_signature_over_both() {
    let key = SigningKey::parse(EC_JWK, None).unwrap();
    assert_eq!(key.alg, Alg::ES256);
    let token = key
        .sign(&json!({"alg": "ES256"}), &json!({"n": 1, "s": "测"}))
        .unwrap();
    let parts: Vec<_> = token.expose().split('.').collect();
    let [header, claims, signature] = parts[..] else {
        panic!("{} parts", parts.len());
    };
    let decode = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    assert_eq!(decode(header), r#"{"alg":"ES256"}"#);
    assert_eq!(decode(claims), r#"{"n":1,"s":"测"}"#);
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let Key::Ec(pair) = &key.key else { panic!() };
    let public = signature::UnparsedPublicKey::new(
        &signature::ECDSA_P256_SHA256_FIXED,
        pair.public_key().as_ref(),
    );
    let message = format!("{header}.{claims}");
    public.verify(message.as_bytes(), &signature).unwrap();
    assert!(public.verify(b"something else", &signature).is_err());
}

#[test]
fn key_errors_do_not_quote_the_key() {
    let pem = |label: &str| format!("-----BEGIN {label}-----\naHVudGVyMg==\n-----END {label}-----");
    for (text, alg, message) in [
        ("hunter2".to_owned(), None, "is neither a PEM private key"),
        (
            "hunter2".to_owned(),
            Some(Alg::RS256),
            "is neither a PEM private key",
        ),
        (pem("CERTIFICATE"), None, "holds no private key"),
        (pem("ENCRYPTED PRIVATE KEY"), None, "is encrypted"),
        (
            pem("PRIVATE KEY"),
            None,
            "is a private key that cannot be used",
        ),
        (
            pem("RSA PRIVATE KEY"),
            None,
            "is a private key that cannot be used",
        ),
        (
            pem("EC PRIVATE KEY"),
            None,
            "is no EC key on P-256, P-384 or P-521",
        ),
        // A key in the wrong place must not become a shared secret.
        (
            pem("PRIVATE KEY"),
            Some(Alg::HS256),
            "is a private key that cannot be used",
        ),
        (
            "{\"hunter2\"".to_owned(),
            None,
            "is neither a PEM private key",
        ),
        (
            r#"{"kty":"hunter2"}"#.to_owned(),
            None,
            "is a JWK of another kind",
        ),
        (
            r#"{"kty":"oct","k":"aHVudGVyMg"}"#.to_owned(),
            None,
            "is neither",
        ),
        (
            r#"{"kty":"EC","crv":"hunter2"}"#.to_owned(),
            None,
            "is no EC key on",
        ),
        (
            r#"{"kty":"OKP","crv":"Ed25519","d":"hunter2!"}"#.to_owned(),
            None,
            "is a JWK without a usable `d`",
        ),
        (
            EC_JWK.to_owned(),
            Some(Alg::ES384),
            "is an EC key on P-256, which cannot sign with ES384",
        ),
        (
            ED25519_JWK.to_owned(),
            Some(Alg::RS256),
            "is an Ed25519 key, which cannot sign with RS256",
        ),
        (
            RSA_JWK.to_owned(),
            Some(Alg::HS256),
            "is an RSA key, which cannot sign with HS256",
        ),
    ] {
        let error = SigningKey::parse(&text, alg).unwrap_err();
        assert!(error.starts_with(message), "{error} for {message}");
        assert!(
            !error.contains("hunter2") && !error.contains("aHVudGVyMg"),
            "{error}"
        );
    }
}

#[test]
fn a_jwk_may_state_its_algorithm_and_its_id() {
    let stating = RSA_JWK.replacen('{', r#"{"alg":"PS384","#, 1);
    let key = SigningKey::parse(&stating, None).unwrap();
    assert_eq!(
        (key.alg, key.kid.as_deref()),
        (Alg::PS384, Some("2010-12-29"))
    );
    let key = SigningKey::parse(&stating, Some(Alg::RS512)).unwrap();
    assert_eq!(key.alg, Alg::RS512);
}

/// Runs OpenSSL and returns its output; `None` if OpenSSL is not installed.
fn openssl(arguments: &[&str]) -> Option<Vec<u8>> {
    let done = Command::new("openssl")
        .args(arguments)
        .stderr(Stdio::null())
        .output();
    match done {
        Ok(output) => {
            assert!(output.status.success(), "openssl {arguments:?}");
            Some(output.stdout)
        }
        Err(_) => None,
    }
}

/// Converts a signature of RFC 7518 §3.4, two concatenated numbers, to OpenSSL's DER SEQUENCE.
fn ecdsa_der(signature: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap();
        let mut digits = bytes[start..].to_vec();
        if digits[0] >= 0x80 {
            digits.insert(0, 0);
        }
        [vec![2, digits.len() as u8], digits].concat()
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let body = [integer(r), integer(s)].concat();
    match body.len() {
        length @ ..128 => [vec![0x30, length as u8], body].concat(),
        length => [vec![0x30, 0x81, length as u8], body].concat(),
    }
}

fn openssl_verifies(dir: &Path, alg: Alg, public: &str, message: &[u8], signature: &[u8]) {
    let (input, signed) = (dir.join("message"), dir.join("signature"));
    std::fs::write(&input, message).unwrap();
    let der = matches!(alg, Alg::ES256 | Alg::ES384 | Alg::ES512).then(|| ecdsa_der(signature));
    std::fs::write(&signed, der.as_deref().unwrap_or(signature)).unwrap();
    let (input, signed) = (input.to_str().unwrap(), signed.to_str().unwrap());
    let name = format!("{alg:?}");
    if alg == Alg::EdDSA {
        openssl(&[
            "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", input, "-sigfile",
            signed,
        ]);
        return;
    }
    let digest = format!("-sha{}", &name[2..]);
    let mut arguments = vec!["dgst", &digest, "-verify", public, "-signature", signed];
    if name.starts_with("PS") {
        // RFC 7518 §3.5: the salt is as long as the hash.
        arguments.extend([
            "-sigopt",
            "rsa_padding_mode:pss",
            "-sigopt",
            "rsa_pss_saltlen:digest",
        ]);
    }
    arguments.push(input);
    openssl(&arguments);
}

#[test]
fn openssl_verifies_signatures_made_with_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    if openssl(&["version"]).is_none() {
        eprintln!("skipped: there is no openssl");
        return;
    }
    let (pkcs8, other, public) = (at("pkcs8.pem"), at("other.pem"), at("public.pem"));
    let rsa = [
        Alg::RS256,
        Alg::RS384,
        Alg::RS512,
        Alg::PS256,
        Alg::PS384,
        Alg::PS512,
    ];
    for (kind, algs) in [
        (&["RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..], &rsa[..]),
        (
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            &[Alg::ES256],
        ),
        (
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            &[Alg::ES384],
        ),
        (
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
            &[Alg::ES512],
        ),
        (&["ED25519"], &[Alg::EdDSA]),
    ] {
        openssl(&[&["genpkey", "-out", &pkcs8, "-algorithm"], kind].concat());
        openssl(&["pkey", "-in", &pkcs8, "-pubout", "-out", &public]);
        // PKCS#1 and SEC1; Ed25519 keys are PKCS#8 only.
        match kind {
            ["ED25519"] => drop(std::fs::copy(&pkcs8, &other).unwrap()),
            _ => drop(openssl(&[
                "pkey",
                "-in",
                &pkcs8,
                "-traditional",
                "-out",
                &other,
            ])),
        }
        for file in [&pkcs8, &other] {
            let pem = std::fs::read_to_string(file).unwrap();
            assert_eq!(SigningKey::parse(&pem, None).unwrap().alg, algs[0]);
            for alg in algs {
                let key = SigningKey::parse(&pem, Some(*alg)).unwrap();
                let signature = key.signature(b"what is signed").unwrap();
                openssl_verifies(dir.path(), *alg, &public, b"what is signed", &signature);
            }
        }
        let pem = std::fs::read_to_string(&pkcs8).unwrap();
        let der = openssl(&["pkey", "-in", &pkcs8, "-pubout", "-outform", "DER"]).unwrap();
        assert_eq!(
            SigningKey::parse(&pem, None).unwrap().public_der().unwrap(),
            der
        );
    }
}

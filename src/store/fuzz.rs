//! Fuzz target: what is found in a store's folder.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::drops::Drop;
use super::record::{decode, encode, is_outdated};
use super::{Keys, Saved};

/// A file's name, a line break, and the file; once more with the file as what was sealed.
pub fn record(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n');
    let (name, text) = at.map_or((&b"name"[..], data), |at| (&data[..at], &data[at + 1..]));
    let Ok(name) = std::str::from_utf8(name) else {
        return;
    };
    let _ = Drop::parse(Path::new(name), (0, 0));
    let clear = Keys::new(Vec::new());
    let sealing = Keys::new(vec![Zeroizing::new([7; 32]), Zeroizing::new([8; 32])]);
    if let Ok(saved) = decode(&clear, name, text) {
        again(&clear, name, &saved);
        again(&sealing, name, &saved);
    }
    // Nothing that was not sealed is taken where there is a key.
    assert!(decode(&sealing, name, text).is_err());
    let _ = is_outdated(&sealing, name, text);
    if let Some(sealed) = sealing.seal(name, text) {
        let file = serde_json::json!({
            "version": 1,
            "key": name,
            "sealed": {
                "nonce": BASE64_STANDARD.encode(sealed.nonce),
                "ciphertext": BASE64_STANDARD.encode(sealed.ciphertext),
            },
        });
        let file = file.to_string();
        if let Ok(saved) = decode(&sealing, name, file.as_bytes()) {
            again(&sealing, name, &saved);
        }
        assert!(decode(&sealing, "another", file.as_bytes()).is_err() || name == "another");
    }
}

/// What was read can be written, and reads the same.
fn again(keys: &Keys, name: &str, saved: &Saved) {
    let written = encode(keys, name, saved);
    let Ok(written) = written else {
        panic!("it cannot be written");
    };
    match decode(keys, name, &written) {
        Ok(read) => assert!(read == *saved),
        Err(reason) => panic!("{reason}"),
    }
}

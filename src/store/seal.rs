//! Record encryption: AES-256-GCM. The record's name is the associated data, so that a record
//! copied to another name does not open.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

/// The configured keys: the first seals, all open. Without keys, records are plain text.
pub struct Keys(Vec<Zeroizing<[u8; 32]>>);

/// Nonce and ciphertext with its tag.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) nonce: [u8; NONCE_LEN],
    pub(super) ciphertext: Vec<u8>,
}

impl Keys {
    pub fn new(keys: Vec<Zeroizing<[u8; 32]>>) -> Self {
        Self(keys)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns `None` without keys.
    ///
    /// Nonces are random: at one write a minute, one key reaches its limit of 2^32 after 8,000
    /// years.
    pub(super) fn seal(&self, name: &str, text: &[u8]) -> Option<Sealed> {
        let sealing = aead(self.0.first()?)?;
        let mut buffer = text.to_vec();
        let nonce = sealing
            .seal_in_place_append_tag(Aad::from(name), &mut buffer)
            .ok()?;
        Some(Sealed {
            nonce: *nonce.as_ref(),
            ciphertext: buffer,
        })
    }

    /// Whether `sealed` was sealed with the first key.
    pub(super) fn is_current(&self, name: &str, sealed: &Sealed) -> bool {
        (self.0.first()).is_some_and(|first| open(first, name, sealed).is_some())
    }

    /// Returns `None` if no key opens `sealed`: an unknown key, another name or damaged data.
    pub(super) fn open(&self, name: &str, sealed: &Sealed) -> Option<Zeroizing<Vec<u8>>> {
        self.0.iter().find_map(|key| open(key, name, sealed))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

fn open(key: &[u8; 32], name: &str, sealed: &Sealed) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(sealed.ciphertext.clone());
    let length = aead(key)?
        .open_in_place(Nonce::from(&sealed.nonce), Aad::from(name), &mut buffer)
        .ok()?
        .len();
    buffer.truncate(length);
    Some(buffer)
}

fn aead(key: &[u8; 32]) -> Option<RandomizedNonceKey> {
    RandomizedNonceKey::new(&AES_256_GCM, key).ok()
}

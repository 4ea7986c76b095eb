//! The tokens that a vendor has issued, and their validity.

use std::collections::VecDeque;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::Kind;

/// Limit of remembered tokens: enough to explain the rejection of any token still in use.
const KEPT: usize = 1000;

pub(super) struct Ledger {
    kind: Kind,
    issued: u64,
    tokens: VecDeque<Entry>,
}

/// A newly issued token.
pub(super) struct Issued {
    pub(super) token: String,
    pub(super) number: u64,
    pub(super) life: Duration,
    /// Unix seconds.
    pub(super) issued_at: u64,
}

struct Entry {
    token: String,
    number: u64,
    expires: Instant,
    /// Why the token is no longer valid, unless it has expired.
    killed: Option<String>,
}

impl Ledger {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            issued: 0,
            tokens: VecDeque::new(),
        }
    }

    pub(super) fn issue(&mut self, life: Duration) -> Issued {
        self.issued += 1;
        let number = self.issued;
        if self.kind == Kind::Ctcfile {
            self.kill(&format!("died when no. {number} was issued"));
        }
        let issued_at = unix_now();
        let token = match self.kind {
            Kind::Cncn => random_hex(32),
            _ => jwt(issued_at, life),
        };
        if self.tokens.len() == KEPT {
            self.tokens.pop_front();
        }
        self.tokens.push_back(Entry {
            token: token.clone(),
            number,
            expires: Instant::now() + life,
            killed: None,
        });
        Issued {
            token,
            number,
            life,
            issued_at,
        }
    }

    /// Returns the token's number, or why the token is invalid.
    pub(super) fn check(&self, token: &str) -> Result<u64, String> {
        let Some(entry) = self.tokens.iter().find(|entry| entry.token == token) else {
            let length = token.len();
            return Err(format!(
                "a token that was never issued ({length} characters)"
            ));
        };
        let number = entry.number;
        if let Some(reason) = &entry.killed {
            return Err(format!("token no. {number} {reason}"));
        }
        let now = Instant::now();
        if entry.expires <= now {
            let since = now - entry.expires;
            return Err(format!("token no. {number} expired {since:.1?} ago"));
        }
        Ok(number)
    }

    /// Invalidates all valid tokens; `reason` continues "token no. 1".
    pub(super) fn kill(&mut self, reason: &str) {
        for entry in &mut self.tokens {
            entry.killed.get_or_insert_with(|| reason.to_owned());
        }
    }
}

impl Issued {
    /// Returns `expires_in` in whole seconds.
    pub(super) fn expires_in(&self) -> u64 {
        self.life.as_secs()
    }
}

/// Not cryptographically secure: the fake vendors protect nothing.
pub(super) fn random_hex(digits: usize) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    (0..digits)
        .map(|_| char::from(HEX[fastrand::usize(..HEX.len())]))
        .collect()
}

/// Returns a JWT as long as the vendors' samples (over 1,000 characters), with a random signature.
fn jwt(issued_at: u64, life: Duration) -> String {
    let header = r#"{"typ":"JWT","alg":"RS256"}"#;
    let (id, expires) = (random_hex(80), issued_at + life.as_secs());
    let times = format!(r#""iat":{issued_at},"nbf":{issued_at},"exp":{expires}"#);
    let payload = format!(r#"{{"aud":"2","jti":"{id}",{times},"sub":"1","scopes":[]}}"#);
    let signature: Vec<u8> = (0..512).map(|_| fastrand::u8(..)).collect();
    [header.as_bytes(), payload.as_bytes(), &signature]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".")
}

fn unix_now() -> u64 {
    UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

//! The tokens that a vendor issued, and what became of them.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::Kind;

/// Enough to name the fate of any token that may still come in.
const KEPT: usize = 1000;

pub(super) struct Ledger {
    kind: Kind,
    issued: u64,
    tokens: VecDeque<Entry>,
}

/// A token as it leaves the vendor.
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
    killed_by: Option<Killer>,
}

#[derive(Clone, Copy)]
enum Killer {
    Successor(u64),
    Hand,
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
            self.kill(Killer::Successor(number));
        }
        let issued_at = unix_now();
        let token = match self.kind {
            Kind::Cncn => random_hex(32),
            Kind::Besender | Kind::Ctcfile | Kind::IdentityServer | Kind::Passport => {
                jwt(issued_at, life)
            }
        };
        if self.tokens.len() == KEPT {
            self.tokens.pop_front();
        }
        self.tokens.push_back(Entry {
            token: token.clone(),
            number,
            expires: Instant::now() + life,
            killed_by: None,
        });
        Issued {
            token,
            number,
            life,
            issued_at,
        }
    }

    /// The token's number, or why it is no good.
    pub(super) fn check(&self, token: &str) -> Result<u64, String> {
        let Some(entry) = self.tokens.iter().find(|entry| entry.token == token) else {
            return Err(format!(
                "a token that was never issued ({} characters)",
                token.len()
            ));
        };
        let number = entry.number;
        match entry.killed_by {
            Some(Killer::Successor(next)) => {
                return Err(format!(
                    "token no. {number} died when no. {next} was issued"
                ));
            }
            Some(Killer::Hand) => return Err(format!("token no. {number} was revoked")),
            None => {}
        }
        let now = Instant::now();
        if entry.expires <= now {
            let since = now - entry.expires;
            return Err(format!("token no. {number} expired {since:.1?} ago"));
        }
        Ok(number)
    }

    pub(super) fn kill_all(&mut self) {
        self.kill(Killer::Hand);
    }

    fn kill(&mut self, killer: Killer) {
        for entry in &mut self.tokens {
            entry.killed_by.get_or_insert(killer);
        }
    }
}

impl Issued {
    /// `expires_in`, whole seconds.
    pub(super) fn expires_in(&self) -> u64 {
        self.life.as_secs()
    }
}

/// Good enough for a fake: nothing is guarded by it.
pub(super) fn random_hex(digits: usize) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    (0..digits)
        .map(|_| char::from(HEX[fastrand::usize(..HEX.len())]))
        .collect()
}

/// As long and as shaped as the vendors' samples (over 1,000 characters), signed with noise.
fn jwt(issued_at: u64, life: Duration) -> String {
    let header = r#"{"typ":"JWT","alg":"RS256"}"#;
    let payload = format!(
        r#"{{"aud":"2","jti":"{}","iat":{issued_at},"nbf":{issued_at},"exp":{},"sub":"1","scopes":[]}}"#,
        random_hex(80),
        issued_at + life.as_secs(),
    );
    let signature: Vec<u8> = (0..512).map(|_| fastrand::u8(..)).collect();
    [header.as_bytes(), payload.as_bytes(), &signature]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".")
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

//! Device authorization (RFC 8628): a code that a person types elsewhere, and polling until that is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{LoggedIn, Login, LoginError};
use crate::clock::Clock;
use crate::dialect::{Class, Var, Variables};
use crate::provider::chain::Tokens;
use crate::provider::exchange::{Fetch, FetchError, Fetched};
use crate::provider::source::{Failure, Source};
use crate::provider::store::{MemoryStore, Store};
use crate::secret::Secret;

/// RFC 8628 §3.2: where the server states none.
const INTERVAL: Duration = Duration::from_secs(5);

/// RFC 8628 §3.5: what `slow_down` adds, for good.
const SLOWER: Duration = Duration::from_secs(5);

/// A server that says 0 is not to be flooded.
const SHORTEST: Duration = Duration::from_secs(1);

/// However long the trouble lasts: the person waits. A server that wants to be asked less often than that is.
const LONGEST: Duration = Duration::from_secs(60);

/// The answer says until when the code can be typed; one that does not is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What a person has to do, and how the server is asked whether it is done.
pub struct DeviceCode {
    /// Where to go.
    pub verification_uri: String,
    /// The same with the code in it.
    pub complete: Option<String>,
    /// What to type there.
    pub user_code: String,
    code: Secret,
    interval: Duration,
    expires_at: Instant,
}

/// A token that is not kept yet.
pub struct Brought {
    fetched: Fetched,
    /// By provider, what it was bought with.
    bought_with: BTreeMap<String, String>,
}

/// RFC 8628 §3.2. `verification_url` is Google's.
#[derive(Deserialize)]
struct Answer {
    device_code: String,
    user_code: String,
    #[serde(alias = "verification_url")]
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: Option<u64>,
    interval: Option<u64>,
}

impl Login {
    /// Whether the grant begins with a device code.
    pub fn is_for_device(&self) -> bool {
        self.endpoint()
            .is_ok_and(|endpoint| endpoint.plan.begins_with("device_code"))
    }

    /// Asks for a device code. Cancel safe.
    pub async fn device(
        &self,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        tokens: Tokens,
    ) -> Result<DeviceCode, LoginError> {
        // Nothing is kept of it, so no store is needed.
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut source = Source::new(Arc::clone(&self.provider), store, fetcher, clock, tokens)
            .with_found(self.found.clone());
        let answered = source.ask_for_device().await?;
        let began = Instant::now();
        let read: Answer = serde_json::from_slice(&answered.body).map_err(|_| {
            LoginError::Refused(format!(
                "the device authorization endpoint answered HTTP {} without a device_code, a user_code and a \
                 verification_uri (RFC 8628 §3.2)",
                answered.status.as_u16()
            ))
        })?;
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        Ok(DeviceCode {
            verification_uri: shown(&read.verification_uri),
            complete: read.verification_uri_complete.as_deref().map(shown),
            user_code: shown(&read.user_code),
            code: Secret::new(read.device_code),
            interval: seconds(read.interval).unwrap_or(INTERVAL).max(SHORTEST),
            expires_at: began
                + seconds(read.expires_in)
                    .unwrap_or(PATIENCE)
                    .min(PATIENCE * 4),
        })
    }

    /// Asks until the person has typed the code. Needs no store, which would be held for as long as that takes. Not cancel
    /// safe once they have.
    pub async fn poll(
        &self,
        device: DeviceCode,
        mut given: Variables,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        tokens: Tokens,
    ) -> Result<Brought, LoginError> {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let mut source = Source::new(Arc::clone(&self.provider), store, fetcher, clock, tokens)
            // The code goes to those who gave it, should the issuer say something else by now.
            .with_found(self.found.clone());
        given.insert("device_code".to_owned(), Var::Text(device.code.clone()));
        let fetched = device.wait(&mut source, &given).await?;
        Ok(Brought {
            fetched,
            bought_with: source.bought_with(),
        })
    }

    /// Keeps what came of it. Not cancel safe.
    pub async fn keep(
        self,
        brought: Brought,
        store: Arc<dyn Store>,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        tokens: Tokens,
    ) -> Result<LoggedIn, LoginError> {
        let rules = self.provider.life.clone();
        let mut source = Source::new(self.provider, store, fetcher, clock, tokens);
        source.load().await?;
        source.took_up(&brought.bought_with);
        super::keep(&mut source, &brought.fetched, &rules).await
    }
}

impl DeviceCode {
    /// RFC 8628 §3.5.
    async fn wait(self, source: &mut Source, given: &Variables) -> Result<Fetched, LoginError> {
        let mut interval = self.interval;
        loop {
            let left = self.expires_at.saturating_duration_since(Instant::now());
            sleep(interval.min(left)).await;
            if Instant::now() >= self.expires_at {
                return Err(LoginError::CodeExpired);
            }
            let error = match source.poll(given.clone()).await {
                Ok(fetched) => return Ok(fetched),
                Err(Failure::Fetch(error)) => error,
                Err(other) => return Err(other.into()),
            };
            let code = match &error {
                FetchError::Refused { refusal, .. } => refusal.code.as_deref(),
                _ => None,
            };
            match code {
                Some("authorization_pending") => {}
                Some("slow_down") => interval = interval.saturating_add(SLOWER),
                Some("expired_token") => return Err(LoginError::CodeExpired),
                Some("access_denied") => {
                    return Err(LoginError::Denied("access_denied".to_owned()));
                }
                // The network or the server is in trouble: RFC 8628 §3.5 doubles the interval.
                _ if error.class() == Class::Transient => {
                    interval = interval.max((interval.saturating_mul(2)).min(LONGEST));
                }
                _ => return Err(LoginError::Refused(error.to_string())),
            }
        }
    }
}

/// For a terminal: nothing in it may move the cursor.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::test::TestClock;
    use crate::provider::testing::{FakeFetch, FakeVendor, Reply, provider};

    const DEVICE: &str = r#"
default_grant = "main"
[grants.main]
form = { grant_type = "device", device_code = "{device_code}" }
one_time = ["device_code"]
[response]
token = "/access_token"
[inject]
headers = { Authorization = "Bearer {access_token}" }
"#;

    /// RFC 8628 §3.5: the interval is the least that the client waits, whatever it is, and `slow_down` adds to it.
    #[tokio::test(start_paused = true)]
    async fn the_server_says_how_often_it_is_asked() {
        let clock = Clock::Test(TestClock::new());
        let vendor = FakeVendor::new(clock.clone(), Reply::Token("t", 3600));
        vendor.takes(Duration::ZERO);
        vendor.then([
            Reply::Refuse(Class::Permanent, "authorization_pending"),
            Reply::Refuse(Class::Transient, "slow_down"),
            Reply::Refuse(Class::Transient, "503"),
        ]);
        let fetcher = Arc::new(FakeFetch(Arc::clone(&vendor), Instant::now()));
        let login = Login {
            provider: Arc::new(provider("x", DEVICE, |_| {})),
            found: None,
        };
        let code = |interval, expires_in| DeviceCode {
            verification_uri: String::new(),
            complete: None,
            user_code: String::new(),
            code: "d".into(),
            interval: Duration::from_secs(interval),
            expires_at: Instant::now() + Duration::from_secs(expires_in),
        };
        let poll = |code| {
            let (fetcher, clock) = (Arc::clone(&fetcher), clock.clone());
            login.poll(code, Variables::new(), fetcher, clock, Tokens::default())
        };
        assert!(poll(code(90, 600)).await.is_ok());
        let at: Vec<u64> = vendor.calls().iter().map(|it| it.at.as_secs()).collect();
        assert_eq!(at, [90, 180, 275, 370]);
        let began = Instant::now();
        let late = poll(code(u64::MAX, 30)).await;
        assert!(matches!(late, Err(LoginError::CodeExpired)));
        assert_eq!(began.elapsed(), Duration::from_secs(30));
    }
}

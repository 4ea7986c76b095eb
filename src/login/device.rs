//! Device authorization (RFC 8628): a person enters a code elsewhere while this process polls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{LoggedIn, Login, LoginError};
use crate::clock::Clock;
use crate::dialect::{FailureClass, Members, Var, Variables};
use crate::provider::chain::Tokens;
use crate::provider::exchange::{Fetch, FetchError, Fetched};
use crate::provider::source::{Failure, Source};
use crate::secret::Secret;
use crate::store::{MemoryStore, Store};

/// Default polling interval (RFC 8628 §3.2).
const INTERVAL: Duration = Duration::from_secs(5);

/// Added to the interval by `slow_down` (RFC 8628 §3.5).
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// Lower bound for an interval of 0.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Upper bound for doubling the interval; a longer interval of the server is kept.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Lifetime of a device code whose response states none.
const MAX_LIFE: Duration = Duration::from_secs(15 * 60);

/// A device code and the instructions for the person.
pub struct DeviceCode {
    pub verification_uri: String,
    /// `verification_uri` with the code in it.
    pub complete: Option<String>,
    pub user_code: String,
    code: Secret,
    interval: Duration,
    expires_at: Instant,
}

/// A token that is not saved yet.
pub struct DeviceToken {
    fetched: Fetched,
    /// Digests of the chained tokens that bought it, by provider.
    bought_with: BTreeMap<String, String>,
}

impl Login {
    /// Returns whether the grant begins with a device code.
    pub fn is_for_device(&self) -> bool {
        (self.endpoint()).is_ok_and(|it| it.plan.spends("device_code"))
    }

    /// Requests a device code. Cancel safe.
    pub async fn device(
        &self,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        tokens: Tokens,
    ) -> Result<DeviceCode, LoginError> {
        let mut source = self.source(fetcher, clock.clone(), tokens);
        let answered = source.ask_for_device().await?;
        let began = Instant::now();
        let status = answered.status.as_u16();
        let read = Members::of(answered.answer(clock.now()));
        let read = read.ok_or_else(|| unusable(status, "that is not JSON"))?;
        DeviceCode::read(&read, began).map_err(|reason| unusable(status, &reason))
    }

    /// Returns a source without a store: asking for a device code and polling save nothing.
    fn source(&self, fetcher: Arc<dyn Fetch>, clock: Clock, tokens: Tokens) -> Source {
        let store = Arc::new(MemoryStore::default());
        Source::new(Arc::clone(&self.provider), store, fetcher, clock, tokens)
            // The code goes to the server that issued it, even if the metadata have changed since.
            .with_found(self.found.clone())
    }

    /// Polls until the person has entered the code. Leaves the store unlocked meanwhile. Not cancel
    /// safe once the code is entered.
    pub async fn poll(
        &self,
        device: DeviceCode,
        mut given: Variables,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        tokens: Tokens,
    ) -> Result<DeviceToken, LoginError> {
        let mut source = self.source(fetcher, clock, tokens);
        given.insert("device_code".to_owned(), Var::Text(device.code.clone()));
        let fetched = device.wait(&mut source, &given).await?;
        Ok(DeviceToken {
            fetched,
            bought_with: source.bought_with(),
        })
    }

    /// Saves the token. Not cancel safe.
    pub async fn keep(
        self,
        token: DeviceToken,
        store: Arc<dyn Store>,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        tokens: Tokens,
    ) -> Result<LoggedIn, LoginError> {
        let rules = self.provider.life.clone();
        let mut source = Source::new(self.provider, store, fetcher, clock, tokens);
        source.load().await?;
        source.took_up(&token.bought_with);
        super::keep(&mut source, &token.fetched, &rules).await
    }
}

impl DeviceCode {
    /// Reads the response of RFC 8628 §3.2. Google writes `verification_url`.
    fn read(members: &Members, began: Instant) -> Result<Self, String> {
        let verification_uri = members.text("verification_uri");
        let verification_uri = verification_uri.or_else(|| members.text("verification_url"));
        let complete = members.text("verification_uri_complete");
        let complete = complete.or_else(|| members.text("verification_url_complete"));
        let required = |name: &str, found: Option<String>| {
            found.ok_or_else(|| match members.text("error") {
                Some(error) => format!("with the error `{}`", shown(&error)),
                None => format!("without `{name}`"),
            })
        };
        let life = members.seconds("expires_in").filter(|&life| life > 0);
        let life = life.map_or(MAX_LIFE, Duration::from_secs);
        let interval = members.seconds("interval");
        let interval = interval.map_or(INTERVAL, Duration::from_secs);
        Ok(Self {
            code: Secret::new(required("device_code", members.text("device_code"))?),
            user_code: shown(&required("user_code", members.text("user_code"))?),
            verification_uri: shown(&required("verification_uri", verification_uri)?),
            complete: complete.as_deref().map(shown),
            interval: interval.max(MIN_INTERVAL),
            expires_at: began + life.min(MAX_LIFE * 4),
        })
    }

    /// Polls as RFC 8628 §3.5 requires.
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
                Some("slow_down") => interval = interval.saturating_add(SLOW_DOWN),
                Some("expired_token") => return Err(LoginError::CodeExpired),
                Some(code @ "access_denied") => return Err(LoginError::Denied(code.to_owned())),
                // RFC 8628 §3.5: double the interval after a time-out or a server error.
                _ if error.class() == FailureClass::Transient => {
                    interval = interval.max(interval.saturating_mul(2).min(MAX_BACKOFF));
                }
                _ => return Err(LoginError::Refused(error.to_string())),
            }
        }
    }
}

fn unusable(status: u16, reason: &str) -> LoginError {
    LoginError::Refused(format!(
        "the device authorization endpoint answered HTTP {status} {reason} (RFC 8628 §3.2)"
    ))
}

/// Removes control characters, which could move the cursor of a terminal.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::clock::test::TestClock;
    use crate::dialect::Answer;
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

    fn device_code(body: &str) -> Result<DeviceCode, String> {
        let members = Members::of(Answer {
            status: StatusCode::OK,
            headers: &HeaderMap::new(),
            body: body.as_bytes(),
            now: SystemTime::UNIX_EPOCH,
        });
        DeviceCode::read(&members.unwrap(), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn numbers_of_the_device_response_may_be_strings() {
        for (expires_in, interval, life, wait) in [
            ("\"900\"", "\"1\"", 900, 1),
            ("900", "7", 900, 7),
            ("\"600.0\"", "5.0", 600, 5),
            ("null", "\"\"", 900, 5),
            ("\"soon\"", "{}", 900, 5),
            ("0", "0", 900, 1),
        ] {
            let body = format!(
                r#"{{"device_code":"DC","user_code":"AB","verification_uri":"https://x",
                   "expires_in":{expires_in},"interval":{interval},"message":{{"unneeded":[]}}}}"#
            );
            let read = device_code(&body).unwrap();
            assert_eq!(
                read.expires_at - Instant::now(),
                Duration::from_secs(life),
                "{body}"
            );
            assert_eq!(read.interval, Duration::from_secs(wait), "{body}");
            assert_eq!((read.code.expose(), &*read.user_code), ("DC", "AB"));
        }
    }

    #[tokio::test]
    async fn an_unusable_device_response_is_named() {
        for (body, reason) in [
            (r#"{"user_code":"AB"}"#, "without `device_code`"),
            (r#"{"device_code":"DC"}"#, "without `user_code`"),
            (
                r#"{"device_code":"DC","user_code":"AB"}"#,
                "without `verification_uri`",
            ),
            (
                r#"{"error":"device_flow_disabled"}"#,
                "with the error `device_flow_disabled`",
            ),
        ] {
            assert_eq!(device_code(body).err().unwrap(), reason);
        }
    }

    /// RFC 8628 §3.5: the interval is a minimum, and `slow_down` adds to it.
    #[tokio::test(start_paused = true)]
    async fn polling_interval_follows_the_server() {
        let clock = Clock::Test(TestClock::new());
        let vendor = FakeVendor::new(clock.clone(), Reply::Token("t", 3600));
        vendor.takes(Duration::ZERO);
        vendor.then([
            Reply::Refuse(FailureClass::Permanent, "authorization_pending"),
            Reply::Refuse(FailureClass::Transient, "slow_down"),
            Reply::Refuse(FailureClass::Transient, "503"),
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

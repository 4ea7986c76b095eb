//! Killed at every step of an exchange, with a vendor that lets each refresh token be used once: the next process goes on from what is
//! on disk, starts over with the grant, or says that only a login can help. What is on disk at every step of the write itself:
//! `store/file/killed.rs`.

use tokio::runtime::Builder;

use super::*;
use crate::config::Endpoint;
use crate::dialect::{Expiry, Issued, Refusal};
use crate::provider::exchange::{Answered, Call, Fetched, Line};

/// Where a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// The request did not leave.
    Dialled,
    /// The vendor has taken the refresh token and issued another one, and nobody heard of it.
    Unheard,
    /// The answer was received, and the token is in the cell.
    Unstored,
    /// The record is on disk.
    Stored,
}

const DEATHS: [Death; 4] = [
    Death::Dialled,
    Death::Unheard,
    Death::Unstored,
    Death::Stored,
];

/// Issues pairs; a refresh token is dead once it was used.
#[derive(Default)]
struct Rotating {
    state: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    issued: usize,
    /// The one refresh token that is good.
    live: Option<String>,
    /// Bodies of all requests.
    asked: Vec<String>,
    refused: usize,
}

impl Rotating {
    fn take(&self, body: String) -> Result<(String, String), ()> {
        let mut state = self.state.lock().unwrap();
        let shown = body
            .split('&')
            .find_map(|field| field.strip_prefix("refresh_token="));
        let good = shown.is_none_or(|shown| state.live.as_deref() == Some(shown));
        state.asked.push(body);
        if !good {
            state.refused += 1;
            return Err(());
        }
        state.issued += 1;
        let number = state.issued;
        let refresh = format!("r{number}");
        state.live = Some(refresh.clone());
        Ok((format!("t{number}"), refresh))
    }

    fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }
}

/// One process's way to the vendor. It hangs where the process is to die: from then on nothing of it happens.
#[derive(Clone)]
struct Way {
    vendor: Arc<Rotating>,
    clock: Clock,
    dies: Arc<Mutex<Option<Death>>>,
}

impl Way {
    fn dies_at(&self, death: Death) -> bool {
        *self.dies.lock().unwrap() == Some(death)
    }
}

impl Fetch for Way {
    fn dial<'a>(
        &'a self,
        _: &'a Endpoint,
        _: Instant,
    ) -> Pending<'a, Result<Box<dyn Line>, FetchError>> {
        Box::pin(async {
            if self.dies_at(Death::Dialled) {
                std::future::pending::<()>().await;
            }
            Ok(Box::new(self.clone()) as Box<dyn Line>)
        })
    }
}

impl Line for Way {
    fn send<'a>(
        self: Box<Self>,
        call: Call<'a>,
        _: Instant,
    ) -> Pending<'a, Result<Fetched, FetchError>> {
        Box::pin(async move {
            let sent = self.clock.now();
            let frozen = crate::dialect::Frozen {
                now: sent.wall,
                nonce: String::new(),
                uuid: String::new(),
                token_url: String::new(),
            };
            let request = call.request.render(call.variables, &frozen).unwrap();
            let body = String::from_utf8(request.body.to_vec()).unwrap();
            let taken = self.vendor.take(body);
            if self.dies_at(Death::Unheard) {
                std::future::pending::<()>().await;
            }
            let Ok((access_token, refresh_token)) = taken else {
                return Err(FetchError::Refused {
                    host: call.endpoint.token_url.authority.clone(),
                    refusal: Refusal {
                        class: Class::Permanent,
                        status: 400,
                        code: Some("invalid_grant".to_owned()),
                        description: None,
                        retry_after: None,
                        detail: None,
                    },
                });
            };
            let issued = Issued {
                access_token: access_token.as_str().into(),
                refresh_token: Some(refresh_token.as_str().into()),
                expiry: Expiry::In(Duration::from_secs(100)),
                warnings: Vec::new(),
            };
            Ok(Fetched { issued, sent })
        })
    }

    fn ask<'a>(
        self: Box<Self>,
        _: &'a Endpoint,
        _: crate::dialect::TokenRequest,
        _: Instant,
    ) -> Pending<'a, Result<Answered, FetchError>> {
        unreachable!("this vendor only gives tokens")
    }
}

/// A file store whose process may die before or after it writes what an answer brought.
struct Mortal {
    inner: FileStore,
    dies: Arc<Mutex<Option<Death>>>,
}

impl Store for Mortal {
    fn load<'a>(&'a self, key: &'a StateKey) -> Pending<'a, Result<Option<Saved>, StoreError>> {
        self.inner.load(key)
    }

    fn save<'a>(
        &'a self,
        key: &'a StateKey,
        saved: &'a Saved,
    ) -> Pending<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let dies = *self.dies.lock().unwrap();
            // A mark of a one-time input is written before anything is sent.
            let of_an_answer = saved.refresh_token.is_some();
            if of_an_answer && dies == Some(Death::Unstored) {
                std::future::pending::<()>().await;
            }
            self.inner.save(key, saved).await?;
            if of_an_answer && dies == Some(Death::Stored) {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

/// How far one process gets.
struct Lived {
    state: State,
    token: Option<String>,
}

/// One process: it lives for longer than a token, and dies at `death` of the exchange after the first `whole` ones. All that is left of it is what
/// it has written.
fn process(
    folder: &tempfile::TempDir,
    vendor: &Arc<Rotating>,
    provider: Provider,
    whole: usize,
    death: Option<Death>,
) -> Lived {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let lived = runtime.block_on(async {
        let clock = Clock::Test(TestClock::new());
        let dies = Arc::new(Mutex::new((whole == 0).then_some(death).flatten()));
        let inner = FileStore::open(folder.path().to_owned(), Keys::new(Vec::new())).unwrap();
        let deps = Deps {
            store: Arc::new(Mortal {
                inner,
                dies: Arc::clone(&dies),
            }),
            fetcher: Arc::new(Way {
                vendor: Arc::clone(vendor),
                clock: clock.clone(),
                dies: Arc::clone(&dies),
            }),
            clock,
            metrics: Arc::new(Metrics::new()),
            random: || 0.5,
            tokens: Tokens::default(),
        };
        let handle = spawn(vec![Arc::new(provider)], deps).remove(0);
        if whole > 0 {
            assert!(handle.first_token().await);
            *dies.lock().unwrap() = death;
        }
        // A token of 100 s is renewed after 79 s, and ends after 99 s.
        sleep(Duration::from_secs(110)).await;
        Lived {
            state: handle.status().state,
            token: current(&handle),
        }
    });
    // Tasks, locks and all: what a kill leaves.
    drop(runtime);
    lived
}

fn password() -> Provider {
    provider("x", PASSWORD, |_| {})
}

/// The grant can be repeated: whatever was lost, the next process has a token.
#[test]
fn a_grant_that_can_be_repeated_survives_every_death() {
    for death in DEATHS {
        for whole in [0, 1] {
            let folder = tempfile::tempdir().unwrap();
            let vendor = Arc::<Rotating>::default();
            process(&folder, &vendor, password(), whole, Some(death));
            let before = vendor.asked().len();
            let lived = process(&folder, &vendor, password(), 1, None);
            assert_eq!(lived.state, State::Valid, "{death:?}, {whole}");
            let issued = vendor.state.lock().unwrap().issued;
            assert_eq!(lived.token, Some(format!("Bearer t{issued}")));
            // What was on disk was used; only where it was dead, the password is sent again.
            let first = vendor.asked()[before].clone();
            let refused = vendor.state.lock().unwrap().refused;
            match (death, whole) {
                (Death::Stored, _) | (Death::Dialled, 1) => {
                    assert!(first.contains("refresh_token=r"), "{first}");
                    assert_eq!(refused, 0, "{death:?}, {whole}");
                }
                (_, 1) => assert_eq!(refused, 1, "{death:?}"),
                (_, _) => assert!(first.contains("grant_type=password"), "{first}"),
            }
        }
    }
}

/// A code is sent once, whatever happens; where what it brought is lost, a login is asked for.
#[test]
fn a_one_time_grant_survives_every_death_or_asks_for_a_login() {
    for death in DEATHS {
        for whole in [0, 1] {
            let folder = tempfile::tempdir().unwrap();
            let vendor = Arc::<Rotating>::default();
            process(&folder, &vendor, sms("123456"), whole, Some(death));
            let lived = process(&folder, &vendor, sms("123456"), 0, None);
            let codes = vendor
                .asked()
                .iter()
                .filter(|body| body.contains("sms=123456"))
                .count();
            assert_eq!(codes, 1, "{death:?}, {whole}");
            let expected = match death {
                Death::Dialled | Death::Stored => State::Valid,
                Death::Unheard | Death::Unstored => State::LoginRequired,
            };
            assert_eq!(lived.state, expected, "{death:?}, {whole}");
        }
    }
}

/// The refresh token is the grant: where its successor is lost, only a new one can help.
#[test]
fn a_refresh_token_grant_survives_every_death_or_asks_for_a_login() {
    for death in DEATHS {
        let folder = tempfile::tempdir().unwrap();
        let vendor = Arc::<Rotating>::default();
        vendor.state.lock().unwrap().live = Some("seed".to_owned());
        process(&folder, &vendor, with_refresh_token("seed"), 1, Some(death));
        let lived = process(&folder, &vendor, with_refresh_token("seed"), 0, None);
        let expected = match death {
            Death::Dialled | Death::Stored => State::Valid,
            Death::Unheard | Death::Unstored => State::LoginRequired,
        };
        assert_eq!(lived.state, expected, "{death:?}");
        // The seed is dead since the first exchange, and nobody shows it again.
        let seeds = vendor
            .asked()
            .iter()
            .filter(|body| body.ends_with("=seed"))
            .count();
        assert_eq!(seeds, 1, "{death:?}");
    }
}

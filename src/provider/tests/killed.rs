//! Crashes at every step of an exchange with a vendor of single-use refresh tokens. The next
//! process goes on from the record, starts over with the grant or asks for a login. Crashes during
//! the write itself: `store/file/killed.rs`.

use tokio::runtime::Builder;

use super::*;
use crate::config::Endpoint;
use crate::dialect::{Expiry, Issued, Refusal};
use crate::provider::exchange::{Fetched, RawResponse, TokenCall, TokenConnection};

/// Step at which a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// Before the request is sent.
    Dialled,
    /// After the vendor has rotated the refresh token, before the response arrives.
    Unheard,
    /// After the token is in the cell, before the record is written.
    Unstored,
    /// After the record is written.
    Stored,
}

const DEATHS: [Death; 4] = [
    Death::Dialled,
    Death::Unheard,
    Death::Unstored,
    Death::Stored,
];

/// A vendor that issues token pairs; a refresh token works once.
#[derive(Default)]
struct Rotating {
    state: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    issued: usize,
    /// The valid refresh token.
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

/// The vendor connection of one process, which hangs forever at the step where the process dies.
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
    ) -> Pending<'a, Result<Box<dyn TokenConnection>, FetchError>> {
        Box::pin(async {
            if self.dies_at(Death::Dialled) {
                std::future::pending::<()>().await;
            }
            Ok(Box::new(self.clone()) as Box<dyn TokenConnection>)
        })
    }
}

impl TokenConnection for Way {
    fn send<'a>(
        self: Box<Self>,
        call: TokenCall<'a>,
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
                        class: FailureClass::Permanent,
                        is_final: false,
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
    ) -> Pending<'a, Result<RawResponse, FetchError>> {
        unreachable!("this vendor only gives tokens")
    }
}

/// A file store that hangs before or after it writes the result of an exchange.
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
            // The mark of a one-time input has no refresh token.
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

/// State of a process at its end.
struct Lived {
    state: State,
    token: Option<String>,
}

/// Runs one process for longer than the life of a token; it dies at `death` of the exchange after
/// the first `whole` ones. Only its store remains.
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
        // A token of 100 s is renewed after 79 s and ends after 99 s.
        sleep(Duration::from_secs(110)).await;
        Lived {
            state: handle.status().state,
            token: current(&handle),
        }
    });
    // Drops tasks and locks, as a kill does.
    drop(runtime);
    lived
}

fn password() -> Provider {
    provider("x", PASSWORD, |_| {})
}

#[test]
fn repeatable_grant_survives_every_crash() {
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
            // The stored refresh token was used; the password is sent again only if that is dead.
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

/// A code is sent once; if its result is lost, a login is needed.
#[test]
fn one_time_grant_survives_every_crash_or_needs_a_login() {
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

/// The refresh token is the grant: if its successor is lost, only a new one helps.
#[test]
fn refresh_token_grant_survives_every_crash_or_needs_a_login() {
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
        // The configured token died with the first exchange and is not sent again.
        let seeds = vendor
            .asked()
            .iter()
            .filter(|body| body.ends_with("=seed"))
            .count();
        assert_eq!(seeds, 1, "{death:?}");
    }
}

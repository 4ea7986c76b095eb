//! Logins at the demo's IdentityServer, with and without a running proxy.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, LOCATION};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::*;
use crate::clock::test::TestClock;
use crate::config::{Config, NoEnvironment, StoreKind};
use crate::demo::authority::Authority;
use crate::demo::vendors::{FakeVendor, Kind, Options};
use crate::dialect::{Var, Variables};
use crate::metrics::Metrics;
use crate::provider::exchange::HttpFetch;
use crate::provider::testing::{
    CLIENT_CREDENTIALS, FakeFetch, FakeVendor as Scripted, REFRESH_TOKEN, Reply, literal, provider,
    static_provider,
};
use crate::provider::{Deps, Handle, spawn};
use crate::secret::Secret;
use crate::status::State;
use crate::store::{self, FileStore, Keys, MemoryStore, OpenedStore, Saved, StateKey};
use crate::upstream::connect::{Alpn, Connector, Destination};
use crate::upstream::tls::TlsProfiles;

/// A vendor and a configuration for it.
struct World {
    vendor: FakeVendor,
    config: Config,
    folder: TempDir,
}

const CODE: &str = "grant = 'authorization_code'\nscope = 'api offline_access'\n";
const SMS: &str = "grant = 'sms'\nvars = { phone = '13800000000' }\n";

impl World {
    async fn new(lines: &str) -> Self {
        let authority = Authority::new().unwrap();
        let vendor = FakeVendor::start(&authority, Kind::IdentityServer, Options::default())
            .await
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, authority.pem()).unwrap();
        let authorization = match lines.contains("authorization_code") {
            true => format!(
                "authorization_url = {:?}",
                vendor.authorization_url().unwrap()
            ),
            false => String::new(),
        };
        let text = format!(
            "[store]\nkind = 'file'\npath = {:?}\n\
             key = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='\n\
             [providers.x]\ndialect = 'identityserver'\ntoken_url = {:?}\n{authorization}\n\
             client_id = 'client1'\nclient_secret = 'demo-secret-of-identityserver'\n\
             tls = {{ ca_file = {ca_file:?} }}\n{lines}",
            folder.path().join("state"),
            vendor.token_url(),
        );
        let config = Config::from_toml(&text, &NoEnvironment).unwrap();
        Self {
            vendor,
            config,
            folder,
        }
    }

    fn provider(&self) -> Arc<Provider> {
        Arc::clone(&self.config.providers[0])
    }

    fn key(&self) -> StateKey {
        match &self.provider().source {
            TokenSource::Endpoint(endpoint) => StateKey::new(&endpoint.identity),
            _ => panic!("no endpoint"),
        }
    }

    /// Starts the provider as `run` does.
    async fn proxy(&self) -> Handle {
        let store = store::open(&self.config.store).await.unwrap();
        let deps = Deps::new(store, fetcher(), Clock::System, Arc::new(Metrics::new()));
        spawn(vec![self.provider()], deps).remove(0)
    }

    async fn finish(&self, given: Variables) -> Result<LoggedIn, LoginError> {
        let store: Arc<dyn Store> = match store::open_for_login(&self.config.store).await? {
            OpenedStore::Ours(store) => Arc::new(store),
            OpenedStore::Visited { store, holder } => {
                assert_eq!(holder, std::process::id().to_string());
                Arc::new(store)
            }
        };
        let login = Login::new(self.provider())?;
        login
            .finish(given, store, fetcher(), Clock::System, Tokens::default())
            .await
    }

    async fn record(&self) -> Saved {
        let store = store::visit(&self.config.store).await.unwrap();
        store.load(&self.key()).await.unwrap().unwrap_or_default()
    }

    /// A browser whose user consents; returns the redirect target.
    async fn browse(&self, url: &str) -> Uri {
        let uri: Uri = url.parse().unwrap();
        let TokenSource::Endpoint(endpoint) = &self.provider().source else {
            panic!("a static provider");
        };
        let connector = Connector::new(
            Destination {
                origin: endpoint.token_url.clone(),
                connect_to: None,
                tls: endpoint.tls.clone(),
                egress: None,
                alpn: Alpn::Http1,
            },
            &TlsProfiles::new(),
        )
        .unwrap();
        let connected = connector.connect(Duration::from_secs(5)).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(connected.io))
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = request(Method::GET, uri.path_and_query().unwrap().as_str());
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FOUND);
        answer.headers()[LOCATION]
            .to_str()
            .unwrap()
            .parse()
            .unwrap()
    }
}

fn fetcher() -> Arc<HttpFetch> {
    Arc::new(HttpFetch::new(TlsProfiles::new(), Clock::System))
}

fn request(method: Method, target: &str) -> Request<Empty<Bytes>> {
    Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, "127.0.0.1")
        .body(Empty::new())
        .unwrap()
}

/// The browser's visit to the loopback redirect.
async fn visit(method: Method, at: &Uri, target: &str) -> Response<Incoming> {
    let stream = TcpStream::connect(at.authority().unwrap().as_str())
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender.send_request(request(method, target)).await.unwrap()
}

fn given(name: &str, value: &str) -> Variables {
    Variables::from([(name.to_owned(), Var::Text(value.into()))])
}

#[tokio::test]
async fn running_proxy_adopts_the_token_of_a_browser_login() {
    let world = World::new(CODE).await;
    let proxy = world.proxy().await;
    let mut status = proxy.status.clone();
    let waits = status.wait_for(|status| status.state == State::LoginRequired);
    timeout(Duration::from_secs(5), waits)
        .await
        .unwrap()
        .unwrap();

    let login = Login::new(world.provider()).unwrap();
    assert_eq!(login.asks(), []);
    let authorization = login.authorize(0, false).await.unwrap();
    let url = authorization.url.clone();
    assert!(url.starts_with(&world.vendor.authorization_url().unwrap()));
    for part in [
        "response_type=code",
        "client_id=client1",
        "redirect_uri=http%3A%2F%2F127.0.0.1%3A",
        "scope=api+offline_access",
        "code_challenge_method=S256",
    ] {
        assert!(url.contains(part), "{part} is not in {url}");
    }
    let back = world.browse(&url).await;
    let waiting = tokio::spawn(authorization.wait());

    // Other requests are rejected and change nothing.
    let right = back.path_and_query().unwrap().as_str();
    let forged = format!("{right}x");
    for (method, target, status) in [
        (Method::GET, forged.as_str(), StatusCode::BAD_REQUEST),
        (Method::GET, "/?code=c", StatusCode::BAD_REQUEST),
        (
            Method::GET,
            "/?error=access_denied",
            StatusCode::BAD_REQUEST,
        ),
        (Method::GET, "/favicon.ico", StatusCode::NOT_FOUND),
        (Method::POST, right, StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let answer = visit(method, &back, target).await;
        assert_eq!(answer.status(), status, "{target}");
    }
    assert!(!waiting.is_finished());
    let answer = visit(Method::GET, &back, right).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let given = waiting.await.unwrap().unwrap();

    let logged_in = world.finish(given).await.unwrap();
    assert!(logged_in.renewable && logged_in.expires_at.is_some());
    let left = Instant::now();
    timeout(Duration::from_secs(2), proxy.first_token())
        .await
        .unwrap_or_else(|_| panic!("not adopted after {:?}", left.elapsed()));
    assert_eq!(proxy.status().state, State::Valid);
    assert_eq!(proxy.status().last_error, None);
    // The vendor saw one exchange: that of the login.
    assert_eq!(world.vendor.counters().token_requests, 1);
    proxy.stop().await;
    drop(proxy);
    let record = world.record().await;
    assert!(record.refresh_token.is_some());
    assert_eq!(record.spent.len(), 1);
}

#[tokio::test]
async fn next_proxy_starts_with_the_token_of_an_earlier_login() {
    let world = World::new(SMS).await;
    let login = Login::new(world.provider()).unwrap();
    let sms = RequiredInput {
        name: "sms".to_owned(),
        secret: true,
    };
    assert_eq!(login.asks(), [sms]);
    assert_eq!(login.authorization_url(), None);
    world.finish(given("sms", "123456")).await.unwrap();
    let proxy = world.proxy().await;
    timeout(Duration::from_secs(2), proxy.first_token())
        .await
        .unwrap();
    assert_eq!(world.vendor.counters().token_requests, 1);
}

#[tokio::test]
async fn refusal_shows_the_vendors_error_and_input_is_never_sent_again() {
    for running in [false, true] {
        let world = World::new(SMS).await;
        let proxy = match running {
            true => Some(world.proxy().await),
            false => None,
        };
        let error = world.finish(given("sms", "000000")).await.unwrap_err();
        let error = error.to_string();
        assert!(error.contains("invalid_grant"), "{error}");
        assert!(!error.contains("000000"), "{error}");
        let error = world.finish(given("sms", "000000")).await.unwrap_err();
        assert!(error.to_string().contains("never sent twice"), "{error}");
        assert_eq!(world.vendor.counters().token_requests, 1);
        world.finish(given("sms", "123456")).await.unwrap();
        if let Some(proxy) = proxy {
            timeout(Duration::from_secs(2), proxy.first_token())
                .await
                .unwrap();
        }
    }
}

/// The redirected address is pasted by a person, as over ssh or from a web page.
#[tokio::test]
async fn redirected_address_can_be_pasted() {
    for redirect in [
        "redirect_uri = 'https://myapp.com/callback'\n",
        "redirect_uri = 'http://127.0.0.1:7777/callback'\n",
    ] {
        let world = World::new(&format!("{CODE}{redirect}")).await;
        let login = Login::new(world.provider()).unwrap();
        let by_hand = redirect.contains("127.0.0.1");
        let first = login.authorize(0, by_hand).await.unwrap();
        assert_eq!(first.back, Return::ByHand);
        let back = world.browse(&first.url).await.to_string();
        assert!(back.contains("/callback?"), "{back}");
        let second = login.authorize(0, by_hand).await.unwrap();
        // The state of another login is rejected.
        let error = second.take(&Secret::new(back.as_str())).err().unwrap();
        assert!(error.to_string().contains("another login"), "{error}");
        let given = first.take(&Secret::new(format!(" {back}#\n"))).unwrap();
        world.finish(given).await.unwrap();
        assert!(world.record().await.refresh_token.is_some());
    }
}

#[tokio::test]
async fn verifier_of_another_login_is_refused() {
    let world = World::new(CODE).await;
    let login = Login::new(world.provider()).unwrap();
    let authorization = login.authorize(0, true).await.unwrap();
    // RFC 8252 §8.1: a stolen code is worthless without the verifier.
    let back = world.browse(&authorization.url).await.to_string();
    let mut given = authorization.take(&Secret::new(back)).unwrap();
    given.insert("code_verifier".to_owned(), Var::Text("a".repeat(43).into()));
    let error = world.finish(given).await.unwrap_err();
    assert!(error.to_string().contains("invalid_grant"), "{error}");
    let refusals = world.vendor.refusals();
    assert!(refusals[0].contains("code_verifier"), "{refusals:?}");
}

#[tokio::test]
async fn login_listens_on_the_configured_loopback_redirect() {
    let port = crate::testing::closed_port().await.port();
    let redirect = format!("redirect_uri = 'http://127.0.0.1:{port}/back'\n");
    let world = World::new(&format!("{CODE}{redirect}")).await;
    let login = Login::new(world.provider()).unwrap();
    let error = login.authorize(port ^ 1, false).await.err().unwrap();
    assert!(error.to_string().contains("remove --port"), "{error}");
    let authorization = login.authorize(0, false).await.unwrap();
    let address = format!("http://127.0.0.1:{port}/back");
    assert_eq!(authorization.back, Return::Loopback(address));
    let error = login.authorize(0, false).await.err().unwrap();
    assert!(error.to_string().contains("cannot listen"), "{error}");
}

#[tokio::test]
async fn login_fails_for_providers_without_input_and_for_memory_stores() {
    let simple = Arc::new(provider("x", CLIENT_CREDENTIALS, |_| {}));
    let error = Login::new(simple).unwrap_err().to_string();
    assert!(error.contains("needs no login"), "{error}");
    let fixed = Arc::new(static_provider("x", literal("t")));
    let error = Login::new(fixed).unwrap_err().to_string();
    assert!(error.contains("configured token"), "{error}");
    let mut store = World::new(SMS).await.config.store;
    store.kind = StoreKind::Memory;
    let error = store::open_for_login(&store)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("store.kind = \"file\""), "{error}");
}

/// The first refresh token is kept even if the vendor returns no new one.
#[tokio::test(start_paused = true)]
async fn first_refresh_token_is_asked_for_and_kept() {
    for (reply, kept) in [
        (Reply::Token("t1", 3600), "given"),
        (Reply::Pair("t1", "newer", 3600), "newer"),
    ] {
        let clock = Clock::Test(TestClock::new());
        let vendor = Scripted::new(clock.clone(), reply);
        let fetcher = Arc::new(FakeFetch(Arc::clone(&vendor), Instant::now()));
        let store = Arc::new(MemoryStore::default());
        let bare = Arc::new(provider("x", REFRESH_TOKEN, |_| {}));
        let deps = Deps {
            tokens: Tokens::default(),
            store: Arc::clone(&store) as Arc<dyn Store>,
            fetcher: Arc::clone(&fetcher) as Arc<dyn Fetch>,
            clock: clock.clone(),
            metrics: Arc::new(Metrics::new()),
            random: || 0.5,
        };
        let handle = spawn(vec![Arc::clone(&bare)], deps.clone()).remove(0);
        let mut status = handle.status.clone();
        status
            .wait_for(|status| status.state == State::LoginRequired)
            .await
            .unwrap();
        handle.stop().await;
        assert_eq!(vendor.count(), 0);

        let login = Login::new(Arc::clone(&bare)).unwrap();
        assert_eq!(login.asks()[0].name, "refresh_token");
        let given = given("refresh_token", "given");
        let done = login.finish(
            given,
            Arc::clone(&deps.store),
            fetcher,
            clock,
            Tokens::default(),
        );
        assert!(done.await.unwrap().renewable);
        let record = store.load(&StateKey::new("identity of x")).await.unwrap();
        assert_eq!(record.unwrap().refresh_token, Some(kept.into()));
        let handle = spawn(vec![bare], deps).remove(0);
        assert!(handle.first_token().await);
        assert!(
            vendor.calls()[1]
                .body
                .ends_with(&format!("refresh_token={kept}"))
        );
    }
}

/// A login replaces a token that is still valid; an unreadable drop is reported in the status.
#[tokio::test]
async fn second_login_replaces_the_first_and_unreadable_drop_is_reported() {
    let world = World::new(SMS).await;
    world.finish(given("sms", "123456")).await.unwrap();
    let proxy = world.proxy().await;
    assert!(proxy.first_token().await);
    let mut status = proxy.status.clone();

    let path = world.folder.path().join("state");
    let foreign = foreign_drop(&path, &world.key()).await;
    let told = status.wait_for(|status| status.last_error.is_some());
    let error = timeout(Duration::from_secs(2), told)
        .await
        .unwrap()
        .unwrap()
        .last_error
        .clone()
        .unwrap();
    assert!(error.contains("no key of store.key opens it"), "{error}");
    assert!(foreign.exists());
    assert_eq!(proxy.status().generation, 1);

    // The error goes away with the drop.
    std::fs::remove_file(foreign).unwrap();
    world.vendor.add_one_time("654321");
    world.finish(given("sms", "654321")).await.unwrap();
    let renewed = status.wait_for(|status| status.generation == 2);
    let status = timeout(Duration::from_secs(2), renewed)
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert_eq!((status.state, status.last_error), (State::Valid, None));
}

async fn foreign_drop(path: &Path, key: &StateKey) -> std::path::PathBuf {
    let keys = Keys::new(vec![zeroize::Zeroizing::new([7; 32])]);
    let foreign = store::VisitorStore::new(path.to_owned(), keys);
    let saved = Saved {
        refresh_token: Some("foreign".into()),
        ..Saved::default()
    };
    foreign.save(key, &saved).await.unwrap();
    let mut entries = std::fs::read_dir(path.join("drops")).unwrap();
    entries.next().unwrap().unwrap().path()
}

#[tokio::test]
async fn missing_store_folder_is_created_and_released() {
    let world = World::new(SMS).await;
    let path = world.folder.path().join("state");
    assert!(!path.exists());
    world.finish(given("sms", "123456")).await.unwrap();
    // The lock is released again.
    let keys = Keys::new(vec![]);
    let error = FileStore::open(path, keys).unwrap_err().to_string();
    assert!(error.contains("it is sealed"), "{error}");
}

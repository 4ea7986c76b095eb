//! Tests of issuers with metadata, on paused time.

use http::{HeaderMap, StatusCode};
use serde_json::json;
use zeroize::Zeroizing;

use super::*;
use crate::config::{Endpoint, Issuer};
use crate::dialect::TokenRequest;
use crate::provider::exchange::{
    Fetch, FetchError, Fetched, RawResponse, TokenCall, TokenConnection, Turn, Turns,
};

/// Host of the token endpoint that all issuers name.
const HOST: &str = "127.0.0.1:2";

/// Issuers and their common vendor, with real turns.
struct Issuers {
    vendor: FakeFetch,
    turns: Turns,
    asked: Arc<Mutex<Crowd>>,
}

/// Counts of metadata requests.
#[derive(Default)]
struct Crowd {
    now: usize,
    most: usize,
    all: usize,
}

/// A connection to an issuer.
struct Metadata(Arc<Mutex<Crowd>>);

impl Fetch for Issuers {
    fn turn<'a>(&'a self, endpoint: &'a Endpoint) -> Pending<'a, Turn> {
        Box::pin(self.turns.at(&endpoint.token_url.authority))
    }

    fn dial<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        deadline: Instant,
    ) -> Pending<'a, Result<Box<dyn TokenConnection>, FetchError>> {
        // The token endpoint has another path than the issuers.
        match endpoint.path_and_query == "/token" {
            true => self.vendor.dial(endpoint, deadline),
            false => {
                let line: Box<dyn TokenConnection> = Box::new(Metadata(Arc::clone(&self.asked)));
                Box::pin(std::future::ready(Ok(line)))
            }
        }
    }
}

impl TokenConnection for Metadata {
    fn send<'a>(
        self: Box<Self>,
        _call: TokenCall<'a>,
        _deadline: Instant,
    ) -> Pending<'a, Result<Fetched, FetchError>> {
        unreachable!("an issuer gives no tokens")
    }

    fn ask<'a>(
        self: Box<Self>,
        endpoint: &'a Endpoint,
        _request: TokenRequest,
        _deadline: Instant,
    ) -> Pending<'a, Result<RawResponse, FetchError>> {
        let issuer = endpoint.issuer.as_ref().map(|issuer| issuer.text.clone());
        Box::pin(async move {
            {
                let mut crowd = self.0.lock().unwrap();
                crowd.all += 1;
                crowd.now += 1;
                crowd.most = crowd.most.max(crowd.now);
            }
            sleep(Duration::from_millis(20)).await;
            self.0.lock().unwrap().now -= 1;
            let token_endpoint = format!("http://{HOST}/token");
            let body = json!({ "issuer": issuer, "token_endpoint": token_endpoint });
            Ok(RawResponse {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: Zeroizing::new(body.to_string().into_bytes()),
            })
        })
    }
}

/// A hundred providers with issuers at the given hosts.
async fn spawn_hundred(host: impl Fn(usize) -> String) -> (World, Arc<Mutex<Crowd>>, Vec<Handle>) {
    let world = World::new(Reply::Fresh(3600));
    let asked = Arc::new(Mutex::new(Crowd::default()));
    let deps = Deps {
        fetcher: Arc::new(Issuers {
            vendor: FakeFetch(Arc::clone(&world.vendor), world.started),
            turns: Turns::default(),
            asked: Arc::clone(&asked),
        }),
        ..world.deps.clone()
    };
    let one = |number: usize| {
        let mut one = simple();
        let endpoint = endpoint(&mut one);
        endpoint.identity = format!("identity {number}");
        endpoint.token_url.authority = host(number);
        endpoint.path_and_query = format!("/realm{number}");
        endpoint.issuer = Some(Box::new(Issuer {
            text: format!("http://127.0.0.1:1/realm{number}"),
            well_known: [String::new(), String::new()],
            choices: Vec::new(),
        }));
        spawn(vec![Arc::new(one)], deps.clone()).remove(0)
    };
    let all: Vec<_> = (0..100).map(one).collect();
    for handle in &all {
        let token = timeout(Duration::from_secs(600), handle.first_token());
        assert_eq!(token.await, Ok(true), "they wait for each other");
    }
    (world, asked, all)
}

#[tokio::test(start_paused = true)]
async fn token_requests_to_a_host_of_many_issuers_are_limited() {
    let (world, asked, _all) = spawn_hundred(|number| format!("id{number}.test")).await;
    assert_eq!(
        (world.vendor.count(), world.vendor.most_in_flight()),
        (100, 16)
    );
    let asked = asked.lock().unwrap();
    assert_eq!((asked.all, asked.most), (100, 100));
}

/// Also where the issuer is on the token host: no turn is held while waiting for the next.
#[tokio::test(start_paused = true)]
async fn metadata_requests_to_one_host_are_limited() {
    for host in ["id.test", HOST] {
        let (world, asked, _all) = spawn_hundred(|_| host.to_owned()).await;
        assert_eq!(
            (world.vendor.count(), world.vendor.most_in_flight()),
            (100, 16)
        );
        let asked = asked.lock().unwrap();
        assert_eq!((asked.all, asked.most), (100, 16), "{host}");
    }
}

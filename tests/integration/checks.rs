//! Requests, responses, upstreams and assertions that several test files share.

use cupbearer::demo::authority::Offer;

use crate::client::whole;
use crate::harness::{App, World, eventually};
use crate::upstream::Server;

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Starts an upstream that answers every request with `ok`.
pub(crate) async fn ok_server(world: &World, offer: Offer) -> Server {
    Server::start(&world.authority, offer, |_| async {
        http::Response::new(whole("ok"))
    })
    .await
}

/// Returns how many requests the upstream `api` has in flight, from `/metrics`.
pub(crate) async fn in_flight(app: &App) -> f64 {
    app.metric("cupbearer_requests_in_flight{upstream=\"api\"}")
        .await
}

/// Waits until no request of the upstream `api` is in flight.
pub(crate) async fn none_in_flight(app: &App) {
    eventually("no request in flight", async || in_flight(app).await == 0.0).await;
}

/// Returns the number in an environment variable, such as the seed of a property test.
pub(crate) fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

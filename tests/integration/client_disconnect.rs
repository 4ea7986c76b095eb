//! Apps that go away in the middle of a request while nobody reads its body: it waits for something else.

use crate::harness::{App, World, eventually, server, with_app};
use crate::upstream::Script;

/// Much longer than a test waits.
const PATIENT: &str =
    "max_in_flight = 1\ntimeouts = { connect = \"10m\", response = \"10m\", body = \"10m\" }\n";

const POST: &str = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n";

async fn in_flight(app: &App) -> f64 {
    app.metric("cupbearer_requests_in_flight{upstream=\"api\"}")
        .await
}

/// Has a request come in, and its client go away, by both ways there are.
async fn comes_and_goes(app: &App, request: &str) {
    for reset in [false, true] {
        let mut client = app.connect().await;
        client.send(request).await;
        eventually("a request in flight", async || in_flight(app).await == 1.0).await;
        if reset {
            client.stream.set_zero_linger().unwrap();
        }
        drop(client);
        eventually("the place", async || in_flight(app).await == 0.0).await;
    }
}

/// The whole body is there, and its end behind it.
#[tokio::test]
async fn while_it_waits_for_a_connection() {
    let world = World::new();
    let silent = Script::plain().await;
    let url = format!("https://{}", silent.address());
    let config = server("") + &world.upstream("api", &url, PATIENT);
    with_app(&config, async |app| {
        comes_and_goes(app, &(POST.to_owned() + "hello")).await;
        comes_and_goes(app, &(POST.to_owned() + "hel")).await;
    })
    .await;
}

#[tokio::test]
async fn while_it_waits_for_a_token() {
    let world = World::new();
    let silent = Script::plain().await;
    let upstream = Script::tls(&world.authority).await;
    let config = format!(
        "{}[providers.slow]\ntoken_url = \"http://{}/token\"\nclient_id = \"c\"\nclient_secret = \"s\"\n\
         [upstreams.api]\nurl = \"{}\"\nprovider = \"slow\"\ntoken_wait = \"10m\"\n{}{PATIENT}",
        server(""),
        silent.address(),
        upstream.url(),
        world.tls()
    );
    with_app(&config, async |app| {
        comes_and_goes(app, &(POST.to_owned() + "hello")).await;
    })
    .await;
}

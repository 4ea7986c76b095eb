//! Apps that disconnect while their request waits for a token or an upstream connection. The
//! proxy does not read the body at that time, but must notice the disconnect.

use crate::checks::{in_flight, none_in_flight};
use crate::harness::{App, World, eventually, server, with_app};
use crate::upstream::Script;

/// Time limits that no test reaches.
const LONG_TIMEOUTS: &str =
    "max_in_flight = 1\ntimeouts = { connect = \"10m\", response = \"10m\", body = \"10m\" }\n";

const POST: &str = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n";

/// Sends a request, closes the connection (by FIN, then by RST), and waits for the permit.
async fn send_and_disconnect(app: &App, request: &str) {
    for reset in [false, true] {
        let mut client = app.connect().await;
        client.send(request).await;
        eventually("a request in flight", async || in_flight(app).await == 1.0).await;
        if reset {
            client.stream.set_zero_linger().unwrap();
        }
        drop(client);
        none_in_flight(app).await;
    }
}

/// The first body is complete, so the end of the connection follows it.
#[tokio::test]
async fn a_disconnect_while_waiting_for_an_upstream_connection_returns_the_permit() {
    let world = World::new();
    let silent = Script::plain().await;
    let url = format!("https://{}", silent.address());
    let config = server("") + &world.upstream("api", &url, LONG_TIMEOUTS);
    with_app(&config, async |app| {
        send_and_disconnect(app, &(POST.to_owned() + "hello")).await;
        send_and_disconnect(app, &(POST.to_owned() + "hel")).await;
    })
    .await;
}

#[tokio::test]
async fn a_disconnect_while_waiting_for_a_token_returns_the_permit() {
    let world = World::new();
    let silent = Script::plain().await;
    let upstream = Script::tls(&world.authority).await;
    let config = format!(
        "{}[providers.slow]\ntoken_url = \"http://{}/token\"\n\
         client_id = \"c\"\nclient_secret = \"s\"\n\
         [upstreams.api]\nurl = \"{}\"\nprovider = \"slow\"\n\
         token_wait = \"10m\"\n{}{LONG_TIMEOUTS}",
        server(""),
        silent.address(),
        upstream.url(),
        world.tls()
    );
    with_app(&config, async |app| {
        send_and_disconnect(app, &(POST.to_owned() + "hello")).await;
    })
    .await;
}

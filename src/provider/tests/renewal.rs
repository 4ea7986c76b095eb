//! A refresh that sends the access token which it renews, as Vault's renew-self does.

use super::*;

/// A repeatable grant whose tokens can be prolonged.
const RENEWABLE: &str = r#"
default_grant = "main"
[grants.main]
form = { password = "{client_secret}" }
[refresh]
form = { renew = "{access_token}" }
[response]
token = "/access_token"
expires = "/expires_in"
error = "/error"
[inject]
headers = { Authorization = "Bearer {access_token}" }
"#;

const LOGIN: &str = "password=hunter2";

fn bodies(world: &World) -> Vec<String> {
    let calls = world.vendor.calls().into_iter();
    calls.map(|call| call.body).collect()
}

#[tokio::test(start_paused = true)]
async fn current_token_is_renewed_until_its_life_grows_no_more() {
    let world = World::new(Reply::Token("t2", 1000));
    world.vendor.then([
        Reply::Token("t1", 100),
        Reply::Token("t1", 100),
        // The longest life is reached: only what was left is stated.
        Reply::Token("t1", 20),
    ]);
    let handle = world.spawn(provider("x", RENEWABLE, |_| {}));
    sleep(Duration::from_secs(300)).await;
    assert_eq!(bodies(&world), [LOGIN, "renew=t1", "renew=t1", LOGIN]);
    assert_eq!(current(&handle).as_deref(), Some("Bearer t2"));
}

#[tokio::test(start_paused = true)]
async fn refused_renewal_falls_back_to_the_grant_at_once() {
    let world = World::new(Reply::Token("t2", 1000));
    world.vendor.then([
        Reply::Token("t1", 100),
        Reply::Refuse(FailureClass::Permanent, "permission denied"),
    ]);
    let handle = world.spawn(provider("x", RENEWABLE, |_| {}));
    sleep(Duration::from_secs(95)).await;
    assert_eq!(bodies(&world), [LOGIN, "renew=t1", LOGIN]);
    assert_eq!(current(&handle).as_deref(), Some("Bearer t2"));
}

#[tokio::test(start_paused = true)]
async fn expired_token_is_not_renewed() {
    let world = World::new(Reply::Token("t2", 1000));
    world.vendor.then([Reply::Token("t1", 100)]);
    let handle = world.spawn(provider("x", RENEWABLE, |_| {}));
    sleep(Duration::from_secs(1)).await;
    world
        .vendor
        .always(Reply::Refuse(FailureClass::Transient, "busy"));
    sleep(Duration::from_secs(200)).await;
    world.vendor.always(Reply::Token("t2", 1000));
    sleep(Duration::from_secs(70)).await;
    assert_eq!(bodies(&world).last().map(String::as_str), Some(LOGIN));
    assert_eq!(current(&handle).as_deref(), Some("Bearer t2"));
}

//! `kill -9` of the program itself while refresh tokens rotate: the next one goes on, without a person.

use cupbearer::demo::vendors::{Fault, Kind};
use rustix::process::Signal;

use crate::cli::Running;
use crate::client::Client;
use crate::harness::{World, eventually};

const KILLS: u64 = 6;

/// Each refresh token of this vendor is good for one use. Whatever instant the kill hits (the request on its way, the answer, the write, the
/// pause after it), the stored one is the newest or the password is sent again.
#[tokio::test]
async fn killed_while_its_refresh_token_rotates_it_goes_on() {
    let world = World::new();
    let life = std::time::Duration::from_secs(1);
    let vendor = world.vendor(Kind::IdentityServer, Some(life)).await;
    let store = format!(
        "[store]\nkind = \"file\"\npath = {:?}\n",
        world.path("state")
    );
    world.write(
        "cupbearer.toml",
        &(world.vendor_config(&vendor, "", "") + &store),
    );
    for kill in 0..KILLS {
        let mut running = Running::start(&world, &["run"]).await;
        let address = running.listen.parse().unwrap();
        let answer = Client::connect(address)
            .await
            .get("/identityserver/x")
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        // At the instant of an issue, or with the answer still on its way: then it is lost for certain.
        let lost = kill % 2 == 1;
        if lost {
            vendor.set_fault(Some(Fault::Slow(life * 10)));
        }
        let issued = vendor.counters().issued;
        eventually("another token", async || vendor.counters().issued > issued).await;
        running.signal(Signal::KILL);
        running.child.wait().await.unwrap();
        vendor.set_fault(None);
    }
    let running = Running::start(&world, &["run"]).await;
    let address = running.listen.parse().unwrap();
    let answer = Client::connect(address)
        .await
        .get("/identityserver/x")
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    running.signal(Signal::INT);
    assert_eq!(running.ended().await.0, 0);
    // The only thing that was refused is a refresh token whose successor was lost with its process.
    for refusal in vendor.refusals() {
        assert!(
            refusal.contains("refresh_token was used before"),
            "{refusal}"
        );
    }
    assert!(!vendor.refusals().is_empty());
}

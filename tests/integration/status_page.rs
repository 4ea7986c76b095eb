//! The status page in a real browser.

use std::time::Duration;

use cupbearer::demo::vendors::{Fault, Kind};
use serde_json::json;

use crate::browser::Browser;
use crate::harness::{App, World, join_all, server, with_app};

/// The text of one part of a provider's or upstream's card.
fn card(section: &str, name: &str, part: &str) -> String {
    format!(
        "[...document.querySelectorAll('#{section} > li')].find(it => it.querySelector('h3')?.textContent === '{name}')?.querySelector('{part}')?.textContent"
    )
}

async fn open(app: &App) -> Option<Browser> {
    let mut browser = Browser::open(&format!("http://{}/", app.admin_address())).await?;
    browser
        .wait("document.getElementById('ready')?.textContent.endsWith('ready') === true")
        .await;
    Some(browser)
}

#[tokio::test]
async fn all_well_is_seen_at_a_glance() {
    let world = World::new();
    let sticky = world
        .vendor(Kind::Ctcfile, Some(Duration::from_secs(600)))
        .await;
    let year = world.vendor(Kind::Passport, None).await;
    let config = server("")
        + &world.vendor_provider("ctcfile", &sticky, "")
        + &world.vendor_upstream("ctcfile", "ctcfile", &sticky, "")
        + &world.vendor_provider("passport", &year, "")
        + &world.vendor_upstream("passport", "passport", &year, "")
        + &world.upstream(
            "static",
            "http://127.0.0.1:1",
            "route = { path_prefix = \"/static\" }",
        );
    with_app(&config, async |app| {
        app.ready().await;
        let Some(mut browser) = open(app).await else { return };
        assert_eq!(browser.text("document.getElementById('ready').textContent").await, "ready");
        for (name, next) in [("ctcfile", "next fetch in "), ("passport", "next fetch in 364 d "), ("static", "not fetched: a token of your own")] {
            assert_eq!(browser.text(&card("providers", name, ".badge")).await, "valid");
            let times = browser.text(&card("providers", name, ".row .time + .time")).await;
            assert!(times.starts_with(next), "{name}: {times}");
        }
        assert!(browser.text(&card("providers", "ctcfile", ".about, p")).await.contains("single active"));

        // Requests show up in numbers and, after the second answer, in both charts.
        let ask = (0..20).map(|_| {
            let address = app.address();
            async move { crate::client::Client::connect(address).await.get("/ctcfile/x").await.status.as_u16() }
        });
        assert_eq!(join_all(ask).await, [200; 20]);
        let number = card("upstreams", "ctcfile", "dd");
        browser.wait(&format!("{number} === '20'")).await;
        browser.wait("[...document.querySelectorAll('#upstreams svg')].filter(it => it.querySelector('polyline').getAttribute('points')?.includes(',')).length >= 2").await;
        let label = browser.text("document.querySelectorAll('#upstreams svg')[1].getAttribute('aria-label')").await;
        assert!(label.starts_with("Latency of ctcfile: median ") && label.contains("ms"), "{label}");

        let spoken = browser.spoken().await;
        let life = spoken.iter().find(|(role, name, _)| role == "meter" && name == "Life of the token of ctcfile");
        assert!(life.is_some(), "{spoken:?}");
        let value = browser.text("document.querySelector('#providers [role=meter]').getAttribute('aria-valuetext')").await;
        assert!(value.starts_with("valid, expires in ") && value.contains("next fetch in"), "{value}");
        for label in ["Refresh ctcfile now", "Refresh passport now"] {
            assert_eq!(spoken.iter().filter(|(role, name, _)| role == "button" && name == label).count(), 1);
        }
        // A token of one's own cannot be fetched.
        assert!(!spoken.iter().any(|(role, name, _)| role == "button" && name.contains("static")));
        browser.picture("all-well").await;

        for (width, scheme) in [(400, "light"), (400, "dark"), (1200, "dark"), (1200, "light")] {
            browser.size(width, 1000).await;
            browser.prefers(scheme).await;
            let wide = browser.evaluate("document.documentElement.scrollWidth").await;
            assert!(wide.as_u64().unwrap() <= u64::from(width), "{width} px: the page is {wide} wide");
            let worst = browser.evaluate(CONTRAST).await;
            assert!(worst["ratio"].as_f64().unwrap() >= 4.5, "{scheme}: {worst}");
            browser.picture(&format!("{width}-{scheme}")).await;
        }
        browser.close().await;
    })
    .await;
}

/// WCAG 2.2 §1.4.3: the text with the least contrast to what it stands on.
const CONTRAST: &str = r"(() => {
    const channels = (color) => color.match(/[\d.]+/g).map(Number);
    const luminance = (color) => {
        const [r, g, b] = channels(color).map((it) => it / 255).map((it) => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if (channels(color)[3] !== 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    let worst = { ratio: 99 };
    for (const node of document.querySelectorAll('body *')) {
        if (![...node.childNodes].some((it) => it.nodeType === 3 && it.textContent.trim()) || !node.checkVisibility()) continue;
        if (node.closest('script, style')) continue;
        const [a, b] = [luminance(getComputedStyle(node).color), luminance(behind(node))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < worst.ratio) worst = { ratio, text: node.textContent, color: getComputedStyle(node).color };
    }
    return worst;
})()";

#[tokio::test]
async fn a_vendor_that_is_down_is_told_in_its_own_words() {
    let world = World::new();
    let vendor = world
        .vendor(Kind::Besender, Some(Duration::from_secs(2)))
        .await;
    let config = world.vendor_config(&vendor, "", "token_wait = \"50ms\"");
    with_app(&config, async |app| {
        app.ready().await;
        let Some(mut browser) = open(app).await else {
            return;
        };
        vendor.set_fault(Some(Fault::Status(503)));
        let badge = card("providers", "besender", ".badge");
        browser.wait(&format!("{badge} === 'expired'")).await;
        let said = browser
            .text("document.getElementById('said').textContent")
            .await;
        assert_eq!(said, "The token of besender is now expired");
        let error = browser.text(&card("providers", "besender", "p.bad")).await;
        assert!(error.contains("503"), "{error}");
        let ends = browser.text(&card("providers", "besender", ".time")).await;
        assert!(
            ends.starts_with("expired ") && ends.ends_with(" ago"),
            "{ends}"
        );
        browser.picture("vendor-down").await;

        vendor.set_fault(None);
        browser.wait(&format!("{badge} === 'valid'")).await;
        browser.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_token_is_refreshed_by_keyboard_and_the_focus_stays() {
    let world = World::new();
    let vendor = world
        .vendor(Kind::Cncn, Some(Duration::from_secs(600)))
        .await;
    let config = world.vendor_config(&vendor, "min_interval = \"4s\"", "");
    with_app(&config, async |app| {
        app.ready().await;
        let Some(mut browser) = open(app).await else {
            return;
        };
        const FOCUSED: &str = "document.activeElement.getAttribute('aria-label')";
        let mut steps = 0;
        while browser.text(FOCUSED).await != "Refresh cncn now" {
            browser.press("Tab").await;
            steps += 1;
            assert!(steps < 10, "the button cannot be reached by Tab");
        }
        let outcome = card("providers", "cncn", ".row [role=status]");
        // The first fetch was a moment ago, and counts.
        while vendor.counters().issued == 1 {
            browser.press("Enter").await;
            browser
                .wait(&format!("!!{outcome} && {outcome} !== 'fetching a token…'"))
                .await;
        }
        assert_eq!(browser.text(&outcome).await, "a new token is in place");
        assert_eq!(browser.text(FOCUSED).await, "Refresh cncn now");

        browser.press("Enter").await;
        browser
            .wait(&format!(
                "{outcome}?.startsWith('min_interval is not over')"
            ))
            .await;
        assert_eq!(vendor.counters().issued, 2);
        browser.picture("refreshed").await;
        browser.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_login_that_is_due_names_the_command() {
    let world = World::new();
    let vendor = world.vendor(Kind::IdentityServer, None).await;
    let store = format!(
        "[store]\nkind = \"file\"\npath = {:?}\n",
        world.path("state")
    );
    let config = format!(
        "{}{store}[providers.identityserver]\ndialect = \"identityserver\"\ntoken_url = \"{}\"\n{}\
         client_id = \"a\"\nclient_secret = \"b\"\ngrant = \"sms\"\nvars = {{ phone = \"13800000000\" }}\n{}",
        server(""),
        vendor.token_url(),
        world.tls(),
        world.vendor_upstream("identityserver", "identityserver", &vendor, "")
    );
    with_app(&config, async |app| {
        let Some(mut browser) = open(app).await else {
            return;
        };
        browser
            .wait(&format!(
                "{} === 'login required'",
                card("providers", "identityserver", ".badge")
            ))
            .await;
        let error = browser
            .text(&card("providers", "identityserver", "p.bad"))
            .await;
        assert!(error.contains("cupbearer login identityserver"), "{error}");
        assert_eq!(
            browser
                .text("document.getElementById('ready').textContent")
                .await,
            "not ready"
        );
        browser.picture("login-required").await;
        browser.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_start_shows_what_is_waited_for() {
    let world = World::new();
    let vendor = world.vendor(Kind::Besender, None).await;
    vendor.set_fault(Some(Fault::Slow(Duration::from_secs(60))));
    let config = world.vendor_config(&vendor, "", "");
    with_app(&config, async |app| {
        let Some(mut browser) = open(app).await else {
            return;
        };
        assert_eq!(
            browser
                .text("document.getElementById('ready').textContent")
                .await,
            "not ready"
        );
        assert_eq!(
            browser
                .text("document.getElementById('notes').textContent")
                .await,
            "provider besender: missing"
        );
        assert_eq!(
            browser.text(&card("providers", "besender", ".time")).await,
            "no token"
        );
        assert!(
            browser
                .text("document.title")
                .await
                .starts_with("not ready")
        );
        browser.picture("starting").await;
        vendor.set_fault(None);
        browser.close().await;
    })
    .await;
}

#[tokio::test]
async fn many_are_found_by_name_and_the_end_of_the_proxy_is_told() {
    use std::fmt::Write as _;
    let mut config = server("") + "[providers.p]\naccess_token = \"t\"\n";
    for i in 0..300 {
        let _ = writeln!(
            config,
            "[upstreams.api-{i}]\nurl = \"http://127.0.0.1:1\"\nprovider = \"p\"\nroute = {{ path_prefix = \"/{i}\" }}"
        );
    }
    let mut app = App::start(&config).await;
    let Some(mut browser) = open(&app).await else {
        app.stop(cupbearer::app::Shutdown::Interrupt);
        app.ended().await.unwrap();
        return;
    };
    const CARDS: &str = "document.querySelectorAll('#upstreams > li').length";
    assert_eq!(browser.evaluate(CARDS).await, json!(100));
    assert_eq!(
        browser
            .text("document.getElementById('upstreams-more').textContent")
            .await,
        "and 200 more: search by name"
    );
    browser.evaluate("(() => { const it = document.getElementById('filter'); it.value = 'API-29'; it.dispatchEvent(new Event('input')); })()").await;
    assert_eq!(browser.evaluate(CARDS).await, json!(11));
    app.stop(cupbearer::app::Shutdown::Interrupt);
    app.ended().await.unwrap();
    browser
        .wait("!document.getElementById('lost').hidden")
        .await;
    browser.picture("lost").await;
    browser.close().await;
}

//! Token requests that others send wrongly, or once too often.

use cupbearer::demo::authority::Offer;
use tokio_rustls::TlsAcceptor;

use crate::endpoint::{Endpoint, SECRET, config, echo, json, provider, token_response, upstream};
use crate::harness::{World, log, server, with_app};

const BASIC: &str = "Basic am9lbGh5Omh1bnRlcjItb2YtdGhlLXBlZXJz";

/// golang.org/x/oauth2 (under KrakenD, Dapr, Tyk): it probes how to authenticate, so that one failed login is two requests, with
/// the secret in both forms.
#[tokio::test]
async fn one_failed_login_is_one_request() {
    let vendor =
        Endpoint::start(|_| async { json("401 Unauthorized", r#"{"error":"invalid_client"}"#) })
            .await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        for _ in 0..5 {
            assert_eq!(app.get("/x").await.code(), "credentials_rejected");
        }
        let asked = vendor.received();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].credential(), BASIC);
        assert!(!asked[0].body.contains("client_secret"));
    })
    .await;
}

/// token-refresher: `--scope` overwrites audience, user name and password.
#[tokio::test]
async fn a_scope_overwrites_nothing_else() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    let keys = "grant = \"password\"\nusername = \"u\"\npassword = \"pw-12345678\"\nscope = \"read write\"\n\
                audience = \"https://a.example\"";
    with_app(&config(&vendor, &api, keys, ""), async |app| {
        assert_eq!(app.get("/x").await.text(), "Bearer t1");
        let body = &vendor.received()[0].body;
        assert_eq!(
            body,
            "grant_type=password&username=u&password=pw-12345678&scope=read+write&audience=https%3A%2F%2Fa.example"
        );
    })
    .await;
}

/// envoyproxy/envoy#42037: no way to send `audience` and `resource`.
#[tokio::test]
async fn audience_and_resource_are_sent() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    let keys = "audience = \"a\"\nresource = \"urn:r\"";
    with_app(&config(&vendor, &api, keys, ""), async |app| {
        assert_eq!(app.get("/x").await.text(), "Bearer t1");
        let body = &vendor.received()[0].body;
        assert!(body.ends_with("&audience=a&resource=urn%3Ar"), "{body}");
    })
    .await;
}

/// nono-proxy: the token request's `Host` lacks the port.
#[tokio::test]
async fn the_host_has_its_port() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        assert_eq!(app.get("/x").await.text(), "Bearer t1");
        for endpoint in [&vendor, &api] {
            let address = endpoint.address().to_string();
            assert_eq!(endpoint.received()[0].head.get("host"), Some(&*address));
        }
    })
    .await;
}

/// superfly/tokenizer: IPv6 literals are split at the wrong colon.
#[tokio::test]
async fn ipv6_literals_are_hosts() {
    let vendor = Endpoint::start_at("[::1]:0", None, token_response).await;
    let api = Endpoint::start_at("[::1]:0", None, echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        assert_eq!(app.get("/x").await.text(), "Bearer t1");
        for endpoint in [&vendor, &api] {
            let host = format!("[::1]:{}", endpoint.address().port());
            assert_eq!(endpoint.received()[0].head.get("host"), Some(&*host));
        }
        // And the app may call the upstream by its name.
        let by_name = format!(
            "GET /x HTTP/1.1\r\nHost: [::1]:{}\r\n\r\n",
            api.address().port()
        );
        let seen = app.connect().await.request(&by_name).await;
        assert_eq!(seen.text(), "Bearer t1");
    })
    .await;
}

/// KrakenD: the OAuth client goes round the configured transport, so that CA and client certificate are not used for the token.
#[tokio::test]
async fn ca_and_client_certificate_count_for_the_token_request() {
    let world = World::new();
    let offer = Offer {
        http2: false,
        client_certificate: true,
    };
    let acceptor = || {
        let config = world.authority.server(&["127.0.0.1"], offer).unwrap();
        Some(TlsAcceptor::from(config))
    };
    let vendor = Endpoint::start_at("127.0.0.1:0", acceptor(), token_response).await;
    let api = Endpoint::start_at("127.0.0.1:0", acceptor(), echo).await;
    let identity = world.authority.client("cupbearer").unwrap();
    let certificate = world.write("client.pem", &identity.certificate);
    let key = world.write("client.key", &identity.key);
    let tls = format!(
        "tls = {{ ca_file = {:?}, client_cert_file = {certificate:?}, client_key_file = {key:?} }}",
        world.path("ca.pem")
    );
    with_app(&config(&vendor, &api, &tls, &tls), async |app| {
        assert_eq!(app.get("/x").await.text(), "Bearer t1");
    })
    .await;
    // The provider's own keys count, and not the upstream's.
    with_app(
        &config(&vendor, &api, "", &format!("{tls}\ntoken_wait = \"300ms\"")),
        async |app| {
            assert_eq!(app.get("/x").await.code(), "token_unavailable");
            assert_eq!(vendor.count(), 1);
        },
    )
    .await;
}

/// grafana/grafana#23503: no way to send the secret in the query of a GET. surfkansas: the whole URL is logged.
#[tokio::test]
async fn a_secret_in_the_query_of_a_get_is_sent_and_not_logged() {
    const IN_QUERY: &str = "hunter2-in-a-query";
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    let dialect = "[dialects.odd]\ndefault_grant = \"key\"\n[dialects.odd.request]\nmethod = \"GET\"\n\
                   [dialects.odd.grants.key]\nquery = { appId = \"{client_id}\", appKey = \"{key}\" }\n\
                   [dialects.odd.response]\ntoken = \"/access_token\"\n\
                   [dialects.odd.inject]\nheaders = { Authorization = \"Bearer {access_token}\" }\n";
    let config = format!(
        "{}[providers.p]\ndialect = \"odd\"\ntoken_url = \"{}/token\"\nclient_id = \"joelhy\"\n\
         vars = {{ key = \"{IN_QUERY}\" }}\n{}{dialect}",
        server(""),
        vendor.url(),
        upstream(&api, "")
    );
    with_app(&config, async |app| {
        assert_eq!(app.get("/x").await.text(), "Bearer t1");
        let first = &vendor.received()[0].head.first;
        assert_eq!(
            first,
            &format!("GET /token?appId=joelhy&appKey={IN_QUERY} HTTP/1.1")
        );
        assert!(log().contains("token endpoint answered"));
        assert!(!log().contains(IN_QUERY));
    })
    .await;
}

/// Dapr's cache is keyed by client and scopes, Tyk's leaves out user name and URL, grafana/grafana#12236 has one for each data
/// source: whoever differs in the rest gets the other's token.
#[tokio::test]
async fn whatever_tells_two_providers_apart_gives_them_two_tokens() {
    let vendor = Endpoint::start(token_response).await;
    let other = Endpoint::start(|asked| async move {
        token_response(asked)
            .await
            .replace("\"access_token\":\"t", "\"access_token\":\"o")
    })
    .await;
    let api = Endpoint::start(echo).await;
    let password = |user: &str| {
        format!("grant = \"password\"\nusername = \"{user}\"\npassword = \"pw-12345678\"")
    };
    let mut config = server("");
    let differing = [
        ("plain", vendor.url(), String::new()),
        ("audience", vendor.url(), "audience = \"b\"".to_owned()),
        ("resource", vendor.url(), "resource = \"urn:b\"".to_owned()),
        ("scope", vendor.url(), "scope = \"b\"".to_owned()),
        ("alice", vendor.url(), password("alice")),
        ("bob", vendor.url(), password("bob")),
        ("elsewhere", other.url(), String::new()),
    ];
    for (name, url, keys) in &differing {
        config += &provider(name, url, keys);
        config += &upstream(&api, &format!("route = {{ path_prefix = \"/{name}\" }}"))
            .replace("[upstreams.api]", &format!("[upstreams.{name}]"))
            .replace("provider = \"p\"", &format!("provider = \"{name}\""));
    }
    with_app(&config, async |app| {
        let mut tokens = Vec::new();
        for (name, ..) in &differing {
            tokens.push(app.get(&format!("/{name}/x")).await.text());
        }
        tokens.sort();
        tokens.dedup();
        assert_eq!(tokens.len(), differing.len(), "{tokens:?}");
        assert_eq!((vendor.count(), other.count()), (6, 1));
    })
    .await;
}

/// Dapr: `Header.Add` leaves the app's own `Authorization` beside the token.
#[tokio::test]
async fn the_apps_own_credential_is_replaced_and_not_joined() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        let seen = app
            .connect()
            .await
            .request(
                "GET /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer of-the-app\r\nauthorization: Basic eA==\r\n\r\n",
            )
            .await;
        assert_eq!(seen.text(), "Bearer t1");
    })
    .await;
}

/// golang.org/x/oauth2 escapes what goes into Basic unless it is told not to; many vendors want it raw, agentgateway#2338 does not.
#[tokio::test]
async fn basic_is_form_encoded_unless_the_dialect_says_raw() {
    for (keys, expected) in [
        // `a+b%26c:p%3Aw`, RFC 6749 §2.3.1.
        ("", "Basic YStiJTI2YzpwJTNBdw=="),
        (
            "request = { basic = { username = \"{client_id}\", password = \"{client_secret}\", encoding = \"raw\" } }",
            // `a b&c:p:w`
            "Basic YSBiJmM6cDp3",
        ),
    ] {
        let vendor = Endpoint::start(token_response).await;
        let api = Endpoint::start(echo).await;
        let config = config(&vendor, &api, keys, "")
            .replace("\"joelhy\"", "\"a b&c\"")
            .replace(SECRET, "p:w");
        with_app(&config, async |app| {
            assert_eq!(app.get("/x").await.text(), "Bearer t1");
            assert_eq!(vendor.received()[0].credential(), expected);
        })
        .await;
    }
}

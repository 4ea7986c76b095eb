//! Token requests that other programs send wrongly or too often.

use cupbearer::demo::authority::Offer;
use tokio_rustls::TlsAcceptor;

use crate::endpoint::{Endpoint, SECRET, config, echo, json, provider, token_response, upstream};
use crate::harness::{World, log, server, with_app};

const BASIC: &str = "Basic am9lbGh5Omh1bnRlcjItb2YtdGhlLXBlZXJz";

/// golang.org/x/oauth2 (under KrakenD, Dapr, Tyk) probes the authentication method, so one failed
/// login is two requests, with the secret in both forms.
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
        let requests = vendor.received();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].credential(), BASIC);
        assert!(!requests[0].body.contains("client_secret"));
    })
    .await;
}

/// token-refresher: `--scope` replaces audience, user name and password.
#[tokio::test]
async fn a_scope_is_sent_with_all_other_parameters() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    let keys = "grant = \"password\"\nusername = \"u\"\npassword = \"pw-12345678\"\n\
                scope = \"read write\"\naudience = \"https://a.example\"";
    with_app(&config(&vendor, &api, keys, ""), async |app| {
        assert_eq!(app.get("/x").await.text(), "Bearer t1");
        let body = &vendor.received()[0].body;
        assert_eq!(
            body,
            "grant_type=password&username=u&password=pw-12345678&scope=read+write\
             &audience=https%3A%2F%2Fa.example"
        );
    })
    .await;
}

/// envoyproxy/envoy#42037: `audience` and `resource` cannot be sent.
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

/// nono-proxy: `Host` of the token request lacks the port.
#[tokio::test]
async fn the_host_field_contains_the_port() {
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
async fn ipv6_literals_are_valid_hosts() {
    let vendor = Endpoint::start_at("[::1]:0", None, token_response).await;
    let api = Endpoint::start_at("[::1]:0", None, echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        assert_eq!(app.get("/x").await.text(), "Bearer t1");
        for endpoint in [&vendor, &api] {
            let host = format!("[::1]:{}", endpoint.address().port());
            assert_eq!(endpoint.received()[0].head.get("host"), Some(&*host));
        }
        // The app may send the name of the upstream in `Host`.
        let request = format!(
            "GET /x HTTP/1.1\r\nHost: [::1]:{}\r\n\r\n",
            api.address().port()
        );
        let seen = app.connect().await.request(&request).await;
        assert_eq!(seen.text(), "Bearer t1");
    })
    .await;
}

/// KrakenD: the OAuth client bypasses the configured transport, so token requests use neither its
/// CA nor its client certificate.
#[tokio::test]
async fn token_requests_use_the_ca_and_client_certificate_of_the_provider() {
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
    // The TLS settings of the upstream do not apply to token requests.
    with_app(
        &config(&vendor, &api, "", &format!("{tls}\ntoken_wait = \"300ms\"")),
        async |app| {
            assert_eq!(app.get("/x").await.code(), "token_unavailable");
            assert_eq!(vendor.count(), 1);
        },
    )
    .await;
}

/// grafana/grafana#23503: a secret cannot be sent in the query of a GET. surfkansas: the whole URL
/// is logged.
#[tokio::test]
async fn a_secret_in_the_query_of_a_get_is_sent_and_not_logged() {
    const IN_QUERY: &str = "hunter2-in-a-query";
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    let dialect = "[dialects.odd]\ndefault_grant = \"key\"\n\
             [dialects.odd.request]\nmethod = \"GET\"\n\
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

/// Cache keys are incomplete: client and scopes in Dapr, no user name and URL in Tyk, the data
/// source in grafana/grafana#12236. Providers that differ only in the rest share a token.
#[tokio::test]
async fn providers_that_differ_in_any_parameter_get_different_tokens() {
    let vendor = Endpoint::start(token_response).await;
    let other = Endpoint::start(|request| async move {
        token_response(request)
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

/// Dapr: `Header.Add` keeps the app's `Authorization` next to the token.
#[tokio::test]
async fn the_credential_of_the_app_is_replaced() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(echo).await;
    with_app(&config(&vendor, &api, "", ""), async |app| {
        let seen = app
            .connect()
            .await
            .request(
                "GET /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer of-the-app\r\n\
                 authorization: Basic eA==\r\n\r\n",
            )
            .await;
        assert_eq!(seen.text(), "Bearer t1");
    })
    .await;
}

/// golang.org/x/oauth2 escapes Basic credentials by default. Many vendors expect raw credentials,
/// agentgateway#2338 expects escaped ones.
#[tokio::test]
async fn basic_is_form_encoded_unless_the_dialect_says_raw() {
    for (keys, expected) in [
        // `a+b%26c:p%3Aw`, RFC 6749 §2.3.1.
        ("", "Basic YStiJTI2YzpwJTNBdw=="),
        (
            "request = { basic = { username = \"{client_id}\", password = \"{client_secret}\", \
             encoding = \"raw\" } }",
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

//! Identities of providers: equal identities share a stored token.

use super::*;

#[test]
fn providers_of_one_identity_must_send_the_same_request() {
    let equal = |lines: &str| second_provider(lines).replace("'other'", "'s3cret'");
    let config = good(&equal("client_id = 'id'"));
    assert_eq!(endpoint(&config, 0).identity, endpoint(&config, 1).identity);
    assert_eq!(config.warnings, []);
    let config = good(&equal("client_id = 'id'\ntimeout = '3s'"));
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert_eq!(config.warnings[0].path, "providers.q");
    bad(
        &second_provider("client_id = 'id'"),
        &["providers.q: fetches the same token as `p`, but with another client_secret"],
    );
    for (key, line) in [
        ("tls", "tls = { server_name = 'x.internal' }"),
        ("proxy", "proxy = 'http://proxy:3128'"),
        ("allow_http", "allow_http = true"),
    ] {
        let problem =
            format!("providers.q: fetches the same token as `p`, but with another `{key}`");
        bad(&equal(&format!("client_id = 'id'\n{line}")), &[&problem]);
    }
    for different in [
        "client_id = 'id2'",
        "client_id = 'id'\nscope = 'x'",
        "client_id = 'id'\nresource = 'x'",
        "client_id = 'id'\naudience = 'x'",
        "client_id = 'id'\nvars = { tenant = 'b' }\nrequest = { headers = { X-T = '{tenant}' } }",
    ] {
        let config = good(&second_provider(different));
        assert_ne!(
            endpoint(&config, 0).identity,
            endpoint(&config, 1).identity,
            "{different}"
        );
    }
    bad(
        &second_provider("client_id = 'id'\nauth_method = 'client_secret_post'"),
        &["providers.q: fetches the same token as `p`, but with another"],
    );
    bad(
        &second_provider("client_id = 'id'\nresponse = { token = '/t' }"),
        &["providers.q: fetches the same token as `p`"],
    );
}

#[test]
fn two_accounts_of_one_client_share_no_token() {
    let secret = "client_secret = 's'\n";
    for grant in [
        "grant = 'refresh_token'\nrefresh_token = 'r'",
        "grant = 'authorization_code'\nredirect_uri = 'http://127.0.0.1/'",
        "grant = 'device_code'",
    ] {
        let [p, q] = identities(&format!("{secret}{grant}"), &format!("{secret}{grant}"));
        assert_ne!(p, q, "{grant}");
    }
    let wecom = |secret: &str| format!("dialect = 'wecom'\nclient_secret = '{secret}'");
    let [p, q] = identities(&wecom("hunter2-a"), &wecom("hunter2-b"));
    assert_ne!(p, q);
    assert!(!p.contains("hunter2"), "{p}");
    let [p, q] = identities(&wecom("a"), &wecom("a"));
    assert_eq!(p, q);
}

#[test]
fn the_requested_token_type_is_part_of_the_identity() {
    let exchange = |kind: &str| {
        format!(
            "client_secret = 's'\ngrant = 'token_exchange'\n\
             vars = {{ subject_token = 't', requested_token_type = '{kind}' }}"
        )
    };
    let [p, q] = identities(&exchange("urn:a"), &exchange("urn:b"));
    assert_ne!(p, q);
}

#[test]
fn identities_hold_no_secret_and_do_not_collide() {
    let text = "[providers.p]\ntoken_url = 'https://h/t?key=hunter2'\nclient_id = 'id'\n\
                client_secret = 'hunter2'\ndialect = 'identityserver'\ngrant = 'wechat'\n\
                vars = { open_id = 'o', pin = 'hunter2' }\n\
                request = { headers = { X = '{pin}' } }";
    let config = good(text);
    let identity = &endpoint(&config, 0).identity;
    assert!(!identity.contains("hunter2"), "{identity}");
    assert!(identity.contains("\"o\""), "{identity}");
    let changed = good(&text.replace("client_secret = 'hunter2'", "client_secret = 'x'"));
    assert_eq!(identity, &endpoint(&changed, 0).identity);
    let other = good(&text.replace("open_id = 'o'", "open_id = 'p'"));
    assert_ne!(identity, &endpoint(&other, 0).identity);
    // Parts that would collide if they were only concatenated.
    let id = |id: &str, scope: &str| {
        let config = good(&PLAIN.replace(
            "client_id = \"id\"",
            &format!("client_id = '{id}'\nscope = '{scope}'"),
        ));
        endpoint(&config, 0).identity.clone()
    };
    assert_ne!(id("a", "b,c"), id("a,b", "c"));
    assert_ne!(id("a\",\"b", "c"), id("a", "b\",\"c"));
}

/// Returns [`PLAIN`] with a second provider at the same token URL.
fn second_provider(lines: &str) -> String {
    let second = format!(
        "[providers.q]\ntoken_url = 'https://AUTH.example.com:443/token'\n\
         client_secret = 'other'\n{lines}\n[upstreams.u]"
    );
    let first = PLAIN.replace("[upstreams.u]", &second);
    format!(
        "{first}route = {{ path_prefix = '/u' }}\n[upstreams.v]\nurl = 'https://v'\nprovider = 'q'"
    )
}

/// Returns the identities of two providers of one client.
fn identities(first: &str, second: &str) -> [String; 2] {
    let head = "token_url = 'https://h/t'\nclient_id = 'id'\n";
    let config = good(&format!(
        "[providers.p]\n{head}{first}\n[providers.q]\n{head}{second}\n\
         [store]\nkind = 'file'\npath = '/var/lib/x'"
    ));
    [0, 1].map(|number| endpoint(&config, number).identity.clone())
}

//! `[dialects.NAME]`, and the dialect keys that a provider overrides.

use super::*;

#[test]
fn built_in_dialects_load_with_their_required_variables() {
    for (name, grant, vars) in [
        ("oauth2", "password", "username = 'u'\npassword = 'p'"),
        ("oauth2-post", "client_credentials", ""),
        ("cncn", "client_credentials", ""),
        ("identityserver", "wechat", "vars = { open_id = 'o' }"),
        (
            "passport",
            "password",
            "username = 'u'\npassword = 'p'\nscope = ''",
        ),
    ] {
        let config = good(&with_provider(&format!(
            "dialect = '{name}'\ngrant = '{grant}'\n{vars}"
        )));
        assert_eq!(endpoint(&config, 0).plan.grant, grant);
    }
}

#[test]
fn mistakes_in_overrides_and_dialects_are_reported_at_their_keys() {
    good(&with_provider(
        "request = { headers = { X-A = '{scope?}' } }\nresponse = { token = '/t' }",
    ));
    bad(
        &with_provider("request = { headrs = {} }"),
        &["providers.p.request.headrs: unknown key (did you mean `headers`?)"],
    );
    bad(
        &with_provider("response = { token = 'no selector' }"),
        &["providers.p.response.token"],
    );
    bad(
        &format!(
            "[dialects.d]\nextends = 'oauth2'\nrespnse = {{}}\nresponse = {{ token = 5 }}\n{}",
            with_provider("dialect = 'd'")
        ),
        &[
            "dialects.d.respnse: unknown key",
            "dialects.d.response.token: expected text in quotes",
        ],
    );
    let wrong = "[dialects.d]\nextends = 'oauth2'\nresponse = { token = 'no selector' }\n";
    bad(
        &format!("{wrong}{}", with_provider("dialect = 'd'")),
        &["dialects.d.response.token"],
    );
    // An unused dialect is checked, too.
    bad(&format!("{wrong}{PLAIN}"), &["dialects.d.response.token"]);
    bad(
        "[dialects.d]\nextends = 'oauth3'",
        &["dialects.d.extends: unknown dialect"],
    );
}

#[test]
fn one_mistake_in_a_table_hides_no_other() {
    bad(
        &with_provider(
            "[providers.p.inject]\nheadrs = {}\n\
             headers = { Authorization = 'Bearer {acces_token}' }",
        )
        .replace("client_secret = \"s3cret\"\n", "")
        .replace("client_id", "client_secret = 's'\nclient_id"),
        &[
            "providers.p.inject.headers.Authorization: nothing here carries `{access_token}`; \
             did you mean `access_token`?",
            "providers.p.inject.headrs: unknown key (did you mean `headers`?)",
        ],
    );
    let dialect = r#"
        [dialects.d]
        extends = "oauth3"
        defalt_grant = "a"
        [dialects.e]
        extends = "oauth2"
        colour = "red"
        [dialects.e.grants.a]
        form = { x = "{client_id|md4}" }
        json = {}
        one_time = ["sms"]
        [dialects.f]
        extends = "oauth2"
        [dialects.f.grants.a]
        form = { x = "{sms}" }
        one_time = ["smss"]
        "#;
    let expected = [
        "dialects.d.defalt_grant: unknown key (did you mean `default_grant`?)",
        "dialects.d.extends: unknown dialect; did you mean `oauth2`?",
        "dialects.e.colour: unknown key",
        "dialects.e.grants.a.form.x: unknown filter",
        "dialects.e.grants.a.json: at most one of form, json and body",
        "dialects.f.grants.a.one_time: names a variable that the grant does not use; \
         did you mean `sms`?",
    ];
    bad(&format!("{dialect}{PLAIN}"), &expected);
    for used in ["d", "e", "f"] {
        let provider = with_provider(&format!("dialect = '{used}'"));
        bad(&format!("{dialect}{provider}"), &expected);
    }
}

#[test]
fn unused_dialects_are_checked() {
    for (text, problems) in [
        (
            "[dialects.a]\nextends = 'b'\n[dialects.b]\nextends = 'a'",
            &[
                "dialects.a.extends: the dialects extend each other in a circle",
                "dialects.b.extends: the dialects extend each other in a circle",
            ][..],
        ),
        // Reported once, at the dialect that holds the key.
        (
            "[dialects.a]\nextends = 'b'\n\
             [dialects.b]\nextends = 'oauth2'\nresponse = { error = 'x' }",
            &["dialects.b.response.error: a selector is"],
        ),
        // A base dialect may omit what extending dialects supply.
        (
            "[dialects.a]\nextends = 'b'\nresponse = { token = '/t' }\n\
             [dialects.b.grants.a]\n[dialects.b.grants.b]",
            &[],
        ),
        (
            "[dialects.a.assertion]\nalg = 'RS257'",
            &["dialects.a.assertion.alg: is not a known value (did you mean `RS256`?)"],
        ),
    ] {
        let text = format!("{text}\n{PLAIN}");
        match problems {
            [] => drop(good(&text)),
            _ => bad(&text, problems),
        }
    }
}

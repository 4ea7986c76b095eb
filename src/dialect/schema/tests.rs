//! The shape of `[dialects.NAME]`, and the paths of its errors.

use super::*;

fn read(text: &str) -> Result<DialectToml, (String, String)> {
    let table: toml::Table = toml::from_str(text).unwrap();
    serde_path_to_error::deserialize(table)
        .map_err(|error| (error.path().to_string(), error.inner().to_string()))
}

#[test]
fn every_key_is_read() {
    let dialect = read(
        r#"
        extends = "oauth2"
        default_grant = "sms"
        default_auth = "client_secret_post"
        single_active = true
        token_url = "https://a.example/{tenant}"
        ttl = "1h"
        [request]
        method = "GET"
        headers = { Accept = "application/json", X-N = 1 }
        basic = { username = "{client_id}", password = "p", encoding = "raw" }
        [auth]
        client_secret_post = { form = { b = "1", a = "2" } }
        [grants.sms]
        json = { deep = { list = [1, "{x}"] } }
        basic = false
        one_time = ["sms"]
        [refresh]
        body = "x"
        path = "/again"
        [device]
        form = { client_id = "{client_id}" }
        [vars]
        plain = "{client_id}{unix_ms}"
        [assertion]
        alg = "EdDSA"
        key = "{private_key}"
        header = { kid = "k" }
        claims = { iss = "i", n = 1, jti = false }
        lifetime = "5m"
        [response]
        token = "/a"
        expires = ["/b", "jwt:exp"]
        expires_unit = "min"
        ok = { "/code" = [0, "00000"], "/x" = true }
        permanent = [1, "a"]
        transient = -1
        final = ['re:gone', 7]
        [inject]
        query = { t = "{access_token}" }
        [reject]
        status = 401
        grpc_status = [16]
        body = { "/errcode" = [1] }
        "#,
    )
    .unwrap();
    let grant = dialect.grants.get("sms").unwrap();
    assert_eq!(grant.basic, Some(BasicToml::Removed));
    assert_eq!(grant.one_time.as_deref(), Some(&["sms".to_owned()][..]));
    let auth = dialect.auth.get("client_secret_post").unwrap();
    let form: Vec<_> = auth.form.as_ref().unwrap().names().collect();
    assert_eq!(form, ["b", "a"]);
    assert_eq!(dialect.response.token, Some(OneOrMany(vec!["/a".into()])));
    let transient = dialect.response.transient.unwrap();
    assert_eq!(transient.0, [Scalar::Integer(-1)]);
    assert_eq!(dialect.reject.status, Some(OneOrMany(vec![401])));
}

#[test]
fn errors_carry_their_path() {
    for (text, path) in [
        ("[grants.sms]\nfrom = {}", "grants.sms.from"),
        ("[request]\nbasic = { user = 'x' }", "request.basic.user"),
        ("[request]\nbasic = true", "request.basic"),
        ("[grants.a]\nform = { a = [1, []] }", "grants.a.form.a[1]"),
        ("[grants.a]\nheaders = { a = [1] }", "grants.a.headers.a"),
        ("[response]\nexpires = [1]", "response.expires[0]"),
        ("[response]\nexpires_unit = 'h'", "response.expires_unit"),
        ("[reject]\nstatus = ['x']", "reject.status[0]"),
        ("[assertion]\nalg = 'x'", "assertion.alg"),
        ("[assertion]\nkid = 'x'", "assertion.kid"),
        ("[client_assertion]\nclaims = 1", "client_assertion.claims"),
        ("[vars]\na = [1]", "vars.a"),
    ] {
        assert_eq!(read(text).unwrap_err().0, path, "{text}");
    }
}

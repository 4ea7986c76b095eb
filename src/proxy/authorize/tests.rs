use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::super::headers::strip_hop_by_hop;
use super::super::route::tests::target;
use super::*;
use crate::config::Route;
use crate::dialect;

fn rule(segments: &[&str]) -> AllowRule {
    AllowRule {
        method: None,
        segments: segments.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn allow_rules_match_whole_segments() {
    let rule_all = rule(&["v1", "**"]);
    for good in ["/v1/a", "/v1/a/b", "/v1/", "/v1"] {
        assert!(rule_all.matches(good), "{good}");
    }
    for bad in ["/v2/a", "/v11", "/"] {
        assert!(!rule_all.matches(bad), "{bad}");
    }
    let one = rule(&["v1", "*", "x"]);
    assert!(one.matches("/v1/9/x") && one.matches("/%761/9/x"));
    assert!(!one.matches("/v1/9/8/x") && !one.matches("/v1/9") && !one.matches("/v1/9/x/y"));
}

#[test]
fn ambiguous_paths_are_recognized() {
    for bad in ["/a%2Fb", "/a%5cb", "/a\\b", "//a"] {
        assert!(ambiguous(bad), "{bad}");
    }
    assert!(!ambiguous("/a/b%20c"));
}

/// Query pairs: credentials in any encoding, and others.
fn pair() -> impl Strategy<Value = String> {
    let credential = (
        "access_token|api key",
        any::<[u8; 12]>(),
        "(=[a-z%20+=]{0,4})?",
    )
        .prop_map(|(key, how, value)| encode(&key, how) + &value);
    let other = "(access|access_token2|Access_token|%61|a|access%5ftoken_|api%20key2)?\
                 (=[a-z0-9%2B;/?]{0,6})?";
    prop_oneof![credential, other.prop_map(|pair| pair.replace('%', "%25"))]
}

/// Keeps or percent-encodes each byte, in either case; a space also as `+`.
fn encode(key: &str, how: [u8; 12]) -> String {
    key.bytes()
        .zip(how)
        .map(|(byte, how)| match (byte, how % 4) {
            (b' ', 0) => "+".to_owned(),
            (b' ', _) | (_, 1) => format!("%{byte:02x}"),
            (_, 2) => format!("%{byte:02X}"),
            _ => char::from(byte).to_string(),
        })
        .collect()
}

fn is_secret(pair: &str) -> bool {
    let names = |key: &str| {
        ["access_token", "api key"]
            .iter()
            .any(|name| name.eq_ignore_ascii_case(key))
    };
    pair.split(';')
        .any(|part| form_urlencoded::parse(part.as_bytes()).any(|(key, _)| names(&key)))
}

/// Whether the pair is a credential with a value.
fn is_given(pair: &str) -> bool {
    is_secret(pair)
        && pair
            .split_once('=')
            .is_some_and(|(_, value)| !value.is_empty())
}

proptest! {
    #[test]
    fn the_base_path_is_added_and_credentials_of_the_app_are_removed(
        base in "(/[a-z]{1,3}){0,2}",
        prefix in "(/p)?",
        rest in "(/[a-z.%;=]{0,4}){0,3}",
        pairs in prop::option::of(prop::collection::vec(pair(), 1..6)),
        injected in prop::sample::select(vec!["", "access_token=fresh"]),
        keep in any::<bool>(),
    ) {
        let rest = rest.replace('%', "%41");
        prop_assume!(!(prefix.is_empty() && rest.is_empty()));
        let target = target("x", Route::CatchAll, &base, &["access_token", "api key"]);
        let routed = Routed { target: &target, prefix: prefix.len() };
        let query = pairs.as_ref().map(|pairs| pairs.join("&"));
        let uri = match &query {
            None => format!("{prefix}{rest}"),
            Some(query) => format!("{prefix}{rest}?{query}"),
        };
        let injected = if keep { "" } else { injected };
        let result = path_and_query(&uri.parse().unwrap(), &routed, injected, keep).ok().unwrap();
        let path = match format!("{base}{rest}") {
            path if path.is_empty() => "/".to_owned(),
            path => path,
        };
        prop_assert_eq!(result.path(), path);
        let mut expected: Vec<_> = query
            .iter()
            .flat_map(|query| query.split('&'))
            .filter(|pair| keep || !is_secret(pair))
            .collect();
        if !injected.is_empty() {
            expected.push(injected);
        }
        let got: Vec<_> = result.query().into_iter().flat_map(|query| query.split('&')).collect();
        prop_assert_eq!(got, expected);
        prop_assert_eq!(has_credential(&HeaderMap::new(), &uri.parse().unwrap(), &target),
            query.is_some_and(|query| query.split('&').any(is_given)));
    }

    #[test]
    fn allow_rules_match_a_naive_definition(
        rule in prop::collection::vec(
            prop::sample::select(vec!["v1", "a", "b%20c", "%61", "*", ""]),
            1..4,
        ),
        deep in any::<bool>(),
        path in prop::collection::vec(
            prop::sample::select(vec![
                "v1", "%761", "%76%31", "a", "b%20c", "b c", "%2a", "*", "**", "",
            ]),
            0..5,
        ),
    ) {
        fn naive(rule: &[String], path: &[String]) -> bool {
            match (rule, path) {
                ([rule], _) if rule == "**" => true,
                ([], rest) => rest.is_empty(),
                ([rule, rules @ ..], [segment, segments @ ..]) => {
                    let same = if rule == "*" { !segment.is_empty() } else { rule == segment };
                    same && naive(rules, segments)
                }
                (_, []) => false,
            }
        }
        let mut rule: Vec<_> = rule.into_iter().map(str::to_owned).collect();
        if deep {
            rule.push("**".to_owned());
        }
        let text = format!("/{}", path.join("/"));
        let decoded: Vec<_> = text[1..]
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8().unwrap().into_owned())
            .collect();
        let plain: Vec<_> = rule
            .iter()
            .map(|segment| percent_decode_str(segment).decode_utf8().unwrap().into_owned())
            .collect();
        let expected = naive(&plain, &decoded);
        let rule = AllowRule { method: None, segments: rule };
        prop_assert_eq!(rule.matches(&text), expected, "{:?} {}", rule, text);
    }

    #[test]
    fn connection_cannot_remove_the_injected_field(
        lines in prop::collection::vec(
            "(authorization|x-api-key|close|, |AUTHORIZATION){0,4}",
            0..3,
        ),
    ) {
        let mut headers = HeaderMap::new();
        for line in &lines {
            headers.append("connection", line.parse().unwrap());
        }
        headers.append("authorization", HeaderValue::from_static("the app's"));
        headers.append("x-api-key", HeaderValue::from_static("the app's"));
        headers.append("x-api-key", HeaderValue::from_static("another"));
        strip_hop_by_hop(&mut headers);
        let injected = ["authorization", "x-api-key"].map(|name| {
            (HeaderName::from_static(name), HeaderValue::from_static("ours"))
        });
        let injection = Injection { headers: injected.into(), ..Injection::default() };
        stamp(&mut headers, &injection);
        for name in ["authorization", "x-api-key"] {
            let values: Vec<_> = headers.get_all(name).iter().collect();
            prop_assert_eq!(values, ["ours"]);
        }
    }
}

#[test]
fn only_injections_with_a_time_or_a_nonce_are_made_per_request() {
    let ready = |inject: &str| {
        let overrides = toml::from_str(&format!("inject.query = {inject}")).unwrap();
        let source = dialect::Source {
            dialect: "",
            user: &Default::default(),
            overrides: &overrides,
            grant: None,
            auth_method: None,
        };
        let (plan, _) = dialect::compile_static(&source).unwrap();
        plan.build(&"tok".into(), &Default::default()).unwrap()
    };
    let fixed = ready("{ t = '{access_token}' }");
    assert!(matches!(current(&fixed), Cow::Borrowed(_)));

    let changing = ready("{ at = '{unix}', n = '{nonce}', t = '{access_token}' }");
    let queries: Vec<_> = (0..2).map(|_| current(&changing).query.clone()).collect();
    assert_ne!(queries[0], queries[1]);
    for query in &queries {
        let fields: Vec<_> = query.split('&').collect();
        assert!(
            fields[0].starts_with("at=1") && fields[2] == "t=tok",
            "{fields:?}"
        );
        assert_eq!(fields[1].len(), "n=".len() + 32);
    }
}

#[test]
fn an_empty_credential_counts_as_absent() {
    let target = target("x", Route::CatchAll, "", &[]);
    let mut headers = HeaderMap::new();
    let uri = Uri::from_static("/?access_token=1");
    assert!(!has_credential(&headers, &uri, &target));
    headers.insert("authorization", HeaderValue::from_static("  "));
    assert!(!has_credential(&headers, &uri, &target));
    headers.append("authorization", HeaderValue::from_static("Basic eA=="));
    assert!(has_credential(&headers, &uri, &target));
}

#[test]
fn the_prefix_alone_becomes_the_base_path_alone() {
    let target = target("x", Route::PathPrefix("/p".to_owned()), "/api", &[]);
    let routed = Routed {
        target: &target,
        prefix: 2,
    };
    for (asked, got) in [
        ("/p", "/api"),
        ("/p/", "/api/"),
        ("/p?a", "/api?a"),
        ("/p/x", "/api/x"),
    ] {
        let result = path_and_query(&asked.parse().unwrap(), &routed, "", false);
        assert_eq!(result.ok().unwrap(), got);
    }
}

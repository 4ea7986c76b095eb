use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    map
}

fn stripped(lines: &[(&'static str, &'static str)]) -> Vec<String> {
    let mut map = map(lines);
    strip_hop_by_hop(&mut map);
    let mut names: Vec<_> = map.keys().map(ToString::to_string).collect();
    names.sort();
    names
}

#[test]
fn fields_named_by_any_connection_line_are_removed() {
    let rest = stripped(&[
        ("connection", "close, X-One"),
        ("connection", " x-two ,,"),
        ("x-one", "1"),
        ("x-two", "2"),
        ("x-three", "3"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic eA=="),
        ("trailer", "x"),
    ]);
    assert_eq!(rest, ["trailer", "x-three"]);
}

#[test]
fn connection_cannot_remove_framing_and_host() {
    let rest = stripped(&[
        ("connection", "content-length, host"),
        ("content-length", "3"),
        ("host", "a"),
    ]);
    assert_eq!(rest, ["content-length", "host"]);
}

#[test]
fn repeated_fields_are_counted() {
    let scan = Scan::of(&map(&[
        ("host", "a"),
        ("host", "b"),
        ("content-length", "1"),
        ("x", "y"),
    ]));
    assert_eq!((scan.hosts, scan.content_lengths), (2, 1));
}

#[test]
fn upgrade_needs_the_connection_option() {
    assert!(connection_upgrade(&map(&[
        ("connection", "keep-alive"),
        ("connection", "Upgrade")
    ])));
    assert!(!connection_upgrade(&map(&[
        ("connection", "keep-alive"),
        ("upgrade", "websocket")
    ])));
}

#[test]
fn te_trailers_is_found_among_members() {
    assert!(te_trailers(&map(&[("te", "gzip;q=0.5, Trailers")])));
    assert!(!te_trailers(&map(&[("te", "gzip")])));
}

/// Names of fields, and of options in a `Connection` line.
const NAMES: [&str; 12] = [
    "x-one",
    "x-two",
    "authorization",
    "x-api-key",
    "cookie",
    "via",
    "te",
    "keep-alive",
    "upgrade",
    "proxy-connection",
    "host",
    "content-length",
];

fn any_case(name: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<bool>(), name.len()).prop_map(move |upper| {
        name.chars()
            .zip(upper)
            .map(|(c, upper)| if upper { c.to_ascii_uppercase() } else { c })
            .collect()
    })
}

fn connection_line() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        prop::sample::select(NAMES.to_vec()).prop_flat_map(any_case),
        Just("close".to_owned()),
        Just(String::new()),
        Just("not a token".to_owned()),
    ];
    let spaced = (token, "[ \t]{0,2}", "[ \t]{0,2}")
        .prop_map(|(token, before, after)| format!("{before}{token}{after}"));
    prop::collection::vec(spaced, 0..5).prop_map(|tokens| tokens.join(","))
}

proptest! {
    #[test]
    fn exactly_the_fields_that_connection_names_are_removed(
        lines in prop::collection::vec(connection_line(), 0..4),
        fields in prop::collection::vec(
            (prop::sample::select(NAMES.to_vec()), "[a-z]{1,3}"),
            0..16,
        ),
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in &fields {
            map.append(*name, value.parse().unwrap());
        }
        for line in &lines {
            map.append(CONNECTION, line.parse().unwrap());
        }
        let named: Vec<_> = lines
            .iter()
            .flat_map(|line| line.split(','))
            .map(|token| token.trim().to_ascii_lowercase())
            .collect();
        strip_hop_by_hop(&mut map);
        for name in NAMES {
            let hop = HOP_BY_HOP.iter().any(|hop| hop == name);
            let stays = matches!(name, "host" | "content-length");
            let gone = hop || (!stays && named.iter().any(|named| named == name));
            let expected: Vec<_> = fields
                .iter()
                .filter(|(field, _)| *field == name && !gone)
                .map(|(_, value)| value.as_str())
                .collect();
            let left: Vec<_> = map.get_all(name).iter().collect();
            prop_assert_eq!(left, expected, "{}", name);
        }
        prop_assert!(!map.contains_key(CONNECTION));
        prop_assert!(!has_hop_by_hop(&map));
    }

    #[test]
    fn a_scan_matches_a_look_up_of_each_field(
        fields in prop::collection::vec(
            prop::sample::select(vec![
                "host", "content-length", "transfer-encoding", "upgrade", "te", "expect", "origin",
                "sec-fetch-site", "via", "authorization", "content-type", "connection", "x-other",
            ]),
            0..12,
        ),
    ) {
        let mut map = HeaderMap::new();
        for name in &fields {
            map.append(*name, HeaderValue::from_static("x"));
        }
        let scan = Scan::of(&map);
        let times = |name: &str| fields.iter().filter(|field| **field == name).count();
        prop_assert_eq!(usize::from(scan.hosts), times("host"));
        prop_assert_eq!(usize::from(scan.content_lengths), times("content-length"));
        prop_assert_eq!(scan.transfer_encoding, times("transfer-encoding") > 0);
        prop_assert_eq!(scan.upgrade, times("upgrade") > 0);
        prop_assert_eq!(scan.te, times("te") > 0);
        prop_assert_eq!(scan.expect, times("expect") > 0);
        prop_assert_eq!(scan.cross_site, times("origin") + times("sec-fetch-site") > 0);
        prop_assert_eq!(scan.via, times("via") > 0);
        prop_assert_eq!(scan.authorization, times("authorization") > 0);
        prop_assert_eq!(scan.content_type, times("content-type") > 0);
        prop_assert_eq!(scan.hop_by_hop, has_hop_by_hop(&map));
    }
}

use super::super::table::Table;
use super::*;

#[test]
fn numbers_are_those_of_the_appendix() {
    for (prefix, value, expected) in [
        (5, 10, &[0x0a][..]),
        (5, 1337, &[0x1f, 0x9a, 0x0a]),
        (8, 42, &[0x2a]),
        (4, 15, &[0x0f, 0x00]),
        (7, 127, &[0x7f, 0x00]),
        (7, 255, &[0x7f, 0x80, 0x01]),
    ] {
        let mut out = Vec::new();
        integer(&mut out, 0, prefix, value);
        assert_eq!(out, expected, "{value}");
    }
}

#[test]
fn indices_are_those_of_the_table() {
    let table = Table::new(0);
    let mut found = 0;
    for index in 1..=61 {
        let entry = table.get(index).unwrap();
        let name = std::str::from_utf8(entry.name.as_bytes()).unwrap();
        if let Some(here) = static_index(name) {
            assert_eq!(table.get(here).unwrap().name, entry.name);
            found += 1;
        }
    }
    assert_eq!(found, 21);
    assert_eq!(static_index("x-via"), None);
    for (index, name) in [
        (AUTHORITY, ":authority"),
        (METHOD, ":method"),
        (PATH, ":path"),
        (SCHEME, ":scheme"),
        (28, "content-length"),
    ] {
        assert_eq!(table.get(index).unwrap().name.as_bytes(), name.as_bytes());
    }
}

#[test]
fn a_request_is_written_in_the_shortest_form_that_remembers_nothing() {
    let mut out = Vec::new();
    request(&mut out, &Method::GET, "https", "api", "/");
    assert_eq!(out, b"\x82\x87\x01\x03api\x84");
    out.clear();
    request(&mut out, &Method::PUT, "http", "", "/a?b");
    assert_eq!(out, b"\x02\x03PUT\x86\x14\x04/a?b");
    out.clear();
    let mut token = HeaderValue::from_static("Bearer x");
    token.set_sensitive(true);
    field(&mut out, &header::AUTHORIZATION, &token);
    assert_eq!(out, b"\x1f\x08\x08Bearer x");
    out.clear();
    let name = HeaderName::from_static("x-key");
    field(&mut out, &name, &token);
    assert_eq!(out, b"\x10\x05x-key\x08Bearer x");
    out.clear();
    let kept = HeaderValue::from_static("Bearer y");
    field(&mut out, &header::AUTHORIZATION, &kept);
    assert_eq!(out, b"\x1f\x08\x08Bearer y");
    out.clear();
    field(&mut out, &name, &HeaderValue::from_static(""));
    content_length(&mut out, 10);
    assert_eq!(out, b"\x00\x05x-key\x00\x0f\x0d\x0210");
}

/// For the tests of what reads them.
pub(in crate::http2::hpack) fn put_integer(out: &mut Vec<u8>, prefix: u32, value: usize) {
    integer(out, 0, prefix, value);
}

use http::HeaderValue;

use super::*;

#[test]
fn chunk_sizes_are_hexadecimal() {
    for (size, line) in [
        (0, "0\r\n"),
        (1, "1\r\n"),
        (15, "f\r\n"),
        (16, "10\r\n"),
        (0x4000, "4000\r\n"),
        (0xabc_def0, "abcdef0\r\n"),
        (usize::MAX, "ffffffffffffffff\r\n"),
    ] {
        let mut out = Vec::new();
        chunk_size(&mut out, size);
        assert_eq!(out, line.as_bytes());
    }
}

#[test]
fn trailers_lose_what_is_for_heads() {
    let mut trailers = HeaderMap::new();
    for name in [
        "x-sum",
        "content-length",
        "host",
        "authorization",
        "keep-alive",
        "connection",
    ] {
        trailers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    let mut out = Vec::new();
    last_chunk(&mut out, &trailers);
    assert_eq!(out, b"0\r\nx-sum: 1\r\n\r\n");
    out.clear();
    last_chunk(&mut out, &HeaderMap::new());
    assert_eq!(out, LAST_CHUNK);
}

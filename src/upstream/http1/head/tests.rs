use http::Request;
use proptest::prelude::*;

use super::*;

fn asked(method: Method, upgrade: bool) -> Parts {
    let mut request = Request::builder().method(method).uri("/");
    if upgrade {
        request = request.header("upgrade", "x");
    }
    request.body(()).unwrap().into_parts().0
}

fn get() -> Parts {
    asked(Method::GET, false)
}

fn parse_for(asked: &Parts, text: impl AsRef<[u8]>) -> Result<Parsed, Malformed> {
    parse(&mut BytesMut::from(text.as_ref()), asked)
}

/// Returns the framing by these fields, and whether the connection is reusable.
fn framed(asked: &Parts, head: &str) -> Result<(Framing, bool), Malformed> {
    match parse_for(asked, head.replace('\n', "\r\n") + "\r\n")? {
        Parsed::Final(head) => Ok((head.framing, head.keep_alive)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_head_is_removed_and_the_body_stays() {
    let mut read = BytesMut::from(
        "HTTP/1.1 200 OK\r\nServer:  x \t\r\nSet-Cookie: a\r\nset-cookie: b\r\n\
         X-Empty:\r\nContent-Length: 3\r\n\r\nabc",
    );
    let Ok(Parsed::Final(head)) = parse(&mut read, &get()) else {
        panic!("a whole head");
    };
    assert_eq!(read, "abc");
    assert_eq!(head.response.status(), 200);
    let headers = head.response.headers();
    assert_eq!(headers["server"], "x");
    assert_eq!(headers["x-empty"], "");
    assert_eq!(headers["content-length"], "3");
    assert!(headers.get_all("set-cookie").iter().eq(["a", "b"]));
    assert_eq!(headers.len(), 5);
    assert!(head.response.extensions().is_empty());
}

#[test]
fn an_incomplete_head_stays_unchanged() {
    let text = "HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n";
    for end in 0..text.len() {
        let mut read = BytesMut::from(&text[..end]);
        let parsed = parse(&mut read, &get());
        assert!(matches!(parsed, Ok(Parsed::Partial)), "{end}: {parsed:?}");
        assert_eq!(read, &text[..end]);
    }
    assert!(matches!(parse_for(&get(), text), Ok(Parsed::Final(_))));
}

#[test]
fn connection_fields_are_removed() {
    let text = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
                Transfer-Encoding: Chunked\r\n\r\n";
    let Ok(Parsed::Final(head)) = parse_for(&get(), text) else {
        panic!("a whole head");
    };
    assert!(head.response.headers().is_empty());
    // The proxy removes the other fields that `Connection` names.
    let text = "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n";
    let Ok(Parsed::Final(head)) = parse_for(&get(), text) else {
        panic!("a whole head");
    };
    assert_eq!(head.response.headers().len(), 2);
    assert!(!head.keep_alive);
}

#[test]
fn a_custom_reason_phrase_is_kept() {
    for (line, kept) in [
        ("HTTP/1.1 200 OK", None),
        ("HTTP/1.1 200 ", None),
        ("HTTP/1.1 200", None),
        ("HTTP/1.1 200 Fine", Some("Fine")),
        ("HTTP/1.1 499 OK", Some("OK")),
    ] {
        let Ok(Parsed::Final(head)) = parse_for(&get(), format!("{line}\r\n\r\n")) else {
            panic!("{line}");
        };
        let reason = head.response.extensions().get::<ReasonPhrase>();
        assert_eq!(reason.map(ReasonPhrase::as_bytes), kept.map(str::as_bytes));
    }
}

#[test]
fn bodies_are_framed_as_rfc_9112_says() {
    use Framing::{Chunked, Close, Empty, Length, Tunnel};
    let head = || asked(Method::HEAD, false);
    let upgrade = || asked(Method::GET, true);
    for (asked, text, framing, keep) in [
        (
            get(),
            "HTTP/1.1 200 OK\ncontent-length: 5\n",
            Length(5),
            true,
        ),
        (get(), "HTTP/1.1 200 OK\ncontent-length: 0\n", Empty, true),
        (
            get(),
            "HTTP/1.1 200 OK\ncontent-length: 007\n",
            Length(7),
            true,
        ),
        (
            get(),
            "HTTP/1.1 200 OK\ncontent-length: 18446744073709551615\n",
            Length(u64::MAX),
            true,
        ),
        (
            get(),
            "HTTP/1.1 200 OK\ntransfer-encoding: CHUNKED\n",
            Chunked,
            true,
        ),
        (get(), "HTTP/1.1 200 OK\n", Close, false),
        (
            get(),
            "HTTP/1.1 200 OK\nconnection: keep-alive\n",
            Close,
            false,
        ),
        (
            get(),
            "HTTP/1.1 200 OK\nconnection: x, Close\ncontent-length: 5\n",
            Length(5),
            false,
        ),
        (
            get(),
            "HTTP/1.1 200 OK\nconnection: keep-alive\nconnection: close\ncontent-length: 5\n",
            Length(5),
            false,
        ),
        (
            get(),
            "HTTP/1.0 200 OK\ncontent-length: 5\n",
            Length(5),
            false,
        ),
        (
            get(),
            "HTTP/1.0 200 OK\ncontent-length: 5\nconnection: Keep-Alive\n",
            Length(5),
            true,
        ),
        (get(), "HTTP/1.0 200 OK\n", Close, false),
        (get(), "HTTP/1.1 204 No Content\n", Empty, true),
        (
            get(),
            "HTTP/1.1 204 No Content\ncontent-length: 0\n",
            Empty,
            true,
        ),
        (
            get(),
            "HTTP/1.1 204 No Content\ncontent-length: 5\n",
            Empty,
            false,
        ),
        (
            get(),
            "HTTP/1.1 204 No Content\ntransfer-encoding: chunked\n",
            Empty,
            false,
        ),
        (
            get(),
            "HTTP/1.1 304 Not Modified\ncontent-length: 5\n",
            Empty,
            true,
        ),
        (head(), "HTTP/1.1 200 OK\ncontent-length: 5\n", Empty, true),
        (
            head(),
            "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n",
            Empty,
            true,
        ),
        (head(), "HTTP/1.1 200 OK\n", Empty, true),
        (
            upgrade(),
            "HTTP/1.1 101 Switching Protocols\nupgrade: x\nconnection: upgrade\n",
            Tunnel,
            false,
        ),
        (
            upgrade(),
            "HTTP/1.1 426 Upgrade Required\ncontent-length: 5\n",
            Length(5),
            true,
        ),
    ] {
        assert_eq!(framed(&asked, text), Ok((framing, keep)), "{text}");
    }
}

#[test]
fn ambiguous_or_malformed_heads_are_rejected() {
    let long = "9".repeat(30);
    let fields = "x: y\r\n".repeat(MAX_FIELDS + 1);
    let huge = "y".repeat(MAX_HEAD);
    let texts = [
        // Framing.
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\ncontent-length: {long}\r\n\r\n"),
        "HTTP/1.1 304 Not Modified\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: \"chunked\"\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding:\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        // Syntax.
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\n x: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx : a\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/0.9 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        // Size.
        &format!("HTTP/1.1 200 OK\r\n{fields}\r\n"),
        &format!("HTTP/1.1 200 OK\r\nx: {huge}\r\n\r\n"),
        &format!("HTTP/1.1 200 OK\r\nx: {huge}"),
        // Without a request for it.
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
    ];
    for text in texts {
        let parsed = parse_for(&get(), text);
        assert!(parsed.is_err(), "{:.60}: {parsed:?}", text.escape_debug());
    }
    for text in [
        "HTTP/1.0 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\ncontent-length: 0\r\n\r\n",
    ] {
        assert!(
            parse_for(&asked(Method::GET, true), text).is_err(),
            "{text}"
        );
    }
}

#[test]
fn the_maximum_number_of_fields_is_parsed() {
    for count in [FEW_FIELDS, FEW_FIELDS + 1, MAX_FIELDS] {
        let fields = "x: y\r\n".repeat(count);
        let text = format!("HTTP/1.1 204 No Content\r\n{fields}\r\n");
        let Ok(Parsed::Final(head)) = parse_for(&get(), text) else {
            panic!("{count} fields");
        };
        assert_eq!(head.response.headers().len(), count);
    }
}

#[test]
fn interim_heads_are_removed_one_by_one() {
    let mut read =
        BytesMut::from("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nH");
    for _ in 0..2 {
        let parsed = parse(&mut read, &get());
        assert!(matches!(parsed, Ok(Parsed::Interim)), "{parsed:?}");
    }
    assert_eq!(read, "H");
}

proptest! {
    #[test]
    fn no_input_panics(bytes: Vec<u8>) {
        let _ = parse_for(&get(), bytes);
    }

    #[test]
    fn no_text_like_a_head_panics(
        text in "HTTP/1\\.[01] [1-9][0-9]{2}( [a-z]{0,3})?\r\n\
            ((content-length|transfer-encoding|connection|x):[ \t]?\
            [a-z0-9, :\t\u{80}-\u{ff}]{0,12}\r?\n){0,5}\
            \r\n[a-z]{0,3}",
    ) {
        let _ = parse_for(&get(), &text);
        let _ = parse_for(&asked(Method::GET, true), &text);
    }

    /// A complete head does not depend on later bytes.
    #[test]
    fn a_prefix_is_partial_or_fails_as_the_whole_does(
        fields in proptest::collection::vec("[a-zA-Z-]{1,12}: ?[ -~]{0,12}", 1..8),
        cut: prop::sample::Index,
    ) {
        let text = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", fields.join("\r\n"));
        let cut = cut.index(text.len());
        if parse_for(&get(), &text[..cut]).is_err() {
            prop_assert!(parse_for(&get(), &text).is_err());
        } else {
            let partial = matches!(parse_for(&get(), &text[..cut]), Ok(Parsed::Partial));
            prop_assert!(partial);
        }
    }
}

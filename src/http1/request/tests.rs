use http::HeaderMap;
use proptest::prelude::*;

use super::*;

/// A head with its request.
#[derive(Debug)]
struct Whole {
    request: Request<()>,
    framing: Framing,
    asked: Asked,
    expects_continue: bool,
}

fn parse(read: &mut BytesMut) -> Result<Option<Whole>, Fault> {
    let mut request = Request::new(());
    let head = super::parse(read, &mut request)?;
    Ok(head.map(|head| Whole {
        request,
        framing: head.framing,
        asked: head.asked,
        expects_continue: head.expects_continue,
    }))
}

fn head(text: impl AsRef<[u8]>) -> Result<Option<Whole>, Fault> {
    parse(&mut BytesMut::from(text.as_ref()))
}

fn good(text: &str) -> Whole {
    head(text).unwrap().expect("a whole head")
}

/// What is known of a request when its head is known, in a form that can be compared.
type Known = (String, String, Version, HeaderMap, Framing, Asked, bool);

fn known(head: Whole) -> Known {
    let request = head.request;
    (
        request.method().to_string(),
        request.uri().to_string(),
        request.version(),
        request.headers().clone(),
        head.framing,
        head.asked,
        head.expects_continue,
    )
}

/// Feeds `parts` one by one, as a connection does; `None`: there is no head yet. Also what is left.
fn feed(parts: &[&[u8]]) -> Result<Option<(Known, Vec<u8>)>, Fault> {
    let mut read = BytesMut::new();
    for (index, part) in parts.iter().enumerate() {
        read.extend_from_slice(part);
        if let Some(head) = parse(&mut read)? {
            let rest = [&read, &*parts[index + 1..].concat()].concat();
            return Ok(Some((known(head), rest)));
        }
    }
    Ok(None)
}

#[test]
fn a_head_is_taken_off_and_the_body_stays() {
    let mut read = BytesMut::from(
        "POST /a%20b?c=d HTTP/1.1\r\nHost: localhost:80\r\nX-Odd:  \u{e9} \t\r\nCookie: a\r\ncookie: b\r\nContent-Length: 3\r\n\r\nabcGET",
    );
    let head = parse(&mut read).unwrap().unwrap();
    assert_eq!(read, "abcGET");
    let request = head.request;
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri(), "/a%20b?c=d");
    assert_eq!(request.version(), Version::HTTP_11);
    assert_eq!(request.headers()["x-odd"].as_bytes(), "\u{e9}".as_bytes());
    let cookies = Vec::from_iter(request.headers().get_all("cookie"));
    assert_eq!(cookies, ["a", "b"]);
    assert_eq!(head.framing, Framing::Length(3));
    let asked = Asked {
        http11: true,
        head_only: false,
        keep_alive: true,
        trailers: false,
    };
    assert_eq!(head.asked, asked);
    assert!(!head.expects_continue);
}

#[test]
fn what_two_readers_could_take_differently_is_refused() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -0",
        "Content-Length: 0x5",
        "Content-Length: 5 6",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding:",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \u{b}chunked",
        "Content-Length : 5",
        "Transfer-Encoding : chunked",
        " X: folded",
        "\tX: folded",
        "X: a\r\n folded",
        "X: a\r\n\tfolded",
        "X: a\rY: b",
        "X: a\nContent-Length: 5",
        "X: a\n",
        "X: \0",
        "X: \u{7f}",
        "X\0: a",
        "X\u{e9}: a",
        "no colon",
        ": no name",
    ] {
        for line in ["POST / HTTP/1.1", "GET / HTTP/1.1"] {
            let text = format!("{line}\r\nHost: a\r\n{fields}\r\n\r\n");
            assert!(head(&text).is_err(), "{text:?}");
        }
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(head(old).is_err());
}

#[test]
fn request_lines_have_one_form() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / HTTP/0.9",
        "GET / HTTP/1.1x",
        "GET / http/1.1",
        "GET / HTTP/11",
        "GET /",
        "GET",
        "G\u{e9}T / HTTP/1.1",
        "GET /a\u{7f} HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET a HTTP/1.1",
        "GET a.example HTTP/1.1",
        "GET a.example:80 HTTP/1.1",
        "GET * HTTP/1.1",
        "GET http:/a HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET ://a/ HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        let text = format!("{line}\r\nHost: a\r\n\r\n");
        assert!(head(&text).is_err(), "{text:?}");
    }
    for (line, uri) in [
        ("GET / HTTP/1.1", "/"),
        ("GET //a HTTP/1.1", "//a"),
        ("GET /a?b?c/d HTTP/1.1", "/a?b?c/d"),
        ("OPTIONS * HTTP/1.1", "*"),
        ("GET http://a:1/b HTTP/1.1", "http://a:1/b"),
        ("CONNECT a:443 HTTP/1.1", "a:443"),
        ("m-search / HTTP/1.1", "/"),
    ] {
        let text = format!("{line}\r\nHost: a\r\n\r\n");
        assert_eq!(*good(&text).request.uri(), uri, "{text:?}");
    }
}

/// Legacy apps write into queries whatever they have.
#[test]
fn targets_that_are_no_uris_are_written_as_browsers_write_them() {
    for (target, expected) in [
        (
            &b"/x?q={\"a\":\"b|c\"}^`<>&\xc3\xa9"[..],
            "/x?q={%22a%22:%22b|c%22}^%60%3C%3E&\u{e9}",
        ),
        // GBK.
        (b"/\xc4\xe3?q=\xba\xc3&\"", "/%C4%E3?q=%BA%C3&%22"),
        (b"http://localhost/x?q=\xff", "http://localhost/x?q=%FF"),
        // What passes as it is passes as it is.
        (
            "/\u{6d4b}?q={\u{8bd5}}'|\\^%zz%".as_bytes(),
            "/\u{6d4b}?q={\u{8bd5}}'|\\^%zz%",
        ),
        (b"/{\"x\"}", "/{\"x\"}"),
    ] {
        let text = [b"GET ", target, b" HTTP/1.1\r\nhost: x\r\n\r\nrest"].concat();
        let whole = feed(&[&text]).unwrap().expect("a whole head");
        assert_eq!((whole.0.1.as_str(), &whole.1[..]), (expected, &b"rest"[..]));
        for cut in 1..text.len() - 4 {
            let (start, end) = text.split_at(cut);
            assert_eq!(
                feed(&[start, end]).unwrap().as_ref(),
                Some(&whole),
                "cut at {cut}"
            );
        }
    }
    for target in [
        &b"/x?q=\xff y"[..],
        b"/x?q=\xff\ty",
        b"\xff",
        b"/x#\xff",
        b"/x\n\xff",
        b"/x\0\xff",
    ] {
        let text = [b"GET ", target, b" HTTP/1.1\r\nhost: x\r\n\r\n"].concat();
        assert!(head(&text).is_err(), "{}", text.escape_ascii());
    }
}

#[test]
fn all_lines_end_in_crlf() {
    for text in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert!(head(text).is_err(), "{text:?}");
    }
    // RFC 9112 §2.2: these are left over from a request before.
    assert!(
        head("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap()
            .is_some()
    );
    assert!(head("\r\n").unwrap().is_none());
}

#[test]
fn a_connection_lives_as_long_as_the_client_says() {
    for (text, keep_alive) in [
        ("GET / HTTP/1.1\r\n", true),
        ("GET / HTTP/1.1\r\nConnection: keep-alive\r\n", true),
        ("GET / HTTP/1.1\r\nConnection: close\r\n", false),
        (
            "GET / HTTP/1.1\r\nConnection: keep-alive\r\nConnection: x, ClosE\r\n",
            false,
        ),
        ("GET / HTTP/1.1\r\nConnection: closed\r\n", true),
        ("GET / HTTP/1.0\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n", false),
        ("CONNECT a:1 HTTP/1.1\r\n", false),
    ] {
        let head = good(&format!("{text}\r\n"));
        assert_eq!(head.asked.keep_alive, keep_alive, "{text:?}");
    }
}

#[test]
fn what_is_about_the_connection_is_used_up() {
    let head = good(
        "POST / HTTP/1.1\r\nConnection: close\r\nKeep-Alive: 5\r\nTransfer-Encoding: Chunked\r\nConnection: X\r\nX: y\r\n\r\n",
    );
    assert_eq!(head.framing, Framing::Chunked);
    let names = Vec::from_iter(head.request.headers().keys().map(http::HeaderName::as_str));
    // What `Connection` names is taken out further on.
    assert_eq!(names, ["connection", "x"]);
    assert_eq!(head.request.headers()["connection"], "X");
}

#[test]
fn expectations_and_trailers_are_noted() {
    for (fields, expects) in [
        ("Content-Length: 1\r\nExpect: 100-continue\r\n", true),
        (
            "Transfer-Encoding: chunked\r\nExpect: 100-Continue\r\n",
            true,
        ),
        ("Content-Length: 0\r\nExpect: 100-continue\r\n", false),
        ("Expect: 100-continue\r\n", false),
        ("Content-Length: 1\r\nExpect: x\r\n", false),
    ] {
        let head = good(&format!("PUT / HTTP/1.1\r\n{fields}\r\n"));
        assert_eq!(head.expects_continue, expects, "{fields}");
    }
    let old = good("PUT / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    assert!(!old.expects_continue);
    for (te, trailers) in [
        ("trailers", true),
        ("gzip, Trailers;q=0.5", true),
        ("gzip", false),
        ("xtrailers", false),
    ] {
        let head = good(&format!("GET / HTTP/1.1\r\nTE: {te}\r\n\r\n"));
        assert_eq!(head.asked.trailers, trailers, "{te}");
    }
}

#[test]
fn heads_have_their_limits() {
    let with = |fields: usize, size: usize| {
        let fields: String = (0..fields).map(|n| format!("X-{n}: y\r\n")).collect();
        let text = format!("GET / HTTP/1.1\r\n{fields}X: ");
        let pad = size.saturating_sub(text.len() + 4);
        format!("{text}{}\r\n\r\n", "z".repeat(pad))
    };
    assert_eq!(good(&with(200, MAX_HEAD)).request.headers().len(), 201);
    assert_eq!(
        good(&with(MAX_FIELDS - 1, 0)).request.headers().len(),
        MAX_FIELDS
    );
    assert_eq!(head(with(MAX_FIELDS, 0)).unwrap_err(), Fault::TooLarge);
    assert_eq!(head(with(1, MAX_HEAD + 1)).unwrap_err(), Fault::TooLarge);
    // It is not waited for the end of what is too large already.
    let endless = format!("GET /{}", "a".repeat(MAX_HEAD));
    assert_eq!(head(endless).unwrap_err(), Fault::TooLarge);
}

/// Mostly heads, some of them broken.
fn texts() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("GET / HTTP/1.1".to_owned()),
        Just("POST /a?b HTTP/1.1".to_owned()),
        Just("HEAD http://a/b HTTP/1.0".to_owned()),
        "[A-Z]{1,4} [ -~]{0,6} HTTP/1\\.[0-2]",
    ];
    let field = prop_oneof![
        Just("Host: a".to_owned()),
        Just("Content-Length: 3".to_owned()),
        Just("Transfer-Encoding: chunked".to_owned()),
        Just("Connection: close".to_owned()),
        Just("Expect: 100-continue".to_owned()),
        "[A-Za-z-]{1,6}: ?[ -~\t]{0,8}",
        "[ -~\t\r\n\0\u{e9}]{0,8}",
    ];
    let end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")];
    (
        "(\r\n){0,2}",
        line,
        proptest::collection::vec((field, end), 0..5),
        "[ -~]{0,4}",
    )
        .prop_map(|(before, line, fields, body)| {
            let fields: String = fields.into_iter().map(|(field, end)| field + end).collect();
            format!("{before}{line}\r\n{fields}\r\n{body}")
        })
}

proptest! {
    /// However a head comes in, it is the same request, or none.
    #[test]
    fn splits_make_no_difference(text in texts(), cuts in proptest::collection::vec(0_usize..80, 0..6)) {
        let bytes = text.as_bytes();
        let whole = feed(&[bytes]);
        let mut parts = Vec::new();
        let mut start = 0;
        let mut cuts = cuts;
        cuts.sort_unstable();
        for cut in cuts {
            let cut = cut.clamp(start, bytes.len());
            parts.push(&bytes[start..cut]);
            start = cut;
        }
        parts.push(&bytes[start..]);
        let split = feed(&parts);
        match (&whole, &split) {
            // Which rule is broken first can depend on how much there is.
            (Err(_), Err(_)) => {}
            _ => prop_assert_eq!(&whole, &split),
        }
    }

    /// What passes here means to httparse, and so to hyper, what it means to us.
    #[test]
    fn what_passes_is_what_others_read(text in texts()) {
        let Ok(Some((known, rest))) = feed(&[text.as_bytes()]) else {
            return Ok(());
        };
        let mut slots = [httparse::EMPTY_HEADER; 32];
        let mut other = httparse::Request::new(&mut slots);
        let Ok(httparse::Status::Complete(length)) = other.parse(text.as_bytes()) else {
            return Err(TestCaseError::fail("others refuse it"));
        };
        let text = text.as_bytes();
        prop_assert_eq!(&text[length..], &rest[..]);
        prop_assert!(!text[..length].windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r'));
        prop_assert_eq!(other.method, Some(&*known.0));
        let framing: Vec<_> = other.headers.iter().filter(|field| {
            field.name.eq_ignore_ascii_case("content-length") || field.name.eq_ignore_ascii_case("transfer-encoding")
        }).collect();
        prop_assert!(framing.len() <= 1);
        match known.4 {
            Framing::Length(length) => {
                let digits = length.to_string();
                prop_assert_eq!(framing[0].value, digits.as_bytes());
            }
            Framing::Chunked => prop_assert_eq!(framing[0].value, b"chunked"),
            _ => prop_assert!(framing.is_empty()),
        }
    }

    #[test]
    fn nothing_makes_it_panic(bytes: Vec<u8>) {
        let _ = feed(&[&bytes]);
        let _ = feed(&[b"GET / HTTP/1.1\r\n", &bytes, b"\r\n\r\n"]);
    }
}

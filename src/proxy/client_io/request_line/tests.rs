use proptest::prelude::*;

use super::*;

/// Returns what a new connection hands out when `bytes` come in at once.
fn through(bytes: &[u8]) -> Vec<u8> {
    let mut line = RequestLine::new();
    let instead = line.pass(bytes);
    instead.map_or_else(|| bytes.to_vec(), |instead| instead.to_vec())
}

/// Returns the state after a message whose bytes came in at once.
fn after(message: &[u8], body: Option<u64>) -> RequestLine {
    let mut line = RequestLine::new();
    line.pass(message);
    line.message_ended(body);
    line
}

const RAW: &[u8] = b"GET /?q=\"\xc4\xe3\" HTTP/1.1\r\n";
const ENCODED: &[u8] = b"GET /?q=%22%C4%E3%22 HTTP/1.1\r\n";

#[test]
fn targets_that_uri_refuses_are_percent_encoded() {
    for (raw, encoded) in [
        (
            &b"GET /?a=<b>&c=\"d\" HTTP/1.1\r\n"[..],
            &b"GET /?a=%3Cb%3E&c=%22d%22 HTTP/1.1\r\n"[..],
        ),
        (b"GET /a`b HTTP/1.1\r\n", b"GET /a%60b HTTP/1.1\r\n"),
        (RAW, ENCODED),
        (
            b"\r\n\nGET /<\xc4> HTTP/1.1\n",
            b"\r\n\nGET /%3C%C4%3E HTTP/1.1\n",
        ),
        // UTF-8 stays beside a byte that is encoded.
        (
            "GET /你?\"=1 HTTP/1.1\r\n".as_bytes(),
            "GET /你?%22=1 HTTP/1.1\r\n".as_bytes(),
        ),
        (
            b"GET http://a/\xff HTTP/1.1\r\n",
            b"GET http://a/%FF HTTP/1.1\r\n",
        ),
        (b"GET /\xff\r\n", b"GET /%FF\r\n"),
    ] {
        assert_eq!(
            String::from_utf8_lossy(&through(raw)),
            String::from_utf8_lossy(encoded)
        );
        assert!(
            Uri::try_from(
                encoded
                    .split(|byte| *byte == b' ')
                    .nth(1)
                    .unwrap()
                    .trim_ascii_end()
            )
            .is_ok()
        );
    }
}

#[test]
fn lines_that_uri_accepts_stay() {
    for same in [
        &b"GET /a?b=%22 HTTP/1.1\r\n"[..],
        "GET /你好?名=值 HTTP/1.1\r\n".as_bytes(),
        b"GET /a\"b HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\x80\xff",
        // Invalid methods and versions stay invalid.
        b"G\"T / HTTP/1.1\r\n",
        b"G\xffT / HTTP/1.1\r\n",
        b"GET / HTTP/1\".1\r\n",
        b"\x16\x03\x01\x02\0\x01\0\xff\xff",
        b"",
    ] {
        assert_eq!(through(same), same, "{}", String::from_utf8_lossy(same));
    }
}

#[test]
fn fields_and_bodies_stay() {
    let message = [RAW, b"X: \"<\xc4>\r\n\r\nGET /\"\xc4 HTTP/1.1\r\n"].concat();
    let expected = [ENCODED, b"X: \"<\xc4>\r\n\r\nGET /\"\xc4 HTTP/1.1\r\n"].concat();
    assert_eq!(through(&message), expected);
}

#[test]
fn the_line_behind_a_message_is_a_first_line() {
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n<a>";
    let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\"\r\n0\r\n\r\n";
    for (message, body) in [(&get[..], Some(0)), (post, Some(3)), (chunked, None)] {
        let mut line = after(message, body);
        assert_eq!(
            line.pass(RAW).as_deref(),
            Some(ENCODED),
            "{}",
            String::from_utf8_lossy(message)
        );
    }
}

#[test]
fn bytes_behind_a_partial_pipelined_message_stay() {
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /a";
    let post = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n<a>X";
    let cut = b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n<a>\n\r\n";
    for (message, body) in [(&get[..], Some(0)), (post, Some(3)), (cut, Some(9))] {
        let mut line = after(message, body);
        assert_eq!(line.pass(RAW), None, "{}", String::from_utf8_lossy(message));
    }
}

/// hyper parses whole pipelined heads without another read: the next byte begins a line, unless
/// hyper is still answering one of the pipelined messages.
#[test]
fn whole_pipelined_heads_keep_the_position() {
    let two = b"GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 9\r\n\r\n";
    let mut line = after(two, Some(0));
    line.message_runs();
    assert_eq!(line.pass(b"GET /\"<\xc4 HTTP/1.1\r\n"), None);
    line.message_ended(Some(9));
    assert_eq!(line.pass(RAW), None);

    let mut line = after(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n", Some(0));
    line.message_runs();
    line.message_ended(Some(0));
    assert_eq!(line.pass(RAW).as_deref(), Some(ENCODED));
}

#[test]
fn a_too_long_line_is_passed_on() {
    let mut line = RequestLine::new();
    assert_eq!(line.pass(b"GET /\"").as_deref(), Some(&b""[..]));
    let more = vec![b'a'; MAX_HEAD];
    assert_eq!(line.pass(&more).map(|out| out.len()), Some(MAX_HEAD + 6));
    assert_eq!(line.pass(b"\" HTTP/1.1\r\n"), None);

    let mut line = RequestLine::new();
    line.pass(b"GET /<");
    assert_eq!(&line.end()[..], b"GET /<");
}

proptest! {
    /// Runs the fuzz target with lines that are almost requests.
    #[test]
    fn only_the_target_of_the_first_line_changes(
        empty in "(\r\n|\n){0,2}",
        method in "[A-Z\"\u{80}]{1,6}",
        target in prop::collection::vec(
            prop_oneof![Just(b'"'), Just(b'<'), Just(b'`'), any::<u8>()],
            0..40,
        ),
        version in "HTTP/1\\.[01]|HTTP/\"",
        rest in prop::collection::vec(any::<u8>(), 0..80),
        size in 1_u8..90,
    ) {
        let mut bytes = vec![size];
        bytes.extend_from_slice(empty.as_bytes());
        bytes.extend_from_slice(method.as_bytes());
        bytes.push(b' ');
        bytes.extend(target.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        bytes.push(b' ');
        bytes.extend_from_slice(version.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&rest);
        fuzz::client_io(&bytes);
    }

    #[test]
    fn every_message_is_encoded_however_reads_are_cut(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..6),
        size in 1_usize..60,
    ) {
        let mut line = RequestLine::new();
        for body in &bodies {
            let fields = format!("Content-Length: {}\r\n\r\n", body.len());
            let raw = [RAW, fields.as_bytes(), body].concat();
            let mut out = Vec::new();
            for read in raw.chunks(size) {
                let instead = line.pass(read);
                out.extend(instead.map_or_else(|| read.to_vec(), |it| it.to_vec()));
            }
            prop_assert_eq!(out, [ENCODED, fields.as_bytes(), body].concat());
            line.message_runs();
            line.message_ended(Some(body.len() as u64));
        }
    }
}

use proptest::prelude::*;

use super::*;

/// A decoded body: data, trailers, and the bytes after its end.
#[derive(Debug, PartialEq)]
struct Decoded {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    rest: Vec<u8>,
}

/// Feeds `parts` one by one. `Ok(None)`: the body is incomplete.
fn decode(framing: Framing, parts: &[&[u8]]) -> Result<Option<Decoded>, Malformed> {
    let mut decoder = Decoder::new(framing);
    let mut read = BytesMut::new();
    let mut data = Vec::new();
    let mut trailers = None;
    for (index, part) in parts.iter().enumerate() {
        read.extend_from_slice(part);
        loop {
            match decoder.step(&mut read)? {
                Step::Data(frame) => {
                    assert!(!frame.is_empty());
                    data.extend_from_slice(&frame);
                }
                Step::Trailers(fields) => assert!(trailers.replace(fields).is_none()),
                Step::More => {
                    assert!(!decoder.is_done());
                    break;
                }
                Step::End => {
                    assert!(decoder.is_done());
                    let rest = [&read, &*parts[index + 1..].concat()].concat();
                    return Ok(Some(Decoded {
                        data,
                        trailers,
                        rest,
                    }));
                }
            }
        }
    }
    Ok(None)
}

/// Decodes at every split into two parts, and byte by byte.
fn chunked(text: &str) -> Result<Option<Decoded>, Malformed> {
    let bytes = text.as_bytes();
    let whole = decode(Framing::Chunked, &[bytes]);
    for cut in 0..=bytes.len() {
        let (before, after) = bytes.split_at(cut);
        assert_eq!(
            decode(Framing::Chunked, &[before, after]),
            whole,
            "{text:?} cut at {cut}"
        );
    }
    let single = Vec::from_iter(bytes.chunks(1));
    assert_eq!(decode(Framing::Chunked, &single), whole, "{text:?}");
    whole
}

#[test]
fn chunks_are_joined_and_the_rest_is_left() {
    for (text, data, rest) in [
        ("0\r\n\r\n", "", ""),
        ("3\r\nabc\r\n0\r\n\r\n", "abc", ""),
        ("3\r\nabc\r\n0\r\n\r\nHTTP", "abc", "HTTP"),
        ("003\r\nabc\r\n1\r\nd\r\n000\r\n\r\n", "abcd", ""),
        (
            "A\r\n0123456789\r\na\r\nabcdefghij\r\n0\r\n\r\n",
            "0123456789abcdefghij",
            "",
        ),
        ("3;a=b;c=\"d\"\r\nabc\r\n0;x\r\n\r\n", "abc", ""),
        ("3 \r\nabc\r\n0\t;x\r\n\r\n", "abc", ""),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n", ""),
    ] {
        let decoded = chunked(text).unwrap().unwrap();
        assert_eq!(decoded.data, data.as_bytes(), "{text:?}");
        assert_eq!(decoded.rest, rest.as_bytes(), "{text:?}");
        assert_eq!(decoded.trailers, None);
    }
}

#[test]
fn trailers_lose_fields_for_heads_only() {
    let decoded = chunked(
        "1\r\na\r\n0\r\nX-Sum: 1\r\ncontent-length: 9\r\nSet-Cookie: x\r\n\
         x-sum: 2\r\ntransfer-encoding: chunked\r\n\r\nZ",
    );
    let decoded = decoded.unwrap().unwrap();
    let trailers = decoded.trailers.unwrap();
    assert_eq!(trailers.len(), 2);
    assert!(trailers.get_all("x-sum").iter().eq(["1", "2"]));
    assert_eq!(decoded.rest, b"Z");
    let nothing_left = chunked("0\r\nhost: x\r\n\r\n").unwrap().unwrap();
    assert_eq!(nothing_left.trailers, None);
}

#[test]
fn malformed_chunks_are_rejected() {
    for text in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 2\r\n",
        ";a\r\n",
        "1\n",
        "1\ra",
        "1;a\n",
        "1;a\0\r\n",
        "1\r\nab",
        "1\r\na\n",
        "1\r\na\ra",
        "00000000000000001\r\n",
        "fffffffffffffffff\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
        "0\r\n: y\r\n\r\n",
    ] {
        let decoded = chunked(text);
        assert!(decoded.is_err(), "{text:?}: {decoded:?}");
    }
}

#[test]
fn unbounded_framing_is_rejected() {
    let long = "x".repeat(MAX_EXTENSIONS);
    let many = "y: z\r\n".repeat(MAX_TRAILER_FIELDS + 1);
    let extension = format!("1;{}\r\na\r\n", "x".repeat(1023)).repeat(17);
    for text in [
        &*format!("1;{long}"),
        &extension,
        &format!("0\r\ny: {long}"),
        &format!("0\r\ny: {long}\r\n\r\n"),
        &format!("0\r\n{many}\r\n"),
    ] {
        assert!(decode(Framing::Chunked, &[text.as_bytes()]).is_err());
    }
    let largest = decode(Framing::Chunked, &[b"ffffffffffffffff\r\na"]);
    assert_eq!(largest, Ok(None));
}

#[test]
fn a_length_is_counted_down() {
    let decoded = decode(Framing::Length(5), &[b"ab", b"", b"cdeHTTP"]);
    let decoded = decoded.unwrap().unwrap();
    assert_eq!(
        (&*decoded.data, &*decoded.rest),
        (&b"abcde"[..], &b"HTTP"[..])
    );
    assert_eq!(decode(Framing::Length(5), &[b"abcd"]), Ok(None));
    let mut decoder = Decoder::new(Framing::Length(5));
    assert_eq!(decoder.remaining(), Some(5));
    decoder.step(&mut BytesMut::from("ab")).unwrap();
    assert_eq!(decoder.remaining(), Some(3));
}

#[test]
fn the_end_is_known_with_the_last_frame() {
    let mut read = BytesMut::from("3\r\nabc\r\n0\r\n\r\n");
    let mut decoder = Decoder::new(Framing::Chunked);
    assert_eq!(decoder.remaining(), None);
    assert!(matches!(decoder.step(&mut read), Ok(Step::Data(_))));
    assert!(decoder.is_done());
    assert_eq!(decoder.remaining(), Some(0));
    // Trailers are a separate frame.
    let mut read = BytesMut::from("3\r\nabc\r\n0\r\nx: y\r\n\r\n");
    let mut decoder = Decoder::new(Framing::Chunked);
    assert!(matches!(decoder.step(&mut read), Ok(Step::Data(_))));
    assert!(!decoder.is_done());
    assert!(matches!(decoder.step(&mut read), Ok(Step::Trailers(_))));
    assert!(decoder.is_done());
}

#[test]
fn only_a_body_without_length_may_end_with_the_connection() {
    let mut until_close = Decoder::new(Framing::Close);
    assert!(matches!(
        until_close.step(&mut BytesMut::from("a")),
        Ok(Step::Data(_))
    ));
    assert_eq!(until_close.close(), Ok(()));
    assert!(until_close.is_done());
    for framing in [Framing::Length(1), Framing::Chunked] {
        assert!(Decoder::new(framing).close().is_err());
    }
    // The last chunk's own line break is missing.
    let mut decoder = Decoder::new(Framing::Chunked);
    let mut read = BytesMut::from("0\r\n");
    assert!(matches!(decoder.step(&mut read), Ok(Step::More)));
    assert!(decoder.close().is_err());
}

proptest! {
    #[test]
    fn no_input_panics(
        text in "([0-9a-fA-F]{0,3}(;[a-z=\"\\n]{0,3})?\r?\n?[a-z]{0,4}\r?\n?){0,6}",
    ) {
        let _ = decode(Framing::Chunked, &[text.as_bytes()]);
    }

    #[test]
    fn any_split_gives_the_same(
        chunks in proptest::collection::vec("[ -~\r\n]{1,20}", 0..6),
        trailers: bool,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut text = String::new();
        for chunk in &chunks {
            text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
        }
        text += if trailers { "0\r\nx: y\r\n\r\nrest" } else { "0\r\n\r\nrest" };
        let mut places = Vec::from_iter(cuts.iter().map(|cut| cut.index(text.len())));
        places.extend([0, text.len()]);
        places.sort_unstable();
        let parts = places.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]);
        let parts = Vec::from_iter(parts);
        let decoded = decode(Framing::Chunked, &parts).unwrap().unwrap();
        prop_assert_eq!(decoded.data, chunks.concat().into_bytes());
        prop_assert_eq!(decoded.trailers.is_some(), trailers);
        prop_assert_eq!(decoded.rest, b"rest");
    }
}

/// Old servers pad every size to a fixed width, which is no abuse.
#[test]
fn sizes_may_be_padded_as_long_as_data_follows() {
    let long = 20_000;
    let padded = "8       \r\n12345678\r\n".repeat(long);
    let decoded = decode(Framing::Chunked, &[padded.as_bytes(), b"0       \r\n\r\n"]);
    assert_eq!(decoded.unwrap().unwrap().data.len(), 8 * long);
    let abuse = "1;xxxxxxx\r\n1\r\n".repeat(long);
    assert!(decode(Framing::Chunked, &[abuse.as_bytes()]).is_err());
}

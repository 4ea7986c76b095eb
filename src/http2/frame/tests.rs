use proptest::prelude::*;

use super::*;

#[test]
fn frames_are_written_as_the_rfc_draws_them() {
    let mut out = Vec::new();
    put_settings(
        &mut out,
        &[(setting::ENABLE_PUSH, 0), (0x0102, 0x0304_0506)],
    );
    assert_eq!(
        out,
        b"\x00\x00\x0c\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x01\x02\x03\x04\x05\x06"
    );
    out.clear();
    put_reset(&mut out, 3, Reason::CANCEL);
    put_window(&mut out, 0, 65_535);
    put_go_away(&mut out, Reason::PROTOCOL_ERROR);
    assert_eq!(
        out,
        b"\0\0\x04\x03\0\0\0\0\x03\0\0\0\x08\0\0\x04\x08\0\0\0\0\0\0\0\xff\xff\
          \0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01"
    );
}

#[test]
fn a_heads_reserved_bit_is_ignored() {
    let head = Head::read(b"\x01\x02\x03\xaa\xbb\xff\xff\xff\xff").unwrap();
    assert_eq!(
        (head.length, head.stream),
        (0x01_0203, crate::http2::MAX_STREAM)
    );
    assert_eq!((head.kind, head.flags), (0xaa, 0xbb));
    assert_eq!(Head::read(&[0; 8]), None);
}

#[test]
fn a_block_goes_on_in_continuation() {
    let mut out = b"before".to_vec();
    put_headers(&mut out, 5, true, 4, |out| {
        out.extend_from_slice(b"0123456789");
    });
    assert_eq!(
        out,
        b"before\0\0\x04\x01\x01\0\0\0\x050123\0\0\x04\x09\0\0\0\0\x054567\0\0\x02\x09\x04\0\0\0\x0589"
    );
    out.clear();
    put_headers(&mut out, 5, false, 4, |out| out.extend_from_slice(b"0123"));
    assert_eq!(out, b"\0\0\x04\x01\x04\0\0\0\x050123");
}

#[test]
fn padding_and_priority_are_taken_off_headers() {
    let fragment = |flags, payload: &'static [u8]| {
        let head = Head {
            length: payload.len(),
            kind: kind::HEADERS,
            flags,
            stream: 1,
        };
        fragment(head, payload).map_err(|violation| violation.reason)
    };
    assert_eq!(fragment(0, b"abc"), Ok(&b"abc"[..]));
    assert_eq!(fragment(flag::PADDED, b"\x02abc\0\0"), Ok(&b"abc"[..]));
    assert_eq!(fragment(flag::PADDED, b"\x03abc"), Ok(&b""[..]));
    assert_eq!(
        fragment(flag::PADDED, b"\x04abc"),
        Err(Reason::PROTOCOL_ERROR)
    );
    assert_eq!(fragment(flag::PADDED, b""), Err(Reason::FRAME_SIZE_ERROR));
    assert_eq!(fragment(flag::PRIORITY, b"12345abc"), Ok(&b"abc"[..]));
    assert_eq!(
        fragment(flag::PRIORITY, b"1234"),
        Err(Reason::FRAME_SIZE_ERROR)
    );
    let both = flag::PADDED | flag::PRIORITY;
    assert_eq!(fragment(both, b"\x0112345abc\0"), Ok(&b"abc"[..]));
    assert_eq!(fragment(both, b"\x0112345"), Err(Reason::PROTOCOL_ERROR));
}

#[test]
fn payloads_have_their_lengths() {
    let read = |payload| Vec::from_iter(settings(payload).unwrap());
    assert_eq!(read(b""), []);
    assert_eq!(
        read(b"\x00\x04\x00\x00\x00\x01"),
        [(setting::INITIAL_WINDOW_SIZE, 1)]
    );
    assert!(settings(b"\0\0\0\0\0").is_err());
    assert_eq!(number(b"\0\0\0\x07and more", ""), Ok(7));
    assert!(number(b"\0\0\0", "").is_err());
}

proptest! {
    #[test]
    fn heads_survive(length in 0_usize..1 << 24, kind: u8, flags: u8, stream in 0_u32..1 << 31) {
        let head = Head { length, kind, flags, stream };
        prop_assert_eq!(Head::read(&head.write()), Some(head));
    }

    #[test]
    fn blocks_are_cut_without_loss(block in prop::collection::vec(any::<u8>(), 0..200), max in 1_usize..50) {
        let mut out = Vec::new();
        put_headers(&mut out, 7, false, max, |out| out.extend_from_slice(&block));
        let (mut rest, mut read, mut last) = (&out[..], Vec::new(), 0);
        while let Some(head) = Head::read(rest) {
            prop_assert!(head.length <= max && last & flag::END_HEADERS == 0);
            let expected = if read.is_empty() && last == 0 && rest.len() == out.len() { kind::HEADERS } else { kind::CONTINUATION };
            prop_assert_eq!((head.kind, head.stream), (expected, 7));
            read.extend_from_slice(&rest[HEAD..HEAD + head.length]);
            rest = &rest[HEAD + head.length..];
            last = head.flags;
        }
        prop_assert!(rest.is_empty() && last & flag::END_HEADERS != 0);
        prop_assert_eq!(read, block);
    }
}

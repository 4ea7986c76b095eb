//! RFC 7541 Appendix C, and what an adversary would send.

use proptest::prelude::*;

use super::decode::{Limits, TABLE};
use super::*;
use crate::http2::{Reason, Violation, huffman};

const LIMITS: Limits = Limits {
    size: 64 * 1024,
    fields: 256,
};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// `?` for each byte of a value that is not allowed.
fn text(value: &Value) -> Vec<u8> {
    match value {
        Value::Field(value) => value.as_bytes().to_vec(),
        Value::Invalid(length) => b"?".repeat(*length),
    }
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Violation> {
    let mut fields = Vec::new();
    let whole = decoder.decode(block, LIMITS, |name, value| {
        fields.push((name.as_bytes().to_vec(), text(&value)));
    })?;
    assert!(whole);
    Ok(fields)
}

/// How many fields there are, and whether that was all.
fn count(decoder: &mut Decoder, block: &[u8]) -> (usize, bool) {
    let mut count = 0;
    let whole = decoder.decode(block, LIMITS, |_, _| count += 1);
    (count, whole.unwrap())
}

fn pairs(list: &[(&str, &str)]) -> Fields {
    list.iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

/// The block, the fields, and what is in the table then.
#[track_caller]
fn check(
    decoder: &mut Decoder,
    block: &str,
    fields: &[(&str, &str)],
    table: &[(&str, &str)],
    size: usize,
) {
    assert_eq!(decode(decoder, &hex(block)).unwrap(), pairs(fields));
    let (actual, entries) = decoder.dynamic();
    let entries: Fields = entries
        .map(|entry| (entry.name.as_bytes().to_vec(), text(&entry.value)))
        .collect();
    assert_eq!((entries, actual), (pairs(table), size));
}

#[test]
fn c_2_single_fields() {
    let field = [("custom-key", "custom-header")];
    let block = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    check(&mut Decoder::new(), block, &field, &field, 55);
    let block = "040c 2f73 616d 706c 652f 7061 7468";
    check(
        &mut Decoder::new(),
        block,
        &[(":path", "/sample/path")],
        &[],
        0,
    );
    let block = "1008 7061 7373 776f 7264 0673 6563 7265 74";
    check(
        &mut Decoder::new(),
        block,
        &[("password", "secret")],
        &[],
        0,
    );
    check(&mut Decoder::new(), "82", &[(":method", "GET")], &[], 0);
}

#[test]
fn c_3_and_c_4_requests() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let authority = (":authority", "www.example.com");
    let cache = ("cache-control", "no-cache");
    let custom = ("custom-key", "custom-value");
    for [first, second, third] in [plain, coded] {
        let mut decoder = Decoder::new();
        let common = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            authority,
        ];
        check(&mut decoder, first, &common, &[authority], 57);
        let fields = [&common[..], &[cache]].concat();
        check(&mut decoder, second, &fields, &[cache, authority], 110);
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            authority,
            custom,
        ];
        check(
            &mut decoder,
            third,
            &fields,
            &[custom, cache, authority],
            164,
        );
    }
}

/// In a table of 256 bytes, so that entries are evicted.
#[test]
fn c_5_and_c_6_responses() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    let coded = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    let early = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    let late = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
    let private = ("cache-control", "private");
    let location = ("location", "https://www.example.com");
    let found = (":status", "302");
    let moved = (":status", "307");
    let coding = ("content-encoding", "gzip");
    let cookie = (
        "set-cookie",
        "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    );
    for [first, second, third] in [plain, coded] {
        let mut decoder = Decoder::new();
        decode(&mut decoder, &hex("3fe101")).unwrap();
        let fields = [found, private, early, location];
        check(
            &mut decoder,
            first,
            &fields,
            &[location, early, private, found],
            222,
        );
        let fields = [moved, private, early, location];
        check(
            &mut decoder,
            second,
            &fields,
            &[moved, location, early, private],
            222,
        );
        let fields = [(":status", "200"), private, late, location, coding, cookie];
        check(&mut decoder, third, &fields, &[cookie, coding, late], 215);
    }
}

#[test]
fn the_static_table_is_that_of_appendix_a() {
    let mut decoder = Decoder::new();
    for (index, name, value) in [
        (1, ":authority", ""),
        (7, ":scheme", "https"),
        (8, ":status", "200"),
        (14, ":status", "500"),
        (15, "accept-charset", ""),
        (16, "accept-encoding", "gzip, deflate"),
        (23, "authorization", ""),
        (28, "content-length", ""),
        (32, "cookie", ""),
        (38, "host", ""),
        (46, "location", ""),
        (54, "server", ""),
        (61, "www-authenticate", ""),
    ] {
        let fields = decode(&mut decoder, &[0x80 | index]).unwrap();
        assert_eq!(fields, pairs(&[(name, value)]));
    }
}

#[test]
fn what_is_broken_ends_the_connection() {
    for (block, rule) in [
        (&[0x80][..], "an index that nothing is at"),
        (&[0xbe], "an index that nothing is at"),
        (&[0x7f, 0x00, 0x00], "an index that nothing is at"),
        (&[0x82, 0x20], "a size update behind a field"),
        // 4097.
        (&[0x3f, 0xe2, 0x1f], "a table that is larger than allowed"),
        (&[0xff], "a header block that is cut off"),
        (&[0x00], "a header block that is cut off"),
        (&[0x00, 0x01], "a header block that is cut off"),
        (&[0x00, 0x01, b'a'], "a header block that is cut off"),
        (
            &[0x00, 0x01, b'a', 0x7f, 0xff],
            "a header block that is cut off",
        ),
        (
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            "a number that is too large",
        ),
        // A zero that takes for ever to say.
        (
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
            "a number that is too large",
        ),
        (
            &[0x01, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f],
            "a number that is too large",
        ),
        (
            &[0x00, 0x81, 0x00, 0x00],
            "a string that is not Huffman-coded",
        ),
        (
            &[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x00],
            "a string that is not Huffman-coded",
        ),
    ] {
        let violation = decode(&mut Decoder::new(), block).unwrap_err();
        assert_eq!(violation.rule, rule, "{block:x?}");
        assert_eq!(violation.reason, Reason::COMPRESSION_ERROR);
    }
}

#[test]
fn size_updates_come_first_and_empty_the_table() {
    let mut decoder = Decoder::new();
    decode(&mut decoder, b"\x40\x01a\x01b").unwrap();
    assert_eq!(decoder.dynamic().0, 34);
    assert_eq!(
        decode(&mut decoder, b"\x20\x3f\xe1\x1f\x82").unwrap().len(),
        1
    );
    assert_eq!(decoder.dynamic().0, 0);
    decode(&mut decoder, b"\x40\x01a\x01b").unwrap();
    assert_eq!(decoder.dynamic().0, 34);
    // Larger than the table: empties it, and is no error.
    let large = [&b"\x40\x01a\x7f\xa1\x1f"[..], &[b'x'; 4128]].concat();
    assert_eq!(decode(&mut decoder, &large).unwrap()[0].1.len(), 4128);
    assert_eq!(decoder.dynamic().0, 0);
}

/// RFC 7541 §4.4: a name may be that of the entry which goes for it.
#[test]
fn an_entry_may_be_evicted_by_one_that_refers_to_it() {
    let mut decoder = Decoder::new();
    decode(&mut decoder, b"\x3f\x09\x40\x03abc\x02de").unwrap();
    assert_eq!(decoder.dynamic().0, 37);
    let fields = decode(&mut decoder, b"\x7e\x03xyz").unwrap();
    assert_eq!(fields, pairs(&[("abc", "xyz")]));
    assert_eq!(decoder.dynamic().0, 38);
}

/// Whatever came before under the same name, or the same bytes under another.
#[test]
fn what_is_known_is_what_was_said() {
    let mut decoder = Decoder::new();
    let literal = |first: &[u8], value: &[u8]| {
        let coded = huffman::tests::encode(value);
        [first, &[0x80 | coded.len() as u8], &coded].concat()
    };
    // `server` into the table and not, `date`, `set-cookie`, `location`, a name of its own, and one that is never indexed.
    let names = [
        &[0x76][..],
        &[0x0f, 0x27],
        &[0x61],
        &[0x77],
        &[0x6e],
        b"\x00\x01a",
        &[0x1f, 0x27],
    ];
    for _ in 0..3 {
        for value in [
            &b""[..],
            &[b'x'; 90],
            b"nginx",
            b"nginx",
            b" nginx",
            b"other",
        ] {
            for name in names {
                let read = decode(&mut decoder, &literal(name, value)).unwrap();
                let value = text(&Value::new(Bytes::copy_from_slice(value)));
                assert_eq!(read[0].1, value);
            }
        }
    }
    assert_eq!(decoder.known(), [&b"server"[..], b"date"]);
    // What looks the same and is not coded is not the same.
    let coded = huffman::tests::encode(b"ab");
    decode(&mut decoder, &literal(&[0x76], b"ab")).unwrap();
    let plain = [&[0x76, coded.len() as u8][..], &coded].concat();
    let read = decode(&mut decoder, &plain).unwrap();
    assert_eq!(read[0].1, text(&Value::new(coded.into())));
    decoder.shed();
    assert!(decoder.known().is_empty());
}

/// RFC 7541 §6.2.3.
#[test]
fn what_is_never_indexed_stays_so() {
    let mut decoder = Decoder::new();
    for (first, never) in [(0x0f, false), (0x1f, true), (0x76, false)] {
        let block = match first {
            0x76 => vec![first, 1, b'x'],
            _ => vec![first, 0x27, 1, b'x'],
        };
        let mut sensitive = Vec::new();
        let read = decoder.decode(&block, LIMITS, |_, value| match value {
            Value::Field(value) => sensitive.push(value.is_sensitive()),
            Value::Invalid(_) => {}
        });
        assert!(read.unwrap());
        assert_eq!(sensitive, [never], "{first:x}");
    }
}

/// One byte for four thousand: nobody keeps them all, and the table is right all the same.
#[test]
fn a_bomb_is_too_large() {
    let mut decoder = Decoder::new();
    let mut bomb = [&b"\x40\x01a\x7f\xc0\x1e"[..], &[b'x'; 4031]].concat();
    bomb.extend([0xbe; 10_000]);
    assert_eq!(count(&mut decoder, &bomb), (16, false));
    assert_eq!(decoder.dynamic().0, 4096 - 32);
    let many = [0x90; 257];
    assert_eq!(count(&mut decoder, &many), (256, false));
    assert_eq!(count(&mut decoder, &many[..256]), (256, true));
}

#[test]
fn what_no_field_may_hold_is_told_from_what_it_may() {
    for name in ["", "Upper", "a b", "a:", ":path", ":", "\u{e9}"] {
        assert!(
            matches!(Name::new(name.as_bytes()), Name::Other(_)),
            "{name}"
        );
    }
    assert_eq!(Name::new(b":status"), Name::Status);
    for value in [" a", "a ", "\ta", "a\t", "a\nb", "a\rb", "a\0b", "\x7f"] {
        let value = Bytes::from_static(value.as_bytes());
        assert!(
            matches!(Value::new(value.clone()), Value::Invalid(_)),
            "{value:?}"
        );
    }
    for value in ["", "a", "a b", "a\tb", "\u{e9}"] {
        let value = Bytes::from_static(value.as_bytes());
        assert!(
            matches!(Value::new(value.clone()), Value::Field(_)),
            "{value:?}"
        );
    }
}

/// How a field is written in a block.
#[derive(Clone, Debug)]
struct Written {
    name: String,
    value: Vec<u8>,
    kind: u8,
    coded: bool,
}

fn written() -> impl Strategy<Value = Written> {
    let kind = prop::sample::select(vec![0x00, 0x10, 0x40]);
    let value = prop::collection::vec(any::<u8>(), 0..100);
    ("[a-z:-]{0,200}", value, kind, any::<bool>()).prop_map(|(name, value, kind, coded)| Written {
        name,
        value,
        kind,
        coded,
    })
}

fn put_string(out: &mut Vec<u8>, text: &[u8], coded: bool) {
    let text = if coded {
        huffman::tests::encode(text)
    } else {
        text.to_vec()
    };
    let start = out.len();
    encode::tests::put_integer(out, 7, text.len());
    out[start] |= if coded { 0x80 } else { 0 };
    out.extend_from_slice(&text);
}

proptest! {
    #[test]
    fn what_was_written_is_read(blocks in prop::collection::vec(prop::collection::vec(written(), 0..20), 1..5)) {
        let mut decoder = Decoder::new();
        for fields in blocks {
            let mut block = Vec::new();
            for field in &fields {
                block.push(field.kind);
                put_string(&mut block, field.name.as_bytes(), field.coded);
                put_string(&mut block, &field.value, !field.coded);
            }
            let read = decode(&mut decoder, &block).unwrap();
            let expected: Fields = fields
                .into_iter()
                .map(|field| (field.name.into_bytes(), text(&Value::new(field.value.into()))))
                .collect();
            prop_assert_eq!(read, expected);
            let (size, entries) = decoder.dynamic();
            prop_assert_eq!(size, entries.map(|entry| entry.size).sum::<usize>());
            prop_assert!(size <= TABLE);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            let read = decoder.decode(&block, LIMITS, |_, _| {}).is_ok();
            let (size, entries) = decoder.dynamic();
            prop_assert_eq!(size, entries.map(|entry| entry.size).sum::<usize>());
            prop_assert!(size <= TABLE);
            if !read {
                break;
            }
        }
    }
}

use proptest::prelude::*;

use super::*;

/// A code and its length.
fn code(symbol: usize) -> (u32, u32) {
    let length = u32::from(LENGTHS[symbol]);
    let place = TABLES.symbols.iter().position(|it| *it == symbol as u16);
    let code = place.unwrap() as i32 - TABLES.offset[length as usize];
    (code as u32, length)
}

/// For the tests of what reads them.
pub(in crate::http2) fn encode(text: &[u8]) -> Vec<u8> {
    let mut bits = Vec::new();
    for byte in text {
        let (code, length) = code(usize::from(*byte));
        bits.extend((0..length).rev().map(|bit| code >> bit & 1));
    }
    while !bits.len().is_multiple_of(8) {
        bits.push(1);
    }
    pack(&bits)
}

fn pack(bits: &[u32]) -> Vec<u8> {
    bits.chunks(8)
        .map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | *bit as u8))
        .collect()
}

fn decoded(source: &[u8]) -> Option<Vec<u8>> {
    let mut out = BytesMut::new();
    decode(source, &mut out).map(|()| out.to_vec())
}

#[test]
fn codes_are_those_of_appendix_b() {
    for (symbol, expected) in [
        (0, (0x1ff8, 13)),
        (10, (0x3fff_fffc, 30)),
        (usize::from(b'!'), (0x3f8, 10)),
        (usize::from(b'0'), (0x0, 5)),
        (usize::from(b'\\'), (0x7_fff0, 19)),
        (usize::from(b'a'), (0x3, 5)),
        (usize::from(b'~'), (0x1ffd, 13)),
        (128, (0xf_ffe6, 20)),
        (199, (0x1ff_ffec, 25)),
        (249, (0xfff_fffe, 28)),
        (255, (0x3ff_ffee, 26)),
        (256, (0x3fff_ffff, 30)),
    ] {
        assert_eq!(code(symbol), expected, "{symbol}");
    }
}

#[test]
fn strings_end_in_less_than_a_byte_of_ones() {
    assert_eq!(decoded(b""), Some(Vec::new()));
    // `0` is five zeros.
    assert_eq!(decoded(&[0b0000_0111]), Some(b"0".to_vec()));
    assert_eq!(decoded(&[0b0000_0110]), None);
    assert_eq!(decoded(&[0b0000_0000]), None);
    // `&` has eight bits, so that there is nothing to fill up.
    assert_eq!(decoded(&[0xf8]), Some(b"&".to_vec()));
    assert_eq!(decoded(&[0xf8, 0xff]), None);
    assert_eq!(decoded(&[0xff]), None);
    assert_eq!(decoded(&[0b0000_0111, 0xff]), None);
}

#[test]
fn the_end_of_string_symbol_is_an_error_wherever_it_stands() {
    assert_eq!(decoded(&[0xff; 4]), None);
    assert_eq!(decoded(&[0xff; 9]), None);
    let mut bits = vec![0; 5];
    bits.extend([1; 30]);
    bits.extend([0; 5]);
    assert_eq!(decoded(&pack(&bits)), None);
}

#[test]
fn every_symbol_survives() {
    for byte in 0..=255 {
        for count in 1..9 {
            let text = vec![byte; count];
            assert_eq!(decoded(&encode(&text)), Some(text));
        }
    }
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(text in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(decoded(&encode(&text)), Some(text));
    }

    /// There is one way to write a string.
    #[test]
    fn what_is_decoded_is_encoded_again(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Some(text) = decoded(&bytes) {
            prop_assert!(text.len() <= bytes.len() * 8 / 5);
            prop_assert_eq!(encode(&text), bytes);
        }
    }
}

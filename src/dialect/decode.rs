//! The text of a body: content codings (RFC 9110 §8.4), byte order marks and charsets.

use std::borrow::Cow;
use std::io::Read;

use encoding_rs::{Encoding, GB18030, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

/// RFC 1952 §2.3.1. No text begins with these bytes in any charset that vendors use.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why a body was not decompressed.
#[derive(Debug, PartialEq, Eq)]
enum Undecoded {
    /// More bytes than the limit.
    TooLarge,
    /// Another coding, or damaged.
    Malformed,
}

/// Undoes gzip and deflate; `None` if the result is longer than `limit` bytes.
///
/// A body with the gzip magic is gzip, whatever `Content-Encoding` says. A body whose coding is
/// unknown or that is damaged is returned as it is.
pub(super) fn decompressed<'a>(
    body: &'a [u8],
    headers: &HeaderMap,
    limit: usize,
) -> Option<Cow<'a, [u8]>> {
    let decoded = if body.starts_with(&GZIP_MAGIC) {
        read(MultiGzDecoder::new(body), limit)
    } else if says_deflate(headers) {
        // RFC 9110 §8.4.1.2 asks for the zlib format; some servers send the bare stream.
        match read(ZlibDecoder::new(body), limit) {
            Err(Undecoded::Malformed) => read(DeflateDecoder::new(body), limit),
            decoded => decoded,
        }
    } else {
        Err(Undecoded::Malformed)
    };
    match decoded {
        Ok(decoded) => Some(Cow::Owned(decoded)),
        Err(Undecoded::Malformed) if body.len() <= limit => Some(Cow::Borrowed(body)),
        Err(_) => None,
    }
}

/// The text in each charset that the body may be in, the likeliest first. Never empty.
///
/// Several, because vendors state a charset that the body is not in, or none. The caller takes the
/// first text that it can parse.
pub(super) fn texts<'a>(
    body: &'a [u8],
    headers: &HeaderMap,
) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
    let is_utf8 = std::str::from_utf8(body).is_ok();
    // Java servlets state ISO-8859-1 unless told otherwise.
    let stated = charset(headers).filter(|&stated| !(stated == WINDOWS_1252 && is_utf8));
    let marked = Encoding::for_bom(body).map(|(encoding, _)| encoding);
    let candidates = [
        marked.or(stated),
        utf16_without_mark(body),
        is_utf8.then_some(UTF_8),
        (!is_utf8).then_some(GB18030),
    ];
    let decoded = candidates
        .into_iter()
        .flatten()
        .filter_map(move |encoding| {
            let (text, _, malformed) = encoding.decode(body);
            (!malformed).then_some(text)
        });
    // With replacement characters. GB18030 reads a trail byte `\` of any East Asian charset as part
    // of a character, so that it escapes nothing.
    let damaged = [marked.or(stated), Some(UTF_8), Some(GB18030)];
    let damaged = damaged.into_iter().flatten();
    decoded.chain(damaged.map(|encoding| encoding.decode(body).0))
}

fn read(decoder: impl Read, limit: usize) -> Result<Vec<u8>, Undecoded> {
    let mut decoded = Vec::new();
    let read = decoder.take(limit as u64 + 1).read_to_end(&mut decoded);
    if decoded.len() > limit {
        return Err(Undecoded::TooLarge);
    }
    read.map(|_| decoded).map_err(|_| Undecoded::Malformed)
}

fn says_deflate(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut codings = codings.filter_map(|value| value.to_str().ok());
    codings.any(|codings| {
        let mut codings = codings.split(',');
        codings.any(|coding| coding.trim().eq_ignore_ascii_case("deflate"))
    })
}

/// `charset` of `Content-Type`, by the labels of the WHATWG Encoding Standard.
fn charset(headers: &HeaderMap) -> Option<&'static Encoding> {
    let content_type = headers.get(header::CONTENT_TYPE)?.as_bytes();
    let mut parameters = content_type.split(|&byte| byte == b';').skip(1);
    parameters.find_map(|parameter| {
        let equals = parameter.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (parameter[..equals].trim_ascii(), &parameter[equals + 1..]);
        let value = value.trim_ascii();
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        let value = value.strip_suffix(b"\"").unwrap_or(value);
        let is_charset = name.eq_ignore_ascii_case(b"charset");
        is_charset.then(|| Encoding::for_label(value)).flatten()
    })
}

/// RFC 4627 §3: JSON begins with two ASCII characters, so its zero bytes tell UTF-16.
fn utf16_without_mark(body: &[u8]) -> Option<&'static Encoding> {
    match body {
        [0, a, 0, b, ..] if *a > 0 && *b > 0 => Some(UTF_16BE),
        [a, 0, b, 0, ..] if *a > 0 && *b > 0 => Some(UTF_16LE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_and_both_kinds_of_deflate_are_decompressed() {
        let text = br#"{"access_token":"t"}"#;
        let members = [gzip(&text[..9]), gzip(&text[9..])].concat();
        for (coding, body) in [
            ("gzip", gzip(text)),
            ("x-gzip", gzip(text)),
            ("identity", gzip(text)),
            ("deflate", gzip(text)),
            ("gzip", members),
            ("deflate", zlib(text)),
            ("Deflate", deflate(text)),
            ("gzip", text.to_vec()),
            ("deflate", text.to_vec()),
            ("br", text.to_vec()),
        ] {
            let headers = headers(header::CONTENT_ENCODING, coding);
            let read = decompressed(&body, &headers, 64).unwrap();
            assert_eq!(read, text.as_slice(), "{coding}");
        }
    }

    #[test]
    fn a_body_longer_than_the_limit_is_refused() {
        let bomb = vec![b' '; 1 << 20];
        let deflated = headers(header::CONTENT_ENCODING, "deflate");
        let none = HeaderMap::new();
        assert!(gzip(&bomb).len() < 2048);
        assert_eq!(decompressed(&gzip(&bomb), &none, (1 << 20) - 1), None);
        assert_eq!(decompressed(&zlib(&bomb), &deflated, 4096), None);
        assert_eq!(decompressed(&deflate(&bomb), &deflated, 8192), None);
        assert_eq!(decompressed(&bomb, &none, 4096), None);
        assert!(decompressed(&gzip(&bomb), &none, 1 << 20).is_some());
    }

    #[test]
    fn a_damaged_body_is_returned_as_it_is() {
        let whole = gzip(br#"{"access_token":"t"}"#);
        let cut = &whole[..whole.len() - 1];
        let mut flipped = whole.clone();
        flipped[whole.len() - 6] ^= 1;
        for body in [cut, &flipped, &whole[..2]] {
            assert_eq!(decompressed(body, &HeaderMap::new(), 64).unwrap(), body);
        }
    }

    #[test]
    fn the_stated_charset_is_read() {
        for (charset, word) in [
            ("GBK", "\u{8fc7}\u{671f}"),
            ("gb2312", "\u{8fc7}\u{671f}"),
            ("\"GB18030\"", "\u{8fc7}\u{671f}"),
            ("Big5", "\u{904e}\u{671f}"),
            ("Shift_JIS", "\u{8868}\u{793a}"),
            ("EUC-KR", "\u{d1a0}\u{d070}"),
            ("ISO-8859-1", "caf\u{e9}"),
            ("utf-8", "caf\u{e9}"),
        ] {
            let label = charset.trim_matches('"');
            let (body, _, _) = Encoding::for_label(label.as_bytes()).unwrap().encode(word);
            let stated = format!("application/json; x=y; Charset = {charset}");
            let headers = headers(header::CONTENT_TYPE, &stated);
            assert_eq!(texts(&body, &headers).next().unwrap(), word, "{charset}");
        }
    }

    #[test]
    fn utf16_is_recognized_with_and_without_a_mark() {
        let utf16 = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "{\"a\":\"caf\u{e9}\"}"
                .encode_utf16()
                .flat_map(unit)
                .collect()
        };
        let little = utf16(u16::to_le_bytes);
        let big = utf16(u16::to_be_bytes);
        let marked = [&[0xff, 0xfe][..], &little].concat();
        for body in [little, big, marked] {
            let text = texts(&body, &HeaderMap::new()).next().unwrap();
            assert_eq!(text.trim_start_matches('\u{feff}'), "{\"a\":\"caf\u{e9}\"}");
        }
    }

    #[test]
    fn a_wrong_charset_does_not_hide_the_text() {
        let body = "\u{8fc7}\u{671f}";
        for stated in ["text/plain; charset=iso-8859-1", "text/plain; charset=none"] {
            let headers = headers(header::CONTENT_TYPE, stated);
            assert_eq!(texts(body.as_bytes(), &headers).next().unwrap(), body);
        }
        let headers = headers(header::CONTENT_TYPE, "text/plain; charset=utf-16");
        assert!(texts(b"{\"a\":1}", &headers).any(|text| text == "{\"a\":1}"));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(body: Vec<u8>, label in "gbk|big5|utf-16|x|iso-2022-jp") {
            let stated = headers(header::CONTENT_TYPE, &format!("a/b;charset={label}"));
            prop_assert!(texts(&body, &stated).next().is_some());
            let coded = headers(header::CONTENT_ENCODING, "deflate");
            let gzipped = [&GZIP_MAGIC[..], &body].concat();
            for body in [body, gzipped] {
                if let Some(read) = decompressed(&body, &coded, 64) {
                    prop_assert!(read.len() <= 64);
                }
            }
        }

        #[test]
        fn compressed_bodies_read_as_they_were(body: Vec<u8>) {
            let coded = headers(header::CONTENT_ENCODING, "deflate");
            for coded_body in [gzip(&body), zlib(&body), deflate(&body)] {
                let read = decompressed(&coded_body, &coded, 1 << 16);
                prop_assert_eq!(read.as_deref(), Some(&*body));
            }
        }
    }
}

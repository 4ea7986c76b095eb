//! Redaction: the parts of a vendor's answer that cannot be a secret.
//!
//! An answer that a dialect does not match may contain a live token anywhere, even as an object's
//! key, or as a whole body under the content type of a form. So messages quote only texts that look
//! like words, and replace all others by a placeholder.

use http::{HeaderMap, HeaderName, header};

use super::mask::clean;
use crate::secret::Secret;

/// Longest text that is always shown: no token is that short.
const SHORT: usize = 12;

/// Longest name that is shown: no key of a known vendor is longer.
const LONGEST: usize = 40;

/// Length of the longest word in a known name: "authentication".
const LONGEST_WORD: usize = 14;

/// Word stems; a name longer than [`SHORT`] contains one. Four letters at least, as three occur in
/// random text by chance.
const STEMS: &str = "access account address algorithm auth before body client code company corp \
    count creat credential customer data date descr detail device domain duration error expir \
    grant info instance issue lease life list login message name open policy refresh region \
    request response result return scope secret secur server session sign status stamp success \
    tenant ticket time token type user valid";

const KINDS: &str = "application audio image multipart text video";

const SUBTYPES: &str = "csv gzip html javascript json jwt octet-stream plain x-javascript \
    x-www-form-urlencoded xhtml+xml xml";

const CHARSETS: &str = "utf-8 utf8 gbk gb2312 gb18030 iso-8859-1 us-ascii big5";

const CODINGS: [&str; 6] = ["gzip", "x-gzip", "deflate", "br", "zstd", "compress"];

const NOT_SHOWN: &str = "[not shown]";

/// Whether a name consists of words, as keys do and tokens do not.
pub(super) fn is_plain(name: &str) -> bool {
    let length = name.chars().count();
    // Tokens are visible ASCII, so other letters cannot be part of one.
    let allowed = |c: char| c.is_alphanumeric() || (c.is_ascii() && " _-.:$@#[]+".contains(c));
    if length > LONGEST || !name.chars().all(allowed) {
        return false;
    }
    let words = words(name);
    let (numbers, letters): (Vec<_>, Vec<_>) =
        (words.iter()).partition(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    if length <= SHORT {
        return numbers.len() <= 2;
    }
    let lower = name.to_lowercase();
    let single = letters.iter().filter(|word| word.chars().count() == 1);
    numbers.len() <= 1
        && single.count() <= 1
        && letters.len() <= 6
        && words.iter().all(|word| is_word(word))
        && (STEMS.split(' ').any(|stem| lower.contains(stem)) || !name.is_ascii())
}

/// Returns a JSON pointer with unsafe names replaced, and whether no name was replaced.
pub(super) fn redact_pointer(pointer: &str, secrets: &[&Secret]) -> (String, bool) {
    let mut all = true;
    let mut shown = String::new();
    for name in pointer.split('/').skip(1) {
        shown.push('/');
        if is_plain(&name.replace("~1", "").replace("~0", "")) {
            shown.push_str(&clean(name, secrets, LONGEST));
        } else {
            all = false;
            shown.push_str(&format!("<a name of {} characters>", name.chars().count()));
        }
    }
    (shown, all)
}

/// Replaces the words that may be a token.
pub(super) fn redact_words(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let visible = |c: char| c.is_ascii_graphic();
        let gap = rest.find(visible).unwrap_or(rest.len());
        let (before, from_word) = rest.split_at(gap);
        let end = from_word.find(|c| !visible(c)).unwrap_or(from_word.len());
        let (word, after) = from_word.split_at(end);
        shown.push_str(before);
        let inner = word.trim_matches(|c: char| ",.;:!?()\"'`".contains(c));
        shown.push_str(match inner.len() <= SHORT || is_plain(inner) {
            true => word,
            false => NOT_SHOWN,
        });
        rest = after;
    }
    shown
}

/// Media type and charset, with unknown parts left out.
pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    let known = |list: &str, text: &str| list.split(' ').any(|known| known == text);
    let value = headers.get(header::CONTENT_TYPE)?;
    let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let (kind, subtype) = essence.split_once('/').unwrap_or((essence, ""));
    if !known(KINDS, kind) {
        return Some("of an unknown kind".to_owned());
    }
    let subtype = match subtype.rsplit_once('+') {
        _ if known(SUBTYPES, subtype) => subtype,
        Some((_, "json")) => "…+json",
        Some((_, "xml")) => "…+xml",
        _ => "…",
    };
    let charset = parts.find_map(|part| part.strip_prefix("charset="));
    let charset = charset.map(|charset| charset.trim_matches('"'));
    Some(match charset.filter(|charset| known(CHARSETS, charset)) {
        Some(charset) => format!("{kind}/{subtype}; charset={charset}"),
        None => format!("{kind}/{subtype}"),
    })
}

/// The content coding, which no token request accepts.
pub(super) fn content_coding(headers: &HeaderMap) -> Option<&'static str> {
    let value = headers.get(header::CONTENT_ENCODING)?.as_bytes();
    if value.eq_ignore_ascii_case(b"identity") {
        return None;
    }
    let mut codings = CODINGS.into_iter();
    let known = codings.find(|known| value.eq_ignore_ascii_case(known.as_bytes()));
    Some(known.unwrap_or("of an unknown kind"))
}

/// The names of header fields that are safe to show.
pub(super) fn header_names(headers: &HeaderMap) -> impl Iterator<Item = &HeaderName> {
    headers.keys().filter(|name| is_plain(name.as_str()))
}

fn is_word(word: &str) -> bool {
    let length = word.chars().count();
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        return length <= 4;
    }
    let has_vowel = word.contains(|c: char| "aeiouyAEIOUY".contains(c));
    length <= LONGEST_WORD && (length < 4 || has_vowel || !word.is_ascii())
}

/// Splits `accessToken2_id` into access, Token, 2, id.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last = ' ';
    for c in name.chars() {
        let begins = !last.is_alphanumeric()
            || last.is_ascii_digit() != c.is_ascii_digit()
            || (last.is_lowercase() && c.is_uppercase());
        if c.is_alphanumeric() {
            match words.last_mut() {
                Some(word) if !begins => word.push(c),
                _ => words.push(c.to_string()),
            }
        }
        last = c;
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_of_known_answers_are_plain() {
        for name in [
            "code",
            "errcode",
            "ret",
            "data",
            "access_token",
            "accessToken",
            "app-token",
            "tenant_access_token",
            "authorizer_refresh_token",
            "refresh_token_expires_in",
            "expireTime",
            "expirationTimestamp",
            "X-Subject-Token",
            "lease_duration",
            "token_2",
            "@odata.context",
            "component_access_token",
            "令牌",
            "sub_code",
            "client_token",
            "a b",
            "0",
            "instance_url",
            "ext_expires_in",
            "not-before-policy",
            "session_state",
            "id_token",
            "accessTokenExpiresIn",
            "OPENSTACK-Auth-Receipt",
            "token_info[0]",
            "oauth2_access_token",
        ] {
            assert!(is_plain(name), "{name}");
        }
    }

    #[test]
    fn possible_tokens_are_not_plain() {
        for name in [
            "eyJhbGciOiJub25lIn0",
            "ya29.a0AfH6SMBx",
            "ghs_16C7e42F292c6912E7710c838347Ae178B4a",
            "622029dd-23ac4086-5668d53d",
            "token-8f3k2jd9x0",
            "secret_token_zxcvbnmqwrtp",
            "access_token_aQbWcEdRfTgYhUj",
            "dGhpcyBpcyBhIHRva2Vu/",
            "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
            "0123456789012345",
            "hvs.CAESIJ0123",
            "abcdefghijklmnopqrstuvwxyz",
            "a\u{1b}b",
        ] {
            assert!(!is_plain(name), "{name}");
        }
    }

    #[test]
    fn texts_lose_only_possible_tokens() {
        for (given, shown) in [
            ("success", "success"),
            (
                "用户名或密码错误 (invalid_credentials).",
                "用户名或密码错误 (invalid_credentials).",
            ),
            ("令牌eyJhbGciOiJub25lIn0.e30.无效", "令牌[not shown]无效"),
            ("token=8f3k2jd9x0lq92 given", "[not shown] given"),
            ("", ""),
        ] {
            assert_eq!(redact_words(given), shown);
        }
    }

    #[test]
    fn content_types_lose_unknown_parts() {
        for (given, shown) in [
            (
                "application/json;charset=UTF-8",
                "application/json; charset=utf-8",
            ),
            (
                "Application/JSON; charset=8f3k2jd9x0lq92",
                "application/json",
            ),
            ("text/8f3k2jd9x0lq92", "text/…"),
            ("application/vnd.8f3k2jd9x0lq92+json", "application/…+json"),
            ("8f3k2jd9x0lq92", "of an unknown kind"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, given.parse().unwrap());
            assert_eq!(content_type(&headers).as_deref(), Some(shown));
        }
    }

    #[test]
    fn a_random_name_that_begins_with_signs_is_not_plain() {
        assert!(!is_plain("--__AAA-0Aa-00A0a0-A-_0a"));
    }

    proptest! {
        #[test]
        fn random_names_are_not_plain(name in "[A-Za-z0-9_.-]{24,64}") {
            prop_assert!(!is_plain(&name));
        }

        #[test]
        fn random_texts_do_not_panic(name in any::<String>()) {
            let _ = (is_plain(&name), redact_words(&name), redact_pointer(&name, &[]));
        }
    }
}

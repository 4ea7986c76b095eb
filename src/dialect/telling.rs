//! What of an answer may be told: words that cannot be a secret.
//!
//! An answer that a dialect does not understand may hold a live token anywhere, also where names are: as the key of an object,
//! or as the whole body under a content type that makes a form of it. So only what looks like a word is told of it, and of the rest
//! that it is there.

use http::{HeaderMap, HeaderName, header};

use super::mask::clean;
use crate::secret::Secret;

/// Anything up to this length may be told: no token is that short.
const SHORT: usize = 12;

/// No key of the answers that are known is longer.
const LONGEST: usize = 40;

/// Of the longest word that a name is made of: "authentication".
const LONGEST_WORD: usize = 14;

/// What a longer name is about, in lower case. Four letters at least: three stand in random text by chance.
const ABOUT: [&str; 58] = [
    "access",
    "account",
    "address",
    "algorithm",
    "auth",
    "before",
    "body",
    "client",
    "code",
    "company",
    "corp",
    "count",
    "creat",
    "credential",
    "customer",
    "data",
    "date",
    "descr",
    "detail",
    "device",
    "domain",
    "duration",
    "error",
    "expir",
    "grant",
    "info",
    "instance",
    "issue",
    "lease",
    "life",
    "list",
    "login",
    "message",
    "name",
    "open",
    "policy",
    "refresh",
    "region",
    "request",
    "response",
    "result",
    "return",
    "scope",
    "secret",
    "secur",
    "server",
    "session",
    "sign",
    "status",
    "stamp",
    "success",
    "tenant",
    "ticket",
    "time",
    "token",
    "type",
    "user",
    "valid",
];

const NOT_SHOWN: &str = "[not shown]";

/// Whether a name is made of words, as names are and tokens are not.
pub(super) fn is_plain(name: &str) -> bool {
    let length = name.chars().count();
    // A token is visible ASCII: other letters are no part of one.
    let allowed = |c: char| c.is_alphanumeric() || (c.is_ascii() && " _-.:$@#[]+".contains(c));
    if length > LONGEST || !name.chars().all(allowed) {
        return false;
    }
    let words = words(name);
    let numbers = words
        .iter()
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let letters = || {
        words
            .iter()
            .filter(|word| word.starts_with(char::is_alphabetic))
    };
    if length <= SHORT {
        return numbers.count() <= 2;
    }
    let lower = name.to_lowercase();
    let single = letters().filter(|word| word.chars().count() == 1).count();
    numbers.count() <= 1
        && single <= 1
        && letters().count() <= 6
        && words.iter().all(|word| is_word(word))
        && (ABOUT.iter().any(|about| lower.contains(about)) || !name.is_ascii())
}

/// A place in an answer, with the names that may be told; whether those are all.
pub(super) fn place(pointer: &str, secrets: &[&Secret]) -> (String, bool) {
    let mut all = true;
    let mut told = String::new();
    for name in pointer.split('/').skip(1) {
        told.push('/');
        // A mask is ours, and no secret.
        if is_plain(&name.replace("~1", "").replace("~0", "")) {
            told.push_str(&clean(name, secrets, LONGEST));
        } else {
            all = false;
            told.push_str(&format!("<a name of {} characters>", name.chars().count()));
        }
    }
    (told, all)
}

/// A vendor's words beside what may be a token: those that may be one are left out.
pub(super) fn text(text: &str) -> String {
    let mut told = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let visible = |c: char| c.is_ascii_graphic();
        let gap = rest.find(visible).unwrap_or(rest.len());
        let (before, from_word) = rest.split_at(gap);
        let end = from_word.find(|c| !visible(c)).unwrap_or(from_word.len());
        let (word, after) = from_word.split_at(end);
        told.push_str(before);
        let inner = word.trim_matches(|c: char| ",.;:!?()\"'`".contains(c));
        told.push_str(match inner.len() <= SHORT || is_plain(inner) {
            true => word,
            false => NOT_SHOWN,
        });
        rest = after;
    }
    told
}

/// Media type and charset.
pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?;
    let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let (kind, subtype) = essence.split_once('/').unwrap_or((essence, ""));
    const KINDS: [&str; 6] = [
        "application",
        "audio",
        "image",
        "multipart",
        "text",
        "video",
    ];
    const SUBTYPES: [&str; 12] = [
        "csv",
        "gzip",
        "html",
        "javascript",
        "json",
        "jwt",
        "octet-stream",
        "plain",
        "x-javascript",
        "x-www-form-urlencoded",
        "xhtml+xml",
        "xml",
    ];
    let Some(kind) = KINDS.iter().find(|known| **known == kind) else {
        return Some("of an unknown kind".to_owned());
    };
    let subtype = match subtype.rsplit_once('+') {
        _ if SUBTYPES.contains(&subtype) => subtype,
        Some((_, "json")) => "…+json",
        Some((_, "xml")) => "…+xml",
        _ => "…",
    };
    const CHARSETS: [&str; 8] = [
        "utf-8",
        "utf8",
        "gbk",
        "gb2312",
        "gb18030",
        "iso-8859-1",
        "us-ascii",
        "big5",
    ];
    let charset = parts.find_map(|part| part.strip_prefix("charset="));
    let charset = charset.map(|charset| charset.trim_matches('"'));
    Some(match charset.filter(|charset| CHARSETS.contains(charset)) {
        Some(charset) => format!("{kind}/{subtype}; charset={charset}"),
        None => format!("{kind}/{subtype}"),
    })
}

/// A coding that nobody asked for.
pub(super) fn content_coding(headers: &HeaderMap) -> Option<&'static str> {
    let value = headers.get(header::CONTENT_ENCODING)?;
    const CODINGS: [&str; 6] = ["gzip", "x-gzip", "deflate", "br", "zstd", "compress"];
    let is = |known: &&&str| value.as_bytes().eq_ignore_ascii_case(known.as_bytes());
    if value.as_bytes().eq_ignore_ascii_case(b"identity") {
        return None;
    }
    Some(
        CODINGS
            .iter()
            .find(is)
            .copied()
            .unwrap_or("of an unknown kind"),
    )
}

/// Header fields by their names.
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

/// `accessToken2_id` is access, Token, 2, id.
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
    fn names_of_answers_are_plain() {
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
    fn what_may_be_a_token_is_not() {
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
    fn texts_lose_what_may_be_a_token_and_nothing_else() {
        for (given, told) in [
            ("success", "success"),
            (
                "用户名或密码错误 (invalid_credentials).",
                "用户名或密码错误 (invalid_credentials).",
            ),
            ("令牌eyJhbGciOiJub25lIn0.e30.无效", "令牌[not shown]无效"),
            ("token=8f3k2jd9x0lq92 given", "[not shown] given"),
            ("", ""),
        ] {
            assert_eq!(text(given), told);
        }
    }

    #[test]
    fn content_types_without_what_else_is_in_them() {
        for (given, told) in [
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
            assert_eq!(content_type(&headers).as_deref(), Some(told));
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
            let _ = (is_plain(&name), text(&name), place(&name, &[]));
        }
    }
}

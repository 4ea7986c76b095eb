//! Cleaning a vendor's text for logs and pages: secrets are masked, control characters escaped, and
//! the length is capped.

use std::borrow::Cow;

use crate::secret::Secret;

const MASK: &str = "[masked]";

/// Characters of the shortest secret that is masked inside words, too: `a` occurs in most words.
const SHORTEST_INSIDE_WORDS: usize = 4;

/// Masks first, as an escaped or cut secret would no longer match.
pub(super) fn clean(text: &str, secrets: &[&Secret], most_chars: usize) -> String {
    cap(&escape(&mask(text, secrets)), most_chars)
}

fn mask<'a>(text: &'a str, secrets: &[&Secret]) -> Cow<'a, str> {
    let mut forms: Vec<String> = Vec::new();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let plain = secret.expose();
        // The forms on the wire, in case the vendor quotes a query or form.
        let encoded: String = form_urlencoded::byte_serialize(plain.as_bytes()).collect();
        let percent_encoded = encoded.replace('+', "%20");
        forms.extend([plain.to_owned(), encoded, percent_encoded]);
    }
    // Longest first, as a secret may contain another one.
    forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    forms.dedup();
    let mut text = Cow::Borrowed(text);
    for form in &forms {
        if text.contains(form.as_str()) {
            text = Cow::Owned(mask_one(&text, form));
        }
    }
    text
}

fn mask_one(text: &str, secret: &str) -> String {
    if secret.chars().count() >= SHORTEST_INSIDE_WORDS {
        return text.replace(secret, MASK);
    }
    let mut masked = String::new();
    let mut done = 0;
    for (start, _) in text.match_indices(secret) {
        let end = start + secret.len();
        let before = text[..start].chars().next_back();
        let after = text[end..].chars().next();
        let mut around = before.into_iter().chain(after);
        if !around.any(char::is_alphanumeric) {
            masked.push_str(&text[done..start]);
            masked.push_str(MASK);
            done = end;
        }
    }
    masked.push_str(&text[done..]);
    masked
}

/// Escapes characters that could forge a log line or hide text in a terminal.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
        || c == '\u{feff}'
}

fn cap(text: &str, most_chars: usize) -> String {
    match text.char_indices().nth(most_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cleaned(text: &str, secrets: &[&str]) -> String {
        let secrets: Vec<Secret> = secrets.iter().map(|&secret| secret.into()).collect();
        clean(text, &secrets.iter().collect::<Vec<_>>(), 40)
    }

    #[test]
    fn texts_are_masked_escaped_and_capped() {
        for (text, secrets, expected) in [
            ("用户名或密码错误", &[][..], "用户名或密码错误"),
            ("no hunter2!", &["hunter2"], "no [masked]!"),
            ("xhunter2x", &["hunter2"], "x[masked]x"),
            ("q=a%20b%26c r=a+b%26c", &["a b&c"], "q=[masked] r=[masked]"),
            (
                "hunter2 abc",
                &["abc", "hunter", "hunter2"],
                "[masked] [masked]",
            ),
            ("a cat at a", &["a"], "[masked] cat at [masked]"),
            ("a", &[""], "a"),
            (
                "x\r\ny\u{1b}[0m\u{202e}z",
                &[],
                "x\\r\\ny\\u{1b}[0m\\u{202e}z",
            ),
            (
                "测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测",
                &[],
                "测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测测…",
            ),
        ] {
            assert_eq!(cleaned(text, secrets), expected);
        }
    }

    #[test]
    fn a_secret_across_the_cut_is_masked() {
        let text = format!("{}hunter2", "x".repeat(38));
        assert!(!cleaned(&text, &["hunter2"]).contains("hu"));
    }

    proptest! {
        #[test]
        fn long_secrets_never_show(before in ".*", secret in "[a-z]{4,12}", after in ".*") {
            let text = format!("{before}{secret}{after}");
            let shown = clean(&text, &[&secret.as_str().into()], usize::MAX);
            // The mask itself may hold the secret: "mask" is four letters.
            prop_assume!(!MASK.contains(&secret));
            prop_assert!(!shown.replace(MASK, "\n").contains(&secret));
        }
    }
}

//! The text of a value that comes from the environment, a file or a command.

use zeroize::Zeroizing;

use crate::secret::Secret;

const PEM_BEGIN: &str = "-----BEGIN ";

/// Reads the bytes of a file or the output of a command.
///
/// # Errors
///
/// Returns what the source holds in place of a value.
pub fn value_text(bytes: &[u8]) -> Result<Secret, &'static str> {
    // PowerShell's `>` writes UTF-16.
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("UTF-16 text instead of UTF-8");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "bytes that are not UTF-8")?;
    let value = bare(text);
    match value.is_empty() {
        true => Err("nothing"),
        false => Ok(value),
    }
}

/// Drops a byte order mark at the start and all line ends at the end, and gives a PEM its lines.
pub(super) fn bare(text: &str) -> Secret {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.trim_end_matches(['\r', '\n']);
    match pem_lines(text) {
        Some(pem) => Secret::new(pem.as_str()),
        None => Secret::new(text),
    }
}

/// Restores the lines of a PEM on a single line: in environment variables, line ends are written as
/// `\n`, or become spaces.
fn pem_lines(text: &str) -> Option<Zeroizing<String>> {
    let inner = text.trim().trim_matches(['"', '\'']);
    if !inner.starts_with(PEM_BEGIN) || inner.contains('\n') {
        return None;
    }
    let escaped = Zeroizing::new(inner.replace("\\r\\n", "\n").replace("\\n", "\n"));
    if escaped.contains('\n') {
        return Some(escaped);
    }
    let mut pem = Zeroizing::new(String::with_capacity(inner.len() + 8));
    for (index, part) in inner.split("-----").enumerate() {
        // Odd parts are labels: `BEGIN PRIVATE KEY`.
        match index % 2 {
            1 => {
                pem.push_str("-----");
                pem.push_str(part);
                pem.push_str("-----\n");
            }
            _ => {
                for line in part.split_whitespace() {
                    pem.push_str(line);
                    pem.push('\n');
                }
            }
        }
    }
    Some(pem)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_byte_order_mark_and_the_line_ends_at_the_end_are_dropped() {
        for (text, expected) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            ("s3cret\n\n\r\n", "s3cret"),
            ("\u{feff}s3cret\n", "s3cret"),
            ("a\nb\n", "a\nb"),
            ("\n s3cret ", "\n s3cret "),
            ("s3cret\u{feff}", "s3cret\u{feff}"),
        ] {
            assert_eq!(value_text(text.as_bytes()).unwrap().expose(), expected);
        }
        for (bytes, holds) in [
            (&b""[..], "nothing"),
            (b"\r\n\n", "nothing"),
            (b"\xef\xbb\xbf\n", "nothing"),
            (b"\xff\xfes\0", "UTF-16 text instead of UTF-8"),
            (b"\xff", "bytes that are not UTF-8"),
        ] {
            assert_eq!(value_text(bytes), Err(holds));
        }
    }

    #[test]
    fn a_pem_on_one_line_gets_its_lines_back() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMIIE\nAbC=\n-----END PRIVATE KEY-----";
        let chain = format!("{pem}\n{pem}");
        for pem in [pem, &chain] {
            for written in [
                pem.to_owned(),
                format!("{pem}\n"),
                pem.replace('\n', "\\n"),
                pem.replace('\n', "\\r\\n") + "\\n",
                format!("\"{}\"", pem.replace('\n', "\\n")),
                pem.replace('\n', " "),
            ] {
                let read = bare(&written);
                assert_eq!(read.expose().trim_end(), pem, "{written}");
            }
        }
        for other in [
            "a\\nb",
            "{\"key\":\"-----BEGIN X-----\\nMIIE\\n\"}",
            "\"s\"",
        ] {
            assert_eq!(bare(other).expose(), other);
        }
    }

    proptest! {
        #[test]
        fn texts_never_panic(text in any::<String>(), pem in "-----BEGIN [ -~\n]{0,60}") {
            prop_assert!(!bare(&text).expose().ends_with('\n'));
            let _ = bare(&pem);
        }
    }
}

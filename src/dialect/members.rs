//! Members of a JSON answer that is not a token answer, read leniently.

use serde_json::Value as JsonValue;

use super::answer::Answer;
use super::document::Document;
use super::selector::scalar_text;

/// An answer's JSON object. A member that is absent, null, "" or of an unexpected type is `None`.
#[derive(Clone, Debug)]
pub struct Members(JsonValue);

impl Members {
    /// Returns `None` if the body is neither a JSON object nor a form.
    pub fn of(answer: Answer<'_>) -> Option<Self> {
        let json = Document::read(answer.body, answer.headers, None).json?;
        json.is_object().then_some(Self(json))
    }

    pub fn object(&self, name: &str) -> Option<Self> {
        let object = self.0.get(name).filter(|value| value.is_object());
        object.cloned().map(Self)
    }

    /// The text of a string, number or boolean.
    pub fn text(&self, name: &str) -> Option<String> {
        scalar_text(self.0.get(name)?)
    }

    /// The texts of an array. A string in its place is a list separated by spaces or commas.
    pub fn list(&self, name: &str) -> Option<Vec<String>> {
        match self.0.get(name)? {
            JsonValue::Array(values) => Some(values.iter().filter_map(scalar_text).collect()),
            JsonValue::String(text) => {
                let words = text.split([' ', ',']).filter(|word| !word.is_empty());
                Some(words.map(str::to_owned).collect())
            }
            _ => None,
        }
    }

    /// A number of whole seconds, also as a string or with decimals.
    pub fn seconds(&self, name: &str) -> Option<u64> {
        let number: f64 = self.text(name)?.trim().parse().ok()?;
        // The cast saturates.
        (number.is_finite() && number >= 0.0).then_some(number as u64)
    }

    /// Whether the member is `true`, also as a string.
    pub fn is_true(&self, name: &str) -> bool {
        self.text(name)
            .is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::{HeaderMap, StatusCode};

    use super::*;

    fn members(body: &str) -> Option<Members> {
        Members::of(Answer {
            status: StatusCode::OK,
            headers: &HeaderMap::new(),
            body: body.as_bytes(),
            now: SystemTime::UNIX_EPOCH,
        })
    }

    #[test]
    fn numbers_lists_and_booleans_may_be_strings() {
        let read = members(
            "\u{feff}{\"a\":\"900\",\"b\":1.9,\"c\":-1,\"d\":\"soon\",\"e\":\"x y,z\",\"f\":[\"x\",7,null],\
             \"g\":\"True\",\"h\":{\"i\":1},\"j\":null,\"k\":\"\",\"l\":1e300}",
        );
        let read = read.unwrap();
        let seconds = ["a", "b", "c", "d", "j", "l"].map(|name| read.seconds(name));
        assert_eq!(
            seconds,
            [Some(900), Some(1), None, None, None, Some(u64::MAX)]
        );
        assert_eq!(read.list("e").unwrap(), ["x", "y", "z"]);
        assert_eq!(read.list("f").unwrap(), ["x", "7"]);
        assert_eq!((read.list("h"), read.list("j")), (None, None));
        assert!(read.is_true("g") && !read.is_true("a") && !read.is_true("j"));
        assert_eq!(read.object("h").unwrap().text("i").as_deref(), Some("1"));
        assert!(read.object("a").is_none());
        assert_eq!((read.text("k"), read.text("h")), (None, None));
    }

    #[test]
    fn a_body_that_is_no_object_has_no_members() {
        for body in ["", "[]", "7", "<html>", "\"text\""] {
            assert!(members(body).is_none(), "{body}");
        }
    }
}

//! TOML text → tables → serde structs, with every mistake found and none of them quoting a value.
//!
//! serde's and toml's own messages quote what they found ("invalid type: string \"hunter2\""), and a deserialiser
//! stops at the first mistake. So the tables are walked by a deserialiser whose error type never sees a value; what a
//! pass stumbles over is struck out, and the next pass goes on from there, until one gets through.

use std::fmt::{self, Display};

use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::value::Datetime;
use toml::{Table, Value};
use zeroize::Zeroize;

use super::Problem;
use super::problems::{Complaint, KeyPath, Problems, complaint, did_you_mean};

/// Values as they are written, wiped after use: literals among them were copied into secrets.
#[derive(Debug)]
pub(super) struct Tree(pub(super) Value);

impl Drop for Tree {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| wipe(value)),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

/// Parses the text. Syntax errors are told by line and column (in characters, from 1), never with the line.
pub(super) fn parse(text: &str) -> Result<Tree, Vec<Problem>> {
    let table = text.parse::<Table>();
    table
        .map(|table| Tree(Value::Table(table)))
        .map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let (line, column) = position(text, start);
            vec![Problem {
                path: format!("line {line}, column {column}"),
                // Grammar only: toml's messages say what was expected, its Display adds the line.
                message: format!("not valid TOML: {}", error.message()),
                hint: None,
            }]
        })
}

/// Reads one section. `None`: nothing of it could be used.
pub(super) fn section<T: DeserializeOwned>(
    Tree(value): &mut Tree,
    at: &KeyPath,
    problems: &mut Problems,
) -> Option<T> {
    refuse_dates(value, at, problems);
    loop {
        let result = T::deserialize(Node {
            value,
            trail: &Trail::Root,
        });
        let mistake = match result {
            Ok(section) => return Some(section),
            Err(mistake) => mistake,
        };
        let steps = mistake.steps.unwrap_or_default();
        let place = steps.iter().fold(at.clone(), |path, step| match step {
            Step::Key(key) => path.key(key),
            Step::Index(index) => path.index(*index),
        });
        problems.strike_out(&place, mistake.complaint);
        // Also ends the loop should a place be reported that is struck out already.
        if steps.is_empty() || !strike_out(value, &steps) {
            return None;
        }
    }
}

/// Stands where something was struck out, so that later items of a list keep their index. Dates can serve: no key
/// takes one, and `refuse_dates` has told the user about theirs.
const STRUCK_OUT: Value = Value::Datetime(Datetime {
    date: None,
    time: None,
    offset: None,
});

fn refuse_dates(value: &Value, at: &KeyPath, problems: &mut Problems) {
    match value {
        Value::Datetime(_) => problems.strike_out(
            at,
            complaint("dates and times are not used here").hint("put it in quotes to make it text"),
        ),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                refuse_dates(item, &at.index(index), problems);
            }
        }
        Value::Table(table) => {
            for (key, value) in table {
                refuse_dates(value, &at.key(key), problems);
            }
        }
        Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => {}
    }
}

fn strike_out(value: &mut Value, steps: &[Step]) -> bool {
    let mut place = Some(value);
    for step in steps {
        place = place.and_then(|value| match step {
            Step::Key(key) => value.get_mut(key),
            Step::Index(index) => value.get_mut(index),
        });
    }
    match place {
        Some(Value::Datetime(_)) | None => false,
        Some(value) => {
            *value = STRUCK_OUT;
            true
        }
    }
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default();
    (line, column.chars().count() + 1)
}

/// A deserialiser's error. Holds no value: serde hands those to `invalid_type` and friends, which drop them.
#[derive(Debug)]
pub(super) struct Mistake {
    complaint: Complaint,
    /// From the section's root to the mistake; `None` until a table or list has been left.
    steps: Option<Vec<Step>>,
}

impl Mistake {
    fn new(complaint: Complaint) -> Self {
        Self {
            complaint,
            steps: None,
        }
    }
}

impl Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.complaint.message)
    }
}

impl std::error::Error for Mistake {}

impl de::Error for Mistake {
    /// Of our own types only; a line break parts the message from the hint.
    fn custom<T: Display>(message: T) -> Self {
        let text = message.to_string();
        if text.starts_with("data did not match any variant") {
            return Self::new(complaint("is in none of the forms that are allowed here"));
        }
        Self::new(match text.split_once('\n') {
            Some((message, hint)) => complaint(message).hint(hint),
            None => complaint(text),
        })
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(expected_complaint(expected))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(expected_complaint(expected))
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::new(expected_complaint(expected))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let all = || format!("one of {}", list(expected));
        Self::new(
            complaint("is not a word that is known here").hint(did_you_mean(
                variant,
                expected.iter().copied(),
                all,
            )),
        )
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let all = || match expected {
            [] => "no keys are known here".to_owned(),
            _ => format!("known here: {}", list(expected)),
        };
        Self::new(complaint("unknown key").hint(did_you_mean(field, expected.iter().copied(), all)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(complaint(format!("`{field}` is missing")))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(complaint(format!("`{field}` is there twice")))
    }
}

fn list(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// What serde expects, in an operator's words, and how that is written.
fn expected_complaint(expected: &dyn Expected) -> Complaint {
    let text = expected.to_string();
    let (plain, form) = match text.as_str() {
        "a string" | "str" => ("text in quotes", r#"key = "text""#),
        "a boolean" => ("true or false", "without quotes: key = true"),
        "a sequence" => ("a list", r#"in brackets: key = ["one", "two"]"#),
        "a map" => ("a table", TABLE),
        "i64" => ("an integer", "digits without quotes: key = 1"),
        "u8" | "u16" | "u32" | "u64" | "usize" => {
            ("an integer, 0 or greater", "digits without quotes: key = 1")
        }
        _ if text.starts_with("struct ") => ("a table", TABLE),
        // Those of our own types show the form themselves.
        _ => return complaint(format!("expected {text}")).hint(FORMS),
    };
    complaint(format!("expected {plain}")).hint(form)
}

const TABLE: &str = "in braces: key = { … }";

/// For what may be written in more ways than one.
const FORMS: &str = "text stands in quotes; numbers, true and false do not";

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// Where a node is, for its mistakes.
enum Trail<'t> {
    Root,
    Key(&'t Self, &'t str),
    Index(&'t Self, usize),
}

impl Trail<'_> {
    /// The innermost place is the one to report.
    fn mark(&self, mut mistake: Mistake) -> Mistake {
        mistake.steps.get_or_insert_with(|| self.steps());
        mistake
    }

    fn steps(&self) -> Vec<Step> {
        let (parent, step) = match self {
            Self::Root => return Vec::new(),
            Self::Key(parent, key) => (parent, Step::Key((*key).to_owned())),
            Self::Index(parent, index) => (parent, Step::Index(*index)),
        };
        let mut steps = parent.steps();
        steps.push(step);
        steps
    }
}

#[derive(Clone, Copy)]
struct Node<'de, 't> {
    value: &'de Value,
    trail: &'t Trail<'t>,
}

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.value {
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(flag) => visitor.visit_bool(*flag),
            Value::Datetime(_) => Err(de::Error::invalid_type(Unexpected::Other("date"), &visitor)),
            Value::Array(items) => visitor.visit_seq(Items {
                items: items.iter().enumerate(),
                trail: self.trail,
            }),
            Value::Table(table) => visitor.visit_map(Entries::new(table, self.trail)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match self.value {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Table(table) if table.len() == 1 => {
                visitor.visit_enum(MapAccessDeserializer::new(Entries::new(table, self.trail)))
            }
            _ => Err(Mistake::new(complaint(format!(
                "expected one of {}",
                list(variants)
            )))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier
    }
}

struct Items<'de, 't> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
    trail: &'t Trail<'t>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Mistake;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Mistake> {
        let Some((index, value)) = self.items.find(|(_, value)| !value.is_datetime()) else {
            return Ok(None);
        };
        let trail = Trail::Index(self.trail, index);
        seed.deserialize(Node {
            value,
            trail: &trail,
        })
        .map(Some)
        .map_err(|mistake| trail.mark(mistake))
    }
}

struct Entries<'de, 't> {
    entries: toml::map::Iter<'de, String, Value>,
    current: Option<(&'de str, &'de Value)>,
    trail: &'t Trail<'t>,
}

impl<'de, 't> Entries<'de, 't> {
    fn new(table: &'de Table, trail: &'t Trail<'t>) -> Self {
        Self {
            entries: table.iter(),
            current: None,
            trail,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Mistake> {
        let Some((key, value)) = self.entries.find(|(_, value)| !value.is_datetime()) else {
            return Ok(None);
        };
        self.current = Some((key, value));
        // An unknown key is found here: the place is the key itself.
        seed.deserialize(BorrowedStrDeserializer::new(key))
            .map(Some)
            .map_err(|mistake| Trail::Key(self.trail, key).mark(mistake))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let Some((key, value)) = self.current.take() else {
            return Err(Mistake::new(complaint("is not in order")));
        };
        let trail = Trail::Key(self.trail, key);
        seed.deserialize(Node {
            value,
            trail: &trail,
        })
        .map_err(|mistake| trail.mark(mistake))
    }
}

#[cfg(test)]
mod tests;

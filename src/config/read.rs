//! Deserializes TOML tables into serde structs, reports every mistake and quotes no value.
//!
//! The messages of serde and toml quote what they found (`invalid type: string "hunter2"`), and a
//! deserializer stops at the first mistake. The error type of this deserializer never holds a
//! value. Each pass removes the value of its first mistake, until one pass succeeds.

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

use super::problems::{Complaint, KeyPath, Problem, Problems, complaint, did_you_mean};
use super::units::FORMS;

/// TOML values, wiped after use: secrets were copied from the literals.
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
        _ => {}
    }
}

/// Parses the text. A syntax error names line and column, in characters from 1, and no text.
pub(super) fn parse(text: &str) -> Result<Tree, Vec<Problem>> {
    let error = match text.parse() {
        Ok(table) => return Ok(Tree(Value::Table(table))),
        Err(error) => error,
    };
    let error: toml::de::Error = error;
    let start = error.span().map_or(0, |span| span.start);
    let (line, column) = position(text, start);
    Err(vec![Problem {
        path: format!("line {line}, column {column}"),
        // `message` is about the grammar only; `Display` would quote the line.
        message: format!("not valid TOML: {}", error.message()),
        hint: None,
    }])
}

/// Deserializes one section; `None` if it is unusable as a whole.
pub(super) fn section<T: DeserializeOwned>(
    Tree(value): &mut Tree,
    at: &KeyPath,
    problems: &mut Problems,
) -> Option<T> {
    refuse_dates(value, at, problems);
    loop {
        let trail = &Trail::Root;
        let mistake = match T::deserialize(Node { value, trail }) {
            Ok(section) => return Some(section),
            Err(mistake) => mistake,
        };
        let steps = mistake.steps.unwrap_or_default();
        let place = steps.iter().fold(at.clone(), |path, step| match step {
            Step::Key(key) => path.key(key),
            Step::Index(index) => path.index(*index),
        });
        problems.add_unread(&place, mistake.complaint);
        // A place that was removed before must end the loop, too.
        if steps.is_empty() || !remove(value, &steps) {
            return None;
        }
    }
}

/// Replaces a removed value, so that later list items keep their index. No key takes a date, and
/// `refuse_dates` has reported the dates of the file.
const REMOVED: Value = Value::Datetime(Datetime {
    date: None,
    time: None,
    offset: None,
});

fn refuse_dates(value: &Value, at: &KeyPath, problems: &mut Problems) {
    match value {
        Value::Datetime(_) => {
            let date = complaint("dates and times are not used here");
            problems.add_unread(at, date.hint("put it in quotes to make it text"));
        }
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
        _ => {}
    }
}

fn remove(value: &mut Value, steps: &[Step]) -> bool {
    let place = steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    });
    match place.filter(|value| !value.is_datetime()) {
        Some(value) => {
            *value = REMOVED;
            true
        }
        None => false,
    }
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default();
    (line, column.chars().count() + 1)
}

/// A deserialization error without a value: `invalid_type` and the like drop what serde passes.
#[derive(Debug)]
pub(super) struct Mistake {
    complaint: Complaint,
    /// Path from the section's root; `None` until the innermost table or list records it.
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
    /// Called by this module's types; a line break separates message and hint.
    fn custom<T: Display>(message: T) -> Self {
        let text = message.to_string();
        if text.starts_with("data did not match any variant") {
            return Self::new(complaint("has none of the allowed forms"));
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
        let hint = did_you_mean(variant, expected.iter().copied(), all);
        Self::new(complaint("is not a known value").hint(hint))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let all = || match expected {
            [] => "this table has no keys".to_owned(),
            _ => format!("known keys: {}", list(expected)),
        };
        let hint = did_you_mean(field, expected.iter().copied(), all);
        Self::new(complaint("unknown key").hint(hint))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(complaint(format!("`{field}` is missing")))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(complaint(format!("`{field}` is set twice")))
    }
}

fn list(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// Translates serde's expectation into TOML terms, with an example.
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
        // This crate's types describe their form themselves.
        _ => return complaint(format!("expected {text}")).hint(FORMS),
    };
    complaint(format!("expected {plain}")).hint(form)
}

const TABLE: &str = "in braces: key = { … }";

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// The path of a node.
enum Trail<'t> {
    Root,
    Key(&'t Self, &'t str),
    Index(&'t Self, usize),
}

impl Trail<'_> {
    /// Keeps a path that is already set: the innermost one is reported.
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
            _ => {
                let expected = format!("expected one of {}", list(variants));
                Err(Mistake::new(complaint(expected)))
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier
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
        let trail = &Trail::Index(self.trail, index);
        let item = seed.deserialize(Node { value, trail });
        item.map(Some).map_err(|mistake| trail.mark(mistake))
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
        // Reports an unknown key at the key itself.
        seed.deserialize(BorrowedStrDeserializer::new(key))
            .map(Some)
            .map_err(|mistake| Trail::Key(self.trail, key).mark(mistake))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let Some((key, value)) = self.current.take() else {
            return Err(Mistake::new(complaint("value read before its key")));
        };
        let trail = &Trail::Key(self.trail, key);
        let item = seed.deserialize(Node { value, trail });
        item.map_err(|mistake| trail.mark(mistake))
    }
}

#[cfg(test)]
mod tests;

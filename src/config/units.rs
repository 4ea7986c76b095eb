//! Durations, sizes and counts, and the trait that parses any text of the file into a typed value.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::problems::{Complaint, complaint};
use crate::dialect::{DurationError, parse_duration};

/// A value that the file writes as text, some also as a bare integer.
pub(super) trait Written: Sized {
    /// Completes "expected …".
    const EXPECTED: &'static str;

    fn from_text(text: &str) -> Result<Self, Complaint>;

    fn from_integer(_: i64) -> Result<Self, Complaint> {
        Err(Self::expected().hint(FORMS))
    }

    fn expected() -> Complaint {
        complaint(format!("expected {}", Self::EXPECTED))
    }
}

pub(super) const FORMS: &str = "text stands in quotes; numbers, true and false do not";

/// Deserializes any [`Written`] value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<T>(pub(super) T);

/// A duration; may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// A timeout: a duration longer than zero, because no timeout can be disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Duration);

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

/// An integer, 1 or greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count(pub(super) usize);

/// Threads: an integer, 1 or greater, or `auto` for the process's available parallelism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Workers(pub(super) usize);

impl Written for Span {
    const EXPECTED: &'static str = r#"a duration such as "30s" or "250ms" (units: ms, s, m, h, d)"#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        duration(text).map(Self)
    }

    fn from_integer(_: i64) -> Result<Self, Complaint> {
        Err(Self::expected().hint("add a unit and quotes"))
    }
}

impl Written for Limit {
    const EXPECTED: &'static str = Span::EXPECTED;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        match duration(text)? {
            Duration::ZERO => Err(complaint("must be longer than 0")
                .hint("a timeout cannot be disabled; choose a long one")),
            duration => Ok(Self(duration)),
        }
    }

    fn from_integer(number: i64) -> Result<Self, Complaint> {
        Span::from_integer(number).map(|Span(duration)| Self(duration))
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, Complaint> {
    parse_duration(text).map_err(|error| match error {
        DurationError::Unreadable => Span::expected().hint("digits, then a unit, in quotes"),
        DurationError::TooLong => {
            complaint("is longer than a century").hint("write 36500d or less")
        }
    })
}

impl Written for Size {
    const EXPECTED: &'static str = r#"a size such as "64KiB", "1MiB" or an integer of bytes"#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let wrong = || Self::expected().hint("units: B, kB, MB, GB, KiB, MiB, GiB");
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let bytes: u64 = match unit {
            "B" => 1,
            "KB" | "kB" => 1000,
            "MB" => 1000 * 1000,
            "GB" => 1000 * 1000 * 1000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        number
            .and_then(|number| number.checked_mul(bytes))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| complaint("is more than this machine can address").hint("write less"))
    }

    fn from_integer(number: i64) -> Result<Self, Complaint> {
        let negative = |_| complaint("a size cannot be negative").hint("write 0 for none");
        usize::try_from(number).map(Self).map_err(negative)
    }
}

/// Splits digits from a unit, at most one space between; the number is `None` if it overflows.
fn number_and_unit(text: &str) -> Option<(Option<u64>, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    (!digits.is_empty()).then(|| (digits.parse().ok(), unit))
}

impl Written for Count {
    const EXPECTED: &'static str = "an integer, 1 or greater";

    fn from_text(_: &str) -> Result<Self, Complaint> {
        Err(Self::expected().hint("digits without quotes"))
    }

    fn from_integer(number: i64) -> Result<Self, Complaint> {
        match usize::try_from(number) {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Self::from_text(""),
        }
    }
}

impl Written for Workers {
    const EXPECTED: &'static str = r#"an integer, 1 or greater, or "auto""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text != "auto" {
            return Err(Self::expected().hint("1 is enough for most sidecars"));
        }
        // Respects CPU affinity and cgroup quotas: a pod with a limit of one CPU gets one thread.
        let available = std::thread::available_parallelism();
        Ok(Self(available.map_or(1, usize::from)))
    }

    fn from_integer(number: i64) -> Result<Self, Complaint> {
        Count::from_integer(number).map_or_else(|_| Self::from_text(""), |Count(n)| Ok(Self(n)))
    }
}

impl<'de, T: Written> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: Written> Visitor<'_> for TextVisitor<T> {
    type Value = Text<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<T>, E> {
        T::from_text(text).map(Text).map_err(custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Text<T>, E> {
        T::from_integer(number).map(Text).map_err(custom)
    }
}

/// Joins message and hint for [`super::read`], which splits both at the line break.
fn custom<E: de::Error>(complaint: Complaint) -> E {
    match complaint.hint {
        Some(hint) => E::custom(format_args!("{}\n{hint}", complaint.message)),
        None => E::custom(complaint.message),
    }
}

#[cfg(test)]
mod tests;

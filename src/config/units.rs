//! Durations, sizes and counts, and the trait by which any text of the file becomes a typed value.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::problems::{Complaint, complaint};
use crate::dialect::{DurationError, parse_duration};

/// A value that is written as text.
pub(super) trait Written: Sized {
    /// Completes "expected …".
    const EXPECTED: &'static str;

    fn from_text(text: &str) -> Result<Self, Complaint>;

    /// For the few that may be written as a bare integer too.
    fn from_integer(_: i64) -> Option<Result<Self, Complaint>> {
        None
    }
}

/// Reads a [`Written`] value where serde asks for one.
#[derive(Clone, Debug)]
pub(super) struct Text<T>(pub(super) T);

/// A duration; may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// A duration that is not zero, for time-outs: none of them can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Duration);

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

/// A whole number from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count(pub(super) usize);

/// Threads: a whole number from 1, or `auto` for as many as the process may use at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Workers(pub(super) usize);

impl Written for Span {
    const EXPECTED: &'static str = r#"a duration such as "30s" or "250ms" (units: ms, s, m, h, d)"#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        duration(text).map(Self)
    }

    fn from_integer(_: i64) -> Option<Result<Self, Complaint>> {
        Some(Err(no_duration().hint("a unit is needed, and quotes")))
    }
}

impl Written for Limit {
    const EXPECTED: &'static str = Span::EXPECTED;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        match duration(text)? {
            Duration::ZERO => Err(complaint("must be longer than 0")
                .hint("a time-out cannot be switched off; write a long one")),
            duration => Ok(Self(duration)),
        }
    }

    fn from_integer(number: i64) -> Option<Result<Self, Complaint>> {
        Span::from_integer(number).map(|result| result.map(|span| Self(span.0)))
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, Complaint> {
    parse_duration(text).map_err(|error| match error {
        DurationError::Unreadable => no_duration(),
        DurationError::TooLong => {
            complaint("is longer than a century").hint("write 36500d or less")
        }
    })
}

fn no_duration() -> Complaint {
    complaint(format!("expected {}", Span::EXPECTED)).hint("digits, then a unit, in quotes")
}

impl Written for Size {
    const EXPECTED: &'static str = r#"a size such as "64KiB", "1MiB" or an integer of bytes"#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let wrong = || {
            complaint(format!("expected {}", Self::EXPECTED))
                .hint("units: B, kB, MB, GB, KiB, MiB, GiB")
        };
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

    fn from_integer(number: i64) -> Option<Result<Self, Complaint>> {
        Some(match usize::try_from(number) {
            Ok(bytes) => Ok(Self(bytes)),
            Err(_) => Err(complaint("a size cannot be negative").hint("write 0 for none")),
        })
    }
}

/// Digits, then letters, at most one space between. The number is `None` where it overflows.
fn number_and_unit(text: &str) -> Option<(Option<u64>, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return None;
    }
    Some((digits.parse().ok(), unit.strip_prefix(' ').unwrap_or(unit)))
}

impl Written for Count {
    const EXPECTED: &'static str = "an integer, 1 or greater";

    fn from_text(_: &str) -> Result<Self, Complaint> {
        Err(no_count())
    }

    fn from_integer(number: i64) -> Option<Result<Self, Complaint>> {
        let number = usize::try_from(number).ok().filter(|number| *number > 0);
        Some(number.map(Self).ok_or_else(no_count))
    }
}

impl Written for Workers {
    const EXPECTED: &'static str = r#"an integer, 1 or greater, or "auto""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        match text {
            // Affinity and cgroup quotas counted: a pod with a limit of one CPU gets one.
            "auto" => Ok(Self(
                std::thread::available_parallelism().map_or(1, usize::from),
            )),
            _ => Err(no_workers()),
        }
    }

    fn from_integer(number: i64) -> Option<Result<Self, Complaint>> {
        let count = Count::from_integer(number)?;
        Some(count.map(|Count(n)| Self(n)).map_err(|_| no_workers()))
    }
}

fn no_workers() -> Complaint {
    complaint(format!("expected {}", Workers::EXPECTED)).hint("one carries what most sidecars get")
}

fn no_count() -> Complaint {
    complaint(format!("expected {}", Count::EXPECTED)).hint("digits without quotes")
}

impl<'de, T: Written> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

/// As [`super::read`] takes it apart again.
pub(super) fn custom<E: de::Error>(complaint: &Complaint) -> E {
    match &complaint.hint {
        Some(hint) => E::custom(format_args!("{}\n{hint}", complaint.message)),
        None => E::custom(&complaint.message),
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: Written> Visitor<'_> for TextVisitor<T> {
    type Value = Text<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<T>, E> {
        T::from_text(text).map(Text).map_err(|c| custom(&c))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Text<T>, E> {
        match T::from_integer(number) {
            Some(result) => result.map(Text).map_err(|c| custom(&c)),
            None => Err(E::invalid_type(de::Unexpected::Signed(number), &self)),
        }
    }
}

#[cfg(test)]
mod tests;

//! Durations, sizes and counts, and the trait by which any text of the file becomes a typed value.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use super::problems::{Complaint, complaint};

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

/// One value, or a list of them.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

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
            Duration::ZERO => Err(complaint("must be longer than 0")),
            duration => Ok(Self(duration)),
        }
    }

    fn from_integer(number: i64) -> Option<Result<Self, Complaint>> {
        Span::from_integer(number).map(|result| result.map(|span| Self(span.0)))
    }
}

/// A century: longer than any token lives, short enough to be added to any point in time.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn duration(text: &str) -> Result<Duration, Complaint> {
    let (number, unit) = number_and_unit(text).ok_or_else(no_duration)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(no_duration()),
    };
    number
        .and_then(|number| number.checked_mul(millis))
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| complaint("is longer than a century"))
}

fn no_duration() -> Complaint {
    complaint(format!("expected {}", Span::EXPECTED))
}

impl Written for Size {
    const EXPECTED: &'static str = r#"a size such as "64KiB", "1MiB" or an integer of bytes"#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let wrong = || complaint(format!("expected {}", Self::EXPECTED));
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
            .ok_or_else(|| complaint("is more than this machine can address"))
    }

    fn from_integer(number: i64) -> Option<Result<Self, Complaint>> {
        Some(match usize::try_from(number) {
            Ok(bytes) => Ok(Self(bytes)),
            Err(_) => Err(complaint("a size cannot be negative")),
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
        Err(complaint(format!("expected {}", Self::EXPECTED)))
    }

    fn from_integer(number: i64) -> Option<Result<Self, Complaint>> {
        let number = usize::try_from(number).ok().filter(|number| *number > 0);
        Some(
            number
                .map(Self)
                .ok_or_else(|| complaint(format!("expected {}", Self::EXPECTED))),
        )
    }
}

impl<'de, T: Written> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

impl<'de, T: Written> Deserialize<'de> for OneOrMany<Text<T>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
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

struct OneOrManyVisitor<T>(PhantomData<T>);

impl<'de, T: Written> Visitor<'de> for OneOrManyVisitor<T> {
    type Value = OneOrMany<Text<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list of such", T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let one = TextVisitor(PhantomData).visit_str(text)?;
        Ok(OneOrMany(vec![one]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(OneOrMany(all))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("30 s", 30_000),
            ("0s", 0),
        ] {
            let span = Span::from_text(text).unwrap();
            assert_eq!(span.0, Duration::from_millis(millis), "{text}");
        }
        for text in [
            "", "30", "s", "1.5s", "-1s", "1h30m", "30S", "1w", " 1s", "1s ", "1  s", "१s",
        ] {
            let wrong = Span::from_text(text).unwrap_err();
            assert!(wrong.message.contains("\"30s\""), "{text}: {wrong:?}");
        }
        for text in ["36501d", "99999999999999999999s", "18446744073709551615d"] {
            let wrong = Span::from_text(text).unwrap_err();
            assert_eq!(wrong.message, "is longer than a century", "{text}");
        }
    }

    #[test]
    fn limits_are_not_zero() {
        assert_eq!(
            Limit::from_text("0ms").unwrap_err().message,
            "must be longer than 0"
        );
        assert_eq!(Limit::from_text("1ms").unwrap().0, Duration::from_millis(1));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0B", 0),
            ("64KiB", 65536),
            ("10KB", 10_000),
            ("10kB", 10_000),
            ("1MiB", 1 << 20),
            ("2 MB", 2_000_000),
            ("1GiB", 1 << 30),
            ("1GB", 1_000_000_000),
        ] {
            assert_eq!(Size::from_text(text).unwrap().0, bytes, "{text}");
        }
        for text in ["", "64", "KiB", "64kib", "-1B", "1.5MiB", "64K", "64KiB "] {
            let wrong = Size::from_text(text).unwrap_err();
            assert!(wrong.message.contains("64KiB"), "{text}: {wrong:?}");
        }
        assert!(Size::from_text("99999999999GiB").is_err());
        assert_eq!(Size::from_integer(5).unwrap().unwrap().0, 5);
        assert!(Size::from_integer(-1).unwrap().is_err());
    }

    #[test]
    fn counts_start_at_one() {
        assert_eq!(Count::from_integer(1).unwrap().unwrap().0, 1);
        assert!(Count::from_integer(0).unwrap().is_err());
        assert!(Count::from_integer(-1).unwrap().is_err());
        assert!(Count::from_text("1").is_err());
    }

    proptest! {
        #[test]
        fn durations_never_panic(text in "\\PC*") {
            let _ = Span::from_text(&text);
            let _ = Size::from_text(&text);
        }

        #[test]
        fn what_is_written_is_what_is_meant(n in 0_u64..30_000) {
            prop_assert_eq!(Span::from_text(&format!("{n}h")).unwrap().0, Duration::from_secs(n * 3600));
            prop_assert_eq!(Size::from_text(&format!("{n}KiB")).unwrap().0 as u64, n * 1024);
        }
    }
}

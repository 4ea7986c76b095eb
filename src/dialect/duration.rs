//! Durations as they are written: `"30s"`, `"250ms"`.

use std::time::Duration;

/// A century: longer than any token lives, short enough to be added to any point in time.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurationError {
    Unreadable,
    /// Than a century.
    TooLong,
}

/// Digits and one of `ms`, `s`, `m`, `h`, `d`, at most one space between.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .filter(|end| *end > 0)
        .ok_or(DurationError::Unreadable)?;
    let (digits, unit) = text.split_at(end);
    let millis = match unit.strip_prefix(' ').unwrap_or(unit) {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(DurationError::Unreadable),
    };
    digits
        .parse()
        .ok()
        .and_then(|number: u64| number.checked_mul(millis))
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST)
        .ok_or(DurationError::TooLong)
}

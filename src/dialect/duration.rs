//! Durations as text: `"30s"`, `"250ms"`.

use std::time::Duration;

/// 100 years: longer than any token's life, and safe to add to any time.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurationError {
    Unreadable,
    /// Longer than 100 years.
    TooLong,
}

/// Parses digits and `ms`, `s`, `m`, `h` or `d`, with at most one space between.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (digits, unit) = text.split_at(
        end.filter(|end| *end > 0)
            .ok_or(DurationError::Unreadable)?,
    );
    let millis = match unit.strip_prefix(' ').unwrap_or(unit) {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(DurationError::Unreadable),
    };
    let millis = digits
        .parse()
        .ok()
        .and_then(|number: u64| number.checked_mul(millis));
    let duration = millis.map(Duration::from_millis);
    duration
        .filter(|duration| *duration <= LONGEST)
        .ok_or(DurationError::TooLong)
}

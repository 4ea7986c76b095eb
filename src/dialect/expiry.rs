//! Reading a vendor's `expires`, whose form is inferred from the value.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use jiff::{Timestamp, tz::TimeZone};

use super::schema::ExpiresUnit;

/// Smallest number of seconds that is a Unix time (in 2001) rather than a lifetime (of 31 years).
const ABSOLUTE_FROM: f64 = 1e9;

/// Smallest number that is in milliseconds: 1e11 seconds would be the year 5138.
const MILLISECONDS_FROM: f64 = 1e11;

/// The end of the year 9999. Later times are cut to it, so that no clock overflows.
const LATEST: f64 = 253_402_300_799.0;

/// The token's lifetime as the vendor states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Absent or 0: the provider's `ttl` decides.
    Unstated,
    /// Counted from before the request was sent.
    In(Duration),
    /// A time of the vendor's clock; the answer's `Date`, in `date`, corrects for clock skew.
    At {
        at: SystemTime,
        date: Option<SystemTime>,
    },
}

/// Reads the text of an `expires` field; `None` if the text is neither a number nor a time.
///
/// `unit` is the unit of numbers; their size still decides between a lifetime and a time.
pub(super) fn read(
    text: &str,
    unit: Option<ExpiresUnit>,
    date: Option<SystemTime>,
) -> Option<Expiry> {
    let text = text.trim();
    match text.parse::<f64>() {
        // Some vendors send 0 for an unknown lifetime; a negative number has no known meaning.
        Ok(number) if number.is_finite() && number >= 0.0 => Some(from_number(number, unit, date)),
        Ok(_) => None,
        Err(_) => {
            let at = from_timestamp(text)?;
            Some(Expiry::At { at, date })
        }
    }
}

/// A time in Unix seconds.
pub(super) fn at_unix(seconds: f64, date: Option<SystemTime>) -> Expiry {
    // Rounds to milliseconds; the cast saturates, so that times before the epoch become the epoch.
    let since_epoch = Duration::from_millis((seconds.min(LATEST) * 1e3).round() as u64);
    let at = UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH);
    Expiry::At { at, date }
}

fn from_number(number: f64, unit: Option<ExpiresUnit>, date: Option<SystemTime>) -> Expiry {
    let seconds = match unit {
        Some(ExpiresUnit::Seconds) => number,
        Some(ExpiresUnit::Milliseconds) => number / 1e3,
        Some(ExpiresUnit::Minutes) => number * 60.0,
        None if number >= MILLISECONDS_FROM => number / 1e3,
        None => number,
    };
    if unit.is_none() && number >= MILLISECONDS_FROM || seconds >= ABSOLUTE_FROM {
        return at_unix(seconds, date);
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(life) if !life.is_zero() => Expiry::In(life),
        _ => Expiry::Unstated,
    }
}

/// ISO-8601, in UTC if it has no offset, or an HTTP date (RFC 9110 §5.6.7).
fn from_timestamp(text: &str) -> Option<SystemTime> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.into());
    }
    if let Ok(civil) = text.parse::<DateTime>() {
        return Some(TimeZone::UTC.to_timestamp(civil).ok()?.into());
    }
    httpdate::parse_http_date(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn life(seconds: u64) -> Option<Expiry> {
        Some(Expiry::In(Duration::from_secs(seconds)))
    }

    fn at(milliseconds: u64) -> Option<Expiry> {
        Some(Expiry::At {
            at: UNIX_EPOCH + Duration::from_millis(milliseconds),
            date: None,
        })
    }

    #[test]
    fn the_size_of_a_number_decides_its_meaning() {
        for (text, expected) in [
            ("3600", life(3600)),
            ("\u{20}3599 ", life(3599)),
            ("1", life(1)),
            ("3600.0", life(3600)),
            ("31536000", life(31_536_000)),
            ("315360000", life(315_360_000)),
            ("999999999", life(999_999_999)),
            ("1000000000", at(1_000_000_000_000)),
            ("1450765309", at(1_450_765_309_000)),
            ("99999999999", at(99_999_999_999_000)),
            ("100000000000", at(100_000_000_000)),
            ("1700000000789", at(1_700_000_000_789)),
            ("0", Some(Expiry::Unstated)),
            ("-1", None),
            ("-5.5", None),
            ("-0", Some(Expiry::Unstated)),
            ("1e-30", Some(Expiry::Unstated)),
            ("2015-12-22T06:21:49Z", at(1_450_765_309_000)),
            ("2015-12-22T14:21:49+08:00", at(1_450_765_309_000)),
            ("2015-12-22T14:21:49+0800", at(1_450_765_309_000)),
            ("2015-12-22T06:21:49.000000Z", at(1_450_765_309_000)),
            ("2015-12-22T06:21:49", at(1_450_765_309_000)),
            ("2015-12-22 06:21:49", at(1_450_765_309_000)),
            ("Tue, 22 Dec 2015 06:21:49 GMT", at(1_450_765_309_000)),
            ("2015-12-22", at(1_450_742_400_000)),
            ("never", None),
            ("NaN", None),
            ("inf", None),
            ("", None),
        ] {
            assert_eq!(read(text, None, None), expected, "{text}");
        }
    }

    #[test]
    fn a_unit_overrides_the_inferred_one() {
        use ExpiresUnit::{Milliseconds, Minutes, Seconds};
        for (text, unit, expected) in [
            ("7200000", Milliseconds, life(7200)),
            ("1700000000789", Milliseconds, at(1_700_000_000_789)),
            ("120", Minutes, life(7200)),
            ("3600", Seconds, life(3600)),
            ("0", Minutes, Some(Expiry::Unstated)),
            ("2015-12-22T06:21:49Z", Milliseconds, at(1_450_765_309_000)),
        ] {
            assert_eq!(read(text, Some(unit), None), expected, "{text} {unit:?}");
        }
    }

    #[test]
    fn later_times_are_cut_to_the_year_9999() {
        for text in ["1e300", "99999999999999999999999999", "9223372036854775807"] {
            let Some(Expiry::At { at, .. }) = read(text, None, None) else {
                panic!("{text}")
            };
            assert_eq!(
                at,
                UNIX_EPOCH + Duration::from_secs(253_402_300_799),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn numbers_never_overflow(number in any::<f64>(), unit in 0..4) {
            use ExpiresUnit::{Milliseconds, Minutes, Seconds};
            let unit = [None, Some(Seconds), Some(Milliseconds), Some(Minutes)][unit as usize];
            let _ = read(&number.to_string(), unit, None);
            let _ = at_unix(number, None);
        }

        #[test]
        fn texts_never_panic(text in any::<String>()) {
            let _ = read(&text, None, None);
        }

        #[test]
        fn texts_like_dates_never_panic(
            text in "[-+]?[0-9]{1,6}(-[0-9]{2}){2}[T ]?[0-9:.]{0,12}[-+Z]?[0-9:]{0,6}",
        ) {
            let _ = read(&text, None, None);
        }
    }
}

//! Reading a vendor's `expires`, whose form is inferred from the value.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::schema::ExpiresUnit;
use super::vendor_time;

/// Smallest number of seconds that is a Unix time (in 2001) rather than a lifetime (of 31 years).
const ABSOLUTE_FROM: f64 = 1e9;

/// Smallest number that is in milliseconds: 1e11 seconds would be the year 5138.
const MILLISECONDS_FROM: f64 = 1e11;

/// The end of the year 9999. Later times are cut to it, so that no clock overflows.
const LATEST: f64 = 253_402_300_799.0;

/// A time that is further in the past is not the end of a token that was just issued.
const LONGEST_PASSED: Duration = Duration::from_secs(24 * 3600);

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

/// The time of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// By the local clock.
    pub(super) now: SystemTime,
    /// The answer's `Date`, by the vendor's clock.
    pub(super) date: Option<SystemTime>,
}

impl Arrival {
    fn by_vendors_clock(self) -> SystemTime {
        self.date.unwrap_or(self.now)
    }
}

/// Reads the text of an `expires` field; `None` if the text is no number, duration or time.
///
/// `unit` is the unit of numbers.
pub(super) fn read(text: &str, unit: Option<ExpiresUnit>, arrival: Arrival) -> Option<Expiry> {
    let text = text.trim();
    let at_time = |at| Expiry::At {
        at,
        date: arrival.date,
    };
    if let Some(at) = vendor_time::digits(text) {
        return Some(at_time(at));
    }
    match text.parse::<f64>() {
        // Some vendors send 0 for an unknown lifetime; a negative number has no known meaning.
        Ok(number) if number.is_finite() && number >= 0.0 => {
            Some(from_number(number, unit, arrival))
        }
        Ok(_) => None,
        Err(_) => (vendor_time::duration(text).map(lifetime))
            .or_else(|| vendor_time::time(text).map(at_time)),
    }
}

/// A time in Unix seconds, or in milliseconds if seconds would be after the year 5138.
pub(super) fn at_unix(number: f64, date: Option<SystemTime>) -> Expiry {
    let seconds = match number >= MILLISECONDS_FROM {
        true => number / 1e3,
        false => number,
    };
    // Rounds to milliseconds; the cast saturates, so that times before the epoch become the epoch.
    let since_epoch = Duration::from_millis((seconds.min(LATEST) * 1e3).round() as u64);
    let at = UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH);
    Expiry::At { at, date }
}

/// The end of a life that is counted from the vendor's `issued_at`.
pub(super) fn after(issued_at: Expiry, life: Expiry) -> Option<Expiry> {
    let (Expiry::At { at, date }, Expiry::In(life)) = (issued_at, life) else {
        return None;
    };
    let at = at.checked_add(life)?;
    Some(Expiry::At { at, date })
}

/// The earliest of several statements. One that has passed already is left out, unless all have: a
/// time without its zone can be hours off.
pub(super) fn earliest(stated: &[Expiry], arrival: Arrival) -> Expiry {
    let now = arrival.by_vendors_clock();
    let left = |expiry: &Expiry| match *expiry {
        Expiry::Unstated => None,
        Expiry::In(life) => Some(life),
        Expiry::At { at, .. } => at.duration_since(now).ok().filter(|left| !left.is_zero()),
    };
    let plausible = stated.iter().filter(|expiry| left(expiry).is_some());
    let earliest = plausible.min_by_key(|expiry| left(expiry));
    let stated = earliest.or_else(|| stated.iter().find(|it| **it != Expiry::Unstated));
    stated.copied().unwrap_or(Expiry::Unstated)
}

fn from_number(number: f64, unit: Option<ExpiresUnit>, arrival: Arrival) -> Expiry {
    let seconds = match unit {
        // No time: a dialect whose `expires` is a Unix time needs no unit.
        Some(ExpiresUnit::Seconds) => return lifetime_of(number),
        Some(ExpiresUnit::Milliseconds) => number / 1e3,
        Some(ExpiresUnit::Minutes) => number * 60.0,
        None if number >= MILLISECONDS_FROM => return at_unix(number, arrival.date),
        None => number,
    };
    if seconds < ABSOLUTE_FROM {
        return lifetime_of(seconds);
    }
    let time = at_unix(seconds, arrival.date);
    match time {
        Expiry::At { at, .. } if has_long_passed(at, arrival) => lifetime_of(seconds),
        time => time,
    }
}

/// Whether a number in seconds is a life of 32 to 56 years rather than a time. A token that the
/// vendor serves from a cache may have expired a moment ago, but not a day ago.
fn has_long_passed(at: SystemTime, arrival: Arrival) -> bool {
    let since = arrival.by_vendors_clock().duration_since(at);
    since.is_ok_and(|since| since > LONGEST_PASSED)
}

fn lifetime_of(seconds: f64) -> Expiry {
    lifetime(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn lifetime(life: Duration) -> Expiry {
    match life.is_zero() {
        true => Expiry::Unstated,
        false => Expiry::In(life),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arrival() -> Arrival {
        Arrival {
            now: UNIX_EPOCH + Duration::from_secs(1_796_040_000),
            date: None,
        }
    }

    fn life(seconds: u64) -> Option<Expiry> {
        Some(Expiry::In(Duration::from_secs(seconds)))
    }

    fn at(milliseconds: u64) -> Option<Expiry> {
        Some(Expiry::At {
            at: UNIX_EPOCH + Duration::from_millis(milliseconds),
            date: None,
        })
    }

    fn read(text: &str, unit: Option<ExpiresUnit>) -> Option<Expiry> {
        super::read(text, unit, arrival())
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
            // Lives of 32 to 56 years: as times they have passed.
            ("1000000000", life(1_000_000_000)),
            ("1576797207", life(1_576_797_207)),
            ("1795953599", life(1_795_953_599)),
            // Passed within the last day: a token from a cache, or clock skew.
            ("1795953600", at(1_795_953_600_000)),
            ("1796039999", at(1_796_039_999_000)),
            ("1796043600", at(1_796_043_600_000)),
            ("3155760000", at(3_155_760_000_000)),
            ("99999999999", at(99_999_999_999_000)),
            ("100000000000", at(100_000_000_000)),
            ("1700000000789", at(1_700_000_000_789)),
            ("20271222062149", at(1_829_456_509_000)),
            ("0", Some(Expiry::Unstated)),
            ("-1", None),
            ("-5.5", None),
            ("-0", Some(Expiry::Unstated)),
            ("1e-30", Some(Expiry::Unstated)),
            ("2015-12-22T06:21:49Z", at(1_450_765_309_000)),
            ("2015-12-22T06:21:49.000000Z", at(1_450_765_309_000)),
            ("2015-12-22 06:21:49", at(1_450_765_309_000)),
            ("Tue, 22 Dec 2015 06:21:49 GMT", at(1_450_765_309_000)),
            ("2015-12-22", at(1_450_742_400_000)),
            ("3600s", life(3600)),
            ("PT0S", Some(Expiry::Unstated)),
            ("never", None),
            ("NaN", None),
            ("inf", None),
            ("", None),
        ] {
            assert_eq!(read(text, None), expected, "{text}");
        }
    }

    #[test]
    fn a_unit_overrides_the_inferred_one() {
        use ExpiresUnit::{Milliseconds, Minutes, Seconds};
        for (text, unit, expected) in [
            ("7200000", Milliseconds, life(7200)),
            ("1576797207000", Milliseconds, life(1_576_797_207)),
            ("1800000000789", Milliseconds, at(1_800_000_000_789)),
            ("120", Minutes, life(7200)),
            ("3600", Seconds, life(3600)),
            ("1576797207", Seconds, life(1_576_797_207)),
            ("1800000000", Seconds, life(1_800_000_000)),
            ("3155760000", Seconds, life(3_155_760_000)),
            ("0", Minutes, Some(Expiry::Unstated)),
            ("2015-12-22T06:21:49Z", Milliseconds, at(1_450_765_309_000)),
        ] {
            assert_eq!(read(text, Some(unit)), expected, "{text} {unit:?}");
        }
    }

    #[test]
    fn later_times_are_cut_to_the_year_9999() {
        for text in ["1e300", "99999999999999999999999999", "9223372036854775807"] {
            let Some(Expiry::At { at, .. }) = read(text, None) else {
                panic!("{text}")
            };
            assert_eq!(
                at,
                UNIX_EPOCH + Duration::from_secs(253_402_300_799),
                "{text}"
            );
        }
        assert_eq!(
            read("1e300", Some(ExpiresUnit::Seconds)),
            Some(Expiry::In(Duration::MAX))
        );
    }

    #[test]
    fn the_earliest_statement_that_has_not_passed_counts() {
        let now = 1_796_040_000_000;
        let [hour, day] = [3600, 86_400].map(|seconds| life(seconds).unwrap());
        let [soon, past, later] = [now + 6000, now - 1, now + 7_200_000].map(|ms| at(ms).unwrap());
        for (stated, expected) in [
            (vec![], Expiry::Unstated),
            (vec![Expiry::Unstated, hour], hour),
            (vec![hour, day], hour),
            (vec![day, hour], hour),
            (vec![day, soon], soon),
            (vec![hour, later], hour),
            (vec![hour, past], hour),
            (vec![past, at(now - 5).unwrap()], past),
            (vec![Expiry::Unstated, past], past),
        ] {
            assert_eq!(earliest(&stated, arrival()), expected, "{stated:?}");
        }
        // By the vendor's clock where the answer has a `Date`.
        let date = Some(UNIX_EPOCH + Duration::from_millis(now + 5_000_000));
        let arrival = Arrival { date, ..arrival() };
        assert_eq!(earliest(&[hour, later], arrival), later);
    }

    #[test]
    fn a_life_may_count_from_the_time_of_issue() {
        let issued_at = at(1_796_039_760_000).unwrap();
        let end = after(issued_at, Expiry::In(Duration::from_secs(300)));
        assert_eq!(end, at(1_796_040_060_000));
        assert_eq!(after(Expiry::Unstated, issued_at), None);
        assert_eq!(after(issued_at, Expiry::In(Duration::MAX)), None);
    }

    proptest! {
        #[test]
        fn numbers_never_overflow(number in any::<f64>(), unit in 0..4) {
            use ExpiresUnit::{Milliseconds, Minutes, Seconds};
            let unit = [None, Some(Seconds), Some(Milliseconds), Some(Minutes)][unit as usize];
            let read = read(&number.to_string(), unit);
            let stated = [read.unwrap_or(Expiry::Unstated), at_unix(number, None)];
            let _ = (earliest(&stated, arrival()), after(stated[0], stated[1]));
        }

        #[test]
        fn texts_never_panic(text in any::<String>()) {
            let _ = read(&text, None);
        }
    }
}

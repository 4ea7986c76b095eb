//! Reading a time or a duration as vendors write it. A time without a zone is in UTC.

use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::{Span, SpanRelativeTo, Timestamp, tz::TimeZone};

/// Tried in order, each with and without an offset from UTC at the end.
const FORMATS: [&str; 5] = [
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M:%S%.f",
    // Azure App Service 2017-09-01: `09/14/2017 00:00:00 PM +00:00`.
    "%m/%d/%Y %H:%M:%S %p",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %H:%M:%S",
];

/// `Date.toString` of Java, and `ctime` of C.
const ENGLISH: [&str; 2] = ["%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y"];

/// Years in which 14 digits are a date rather than Unix milliseconds of the year 2603.
const YEARS: std::ops::Range<i16> = 2000..2100;

/// ISO-8601, an HTTP date (RFC 9110 §5.6.7), RFC 5322, and the forms of single vendors.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.into());
    }
    if let Ok(civil) = text.parse::<DateTime>() {
        return in_utc(civil);
    }
    if let Ok(at) = httpdate::parse_http_date(text) {
        return Some(at);
    }
    if let Ok(at) = rfc2822::parse(text) {
        return Some(at.timestamp().into());
    }
    let text = text.replace(" UTC", " +0000").replace(" GMT", " +0000");
    let formats = FORMATS.iter().flat_map(|format| {
        let offsets = [" %:z", " %z", ""].into_iter();
        offsets.map(move |offset| format!("{format}{offset}"))
    });
    let mut formats = formats.chain(ENGLISH.map(str::to_owned));
    formats
        .find_map(|format| in_format(&format, &text))
        .or_else(|| microsoft_json(&text))
}

/// `yyyyMMddHHmmss`.
pub(super) fn digits(text: &str) -> Option<SystemTime> {
    if text.len() != 14 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let civil = BrokenDownTime::parse("%Y%m%d%H%M%S", text).ok()?;
    let civil = civil.to_datetime().ok()?;
    YEARS.contains(&civil.year()).then(|| in_utc(civil))?
}

/// `3600s`, `1h 30m`, `2 hours`, and ISO-8601 durations such as `PT1H`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours());
    duration.ok()?.try_into().ok()
}

fn in_format(format: &str, text: &str) -> Option<SystemTime> {
    let parsed = BrokenDownTime::parse(format, text).ok()?;
    match parsed.to_timestamp() {
        Ok(at) => Some(at.into()),
        Err(_) => in_utc(parsed.to_datetime().ok()?),
    }
}

fn in_utc(civil: DateTime) -> Option<SystemTime> {
    Some(TimeZone::UTC.to_timestamp(civil).ok()?.into())
}

/// `/Date(1450765309000)/`, as .NET writes times into JSON. An offset changes only the display.
fn microsoft_json(text: &str) -> Option<SystemTime> {
    let inner = text.strip_prefix("/Date(")?.strip_suffix(")/")?;
    let end = inner.rfind(['+', '-']).filter(|&at| at > 0);
    let milliseconds: i64 = inner[..end.unwrap_or(inner.len())].parse().ok()?;
    Some(Timestamp::from_millisecond(milliseconds).ok()?.into())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_of_vendors_are_read() {
        let expected = UNIX_EPOCH + Duration::from_secs(1_450_765_309);
        for text in [
            "2015-12-22T06:21:49Z",
            "2015-12-22T14:21:49+08:00",
            "2015-12-22T14:21:49+0800",
            "2015-12-22T06:21:49",
            "2015-12-22 06:21:49",
            "2015-12-22 14:21:49 +08:00",
            "2015-12-22 14:21:49 +0800",
            "2015-12-22 06:21:49 UTC",
            "2015-12-22 06:21:49.000",
            "2015/12/22 06:21:49",
            "2015/12/22 14:21:49 +08:00",
            "20151222T062149Z",
            "Tue, 22 Dec 2015 06:21:49 GMT",
            "Tue, 22 Dec 2015 14:21:49 +0800",
            "Tuesday, 22-Dec-15 06:21:49 GMT",
            "Tue Dec 22 06:21:49 2015",
            "Tue Dec 22 06:21:49 UTC 2015",
            "12/22/2015 06:21:49",
            "12/22/2015 06:21:49 +00:00",
            "12/22/2015 6:21:49 AM +00:00",
            "12/22/2015 06:21:49 AM",
            "/Date(1450765309000)/",
            "/Date(1450765309000+0800)/",
        ] {
            assert_eq!(time(text), Some(expected), "{text}");
        }
        assert_eq!(digits("20151222062149"), Some(expected));
        for text in ["1450765309000", "20151322062149", "99991222062149", ""] {
            assert_eq!(digits(text), None, "{text}");
        }
        for text in [
            "never",
            "12/22/2015 18:21:49 XM",
            "/Date(x)/",
            "",
            "22.12.2015",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
        // The afternoon in both kinds of clock.
        let afternoon = expected + Duration::from_secs(12 * 3600);
        for text in [
            "12/22/2015 6:21:49 PM +00:00",
            "12/22/2015 18:21:49 PM +00:00",
        ] {
            assert_eq!(time(text), Some(afternoon), "{text}");
        }
    }

    #[test]
    fn durations_of_vendors_are_read() {
        for (text, seconds) in [
            ("3600s", Some(3600)),
            ("1h 30m", Some(5400)),
            ("2 hours", Some(7200)),
            ("PT1H", Some(3600)),
            ("P30D", Some(2_592_000)),
            ("-1h", None),
            ("P1M", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(duration(text), seconds.map(Duration::from_secs), "{text}");
        }
    }

    proptest! {
        #[test]
        fn texts_never_panic(text in any::<String>()) {
            let _ = (time(&text), digits(&text), duration(&text));
        }

        #[test]
        fn texts_like_dates_never_panic(
            text in "(/Date\\()?[-+]?[0-9]{1,6}([-/][0-9]{2}){0,2}[T ]?[0-9:.]{0,12} ?[-+ZA-Z]{0,3}[0-9:)/]{0,6}",
        ) {
            let _ = (time(&text), digits(&text), duration(&text));
        }
    }
}

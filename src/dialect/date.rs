//! Filters that write a time in a vendor's format: `{now|zone:+08:00|date:%Y-%m-%d %H:%M:%S}`.

use jiff::Timestamp;
use jiff::Zoned;
use jiff::fmt::strtime;
use jiff::tz::{Offset, TimeZone};

/// A format of `strftime`, such as `%Y%m%d%H%M%S`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format(String);

/// A fixed offset from UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Zone(Offset);

impl Format {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let sample = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
        match strtime::format(text, &sample) {
            Ok(written) if text.contains('%') && written != text => Ok(Self(text.to_owned())),
            _ => Err("write a format such as date:%Y-%m-%d %H:%M:%S".to_owned()),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// `time` is in the form of RFC 3339.
    pub(super) fn write(&self, time: &str) -> Result<String, String> {
        strtime::format(&self.0, &read(time, "date")?).map_err(|_| refusal("date"))
    }
}

impl Zone {
    /// Reads `Z`, `+08:00` or `-03:30`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let hours_and_minutes = || {
            let (sign, rest) = match text.split_at_checked(1)? {
                ("+", rest) => (1, rest),
                ("-", rest) => (-1, rest),
                _ => return None,
            };
            let (hours, minutes) = rest.split_once(':')?;
            let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
                true if digits.len() == 2 => digits.parse::<i32>().ok(),
                _ => None,
            };
            let minutes = number(minutes).filter(|minutes| *minutes < 60)?;
            let hours = number(hours).filter(|hours| *hours < 24)?;
            Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
        };
        let offset = match text {
            "Z" => Some(Offset::UTC),
            _ => hours_and_minutes(),
        };
        let message = "write an offset from UTC such as zone:+08:00";
        offset.map(Self).ok_or_else(|| message.to_owned())
    }

    pub(super) fn text(self) -> String {
        let seconds = self.0.seconds();
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.abs() / 60;
        format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }

    /// The same moment in this zone; `time` is in the form of RFC 3339.
    pub(super) fn write(self, time: &str) -> Result<String, String> {
        let moment = read(time, "zone")?.timestamp();
        let written = moment.to_zoned(TimeZone::fixed(self.0));
        strtime::format("%Y-%m-%dT%H:%M:%S%:z", &written).map_err(|_| refusal("zone"))
    }
}

fn read(time: &str, filter: &str) -> Result<Zoned, String> {
    let read = || {
        let moment: Timestamp = time.parse().ok()?;
        // The moment alone has no zone: the text's own decides which hours are written.
        let sign = time
            .rfind(['+', '-'])
            .filter(|at| *at > time.find('T').unwrap_or(0));
        let zone = match sign {
            Some(at) => Zone::parse(&time[at..]).ok()?,
            None => Zone(Offset::UTC),
        };
        Some(moment.to_zoned(TimeZone::fixed(zone.0)))
    };
    read().ok_or_else(|| refusal(filter))
}

fn refusal(filter: &str) -> String {
    format!("`{filter}` needs a time, as `now` is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_the_vendors_zone_and_format() {
        let now = "2026-11-30T20:13:05Z";
        let china = Zone::parse("+08:00").unwrap().write(now).unwrap();
        assert_eq!(china, "2026-12-01T04:13:05+08:00");
        let india = Zone::parse("-03:30").unwrap().write(&china).unwrap();
        assert_eq!(india, "2026-11-30T16:43:05-03:30");
        for (format, time, expected) in [
            ("%Y-%m-%d %H:%M:%S", now, "2026-11-30 20:13:05"),
            ("%Y-%m-%d %H:%M:%S", &china, "2026-12-01 04:13:05"),
            ("%Y%m%d%H%M%S", &india, "20261130164305"),
            ("%d/%b/%Y:%H:%M:%S %z", &china, "01/Dec/2026:04:13:05 +0800"),
            (
                "%a, %d %b %Y %H:%M:%S GMT",
                now,
                "Mon, 30 Nov 2026 20:13:05 GMT",
            ),
        ] {
            let written = Format::parse(format).unwrap().write(time);
            assert_eq!(written.unwrap(), expected, "{format}");
        }
    }

    #[test]
    fn bad_formats_zones_and_times_are_refused() {
        for format in ["", "yyyy-MM-dd", "%", "%!", "100%%x%"] {
            assert!(Format::parse(format).is_err(), "{format}");
        }
        for zone in [
            "", "CST", "+8", "+08", "+08:60", "+24:00", "08:00", "++8:00", "+0é:00",
        ] {
            assert!(Zone::parse(zone).is_err(), "{zone}");
        }
        let refused = Format::parse("%Y").unwrap().write("hunter2");
        assert_eq!(refused.unwrap_err(), "`date` needs a time, as `now` is");
    }

    #[test]
    fn zones_are_shown_as_written() {
        for zone in ["+08:00", "-03:30", "+00:00"] {
            assert_eq!(Zone::parse(zone).unwrap().text(), zone);
        }
    }
}

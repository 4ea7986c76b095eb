//! Durations as text.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Formats the two largest units: `250 ms`, `14 s`, `3 min 20 s`, `2 h 5 min`, `364 d`.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.subsec_millis()),
        1..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => pair(seconds / MINUTE, "min", seconds % MINUTE, "s"),
        HOUR..DAY => pair(seconds / HOUR, "h", seconds % HOUR / MINUTE, "min"),
        _ if seconds < 10 * DAY => pair(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        _ => format!("{} d", seconds / DAY),
    }
}

fn pair(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    }
}

/// Formats seconds relative to now: `in 14 s`, `now`, `1 min ago`.
pub(super) fn from_now(seconds: i64) -> String {
    let span = duration(Duration::from_secs(seconds.unsigned_abs()));
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("in {span}"),
        _ => format!("{span} ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_units_at_most() {
        let cases = [
            (Duration::from_millis(250), "250 ms"),
            (Duration::from_millis(59_900), "59 s"),
            (Duration::from_secs(60), "1 min"),
            (Duration::from_secs(200), "3 min 20 s"),
            (Duration::from_secs(7_500), "2 h 5 min"),
            (Duration::from_secs(90_000), "1 d 1 h"),
            (Duration::from_secs(31_536_000), "365 d"),
        ];
        for (time, words) in cases {
            assert_eq!(duration(time), words);
        }
    }
}

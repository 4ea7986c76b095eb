use proptest::prelude::*;

use super::*;

#[test]
fn durations_need_digits_and_one_unit() {
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
fn sizes_need_a_known_unit() {
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
    assert_eq!(Size::from_integer(5).unwrap().0, 5);
    assert!(Size::from_integer(-1).is_err());
}

#[test]
fn counts_start_at_one() {
    assert_eq!(Count::from_integer(1).unwrap().0, 1);
    assert!(Count::from_integer(0).is_err());
    assert!(Count::from_integer(-1).is_err());
    assert!(Count::from_text("1").is_err());
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "\\PC*") {
        let _ = Span::from_text(&text);
        let _ = Size::from_text(&text);
    }

    #[test]
    fn hours_and_kibibytes_are_scaled_exactly(n in 0_u64..30_000) {
        let span = Span::from_text(&format!("{n}h")).unwrap();
        prop_assert_eq!(span.0, Duration::from_secs(n * 3600));
        prop_assert_eq!(Size::from_text(&format!("{n}KiB")).unwrap().0 as u64, n * 1024);
    }
}

use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;
use crate::dialect::Expiry;

const START: u64 = 1_767_225_600;

fn now(boot: Duration) -> Now {
    Now {
        wall: UNIX_EPOCH + Duration::from_secs(START) + boot,
        boot: Duration::from_secs(3600) + boot,
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn rules() -> LifeCycle {
    LifeCycle {
        refresh_before: None,
        min_interval: secs(5),
        ttl: None,
        single_active: false,
        required: true,
    }
}

/// A schedule whose first fetch, at time zero, returned a token with this expiry.
fn fetched(rules: &LifeCycle, expiry: Expiry) -> Schedule {
    let mut schedule = Schedule::new(rules.clone());
    let start = now(Duration::ZERO);
    assert_eq!(schedule.decide(start), Decision::Fetch);
    schedule.started(start);
    schedule.succeeded(Life::new(expiry, rules, start, 0.0), false, start);
    schedule
}

/// The next planned fetch, counted from time zero.
fn next(schedule: &Schedule, at: Now) -> Option<Duration> {
    schedule
        .next(at)
        .map(|next| next.saturating_sub(now(Duration::ZERO).boot))
}

#[test]
fn a_token_is_refreshed_a_fifth_of_its_life_before_expiry_within_bounds() {
    let year = 365 * 24 * 3600;
    for (life, single_active, before) in [
        (1000, false, secs(200)),
        (60, false, secs(12)),
        // At least 10 s, but never more than half.
        (30, false, secs(10)),
        (10, false, secs(5)),
        (1, false, Duration::from_millis(500)),
        (7200, false, secs(1440)),
        (year, false, secs(3600)),
        (10 * year, false, secs(3600)),
        (7200, true, secs(300)),
        (60, true, secs(12)),
    ] {
        let rules = LifeCycle {
            single_active,
            ..rules()
        };
        let schedule = fetched(&rules, Expiry::In(secs(life)));
        assert_eq!(
            next(&schedule, now(Duration::ZERO)),
            Some(secs(life) - before),
            "life {life}, single active {single_active}"
        );
    }
}

#[test]
fn a_refresh_before_longer_than_the_life_is_cut_to_half_of_it() {
    for (life, before, after) in [(3600, 600, 3000), (3600, 3000, 600), (300, 600, 150)] {
        let rules = LifeCycle {
            refresh_before: Some(secs(before)),
            ..rules()
        };
        let schedule = fetched(&rules, Expiry::In(secs(life)));
        assert_eq!(next(&schedule, now(Duration::ZERO)), Some(secs(after)));
    }
}

#[test]
fn jitter_never_delays_a_refresh() {
    let start = now(Duration::ZERO);
    let at = |random| {
        Life::new(Expiry::In(secs(1000)), &rules(), start, random)
            .refresh
            .left(start)
            .unwrap()
    };
    assert!(at(0.999) < at(0.5) && at(0.5) < at(0.0));
    assert_eq!(at(0.0), secs(800));
    assert!(at(1.0) >= secs(780));
}

#[test]
fn without_an_expiry_ttl_applies_else_hourly_and_never_if_single_active() {
    let zero = Expiry::In(Duration::ZERO);
    for expiry in [Expiry::Unstated, zero] {
        let hourly = fetched(&rules(), expiry);
        assert_eq!(next(&hourly, now(Duration::ZERO)), Some(secs(3600)));
        assert!(hourly.usable(now(secs(1_000_000))));

        let rules_ttl = LifeCycle {
            ttl: Some(secs(1000)),
            ..rules()
        };
        let ttl = fetched(&rules_ttl, expiry);
        assert_eq!(next(&ttl, now(Duration::ZERO)), Some(secs(800)));
        assert!(!ttl.usable(now(secs(1000))));

        let single = LifeCycle {
            single_active: true,
            ..rules()
        };
        let never = fetched(&single, expiry);
        assert_eq!(next(&never, now(secs(1_000_000))), None);
        assert!(never.usable(now(secs(1_000_000))));
    }
}

#[test]
fn a_token_is_usable_until_a_margin_before_its_expiry() {
    for (life, margin_ms) in [(1, 50), (10, 500), (20, 1000), (3600, 1000)] {
        let schedule = fetched(&rules(), Expiry::In(secs(life)));
        let end = secs(life) - Duration::from_millis(margin_ms);
        assert!(schedule.usable(now(end - Duration::from_millis(1))));
        assert!(!schedule.usable(now(end)), "life {life}");
    }
}

#[test]
fn an_absolute_expiry_is_corrected_by_the_answers_date() {
    let start = now(Duration::ZERO);
    let at = |offset: i64| {
        let base = UNIX_EPOCH + secs(START);
        if offset < 0 {
            base - secs(offset.unsigned_abs())
        } else {
            base + secs(offset.unsigned_abs())
        }
    };
    for (expiry, date, life) in [
        (3600, None, 3600),
        (3600, Some(0), 3600),
        // The vendor's clock is an hour behind, or ahead.
        (0, Some(-3600), 3600),
        (7200, Some(3600), 3600),
        (-10, None, 0),
        (3600, Some(3700), 0),
    ] {
        let expiry = Expiry::At {
            at: at(expiry),
            date: date.map(at),
        };
        let life_of = Life::new(expiry, &rules(), start, 0.0);
        assert_eq!(
            life_of.expires_at,
            Some(start.wall + secs(life)),
            "{expiry:?}"
        );
        assert_eq!(life_of.usable(start), life > 0);
    }
}

#[test]
fn huge_lives_do_not_overflow() {
    for life in [Duration::MAX, secs(u64::MAX), secs(u64::MAX / 2)] {
        let schedule = fetched(&rules(), Expiry::In(life));
        assert!(schedule.usable(now(secs(1_000_000_000))));
        assert!(matches!(
            schedule.decide(now(Duration::ZERO)),
            Decision::Wait { .. }
        ));
    }
}

#[test]
fn a_step_of_the_wall_clock_ends_a_token_early_never_late() {
    let schedule = fetched(&rules(), Expiry::In(secs(1800)));
    let stepped = |step: i64, run: u64| {
        let at = now(secs(run));
        let wall = if step < 0 {
            at.wall - secs(step.unsigned_abs())
        } else {
            at.wall + secs(step.unsigned_abs())
        };
        Now { wall, ..at }
    };
    assert!(!schedule.usable(stepped(3600, 10)));
    let life = *schedule.life().unwrap();
    assert_eq!(life.left(stepped(1000, 10)), Some(secs(789)));
    assert_eq!(life.left(stepped(-1000, 10)), Some(secs(1789)));
    assert_eq!(schedule.decide(stepped(3600, 10)), Decision::Fetch);
    // Stepped back: the boot clock decides.
    assert!(schedule.usable(stepped(-3600, 10)));
    assert!(!schedule.usable(stepped(-3600, 1800)));
    assert_eq!(schedule.decide(stepped(-3600, 1440)), Decision::Fetch);
}

#[test]
fn transient_failures_are_retried_from_1_to_60_seconds() {
    let mut schedule = Schedule::new(rules());
    for pause in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        let at = now(Duration::ZERO);
        schedule.failed(FailureClass::Transient, None, at, 1.0);
        assert_eq!(next(&schedule, at), Some(secs(pause)));
    }
    // Full jitter: anywhere below.
    schedule.failed(FailureClass::Transient, None, now(Duration::ZERO), 0.25);
    assert_eq!(next(&schedule, now(Duration::ZERO)), Some(secs(15)));
}

#[test]
fn permanent_failures_are_retried_from_5_minutes_to_an_hour() {
    let mut schedule = Schedule::new(rules());
    for minutes in [5, 10, 20, 40, 60, 60] {
        // Permanent backoff has no jitter.
        schedule.failed(FailureClass::Permanent, None, now(Duration::ZERO), 0.0);
        assert_eq!(
            next(&schedule, now(Duration::ZERO)),
            Some(secs(minutes * 60))
        );
    }
}

#[test]
fn a_wrong_password_is_sent_3_times_in_30_minutes_and_28_a_day_at_most() {
    // With transient failures mixed in: after a refusal, a 500 may also count as a wrong password.
    for mix in [1, 2, 3] {
        let mut schedule = Schedule::new(rules());
        let mut at = Duration::ZERO;
        let mut starts = Vec::new();
        while at < secs(48 * 3600) {
            starts.push(at);
            schedule.started(now(at));
            let class = if starts.len() % mix == 0 || starts.len() == 1 {
                FailureClass::Permanent
            } else {
                FailureClass::Transient
            };
            schedule.failed(class, None, now(at), 0.0);
            at = next(&schedule, now(at)).unwrap();
        }
        let most = |window: Duration| {
            let within = |start: &Duration| {
                starts
                    .iter()
                    .filter(|other| *other >= start && **other < *start + window)
                    .count()
            };
            starts.iter().map(within).max().unwrap()
        };
        assert!(most(secs(1800)) <= 3, "{}", most(secs(1800)));
        assert!(most(secs(24 * 3600)) <= 28, "{}", most(secs(24 * 3600)));
    }
}

#[test]
fn retry_after_is_honoured_up_to_an_hour() {
    for (class, asked, pause) in [
        (FailureClass::Transient, 30, 30),
        (FailureClass::Transient, 1_000_000, 3600),
        (FailureClass::Permanent, 30, 300),
        (FailureClass::Permanent, 600, 600),
    ] {
        let mut schedule = Schedule::new(rules());
        schedule.failed(class, Some(secs(asked)), now(Duration::ZERO), 0.0);
        assert_eq!(next(&schedule, now(Duration::ZERO)), Some(secs(pause)));
    }
}

#[test]
fn a_transient_failure_is_retried_before_the_old_token_expires() {
    let mut schedule = fetched(&rules(), Expiry::In(secs(100)));
    let at = now(secs(80));
    for _ in 0..10 {
        schedule.failed(FailureClass::Transient, None, at, 1.0);
    }
    // 19 s left to the deadline: half of that, not 60 s.
    assert_eq!(next(&schedule, at), Some(Duration::from_millis(89_500)));
    // `Retry-After` and a refusal still apply in full.
    schedule.failed(FailureClass::Transient, Some(secs(40)), at, 1.0);
    assert_eq!(next(&schedule, at), Some(secs(120)));
    schedule.failed(FailureClass::Permanent, None, at, 1.0);
    assert_eq!(next(&schedule, at), Some(secs(380)));
}

#[test]
fn new_credentials_reset_the_backoff() {
    let mut schedule = Schedule::new(rules());
    schedule.started(now(Duration::ZERO));
    schedule.failed(FailureClass::Permanent, None, now(Duration::ZERO), 0.0);
    assert!(schedule.waits_for_credentials());
    schedule.credentials_changed();
    assert_eq!(schedule.decide(now(secs(2))), Decision::Fetch);
    schedule.started(now(secs(2)));
    schedule.failed(FailureClass::Permanent, None, now(secs(2)), 0.0);
    assert_eq!(next(&schedule, now(secs(2))), Some(secs(302)));

    schedule.needs_login();
    assert_eq!(schedule.next(now(secs(100_000))), None);
    schedule.credentials_changed();
    assert_eq!(schedule.decide(now(secs(100_000))), Decision::Fetch);
}

#[test]
fn a_requested_refresh_waits_for_min_interval() {
    let mut schedule = fetched(&rules(), Expiry::In(secs(3600)));
    assert_eq!(schedule.request_refresh(now(secs(2))), Err(secs(3)));
    assert_eq!(schedule.request_refresh(now(secs(5))), Ok(()));
    assert_eq!(schedule.decide(now(secs(5))), Decision::Fetch);
}

#[test]
fn a_rejected_token_is_renewed_after_min_interval_and_later_if_it_comes_back_unchanged() {
    let mut schedule = fetched(&rules(), Expiry::In(secs(36_000)));
    let mut at = Duration::ZERO;
    for pause in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
        let due = schedule.rejected(false, now(at)).unwrap();
        assert_eq!(due, now(at + secs(pause)).boot);
        at += secs(pause);
        schedule.started(now(at));
        let life = Life::new(Expiry::In(secs(36_000)), &rules(), now(at), 0.0);
        schedule.succeeded(life, true, now(at));
    }
    let life = Life::new(Expiry::In(secs(36_000)), &rules(), now(at), 0.0);
    schedule.succeeded(life, false, now(at));
    assert_eq!(
        schedule.rejected(false, now(at)),
        Some(now(at + secs(5)).boot)
    );
}

#[test]
fn a_rejection_does_not_shorten_the_backoff() {
    let mut schedule = fetched(&rules(), Expiry::In(secs(3600)));
    schedule.started(now(secs(100)));
    schedule.failed(FailureClass::Permanent, None, now(secs(100)), 0.0);
    assert_eq!(schedule.rejected(false, now(secs(110))), None);
    assert_eq!(next(&schedule, now(secs(110))), Some(secs(400)));
}

#[test]
fn an_unchanged_token_is_fetched_again_at_half_of_its_remaining_life() {
    // The vendor states the true remaining life and returns a new token only after the end.
    let rules = rules();
    let mut schedule = fetched(&rules, Expiry::In(secs(3600)));
    let mut fetches = 0;
    let mut at = Duration::ZERO;
    loop {
        at = next(&schedule, now(at)).unwrap();
        schedule.started(now(at));
        fetches += 1;
        if at >= secs(3600) {
            break;
        }
        let rest = Expiry::In(secs(3600) - at);
        let life = Life::new(rest, &rules, now(at), 0.0);
        schedule.succeeded(life, true, now(at));
    }
    // Near the end, the interval does not fall below `min_interval`.
    assert_eq!(fetches, 7);
    assert!(at <= secs(3601), "{at:?}");
}

#[test]
fn a_token_from_a_store_keeps_its_age() {
    let fetched_at = now(Duration::ZERO).wall;
    let life =
        |at: Now| Life::resumed(fetched_at, Some(fetched_at + secs(1000)), &rules(), at, 0.0);
    // After a reboot the boot clock starts at zero again.
    let rebooted = |run: u64| Now {
        boot: secs(5),
        ..now(secs(run))
    };
    assert!(life(rebooted(900)).usable(rebooted(900)));
    assert_eq!(life(rebooted(900)).left(rebooted(900)), Some(secs(99)));
    assert!(!life(rebooted(1000)).usable(rebooted(1000)));
    let mut schedule = Schedule::new(rules());
    schedule.set_life(Some(life(rebooted(100))));
    assert_eq!(schedule.next(rebooted(100)), Some(secs(705)));
    // The clock was set back since: the life is not longer than the issued one.
    let earlier = Now {
        wall: fetched_at - secs(5000),
        boot: secs(5),
    };
    assert_eq!(life(earlier).left(earlier), Some(secs(999)));
}

#[test]
fn no_wait_is_longer_than_30_seconds_or_the_life_of_the_token() {
    let schedule = fetched(&rules(), Expiry::In(secs(36_000)));
    let Decision::Wait { next, wake } = schedule.decide(now(Duration::ZERO)) else {
        panic!("nothing is due");
    };
    assert_eq!((next.is_some(), wake), (true, MAX_WAIT));

    let mut failing = fetched(&rules(), Expiry::In(secs(100)));
    failing.failed(FailureClass::Permanent, None, now(secs(90)), 0.0);
    let Decision::Wait { wake, .. } = failing.decide(now(secs(90))) else {
        panic!("nothing is due");
    };
    assert_eq!(wake, secs(9));
}

/// One response repeated immediately for ever: the fastest fetch loops that a vendor can cause.
#[test]
fn the_fastest_vendor_loops_keep_the_minimum_gap() {
    let moment = Expiry::In(Duration::from_millis(1));
    let second = Expiry::In(secs(1));
    let answers: [Option<(Expiry, bool)>; 5] = [
        None,
        Some((moment, false)),
        Some((moment, true)),
        Some((second, false)),
        Some((second, true)),
    ];
    for min_interval in [Duration::ZERO, secs(5)] {
        for answer in answers {
            let rules = LifeCycle {
                min_interval,
                refresh_before: Some(Duration::from_millis(999)),
                ..rules()
            };
            let mut schedule = Schedule::new(rules.clone());
            let (mut at, mut fetches) = (Duration::ZERO, 0);
            while at < secs(60) {
                let moment = now(at);
                // Constant rejections and refresh requests.
                schedule.rejected(false, moment);
                let _ = schedule.request_refresh(moment);
                match schedule.decide(moment) {
                    Decision::Wait { wake, .. } => at += wake,
                    Decision::Fetch => {
                        schedule.started(moment);
                        fetches += 1;
                        assert!(fetches <= 151, "{answer:?}, {min_interval:?}");
                        match answer {
                            None => schedule.failed(FailureClass::Transient, None, moment, 0.0),
                            Some((expiry, same)) => {
                                let life = Life::new(expiry, &rules, moment, 1.0);
                                schedule.succeeded(life, same, moment);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A vendor response.
#[derive(Clone, Debug)]
enum Response {
    Succeed {
        expiry: Expiry,
        same: bool,
    },
    Fail {
        permanent: bool,
        retry_after: Option<u64>,
    },
    Login,
}

/// What happens between two decisions.
#[derive(Clone, Copy, Debug)]
enum Event {
    Nothing,
    Reject,
    Refresh,
    Step(i64),
    Suspend(u64),
}

fn expiry() -> impl Strategy<Value = Expiry> {
    let wall = |offset: i64| {
        let base = i64::try_from(START).unwrap();
        UNIX_EPOCH + secs(u64::try_from(base + offset).unwrap())
    };
    prop_oneof![
        Just(Expiry::Unstated),
        (0..5_000u64).prop_map(|ms| Expiry::In(Duration::from_millis(ms))),
        any::<u64>().prop_map(|seconds| Expiry::In(secs(seconds))),
        (0..400_000_000u64).prop_map(|seconds| Expiry::In(secs(seconds))),
        (
            -100_000..400_000_000i64,
            proptest::option::of(-100_000..100_000i64)
        )
            .prop_map(move |(at, date)| Expiry::At {
                at: wall(at),
                date: date.map(wall)
            }),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    prop_oneof![
        4 => (expiry(), any::<bool>())
            .prop_map(|(expiry, same)| Response::Succeed { expiry, same }),
        3 => (any::<bool>(), proptest::option::of(any::<u64>()))
            .prop_map(|(permanent, retry_after)| Response::Fail { permanent, retry_after }),
        1 => Just(Response::Login),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Nothing),
        3 => Just(Event::Reject),
        1 => Just(Event::Refresh),
        1 => (-3600..=3600i64).prop_map(Event::Step),
        1 => (0..30_000u64).prop_map(Event::Suspend),
    ]
}

prop_compose! {
    fn any_rules()(
        refresh_before in proptest::option::of(0..100_000u64),
        min_interval_ms in 0..20_000u64,
        ttl in proptest::option::of(1..100_000u64),
        single_active in any::<bool>(),
    ) -> LifeCycle {
        LifeCycle {
            refresh_before: refresh_before.map(secs),
            min_interval: Duration::from_millis(min_interval_ms),
            ttl: ttl.map(secs),
            single_active,
            required: true,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// For random vendor responses, clock steps and requests: at most 151 fetches in any minute,
    /// no expired token in use, no overflow.
    #[test]
    fn no_vendor_response_causes_request_floods_or_use_of_expired_tokens(
        rules in any_rules(),
        steps in proptest::collection::vec(
            (response(), event(), 0.0..1.0f64, 0..2_000u64),
            1..300,
        ),
    ) {
        let mut schedule = Schedule::new(rules.clone());
        let mut at = now(Duration::ZERO);
        let mut starts: Vec<Duration> = Vec::new();
        let mut dies: Option<Duration> = None;
        for (answer, event, random, took_ms) in steps {
            match event {
                Event::Nothing => {}
                Event::Reject => { schedule.rejected(false, at); }
                Event::Refresh => { let _ = schedule.request_refresh(at); }
                Event::Step(seconds) if seconds < 0 => at.wall -= secs(seconds.unsigned_abs()),
                Event::Step(seconds) => at.wall += secs(seconds.unsigned_abs()),
                Event::Suspend(seconds) => { at.wall += secs(seconds); at.boot += secs(seconds); }
            }
            if let Some(dies) = dies {
                prop_assert!(at.boot < dies || !schedule.usable(at));
            }
            match schedule.decide(at) {
                Decision::Wait { wake, .. } => {
                    prop_assert!(wake > Duration::ZERO && wake <= MAX_WAIT);
                    at.wall += wake;
                    at.boot += wake;
                }
                Decision::Fetch => {
                    schedule.started(at);
                    starts.push(at.boot);
                    let sent = at;
                    let took = Duration::from_millis(took_ms / 100);
                    at.wall += took;
                    at.boot += took;
                    match answer {
                        Response::Succeed { expiry, same } => {
                            let life = Life::new(expiry, &rules, sent, random);
                            if life.usable(at) {
                                schedule.succeeded(life, same, at);
                                dies = match expiry {
                                    Expiry::In(life) if !life.is_zero() => {
                                        sent.boot.checked_add(life)
                                    }
                                    _ => None,
                                };
                            } else {
                                schedule.failed(FailureClass::Transient, None, at, random);
                            }
                        }
                        Response::Fail { permanent, retry_after } => {
                            let class = if permanent { FailureClass::Permanent } else { FailureClass::Transient };
                            schedule.failed(class, retry_after.map(secs), at, random);
                        }
                        Response::Login => {
                            schedule.needs_login();
                            schedule.failed(FailureClass::Permanent, None, at, random);
                        }
                    }
                }
            }
        }
        for (place, start) in starts.iter().enumerate() {
            let in_a_minute = starts[place..]
                .iter()
                .take_while(|other| **other < *start + secs(60))
                .count();
            prop_assert!(in_a_minute <= 151, "{in_a_minute} fetches in a minute");
        }
    }
}

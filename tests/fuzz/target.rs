//! Fuzz binary: runs the target of `cupbearer::fuzz::TARGETS` that `CUPBEARER_FUZZ` names.

#![no_main]

use std::sync::OnceLock;

use cupbearer::fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("CUPBEARER_FUZZ").unwrap_or_default();
    let known = TARGETS.iter().find(|(known, _)| *known == name);
    let Some((_, target)) = known else {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("CUPBEARER_FUZZ must be one of: {}", names.join(", "));
        std::process::exit(2);
    };
    *target
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    CHOSEN.get_or_init(chosen)(data);
});

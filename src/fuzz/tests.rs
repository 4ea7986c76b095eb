//! Runs the targets without a fuzzer: every seed, and a fixed sequence of mutations.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::*;

/// Mutated inputs for each target.
const MUTATIONS: u32 = 3_000;

/// Time limit for each target, for loaded machines.
const ENOUGH: Duration = Duration::from_secs(4);

/// Limit of a mutated input's length.
const LONGEST: usize = 4096;

fn folder(target: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.join("tests/fuzz/seeds").join(target)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = folder(target);
    let Ok(entries) = fs::read_dir(&folder) else {
        panic!("{} is missing", folder.display());
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn targets_and_seed_folders_match() {
    let names: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len());
    let folders = fs::read_dir(folder("")).unwrap();
    let folders: BTreeSet<_> = folders
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, names);
}

/// Makes one test per target, so that targets run in parallel and failures have names.
macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_target_has_a_test() {
            let here = [$(stringify!($name)),*];
            assert_eq!(here, TARGETS.map(|(name, _)| name));
        }
    };
}

targets! {
    client_io
    config
    egress_proxy
    http1_response
    reject_body
    request_target
    response_fields
    selector
    store_record
    template
    token_answer
}

fn run(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let seeds = seeds(name);
    for seed in &seeds {
        check(*target, seed);
    }
    let begun = Instant::now();
    let mut random = Rng::with_seed(0xc0ff_ee00);
    for _ in 0..MUTATIONS {
        check(*target, &mutate(&seeds, &mut random));
        if begun.elapsed() > ENOUGH {
            return;
        }
    }
}

/// Adds the input to a panic.
fn check(target: Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        panic!("the input was b\"{}\"", input.escape_ascii());
    }
}

/// Mutates a seed: flips bits, changes bytes, copies, moves and cuts ranges, splices other seeds,
/// and inserts tokens that are special to parsers.
fn mutate(seeds: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    const ODD: [&[u8]; 28] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"\t",
        b" ",
        b":",
        b";",
        b",",
        b"=",
        b"\"",
        b"{",
        b"}",
        b"..",
        b"/",
        b"%2e",
        b"%",
        b"-1",
        b"0",
        b"4294967296",
        b"18446744073709551616",
        b"1e999",
        b"\xff",
        b"\xef\xbb\xbf",
        "\u{6d4b}".as_bytes(),
        b"chunked",
        b"hunter2-hunter2",
        b"[1]",
    ];
    let mut input = random.choice(seeds).unwrap().clone();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..=input.len());
        let end = random.usize(at..=input.len().min(at + 32));
        match random.u8(..8) {
            0 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            1 if at < input.len() => input[at] = random.u8(..),
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                let to = random.usize(..=input.len());
                input.splice(to..to, piece);
            }
            4 => {
                let other = random.choice(seeds).unwrap();
                let from = random.usize(..=other.len());
                let to = random.usize(from..=other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            5 => input.truncate(at.max(1)),
            _ => {
                let odd = random.choice(ODD).unwrap();
                input.splice(at..at, odd.iter().copied());
            }
        }
    }
    input.truncate(LONGEST);
    input
}

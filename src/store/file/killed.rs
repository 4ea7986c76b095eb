//! SIGKILL at every step of a write: a child process dies, and the next one finds the old record or
//! the new one.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::super::folder::kill_point;
use super::*;

/// Steps in their order. After the third, the old record is still there; after the fourth, the new
/// one.
const STEPS: [&str; 5] = ["created", "written", "synced", "renamed", "folder synced"];

/// Environment variable: the folder of the child process.
const FOLDER: &str = "CUPBEARER_TEST_FOLDER";

fn key() -> StateKey {
    StateKey::new("identity")
}

fn record(refresh_token: &str) -> Saved {
    Saved {
        refresh_token: Some(refresh_token.into()),
        ..Saved::default()
    }
}

fn open(folder: &Path) -> FileStore {
    FileStore::open(folder.to_owned(), Keys::new(Vec::new())).unwrap()
}

/// Runs a child process that saves `new` over `old` in this folder and dies at `step`.
fn dies(folder: &Path, step: &str) {
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "store::file::killed::victim"])
        .env(kill_point::VARIABLE, step)
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(
        ended.signal(),
        Some(Signal::KILL.as_raw()),
        "at {step}: {ended}"
    );
}

#[tokio::test]
#[ignore = "the process that is killed in the tests below"]
async fn victim() {
    let folder = std::env::var_os(FOLDER).expect("started by the tests below");
    let store = open(Path::new(&folder));
    assert_eq!(store.load(&key()).await.unwrap(), Some(record("old")));
    store.save(&key(), &record("new")).await.unwrap();
}

#[tokio::test]
async fn kill_at_any_step_of_a_write_leaves_the_old_record_or_the_new_one() {
    for (number, step) in STEPS.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.save(&key(), &record("old")).await.unwrap();
        drop(store);
        dies(folder.path(), step);
        // Its lock died with it.
        let store = open(folder.path());
        let expected = if number < 3 { "old" } else { "new" };
        let found = store.load(&key()).await.unwrap();
        assert_eq!(found, Some(record(expected)), "killed at {step}");
        // Nothing half-written is left, and nothing is in the way of the next write.
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|suffix| suffix == "tmp"))
            .collect();
        assert!(names.is_empty(), "{names:?}");
        store.save(&key(), &record("newer")).await.unwrap();
        assert_eq!(store.load(&key()).await.unwrap(), Some(record("newer")));
    }
}

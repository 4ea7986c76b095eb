use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;
use zeroize::Zeroizing;

use super::super::{Adopted, FileStore, Keys, SavedAccess, Store, VisitorStore, record};
use super::*;

fn keys(byte: u8) -> Keys {
    Keys::new(vec![Zeroizing::new([byte; 32])])
}

fn open(folder: &TempDir) -> FileStore {
    FileStore::open(folder.path().to_owned(), keys(1)).unwrap()
}

fn visit(folder: &TempDir) -> VisitorStore {
    VisitorStore::new(folder.path().to_owned(), keys(1))
}

fn key() -> StateKey {
    StateKey::new("identity")
}

fn saved(refresh_token: &str, spent: &[&str]) -> Saved {
    Saved {
        refresh_token: Some(refresh_token.into()),
        access: Some(SavedAccess {
            token: format!("at of {refresh_token}").as_str().into(),
            fetched_at: UNIX_EPOCH,
            expires_at: None,
            bought_with: BTreeMap::new(),
        }),
        spent: spent.iter().map(ToString::to_string).collect(),
        ..Saved::default()
    }
}

/// The record without the ids of adopted drops.
fn facts(saved: Option<Saved>) -> Saved {
    Saved {
        adopted: BTreeSet::new(),
        ..saved.unwrap_or_default()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn drops(folder: &TempDir) -> Vec<PathBuf> {
    files(&folder.path().join("drops"))
}

/// A login beside a running proxy, as the store sees it: first the mark, then the tokens.
async fn leave_login(folder: &TempDir, token: &str, mark: &str) {
    let store = visit(folder);
    let base = store.load(&key()).await.unwrap().unwrap_or_default();
    let mut marked = base.clone();
    marked.spent.insert(mark.to_owned());
    store.save(&key(), &marked).await.unwrap();
    let done = Saved {
        spent: marked.spent,
        ..saved(token, &[])
    };
    store.save(&key(), &done).await.unwrap();
}

#[tokio::test]
async fn adoption_merges_a_drop_into_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.save(&key(), &saved("old", &["a"])).await.unwrap();
    leave_login(&folder, "new", "b").await;
    assert_eq!(drops(&folder).len(), 2);
    for path in drops(&folder) {
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!fs::read_to_string(&path).unwrap().contains("new"));
    }
    // A visitor sees the drop before it is adopted.
    let seen = visit(&folder).load(&key()).await.unwrap();
    assert_eq!(facts(seen), saved("new", &["a", "b"]));
    let Adopted {
        saved: now,
        refused,
    } = store.adopt(&key()).await.unwrap();
    assert!(refused.is_empty());
    assert_eq!(facts(now), saved("new", &["a", "b"]));
    assert_eq!(drops(&folder), Vec::<PathBuf>::new());
    assert!(store.adopt(&key()).await.unwrap().saved.is_none());
}

/// A mark alone does not undo what the running proxy renews meanwhile.
#[tokio::test]
async fn drop_holds_only_changes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.save(&key(), &saved("r1", &[])).await.unwrap();
    let visitor = visit(&folder);
    let mut marked = visitor.load(&key()).await.unwrap().unwrap();
    marked.spent.insert("m".to_owned());
    visitor.save(&key(), &marked).await.unwrap();
    assert!(!visitor.all_adopted());
    store.save(&key(), &saved("r2", &[])).await.unwrap();
    let now = store.adopt(&key()).await.unwrap().saved;
    assert_eq!(facts(now), saved("r2", &["m"]));
    assert!(visitor.all_adopted());
}

#[tokio::test]
async fn holder_sees_a_drop_within_two_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let other = StateKey::new("other");
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.wait_for_update(&key()).await })
    };
    let in_vain = {
        let store = store.clone();
        tokio::spawn(async move { store.wait_for_update(&other).await })
    };
    leave_login(&folder, "new", "m").await;
    tokio::time::timeout(Duration::from_secs(2), waiting)
        .await
        .unwrap()
        .unwrap();
    assert!(!in_vain.is_finished());
    in_vain.abort();
    store.adopt(&key()).await.unwrap();
    // An adopted drop is not reported again.
    let key = key();
    let again = store.wait_for_update(&key);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), again)
            .await
            .is_err()
    );
}

/// A process dies after each step of a login and of its adoption.
#[tokio::test]
async fn kill_at_any_step_of_login_or_adoption_loses_nothing() {
    // The state on disk after each step, from an uninterrupted run.
    let whole = tempfile::tempdir().unwrap();
    let store = open(&whole);
    store.save(&key(), &saved("old", &["a"])).await.unwrap();
    let record = record::file(whole.path(), &key());
    let before = fs::read(&record).unwrap();
    leave_login(&whole, "new", "b").await;
    let left: Vec<(PathBuf, Vec<u8>)> = drops(&whole)
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    store.adopt(&key()).await.unwrap();
    let after = fs::read(&record).unwrap();

    let (old, marked, new) = (
        saved("old", &["a"]),
        saved("old", &["a", "b"]),
        saved("new", &["a", "b"]),
    );
    let half = |text: &[u8]| text[..text.len() / 2].to_vec();
    let [(mark, mark_text), (tokens, tokens_text)] = &left[..] else {
        panic!("{} drops", left.len());
    };
    let tmp = |path: &Path| path.with_extension("tmp");
    let step = |files: &[(&Path, &[u8])], expected: &Saved| {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| {
                (
                    path.strip_prefix(whole.path()).unwrap().to_owned(),
                    text.to_vec(),
                )
            })
            .collect();
        (files, expected.clone())
    };
    let steps = [
        // Steps of the login.
        step(&[(&record, &before)], &old),
        step(&[(&record, &before), (&tmp(mark), &half(mark_text))], &old),
        step(&[(&record, &before), (&tmp(mark), mark_text)], &old),
        step(&[(&record, &before), (mark, mark_text)], &marked),
        step(
            &[
                (&record, &before),
                (mark, mark_text),
                (&tmp(tokens), &half(tokens_text)),
            ],
            &marked,
        ),
        step(
            &[(&record, &before), (mark, mark_text), (tokens, tokens_text)],
            &new,
        ),
        // Steps of the adoption.
        step(
            &[
                (&record, &before),
                (&tmp(&record), &half(&after)),
                (mark, mark_text),
                (tokens, tokens_text),
            ],
            &new,
        ),
        step(
            &[
                (&record, &before),
                (&tmp(&record), &after),
                (mark, mark_text),
                (tokens, tokens_text),
            ],
            &new,
        ),
        step(
            &[(&record, &after), (mark, mark_text), (tokens, tokens_text)],
            &new,
        ),
        step(&[(&record, &after), (tokens, tokens_text)], &new),
        step(&[(&record, &after)], &new),
    ];
    for (number, (files, expected)) in steps.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let store = open(&folder);
        store.adopt(&key()).await.unwrap();
        let found = facts(store.load(&key()).await.unwrap());
        assert_eq!(found, expected, "step {number}");
        // A second crash right after the first changes nothing.
        drop(store);
        let store = open(&folder);
        store.adopt(&key()).await.unwrap();
        assert_eq!(
            facts(store.load(&key()).await.unwrap()),
            expected,
            "step {number}"
        );
        assert!(
            drops(&folder)
                .iter()
                .all(|path| path.extension().unwrap() == "tmp")
        );
    }
}

/// A drop that could not be removed must not undo later renewals of the proxy.
#[tokio::test]
async fn drop_is_merged_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    leave_login(&folder, "new", "m").await;
    let left: Vec<_> = drops(&folder)
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let mut now = store.adopt(&key()).await.unwrap().saved.unwrap();
    now.refresh_token = Some("rotated".into());
    store.save(&key(), &now).await.unwrap();
    for (path, text) in left {
        fs::write(path, text).unwrap();
    }
    let again = store.adopt(&key()).await.unwrap();
    assert!(again.saved.is_none());
    let record = store.load(&key()).await.unwrap().unwrap();
    assert_eq!(record.refresh_token, Some("rotated".into()));
    assert!(drops(&folder).is_empty());
}

#[tokio::test]
async fn unreadable_drop_is_reported_kept_and_blocks_no_other() {
    type Damage = fn(&Path);
    let other = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let id = name.split_once('.').unwrap().1;
        path.with_file_name(format!("{}.{id}", StateKey::new("other").as_str()))
    };
    let cases: [(Damage, u8, &str); 4] = [
        (|path| fs::write(path, "{}").unwrap(), 1, "damaged"),
        (
            |path| {
                let text = fs::read_to_string(path).unwrap();
                let at = text.find("ciphertext").unwrap() + 20;
                let flipped = if &text[at..=at] == "A" { "B" } else { "A" };
                fs::write(path, format!("{}{flipped}{}", &text[..at], &text[at + 1..])).unwrap();
            },
            1,
            "no key of store.key opens it",
        ),
        (|_| {}, 2, "no key of store.key opens it"),
        (
            // An older drop under a newer name would bring dead tokens back.
            |path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                fs::rename(path, path.with_file_name(name.replace("-", "9-"))).unwrap();
            },
            1,
            "its name was changed",
        ),
    ];
    for (damage, sealed_with, reason) in cases {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let foreign = VisitorStore::new(folder.path().to_owned(), keys(sealed_with));
        foreign.save(&key(), &saved("bad", &[])).await.unwrap();
        damage(&drops(&folder)[0]);
        let bad = drops(&folder).remove(0);
        let text = fs::read(&bad).unwrap();
        let visitor = visit(&folder);
        visitor.save(&key(), &saved("good", &["m"])).await.unwrap();

        let Adopted {
            saved: now,
            refused,
        } = store.adopt(&key()).await.unwrap();
        assert_eq!(facts(now), saved("good", &["m"]));
        let [refused] = &refused[..] else {
            panic!("{refused:?}");
        };
        let refused = refused.to_string();
        assert!(refused.contains(reason), "{refused}");
        assert!(refused.contains(&bad.display().to_string()), "{refused}");
        assert_eq!(drops(&folder), std::slice::from_ref(&bad));
        assert_eq!(fs::read(&bad).unwrap(), text);

        // A drop does not open for another provider, and a start reports that.
        drop(store);
        fs::rename(&bad, other(&bad)).unwrap();
        let error = FileStore::open(folder.path().to_owned(), keys(1)).unwrap_err();
        assert!(error.to_string().contains("cannot be used"), "{error}");
        assert!(other(&bad).exists());
    }
}

#[tokio::test]
async fn drops_and_records_do_not_open_as_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.save(&key(), &saved("old", &[])).await.unwrap();
    let id = format!("{:020}-abcdef01", 1);
    let drop = folder
        .path()
        .join("drops")
        .join(format!("{}.{id}.drop", key().as_str()));
    fs::create_dir(drop.parent().unwrap()).unwrap();
    fs::copy(record::file(folder.path(), &key()), &drop).unwrap();
    let Adopted { saved, refused } = store.adopt(&key()).await.unwrap();
    assert!(saved.is_none() && refused.len() == 1);
}

/// At most one of two processes sends the same code: the second to write its mark sees the first.
#[tokio::test]
async fn one_time_input_is_claimed_by_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let visitor = visit(&folder);
    assert_eq!(visitor.load(&key()).await.unwrap(), None);
    let marked = Saved {
        spent: ["m".to_owned()].into(),
        ..Saved::default()
    };
    // The proxy claims first.
    store.save(&key(), &marked).await.unwrap();
    let error = visitor.save(&key(), &marked).await.unwrap_err();
    assert!(matches!(error, StoreError::Claimed), "{error}");

    // The login claims first.
    let folder = tempfile::tempdir().unwrap();
    let (store, visitor) = (open(&folder), visit(&folder));
    visitor.save(&key(), &marked).await.unwrap();
    let error = store.save(&key(), &marked).await.unwrap_err();
    assert!(matches!(error, StoreError::Claimed), "{error}");
    // The mark is recorded all the same, and later saves succeed.
    store.save(&key(), &marked).await.unwrap();
    assert_eq!(facts(store.adopt(&key()).await.unwrap().saved), marked);
}

#[tokio::test]
async fn abandoned_half_written_drops_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let drops_folder = folder.path().join("drops");
    fs::create_dir(&drops_folder).unwrap();
    let (fresh, stale) = (drops_folder.join("a.tmp"), drops_folder.join("b.tmp"));
    for path in [&fresh, &stale] {
        fs::write(path, "half").unwrap();
    }
    let long_ago = SystemTime::now() - ABANDONED * 2;
    let file = fs::File::options().write(true).open(&stale).unwrap();
    file.set_modified(long_ago).unwrap();
    open(&folder);
    assert!(fresh.exists() && !stale.exists());
}

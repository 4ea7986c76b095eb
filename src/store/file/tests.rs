use std::os::unix::fs::PermissionsExt;
use std::time::UNIX_EPOCH;

use zeroize::Zeroizing;

use super::super::saved::SavedAccess;
use super::*;

const TOKEN: &str = "rt-hunter2";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn keys(bytes: &[u8]) -> Keys {
    Keys::new(
        bytes
            .iter()
            .map(|byte| Zeroizing::new([*byte; 32]))
            .collect(),
    )
}

fn open(folder: &tempfile::TempDir, with: &[u8]) -> Result<FileStore, StoreError> {
    FileStore::open(folder.path().to_owned(), keys(with))
}

fn saved() -> Saved {
    Saved {
        refresh_token: Some(TOKEN.into()),
        seed: Some("abc".to_owned()),
        access: Some(SavedAccess {
            token: "at-hunter2".into(),
            fetched_at: UNIX_EPOCH + Duration::from_millis(1_767_225_600_123),
            expires_at: Some(UNIX_EPOCH + Duration::from_secs(1_798_761_600)),
            bought_with: [("inner".to_owned(), "digest".to_owned())].into(),
        }),
        spent: ["one".to_owned(), "two".to_owned()].into(),
        adopted: BTreeSet::new(),
    }
}

fn file_of(folder: &tempfile::TempDir, key: &StateKey) -> PathBuf {
    folder.path().join(format!("{}.json", key.as_str()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn saved_record_survives_a_restart() {
    let key = StateKey::new("identity");
    for with in [&[][..], &[1], &[1, 2]] {
        let folder = folder();
        let store = open(&folder, with).unwrap();
        assert_eq!(store.load(&key).await.unwrap(), None);
        store.save(&key, &Saved::default()).await.unwrap();
        store.save(&key, &saved()).await.unwrap();
        drop(store);
        let store = open(&folder, with).unwrap();
        assert_eq!(store.load(&key).await.unwrap(), Some(saved()));
        assert_eq!(store.load(&StateKey::new("other")).await.unwrap(), None);
    }
}

#[tokio::test]
async fn files_are_private_to_their_owner() {
    let folder = folder();
    let path = folder.path().join("deep/state");
    let store = FileStore::open(path.clone(), keys(&[])).unwrap();
    let key = StateKey::new("identity");
    store.save(&key, &saved()).await.unwrap();
    assert_eq!(mode(&path), 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[tokio::test]
async fn second_open_fails_and_names_the_holder() {
    let folder = folder();
    let first = open(&folder, &[]).unwrap();
    let error = open(&folder, &[]).unwrap_err().to_string();
    let holder = format!("in use by process {}", std::process::id());
    assert!(error.contains(&holder), "{error}");
    drop(first);
    open(&folder, &[]).unwrap();
}

#[tokio::test]
async fn sealed_records_hold_no_plain_text() {
    let key = StateKey::new("identity");
    for (with, readable) in [(&[][..], true), (&[1][..], false)] {
        let folder = folder();
        let store = open(&folder, with).unwrap();
        store.save(&key, &saved()).await.unwrap();
        let text = fs::read_to_string(file_of(&folder, &key)).unwrap();
        assert_eq!(text.contains("hunter2"), readable, "{text}");
    }
}

#[tokio::test]
async fn the_first_key_seals_and_all_open() {
    let key = StateKey::new("identity");
    let folder = folder();
    let with = |bytes: &[u8]| open(&folder, bytes);
    with(&[1]).unwrap().save(&key, &saved()).await.unwrap();
    // Rotation: the new key is first, the old key second.
    let store = with(&[2, 1]).unwrap();
    assert_eq!(store.load(&key).await.unwrap(), Some(saved()));
    store.save(&key, &saved()).await.unwrap();
    drop(store);
    let store = with(&[2]).unwrap();
    assert_eq!(store.load(&key).await.unwrap(), Some(saved()));
    drop(store);
    let error = with(&[1]).unwrap_err().to_string();
    assert!(error.contains("no key of store.key opens it"), "{error}");
}

#[tokio::test]
async fn start_with_both_keys_seals_again_with_the_first() {
    let (key, idle) = (StateKey::new("identity"), StateKey::new("idle"));
    let folder = folder();
    let store = open(&folder, &[1]).unwrap();
    store.save(&key, &saved()).await.unwrap();
    store.save(&idle, &saved()).await.unwrap();
    drop(store);
    drop(open(&folder, &[2, 1]).unwrap());
    let sealed_anew = fs::read(file_of(&folder, &idle)).unwrap();
    let store = open(&folder, &[2]).unwrap();
    assert_eq!(store.load(&key).await.unwrap(), Some(saved()));
    assert_eq!(store.load(&idle).await.unwrap(), Some(saved()));
    // Records sealed with the first key are not written again.
    assert_eq!(fs::read(file_of(&folder, &idle)).unwrap(), sealed_anew);
}

#[tokio::test]
async fn failed_start_seals_nothing_again() {
    let (key, bad) = (StateKey::new("identity"), StateKey::new("bad"));
    let folder = folder();
    let store = open(&folder, &[1]).unwrap();
    store.save(&key, &saved()).await.unwrap();
    drop(store);
    fs::write(file_of(&folder, &bad), "{}").unwrap();
    let before = fs::read(file_of(&folder, &key)).unwrap();
    open(&folder, &[2, 1]).unwrap_err();
    assert_eq!(fs::read(file_of(&folder, &key)).unwrap(), before);
}

#[test]
fn seal_errors_name_store_key_and_the_remedy() {
    let folder = folder();
    let _held = open(&folder, &[]).unwrap();
    let error = open(&folder, &[]).unwrap_err().to_string();
    assert!(error.starts_with("store.path: "), "{error}");
    let error = record::decode(&keys(&[1]), "x", br#"{"version":1,"key":"x","state":{}}"#);
    let error = error.unwrap_err();
    assert!(error.contains("remove store.key"), "{error}");
    assert!(error.contains("move the file away"), "{error}");
}

/// Each kind of damage fails the start with the path and leaves the file unchanged.
#[tokio::test]
async fn unreadable_record_fails_the_start_and_stays_unchanged() {
    let key = StateKey::new("identity");
    let other = StateKey::new("other");
    type Damage = fn(&Path, &Path);
    let cases: [(&[u8], &[u8], Damage, &str); 8] = [
        (&[1], &[2], |_, _| {}, "no key"),
        (&[1], &[], |_, _| {}, "store.key is not set"),
        (&[], &[1], |_, _| {}, "it is not sealed"),
        (&[], &[], |path, _| fs::write(path, "").unwrap(), "damaged"),
        (&[], &[], |path, _| truncate(path), "damaged"),
        (&[1], &[1], |path, _| truncate(path), "damaged"),
        (
            &[],
            &[],
            |path, _| fs::write(path, "{\"hunter2\":1}").unwrap(),
            "damaged",
        ),
        (
            &[1],
            &[1],
            |path, other| fs::rename(path, other).unwrap(),
            "its name was changed",
        ),
    ];
    for (sealed_with, opened_with, damage, expected) in cases {
        let folder = folder();
        let store = open(&folder, sealed_with).unwrap();
        store.save(&key, &saved()).await.unwrap();
        drop(store);
        let (path, renamed) = (file_of(&folder, &key), file_of(&folder, &other));
        damage(&path, &renamed);
        let path = if path.exists() { path } else { renamed };
        let before = fs::read(&path).unwrap();
        let error = open(&folder, opened_with).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[tokio::test]
async fn record_copied_to_another_identity_does_not_open() {
    let (key, other) = (StateKey::new("identity"), StateKey::new("other"));
    let folder = folder();
    let store = open(&folder, &[1]).unwrap();
    store.save(&key, &saved()).await.unwrap();
    drop(store);
    // Even with the name inside corrected, the associated data differs.
    let text = fs::read_to_string(file_of(&folder, &key)).unwrap();
    let forged = text.replace(key.as_str(), other.as_str());
    fs::write(file_of(&folder, &other), forged).unwrap();
    let error = open(&folder, &[1]).unwrap_err().to_string();
    assert!(error.contains("no key of store.key opens it"), "{error}");
}

#[tokio::test]
async fn interrupted_write_leaves_the_old_record_or_the_new_one() {
    let key = StateKey::new("identity");
    let newer = Saved {
        refresh_token: Some("newer".into()),
        ..saved()
    };
    let new_text = {
        let folder = folder();
        let store = open(&folder, &[1]).unwrap();
        store.save(&key, &newer).await.unwrap();
        fs::read(file_of(&folder, &key)).unwrap()
    };
    for written in [0, 1, new_text.len() / 2, new_text.len()] {
        for renamed in [false, true] {
            if renamed && written < new_text.len() {
                // The rename follows the sync, so that it never shows half a file.
                continue;
            }
            let folder = folder();
            let store = open(&folder, &[1]).unwrap();
            store.save(&key, &saved()).await.unwrap();
            drop(store);
            let path = file_of(&folder, &key);
            let temporary = path.with_extension("tmp");
            fs::write(&temporary, &new_text[..written]).unwrap();
            if renamed {
                fs::rename(&temporary, &path).unwrap();
            }
            let store = open(&folder, &[1]).unwrap();
            let expected = if renamed { newer.clone() } else { saved() };
            assert_eq!(store.load(&key).await.unwrap(), Some(expected));
            assert!(!temporary.exists());
            // The remains of the last write do not block the next one.
            store.save(&key, &newer).await.unwrap();
            assert_eq!(store.load(&key).await.unwrap(), Some(newer.clone()));
        }
    }
}

#[tokio::test]
async fn failed_write_keeps_the_old_record() {
    let key = StateKey::new("identity");
    let folder = folder();
    let store = open(&folder, &[]).unwrap();
    store.save(&key, &saved()).await.unwrap();
    // A folder in place of the temporary file: even root cannot write to that path.
    let temporary = file_of(&folder, &key).with_extension("tmp");
    fs::create_dir(&temporary).unwrap();
    let error = store.save(&key, &Saved::default()).await.unwrap_err();
    assert!(error.to_string().contains("cannot write"), "{error}");
    assert_eq!(store.load(&key).await.unwrap(), Some(saved()));
}

#[test]
fn debug_shows_no_secret() {
    let text = format!("{:?}", saved());
    assert!(text.contains("seed"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(format!("{:?}", keys(&[7])), "1 keys");
}

fn truncate(path: &Path) {
    let text = fs::read(path).unwrap();
    fs::write(path, &text[..text.len() - 10]).unwrap();
}

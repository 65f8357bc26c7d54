//! A look at a store from outside, for whoever must not disturb the daemon that has it open.
//!
//! # Invariants
//! - Nothing is written: not the lock, not RocksDB's own log.
//! - What is seen is as old as the last table or log record that RocksDB finds; a daemon may be ahead of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::db::{Database, META, TOUCHED};
use super::kinds::Kind;
use super::record::{Actor, Capture, Record};
use super::{Family, StoreError, format, hex, meta};
use crate::ids::CaptureId;

/// The newest version of the records of every family but `meta`.
const VERSIONED: u8 = 1;
/// How many records of a family are looked at.
const SAMPLE: usize = 1000;
/// How often, and how far apart, a database is opened whose owner changes it meanwhile.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Returns how many of the records that are read when the store in `dir` is opened cannot be read, or were moved aside: each
/// harms only who asks for it. There must be a store.
///
/// # Errors
/// [`StoreError::NewerFormat`] and [`StoreError::Corrupt`] if its format is not known, or the database cannot be read.
pub fn unreadable_records(dir: &Path) -> Result<u64, StoreError> {
    format::check_existing(dir)?;
    look_into(dir, |db| {
        let mut unreadable = 0;
        db.scan(META, &[], &[], |key, value| {
            let readable = Kind::of(key).is_none_or(|kind| kind.is_readable(value));
            unreadable += u64::from(!readable || key.first() == Some(&meta::ASIDE));
            Ok(true)
        })?;
        Ok(unreadable)
    })
}

/// Looks for records of a store that a newer durdir has written, and describes them. Of names, inodes, attributes and groups a
/// sample is looked at. What cannot be read at all is none of them.
///
/// # Errors
/// The database cannot be opened, or cannot be read.
pub fn unknown_records(dir: &Path) -> Result<Vec<String>, StoreError> {
    look_into(dir, |db| {
        let mut unknown = unknown_in_meta(db)?;
        for family in Family::ALL {
            unknown_in(db, family, &mut unknown)?;
        }
        Ok(unknown)
    })
}

/// Records of actors and captures, by what they are called.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ActorRecords {
    /// Those of actors.
    pub actors: Vec<(String, Actor)>,
    /// Those of captures.
    pub captures: Vec<(CaptureId, Capture)>,
}

/// Returns all actors and captures of the store in `dir` that can be read, beside whoever has it open.
///
/// # Errors
/// As [`unknown_records`].
pub fn actor_records(dir: &Path) -> Result<ActorRecords, StoreError> {
    look_into(dir, |db| {
        let mut records = ActorRecords::default();
        db.scan(META, &[meta::ACTOR], &[], |key, value| {
            records.actors.extend(meta::parse_actor(key).map(str::to_owned).zip(Actor::decode(value)));
            Ok(true)
        })?;
        db.scan(META, &[meta::CAPTURE], &[], |key, value| {
            records.captures.extend(meta::parse_capture(key).zip(Capture::decode(value)));
            Ok(true)
        })?;
        Ok(records)
    })
}

fn unknown_in_meta(db: &Database) -> Result<Vec<String>, StoreError> {
    let mut unknown = Vec::new();
    db.scan(META, &[], &[], |key, value| {
        if let Some(kind) = Kind::of(key)
            && let Some(versions) = kind.is_newer(value)
        {
            unknown.push(describe(kind.name, key, versions));
        }
        Ok(unknown.len() < SAMPLE)
    })?;
    Ok(unknown)
}

fn unknown_in(db: &Database, family: Family, unknown: &mut Vec<String>) -> Result<(), StoreError> {
    let mut looked = 0;
    db.scan(family.name(), &[], &[], |key, value| {
        if let Some(&found) = value.first().filter(|&&found| found > VERSIONED) {
            unknown.push(describe(family.name(), key, (found, VERSIONED)));
        }
        looked += 1;
        Ok(looked < SAMPLE)
    })
}

fn describe(name: &str, key: &[u8], (found, newest): (u8, u8)) -> String {
    format!("{name} record {} has version {found}, the newest that is known is {newest}", hex(key))
}

/// Opens the database beside its owner, and looks into it. Its owner may just be replacing the files that are looked for.
fn look_into<T>(dir: &Path, look: impl Fn(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
    let mut tries = TRIES;
    loop {
        match Database::open_read_only(&dir.join("db")).and_then(|db| look(&db)) {
            // Where it is a table that is gone, RocksDB calls that corruption.
            Err(StoreError::Database { source }) if source.as_ref().contains("No such file") && tries > 1 => {
                tries -= 1;
                std::thread::sleep(BETWEEN_TRIES);
            }
            looked => return looked,
        }
    }
}

/// How many records of a kind a store has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordCount {
    /// The family, and for records of the `meta` family their kind: `meta/volume`.
    pub kind: String,
    /// How many there are.
    pub records: u64,
    /// Whether that is the database's guess, which counts what was overwritten too.
    pub estimated: bool,
}

/// Counts the records of the store in `dir`, as [`peek`] sees them. There must be one.
///
/// # Errors
/// As [`peek`].
pub fn count_records(dir: &Path) -> Result<Vec<RecordCount>, StoreError> {
    format::check_existing(dir)?;
    look_into(dir, |db| {
        let mut counts = Vec::new();
        for family in Family::ALL.into_iter().map(Family::name).chain([TOUCHED]) {
            let records = db.estimated_records(family)?;
            counts.push(RecordCount { kind: family.to_owned(), records, estimated: true });
        }
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        db.scan(META, &[], &[], |key, _| {
            let kind = match Kind::of(key) {
                Some(kind) => kind.name.to_owned(),
                None => format!("{:#04x}", key.first().copied().unwrap_or(0)),
            };
            *kinds.entry(kind).or_default() += 1;
            Ok(true)
        })?;
        counts.extend(kinds.into_iter().map(|(kind, records)| RecordCount {
            kind: format!("{META}/{kind}"),
            records,
            estimated: false,
        }));
        Ok(counts)
    })
}

#[cfg(test)]
mod tests {
    use rocksdb::WriteBatch;

    use super::*;
    use crate::ids::RequestId;
    use crate::store::{Receipt, Store, StoreOptions, VolumeSpec};

    #[test]
    fn an_open_store_is_seen_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(dir.path(), &options).unwrap();
        store.create_volume("a", &VolumeSpec::default(), Receipt::none()).unwrap();
        let mut batch = WriteBatch::default();
        batch.put_cf(store.db.family(META), meta::reply(RequestId([1; 16])), [9]);
        store.db.write(batch).unwrap();
        let files = || {
            let files = std::fs::read_dir(dir.path().join("db")).unwrap();
            let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = files();
        assert_eq!(unreadable_records(dir.path()).unwrap(), 1);
        // Its owner may still be removing what it needs no more.
        assert!(files().iter().all(|name| before.contains(name)), "{before:?} and {:?}", files());
        // Its owner goes on.
        store.create_volume("b", &VolumeSpec::default(), Receipt::none()).unwrap();
        assert_eq!(unreadable_records(dir.path()).unwrap(), 1);
    }

    #[test]
    fn records_are_counted_by_kind() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(dir.path(), &options).unwrap();
        for name in ["a", "b", "c"] {
            store.create_volume(name, &VolumeSpec::default(), Receipt::none()).unwrap();
        }
        store.snapshot(&["a"], None, Receipt::none()).unwrap();
        let counts = count_records(dir.path()).unwrap();
        let of = |kind: &str| counts.iter().find(|count| count.kind == kind).cloned().unwrap();
        let exactly = |kind: &str, records| RecordCount { kind: kind.to_owned(), records, estimated: false };
        assert_eq!(of("meta/volume"), exactly("meta/volume", 3));
        assert_eq!(of("meta/snapshot"), exactly("meta/snapshot", 1));
        // The roots.
        assert_eq!(of("inode"), RecordCount { kind: "inode".to_owned(), records: 3, estimated: true });
        assert!(count_records(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn a_record_of_a_newer_version_is_told_from_one_that_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(dir.path(), &options).unwrap();
        store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
        assert_eq!(unknown_records(dir.path()).unwrap(), [] as [String; 0]);
        let put = |family: &str, key: &[u8], value: &[u8]| {
            let mut batch = WriteBatch::default();
            batch.put_cf(store.db.family(family), key, value);
            store.db.write(batch).unwrap();
        };
        put(META, &[meta::VOLUME, 0, 0, 0, 8], &[1, 7]);
        assert_eq!(unknown_records(dir.path()).unwrap(), [] as [String; 0]);
        put(META, &[meta::VOLUME, 0, 0, 0, 9], &[2, 7]);
        put(Family::Dentry.name(), b"key", &[3]);
        let unknown = unknown_records(dir.path()).unwrap();
        assert_eq!(unknown.len(), 2, "{unknown:?}");
        assert!(unknown[0].contains("volume") && unknown[0].contains("version 2"), "{unknown:?}");
        assert!(unknown[1].contains("dentry") && unknown[1].contains("version 3"), "{unknown:?}");
    }

    #[test]
    fn there_is_no_store_where_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unreadable_records(dir.path()).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

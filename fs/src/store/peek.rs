//! A look at a store from outside, for whoever must not disturb the daemon that has it open.
//!
//! # Invariants
//! - Nothing is written: not the lock, not RocksDB's own log.
//! - What is seen is as old as the last table or log record that RocksDB finds; a daemon may be ahead of it.

use std::collections::BTreeMap;
use std::path::Path;

use super::db::{Database, META, TOUCHED};
use super::record::{Record, Reply, Volume};
use super::{Family, StoreError, format, meta};

/// What a store holds, as far as that can be told from outside.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StorePeek {
    /// Names of the volumes.
    pub volumes: Vec<String>,
    /// Records that cannot be read and are passed over: each harms only who asks for it.
    pub quarantined: u64,
}

/// Looks into the store in `dir`. There must be one.
///
/// # Errors
/// [`StoreError::NewerFormat`] and [`StoreError::Corrupt`] if its format is not known, or the database cannot be read.
pub fn peek(dir: &Path) -> Result<StorePeek, StoreError> {
    format::check_existing(dir)?;
    let db = Database::open_read_only(&dir.join("db"))?;
    let mut seen = StorePeek::default();
    db.scan(META, &[meta::VOLUME], &[], |_, value| {
        match Volume::decode(value) {
            Some(volume) => seen.volumes.push(volume.name),
            None => seen.quarantined += 1,
        }
        Ok(true)
    })?;
    db.scan(META, &[meta::REPLY], &[], |_, value| {
        seen.quarantined += u64::from(Reply::decode(value).is_none());
        Ok(true)
    })?;
    seen.volumes.sort();
    Ok(seen)
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
    let db = Database::open_read_only(&dir.join("db"))?;
    let mut counts = Vec::new();
    for family in Family::ALL.into_iter().map(Family::name).chain([TOUCHED]) {
        let records = db.estimated_records(family)?;
        counts.push(RecordCount { kind: family.to_owned(), records, estimated: true });
    }
    let mut kinds: BTreeMap<u8, u64> = BTreeMap::new();
    db.scan(META, &[], &[], |key, _| {
        *kinds.entry(key.first().copied().unwrap_or(0)).or_default() += 1;
        Ok(true)
    })?;
    counts.extend(kinds.into_iter().map(|(kind, records)| RecordCount {
        kind: format!("{META}/{}", meta::kind_name(kind)),
        records,
        estimated: false,
    }));
    Ok(counts)
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
        for name in ["b", "a"] {
            store.create_volume(name, &VolumeSpec::default(), Receipt::none()).unwrap();
        }
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
        let seen = peek(dir.path()).unwrap();
        assert_eq!((seen.volumes, seen.quarantined), (vec!["a".to_owned(), "b".to_owned()], 1));
        assert_eq!(files(), before);
        // Its owner goes on.
        store.create_volume("c", &VolumeSpec::default(), Receipt::none()).unwrap();
        assert_eq!(peek(dir.path()).unwrap().volumes.len(), 3);
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
    fn there_is_no_store_where_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(peek(dir.path()).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

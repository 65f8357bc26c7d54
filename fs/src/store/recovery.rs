//! Whether a store that stopped after a failed write could go on, if it were opened anew.
//!
//! # Invariants
//! - The store itself stays as it is: what its disk holds is not known until its log is read again.
//!
//! # Crash consistency
//! The file that is tried with may be left behind. It means nothing, and the next trial writes over it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::{Store, StoreError};
use crate::error::FsError;
use crate::failpoint;

/// Beside the segments, whose names end otherwise.
const TRIAL: &str = "trial";
/// More than RocksDB writes at once, and a part of it reaches the disk's own cache.
const TRIAL_BYTES: usize = 1 << 20;
/// A worker that opens a store opens a few files at once.
const TRIAL_FILES: usize = 16;

impl Store {
    /// Returns the failed write or sync after which the store writes nothing any more, if there was one.
    pub fn stopped(&self) -> Option<String> {
        self.db.poisoned().map(str::to_owned)
    }

    /// Tries what the store needs of its host: descriptors, room, and writes that reach the disk. Syncs a file.
    pub fn try_host(&self) -> Result<(), FsError> {
        let path = self.dir.join("segments").join(TRIAL);
        let refused = |source| StoreError::Io { action: "try to write", path: path.clone(), source };
        try_files(&path).map_err(refused)?;
        let (_, available) = self.space.available()?;
        if available < TRIAL_BYTES as u64 {
            return Err(FsError::NoSpace);
        }
        Ok(())
    }
}

fn try_files(path: &Path) -> io::Result<()> {
    failpoint::fail("trial.write")?;
    let mut file = File::create(path)?;
    let _opened = (0..TRIAL_FILES).map(|_| file.try_clone()).collect::<io::Result<Vec<File>>>()?;
    file.write_all(&vec![0; TRIAL_BYTES])?;
    file.sync_all()?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Receipt, StoreOptions, VolumeSpec};

    #[test]
    fn a_store_that_stopped_says_why_and_tries_its_host_without_going_on() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(dir.path(), &options).unwrap();
        assert_eq!(store.stopped(), None);
        store.db.poison(StoreError::Corrupt { what: "on purpose".into() });
        assert_eq!(store.stopped().as_deref(), Some("corrupt on purpose"));
        store.try_host().unwrap();
        let segments = std::fs::read_dir(dir.path().join("segments")).unwrap();
        assert_eq!(segments.count(), 0, "the trial leaves nothing");
        assert!(store.create_volume("v", &VolumeSpec::default(), Receipt::none()).is_err());
        // What only looks like a trial that was left behind is not taken for a segment.
        std::fs::write(dir.path().join("segments").join(TRIAL), "x").unwrap();
        drop(store);
        let store = Store::open(dir.path(), &options).unwrap();
        store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
    }
}

//! Flags on volumes: something happened that a person should know of when they look at the volume.

use rocksdb::WriteBatch;

use super::record::{Flag, Record};
use super::{META, Store, meta};
use crate::attr::Timestamp;
use crate::error::FsError;
use crate::ids::VolumeId;

impl Store {
    /// Flags a volume. Of several events the last one is told, and how many there were. Durable on return.
    pub fn flag_volume(&self, volume: VolumeId, what: &str) -> Result<(), FsError> {
        let before = self.volume_flag(volume)?.map_or(0, |flag| flag.count);
        // A record holds strings of up to 64 KiB; a description is far shorter, unless a name in it is odd.
        let what = what.chars().take(4096).collect();
        let flag = Flag { since: Timestamp::now(), count: before.saturating_add(1), what };
        let mut batch = WriteBatch::default();
        batch.put_cf(self.db.family(META), meta::flag(volume), flag.encode());
        self.db.write(batch)?;
        Ok(self.db.sync_log()?)
    }

    /// Returns the flag of a volume.
    pub fn volume_flag(&self, volume: VolumeId) -> Result<Option<Flag>, FsError> {
        match self.db.get_meta(&meta::flag(volume))? {
            None => Ok(None),
            // One that cannot be read is moved aside at the next opening; that there is one says enough.
            Some(bytes) => Ok(Some(Flag::decode(&bytes).unwrap_or_else(|| Flag {
                since: Timestamp::default(),
                count: 1,
                what: "something that cannot be read".to_owned(),
            }))),
        }
    }

    /// Takes the flag of a volume away. Durable on return.
    pub fn unflag_volume(&self, volume: VolumeId) -> Result<(), FsError> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.db.family(META), meta::flag(volume));
        self.db.write(batch)?;
        Ok(self.db.sync_log()?)
    }
}

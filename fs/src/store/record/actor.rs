//! What is kept of actors and of their captures: what the store itself must know of them, and the control plane's own document.

use super::Record;
use super::codec::{Reader, Writer};
use crate::attr::Timestamp;
use crate::ids::{Epoch, VolumeId};

/// The newest version.
pub type Actor = ActorV1;
/// The newest version.
pub type Capture = CaptureV1;

/// An actor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActorV1 {
    /// When it was made.
    pub created: Timestamp,
    /// The volumes that are its own.
    pub volumes: Vec<VolumeId>,
    /// Everything else: the bytes of the control plane, which the store does not look into.
    pub document: Vec<u8>,
}

/// What a capture holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaptureV1 {
    /// When it was made.
    pub created: Timestamp,
    /// The end of an epoch of each volume.
    pub snapshots: Vec<CapturedV1>,
    /// Everything else: the bytes of the control plane, which the store does not look into.
    pub document: Vec<u8>,
}

/// One volume in a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CapturedV1 {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch that ended.
    pub epoch: Epoch,
    /// Whether the snapshot was made for captures, and goes with the last one that needs it.
    pub owned: bool,
}

impl Record for ActorV1 {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::version(1);
        writer.time(self.created).u16(count(self.volumes.len()));
        for volume in &self.volumes {
            writer.u32(volume.0);
        }
        writer.rest(&self.document).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let created = reader.time()?;
        let volumes = (0..reader.u16()?).map(|_| reader.u32().map(VolumeId)).collect::<Option<_>>()?;
        Some(ActorV1 { created, volumes, document: reader.rest().to_vec() })
    }
}

impl Record for CaptureV1 {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::version(1);
        writer.time(self.created).u16(count(self.snapshots.len()));
        for snapshot in &self.snapshots {
            writer.u32(snapshot.volume.0).u64(snapshot.epoch.0).u8(u8::from(snapshot.owned));
        }
        writer.rest(&self.document).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let created = reader.time()?;
        let mut snapshots = Vec::new();
        for _ in 0..reader.u16()? {
            let (volume, epoch) = (VolumeId(reader.u32()?), Epoch(reader.u64()?));
            let owned = match reader.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            };
            snapshots.push(CapturedV1 { volume, epoch, owned });
        }
        Some(CaptureV1 { created, snapshots, document: reader.rest().to_vec() })
    }
}

fn count(length: usize) -> u16 {
    u16::try_from(length).expect("a template has at most 32 volumes")
}

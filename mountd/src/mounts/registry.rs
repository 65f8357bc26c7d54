//! The list of mounts, and what may stand beside what.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use durdir_fs::drain::DrainedMount;
use durdir_fs::fuse::{CacheMode, OldestRequest, OpSummary};
use durdir_fs::ids::{Epoch, VolumeId};

use super::live::LiveMount;
use crate::api::ApiError;

/// What is mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// The writable head of a volume.
    Head,
    /// The snapshot at the end of an epoch.
    Snapshot(Epoch),
}

/// A mount, for people and for the API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MountView {
    pub(crate) volume: String,
    pub(crate) volume_id: VolumeId,
    pub(crate) source: Source,
    pub(crate) mountpoint: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) cache: CacheMode,
    pub(crate) transport: &'static str,
}

impl MountView {
    /// Returns `VOLUME@EPOCH` where a snapshot is mounted.
    pub(crate) fn snapshot(&self) -> Option<String> {
        match self.source {
            Source::Head => None,
            Source::Snapshot(epoch) => Some(format!("{}@{}", self.volume, epoch.0)),
        }
    }

    /// Returns what is mounted: `volume web` or `snapshot web@3`.
    pub(crate) fn name(&self) -> String {
        match self.snapshot() {
            None => format!("volume {}", self.volume),
            Some(snapshot) => format!("snapshot {snapshot}"),
        }
    }
}

/// Names one entry of the list for as long as it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot(u64);

enum Phase {
    /// Being mounted by a call.
    Mounting,
    Mounted(Arc<dyn LiveMount>),
    /// Being unmounted by a call.
    Unmounting(Arc<dyn LiveMount>),
}

impl Phase {
    fn live(&self) -> Option<&Arc<dyn LiveMount>> {
        match self {
            Phase::Mounting => None,
            Phase::Mounted(live) | Phase::Unmounting(live) => Some(live),
        }
    }
}

struct Record {
    slot: Slot,
    view: MountView,
    phase: Phase,
}

/// What is mounted, and what is just being mounted or unmounted.
#[derive(Default)]
pub(super) struct Registry {
    records: Vec<Record>,
    last: u64,
    closed: bool,
    /// What mounts that are gone had answered from the store.
    replayed_by_gone: u64,
}

impl Registry {
    /// Reserves a place for a mount that is about to be made.
    pub(super) fn reserve(&mut self, view: MountView) -> Result<Slot, ApiError> {
        for other in &self.records {
            let place = &other.view.mountpoint;
            if place.starts_with(&view.mountpoint) && *place != view.mountpoint {
                return Err(ApiError::Hides {
                    mountpoint: view.mountpoint,
                    what: other.view.name(),
                    inner: place.clone(),
                });
            }
            // It may hide this one as soon as it is there.
            if matches!(other.phase, Phase::Mounting) && view.mountpoint.starts_with(place) {
                return Err(in_transition(&other.view));
            }
        }
        self.reserve_again(view)
    }

    /// Reserves a place for a mount that is there already.
    pub(super) fn reserve_again(&mut self, view: MountView) -> Result<Slot, ApiError> {
        if self.closed {
            return Err(ApiError::ShuttingDown);
        }
        for record in &self.records {
            let other = &record.view;
            if other.mountpoint == view.mountpoint {
                return Err(match record.phase {
                    Phase::Mounting | Phase::Unmounting(_) => in_transition(other),
                    Phase::Mounted(_) => {
                        ApiError::MountpointTaken { mountpoint: other.mountpoint.clone(), what: other.name() }
                    }
                });
            }
            let same_head = other.volume_id == view.volume_id
                && other.source == Source::Head
                && view.source == Source::Head;
            if same_head {
                return Err(ApiError::HeadMounted {
                    volume: other.volume.clone(),
                    mountpoint: other.mountpoint.clone(),
                });
            }
        }
        self.last += 1;
        let slot = Slot(self.last);
        self.records.push(Record { slot, view, phase: Phase::Mounting });
        Ok(slot)
    }

    /// Notes that the mount of a slot is up, and returns how it is shown.
    pub(super) fn up(&mut self, slot: Slot, live: Arc<dyn LiveMount>) -> Option<MountView> {
        let record = self.records.iter_mut().find(|record| record.slot == slot)?;
        record.view.mountpoint = live.mountpoint().to_owned();
        record.view.transport = live.transport();
        record.phase = Phase::Mounted(live);
        Some(record.view.clone())
    }

    /// Forgets a mount, and hands it out if it was up: what its end takes is not for whoever has the list.
    pub(super) fn forget(&mut self, slot: Slot) -> Option<Arc<dyn LiveMount>> {
        let place = self.records.iter().position(|record| record.slot == slot)?;
        let live = Arc::clone(self.records.remove(place).phase.live()?);
        self.replayed_by_gone += live.replayed();
        Some(live)
    }

    /// Tells whether a successor would go on with every mount.
    pub(super) fn all_kept(&self) -> bool {
        self.records.iter().all(|record| record.phase.live().is_none_or(|live| live.is_kept()))
    }

    /// Hands out a mount to be unmounted. It comes back by [`up`](Self::up) or goes by [`forget`](Self::forget).
    pub(super) fn begin_unmount(&mut self, slot: Slot) -> Result<Arc<dyn LiveMount>, ApiError> {
        let record = self.records.iter_mut().find(|record| record.slot == slot);
        let Some(record) = record else {
            return Err(ApiError::NotMounted { target: "it was".to_owned() });
        };
        let Phase::Mounted(live) = &record.phase else {
            return Err(in_transition(&record.view));
        };
        let live = Arc::clone(live);
        record.phase = Phase::Unmounting(Arc::clone(&live));
        Ok(live)
    }

    /// Returns the slots and views of all mounts for which `wanted` holds.
    pub(super) fn select(&self, wanted: impl Fn(&MountView) -> bool) -> Vec<(Slot, MountView)> {
        let records = self.records.iter().filter(|record| wanted(&record.view));
        records.map(|record| (record.slot, record.view.clone())).collect()
    }

    /// Returns what is mounted at a place.
    pub(super) fn mounted_at(&self, mountpoint: &Path) -> Option<&MountView> {
        let mut mounted = self.records.iter().filter(|record| matches!(record.phase, Phase::Mounted(_)));
        mounted.find(|record| record.view.mountpoint == mountpoint).map(|record| &record.view)
    }

    /// Removes and returns mounts that are no longer served.
    pub(super) fn take_dead(&mut self) -> Vec<(MountView, Arc<dyn LiveMount>)> {
        let mut dead = Vec::new();
        self.records.retain_mut(|record| match &record.phase {
            Phase::Mounted(live) if !live.is_alive() => {
                dead.push((record.view.clone(), Arc::clone(live)));
                false
            }
            _ => true,
        });
        self.replayed_by_gone += dead.iter().map(|(_, live)| live.replayed()).sum::<u64>();
        dead
    }

    /// Returns the mount that `path` lies in or is.
    pub(super) fn holding(&self, path: &Path) -> Option<&MountView> {
        self.records.iter().map(|record| &record.view).find(|view| path.starts_with(&view.mountpoint))
    }

    /// Returns the mounted heads of `volumes`: snapshots cannot be dirty.
    pub(super) fn heads_to_drain(&self, volumes: &[VolumeId]) -> Vec<DrainedMount> {
        let heads = self
            .records
            .iter()
            .filter(|record| record.view.source == Source::Head && volumes.contains(&record.view.volume_id));
        heads
            // Nobody has a file of one open that is still being made; one that is being unmounted may be in use in another place.
            .filter_map(|record| {
                Some(DrainedMount { device: record.phase.live()?.device(), cache: record.view.cache })
            })
            .collect()
    }

    /// Returns the oldest request of each mount that works on one.
    pub(super) fn oldest_requests(&self) -> Vec<(MountView, OldestRequest)> {
        let working = self.records.iter().filter_map(|record| match &record.phase {
            Phase::Mounted(live) => Some((record.view.clone(), live.oldest_request()?)),
            Phase::Mounting | Phase::Unmounting(_) => None,
        });
        working.collect()
    }

    /// Returns what the operations of each mount have cost.
    pub(super) fn stats(&self) -> Vec<(MountView, Vec<OpSummary>)> {
        let mounted = self.records.iter().filter_map(|record| match &record.phase {
            Phase::Mounted(live) => Some((record.view.clone(), live.stats())),
            Phase::Mounting | Phase::Unmounting(_) => None,
        });
        mounted.collect()
    }

    /// Returns how many requests were answered from the store, of all mounts that are or were served.
    pub(super) fn replayed(&self) -> u64 {
        let served = self.records.iter().filter_map(|record| record.phase.live());
        self.replayed_by_gone + served.map(|live| live.replayed()).sum::<u64>()
    }

    /// Shows a volume under its new name.
    pub(super) fn renamed(&mut self, volume: VolumeId, name: &str) {
        for record in &mut self.records {
            if record.view.volume_id == volume {
                record.view.volume = name.to_owned();
            }
        }
    }

    /// Refuses every reservation from now on.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

fn in_transition(view: &MountView) -> ApiError {
    ApiError::MountInTransition { what: view.name(), mountpoint: view.mountpoint.clone() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use durdir_fs::fuse::{DeviceId, MountError};

    use super::*;

    struct Fake {
        mountpoint: PathBuf,
        alive: AtomicBool,
        kept: bool,
    }

    impl LiveMount for Fake {
        fn is_alive(&self) -> bool {
            self.alive.load(Ordering::Relaxed)
        }
        fn is_kept(&self) -> bool {
            self.kept
        }
        fn unmount(&self) -> Result<(), MountError> {
            Ok(())
        }
        fn abort(&self) -> Result<(), MountError> {
            Ok(())
        }
        fn end_by(&self, _: std::time::Instant) -> bool {
            true
        }
        fn device(&self) -> DeviceId {
            DeviceId { major: 0, minor: 7 }
        }
        fn transport(&self) -> &'static str {
            "fake"
        }
        fn stats(&self) -> Vec<OpSummary> {
            Vec::new()
        }
        fn replayed(&self) -> u64 {
            3
        }
        fn oldest_request(&self) -> Option<OldestRequest> {
            None
        }
        fn mountpoint(&self) -> &Path {
            &self.mountpoint
        }
    }

    fn fake(mountpoint: &str) -> Arc<Fake> {
        Arc::new(Fake {
            mountpoint: mountpoint.into(),
            alive: AtomicBool::new(true),
            kept: mountpoint != "/unkept",
        })
    }

    fn view(volume: u32, source: Source, mountpoint: &str) -> MountView {
        MountView {
            volume: format!("v{volume}"),
            volume_id: VolumeId(volume),
            source,
            mountpoint: mountpoint.into(),
            read_only: false,
            cache: CacheMode::WriteThrough,
            transport: "",
        }
    }

    #[test]
    fn a_head_is_mounted_once_and_a_snapshot_as_often_as_you_like() {
        let mut registry = Registry::default();
        registry.reserve(view(1, Source::Head, "/a")).unwrap();
        let refused = registry.reserve(view(1, Source::Head, "/b")).unwrap_err();
        assert!(matches!(refused, ApiError::HeadMounted { .. }), "{refused}");
        registry.reserve(view(1, Source::Snapshot(Epoch(1)), "/c")).unwrap();
        registry.reserve(view(1, Source::Snapshot(Epoch(1)), "/d")).unwrap();
        registry.reserve(view(2, Source::Head, "/e")).unwrap();
    }

    #[test]
    fn a_place_is_used_once() {
        let mut registry = Registry::default();
        let slot = registry.reserve(view(1, Source::Head, "/a")).unwrap();
        let refused = registry.reserve(view(2, Source::Head, "/a")).unwrap_err();
        assert!(matches!(refused, ApiError::MountInTransition { .. }), "{refused}");
        registry.up(slot, fake("/a"));
        let refused = registry.reserve(view(2, Source::Head, "/a")).unwrap_err();
        assert_eq!(refused.to_string(), "/a is the mount point of volume v1; `durdir umount` it first");
        registry.forget(slot);
        registry.reserve(view(2, Source::Head, "/a")).unwrap();
    }

    #[test]
    fn two_calls_do_not_unmount_the_same_mount() {
        let mut registry = Registry::default();
        let slot = registry.reserve(view(1, Source::Head, "/a")).unwrap();
        registry.up(slot, fake("/a"));
        let live = registry.begin_unmount(slot).unwrap_or_else(|error| panic!("{error}"));
        assert!(registry.begin_unmount(slot).is_err());
        registry.up(slot, live);
        assert!(registry.begin_unmount(slot).is_ok());
    }

    #[test]
    fn one_mount_that_nobody_keeps_is_found() {
        let mut registry = Registry::default();
        for (volume, place) in [(1, "/a"), (2, "/unkept")] {
            assert!(registry.all_kept());
            let slot = registry.reserve(view(volume, Source::Head, place)).unwrap();
            assert!(registry.all_kept(), "there is none yet");
            registry.up(slot, fake(place));
        }
        assert!(!registry.all_kept());
    }

    #[test]
    fn what_was_replayed_stays_counted_when_the_mount_is_gone() {
        let mut registry = Registry::default();
        let ended = fake("/a");
        let first = registry.reserve(view(1, Source::Head, "/a")).unwrap();
        let second = registry.reserve(view(2, Source::Head, "/b")).unwrap();
        registry.up(first, Arc::clone(&ended) as Arc<dyn LiveMount>);
        registry.up(second, fake("/b"));
        assert_eq!(registry.replayed(), 6);
        registry.begin_unmount(second).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(registry.replayed(), 6, "while it is unmounted");
        let gone = registry.forget(second).unwrap();
        assert_eq!((registry.replayed(), Arc::strong_count(&gone)), (6, 1), "when it was unmounted");
        ended.alive.store(false, Ordering::Relaxed);
        registry.take_dead();
        assert_eq!(registry.replayed(), 6, "when it died");
    }

    #[test]
    fn mounts_that_others_ended_are_found() {
        let mut registry = Registry::default();
        let ended = fake("/a");
        let slot = registry.reserve(view(1, Source::Head, "/a")).unwrap();
        registry.up(slot, Arc::clone(&ended) as Arc<dyn LiveMount>);
        registry.reserve(view(2, Source::Head, "/b")).unwrap();
        assert!(registry.take_dead().is_empty());
        ended.alive.store(false, Ordering::Relaxed);
        assert_eq!(registry.take_dead().len(), 1);
        assert!(!registry.is_empty());
    }

    #[test]
    fn only_mounted_heads_are_drained() {
        let mut registry = Registry::default();
        let head = registry.reserve(view(1, Source::Head, "/a")).unwrap();
        let snapshot = registry.reserve(view(1, Source::Snapshot(Epoch(1)), "/b")).unwrap();
        registry.up(snapshot, fake("/b"));
        assert!(registry.heads_to_drain(&[VolumeId(1)]).is_empty());
        registry.up(head, fake("/a"));
        assert_eq!(registry.heads_to_drain(&[VolumeId(1), VolumeId(2)]).len(), 1);
        assert!(registry.heads_to_drain(&[VolumeId(2)]).is_empty());
    }

    #[test]
    fn a_path_inside_a_mount_is_told_from_one_beside_it() {
        let mut registry = Registry::default();
        registry.reserve(view(1, Source::Head, "/mnt/a")).unwrap();
        assert!(registry.holding(Path::new("/mnt/a")).is_some());
        assert!(registry.holding(Path::new("/mnt/a/b/c")).is_some());
        assert!(registry.holding(Path::new("/mnt/ab")).is_none());
        assert!(registry.holding(Path::new("/mnt")).is_none());
    }

    #[test]
    fn a_renamed_volume_is_shown_under_its_new_name() {
        let mut registry = Registry::default();
        registry.reserve(view(1, Source::Snapshot(Epoch(4)), "/a")).unwrap();
        registry.renamed(VolumeId(1), "new");
        let (_, view) = registry.select(|_| true).remove(0);
        assert_eq!(view.name(), "snapshot new@4");
    }

    #[test]
    fn nothing_is_mounted_after_the_end_began() {
        let mut registry = Registry::default();
        registry.close();
        let refused = registry.reserve(view(1, Source::Head, "/a")).unwrap_err();
        assert!(matches!(refused, ApiError::ShuttingDown));
    }
}

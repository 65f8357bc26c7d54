//! Mounting and unmounting, recorded in the registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use durdir_fs::FsError;
use durdir_fs::fuse::{self, MountError, MountOptions, OldestRequest, OpSummary, Succession};
use durdir_fs::ids::{BranchId, Epoch, VolumeId};
use durdir_fs::ops::VolumeFs;
use durdir_fs::store::{SnapshotInfo, Store};
use parking_lot::{Mutex, MutexGuard};

use super::plan::MountPlan;
use super::registry::{MountView, Registry, Slot, Source};
use super::session::{Description, Keep, KeptMount, Session, with_succession};
use super::watch::Watch;
use crate::api::ApiError;
use crate::proto;
use crate::socket;

/// The mounts of this node.
#[derive(Default)]
pub(crate) struct Mounts {
    registry: Mutex<Registry>,
    grace: Mutex<Duration>,
    /// Who keeps them alive over the death of this process, if anybody does.
    keeper: Option<Arc<dyn Keep>>,
    pub(super) watch: Mutex<Watch>,
}

/// Names mounts to be unmounted.
pub(crate) enum Selector {
    /// The one at a place.
    At(PathBuf),
    /// All of a volume, of its head and of its snapshots.
    Volume(VolumeId),
    /// All of a snapshot.
    Snapshot(VolumeId, Epoch),
}

impl Selector {
    fn matches(&self, view: &MountView) -> bool {
        match self {
            Selector::At(mountpoint) => view.mountpoint == *mountpoint,
            Selector::Volume(volume) => view.volume_id == *volume,
            Selector::Snapshot(volume, epoch) => {
                view.volume_id == *volume && view.source == Source::Snapshot(*epoch)
            }
        }
    }
}

impl Mounts {
    /// Returns none yet. Those that are made are kept with `keeper`.
    pub(crate) fn kept_with(keeper: Option<Arc<dyn Keep>>) -> Mounts {
        Mounts { keeper, ..Mounts::default() }
    }

    pub(super) fn keeper(&self) -> Option<&Arc<dyn Keep>> {
        self.keeper.as_ref()
    }

    /// Returns how many requests were answered from the store that a predecessor had executed.
    pub(crate) fn replayed(&self) -> u64 {
        self.registry().replayed()
    }

    /// Checks a request to mount something outside of the directory `store`.
    pub(crate) fn plan(&self, options: proto::MountOptions, store: &Path) -> Result<MountPlan, ApiError> {
        let plan = MountPlan::from_request(options, nix::unistd::geteuid().is_root())?;
        // What is wrong with a place that cannot be found is told by who mounts there.
        let Ok(mountpoint) = fuse::resolve(&plan.mountpoint) else { return Ok(plan) };
        let store = store.canonicalize().unwrap_or_else(|_| store.to_owned());
        if mountpoint.starts_with(&store) || store.starts_with(&mountpoint) {
            return Err(ApiError::PlaceOfStore { mountpoint, store });
        }
        Ok(MountPlan { mountpoint, ..plan })
    }

    /// Without root's rights a lower is seen with what is mounted in it.
    fn check_apart(&self, store: &Store, view: &MountView) -> Result<(), ApiError> {
        let meets = |lower: &Path, mountpoint: &Path| mountpoint.starts_with(lower) && mountpoint != lower;
        let mounted = self.all();
        let volumes = store.volumes_at_once()?;
        // One that is removed meanwhile is in nobody's way.
        let lowers_of = |view: &MountView| volumes.iter().find(|volume| volume.id == view.volume_id);
        let Some(own) = lowers_of(view) else { return Ok(()) };
        let met_by_own = own.lowers.iter().find_map(|lower| {
            let mut places = mounted.iter().chain([view]).map(|view| &view.mountpoint);
            places.find(|place| meets(lower, place)).map(|place| (place, lower, &own.name))
        });
        if let Some((mountpoint, lower, volume)) = met_by_own {
            let (mountpoint, lower, volume) = (mountpoint.clone(), lower.clone(), volume.clone());
            return Err(ApiError::MountedInLower { mountpoint, lower, volume });
        }
        for other in mounted.iter().filter_map(lowers_of) {
            if let Some(lower) = other.lowers.iter().find(|lower| meets(lower, &view.mountpoint)) {
                let (mountpoint, lower, volume) =
                    (view.mountpoint.clone(), lower.clone(), other.name.clone());
                return Err(ApiError::MountedInLower { mountpoint, lower, volume });
            }
        }
        Ok(())
    }

    /// Refuses files and directories that the daemon could reach only through one of its own mounts: it would wait for
    /// itself.
    pub(crate) fn check_outside(&self, paths: &[PathBuf]) -> Result<(), ApiError> {
        for path in paths {
            if let Some(outer) = self.registry().holding(path) {
                return Err(ApiError::InsideOwnMount {
                    path: path.clone(),
                    outer: outer.name(),
                    mountpoint: outer.mountpoint.clone(),
                });
            }
        }
        Ok(())
    }

    /// Mounts the head of a volume.
    pub(crate) fn mount_head(
        &self,
        store: &Arc<Store>,
        volume: &str,
        plan: MountPlan,
    ) -> Result<MountView, ApiError> {
        let info = store.volume(volume)?;
        let view = view_of(&info.name, info.id, Source::Head, plan.read_only, &plan);
        self.mount(store, view, &plan, || store.open_head(&info.name))
    }

    /// As [`Mounts::mount_head`], with what programs had open without a name: see [`Store::open_head_with_orphans`].
    pub(crate) fn mount_head_with_orphans(
        &self,
        store: &Arc<Store>,
        volume: &str,
        plan: MountPlan,
    ) -> Result<MountView, ApiError> {
        let info = store.volume(volume)?;
        let view = view_of(&info.name, info.id, Source::Head, plan.read_only, &plan);
        self.mount(store, view, &plan, || store.open_head_with_orphans(&info.name))
    }

    /// Mounts a snapshot, read-only.
    pub(crate) fn mount_snapshot(
        &self,
        store: &Arc<Store>,
        volume: VolumeId,
        snapshot: &SnapshotInfo,
        plan: MountPlan,
    ) -> Result<MountView, ApiError> {
        let plan = MountPlan { read_only: true, ..plan };
        let source = Source::Snapshot(snapshot.epoch);
        let view = view_of(&snapshot.volume, volume, source, true, &plan);
        self.mount(store, view, &plan, || store.open_snapshot(&snapshot.snapshot))
    }

    fn mount(
        &self,
        store: &Arc<Store>,
        view: MountView,
        plan: &MountPlan,
        open: impl FnOnce() -> Result<Arc<VolumeFs>, FsError>,
    ) -> Result<MountView, ApiError> {
        if !nix::unistd::geteuid().is_root() {
            self.check_apart(store, &view)?;
        }
        let options = mount_options(store, &view, plan)?;
        let description = Description::of(&view, plan);
        let slot = self.registry().reserve(view)?;
        let mounted =
            open().map_err(ApiError::from).and_then(|fs| self.make(store, fs, &options, &description));
        let mut registry = self.registry();
        match mounted {
            Ok(mount) => {
                let view = registry.up(slot, Arc::new(mount));
                let view = view.ok_or(ApiError::Panicked { call: "mount" })?;
                Ok(view)
            }
            Err(error) => {
                registry.forget(slot);
                Err(error)
            }
        }
    }

    fn make(
        &self,
        store: &Arc<Store>,
        fs: Arc<VolumeFs>,
        options: &MountOptions,
        description: &Description,
    ) -> Result<KeptMount, ApiError> {
        let session = self.begin_session(fs.branch(), options, description)?;
        match with_succession(session.as_ref(), |succession| mount_over_remains(fs, options, succession)) {
            Ok(mount) => Ok(KeptMount::new(mount, store, session)),
            Err(error) => {
                if let Some(session) = session {
                    session.release();
                }
                Err(error)
            }
        }
    }

    /// Begins to keep what a successor needs. Where nobody is left to keep it, the mount is made all the same: whoever wants it
    /// is better off with one that ends with this process than with none.
    fn begin_session(
        &self,
        branch: Option<BranchId>,
        options: &MountOptions,
        description: &Description,
    ) -> Result<Option<Session>, ApiError> {
        let Some(keeper) = self.keeper() else { return Ok(None) };
        match Session::begin(keeper, branch, description) {
            Ok(session) => Ok(Some(session)),
            Err(error) if socket::is_absent(&error) => {
                tracing::warn!(
                    %error,
                    mountpoint = %options.mountpoint.display(),
                    "whoever keeps mounts is gone: this one will end with this process"
                );
                Ok(None)
            }
            Err(source) => Err(FsError::Session { source }.into()),
        }
    }

    /// Unmounts what `selector` names; an empty answer where nothing of that is mounted. Stops at
    /// the first mount that is in use.
    pub(crate) fn unmount(&self, selector: &Selector) -> Result<Vec<MountView>, ApiError> {
        let chosen = self.registry().select(|view| selector.matches(view));
        let mut gone = Vec::new();
        for (slot, view) in chosen {
            self.unmount_slot(slot)?;
            tracing::info!(
                volume = view.volume,
                snapshot = view.snapshot(),
                mountpoint = %view.mountpoint.display(),
                "unmounted"
            );
            gone.push(view);
        }
        Ok(gone)
    }

    pub(super) fn unmount_slot(&self, slot: Slot) -> Result<(), ApiError> {
        let live = self.registry().begin_unmount(slot)?;
        match live.unmount() {
            Ok(()) => {
                self.registry().forget(slot);
                Ok(())
            }
            Err(error) => {
                self.registry().up(slot, live);
                Err(error.into())
            }
        }
    }

    /// Tells whether a successor would go on with every mount.
    pub(crate) fn are_kept(&self) -> bool {
        self.registry().all_kept()
    }

    /// Returns what `selector` names.
    pub(crate) fn selected(&self, selector: &Selector) -> Vec<MountView> {
        self.views(|view| selector.matches(view))
    }

    /// Returns what is mounted at a place, and is up.
    pub(crate) fn mounted_at(&self, mountpoint: &Path) -> Option<MountView> {
        self.registry().mounted_at(mountpoint).cloned()
    }

    /// Tells whether a killed daemon left something mounted at `mountpoint`.
    pub(crate) fn has_remains(&self, mountpoint: &Path) -> Result<bool, ApiError> {
        remains(fuse::has_dead_mount(mountpoint))
    }

    /// Removes what a killed daemon left mounted at `mountpoint`, and tells whether it had.
    pub(crate) fn remove_remains(&self, mountpoint: &Path) -> Result<bool, ApiError> {
        let removed = remains(fuse::remove_dead_mount(mountpoint))?;
        if removed {
            let mountpoint = mountpoint.display();
            tracing::info!(%mountpoint, "removed the mount of a daemon that is gone");
        }
        Ok(removed)
    }

    /// Forgets mounts that others have unmounted.
    pub(crate) fn reap(&self) {
        let dead = self.registry().take_dead();
        for (view, live) in dead {
            tracing::info!(
                volume = view.volume,
                mountpoint = %view.mountpoint.display(),
                "a mount was removed by others"
            );
            // Joins its thread; outside the lock, since it may have to wait for it.
            drop(live);
        }
    }

    /// Returns all mounts.
    pub(crate) fn all(&self) -> Vec<MountView> {
        self.views(|_| true)
    }

    /// Returns the mounts of a volume's head and snapshots.
    pub(crate) fn of_volume(&self, volume: VolumeId) -> Vec<MountView> {
        self.views(|view| view.volume_id == volume)
    }

    /// Returns the mounts of a snapshot.
    pub(crate) fn of_snapshot(&self, volume: VolumeId, epoch: Epoch) -> Vec<MountView> {
        self.views(|view| Selector::Snapshot(volume, epoch).matches(view))
    }

    /// Returns what the operations of each mount have cost.
    pub(crate) fn stats(&self) -> Vec<(MountView, Vec<OpSummary>)> {
        self.registry().stats()
    }

    /// Returns the oldest request of each mount that works on one.
    pub(crate) fn oldest_requests(&self) -> Vec<(MountView, OldestRequest)> {
        self.registry().oldest_requests()
    }

    /// Shows a volume under its new name.
    pub(crate) fn renamed(&self, volume: VolumeId, name: &str) {
        self.registry().renamed(volume, name);
    }

    /// Returns whether nothing is mounted nor about to be.
    pub(crate) fn is_empty(&self) -> bool {
        self.registry().is_empty()
    }

    /// Sets how long programs that use a mount may delay a shutdown.
    pub(crate) fn set_grace(&self, grace: Duration) {
        *self.grace.lock() = grace;
    }

    pub(super) fn grace(&self) -> Duration {
        *self.grace.lock()
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock()
    }

    fn views(&self, wanted: impl Fn(&MountView) -> bool) -> Vec<MountView> {
        self.registry().select(wanted).into_iter().map(|(_, view)| view).collect()
    }
}

fn remains(found: Result<bool, MountError>) -> Result<bool, ApiError> {
    match found {
        // There is nothing, so there is nothing dead.
        Err(
            MountError::Missing { .. } | MountError::NotDirectory { .. } | MountError::InsideVolume { .. },
        ) => Ok(false),
        found => Ok(found?),
    }
}

/// Mounts, removing first what a killed daemon left there: nobody can want that any more.
fn mount_over_remains(
    fs: Arc<VolumeFs>,
    options: &MountOptions,
    succession: Option<Succession<'_>>,
) -> Result<fuse::Mount, ApiError> {
    match fuse::mount(Arc::clone(&fs), options, succession.clone()) {
        // Found out before anything was kept.
        Err(MountError::Dead { mountpoint }) => {
            fuse::remove_dead_mount(&mountpoint)?;
            tracing::info!(
                mountpoint = %mountpoint.display(),
                "removed the mount of a daemon that is gone"
            );
            Ok(fuse::mount(fs, options, succession)?)
        }
        result => Ok(result?),
    }
}

/// Returns how a mount is made.
pub(super) fn mount_options(
    store: &Store,
    view: &MountView,
    plan: &MountPlan,
) -> Result<MountOptions, ApiError> {
    let name = view.snapshot().unwrap_or_else(|| view.volume.clone());
    Ok(MountOptions {
        mountpoint: plan.mountpoint.clone(),
        allow_other: plan.allow_other,
        read_only: plan.read_only,
        cache: plan.cache,
        fs_name: fuse::mount_source(&name, store.mark()?),
        threads: None,
    })
}

pub(super) fn view_of(
    volume: &str,
    volume_id: VolumeId,
    source: Source,
    read_only: bool,
    plan: &MountPlan,
) -> MountView {
    MountView {
        volume: volume.to_owned(),
        volume_id,
        source,
        mountpoint: plan.mountpoint.clone(),
        read_only,
        cache: plan.cache,
        transport: "",
    }
}

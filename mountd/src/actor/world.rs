//! The world that actors live in: mounts, sandboxes, places for commits, ids. Behind a trait, so that every step of every
//! operation can be made to fail, and the process to die at it, in a test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use durdir_fs::drain::{Helper, Scope};
use durdir_fs::failpoint;
use durdir_fs::fuse::{CacheMode, MountError};
use durdir_fs::ids::VolumeId;
use durdir_fs::store::Store;
use durdir_snapshot::{LocalDirectory, Target};
use uuid::Uuid;

use super::error::ActorError;
use super::record::Actor;
use crate::api::ApiError;
use crate::mounts::{MountPlan, Mounts, Selector, Source, start_helper};
use crate::runtime::readiness::{HttpGet, Pace, await_ready};
use crate::runtime::{Deadline, Runtime, RuntimeError, Sandbox};
use crate::template::directory_of;

/// How long the last holder of a volume may take to let go of it, after its sandbox is gone.
const LET_GO: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

/// What actors need of the world.
pub(crate) trait World: Send + Sync {
    /// Returns the driver of this name.
    fn runtime(&self, name: &str) -> Result<Arc<dyn Runtime>, RuntimeError>;

    /// Waits until the programs of a sandbox are ready.
    fn wait_ready(&self, actor: &Actor, runtime: &dyn Runtime, sandbox: &Sandbox)
    -> Result<(), RuntimeError>;

    /// Refuses files and directories that the daemon could reach only through one of its own mounts.
    fn check_outside(&self, paths: &[PathBuf]) -> Result<(), ApiError>;

    /// Mounts the head of a volume.
    fn mount(&self, volume: &str, at: &Path) -> Result<(), ApiError>;

    /// The same, with what programs had open that was removed, for them to open it again.
    fn mount_with_unlinked(&self, volume: &str, at: &Path) -> Result<(), ApiError>;

    /// Unmounts what is mounted there, whoever made it; nothing there is fine. It is gone on return.
    fn unmount(&self, at: &Path) -> Result<(), ApiError>;

    /// Tells whether a volume is mounted there, and served.
    fn is_mounted(&self, volume: VolumeId, at: &Path) -> bool;

    /// Starts what a drain may need, before anything is paused for it.
    fn prepare_drain(&self) -> Option<Helper>;

    /// Has programs' shared mappings of these volumes written out.
    fn drain(&self, volumes: &[VolumeId], programs: &Scope, helper: Option<Helper>) -> Result<u64, ApiError>;

    /// Returns the place for commits that a URL stands for.
    fn target(&self, location: &str) -> Result<Box<dyn Target>, ApiError>;

    /// Returns how long the place that commits go to may take for so many bytes.
    fn patience(&self, bytes: u64) -> Duration {
        limits::place(bytes)
    }

    /// Does something for an actor while others go on.
    fn in_background(&self, actor: &str, work: Box<dyn FnOnce() + Send>);

    /// Returns an id that nothing else has.
    fn new_id(&self) -> Uuid;

    /// Is reached with the name of each step, once it is stored, and of each effect, once it is there.
    fn step(&self, name: &'static str);
}

/// The world of a node.
pub(crate) struct NodeWorld {
    store: Arc<Store>,
    mounts: Arc<Mounts>,
}

impl NodeWorld {
    pub(crate) fn new(store: Arc<Store>, mounts: Arc<Mounts>) -> NodeWorld {
        NodeWorld { store, mounts }
    }
}

fn plan(at: &Path) -> MountPlan {
    MountPlan {
        mountpoint: at.to_owned(),
        read_only: false,
        cache: CacheMode::WriteThrough,
        allow_other: nix::unistd::geteuid().is_root(),
    }
}

impl World for NodeWorld {
    fn runtime(&self, name: &str) -> Result<Arc<dyn Runtime>, RuntimeError> {
        crate::runtime::choose(name).map(Arc::from)
    }

    fn wait_ready(
        &self,
        actor: &Actor,
        runtime: &dyn Runtime,
        sandbox: &Sandbox,
    ) -> Result<(), RuntimeError> {
        let probes = actor.recipe.template.probes().map(|probe| {
            let wanted = HttpGet { path: probe.http_get.path.clone(), port: probe.http_get.port };
            let pace = Pace {
                first_pause: probe.interval(),
                one_try: probe.try_timeout(),
                total: probe.timeout(),
                ..Pace::default()
            };
            (wanted, pace)
        });
        await_ready(runtime, sandbox, probes)
    }

    fn check_outside(&self, paths: &[PathBuf]) -> Result<(), ApiError> {
        self.mounts.check_outside(paths)
    }

    fn mount(&self, volume: &str, at: &Path) -> Result<(), ApiError> {
        self.mounts.mount_head(&self.store, volume, plan(at)).map(drop)
    }

    fn mount_with_unlinked(&self, volume: &str, at: &Path) -> Result<(), ApiError> {
        self.mounts.mount_head_with_orphans(&self.store, volume, plan(at)).map(drop)
    }

    fn unmount(&self, at: &Path) -> Result<(), ApiError> {
        let begun = Instant::now();
        loop {
            match self.mounts.unmount(&Selector::At(at.to_owned())) {
                Ok(_) => break,
                // The kernel closes the files of a process some time after it is gone.
                Err(
                    ApiError::MountInTransition { .. }
                    | ApiError::Mount(MountError::Busy { .. } | MountError::HeldElsewhere { .. }),
                ) if begun.elapsed() < LET_GO => std::thread::sleep(POLL),
                // An actor at rest has no users. Somebody's mount namespace, or mount in another place, has a copy.
                Err(error @ ApiError::Mount(MountError::HeldElsewhere { .. })) => {
                    if !self.mounts.take_away_at(at) {
                        return Err(error);
                    }
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.mounts.remove_remains(at).map(drop)
    }

    fn is_mounted(&self, volume: VolumeId, at: &Path) -> bool {
        let there = self.mounts.mounted_at(at);
        there.is_some_and(|view| view.volume_id == volume && view.source == Source::Head)
    }

    fn prepare_drain(&self) -> Option<Helper> {
        start_helper()
    }

    fn drain(&self, volumes: &[VolumeId], programs: &Scope, helper: Option<Helper>) -> Result<u64, ApiError> {
        self.mounts.drain_of(volumes, programs, helper)
    }

    fn target(&self, location: &str) -> Result<Box<dyn Target>, ApiError> {
        self.check_outside(&[directory(location)?])?;
        Ok(target_at(location)?)
    }

    fn in_background(&self, actor: &str, work: Box<dyn FnOnce() + Send>) {
        // Names of threads are short.
        let name = format!("actor-{}", actor.get(..9).unwrap_or(actor));
        if let Err(error) = std::thread::Builder::new().name(name).spawn(work) {
            // What it was to do goes with it; the watch, or the next who asks, finds that it was not done.
            tracing::error!(actor, %error, "nothing can be done for an actor in the background");
        }
    }

    fn new_id(&self) -> Uuid {
        Uuid::new_v4()
    }

    fn step(&self, name: &'static str) {
        tracing::debug!(name, "step");
        failpoint::hit(name);
    }
}

/// Returns the place for commits that a URL stands for.
pub(super) fn target_at(location: &str) -> Result<Box<dyn Target>, ActorError> {
    Ok(Box::new(LocalDirectory::at(&directory(location)?)))
}

fn directory(location: &str) -> Result<PathBuf, ActorError> {
    directory_of(location).ok_or_else(|| ActorError::NoTarget { location: location.to_owned() })
}

/// How long each phase may take.
pub(super) mod limits {
    use super::{Deadline, Duration};

    pub(crate) fn state() -> Deadline {
        Deadline::after(Duration::from_secs(10))
    }
    pub(crate) fn probe() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }
    pub(crate) fn quiesce() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }
    pub(crate) fn save() -> Deadline {
        Deadline::after(Duration::from_secs(300))
    }
    pub(crate) fn resume() -> Deadline {
        Deadline::after(Duration::from_secs(30))
    }
    /// Of the place that commits go to: with a megabyte a second it is slow, with less it hangs.
    pub(crate) fn place(bytes: u64) -> Duration {
        Duration::from_secs(30 + bytes / 1_000_000)
    }
    pub(crate) fn start() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }
    pub(crate) fn restore() -> Deadline {
        Deadline::after(Duration::from_secs(300))
    }
    pub(crate) fn kill() -> Deadline {
        Deadline::after(Duration::from_secs(30))
    }
}

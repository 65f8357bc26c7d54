//! A host with sandboxes and mounts that is not there, and outlives the process in the test. Each sandbox counts in its memory, and
//! leaves a directory for each number in each of its volumes: so everybody sees whether memory and volumes belong together.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use durdir_fs::FsError;
use durdir_fs::drain::{Helper, Scope};
use durdir_fs::ids::{NodeId, VolumeId};
use durdir_fs::ops::Caller;
use durdir_fs::store::Store;
use durdir_snapshot::{Opened, Publication, Target, TargetError};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::actor::error::ActorError;
use crate::actor::record::Actor;
use crate::actor::world::{World, target_at};
use crate::api::ApiError;
use crate::runtime::{
    Abilities, AfterSave, Connection, Deadline, Runtime, RuntimeError, Sandbox, SandboxState,
};

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };

/// What a process that dies unwinds with.
pub(super) struct Death;

#[derive(Clone)]
pub(super) struct Host(Arc<Inner>);

struct Inner {
    store: Arc<Store>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, Fake>,
    mounts: BTreeMap<PathBuf, String>,
    events: Vec<&'static str>,
    fault: Fault,
    /// What the runtime does with a sandbox that it saved.
    ends_when_saved: bool,
    version: String,
    ids: u64,
    half_published: Option<PathBuf>,
    /// Who publishes waits until this is gone.
    hanging: Option<Arc<Mutex<()>>>,
}

#[derive(Clone)]
struct Fake {
    state: SandboxState,
    counter: u64,
    sources: Vec<PathBuf>,
}

/// What goes wrong, at which event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Fault {
    #[default]
    None,
    /// It fails before it has any effect.
    FailAt(usize),
    /// The process dies.
    DieAt(usize),
    /// Two things fail.
    FailBothAt(usize, usize),
    /// Something fails, and over that the process dies.
    FailThenDieAt(usize, usize),
}

impl Host {
    pub(super) fn new(store: &Arc<Store>) -> Host {
        let state = State { version: "1".to_owned(), ..State::default() };
        Host(Arc::new(Inner { store: Arc::clone(store), state: Mutex::new(state) }))
    }

    /// Plans what goes wrong from here on.
    pub(super) fn plan(&self, fault: Fault) {
        let mut state = self.0.state.lock();
        state.events.clear();
        state.fault = fault;
    }

    /// Nothing goes wrong from here on.
    pub(super) fn calm(&self) {
        self.plan(Fault::None);
    }

    /// Returns what happened since the plan was made.
    pub(super) fn events(&self) -> Vec<&'static str> {
        self.0.state.lock().events.clone()
    }

    pub(super) fn end_when_saved(&self) {
        self.0.state.lock().ends_when_saved = true;
    }

    pub(super) fn upgrade_runtime(&self) {
        self.0.state.lock().version = "2".to_owned();
    }

    /// A container of every sandbox ends.
    pub(super) fn exit_all(&self) {
        for fake in self.0.state.lock().sandboxes.values_mut() {
            fake.state = SandboxState::Exited { container: "main".to_owned(), status: Some(3) };
        }
    }

    /// One container of every sandbox ends, and the others go on.
    pub(super) fn exit_one_of_all(&self, container: &str) {
        for fake in self.0.state.lock().sandboxes.values_mut() {
            fake.state = SandboxState::Exited { container: container.to_owned(), status: None };
        }
    }

    /// A publication that fails leaves half of itself in this directory.
    pub(super) fn leave_half_published(&self, place: &Path) {
        self.0.state.lock().half_published = Some(place.to_owned());
    }

    /// Whoever publishes from now on hangs as long as the lock that is returned is held.
    pub(super) fn hang_publications(&self) -> Arc<Mutex<()>> {
        let lock = Arc::<Mutex<()>>::default();
        self.0.state.lock().hanging = Some(Arc::clone(&lock));
        lock
    }

    /// The host goes down and up: nothing runs and nothing is mounted.
    pub(super) fn reboot(&self) {
        let mut state = self.0.state.lock();
        state.sandboxes.clear();
        state.mounts.clear();
    }

    /// Every sandbox that runs counts, in memory and in its volumes.
    pub(super) fn work(&self) {
        let (work, mounts): (Vec<_>, _) = {
            let mut state = self.0.state.lock();
            let mounts = state.mounts.clone();
            let running = state.sandboxes.values_mut().filter(|fake| fake.state == SandboxState::Running);
            let work = running.map(|fake| {
                fake.counter += 1;
                (fake.counter, fake.sources.clone())
            });
            (work.collect(), mounts)
        };
        for (counter, sources) in work {
            for source in sources {
                let volume =
                    mounts.get(&source).unwrap_or_else(|| panic!("{} is not mounted", source.display()));
                let fs = self.0.store.open_head(volume).unwrap();
                fs.mkdir(&ROOT, NodeId::ROOT, OsStr::new(&format!("n{counter}")), 0o755, 0).unwrap();
            }
        }
    }

    pub(super) fn runs(&self, sandbox: &str) -> bool {
        self.0.state.lock().sandboxes.contains_key(sandbox)
    }

    pub(super) fn counters(&self) -> Vec<u64> {
        self.0.state.lock().sandboxes.values().map(|fake| fake.counter).collect()
    }

    /// Nothing is frozen, and what each sandbox believes it wrote is in its volumes, and nothing later.
    #[track_caller]
    pub(super) fn check(&self, when: &str) {
        let (sandboxes, mounts) = {
            let state = self.0.state.lock();
            (state.sandboxes.clone(), state.mounts.clone())
        };
        let used: Vec<_> = sandboxes.values().flat_map(|fake| fake.sources.clone()).collect();
        for place in mounts.keys() {
            assert!(used.contains(place), "{when}: {} is mounted for nobody", place.display());
        }
        for (id, fake) in &sandboxes {
            assert_eq!(fake.state, SandboxState::Running, "{when}: {id}");
            for source in &fake.sources {
                let counted = count(&self.0.store, &mounts[source]);
                assert_eq!(
                    counted,
                    fake.counter,
                    "{when}: {id} believes otherwise than {}",
                    source.display()
                );
            }
        }
    }

    /// Something is about to happen, or has just happened.
    fn event(&self, name: &'static str) -> Result<(), RuntimeError> {
        let mut state = self.0.state.lock();
        state.events.push(name);
        let number = state.events.len();
        let (fails, dies) = match state.fault {
            Fault::None => (vec![], None),
            Fault::FailAt(at) => (vec![at], None),
            Fault::FailBothAt(one, other) => (vec![one, other], None),
            Fault::DieAt(at) => (vec![], Some(at)),
            Fault::FailThenDieAt(fails, dies) => (vec![fails], Some(dies)),
        };
        if dies == Some(number) {
            drop(state);
            std::panic::resume_unwind(Box::new(Death));
        }
        if fails.contains(&number) {
            let (program, action, detail) = ("fake".to_owned(), name.to_owned(), "no".to_owned());
            return Err(RuntimeError::Failed { program, action, detail });
        }
        Ok(())
    }

    /// Does something: it may fail before, and the process may die before and after.
    fn act<T>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut State) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        self.event(name)?;
        let done = effect(&mut self.0.state.lock())?;
        // What was done is not undone by an error that comes later: only a death is of interest here.
        drop(self.event_after());
        Ok(done)
    }

    fn event_after(&self) -> Result<(), RuntimeError> {
        self.event("after")
    }
}

/// Returns how far the directories of a volume go on from 1.
pub(super) fn count(store: &Arc<Store>, volume: &str) -> u64 {
    let fs = store.open_head(volume).unwrap();
    let is_there = |number: u64| match fs.lookup(&ROOT, NodeId::ROOT, OsStr::new(&format!("n{number}"))) {
        Ok(entry) => {
            fs.forget(entry.node, 1);
            true
        }
        Err(FsError::NotFound) => false,
        Err(error) => panic!("{error}"),
    };
    (1..).take_while(|number| is_there(*number)).count() as u64
}

fn gone(sandbox: &Sandbox) -> RuntimeError {
    RuntimeError::Failed { program: "fake".to_owned(), action: "find".to_owned(), detail: sandbox.id.clone() }
}

fn sources(sandbox: &Sandbox) -> Vec<PathBuf> {
    sandbox
        .containers
        .iter()
        .flat_map(|container| &container.mounts)
        .map(|mount| mount.source.clone())
        .collect()
}

impl Runtime for Host {
    fn name(&self) -> &'static str {
        "gvisor"
    }

    fn probe(&self, _: Deadline) -> Result<Abilities, RuntimeError> {
        let version = self.0.state.lock().version.clone();
        Ok(Abilities { version, memory: true, several_containers: true })
    }

    fn preflight(&self, _: &Sandbox) -> Result<(), RuntimeError> {
        self.event("preflight")
    }

    fn check_save(&self, _: &Sandbox) -> Result<(), RuntimeError> {
        self.event("check-save")
    }

    fn version_of(&self, _: &Sandbox, _: Deadline) -> Result<String, RuntimeError> {
        Ok(self.0.state.lock().version.clone())
    }

    fn create(&self, sandbox: &Sandbox, _: Deadline) -> Result<(), RuntimeError> {
        self.act("create", |state| {
            let fake = Fake { state: SandboxState::Created, counter: 0, sources: sources(sandbox) };
            state.sandboxes.insert(sandbox.id.clone(), fake);
            Ok(())
        })
    }

    fn start(&self, sandbox: &Sandbox, _: Deadline) -> Result<(), RuntimeError> {
        let store = Arc::clone(&self.0.store);
        self.act("start", |state| {
            let mounts = state.mounts.clone();
            let fake = state.sandboxes.get_mut(&sandbox.id).ok_or_else(|| gone(sandbox))?;
            // The program finds its work in its volumes.
            fake.counter = fake.sources.first().map_or(0, |source| count(&store, &mounts[source]));
            fake.state = SandboxState::Running;
            Ok(())
        })
    }

    fn pause(&self, sandbox: &Sandbox, _: Deadline) -> Result<(), RuntimeError> {
        self.act("pause", |state| {
            let fake = state.sandboxes.get_mut(&sandbox.id).ok_or_else(|| gone(sandbox))?;
            if fake.state == SandboxState::Running {
                fake.state = SandboxState::Paused;
            }
            Ok(())
        })
    }

    fn resume(&self, sandbox: &Sandbox, _: Deadline) -> Result<(), RuntimeError> {
        self.act("resume", |state| {
            let fake = state.sandboxes.get_mut(&sandbox.id).ok_or_else(|| gone(sandbox))?;
            fake.state = SandboxState::Running;
            Ok(())
        })
    }

    fn save(&self, sandbox: &Sandbox, image: &Path, _: Deadline) -> Result<AfterSave, RuntimeError> {
        self.act("save", |state| {
            let ends = state.ends_when_saved;
            let fake = state.sandboxes.get(&sandbox.id).ok_or_else(|| gone(sandbox))?;
            assert_eq!(fake.state, SandboxState::Paused, "only a paused sandbox is saved");
            std::fs::write(image.join("memory"), fake.counter.to_string()).unwrap();
            if ends {
                state.sandboxes.remove(&sandbox.id);
            }
            Ok(if ends { AfterSave::Ended } else { AfterSave::Paused })
        })
    }

    fn restore(&self, sandbox: &Sandbox, image: &Path, _: Deadline) -> Result<(), RuntimeError> {
        self.act("restore", |state| {
            let memory = std::fs::read_to_string(image.join("memory")).map_err(|_| gone(sandbox))?;
            let fake = Fake {
                state: SandboxState::Running,
                counter: memory.parse().unwrap(),
                sources: sources(sandbox),
            };
            for source in &fake.sources {
                assert!(state.mounts.contains_key(source), "{} is mounted before", source.display());
            }
            state.sandboxes.insert(sandbox.id.clone(), fake);
            Ok(())
        })
    }

    fn kill(&self, sandbox: &Sandbox, _: Deadline) -> Result<(), RuntimeError> {
        self.act("kill", |state| {
            state.sandboxes.remove(&sandbox.id);
            Ok(())
        })
    }

    fn state(&self, sandbox: &Sandbox, _: Deadline) -> Result<SandboxState, RuntimeError> {
        let state = self.0.state.lock();
        Ok(state.sandboxes.get(&sandbox.id).map_or(SandboxState::Absent, |fake| fake.state.clone()))
    }

    fn programs(&self, _: &Sandbox) -> Result<Option<Vec<u32>>, RuntimeError> {
        Ok(None)
    }

    fn pid(&self, _: &Sandbox) -> Result<Option<u32>, RuntimeError> {
        Ok(None)
    }

    fn connect(&self, _: &Sandbox, _: u16, _: Deadline) -> Result<Connection, RuntimeError> {
        unreachable!("the fake world is ready by itself")
    }
}

impl World for Host {
    fn runtime(&self, _: &str) -> Result<Arc<dyn Runtime>, RuntimeError> {
        Ok(Arc::new(self.clone()))
    }

    fn wait_ready(&self, _: &Actor, _: &dyn Runtime, _: &Sandbox) -> Result<(), RuntimeError> {
        self.event("ready")
    }

    fn check_outside(&self, _: &[PathBuf]) -> Result<(), ApiError> {
        Ok(())
    }

    fn mount(&self, volume: &str, at: &Path) -> Result<(), ApiError> {
        let mounted = self.act("mount", |state| {
            assert!(at.is_dir(), "{} is a directory", at.display());
            let before = state.mounts.insert(at.to_owned(), volume.to_owned());
            assert_eq!(before, None, "{} is free", at.display());
            Ok(())
        });
        mounted.map_err(|source| ActorError::Runtime { id: "fake".to_owned(), source }.into())
    }

    fn mount_with_unlinked(&self, volume: &str, at: &Path) -> Result<(), ApiError> {
        self.mount(volume, at)
    }

    fn unmount(&self, at: &Path) -> Result<(), ApiError> {
        let unmounted = self.act("unmount", |state| {
            let used = state.sandboxes.values().any(|fake| fake.sources.iter().any(|source| source == at));
            assert!(!used, "{} is unmounted under a sandbox", at.display());
            state.mounts.remove(at);
            Ok(())
        });
        unmounted.map_err(|source| ActorError::Runtime { id: "fake".to_owned(), source }.into())
    }

    fn is_mounted(&self, _: VolumeId, at: &Path) -> bool {
        self.0.state.lock().mounts.contains_key(at)
    }

    fn prepare_drain(&self) -> Option<Helper> {
        None
    }

    fn drain(&self, _: &[VolumeId], _: &Scope, _: Option<Helper>) -> Result<u64, ApiError> {
        self.act("drain", |_| Ok(0))
            .map_err(|source| ActorError::Runtime { id: "fake".to_owned(), source }.into())
    }

    fn target(&self, location: &str) -> Result<Box<dyn Target>, ApiError> {
        Ok(Box::new(FakeTarget { host: self.clone(), inner: target_at(location)? }))
    }

    fn patience(&self, _: u64) -> Duration {
        let hanging = self.0.state.lock().hanging.clone();
        let hangs = hanging.is_some_and(|lock| lock.try_lock().is_none());
        if hangs { Duration::from_millis(20) } else { Duration::from_secs(60) }
    }

    /// At once: so its events belong to what asked for it.
    fn in_background(&self, _: &str, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn new_id(&self) -> Uuid {
        let mut state = self.0.state.lock();
        state.ids += 1;
        Uuid::from_u128(u128::from(state.ids))
    }

    fn step(&self, name: &'static str) {
        // A step cannot fail.
        drop(self.event(name));
    }
}

/// A place for commits that may fail.
struct FakeTarget {
    host: Host,
    inner: Box<dyn Target>,
}

impl FakeTarget {
    fn hang(&self) {
        let hanging = self.host.0.state.lock().hanging.clone();
        drop(hanging.as_ref().map(|lock| lock.lock()));
    }

    fn event(&self, name: &'static str) -> Result<(), TargetError> {
        let failed = |_| TargetError::Io {
            action: name,
            path: PathBuf::from("fake"),
            source: std::io::Error::other("no"),
        };
        self.host.event(name).map_err(failed)
    }
}

impl Target for FakeTarget {
    fn check(&self) -> Result<(), TargetError> {
        self.event("target-check")?;
        self.inner.check()
    }

    fn publish(&self, publication: Publication<'_>) -> Result<(), TargetError> {
        if let Some(place) = self.host.0.state.lock().half_published.take() {
            let files = place.join(publication.id).join("files");
            std::fs::create_dir_all(&files).unwrap();
            std::fs::write(files.join("memory"), "half").unwrap();
        }
        self.event("target-publish")?;
        self.hang();
        self.inner.publish(publication)?;
        drop(self.event("after"));
        Ok(())
    }

    fn withdraw(&self, id: &str) -> Result<(), TargetError> {
        self.event("target-withdraw")?;
        self.inner.withdraw(id)
    }

    fn open(&self, id: &str) -> Result<Opened, TargetError> {
        self.hang();
        self.inner.open(id)
    }
}

//! Captures: pause, suspend, commit.
//!
//! # Overview
//! ```text
//!   everything is checked ─▶ quiesce ─▶ save ─▶ cut ─▶ bind ─┬─▶ tear down                    pause
//!                               │        │       │      │    ├─▶ publish ─▶ tear down         suspend
//!                               └────────┴───┬───┘      │    └─▶ resume ─▶ publish            commit
//!                                            ▼          ▼
//!                              the actor runs on     the capture is there
//! ```
//! Of a *Full* capture memory is saved before the cut: saving makes the runtime write out files through our mounts. Nothing runs between
//! the two. A *Data* capture has no memory to save, and one of *None* no volumes either.
//!
//! # Invariants
//! - Nothing is paused before everything was checked that can be.
//! - The manifest appears with a rename, and comes to the disk together with memory and cut. When all of that is there the capture is complete, before that
//!   there is none: until then a mark beside the manifest says that it is not to be believed. What a loss of power left is compared with it.
//! - Up to there an error, or a death, leaves the actor running as before; from there on the capture is completed. A committed
//!   capture that cannot be published is dropped again.
//! - What the sandbox of an actor at rest has left behind, mounts above all, is taken away in the background. Whoever wants to do something with
//!   the actor waits for that.
//!
//! # Crash consistency
//! See [`super::recovery`], which does the same from each stored step.

mod at_rest;
mod cut;
mod memory;
mod preview;
mod publish;
mod running;
mod undo;

pub(crate) use preview::Preview;
pub(super) use publish::{capture_in_name, published_name};

use std::sync::Arc;

use durdir_fs::FsError;
use durdir_fs::ids::CaptureId;
use durdir_fs::store::{Durability, Receipt};
use durdir_snapshot::write_whole;

use super::directory::{CaptureDirectory, failed};
use super::driver::{Begun, CaptureChanges, Driver, Outcome, Request};
use super::dropping::Reach;
use super::error::ActorError;
use super::image::{Storing, joined};
use super::manifest::{Contents, Manifest, RuntimeVersion};
use super::phases::{Clock, Phases};
use super::record::{Capture, CaptureDocument, CaptureView, Checkpoint, captured};
use super::registry::Actors;
use super::state::{CaptureKind, CaptureStep, Capturing, Operation, OperationKind, Standing};
use super::world::limits;
use crate::api::ApiError;
use crate::runtime::{Runtime, Sandbox};
use crate::template::Scope;
use memory::memory_of;

impl Actors {
    /// Captures an actor. `scope`: less than its template says.
    pub(crate) fn make_capture(
        self: &Arc<Self>,
        id: &str,
        kind: CaptureKind,
        scope: Option<Scope>,
        request: &Request<'_>,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        let mut driver = match self.begin(id, asked(kind), request)? {
            Begun::Before(driver, outcome) => return driver.answer(*outcome, receipt),
            Begun::Now(driver) => driver,
        };
        let scope = driver.check_scope(kind, scope)?;
        let id = CaptureId(self.world.new_id().into_bytes());
        let begin = (request.begin)(&id.to_string());
        let (step, from, cut, phases) = (CaptureStep::Quiesce, None, Vec::new(), Phases::default());
        let capturing = Capturing { id, kind, scope, step, from, cut, phases };
        if driver.actor.document.standing == Standing::Running {
            let runtime = driver.check_running(&capturing)?;
            let outcome = driver.capture_running(capturing, runtime, begin, receipt)?;
            if driver.actor.document.standing != Standing::Running {
                // How long an unmount takes depends on what the kernel knows of the volume, and nothing of the capture does on it.
                driver.tidy_later(self);
            }
            Ok(outcome)
        } else {
            driver.check_place(&capturing)?;
            driver.capture_at_rest(capturing, begin, receipt)
        }
    }
}

impl Driver<'_> {
    /// Returns what a capture is to hold, if it can.
    fn check_scope(&self, kind: CaptureKind, asked: Option<Scope>) -> Result<Scope, ActorError> {
        let recipe = &self.actor.recipe;
        let (setting, most) = match kind {
            CaptureKind::Pause | CaptureKind::Birth => ("onPause", recipe.on_pause),
            CaptureKind::Suspend | CaptureKind::Commit => ("onCommit", recipe.on_commit),
        };
        // What does not run has no memory to commit.
        let has_memory = !matches!(self.actor.document.standing, Standing::Created | Standing::Exited { .. });
        let scope = asked.unwrap_or(if has_memory { most } else { most.min(Scope::Data) });
        let id = || self.actor.id.clone();
        let has = self.actor.document.checkpoint.as_ref().map(|checkpoint| checkpoint.scope);
        let already = match (kind, &self.actor.document.standing) {
            (CaptureKind::Pause, Standing::Paused) => Some("it is paused already"),
            (CaptureKind::Suspend, Standing::Suspended) => Some("it is suspended already"),
            _ => None,
        };
        // Less than what it was stopped with is another capture.
        if let Some(remedy) = already.filter(|_| asked.is_none() || asked == has) {
            return Err(ActorError::Misplaced { id: id(), state: self.actor.state(), remedy });
        }
        if scope > most {
            let what = format!("{setting} of actor {}", self.actor.id);
            return Err(ActorError::Widened { what, has: most, asked: scope });
        }
        if kind == CaptureKind::Commit && scope == Scope::None {
            let why = "a commit of scope None would hold nothing";
            return Err(ActorError::NothingToCapture { id: id(), why });
        }
        if scope == Scope::Data && recipe.volumes.is_empty() {
            let why = "it has no volumes, so that a capture of scope Data would hold nothing";
            return Err(ActorError::NothingToCapture { id: id(), why });
        }
        if scope == Scope::None && !recipe.volumes.is_empty() && self.actor.document.birth.is_none() {
            let why = "it was made by an older version, which did not keep how its volumes began; \
                       `--scope Data` keeps what they hold";
            return Err(ActorError::NothingToCapture { id: id(), why });
        }
        match (&self.actor.document.standing, has) {
            (Standing::Paused | Standing::Suspended, Some(has)) if scope > has => {
                let (id, state) = (&self.actor.id, self.actor.state());
                let what = format!("the capture that actor {id} is {state} with");
                Err(ActorError::Widened { what, has, asked: scope })
            }
            _ if scope == Scope::Full && !has_memory => {
                let why = "it does not run, so that there is no memory; `--scope Data` captures its volumes";
                Err(ActorError::NothingToCapture { id: id(), why })
            }
            _ => Ok(scope),
        }
    }

    /// Checks what can be checked before the sandbox is paused. Returns what is going to save its memory, if anything is.
    fn check_running(&self, capturing: &Capturing) -> Result<Option<RuntimeVersion>, ApiError> {
        let saved_by = self.check_sandbox(capturing.scope)?;
        self.check_place(capturing)?;
        Ok(saved_by)
    }

    /// Checks what can be checked of a sandbox.
    fn check_sandbox(&self, scope: Scope) -> Result<Option<RuntimeVersion>, ApiError> {
        let (runtime, sandbox) = (self.runtime()?, self.sandbox());
        self.check_alive()?;
        let mut saved_by = None;
        if scope == Scope::Full {
            let failed = |error| self.runtime_error(error);
            runtime.check_save(&sandbox).map_err(failed)?;
            // Not the one that is installed: an upgrade may have come since the sandbox was made.
            let version = runtime.version_of(&sandbox, limits::probe()).map_err(failed)?;
            saved_by = Some(RuntimeVersion { name: runtime.name().to_owned(), version });
            self.check_room_for_memory(&*runtime, &sandbox)?;
        }
        Ok(saved_by)
    }

    /// Refuses where the memory of a sandbox would fill the disk of the store, and nobody could even delete anything any more.
    fn check_room_for_memory(&self, runtime: &dyn Runtime, sandbox: &Sandbox) -> Result<(), ApiError> {
        let pid = runtime.pid(sandbox).map_err(|error| self.runtime_error(error))?;
        let bytes = pid.and_then(memory_of).unwrap_or(0);
        self.actors.store.check_room(bytes).map_err(|error| match error {
            FsError::NoSpace => ActorError::NoRoom { id: self.actor.id.clone(), bytes }.into(),
            error => error.into(),
        })
    }

    /// Checks that a committed capture can go where it is to go.
    fn check_place(&self, capturing: &Capturing) -> Result<(), ApiError> {
        if capturing.kind.is_committed() && capturing.scope > Scope::None {
            let target = self.actors.world.target(&self.actor.recipe.location)?;
            self.actors.at_place(capturing.id, 0, move || target.check())?;
        }
        Ok(())
    }

    /// Stores the next step of a capture.
    fn advance(
        &mut self,
        capturing: &mut Capturing,
        step: CaptureStep,
        name: &'static str,
    ) -> Result<(), ApiError> {
        capturing.step = step;
        self.journal(Operation::Capture(capturing.clone()), name)
    }

    /// Writes the manifest. On return the capture is there. `image`: the memory, on its way to the disk. `directory` has its name there already.
    fn bind(
        &mut self,
        capturing: &mut Capturing,
        runtime: Option<RuntimeVersion>,
        image: Option<Storing<'_>>,
        directory: &CaptureDirectory,
    ) -> Result<String, ApiError> {
        self.advance(capturing, CaptureStep::Bind, "actor.bind")?;
        let (path, store) = (directory.manifest(), &self.actors.store);
        directory.doubt()?;
        let hash = std::thread::scope(|scope| {
            // Everything comes to the disk side by side: a wait for it is one for the host's journal.
            let recorded = scope.spawn(|| store.sync_records());
            let (files, synced) = match image {
                None => (Vec::new(), None),
                Some(image) => image.files().map(|(files, synced)| (files, Some(synced)))?,
            };
            let manifest = Manifest::of(Contents {
                id: capturing.id,
                actor: &self.actor.id,
                scope: capturing.scope,
                sandbox_class: self.actor.recipe.sandbox_class,
                runtime,
                template: &self.actor.recipe.hash,
                volumes: &capturing.cut,
                files,
            });
            let (bytes, hash) = manifest.encode();
            write_whole(&path, &bytes).map_err(|error| failed("write", &path, error))?;
            synced.map_or(Ok(()), joined)?;
            joined(recorded)?;
            Ok::<_, ApiError>(hash)
        })?;
        self.actors.world.step("actor.written");
        directory.trust()?;
        self.actors.world.step("actor.manifest");
        Ok(hash)
    }

    pub(in crate::actor) fn runtime_version(&self) -> Result<RuntimeVersion, ApiError> {
        let runtime = self.runtime()?;
        let abilities = runtime.probe(limits::probe()).map_err(|error| self.runtime_error(error))?;
        Ok(RuntimeVersion { name: runtime.name().to_owned(), version: abilities.version })
    }

    /// Takes note that the capture is bound, how long that took, and of what is done next.
    pub(in crate::actor) fn bound(
        &mut self,
        capturing: &mut Capturing,
        manifest: String,
        phases: Phases,
    ) -> Result<(), ApiError> {
        let (kind, scope) = (capturing.kind, capturing.scope);
        let capture = Capture {
            id: capturing.id,
            created: durdir_fs::attr::Timestamp::now(),
            snapshots: captured(&capturing.cut),
            document: CaptureDocument::new(&self.actor, kind, scope, manifest),
        };
        capturing.step = match kind {
            CaptureKind::Pause | CaptureKind::Birth => CaptureStep::TearDown,
            CaptureKind::Suspend => CaptureStep::Publish,
            CaptureKind::Commit => CaptureStep::Resume,
        };
        capturing.phases = phases;
        let operation = Operation::Capture(capturing.clone());
        // The manifest is on the disk. That is enough: whoever finds it there completes the capture.
        self.change(vec![(capture.id, Some(capture))], Durability::Process, Receipt::none(), |actor| {
            actor.document.operation = Some(operation);
        })?;
        self.actors.world.step("actor.bound");
        Ok(())
    }

    /// Completes a capture that is bound.
    pub(in crate::actor) fn complete(
        &mut self,
        mut capturing: Capturing,
        mut clock: Clock,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        let at_rest = self.actor.document.standing != Standing::Running;
        let mut lost = None;
        if capturing.step == CaptureStep::Resume {
            if !at_rest {
                let image = (capturing.scope == Scope::Full).then(|| directory.image());
                let resumed = clock.time("resume", || self.keep_running(image.as_deref()));
                self.actors.world.step("actor.resumed");
                lost = resumed.err();
            }
            clock.time("record", || self.advance(&mut capturing, CaptureStep::Publish, "actor.publish"))?;
        }
        if capturing.step == CaptureStep::Publish {
            let published = clock.time("publish", || self.publish(&capturing));
            if let Err(error) = published {
                return Err(self.undone(error, |driver| driver.withdraw(capturing)));
            }
            self.actors.world.step("actor.published");
            if capturing.kind == CaptureKind::Suspend {
                clock.time("record", || {
                    self.advance(&mut capturing, CaptureStep::TearDown, "actor.tear-down")
                })?;
            }
        }
        if capturing.step == CaptureStep::TearDown && !at_rest {
            clock.time("tear_down", || self.end_sandbox())?;
        }
        let ended =
            lost.map(|error| self.give_up("it could not go on after a commit", &error)).transpose()?;
        let view = view_of(&capturing, clock.total());
        let outcome = self.captured(&capturing, ended, &view, receipt)?;
        self.actors.world.step("actor.captured");
        // One of nothing was not brought anywhere: its manifest is all there is of it.
        if capturing.kind.is_committed()
            && capturing.scope > Scope::None
            && let Err(error) = directory.remove()
        {
            let error = crate::exit::one_line(&error);
            tracing::warn!(actor = self.actor.id, error, "the local files of a committed capture stay");
        }
        if at_rest || self.actor.document.standing == Standing::Running {
            // Of one that was just brought to rest this is tidied up with the rest.
            self.finish_dropping(Reach::Node);
        }
        Ok(outcome)
    }

    /// Stores that a capture is complete, and that the one it replaces goes. `ended`: where an actor stands that could not go on.
    fn captured(
        &mut self,
        capturing: &Capturing,
        ended: Option<Standing>,
        view: &CaptureView,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        let mut captures = CaptureChanges::new();
        let mut actor = self.actor.clone();
        let was_running = actor.document.standing == Standing::Running;
        if let Some(standing) = standing_after(capturing.kind) {
            let volumes = match capturing.scope {
                Scope::None => self.birth_volumes(),
                Scope::Data | Scope::Full => capturing.cut.clone(),
            };
            let checkpoint = Checkpoint { capture: capturing.id, scope: capturing.scope, volumes };
            let replaced = actor.document.checkpoint.replace(checkpoint);
            captures.extend(replaced.and_then(|replaced| self.released(&replaced, capturing.id)));
            actor.document.standing = standing;
        }
        if let Some(ended) = ended {
            actor.document.standing = ended;
        }
        actor.document.operation = None;
        actor.document.last_capture = Some(view.clone());
        let (capture, phases) = (Some(view.clone()), view.phases.clone());
        let outcome = Outcome { actor: actor.clone(), capture, phases };
        // Of a pause what was begun and cut was brought to the disk before the manifest: whoever finds the two completes it to the same. A committed capture gives its manifest up after this.
        let is_found = was_running && !capturing.kind.is_committed() && !capturing.cut.is_empty();
        let durability = if is_found { Durability::Process } else { Durability::Disk };
        self.change(captures, durability, receipt.of(outcome.clone()), |stored| *stored = actor)?;
        Ok(outcome)
    }
}

/// Returns what is asked of an actor with a capture.
fn asked(kind: CaptureKind) -> OperationKind {
    match kind {
        CaptureKind::Pause => OperationKind::Pause,
        CaptureKind::Suspend => OperationKind::Suspend,
        CaptureKind::Commit | CaptureKind::Birth => OperationKind::Commit,
    }
}

fn standing_after(kind: CaptureKind) -> Option<Standing> {
    match kind {
        CaptureKind::Pause => Some(Standing::Paused),
        CaptureKind::Suspend => Some(Standing::Suspended),
        CaptureKind::Commit | CaptureKind::Birth => None,
    }
}

fn view_of(capturing: &Capturing, phases: Phases) -> CaptureView {
    CaptureView { id: capturing.id.to_string(), kind: capturing.kind, scope: capturing.scope, phases }
}

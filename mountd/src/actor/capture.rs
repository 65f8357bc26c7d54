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
//! - The manifest is the last file that appears, with a rename: when it is there the capture is complete, before it there is none.
//! - Up to there an error, or a death, leaves the actor running as before; from there on the capture is completed. A committed
//!   capture that cannot be published is dropped again.
//! - What the sandbox of an actor at rest has left behind, mounts above all, is taken away in the background. Whoever wants to do something with
//!   the actor waits for that.
//!
//! # Crash consistency
//! See [`super::recovery`], which does the same from each stored step.

use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use durdir_fs::drain;
use durdir_fs::ids::{CaptureId, RequestId};
use durdir_fs::store::record::OutcomeV1;
use durdir_fs::store::{CutReport, Durability, Known, Receipt, RequestKey};
use durdir_snapshot::{Publication, write_durably};

use super::directory::{CaptureDirectory, failed};
use super::driver::{Begun, CaptureChanges, Clock, Driver, Outcome, Request};
use super::error::ActorError;
use super::manifest::{Contents, ImageFile, Manifest, RuntimeVersion};
use super::record::{Capture, CaptureDocument, CaptureView, Checkpoint, Phases, captured};
use super::registry::Actors;
use super::state::{CaptureKind, CaptureStep, Capturing, Held, Operation, OperationKind, Standing};
use super::thaw::Note;
use super::world::limits;
use crate::api::ApiError;
use crate::runtime::AfterSave;
use crate::template::Scope;

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
        let asked = match kind {
            CaptureKind::Pause => OperationKind::Pause,
            CaptureKind::Suspend => OperationKind::Suspend,
            CaptureKind::Commit | CaptureKind::Birth => OperationKind::Commit,
        };
        let mut driver = match self.begin(id, asked, request)? {
            Begun::Before(driver, outcome) => return driver.answer(*outcome, receipt),
            Begun::Now(driver) => driver,
        };
        let scope = driver.check_scope(kind, scope)?;
        let id = CaptureId(self.world.new_id().into_bytes());
        let begin = (request.begin)(&id.to_string());
        let capturing =
            Capturing { id, kind, scope, step: CaptureStep::Quiesce, from: None, cut: Vec::new() };
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
        let scope = asked.unwrap_or(most);
        let id = || self.actor.id.clone();
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
        match (&self.actor.document.standing, &self.actor.document.checkpoint) {
            (Standing::Paused | Standing::Suspended, Some(checkpoint)) if scope > checkpoint.scope => {
                let what = format!("the capture that actor {} is paused with", self.actor.id);
                Err(ActorError::Widened { what, has: checkpoint.scope, asked: scope })
            }
            (Standing::Created | Standing::Exited { .. }, _) if scope == Scope::Full => {
                let why = "it does not run, so that there is no memory; `--scope Data` captures its volumes";
                Err(ActorError::NothingToCapture { id: id(), why })
            }
            _ => Ok(scope),
        }
    }

    /// Checks what can be checked before the sandbox is paused. Returns what is going to save its memory, if anything is.
    fn check_running(&self, capturing: &Capturing) -> Result<Option<RuntimeVersion>, ApiError> {
        let (runtime, sandbox) = (self.runtime()?, self.sandbox());
        let mut version = None;
        if capturing.scope == Scope::Full {
            runtime.check_save(&sandbox).map_err(|error| self.runtime_error(error))?;
            version = Some(self.runtime_version()?);
        }
        self.check_place(capturing)?;
        self.check_alive()?;
        Ok(version)
    }

    /// Checks that a committed capture can go where it is to go.
    fn check_place(&self, capturing: &Capturing) -> Result<(), ApiError> {
        if capturing.kind.is_committed() && capturing.scope > Scope::None {
            let target = self.actors.world.target(&self.actor.recipe.location)?;
            let id = capturing.id;
            target.check().map_err(|source| ActorError::Publish { id, source })?;
        }
        Ok(())
    }

    fn capture_running(
        &mut self,
        mut capturing: Capturing,
        runtime: Option<RuntimeVersion>,
        begin: Receipt<'_, ()>,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        let mut clock = Clock::start();
        self.journal_with(Operation::Capture(capturing.clone()), begin, "actor.quiesce")?;
        match self.capture_until_bound(&mut capturing, runtime, &mut clock) {
            Ok(manifest) => {
                self.bound(&mut capturing, manifest, &clock)?;
                self.complete(capturing, clock, receipt)
            }
            Err(error) => Err(self.undone(error, |driver| driver.abort(&capturing))),
        }
    }

    /// From the pause to the manifest, whose hash is returned.
    fn capture_until_bound(
        &mut self,
        capturing: &mut Capturing,
        saved_by: Option<RuntimeVersion>,
        clock: &mut Clock,
    ) -> Result<String, ApiError> {
        let (runtime, sandbox) = (self.runtime()?, self.sandbox());
        // A suspend ends the sandbox as a pause does; after a commit it goes on.
        let manifest = self.actors.directory.of(&self.actor.id).capture(capturing.id).manifest();
        let over_with = (capturing.kind != CaptureKind::Commit).then_some(manifest);
        let note = Note::new(runtime.name(), sandbox.clone(), over_with);
        note.write(&self.actors.directory.of(&self.actor.id))?;
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        directory.create()?;
        let image = directory.image();
        let helper = clock.time("quiesce", || {
            std::thread::scope(|scope| {
                let prepare = || self.actors.world.prepare_drain();
                let prepared = (capturing.scope > Scope::None).then(|| scope.spawn(prepare));
                let paused = runtime.pause(&sandbox, limits::quiesce());
                paused.map_err(|error| self.runtime_error(error))?;
                self.actors.world.step("actor.paused");
                self.check_alive()?;
                Ok::<_, ApiError>(prepared.and_then(joined))
            })
        })?;
        if capturing.scope > Scope::None {
            clock.time("drain", || {
                let programs = runtime.programs(&sandbox).map_err(|error| self.runtime_error(error))?;
                let programs = programs.map_or(drain::Scope::All, drain::Scope::Processes);
                self.actors.world.drain(&self.actor.volumes, &programs, helper)
            })?;
        }
        if capturing.scope == Scope::Full {
            self.advance(capturing, CaptureStep::Save, "actor.save")?;
            let saved = clock.time("save", || runtime.save(&sandbox, &image, limits::save()));
            match saved.map_err(|error| self.runtime_error(error))? {
                // Both are fine: what comes next needs no sandbox.
                AfterSave::Paused | AfterSave::Ended => self.actors.world.step("actor.saved"),
            }
        }
        std::thread::scope(|scope| {
            // What was saved is hashed and brought to the disk while the volumes are cut.
            let work = || ImageFile::all_durable(&image);
            let files = (capturing.scope == Scope::Full).then(|| scope.spawn(work));
            if capturing.scope > Scope::None && !self.actor.volumes.is_empty() {
                self.advance(capturing, CaptureStep::Cut, "actor.cut")?;
                let names = self.volume_names();
                capturing.cut = clock.time("cut", || self.cut(capturing.id, &names))?;
                self.actors.world.step("actor.was-cut");
            }
            clock.time("bind", || {
                let files = files.map_or(Ok(Vec::new()), joined)?;
                self.bind(capturing, saved_by, files, &directory)
            })
        })
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

    /// Returns the names in the template and in the store of all volumes.
    fn volume_names(&self) -> Vec<(String, String)> {
        let names = self.actor.named_volumes();
        names.map(|(name, _)| (name.to_owned(), self.actor.volume_name(name))).collect()
    }

    /// Ends the epochs of volumes, all at one instant. What it made is on record under the capture's id, in the batch of the cut.
    pub(super) fn cut(&self, id: CaptureId, volumes: &[(String, String)]) -> Result<Vec<Held>, ApiError> {
        let names: Vec<&str> = volumes.iter().map(|(_, stored)| stored.as_str()).collect();
        let receipt = Receipt::new(cut_key(id), |report: &CutReport| {
            let made = report.snapshots.iter().filter(|snapshot| snapshot.made);
            let made: Vec<_> = made.map(|snapshot| (&snapshot.volume, snapshot.epoch.0)).collect();
            OutcomeV1::Done(serde_json::to_vec(&made).expect("names and numbers are JSON"))
        });
        let report = self.actors.store.snapshot(&names, None, receipt)?;
        let mut held = Vec::new();
        for ((name, stored), snapshot) in volumes.iter().zip(report.snapshots) {
            let (volume, epoch) = (self.actors.store.volume(stored)?.id, snapshot.epoch);
            let owned = snapshot.made || self.actors.is_owned_by_captures(volume, epoch);
            held.push(Held { name: name.clone(), volume, epoch, owned });
        }
        Ok(held)
    }

    /// Returns what a cut made that was not taken note of.
    pub(super) fn cut_made(&self, id: CaptureId) -> Result<Vec<Held>, ApiError> {
        let Known::Outcome(OutcomeV1::Done(made)) = self.actors.store.reply_to(cut_key(id))? else {
            return Ok(Vec::new());
        };
        let made: Vec<(String, u64)> = serde_json::from_slice(&made).unwrap_or_default();
        let mut held = Vec::new();
        for (name, epoch) in made {
            // One that was removed since has no snapshots to be removed.
            if let Ok(volume) = self.actors.store.volume(&name) {
                let epoch = durdir_fs::ids::Epoch(epoch);
                held.push(Held { name, volume: volume.id, epoch, owned: true });
            }
        }
        Ok(held)
    }

    /// Writes the manifest: from then on the capture is there. `files`: what is on the disk already.
    fn bind(
        &mut self,
        capturing: &mut Capturing,
        runtime: Option<RuntimeVersion>,
        files: Vec<ImageFile>,
        directory: &CaptureDirectory,
    ) -> Result<String, ApiError> {
        self.advance(capturing, CaptureStep::Bind, "actor.bind")?;
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
        let path = directory.manifest();
        write_durably(&path, &bytes).map_err(|error| failed("write", &path, error))?;
        self.actors.world.step("actor.manifest");
        Ok(hash)
    }

    pub(super) fn runtime_version(&self) -> Result<RuntimeVersion, ApiError> {
        let runtime = self.runtime()?;
        let abilities = runtime.probe(limits::probe()).map_err(|error| self.runtime_error(error))?;
        Ok(RuntimeVersion { name: runtime.name().to_owned(), version: abilities.version })
    }

    /// Takes note that the capture is bound, and of what is done next.
    pub(super) fn bound(
        &mut self,
        capturing: &mut Capturing,
        manifest: String,
        clock: &Clock,
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
        let operation = Operation::Capture(capturing.clone());
        let view = view_of(capturing, clock.phases());
        // The manifest is on the disk. That is enough: whoever finds it there completes the capture.
        self.change(vec![(capture.id, Some(capture))], Durability::Process, Receipt::none(), |actor| {
            actor.document.operation = Some(operation);
            // Its phases so far, should this worker not come to the end.
            actor.document.last_capture = Some(view);
        })?;
        self.actors.world.step("actor.bound");
        Ok(())
    }

    /// Completes a capture that is bound.
    pub(super) fn complete(
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
            self.advance(&mut capturing, CaptureStep::Publish, "actor.publish")?;
        }
        if capturing.step == CaptureStep::Publish {
            let published = clock.time("publish", || self.publish(&capturing));
            if let Err(error) = published {
                return Err(self.undone(error, |driver| driver.unpublish(&capturing)));
            }
            self.actors.world.step("actor.published");
            if capturing.kind == CaptureKind::Suspend {
                self.advance(&mut capturing, CaptureStep::TearDown, "actor.tear-down")?;
            }
        }
        if capturing.step == CaptureStep::TearDown && !at_rest {
            clock.time("tear_down", || self.end_sandbox())?;
        }
        let view = view_of(&capturing, clock.total());
        let outcome = self.captured(&capturing, &view, receipt)?;
        if capturing.kind.is_committed()
            && let Err(error) = directory.remove()
        {
            let error = crate::exit::one_line(&error);
            tracing::warn!(actor = self.actor.id, error, "the local files of a committed capture stay");
        }
        if at_rest || self.actor.document.standing == Standing::Running {
            // Of one that was just brought to rest this is tidied up with the rest.
            self.finish_dropping();
        }
        match lost {
            None => Ok(outcome),
            Some(error) => {
                let id = self.actor.id.clone();
                self.lose("it could not go on after a commit")?;
                Err(ActorError::Lost { id, source: Box::new(error) }.into())
            }
        }
    }

    /// Stores that a capture is complete, and that the one it replaces goes.
    fn captured(
        &mut self,
        capturing: &Capturing,
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
        actor.document.operation = None;
        actor.document.last_capture = Some(view.clone());
        let (capture, phases) = (Some(view.clone()), view.phases.clone());
        let outcome = Outcome { actor: actor.clone(), capture, phases };
        // Of a pause the cut has brought to the disk what was begun, and the manifest is there: whoever finds the two completes it to the
        // same. A committed capture gives its manifest up after this.
        let is_found = was_running && !capturing.kind.is_committed() && !capturing.cut.is_empty();
        let durability = if is_found { Durability::Process } else { Durability::Disk };
        self.change(captures, durability, receipt.of(outcome.clone()), |stored| *stored = actor)?;
        Ok(outcome)
    }

    /// Undoes a capture that is not bound: the actor runs as before, or is at rest as before.
    pub(super) fn abort(&mut self, capturing: &Capturing) -> Result<(), ApiError> {
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        if self.actor.document.standing == Standing::Running {
            let image = (capturing.scope == Scope::Full && capturing.step >= CaptureStep::Save)
                .then(|| directory.image());
            if let Err(error) = self.keep_running(image.as_deref()) {
                let error = crate::exit::one_line(&error);
                self.lose(&format!("it could not be brought back after a capture failed: {error}"))?;
            }
        }
        self.actors.world.step("actor.aborted");
        let mut made = capturing.cut.clone();
        if made.is_empty() {
            made = self.cut_made(capturing.id)?;
        }
        if capturing.from.is_none() {
            self.drop_snapshots(&made, None)?;
        }
        directory.remove()?;
        self.stand()
    }

    /// Captures an actor that does not run: what it was stopped with, narrowed, or the volumes as they are.
    fn capture_at_rest(
        &mut self,
        mut capturing: Capturing,
        begin: Receipt<'_, ()>,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        let mut clock = Clock::start();
        let checkpoint = match self.actor.document.standing {
            Standing::Paused | Standing::Suspended => self.actor.document.checkpoint.clone(),
            Standing::Created | Standing::Exited { .. } | Standing::Running => None,
        };
        capturing.from = checkpoint.as_ref().map(|checkpoint| checkpoint.capture);
        capturing.step = CaptureStep::Cut;
        self.journal_with(Operation::Capture(capturing.clone()), begin, "actor.cut")?;
        let made = match &checkpoint {
            Some(checkpoint) => self.narrow(&mut capturing, checkpoint, &mut clock),
            None => self.cut_at_rest(&mut capturing, &mut clock),
        };
        let manifest = match made {
            Ok(manifest) => manifest,
            Err(error) => return Err(self.undone(error, |driver| driver.abort(&capturing))),
        };
        self.bound(&mut capturing, manifest, &clock)?;
        self.complete(capturing, clock, receipt)
    }

    fn cut_at_rest(&mut self, capturing: &mut Capturing, clock: &mut Clock) -> Result<String, ApiError> {
        let names = self.volume_names();
        capturing.cut = clock.time("cut", || self.cut(capturing.id, &names))?;
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        directory.create()?;
        clock.time("bind", || self.bind(capturing, None, Vec::new(), &directory))
    }

    /// Makes a capture of a part of another one, or of all of it: the same volumes, and the same memory or none.
    fn narrow(
        &mut self,
        capturing: &mut Capturing,
        checkpoint: &Checkpoint,
        clock: &mut Clock,
    ) -> Result<String, ApiError> {
        if capturing.scope > Scope::None {
            capturing.cut = checkpoint.volumes.clone();
        }
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        directory.create()?;
        let mut saved_by = None;
        if capturing.scope == Scope::Full {
            clock.time("save", || {
                let (manifest, image) = self.verified(checkpoint)?;
                saved_by = manifest.runtime;
                for file in ImageFile::all(&image)? {
                    let (from, to) = (image.join(&file.name), directory.image().join(&file.name));
                    std::fs::hard_link(&from, &to)
                        .or_else(|_| std::fs::copy(&from, &to).map(drop))
                        .map_err(|error| failed("copy", &from, error))?;
                }
                Ok::<_, ApiError>(())
            })?;
        }
        clock.time("bind", || {
            let full = capturing.scope == Scope::Full;
            let files = if full { ImageFile::all_durable(&directory.image())? } else { Vec::new() };
            self.bind(capturing, saved_by, files, &directory)
        })
    }

    /// Brings a bound capture to its permanent place. Safe to be done again.
    fn publish(&mut self, capturing: &Capturing) -> Result<(), ApiError> {
        let id = capturing.id;
        let mut capture = self.actors.capture(id).ok_or(ActorError::NoCommit { id: id.to_string() })?;
        if capturing.scope == Scope::None {
            return Ok(());
        }
        let location = self.actor.recipe.location.clone();
        let target = self.actors.world.target(&location)?;
        let directory = self.actors.directory.of(&self.actor.id).capture(id);
        let path = directory.manifest();
        let manifest = std::fs::read(&path).map_err(|error| failed("read", &path, error))?;
        let files = Manifest::decode(id, &manifest, &capture.document.manifest)?.files;
        let names: Vec<String> = files.into_iter().map(|file| file.name).collect();
        let published = self.publish_volumes(capturing)?;
        self.actors.world.step("actor.volumes-published");
        let (called, image) = (id.to_string(), directory.image());
        let publication = Publication { id: &called, manifest: &manifest, files: &image, names: &names };
        target.publish(publication).map_err(|source| ActorError::Publish { id, source })?;
        capture.document.location = Some(location);
        capture.snapshots = match capturing.kind {
            // It is what the actor goes on from, too.
            CaptureKind::Suspend => captured(capturing.cut.iter().chain(&published)),
            CaptureKind::Pause | CaptureKind::Commit | CaptureKind::Birth => captured(&published),
        };
        if capturing.kind != CaptureKind::Suspend {
            capture.document.dropping = capturing.cut.clone();
        }
        capture.document.published = published;
        self.change(vec![(id, Some(capture))], Durability::Disk, Receipt::none(), |_| {})
    }

    /// Makes the volumes that stand for a committed capture, and outlive its actor. O(1) each.
    fn publish_volumes(&self, capturing: &Capturing) -> Result<Vec<Held>, ApiError> {
        let store = &self.actors.store;
        let mut volumes = Vec::new();
        for held in &capturing.cut {
            let name = published_name(capturing.id, &held.name);
            if store.volume(&name).is_err() {
                let snapshot = store.snapshot_at(held.volume, held.epoch);
                let snapshot = snapshot.ok_or_else(|| ActorError::Damaged {
                    id: capturing.id,
                    what: format!("volume {} has no snapshot at epoch {}", held.name, held.epoch),
                })?;
                store.fork(&snapshot, &name, Receipt::none())?;
            }
            volumes.push((held.name.clone(), name));
        }
        if volumes.is_empty() {
            return Ok(Vec::new());
        }
        // Again after a death: nothing was written since, so that the snapshots are the same.
        let mut published = self.cut(published_cut(capturing.id), &volumes)?;
        published.iter_mut().for_each(|held| held.owned = true);
        Ok(published)
    }

    /// Drops a capture that could not be published. An actor that was to be suspended goes on.
    fn unpublish(&mut self, capturing: &Capturing) -> Result<(), ApiError> {
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        if self.actor.document.standing == Standing::Running {
            let image = (capturing.scope == Scope::Full).then(|| directory.image());
            if let Err(error) = self.keep_running(image.as_deref()) {
                let error = crate::exit::one_line(&error);
                self.lose(&format!("it could not be brought back after a suspend failed: {error}"))?;
            }
        }
        self.change(vec![(capturing.id, None)], Durability::Disk, Receipt::none(), |actor| {
            actor.document.last_capture = None;
        })?;
        for held in &capturing.cut {
            match self.actors.store.remove_volume(&published_name(capturing.id, &held.name), Receipt::none())
            {
                Ok(()) | Err(durdir_fs::FsError::VolumeNotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if capturing.from.is_none() {
            self.drop_snapshots(&capturing.cut, None)?;
        }
        directory.remove()?;
        self.stand()
    }
}

/// Returns the store's name of the volume that stands for one of a committed capture. No actor's volume has such a name: an
/// underscore is not in a DNS label.
fn published_name(id: CaptureId, volume: &str) -> String {
    let hex: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("_commit.{hex}.{volume}")
}

fn standing_after(kind: CaptureKind) -> Option<Standing> {
    match kind {
        CaptureKind::Pause => Some(Standing::Paused),
        CaptureKind::Suspend => Some(Standing::Suspended),
        CaptureKind::Commit | CaptureKind::Birth => None,
    }
}

/// Returns what a thread has come to.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn view_of(capturing: &Capturing, phases: Phases) -> CaptureView {
    CaptureView { id: capturing.id.to_string(), kind: capturing.kind, scope: capturing.scope, phases }
}

/// The record of what a cut made has the id of its capture.
fn cut_key(id: CaptureId) -> RequestKey {
    RequestKey::new(RequestId(id.0), "the cut of a capture", &[])
}

/// Returns an id for the cut of the published volumes: another one than for that of the actor's.
fn published_cut(id: CaptureId) -> CaptureId {
    let mut bytes = id.0;
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    CaptureId(bytes)
}

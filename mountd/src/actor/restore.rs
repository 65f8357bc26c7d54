//! Running an actor: from the beginning, or from its checkpoint.
//!
//! # Invariants
//! - Everything about a checkpoint is verified before its sandbox is made: manifest, files, runtime, class, template, volumes. One that
//!   does not fit is refused in a sentence, and the actor stays as it is.
//! - The heads of the volumes are set to the cut, and the cut stays as it is: what failed is tried again from the same.
//! - An operation returns when the programs are ready.
//!
//! # Crash consistency
//! A death takes back what was begun: the sandbox is ended and the volumes are unmounted. The next attempt sets them back.

use std::path::PathBuf;

use durdir_fs::FsError;
use durdir_fs::store::{Durability, Receipt};
use durdir_snapshot::read_small;

use super::driver::{Begun, Driver, Outcome, Request};
use super::error::ActorError;
use super::manifest::Manifest;
use super::phases::{Clock, Phases};
use super::record::{Capture, CaptureView, Checkpoint, DoneView};
use super::registry::Actors;
use super::state::{CaptureKind, Held, Operation, OperationKind, Standing};
use super::world::limits;
use crate::api::ApiError;
use crate::runtime::SandboxState;
use crate::template::Scope;

impl Actors {
    /// Starts an actor that never ran, or of which anything ended, on its volumes as they are.
    pub(crate) fn start(
        &self,
        id: &str,
        request: &Request<'_>,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        let mut driver = match self.begin(id, OperationKind::Start, request)? {
            Begun::Before(driver, outcome) => return driver.answer(*outcome, receipt),
            Begun::Now(driver) => driver,
        };
        driver.check_not_running()?;
        driver.preflight()?;
        let operation = self.world.new_id().to_string();
        let begin = (request.begin)(&operation);
        driver.run(Operation::Start { id: operation }, begin, receipt, Clock::start(), None)
    }

    /// Lets an actor go on from its checkpoint.
    pub(crate) fn resume(
        &self,
        id: &str,
        request: &Request<'_>,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        let driver = match self.begin(id, OperationKind::Resume, request)? {
            Begun::Before(driver, outcome) => return driver.answer(*outcome, receipt),
            Begun::Now(driver) => driver,
        };
        let checkpoint = driver.actor.document.checkpoint.clone();
        let checkpoint = checkpoint.ok_or_else(|| ActorError::Gone { id: id.to_owned() })?;
        let mut clock = Clock::start();
        let image = clock.time("verify", || {
            driver.preflight()?;
            let (_, image) = driver.verified(&checkpoint)?;
            Ok::<_, ApiError>((checkpoint.scope == Scope::Full).then_some(image))
        })?;
        let operation = self.world.new_id().to_string();
        let begin = (request.begin)(&operation);
        driver.run(Operation::Resume { id: operation }, begin, receipt, clock, Some((checkpoint, image)))
    }
}

impl Driver<'_> {
    /// Refuses if all of it runs. What is left of one that has ended in part is taken away.
    fn check_not_running(&mut self) -> Result<(), ApiError> {
        if self.actor.document.standing != Standing::Running {
            return Ok(());
        }
        match self.sandbox_state()? {
            SandboxState::Running | SandboxState::Paused => {
                let (id, state) = (self.actor.id.clone(), self.actor.state());
                Err(ActorError::Misplaced { id, state, remedy: "it runs already" }.into())
            }
            SandboxState::Exited { container, .. } => {
                self.lose(&format!("container {container} ended, and it was started anew"))
            }
            SandboxState::Absent | SandboxState::Created => self.lose("its sandbox is gone"),
        }
    }

    /// Checks what can be checked before a sandbox is made.
    fn preflight(&self) -> Result<(), ApiError> {
        let sandbox = self.sandbox();
        self.actors.world.check_outside(&sandbox.host_files())?;
        let checked = self.runtime()?.preflight(&sandbox);
        checked.map_err(|error| self.runtime_error(error))
    }

    fn run(
        mut self,
        operation: Operation,
        begin: Receipt<'_, ()>,
        receipt: Receipt<'_, Outcome>,
        mut clock: Clock,
        from: Option<(Checkpoint, Option<PathBuf>)>,
    ) -> Result<Outcome, ApiError> {
        let id = operation.id().unwrap_or_default();
        let step = if from.is_some() { "actor.resume" } else { "actor.start" };
        self.journal_with(operation, begin, step)?;
        if let Err(error) = self.bring_up(&mut clock, from.as_ref()) {
            return Err(self.undone(error, |driver| driver.take_back()));
        }
        let phases = clock.total();
        let mut actor = self.actor.clone();
        actor.document.standing = Standing::Running;
        actor.document.operation = None;
        let capture = from.map(|(checkpoint, _)| self.view_of(&checkpoint));
        let shown = capture.clone().map(Box::new);
        actor.document.done = Some(DoneView { id, phases: phases.clone(), from: shown });
        let outcome = Outcome { actor: actor.clone(), capture, phases };
        self.change(Vec::new(), Durability::Disk, receipt.of(outcome.clone()), |stored| *stored = actor)?;
        Ok(outcome)
    }

    /// Returns what is gone on from, for people.
    fn view_of(&self, checkpoint: &Checkpoint) -> CaptureView {
        let (id, scope) = (checkpoint.capture, checkpoint.scope);
        let kind = self.actors.capture(id).map_or(CaptureKind::Pause, |capture| capture.document.kind);
        CaptureView { id: id.to_string(), kind, scope, phases: Phases::default() }
    }

    /// Mounts the volumes, makes the sandbox and waits until it is ready.
    fn bring_up(
        &mut self,
        clock: &mut Clock,
        from: Option<&(Checkpoint, Option<PathBuf>)>,
    ) -> Result<(), ApiError> {
        let (runtime, sandbox) = (self.runtime()?, self.sandbox());
        clock.time("mount", || {
            // Remains of an attempt that could not be undone.
            self.bring_down()?;
            let for_memory = from.is_some_and(|(_, image)| image.is_some());
            if let Some((checkpoint, _)) = from {
                self.set_back(checkpoint, for_memory)?;
            }
            self.mount_volumes(for_memory)
        })?;
        self.actors.world.step("actor.mounted");
        let failed = |error| self.runtime_error(error);
        clock.time("resume", || match from {
            Some((_, Some(image))) => {
                runtime.restore(&sandbox, image, limits::restore()).map_err(failed)?;
                self.let_go_of_unlinked()
            }
            Some((_, None)) | None => {
                runtime.create(&sandbox, limits::start()).map_err(failed)?;
                self.actors.world.step("actor.created");
                runtime.start(&sandbox, limits::start()).map_err(failed)
            }
        })?;
        self.actors.world.step("actor.up");
        clock.time("ready", || self.actors.world.wait_ready(&self.actor, &*runtime, &sandbox)).map_err(failed)
    }

    fn mount_volumes(&self, for_memory: bool) -> Result<(), ApiError> {
        let directory = self.actors.directory.of(&self.actor.id);
        directory.prepare(self.actor.named_volumes().map(|(name, _)| name))?;
        for (name, _) in self.actor.named_volumes() {
            self.mount_volume(name, for_memory)?;
        }
        Ok(())
    }

    /// Sets the heads of the volumes to a checkpoint, where they are not there. O(1) each.
    fn set_back(&self, checkpoint: &Checkpoint, for_memory: bool) -> Result<(), ApiError> {
        let store = &self.actors.store;
        for held in &checkpoint.volumes {
            let name = self.actor.volume_name(&held.name);
            if self.is_at_cut(&name, held.epoch, for_memory)? {
                continue;
            }
            let snapshot = store.snapshot_at(held.volume, held.epoch);
            let snapshot = snapshot.ok_or_else(|| mismatched(checkpoint, held))?;
            store.rollback(&name, &snapshot, Receipt::none())?;
        }
        Ok(())
    }

    /// Takes a start or resume back: the actor stands where it stood.
    pub(super) fn take_back(&mut self) -> Result<(), ApiError> {
        self.bring_down()?;
        self.stand()
    }

    /// Verifies everything that a checkpoint consists of. Returns its manifest, and where its memory is.
    pub(super) fn verified(&self, checkpoint: &Checkpoint) -> Result<(Manifest, PathBuf), ApiError> {
        let id = checkpoint.capture;
        let damaged = |what: &str| ActorError::Damaged { id, what: what.to_owned() };
        let capture = self.actors.capture(id).ok_or_else(|| damaged("its record is missing"))?;
        let (bytes, image) = match &capture.document.location {
            Some(location) => {
                let target = self.actors.world.target(location)?;
                let opened = self.actors.at_place(id, 0, move || target.open(&id.to_string()));
                let opened = opened.map_err(|error| match error {
                    ActorError::Publish { source, .. } => damaged(&source.to_string()),
                    error => error,
                })?;
                (opened.manifest, opened.files)
            }
            None => {
                let directory = self.actors.directory.of(&capture.document.actor).capture(id);
                let manifest = directory.manifest();
                let bytes = read_small(&manifest)
                    .map_err(|error| damaged(&format!("{}: {error}", manifest.display())))?;
                (bytes, directory.image())
            }
        };
        let manifest = Manifest::decode(id, &bytes, &capture.document.manifest)?;
        self.check_belongs(checkpoint, &manifest)?;
        self.check_volumes(checkpoint, &capture, &manifest)?;
        if checkpoint.scope == Scope::Full {
            let bytes = manifest.files.iter().map(|file| file.bytes).sum();
            let (files, place) = (manifest.clone(), image.clone());
            let checked = self.actors.at_place(id, bytes, move || Ok(files.check_files(&place)))?;
            checked.map_err(|error| match error {
                // What cannot be read is no memory to go on with, whatever the reason.
                ActorError::Io { action, path, source } => {
                    damaged(&format!("cannot {action} {}: {source}", path.display()))
                }
                error => error,
            })?;
        }
        Ok((manifest, image))
    }

    /// Memory belongs to one template, one class of sandboxes and one version of one runtime.
    fn check_belongs(&self, checkpoint: &Checkpoint, manifest: &Manifest) -> Result<(), ApiError> {
        let id = checkpoint.capture;
        let refuse =
            |what: String, remedy: Option<String>| Err(ActorError::Mismatched { id, what, remedy }.into());
        if checkpoint.scope > manifest.scope {
            let (what, has) = (format!("capture {id}"), manifest.scope);
            return Err(ActorError::Widened { what, has, asked: checkpoint.scope }.into());
        }
        if checkpoint.scope < Scope::Full {
            return Ok(());
        }
        let recipe = &self.actor.recipe;
        if manifest.sandbox_class != recipe.sandbox_class {
            let what = format!(
                "sandbox class {}, it was made in class {}",
                recipe.sandbox_class, manifest.sandbox_class
            );
            return refuse(what, None);
        }
        if manifest.template != recipe.hash {
            return refuse(format!("the template of actor {}", self.actor.id), None);
        }
        let here = self.runtime_version()?;
        match &manifest.runtime {
            Some(saved) if *saved == here => Ok(()),
            Some(saved) => {
                let what = format!(
                    "{} {}, it was saved by {} {}",
                    here.name, here.version, saved.name, saved.version
                );
                let (id, again) = (
                    &self.actor.id,
                    match self.actor.document.standing {
                        Standing::Suspended => "suspend",
                        _ => "pause",
                    },
                );
                let remedy = format!(
                    "install that version, or let go of the memory: `durdir actor {again} {id} --scope Data`"
                );
                refuse(what, Some(remedy))
            }
            None => Err(ActorError::Damaged { id, what: "it does not say what saved it".to_owned() }.into()),
        }
    }

    /// The volumes are those of the capture, or forks of those that stand for it.
    fn check_volumes(
        &self,
        checkpoint: &Checkpoint,
        capture: &Capture,
        manifest: &Manifest,
    ) -> Result<(), ApiError> {
        if checkpoint.scope == Scope::None {
            return Ok(());
        }
        let store = &self.actors.store;
        let is_own = capture.document.actor == self.actor.id && checkpoint.volumes == manifest.volumes;
        for (name, volume) in self.actor.named_volumes() {
            let held = checkpoint.volumes.iter().find(|held| held.name == name && held.volume == volume);
            let Some(held) = held else {
                let (id, what) = (checkpoint.capture, format!("volume {name} of actor {}", self.actor.id));
                return Err(ActorError::Mismatched { id, what, remedy: None }.into());
            };
            if store.snapshot_at(held.volume, held.epoch).is_none() {
                return Err(mismatched(checkpoint, held).into());
            }
            if is_own {
                continue;
            }
            // A fork: its volume began with the one that stands for the capture.
            let info = store.volume(&self.actor.volume_name(name))?;
            let origin = capture.document.published.iter().find(|published| published.name == name);
            let origin = origin.and_then(|published| store.snapshot_at(published.volume, published.epoch));
            if origin.is_none() || origin != info.parent {
                return Err(mismatched(checkpoint, held).into());
            }
        }
        Ok(())
    }

    /// Returns where the volumes begin, for an actor that always starts afresh.
    pub(super) fn birth_volumes(&self) -> Vec<Held> {
        let birth = self.actor.document.birth.and_then(|birth| self.actors.capture(birth));
        let Some(birth) = birth.filter(|birth| birth.document.kind == CaptureKind::Birth) else {
            return Vec::new();
        };
        let names = self.actor.named_volumes();
        let held = names.filter_map(|(name, volume)| {
            let found = birth.snapshots.iter().find(|held| held.volume == volume)?;
            Some(Held { name: name.to_owned(), volume, epoch: found.epoch, owned: found.owned })
        });
        held.collect()
    }
}

fn mismatched(checkpoint: &Checkpoint, held: &Held) -> ActorError {
    let what =
        format!("volume {} as it is: the epoch {} that it was bound to is gone", held.name, held.epoch);
    ActorError::Mismatched { id: checkpoint.capture, what, remedy: None }
}

/// Removing what is gone is fine.
pub(super) fn gone_is_fine(removed: Result<(), FsError>) -> Result<(), ApiError> {
    match removed {
        Ok(()) | Err(FsError::VolumeNotFound { .. } | FsError::SnapshotNotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

//! What becomes of an actor whose worker died: from each stored step, back or forth. A clean start is a recovery with nothing to do.
//!
//! | stored | found | then |
//! |---|---|---|
//! | birth | | the volumes are cut, again |
//! | start, resume | | back: the sandbox is ended, the volumes are unmounted; the actor stands where it stood, its checkpoint as it was |
//! | capture: quiesce, save, cut, bind | the manifest without a mark, and what it names | forth: the capture is there |
//! | | no such manifest, or a mark; a sandbox | back: it goes on; the cut and the files are dropped |
//! | | neither, and it was being saved | back: it is restored from what was saved |
//! | | its volumes are not mounted | back, and it has ended |
//! | capture: resume, publish, tear down | | forth; one that cannot be published is withdrawn |
//! | capture: withdraw | | back: it goes on; the cut, the files and what was published are dropped |
//! | removal | | forth |
//! | nothing; it stands at running | it runs, its volumes are mounted | nothing |
//! | | it is paused | it goes on |
//! | | anything else | it has ended: what is left is taken away |
//! | nothing; it stands elsewhere | mounts | they are taken away: every pause leaves that to this |
//!
//! Where no worker gets to do this, [`super::thaw`] lets go on what is paused.
//!
//! A capture that goes back first lets the sandbox go on, and drops things after that: nobody waits for a disk.
//!
//! # Concurrency
//! Each actor that runs, with which something is in hand, or that has left something behind, on a thread of its own, and those at rest one after another
//! on one; clients are served already, and who asks for one that is not done yet waits.

use std::sync::Arc;

use durdir_fs::store::Receipt;

use super::driver::Driver;
use super::dropping::Reach;
use super::error::ActorError;
use super::manifest::Manifest;
use super::phases::{Clock, Phases};
use super::registry::{Actors, Attended, Settled, Turn};
use super::state::{CaptureKind, CaptureStep, Capturing, Held, Operation, Standing};
use crate::api::ApiError;
use crate::exit::one_line;
use crate::runtime::SandboxState;

impl Actors {
    /// Begins to recover every actor. Returns at once; nobody gets the turn of an actor before it is recovered.
    pub(crate) fn recover(self: &Arc<Self>) {
        for id in self.strangers() {
            tracing::info!(actor = id, "removing the directory of an actor that does not exist");
            if let Err(error) = self.directory.of(&id).remove() {
                tracing::warn!(
                    actor = id,
                    error = one_line(&error),
                    "the directory of an actor that does not exist stays"
                );
            }
        }
        let mut at_rest = Vec::new();
        for actor in self.all() {
            let Some(turn) = self.try_take_own(&actor.id) else { continue };
            // Should there be no thread for it, somebody looks after it later.
            turn.settle(Settled::No);
            let is_idle = actor.document.operation.is_none() && actor.document.standing != Standing::Running;
            let left = self.directory.of(&actor.id).volumes().exists() || self.has_to_drop(&actor.id);
            if is_idle && !left {
                at_rest.push(turn);
                continue;
            }
            let actors = Arc::clone(self);
            self.world.in_background(&actor.id, Box::new(move || actors.recover_one(turn)));
        }
        if !at_rest.is_empty() {
            let actors = Arc::clone(self);
            let all = move || at_rest.into_iter().for_each(|turn| actors.recover_one(turn));
            self.world.in_background("rest", Box::new(all));
        }
    }

    /// Recovers one actor.
    pub(super) fn recover_one(&self, turn: Turn) {
        let driver = Driver::new(self, turn);
        let id = driver.actor.id.clone();
        let removing = driver.actor.document.operation == Some(Operation::Remove);
        if removing {
            note(&id, driver.take_away(Receipt::none()));
        } else {
            let mut driver = driver;
            let recovered = driver.recover().and_then(|()| driver.tidy(Reach::Places));
            driver.tidied(recovered);
        }
    }

    /// Takes away what an actor has left behind that was just brought to rest.
    pub(super) fn tidy_one(&self, turn: Turn) {
        let mut driver = Driver::new(self, turn);
        let tidy = driver.tidy(Reach::Node);
        driver.tidied(tidy);
    }

    /// Returns the names of directories that belong to no actor.
    fn strangers(&self) -> Vec<String> {
        let listed = self.directory.list().unwrap_or_else(|error| {
            tracing::warn!(
                error = one_line(&error),
                "cannot look for directories of actors that do not exist"
            );
            Vec::new()
        });
        listed
            .into_iter()
            .filter(|id| matches!(self.get(id), Err(super::ActorError::NotFound { .. })))
            .collect()
    }

    /// Looks after actors that nobody works on: whether sandboxes that should run still do, and whether anything could not be undone,
    /// completed or taken away before. `wants` tells which are worth a closer look.
    pub(super) fn look(self: &Arc<Self>, mut wants: impl FnMut(&Attended) -> bool) {
        for attended in self.to_be_looked_after() {
            if !wants(&attended) {
                continue;
            }
            let id = attended.actor.id;
            let Some(turn) = self.try_take_own(&id) else { continue };
            let actors = Arc::clone(self);
            self.world.in_background(&id, Box::new(move || actors.recover_one(turn)));
        }
    }
}

/// Logs an error.
fn note(id: &str, done: Result<(), ApiError>) {
    if let Err(error) = done {
        tracing::error!(actor = id, error = one_line(&error), "an actor is not where it belongs yet");
    }
}

impl Driver<'_> {
    /// Takes note of whether anything is left to be done.
    fn tidied(&self, done: Result<(), ApiError>) {
        let is_done = done.is_ok();
        self.turn().settle(if is_done { Settled::Yes } else { Settled::No });
        note(&self.actor.id, done);
        // While something is in hand, what has no record is not nobody's.
        if is_done
            && self.actor.document.operation.is_none()
            && let Err(error) = self.actors.sweep_captures_of(&self.actor.id)
        {
            tracing::warn!(
                actor = self.actor.id,
                error = one_line(&error),
                "what was left of a capture stays"
            );
        }
    }

    /// Brings the actor where its record says it should be.
    pub(super) fn recover(&mut self) -> Result<(), ApiError> {
        match self.actor.document.operation.clone() {
            None => self.reconcile(),
            Some(operation) => {
                let (actor, what) = (&self.actor.id, operation.kind().participle());
                tracing::info!(actor, what, "going on with what was in hand");
                match operation {
                    Operation::Birth => self.give_birth(),
                    Operation::Start { .. } | Operation::Resume { .. } => self.take_back(),
                    Operation::Capture(capturing) => self.recover_capture(capturing),
                    // Whoever removes takes the driver with it.
                    Operation::Remove => Ok(()),
                }
            }
        }
    }

    fn recover_capture(&mut self, mut capturing: Capturing) -> Result<(), ApiError> {
        match capturing.step {
            // Which of these the record says does not matter: a host that lost power may remember an earlier one.
            CaptureStep::Quiesce | CaptureStep::Save | CaptureStep::Cut | CaptureStep::Bind => {
                let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
                if directory.is_doubted()? {
                    // Not all of it is on the disk, or nobody knows, and the disk may have told of that for the last time.
                    return self.abort(&capturing);
                }
                let found = Manifest::found(capturing.id, &directory.manifest());
                match found.map_err(ApiError::from).and_then(|found| self.check_found(found, &capturing)) {
                    Ok(None) => self.abort(&capturing),
                    // Nobody has ever been told that it is there.
                    Err(ApiError::Actor(error @ ActorError::Damaged { .. })) => {
                        tracing::error!(
                            actor = self.actor.id,
                            error = one_line(&error),
                            "a capture is dropped"
                        );
                        self.abort(&capturing)
                    }
                    Err(error) => Err(error),
                    Ok(Some((manifest, hash))) => {
                        // Who gave it its name may have died before anything of it was on the disk.
                        directory.sync()?;
                        self.actors.store.sync_records()?;
                        capturing.cut = manifest.volumes;
                        self.bound(&mut capturing, hash, Phases::default())?;
                        self.complete_of_itself(capturing)
                    }
                }
            }
            CaptureStep::Resume | CaptureStep::Publish | CaptureStep::TearDown => {
                self.complete_of_itself(capturing)
            }
            CaptureStep::Withdraw => self.withdraw(capturing),
        }
    }

    /// Checks that a manifest that was found is of this capture, and that all of it is there: a host that lost power may have kept one part and not
    /// another.
    fn check_found(
        &self,
        found: Option<(Manifest, String)>,
        capturing: &Capturing,
    ) -> Result<Option<(Manifest, String)>, ApiError> {
        let Some((manifest, _)) = &found else { return Ok(None) };
        manifest.check_is_of(&self.actor, capturing.scope)?;
        let (id, store) = (capturing.id, &self.actors.store);
        let is_there = |held: &Held| store.snapshot_at(held.volume, held.epoch).is_some();
        // What was narrowed has the volumes of another capture.
        let is_cut_now = capturing.from.is_none() && !manifest.volumes.is_empty();
        if (is_cut_now && !self.was_cut(id)?) || !manifest.volumes.iter().all(is_there) {
            let what = "its volumes are not cut as its manifest says".to_owned();
            return Err(ActorError::Damaged { id, what }.into());
        }
        manifest.check_files(&self.actors.directory.of(&self.actor.id).capture(id).image())?;
        Ok(found)
    }

    fn complete_of_itself(&mut self, capturing: Capturing) -> Result<(), ApiError> {
        let frozen = capturing.kind == CaptureKind::Commit && capturing.step == CaptureStep::Publish;
        if frozen && self.actor.document.standing == Standing::Running {
            // It went on before the worker died, or ended since.
            self.check_running_on(&capturing)?;
        }
        let clock = Clock::going_on(capturing.phases.clone());
        match self.complete(capturing, clock, Receipt::none()) {
            Ok(_) => Ok(()),
            Err(error) if self.actor.document.operation.is_none() => {
                tracing::warn!(
                    actor = self.actor.id,
                    error = one_line(&error),
                    "a capture did not end as it should"
                );
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn check_running_on(&mut self, capturing: &Capturing) -> Result<(), ApiError> {
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        let image = directory.image();
        match self.keep_running(Some(&image).filter(|image| image.exists()).map(|image| &**image)) {
            Err(ApiError::Actor(
                error @ (ActorError::Exited { .. } | ActorError::Gone { .. } | ActorError::Unmounted { .. }),
            )) => {
                tracing::warn!(
                    actor = self.actor.id,
                    error = one_line(&error),
                    "an actor has ended while it was committed"
                );
                Ok(())
            }
            tried => tried,
        }
    }

    /// Takes away what an actor has left behind that is at rest, and what nobody needs any more.
    fn tidy(&mut self, reach: Reach) -> Result<(), ApiError> {
        let at_rest = self.actor.document.standing != Standing::Running;
        if at_rest && self.actors.directory.of(&self.actor.id).volumes().exists() {
            self.actors.world.step("actor.tidy");
            self.take_volumes_away()?;
        }
        self.finish_dropping(reach);
        Ok(())
    }

    /// Compares an actor that has nothing in hand with what is there.
    pub(super) fn reconcile(&mut self) -> Result<(), ApiError> {
        self.forget_paused();
        if self.actor.document.standing != Standing::Running {
            let left = self.actors.directory.of(&self.actor.id).volumes().exists();
            return if left { self.end_sandbox() } else { Ok(()) };
        }
        if let Some(name) = self.unmounted() {
            let reason =
                format!("its volume {name} is not mounted any more: the daemon that served it is gone");
            return self.lose(&reason);
        }
        match self.sandbox_state()? {
            SandboxState::Running => Ok(()),
            SandboxState::Paused => {
                tracing::warn!(actor = self.actor.id, "an actor was left paused; it goes on");
                self.keep_running(None)
            }
            SandboxState::Exited { container, .. } if !self.sandbox().ends_with(&container) => {
                self.keep_running(None)
            }
            SandboxState::Exited { container, status } => {
                let status = status.map_or(String::new(), |code| format!(" with status {code}"));
                self.lose(&format!("container {container} ended{status}"))
            }
            SandboxState::Absent | SandboxState::Created => self.lose("its sandbox is gone"),
        }
    }
}

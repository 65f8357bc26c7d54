//! The one that changes an actor: it has the turn, stores each step before its effect, and knows how to bring an actor down, and
//! how to keep it running.
//!
//! # Concurrency
//! One driver at a time per actor, on the thread of whoever asked: a blocking one. It goes on to the end when its client is gone.
//!
//! # Crash consistency
//! A driver that ends early, by an error that it could not undo or by a panic, leaves its operation stored, as a worker that dies
//! does; the next one that takes the turn begins with what [`super::recovery`] says.

use std::path::Path;
use std::sync::Arc;

use durdir_fs::ids::CaptureId;
use durdir_fs::store::{ActorChange, Durability, Receipt};

use super::error::ActorError;
use super::phases::Phases;
use super::record::{Actor, Capture, CaptureView, DoneView};
use super::registry::{Actors, Claim, Settled, Turn};
use super::state::{Operation, OperationKind, Standing};
use super::thaw::Note;
use super::world::limits;
use crate::api::ApiError;
use crate::exit::one_line;
use crate::runtime::{Runtime, RuntimeError, Sandbox, SandboxState};

/// How often a sandbox is told to go on before it is given up.
const RESUME_TRIES: u32 = 3;

/// A request, as the actors need it.
pub(crate) struct Request<'a> {
    /// What is stored with the first step: told the operation's id.
    pub(crate) begin: &'a dyn Fn(&str) -> Receipt<'static, ()>,
    /// The operation that the same request began before its worker died.
    pub(crate) begun: Option<String>,
    /// Whether it is mountd's own, which is about to end.
    pub(crate) at_the_end: bool,
}

impl Request<'_> {
    /// Returns in which way it takes its turn.
    pub(super) fn claim(&self) -> Claim {
        match self.begun {
            _ if self.at_the_end => Claim::AtTheEnd,
            Some(_) => Claim::Again,
            None => Claim::First,
        }
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The actor now.
    pub(crate) actor: Actor,
    /// The capture that was made, or gone on from.
    pub(crate) capture: Option<CaptureView>,
    /// How long the phases took.
    pub(crate) phases: Phases,
}

/// What becomes known with one change.
pub(super) type CaptureChanges = Vec<(CaptureId, Option<Capture>)>;

/// Has the turn of an actor.
pub(super) struct Driver<'a> {
    pub(super) actors: &'a Actors,
    turn: Turn,
    /// As it is stored.
    pub(super) actor: Actor,
}

/// What a request comes to when it has its turn.
pub(super) enum Begun<'a> {
    /// It is to be done.
    Now(Driver<'a>),
    /// It was done before its worker died.
    Before(Driver<'a>, Box<Outcome>),
}

impl Actors {
    /// Takes the turn of an actor for a request.
    pub(super) fn begin<'a>(
        &'a self,
        id: &str,
        asked: OperationKind,
        request: &Request<'_>,
    ) -> Result<Begun<'a>, ApiError> {
        let mut driver = Driver::new(self, self.take(id, asked, request.claim())?);
        if driver.actor.document.operation == Some(Operation::Remove) {
            let (id, doing) = (id.to_owned(), OperationKind::Remove);
            return Err(ActorError::Busy { id, doing }.into());
        }
        if driver.actor.document.operation.is_some() {
            // What it was could not be undone before.
            driver.recover()?;
        }
        if let Some(done) = request.begun.as_deref().and_then(|begun| driver.outcome_of(begun)) {
            return Ok(Begun::Before(driver, Box::new(done)));
        }
        // Recovery may have brought it elsewhere, and a request that came again was not decided on yet.
        match super::queue::decide(&driver.actor.document.standing, None, asked) {
            super::queue::Verdict::Misplaced(remedy) => {
                let (id, state) = (id.to_owned(), driver.actor.state());
                Err(ActorError::Misplaced { id, state, remedy }.into())
            }
            _ => Ok(Begun::Now(driver)),
        }
    }

    /// Returns how the sandbox of an actor is made.
    pub(super) fn sandbox_of(&self, actor: &Actor) -> Sandbox {
        let directory = self.directory.of(&actor.id);
        crate::template::sandbox(
            &actor.recipe.template,
            &actor.document.sandbox,
            directory.sandbox(),
            |volume| directory.volume(volume.as_str()),
        )
    }
}

impl<'a> Driver<'a> {
    pub(super) fn new(actors: &'a Actors, turn: Turn) -> Driver<'a> {
        let actor = turn.actor();
        Driver { actors, turn, actor }
    }

    /// Changes what is stored of the actor, and of captures with it.
    pub(super) fn change(
        &mut self,
        captures: CaptureChanges,
        durability: Durability,
        receipt: Receipt<'_, ()>,
        edit: impl FnOnce(&mut Actor),
    ) -> Result<(), ApiError> {
        let mut actor = self.actor.clone();
        edit(&mut actor);
        let record = actor.encode();
        let records: Vec<_> =
            captures.iter().map(|(id, capture)| (*id, capture.as_ref().map(Capture::encode))).collect();
        let change = ActorChange {
            actors: vec![(&actor.id, Some(&record))],
            captures: records.iter().map(|(id, record)| (*id, record.as_ref())).collect(),
        };
        self.actors.store.change_actors(&change, durability, receipt, &())?;
        for (id, capture) in captures {
            self.actors.show_capture(id, capture);
        }
        self.turn.show(&actor);
        let is_over = self.actor.document.operation.is_some() && actor.document.operation.is_none();
        self.actor = actor;
        if is_over {
            self.forget_paused();
        }
        Ok(())
    }

    /// Takes note that the sandbox is not paused for a capture any more.
    pub(super) fn forget_paused(&self) {
        if let Err(error) = Note::remove(&self.actors.directory.of(&self.actor.id)) {
            // It leads to a sandbox that is not paused.
            tracing::warn!(actor = self.actor.id, error = one_line(&error), "a note stays");
        }
    }

    /// Stores the next step of an operation.
    pub(super) fn journal(&mut self, operation: Operation, step: &'static str) -> Result<(), ApiError> {
        self.journal_with(operation, Receipt::none(), step)
    }

    /// Stores the first step of an operation, with what is kept of the request that asked for it.
    pub(super) fn journal_with(
        &mut self,
        operation: Operation,
        receipt: Receipt<'_, ()>,
        step: &'static str,
    ) -> Result<(), ApiError> {
        self.change(Vec::new(), Durability::Process, receipt, |actor| {
            actor.document.operation = Some(operation);
        })?;
        self.actors.world.step(step);
        Ok(())
    }

    /// Stores that nothing is in hand any more, and that the actor stands where it stood.
    pub(super) fn stand(&mut self) -> Result<(), ApiError> {
        self.change(Vec::new(), Durability::Disk, Receipt::none(), |actor| actor.document.operation = None)
    }

    /// Forgets the actor, which has no sandbox and no volumes any more.
    pub(super) fn forget(self, captures: CaptureChanges, receipt: Receipt<'_, ()>) -> Result<(), ApiError> {
        let records: Vec<_> =
            captures.iter().map(|(id, capture)| (*id, capture.as_ref().map(Capture::encode))).collect();
        let change = ActorChange {
            actors: vec![(&self.actor.id, None)],
            captures: records.iter().map(|(id, record)| (*id, record.as_ref())).collect(),
        };
        self.actors.store.change_actors(&change, Durability::Disk, receipt, &())?;
        for (id, capture) in captures {
            self.actors.show_capture(id, capture);
        }
        self.actors.forget(&self.turn);
        Ok(())
    }

    /// Returns what became of an operation that was done.
    fn outcome_of(&self, operation: &str) -> Option<Outcome> {
        let document = &self.actor.document;
        if let Some(capture) = document.last_capture.as_ref().filter(|capture| capture.id == operation) {
            let (capture, phases) = (Some(capture.clone()), capture.phases.clone());
            return Some(Outcome { actor: self.actor.clone(), capture, phases });
        }
        let DoneView { phases, from, .. } = document.done.as_ref().filter(|done| done.id == operation)?;
        let (capture, phases) = (from.as_deref().cloned(), phases.clone());
        Some(Outcome { actor: self.actor.clone(), capture, phases })
    }

    /// Stores the answer to a request whose operation was done before.
    pub(super) fn answer(
        mut self,
        outcome: Outcome,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        self.change(Vec::new(), Durability::Process, receipt.of(outcome.clone()), |_| {})?;
        Ok(outcome)
    }

    pub(super) fn runtime(&self) -> Result<Arc<dyn Runtime>, ApiError> {
        let runtime = self.actors.world.runtime(self.actor.recipe.runtime);
        runtime.map_err(|error| self.runtime_error(error))
    }

    pub(super) fn sandbox(&self) -> Sandbox {
        self.actors.sandbox_of(&self.actor)
    }

    pub(super) fn runtime_error(&self, source: RuntimeError) -> ApiError {
        ActorError::Runtime { id: self.actor.id.clone(), source }.into()
    }

    pub(super) fn sandbox_state(&self) -> Result<SandboxState, ApiError> {
        let state = self.runtime()?.state(&self.sandbox(), limits::state());
        state.map_err(|error| self.runtime_error(error))
    }

    /// Refuses unless all containers are there, running or paused.
    pub(super) fn check_alive(&self) -> Result<(), ApiError> {
        let id = self.actor.id.clone();
        match self.sandbox_state()? {
            SandboxState::Running | SandboxState::Paused => Ok(()),
            SandboxState::Exited { container, status } => {
                Err(ActorError::Exited { id, container, status }.into())
            }
            SandboxState::Absent | SandboxState::Created => Err(ActorError::Gone { id }.into()),
        }
    }

    /// Ends the sandbox, if there is one, unmounts the volumes and removes what was made for them. Safe to be done again.
    pub(super) fn bring_down(&self) -> Result<(), ApiError> {
        self.end_sandbox()?;
        self.take_volumes_away()
    }

    /// Unmounts the volumes of a sandbox that was ended, and removes what was made for them. Safe to be done again.
    pub(super) fn take_volumes_away(&self) -> Result<(), ApiError> {
        let directory = self.actors.directory.of(&self.actor.id);
        for volume in &self.actor.recipe.volumes {
            self.actors.world.unmount(&directory.volume(&volume.name))?;
        }
        self.actors.world.step("actor.unmounted");
        directory.clear()?;
        Ok(())
    }

    /// Ends the sandbox, if there is one. Safe to be done again.
    pub(super) fn end_sandbox(&self) -> Result<(), ApiError> {
        let sandbox = self.sandbox();
        if sandbox.directory.exists() {
            let killed = self.runtime()?.kill(&sandbox, limits::kill());
            killed.map_err(|error| self.runtime_error(error))?;
        }
        self.actors.world.step("actor.killed");
        Ok(())
    }

    /// Gives up the turn, and takes away in the background what an actor that was brought to rest has left behind.
    pub(super) fn tidy_later(self, actors: &Arc<Actors>) {
        let (id, turn) = (self.actor.id, self.turn);
        turn.keep_to_tidy();
        let all = Arc::clone(actors);
        actors.world.in_background(&id, Box::new(move || all.tidy_one(turn)));
    }

    /// Returns a volume that is not mounted, or not served.
    pub(super) fn unmounted(&self) -> Option<&str> {
        let directory = self.actors.directory.of(&self.actor.id);
        let is_mounted = |name: &str, volume| self.actors.world.is_mounted(volume, &directory.volume(name));
        let mut volumes = self.actor.named_volumes();
        volumes.find(|(name, volume)| !is_mounted(name, *volume)).map(|(name, _)| name)
    }

    /// Makes sure that the sandbox runs: goes on if it is paused, and comes back from `image` if the runtime ended it. Its volumes
    /// have to be there still: without them it would write into empty directories.
    pub(super) fn keep_running(&self, image: Option<&Path>) -> Result<(), ApiError> {
        let (runtime, sandbox) = (self.runtime()?, self.sandbox());
        let id = self.actor.id.clone();
        if let Some(volume) = self.unmounted() {
            return Err(ActorError::Unmounted { id, volume: volume.to_owned() }.into());
        }
        match self.sandbox_state()? {
            SandboxState::Exited { container, status } if sandbox.ends_with(&container) => {
                Err(ActorError::Exited { id, container, status }.into())
            }
            // A pause may be on its way to one that runs, from a call that was cut short.
            SandboxState::Running | SandboxState::Paused | SandboxState::Exited { .. } => {
                self.persist(|| runtime.resume(&sandbox, limits::resume()))
            }
            SandboxState::Absent => match image.filter(|image| image.exists()) {
                Some(image) => self.persist(|| runtime.restore(&sandbox, image, limits::restore())),
                None => Err(ActorError::Gone { id }.into()),
            },
            SandboxState::Created => Err(ActorError::Gone { id }.into()),
        }
    }

    /// Tries to make a sandbox go on, and tries again: there is nothing else that could be done with it.
    fn persist(&self, go_on: impl Fn() -> Result<(), RuntimeError>) -> Result<(), ApiError> {
        let mut tries = 1;
        loop {
            match go_on() {
                Ok(()) => return Ok(()),
                Err(error) if tries < RESUME_TRIES => {
                    let (actor, error) = (&self.actor.id, one_line(&error));
                    tracing::warn!(actor, error, tries, "a sandbox does not go on; trying again");
                    tries += 1;
                }
                Err(error) => return Err(self.runtime_error(error)),
            }
        }
    }

    /// Takes note that the actor does not run any more, and takes away what is left of its sandbox. Its volumes stay as they are.
    pub(super) fn lose(&mut self, reason: &str) -> Result<(), ApiError> {
        tracing::warn!(actor = self.actor.id, reason, "an actor has ended");
        // Until it is known to have, it is looked after as one that runs and is not where it belongs.
        self.turn.settle(Settled::No);
        self.bring_down()?;
        self.change(Vec::new(), Durability::Disk, Receipt::none(), |actor| {
            actor.document.standing = Standing::Exited { reason: reason.to_owned() };
            actor.document.operation = None;
        })?;
        self.turn.settle(Settled::Yes);
        Ok(())
    }

    /// Takes a sandbox away that does not go on. Returns where its actor stands then, which is the caller's to store.
    pub(super) fn give_up(&self, what: &str, error: &ApiError) -> Result<Standing, ApiError> {
        let reason = format!("{what}: {}", one_line(error));
        tracing::warn!(actor = self.actor.id, reason, "an actor has ended");
        self.bring_down()?;
        Ok(Standing::Exited { reason })
    }

    pub(super) fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Undoes something after an error, which is the one that is returned: that of the undoing is logged.
    pub(super) fn undone(
        &mut self,
        error: ApiError,
        undo: impl FnOnce(&mut Self) -> Result<(), ApiError>,
    ) -> ApiError {
        if let Err(failed) = undo(self) {
            let (actor, failed) = (&self.actor.id, one_line(&failed));
            tracing::error!(actor, error = failed, "what was begun with an actor cannot be undone yet");
        }
        error
    }
}

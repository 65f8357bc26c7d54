//! Taking a capture back: one that was not bound, or could not be published.
//!
//! # Crash consistency
//! That it goes back is certain before its sandbox goes on: what the sandbox does from then on would be lost if somebody completed
//! the capture after all. One that is not bound has no manifest any more, or one that is marked as none; one that was has it on record. The operation ends with a batch
//! in which the capture becomes one that was replaced, with all that is to be dropped: [`crate::actor::dropping`] sees to that.

use std::path::Path;

use durdir_fs::attr::Timestamp;
use durdir_fs::store::{Durability, Receipt};

use crate::actor::driver::Driver;
use crate::actor::dropping::Reach;
use crate::actor::record::{Capture, CaptureDocument};
use crate::actor::registry::Settled;
use crate::actor::state::{CaptureStep, Capturing, Held, Standing};
use crate::api::ApiError;
use crate::exit::one_line;
use crate::template::Scope;

impl Driver<'_> {
    /// Takes back a capture that is not bound: the actor runs as before, or is at rest as before.
    pub(in crate::actor) fn abort(&mut self, capturing: &Capturing) -> Result<(), ApiError> {
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        // It may have got its name, and not be on the disk. If it cannot be removed, its mark says that it is none, also to the next worker.
        if let Err(error) = directory.unbind() {
            if !directory.is_doubted()? {
                return Err(error.into());
            }
            let (actor, error) = (&self.actor.id, one_line(&error));
            tracing::error!(actor, error, "the manifest of a capture that is none stays");
        }
        let image = (capturing.scope == Scope::Full && capturing.step >= CaptureStep::Save)
            .then(|| directory.image());
        let ended = self.go_on_after(image.as_deref())?;
        self.actors.world.step("actor.aborted");
        // On a full disk this may be what has filled it.
        directory.remove()?;
        let mut made = capturing.cut.clone();
        if made.is_empty() {
            made = self.cut_made(capturing.id)?;
        }
        self.leave(capturing, made, ended)
    }

    /// Takes back a capture that is bound and could not be published. An actor that was to be suspended goes on. Until it is on record that
    /// this is so the sandbox stays as it is: what cannot be recorded now is completed when it can be.
    pub(in crate::actor) fn withdraw(&mut self, mut capturing: Capturing) -> Result<(), ApiError> {
        if capturing.step != CaptureStep::Withdraw {
            self.advance(&mut capturing, CaptureStep::Withdraw, "actor.withdraw")?;
            self.actors.store.sync_records()?;
        }
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        let image = (capturing.scope == Scope::Full).then(|| directory.image());
        let ended = self.go_on_after(image.as_deref())?;
        self.actors.world.step("actor.withdrawing");
        directory.remove()?;
        let made = capturing.cut.clone();
        self.leave(&capturing, made, ended)
    }

    /// Lets a sandbox go on whose capture is taken back. If that cannot be, takes it away, and returns where its actor stands then.
    fn go_on_after(&self, image: Option<&Path>) -> Result<Option<Standing>, ApiError> {
        if self.actor.document.standing != Standing::Running {
            return Ok(None);
        }
        let Err(error) = self.keep_running(image) else { return Ok(None) };
        self.give_up("it could not be brought back after a capture failed", &error).map(Some)
    }

    /// Stores that a capture is taken back, and where the actor stands, and drops what was made for it.
    fn leave(
        &mut self,
        capturing: &Capturing,
        made: Vec<Held>,
        ended: Option<Standing>,
    ) -> Result<(), ApiError> {
        let (kind, scope) = (capturing.kind, capturing.scope);
        let mut document = CaptureDocument::of(&self.actor.id, kind, scope);
        (document.replaced, document.dropping) = (true, made);
        let is_somewhere = capturing.step == CaptureStep::Withdraw && scope > Scope::None;
        document.withdrawing = is_somewhere.then(|| self.actor.recipe.location.clone());
        let (id, created) = (capturing.id, Timestamp::now());
        let capture = Capture { id, created, snapshots: Vec::new(), document };
        self.change(vec![(id, Some(capture))], Durability::Disk, Receipt::none(), |actor| {
            actor.document.operation = None;
            if let Some(standing) = ended {
                actor.document.standing = standing;
            }
        })?;
        self.turn().settle(Settled::Yes);
        self.finish_dropping(Reach::Places);
        Ok(())
    }
}

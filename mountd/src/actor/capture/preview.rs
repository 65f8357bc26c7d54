//! What a capture would hold, and what would be lost with it: it is checked as for one, and nothing is done. Whether anything can be written to
//! the place for commits is not tried.

use super::asked;
use crate::actor::driver::Driver;
use crate::actor::error::ActorError;
use crate::actor::queue::{Verdict, decide};
use crate::actor::record::Actor;
use crate::actor::registry::Actors;
use crate::actor::state::{CaptureKind, Standing};
use crate::api::ApiError;
use crate::template::Scope;

/// What a capture would come to.
pub(crate) struct Preview {
    /// The actor as it is.
    pub(crate) actor: Actor,
    /// What it would hold.
    pub(crate) scope: Scope,
    /// What there is that nothing would hold any more.
    pub(crate) lost: Vec<&'static str>,
}

impl Actors {
    /// Tells what a capture would come to.
    pub(crate) fn preview_capture(
        &self,
        id: &str,
        kind: CaptureKind,
        scope: Option<Scope>,
    ) -> Result<Preview, ApiError> {
        // Others wait for this, and are not refused.
        let driver = Driver::new(self, self.hold(id)?);
        if let Some(operation) = &driver.actor.document.operation {
            // What a worker left that died: whoever does something goes on with it first.
            return Err(ActorError::Busy { id: id.to_owned(), doing: operation.kind() }.into());
        }
        let document = &driver.actor.document;
        if let Verdict::Misplaced(remedy) = decide(&document.standing, None, asked(kind)) {
            let state = driver.actor.state();
            return Err(ActorError::Misplaced { id: id.to_owned(), state, remedy }.into());
        }
        let scope = driver.check_scope(kind, scope)?;
        match (&document.standing, &document.checkpoint) {
            (Standing::Running, _) => drop(driver.check_sandbox(scope)?),
            (_, Some(checkpoint)) if scope == Scope::Full => drop(driver.verified(checkpoint)?),
            _ => {}
        }
        if kind.is_committed() && scope > Scope::None {
            self.world.target(&driver.actor.recipe.location)?;
        }
        let lost = if kind == CaptureKind::Commit { Vec::new() } else { driver.lost_with(scope) };
        Ok(Preview { actor: driver.actor.clone(), scope, lost })
    }
}

impl Driver<'_> {
    /// Returns what the actor has that a capture of `scope` does not hold, if it is all that it goes on from.
    fn lost_with(&self, scope: Scope) -> Vec<&'static str> {
        let document = &self.actor.document;
        let has = match (&document.standing, &document.checkpoint) {
            (Standing::Running, _) => Scope::Full,
            (_, Some(checkpoint)) => checkpoint.scope,
            (_, None) => Scope::Data,
        };
        let parts = [(Scope::Full, "memory"), (Scope::Data, "volumes")];
        let lost = parts.into_iter().filter(|(part, _)| has >= *part && scope < *part);
        lost.filter(|(part, _)| *part == Scope::Full || !self.actor.recipe.volumes.is_empty())
            .map(|(_, name)| name)
            .collect()
    }
}

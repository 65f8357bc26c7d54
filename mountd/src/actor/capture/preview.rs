//! What a capture would hold, and what would be lost with it: everything is checked as for one, and nothing done.

use durdir_fs::ids::CaptureId;

use super::{asked, capturing};
use crate::actor::driver::Driver;
use crate::actor::error::ActorError;
use crate::actor::record::Actor;
use crate::actor::registry::{Actors, Claim};
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
    /// Tells what a capture would come to. Whatever would be refused is refused.
    pub(crate) fn preview_capture(
        &self,
        id: &str,
        kind: CaptureKind,
        scope: Option<Scope>,
    ) -> Result<Preview, ApiError> {
        let driver = Driver::new(self, self.take(id, asked(kind), Claim::First)?);
        if let Some(operation) = &driver.actor.document.operation {
            // What a worker left that died: whoever does something goes on with it first.
            return Err(ActorError::Busy { id: id.to_owned(), doing: operation.kind() }.into());
        }
        let scope = driver.check_scope(kind, scope)?;
        let capturing = capturing(CaptureId(self.world.new_id().into_bytes()), kind, scope);
        if driver.actor.document.standing == Standing::Running {
            driver.check_running(&capturing)?;
        } else {
            driver.check_place(&capturing)?;
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

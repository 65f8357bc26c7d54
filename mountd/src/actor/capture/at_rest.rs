//! Captures of an actor that does not run: what it was stopped with, narrowed, or its volumes as they are.

use durdir_fs::store::Receipt;

use crate::actor::directory::failed;
use crate::actor::driver::{Driver, Outcome};
use crate::actor::image::{Storing, names_in};
use crate::actor::phases::Clock;
use crate::actor::record::Checkpoint;
use crate::actor::state::{CaptureStep, Capturing, Operation, Standing};
use crate::api::ApiError;
use crate::template::Scope;

impl Driver<'_> {
    /// Captures an actor that does not run: what it was stopped with, narrowed, or the volumes as they are.
    pub(super) fn capture_at_rest(
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
        clock.time("record", || {
            self.journal_with(Operation::Capture(capturing.clone()), begin, "actor.cut")
        })?;
        let made = match &checkpoint {
            Some(checkpoint) => self.narrow(&mut capturing, checkpoint, &mut clock),
            None => self.cut_at_rest(&mut capturing, &mut clock),
        };
        let manifest = match made {
            Ok(manifest) => manifest,
            Err(error) => return Err(self.undone(error, |driver| driver.abort(&capturing))),
        };
        let phases = clock.phases();
        clock.time("record", || self.bound(&mut capturing, manifest, phases))?;
        self.complete(capturing, clock, receipt)
    }

    fn cut_at_rest(&mut self, capturing: &mut Capturing, clock: &mut Clock) -> Result<String, ApiError> {
        let names = self.volume_names();
        capturing.cut = clock.time("cut", || self.cut(capturing.id, &names))?;
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        clock.time("record", || directory.create().and_then(|()| directory.sync_place()))?;
        clock.time("bind", || self.bind(capturing, None, None, &directory))
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
        clock.time("record", || directory.create().and_then(|()| directory.sync_place()))?;
        let mut saved_by = None;
        if capturing.scope == Scope::Full {
            clock.time("save", || {
                let (manifest, image) = self.verified(checkpoint)?;
                saved_by = manifest.runtime;
                for name in names_in(&image)? {
                    let (from, to) = (image.join(&name), directory.image().join(&name));
                    std::fs::hard_link(&from, &to)
                        .or_else(|_| std::fs::copy(&from, &to).map(drop))
                        .map_err(|error| failed("copy", &from, error))?;
                }
                Ok::<_, ApiError>(())
            })?;
        }
        let image = directory.image();
        clock.time("bind", || {
            std::thread::scope(|scope| {
                let storing = (capturing.scope == Scope::Full).then(|| Storing::begin(scope, &image));
                self.bind(capturing, saved_by, storing, &directory)
            })
        })
    }
}

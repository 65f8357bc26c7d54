//! Captures of an actor that runs: from the pause to the manifest.

use durdir_fs::drain::{self, Helper};
use durdir_fs::ids::VolumeId;
use durdir_fs::store::Receipt;

use crate::actor::driver::{Driver, Outcome};
use crate::actor::image::{Saving, joined};
use crate::actor::manifest::RuntimeVersion;
use crate::actor::phases::Clock;
use crate::actor::state::{CaptureKind, CaptureStep, Capturing, Operation};
use crate::actor::thaw::Note;
use crate::actor::world::limits;
use crate::api::ApiError;
use crate::runtime::{AfterSave, Runtime, Sandbox};
use crate::template::Scope;

impl Driver<'_> {
    pub(super) fn capture_running(
        &mut self,
        mut capturing: Capturing,
        runtime: Option<RuntimeVersion>,
        begin: Receipt<'_, ()>,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        let mut clock = Clock::start();
        clock.time("record", || {
            self.journal_with(Operation::Capture(capturing.clone()), begin, "actor.quiesce")
        })?;
        match self.capture_until_bound(&mut capturing, runtime, &mut clock) {
            Ok(manifest) => {
                let phases = clock.phases();
                clock.time("record", || self.bound(&mut capturing, manifest, phases))?;
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
        let directory = self.actors.directory.of(&self.actor.id).capture(capturing.id);
        let over_with = (capturing.kind != CaptureKind::Commit).then_some(&directory);
        let note = Note::new(runtime.name(), sandbox.clone(), over_with);
        clock.time("record", || {
            note.write(&self.actors.directory.of(&self.actor.id))?;
            directory.create()
        })?;
        let image = directory.image();
        let driver = &*self;
        let volumes = (capturing.scope > Scope::None).then_some(&*driver.actor.volumes);
        std::thread::scope(|scope| {
            let drained = clock.time("quiesce", || {
                let helper = volumes.map(|_| scope.spawn(|| driver.actors.world.prepare_drain()));
                let placed = scope.spawn(|| directory.sync_place());
                let paused = runtime.pause(&sandbox, limits::quiesce());
                paused.map_err(|error| driver.runtime_error(error))?;
                driver.actors.world.step("actor.paused");
                // A runtime takes longer to tell whether its programs are all there than a drain takes.
                let drained = volumes.map(|volumes| {
                    let (helper, runtime, sandbox) = (helper.and_then(joined), &*runtime, &sandbox);
                    scope.spawn(move || driver.drain(volumes, runtime, sandbox, helper))
                });
                driver.check_alive()?;
                joined(placed)?;
                Ok::<_, ApiError>(drained)
            })?;
            clock.time("drain", || drained.map_or(Ok(()), joined))
        })?;
        std::thread::scope(|scope| {
            let mut storing = None;
            if capturing.scope == Scope::Full {
                clock.time("record", || self.advance(capturing, CaptureStep::Save, "actor.save"))?;
                let saving = Saving::begin(scope, &image, runtime.appended());
                let saved = clock.time("save", || runtime.save(&sandbox, &image, limits::save()));
                match saved.map_err(|error| self.runtime_error(error))? {
                    // Both are fine: what comes next needs no sandbox.
                    AfterSave::Paused | AfterSave::Ended => self.actors.world.step("actor.saved"),
                }
                // It is hashed, and the rest of it brought to the disk, while the volumes are cut.
                storing = Some(saving.complete(scope, &image));
            }
            if capturing.scope > Scope::None && !self.actor.volumes.is_empty() {
                clock.time("record", || self.advance(capturing, CaptureStep::Cut, "actor.cut"))?;
                let names = self.volume_names();
                capturing.cut = clock.time("cut", || self.cut(capturing.id, &names))?;
                self.actors.world.step("actor.was-cut");
            }
            clock.time("bind", || self.bind(capturing, saved_by, storing, &directory))
        })
    }

    /// Has shared mappings of `volumes` written out that programs of a sandbox have.
    fn drain(
        &self,
        volumes: &[VolumeId],
        runtime: &dyn Runtime,
        sandbox: &Sandbox,
        helper: Option<Helper>,
    ) -> Result<(), ApiError> {
        let programs = runtime.programs(sandbox).map_err(|error| self.runtime_error(error))?;
        let programs = programs.map_or(drain::Scope::All, drain::Scope::Processes);
        self.actors.world.drain(volumes, &programs, helper)?;
        Ok(())
    }
}

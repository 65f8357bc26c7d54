//! Making an actor, out of a template or of a committed capture, and removing one.
//!
//! # Crash consistency
//! An actor and its volumes are one batch. The volumes are cut after that, so that it can go back to how they began: which is
//! done again after a death, and costs nothing while they are empty. A removal is gone on with from wherever it was.

use std::sync::Arc;

use durdir_fs::attr::Timestamp;
use durdir_fs::ids::CaptureId;
use durdir_fs::store::record::Actor as ActorRecord;
use durdir_fs::store::{Durability, Receipt, VolumeInfo, VolumeOrigin};

use super::driver::{CaptureChanges, Driver, Outcome, Request};
use super::error::ActorError;
use super::phases::Phases;
use super::recipe::Recipe;
use super::record::{Actor, ActorDocument, Capture, CaptureDocument, Checkpoint, captured, volume_name};
use super::registry::{Actors, Claim};
use super::restore::gone_is_fine;
use super::state::{CaptureKind, Operation, OperationKind, Standing};
use crate::api::ApiError;
use crate::template::{Scope, Template};

impl Actors {
    /// Makes an actor. `id`: what it is called, or something new.
    pub(crate) fn create(
        &self,
        template: Template,
        id: Option<String>,
        request: &Request<'_>,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        // The one that an earlier attempt made up, if there was one.
        let id = id.or_else(|| request.begun.clone()).unwrap_or_else(|| self.made_up_id());
        if let Some(made) = self.made_before(&id, request) {
            return self.go_on_making(made?, receipt);
        }
        let recipe = Recipe::of(template);
        let volumes = recipe
            .volumes
            .iter()
            .map(|volume| (volume_name(&id, &volume.name), VolumeOrigin::New(volume.spec.clone())));
        let volumes: Vec<_> = volumes.collect();
        for volume in &recipe.volumes {
            self.world.check_outside(&volume.spec.lowers)?;
        }
        let mut document = ActorDocument::new(self.sandbox_name(&id), recipe.template.to_json());
        document.operation = (!volumes.is_empty()).then_some(Operation::Birth);
        self.make(id, recipe, document, &volumes, request, receipt)
    }

    /// Makes an actor out of a committed capture. It is suspended, and goes on from there.
    pub(crate) fn fork(
        &self,
        commit: &str,
        id: String,
        template: Option<Template>,
        scope: Option<Scope>,
        request: &Request<'_>,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        if let Some(made) = self.made_before(&id, request) {
            return self.go_on_making(made?, receipt);
        }
        let capture = self.capture_called(commit)?;
        let CaptureDocument { actor, kind, scope: has, published, location, template: own, .. } =
            &capture.document;
        if !kind.is_committed() || (location.is_none() && *has > Scope::None) {
            return Err(ActorError::NotCommitted { id: capture.id, actor: actor.clone() }.into());
        }
        let scope = scope.unwrap_or(*has);
        if scope > *has {
            return Err(ActorError::Widened {
                what: format!("capture {}", capture.id),
                has: *has,
                asked: scope,
            }
            .into());
        }
        let unfit = |why: String| ApiError::from(ActorError::Unfit { id: capture.id, why });
        if scope == Scope::None {
            return Err(unfit(
                "nothing of it would be taken; `durdir actor create` makes a new one".to_owned(),
            ));
        }
        let stored = Recipe::parse(own).map_err(|why| unfit(format!("its template: {why}")))?;
        let recipe = template.map_or_else(|| stored.clone(), Recipe::of);
        if scope == Scope::Full && recipe.hash != stored.hash {
            let why = if recipe.sandbox_class == stored.sandbox_class {
                "memory belongs to its template; `--scope Data` takes the volumes alone".to_owned()
            } else {
                format!(
                    "memory never goes from class {} to class {}; `--scope Data` takes the volumes alone",
                    stored.sandbox_class, recipe.sandbox_class
                )
            };
            return Err(unfit(why));
        }
        let mut volumes = Vec::new();
        for volume in &recipe.volumes {
            let held = published.iter().find(|held| held.name == volume.name);
            let held = held.ok_or_else(|| unfit(format!("it has no volume {}", volume.name)))?;
            let snapshot = self.store.snapshot_at(held.volume, held.epoch);
            let snapshot = snapshot.ok_or_else(|| ActorError::Damaged {
                id: capture.id,
                what: format!("volume {} has no snapshot at epoch {}", held.name, held.epoch),
            })?;
            let own = stored.volumes.iter().find(|own| own.name == volume.name);
            if own.is_none_or(|own| own.spec != volume.spec) {
                let why = format!(
                    "volume {} has other lowers or quotas in the template; a fork keeps those of the capture",
                    volume.name
                );
                return Err(unfit(why));
            }
            volumes.push((volume_name(&id, &volume.name), VolumeOrigin::Snapshot(snapshot)));
        }
        if let Some(more) =
            published.iter().find(|held| !recipe.volumes.iter().any(|own| own.name == held.name))
        {
            return Err(unfit(format!("its volume {} is not in the template", more.name)));
        }
        let mut document = ActorDocument::new(self.sandbox_name(&id), recipe.template.to_json());
        document.standing = Standing::Suspended;
        document.checkpoint = Some(Checkpoint { capture: capture.id, scope, volumes: Vec::new() });
        document.operation = (!volumes.is_empty()).then_some(Operation::Birth);
        self.make(id, recipe, document, &volumes, request, receipt)
    }

    fn make(
        &self,
        id: String,
        recipe: Recipe,
        document: ActorDocument,
        volumes: &[(String, VolumeOrigin)],
        request: &Request<'_>,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        let creating = self.creating.lock();
        self.check_new(&id)?;
        let created = Timestamp::now();
        let is_done = document.operation.is_none();
        let recipe = Arc::new(recipe);
        let actor_with = |volumes: &[VolumeInfo]| Actor {
            id: id.clone(),
            created,
            volumes: volumes.iter().map(|volume| volume.id).collect(),
            recipe: Arc::clone(&recipe),
            document: document.clone(),
        };
        let (now, later) = if is_done {
            let shown = actor_with(&[]);
            (receipt.of(outcome_of(&shown)), None)
        } else {
            ((request.begin)(&id).of(()), Some(receipt))
        };
        let describe = |volumes: &[VolumeInfo]| -> ActorRecord { actor_with(volumes).encode() };
        let made = self.store.create_actor(&id, volumes, describe, now)?;
        let actor = actor_with(&made);
        let driver = Driver::new(self, self.insert(actor));
        drop(creating);
        match later {
            None => Ok(outcome_of(&driver.actor)),
            Some(receipt) => {
                self.world.step("actor.birth");
                self.go_on_making(driver, receipt)
            }
        }
    }

    /// Returns the actor that this request began to make before its worker died.
    fn made_before<'a>(&'a self, id: &str, request: &Request<'_>) -> Option<Result<Driver<'a>, ApiError>> {
        let begun = request.begun.as_deref().filter(|begun| *begun == id)?;
        // What has the same id by now may be somebody else's: then the request is answered with what is there.
        match self.take(begun, OperationKind::Remove, Claim::Again) {
            Ok(turn) => Some(Ok(Driver::new(self, turn))),
            Err(ApiError::Actor(ActorError::NotFound { .. })) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn go_on_making(
        &self,
        mut driver: Driver<'_>,
        receipt: Receipt<'_, Outcome>,
    ) -> Result<Outcome, ApiError> {
        if driver.actor.document.operation.is_some() {
            driver.give_birth()?;
        }
        let outcome = outcome_of(&driver.actor);
        driver.answer(outcome, receipt)
    }

    /// Removes an actor, with its volumes and all that is not committed.
    pub(crate) fn remove(
        &self,
        id: &str,
        request: &Request<'_>,
        receipt: Receipt<'_, ()>,
    ) -> Result<(), ApiError> {
        let again = request.begun.is_some();
        let turn = match self.take(id, OperationKind::Remove, request.claim()) {
            // A removal that came to its end without its answer.
            Err(ApiError::Actor(ActorError::NotFound { .. })) if again => {
                self.store.change_actors(&Default::default(), Durability::Process, receipt, &())?;
                return Ok(());
            }
            turn => turn?,
        };
        let mut driver = Driver::new(self, turn);
        // No other actor has ever had a sandbox of this name.
        let name = driver.actor.document.sandbox.clone();
        match &request.begun {
            None => driver.check_not_looked_at()?,
            Some(begun) if *begun == name => {}
            // It is gone, and somebody has made another one that is called so.
            Some(_) => {
                return Ok(self.store.change_actors(
                    &Default::default(),
                    Durability::Process,
                    receipt,
                    &(),
                )?);
            }
        }
        driver.journal_with(Operation::Remove, (request.begin)(&name), "actor.remove")?;
        driver.take_away(receipt)
    }

    /// Returns the captures on this node that a removal would take along, if it would not be refused.
    pub(crate) fn preview_remove(&self, id: &str) -> Result<(Actor, Vec<CaptureId>), ApiError> {
        // Others wait for this, and are not refused.
        let driver = Driver::new(self, self.hold(id)?);
        driver.check_not_looked_at()?;
        let is_local =
            |capture: &Capture| !capture.is_committed() && capture.document.kind != CaptureKind::Birth;
        let captures = self.captures_of(id, is_local).iter().map(|capture| capture.id).collect();
        Ok((driver.actor.clone(), captures))
    }

    fn sandbox_name(&self, id: &str) -> String {
        let unique = self.world.new_id().simple().to_string();
        let readable: String = id.chars().take(24).collect();
        format!("{readable}-{unique}")
    }

    fn made_up_id(&self) -> String {
        let unique = self.world.new_id().simple().to_string();
        format!("actor-{}", unique.get(..8).unwrap_or_default())
    }
}

impl Driver<'_> {
    /// Cuts volumes that were just made, so that the actor can go back to how they began. Safe to be done again.
    pub(super) fn give_birth(&mut self) -> Result<(), ApiError> {
        let id = CaptureId(self.actors.world.new_id().into_bytes());
        let names = self.actor.named_volumes();
        let names: Vec<_> = names.map(|(name, _)| (name.to_owned(), self.actor.volume_name(name))).collect();
        let mut held = self.cut(id, &names)?;
        // Nobody else has seen these volumes: what is there was made by an attempt before.
        held.iter_mut().for_each(|held| held.owned = true);
        self.actors.world.step("actor.born");
        let document = CaptureDocument::new(&self.actor, CaptureKind::Birth, Scope::Data, String::new());
        let capture = Capture { id, created: Timestamp::now(), snapshots: captured(&held), document };
        self.change(vec![(id, Some(capture))], Durability::Disk, Receipt::none(), |actor| {
            actor.document.birth = Some(id);
            actor.document.operation = None;
            if let Some(checkpoint) = &mut actor.document.checkpoint {
                checkpoint.volumes = held;
            }
        })
    }

    /// Refuses while somebody looks at a snapshot of a volume: it could not be removed, and everything else would be gone.
    fn check_not_looked_at(&self) -> Result<(), ApiError> {
        for (name, _) in self.actor.named_volumes() {
            gone_is_fine(self.actors.store.check_snapshots_unused(&self.actor.volume_name(name)))?;
        }
        Ok(())
    }

    /// Takes everything of an actor away. Safe to be done again.
    pub(super) fn take_away(mut self, receipt: Receipt<'_, ()>) -> Result<(), ApiError> {
        self.bring_down()?;
        let id = self.actor.id.clone();
        let own = self.actors.captures_of(&id, |_| true);
        let mut changes = CaptureChanges::new();
        for mut capture in own {
            if capture.is_committed() {
                // What is left of it are the volumes that stand for it.
                capture.snapshots = captured(&capture.document.published);
                capture.document.dropping.clear();
                changes.push((capture.id, Some(capture)));
            } else {
                if capture.document.kind.is_committed() {
                    let volumes = self.actor.recipe.volumes.iter().map(|volume| volume.name.as_str());
                    self.actors.drop_published(capture.id, volumes)?;
                }
                changes.push((capture.id, None));
            }
        }
        self.change(changes, Durability::Disk, Receipt::none(), |actor| actor.volumes.clear())?;
        self.actors.world.step("actor.volumes-go");
        for volume in &self.actor.recipe.volumes {
            let name = self.actor.volume_name(&volume.name);
            gone_is_fine(self.actors.store.remove_volume(&name, Receipt::none()))?;
        }
        self.actors.directory.of(&self.actor.id).remove()?;
        self.actors.world.step("actor.files-gone");
        self.forget(CaptureChanges::new(), receipt)
    }
}

/// Returns what became of a request that made an actor.
fn outcome_of(actor: &Actor) -> Outcome {
    Outcome { actor: actor.clone(), capture: None, phases: Phases::default() }
}

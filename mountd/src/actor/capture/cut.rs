//! The cut of an actor's volumes, and what is on record of it.

use durdir_fs::ids::{CaptureId, Epoch, RequestId};
use durdir_fs::store::record::OutcomeV1;
use durdir_fs::store::{CutReport, Known, Receipt, RequestKey};

use crate::actor::driver::Driver;
use crate::actor::state::Held;
use crate::api::ApiError;

impl Driver<'_> {
    /// Returns the names in the template and in the store of all volumes.
    pub(super) fn volume_names(&self) -> Vec<(String, String)> {
        let names = self.actor.named_volumes();
        names.map(|(name, _)| (name.to_owned(), self.actor.volume_name(name))).collect()
    }

    /// Ends the epochs of volumes, all at one instant. What it made is on record under the capture's id, in the batch of the cut; it is on the disk with
    /// whatever is brought there next.
    pub(in crate::actor) fn cut(
        &self,
        id: CaptureId,
        volumes: &[(String, String)],
    ) -> Result<Vec<Held>, ApiError> {
        let names: Vec<&str> = volumes.iter().map(|(_, stored)| stored.as_str()).collect();
        let receipt = Receipt::new(cut_key(id), |report: &CutReport| {
            let made = report.snapshots.iter().filter(|snapshot| snapshot.made);
            let made: Vec<_> = made.map(|snapshot| (&snapshot.volume, snapshot.epoch.0)).collect();
            OutcomeV1::Done(serde_json::to_vec(&made).expect("names and numbers are JSON"))
        });
        let report = self.actors.store.cut(&names, None, receipt)?;
        let mut held = Vec::new();
        for ((name, stored), snapshot) in volumes.iter().zip(report.snapshots) {
            let (volume, epoch) = (self.actors.store.volume(stored)?.id, snapshot.epoch);
            let owned = snapshot.made || self.actors.is_owned_by_captures(volume, epoch);
            held.push(Held { name: name.clone(), volume, epoch, owned });
        }
        Ok(held)
    }

    /// Tells whether the cut of a capture is on record.
    pub(in crate::actor) fn was_cut(&self, id: CaptureId) -> Result<bool, ApiError> {
        Ok(matches!(self.actors.store.reply_to(cut_key(id))?, Known::Outcome(OutcomeV1::Done(_))))
    }

    /// Returns what a cut made that was not taken note of.
    pub(in crate::actor) fn cut_made(&self, id: CaptureId) -> Result<Vec<Held>, ApiError> {
        let Known::Outcome(OutcomeV1::Done(made)) = self.actors.store.reply_to(cut_key(id))? else {
            return Ok(Vec::new());
        };
        let made: Vec<(String, u64)> = serde_json::from_slice(&made).unwrap_or_default();
        let mut held = Vec::new();
        for (name, epoch) in made {
            // One that was removed since has no snapshots to be removed.
            if let Ok(volume) = self.actors.store.volume(&name) {
                let epoch = Epoch(epoch);
                held.push(Held { name, volume: volume.id, epoch, owned: true });
            }
        }
        Ok(held)
    }
}

/// The record of what a cut made has the id of its capture.
fn cut_key(id: CaptureId) -> RequestKey {
    RequestKey::new(RequestId(id.0), "the cut of a capture", &[])
}

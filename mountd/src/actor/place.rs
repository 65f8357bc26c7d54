//! The place that committed captures go to. It is somebody else's, and may hang: nobody waits for it for ever, least of all a sandbox that is stopped.

use std::path::PathBuf;

use durdir_fs::ids::CaptureId;
use durdir_snapshot::TargetError;

use super::error::ActorError;
use super::left_behind::within;
use super::registry::Actors;

impl Actors {
    /// Does something with a capture where it goes, for which so many bytes are read or written at most. What does not end in time is left
    /// behind.
    pub(super) fn at_place<T: Send + 'static>(
        &self,
        id: CaptureId,
        bytes: u64,
        work: impl FnOnce() -> Result<T, TargetError> + Send + 'static,
    ) -> Result<T, ActorError> {
        let limit = self.world.patience(bytes);
        let done = within(limit, work).map_err(|source| ActorError::Publish {
            id,
            source: TargetError::Io {
                action: "begin to look into",
                path: PathBuf::from("its location"),
                source,
            },
        })?;
        match done {
            Some(done) => done.map_err(|source| ActorError::Publish { id, source }),
            None => Err(ActorError::NoAnswer { id, limit }),
        }
    }
}

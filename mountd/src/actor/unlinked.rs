//! Files that were removed and that programs of a sandbox have open, over a capture of its memory.
//!
//! They are in the cut like everything else, and have no name there. Memory refers to them: when a machine goes on, what serves its volumes opens
//! them by their numbers. Only then they are there, so heads are set to a cut for memory even if nothing but the removal of such files was
//! done since, and are mounted with them; what nobody has opened once the machine is back is removed. They go with the capture, as
//! whatever else it holds.

use durdir_fs::ids::Epoch;

use super::driver::Driver;
use crate::api::ApiError;

impl Driver<'_> {
    /// Mounts a volume, for memory to go on with or for programs that begin anew.
    pub(super) fn mount_volume(&self, name: &str, for_memory: bool) -> Result<(), ApiError> {
        let (stored, at) =
            (self.actor.volume_name(name), self.actors.directory.of(&self.actor.id).volume(name));
        match for_memory {
            true => self.actors.world.mount_with_unlinked(&stored, &at),
            false => self.actors.world.mount(&stored, &at),
        }
    }

    /// Tells whether the head of a volume is where a cut is, with all that memory may refer to.
    pub(super) fn is_at_cut(&self, stored: &str, epoch: Epoch, for_memory: bool) -> Result<bool, ApiError> {
        let store = &self.actors.store;
        Ok(store.is_at(stored, epoch)? && !(for_memory && store.lacks_orphans(stored, epoch)?))
    }

    /// Lets go of removed files that the sandbox did not open again.
    pub(super) fn let_go_of_unlinked(&self) -> Result<(), ApiError> {
        for (name, _) in self.actor.named_volumes() {
            self.actors.store.let_go_of_orphans(&self.actor.volume_name(name))?;
        }
        Ok(())
    }
}

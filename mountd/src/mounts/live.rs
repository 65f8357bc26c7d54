//! A mount as the registry needs it, so that the registry can be tested without a kernel.

use std::path::Path;
use std::time::Instant;

use durdir_fs::fuse::{DeviceId, MountError, OldestRequest, OpSummary};

use super::session::KeptMount;

/// Something that is mounted.
pub(super) trait LiveMount: Send + Sync {
    /// Returns whether requests are still answered.
    fn is_alive(&self) -> bool;
    /// Returns whether a successor would go on with it.
    fn is_kept(&self) -> bool;
    /// Unmounts. After an error it is still mounted and may be tried again.
    fn unmount(&self) -> Result<(), MountError>;
    /// Takes the mount away from whoever uses it.
    fn abort(&self) -> Result<(), MountError>;
    /// Waits for the end of a mount that was taken away, and tells whether it has come. Nothing is kept of it after this.
    fn end_by(&self, deadline: Instant) -> bool;
    /// Returns the `st_dev` of its files.
    fn device(&self) -> DeviceId;
    /// Returns the name of the transport.
    fn transport(&self) -> &'static str;
    /// Returns what its operations have cost.
    fn stats(&self) -> Vec<OpSummary>;
    /// Returns how many requests were answered from the store that a predecessor had executed.
    fn replayed(&self) -> u64;
    /// Returns the request that is worked on for the longest time.
    fn oldest_request(&self) -> Option<OldestRequest>;
    /// Returns where it is mounted, without symbolic links.
    fn mountpoint(&self) -> &Path;
}

impl LiveMount for KeptMount {
    fn is_alive(&self) -> bool {
        self.mount.is_alive()
    }

    fn is_kept(&self) -> bool {
        KeptMount::is_kept(self)
    }

    fn unmount(&self) -> Result<(), MountError> {
        KeptMount::unmount(self)
    }

    fn abort(&self) -> Result<(), MountError> {
        self.mount.abort()
    }

    fn end_by(&self, deadline: Instant) -> bool {
        KeptMount::end_by(self, deadline)
    }

    fn device(&self) -> DeviceId {
        self.mount.device()
    }

    fn transport(&self) -> &'static str {
        self.mount.transport()
    }

    fn stats(&self) -> Vec<OpSummary> {
        self.mount.stats()
    }

    fn replayed(&self) -> u64 {
        self.mount.replayed()
    }

    fn oldest_request(&self) -> Option<OldestRequest> {
        self.mount.oldest_request()
    }

    fn mountpoint(&self) -> &Path {
        self.mount.mountpoint()
    }
}

//! A mount as the registry needs it, so that the registry can be tested without a kernel.

use std::path::Path;

use durdir_fs::fuse::{DeviceId, Mount, MountError, OldestRequest, OpSummary};

/// Something that is mounted.
pub(super) trait LiveMount: Send + Sync {
    /// Returns whether requests are still answered.
    fn is_alive(&self) -> bool;
    /// Unmounts. After an error it is still mounted and may be tried again.
    fn unmount(&self) -> Result<(), MountError>;
    /// Takes the mount away from whoever uses it.
    fn abort(&self) -> Result<(), MountError>;
    /// Returns the `st_dev` of its files.
    fn device(&self) -> DeviceId;
    /// Returns the name of the transport.
    fn transport(&self) -> &'static str;
    /// Returns what its operations have cost.
    fn stats(&self) -> Vec<OpSummary>;
    /// Returns the request that is worked on for the longest time.
    fn oldest_request(&self) -> Option<OldestRequest>;
    /// Returns where it is mounted, without symbolic links.
    fn mountpoint(&self) -> &Path;
}

impl LiveMount for Mount {
    fn is_alive(&self) -> bool {
        Mount::is_alive(self)
    }

    fn unmount(&self) -> Result<(), MountError> {
        Mount::unmount(self)
    }

    fn abort(&self) -> Result<(), MountError> {
        Mount::abort(self)
    }

    fn device(&self) -> DeviceId {
        Mount::device(self)
    }

    fn transport(&self) -> &'static str {
        Mount::transport(self)
    }

    fn stats(&self) -> Vec<OpSummary> {
        Mount::stats(self)
    }

    fn oldest_request(&self) -> Option<OldestRequest> {
        Mount::oldest_request(self)
    }

    fn mountpoint(&self) -> &Path {
        Mount::mountpoint(self)
    }
}

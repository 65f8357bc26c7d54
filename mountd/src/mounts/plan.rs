//! What a request to mount asks for, checked.

use std::path::PathBuf;

use durdir_fs::fuse::CacheMode;

use crate::api::{ApiError, request_path};
use crate::proto;

/// Where and how to mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MountPlan {
    pub(crate) mountpoint: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) cache: CacheMode,
    pub(crate) allow_other: bool,
}

impl MountPlan {
    /// Reads a request. `root` tells whether mountd runs as root: sandboxes run as other users, and
    /// only root may let them in without asking.
    pub(super) fn from_request(options: proto::MountOptions, root: bool) -> Result<MountPlan, ApiError> {
        let cache = match options.cache() {
            proto::CacheMode::Unspecified | proto::CacheMode::WriteThrough => CacheMode::WriteThrough,
            proto::CacheMode::Writeback => CacheMode::Writeback,
        };
        match options.transport() {
            proto::TransportKind::Unspecified
            | proto::TransportKind::Auto
            | proto::TransportKind::Classic => {}
            proto::TransportKind::Uring => return Err(ApiError::NoUring),
        }
        Ok(MountPlan {
            mountpoint: request_path("mount point", options.mountpoint)?,
            read_only: options.read_only,
            cache,
            allow_other: options.allow_other.unwrap_or(root),
        })
    }
}

/// Returns the name of a cache mode on the command line.
pub(crate) fn cache_name(cache: CacheMode) -> &'static str {
    match cache {
        CacheMode::WriteThrough => "write-through",
        CacheMode::Writeback => "writeback",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> proto::MountOptions {
        proto::MountOptions { mountpoint: b"/m".to_vec(), ..proto::MountOptions::default() }
    }

    #[test]
    fn root_lets_others_in_unless_told_otherwise() {
        let allow = |asked, root| {
            let request = proto::MountOptions { allow_other: asked, ..request() };
            MountPlan::from_request(request, root).unwrap().allow_other
        };
        assert!(allow(None, true) && !allow(None, false));
        assert!(!allow(Some(false), true) && allow(Some(true), false));
    }

    #[test]
    fn uring_is_refused() {
        let mut request = request();
        request.set_transport(proto::TransportKind::Uring);
        assert!(matches!(MountPlan::from_request(request, true), Err(ApiError::NoUring)));
    }
}

//! The calls about mounts.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use durdir_fs::FsError;
use durdir_fs::store::{VolumeInfo, VolumeSpec};
use tonic::{Request, Response, Status};

use super::snapshots::undo_create;
use super::{ApiError, convert};
use crate::daemon::Node;
use crate::mounts::{MountPlan, MountView, Selector, cache_name};
use crate::proto::mounts_server::Mounts;
use crate::proto::{
    ListMountsRequest, ListMountsResponse, MountInfo, MountRequest, MountResponse, UnmountRequest,
    UnmountResponse,
};

/// Answers the calls about mounts.
pub(super) struct MountsService {
    node: Arc<Node>,
}

impl MountsService {
    pub(super) fn new(node: Arc<Node>) -> MountsService {
        MountsService { node }
    }
}

#[tonic::async_trait]
impl Mounts for MountsService {
    async fn mount(&self, request: Request<MountRequest>) -> Result<Response<MountResponse>, Status> {
        let request = request.into_inner();
        self.node.answer("mount", move |node| mount(node, request)).await
    }

    async fn unmount(&self, request: Request<UnmountRequest>) -> Result<Response<UnmountResponse>, Status> {
        let UnmountRequest { mountpoint, name } = request.into_inner();
        let work = move |node: &Node| {
            let mountpoint = PathBuf::from(OsString::from_vec(mountpoint));
            Ok(UnmountResponse { unmounted: unmount(node, mountpoint, name)? })
        };
        self.node.answer("umount", work).await
    }

    async fn list_mounts(
        &self,
        _: Request<ListMountsRequest>,
    ) -> Result<Response<ListMountsResponse>, Status> {
        let work = |node: &Node| {
            let mounts = node.mounts.all();
            Ok(ListMountsResponse { mounts: mounts.iter().map(mount_view).collect() })
        };
        self.node.answer("mounts", work).await
    }
}

fn mount(node: &Node, request: MountRequest) -> Result<MountResponse, ApiError> {
    let options = request.options.ok_or(ApiError::Malformed { what: "no mount options" })?;
    let plan = node.mounts.plan(options)?;
    let spec = convert::volume_spec(request.lowers, request.quota_bytes, request.quota_inodes)?;
    node.mounts.check_lowers(&spec.lowers)?;
    if let Some(snapshot) = &request.snapshot {
        if !spec.lowers.is_empty() {
            return Err(ApiError::NotForSnapshots { what: "--lower" });
        }
        if request.quota_bytes.is_some() || request.quota_inodes.is_some() {
            return Err(ApiError::NotForSnapshots { what: "a quota" });
        }
        let mounted = mount_snapshot(node, &request.volume, snapshot, plan)?;
        return Ok(MountResponse { mount: Some(mount_view(&mounted)), created: false });
    }
    let existing = match node.store.volume(&request.volume) {
        Ok(info) => Some(info),
        Err(FsError::VolumeNotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let created = existing.is_none();
    let undo = match existing {
        Some(info) => {
            check_same_lowers(&info, &spec)?;
            Undo::Quota { bytes: info.quota_bytes, inodes: info.quota_inodes }
        }
        None if !request.create => {
            return Err(ApiError::NoVolumeToMount { volume: request.volume });
        }
        None => Undo::Creation,
    };
    let bytes = request.quota_bytes.map(convert::limit);
    let inodes = request.quota_inodes.map(convert::limit);
    let prepare = || -> Result<MountView, ApiError> {
        match &undo {
            Undo::Creation => {
                node.store.create_volume(&request.volume, &spec)?;
            }
            Undo::Quota { .. } if bytes.is_none() && inodes.is_none() => {}
            Undo::Quota { bytes: old_bytes, inodes: old_inodes } => {
                let (bytes, inodes) = (bytes.unwrap_or(*old_bytes), inodes.unwrap_or(*old_inodes));
                node.store.set_quota(&request.volume, bytes, inodes)?;
            }
        }
        node.mounts.mount_head(&node.store, &request.volume, plan).inspect_err(|_| match &undo {
            Undo::Creation => undo_create(node, &request.volume),
            Undo::Quota { bytes, inodes } => undo_quota(node, &request.volume, *bytes, *inodes),
        })
    };
    let mounted = prepare()?;
    Ok(MountResponse { mount: Some(mount_view(&mounted)), created })
}

/// What a mount that fails must take back.
enum Undo {
    Creation,
    Quota { bytes: Option<u64>, inodes: Option<u64> },
}

fn undo_quota(node: &Node, volume: &str, bytes: Option<u64>, inodes: Option<u64>) {
    if let Err(error) = node.store.set_quota(volume, bytes, inodes) {
        // The call fails with its own error; this one would hide it.
        let error = crate::exit::one_line(&error);
        tracing::error!(volume, error, "cannot set back the quota after a failed mount");
    }
}

fn mount_snapshot(node: &Node, volume: &str, snapshot: &str, plan: MountPlan) -> Result<MountView, ApiError> {
    let volume = node.store.volume(volume)?;
    let info = node.store.find_snapshot(snapshot)?;
    if info.volume != volume.name {
        let snapshot = snapshot.to_owned();
        return Err(ApiError::ForeignSnapshot { snapshot, volume: volume.name });
    }
    node.mounts.mount_snapshot(&node.store, volume.id, &info, plan)
}

fn check_same_lowers(info: &VolumeInfo, spec: &VolumeSpec) -> Result<(), ApiError> {
    if spec.lowers.is_empty() || spec.lowers == info.lowers {
        return Ok(());
    }
    let lowers: Vec<_> = info.lowers.iter().map(|path| path.display().to_string()).collect();
    let existing = match lowers.len() {
        0 => "no lower".to_owned(),
        _ => format!("lower {}", lowers.join(", ")),
    };
    Err(ApiError::OtherLowers { volume: info.name.clone(), existing })
}

fn unmount(node: &Node, mountpoint: PathBuf, name: String) -> Result<Vec<MountInfo>, ApiError> {
    let mut gone = node.mounts.unmount(&Selector::At(mountpoint.clone()))?;
    if gone.is_empty()
        && let Some(selector) = selector_of(node, &name)?
    {
        gone = node.mounts.unmount(&selector)?;
    }
    if !gone.is_empty() {
        return Ok(gone.iter().map(mount_view).collect());
    }
    if node.mounts.remove_remains(&mountpoint)? {
        // Whose it was died with the daemon that made it.
        let mountpoint = convert::path_bytes(&mountpoint);
        return Ok(vec![MountInfo { mountpoint, ..MountInfo::default() }]);
    }
    Err(ApiError::NotMounted { target: name })
}

/// Returns what a volume or snapshot name selects; `None` where there is none of that name.
fn selector_of(node: &Node, name: &str) -> Result<Option<Selector>, ApiError> {
    let found = if name.contains('@') {
        node.store.find_snapshot(name).and_then(|snapshot| {
            let volume = node.store.volume(&snapshot.volume)?;
            Ok(Selector::Snapshot(volume.id, snapshot.epoch))
        })
    } else {
        node.store.volume(name).map(|volume| Selector::Volume(volume.id))
    };
    match found {
        Ok(selector) => Ok(Some(selector)),
        // A mount point was meant: `./web` is no volume name.
        Err(FsError::VolumeNotFound { .. } | FsError::SnapshotNotFound { .. } | FsError::BadName { .. }) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns a mount as the API has it.
pub(super) fn mount_view(mount: &MountView) -> MountInfo {
    MountInfo {
        volume: mount.volume.clone(),
        snapshot: mount.snapshot(),
        mountpoint: convert::path_bytes(&mount.mountpoint),
        read_only: mount.read_only,
        transport: mount.transport.to_owned(),
        cache: cache_name(mount.cache).to_owned(),
    }
}

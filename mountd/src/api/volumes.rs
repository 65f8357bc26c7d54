//! The calls about volumes.

use std::sync::Arc;

use durdir_fs::store::{Receipt, VolumeInfo};
use tonic::{Request, Response, Status};

use super::actors::{check_not_owned, check_not_published};
use super::{ApiError, Ticket, convert};
use crate::actor;
use crate::daemon::Node;
use crate::proto::volumes_server::Volumes;
use crate::proto::{
    CreateVolumeRequest, GetVolumeRequest, ListVolumesRequest, ListVolumesResponse, QuotaChange,
    RemovalPreview, RemoveVolumeRequest, RemoveVolumeResponse, RenameVolumeRequest, RollbackPreview,
    RollbackVolumeRequest, SetQuotaRequest, Volume,
};

/// Answers the calls about volumes.
pub(super) struct VolumesService {
    node: Arc<Node>,
}

impl VolumesService {
    pub(super) fn new(node: Arc<Node>) -> VolumesService {
        VolumesService { node }
    }
}

#[tonic::async_trait]
impl Volumes for VolumesService {
    async fn create_volume(&self, request: Request<CreateVolumeRequest>) -> Result<Response<Volume>, Status> {
        let work = |node: &Node, request: CreateVolumeRequest, ticket: Ticket<'_>| {
            let spec = convert::volume_spec(request.lowers, request.quota_bytes, request.quota_inodes)?;
            node.mounts.check_outside(&spec.lowers)?;
            actor::check_not_reserved(&request.name)?;
            ticket.change(
                |receipt| node.store.create_volume(&request.name, &spec, receipt),
                |info: &VolumeInfo| show(node, info.clone()),
            )
        };
        self.node.perform("volume create", request, work).await
    }

    async fn list_volumes(
        &self,
        _: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let work = |node: &Node| {
            let volumes = node.store.volumes()?.into_iter().map(|info| show(node, info));
            Ok(ListVolumesResponse { volumes: volumes.collect() })
        };
        self.node.answer("volume ls", work).await
    }

    async fn get_volume(&self, request: Request<GetVolumeRequest>) -> Result<Response<Volume>, Status> {
        let name = request.into_inner().name;
        let work = move |node: &Node| Ok(show(node, node.store.volume(&name)?));
        self.node.answer("volume show", work).await
    }

    async fn remove_volume(
        &self,
        request: Request<RemoveVolumeRequest>,
    ) -> Result<Response<RemoveVolumeResponse>, Status> {
        let work = |node: &Node, RemoveVolumeRequest { name }, ticket: Ticket<'_>| {
            check_unused(node, &name)?;
            ticket.change(|receipt| node.store.remove_volume(&name, receipt), |()| RemoveVolumeResponse {})
        };
        self.node.perform("volume rm", request, work).await
    }

    async fn preview_remove_volume(
        &self,
        request: Request<RemoveVolumeRequest>,
    ) -> Result<Response<RemovalPreview>, Status> {
        let RemoveVolumeRequest { name } = request.into_inner();
        let work = move |node: &Node| {
            check_unused(node, &name)?;
            Ok(convert::removal(node.store.preview_remove_volume(&name)?))
        };
        self.node.answer("volume rm --dry-run", work).await
    }

    async fn rename_volume(&self, request: Request<RenameVolumeRequest>) -> Result<Response<Volume>, Status> {
        let work = |node: &Node, RenameVolumeRequest { name, new_name }, ticket: Ticket<'_>| {
            check_not_owned(node, &name, node.store.volume(&name)?.id)?;
            actor::check_not_reserved(&new_name)?;
            let rename = |receipt: Receipt<'_, VolumeInfo>| {
                let renamed = node.store.rename_volume(&name, &new_name, receipt)?;
                node.mounts.renamed(renamed.id, &new_name);
                Ok::<_, ApiError>(renamed)
            };
            ticket.change(rename, |info: &VolumeInfo| show(node, info.clone()))
        };
        self.node.perform("volume rename", request, work).await
    }

    async fn set_quota(&self, request: Request<SetQuotaRequest>) -> Result<Response<Volume>, Status> {
        let work = |node: &Node, SetQuotaRequest { name, bytes, inodes }, ticket: Ticket<'_>| {
            let info = node.store.volume(&name)?;
            // That of an actor may be given more room, also while it runs.
            check_not_published(node, &name, info.id)?;
            let bytes = changed(bytes, info.quota_bytes)?;
            let inodes = changed(inodes, info.quota_inodes)?;
            ticket.change(
                |receipt| node.store.set_quota(&name, bytes, inodes, receipt),
                |info: &VolumeInfo| show(node, info.clone()),
            )
        };
        self.node.perform("volume set-quota", request, work).await
    }

    async fn rollback_volume(
        &self,
        request: Request<RollbackVolumeRequest>,
    ) -> Result<Response<Volume>, Status> {
        let work = |node: &Node, RollbackVolumeRequest { name, snapshot }, ticket: Ticket<'_>| {
            check_not_owned(node, &name, node.store.volume(&name)?.id)?;
            ticket.change(
                |receipt| node.store.rollback(&name, &snapshot, receipt),
                |info: &VolumeInfo| show(node, info.clone()),
            )
        };
        self.node.perform("volume rollback", request, work).await
    }

    async fn preview_rollback_volume(
        &self,
        request: Request<RollbackVolumeRequest>,
    ) -> Result<Response<RollbackPreview>, Status> {
        let RollbackVolumeRequest { name, snapshot } = request.into_inner();
        let work = move |node: &Node| {
            let bytes = node.store.preview_rollback(&name, &snapshot)?;
            let log = node.store.log(Some(&name))?;
            let newest = log.into_iter().find(|entry| entry.head_of.as_deref() == Some(&name));
            let since = newest.map(|entry| entry.snapshot);
            let changes = match &since {
                Some(since) => node.store.diff(since, Some(&name))?,
                None => Vec::new(),
            };
            Ok(convert::rollback(since, &changes, bytes))
        };
        self.node.answer("volume rollback --dry-run", work).await
    }
}

/// Refuses while a volume belongs to somebody, or it or a snapshot of it is mounted.
fn check_unused(node: &Node, name: &str) -> Result<(), ApiError> {
    let info = node.store.volume(name)?;
    // First: the mount of an actor's volume is nobody else's to take away.
    check_not_owned(node, name, info.id)?;
    match node.mounts.of_volume(info.id).into_iter().next() {
        Some(used) => Err(ApiError::InUse { what: used.name(), mountpoint: used.mountpoint }),
        None => Ok(()),
    }
}

/// Returns a volume with its mounts, as the API has it.
pub(super) fn show(node: &Node, info: VolumeInfo) -> Volume {
    let mounts: Vec<_> = node.mounts.of_volume(info.id).into_iter().map(|mount| mount.mountpoint).collect();
    convert::volume(info, &mounts)
}

fn changed(change: Option<QuotaChange>, present: Option<u64>) -> Result<Option<u64>, ApiError> {
    match change {
        None => Ok(present),
        Some(change) => convert::limit(change.limit),
    }
}

//! The calls about snapshots, forks and history.

use std::collections::HashSet;
use std::sync::Arc;

use durdir_fs::store::{CutReport, Receipt, VolumeInfo};
use durdir_fs::{FsError, failpoint};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::actors::check_not_held;
use super::mounts::{mount_as_begun, mount_view};
use super::volumes::show;
use super::{ApiError, Done, Ticket, convert};
use crate::actor::{self, Turn};
use crate::daemon::Node;
use crate::proto::snapshots_server::Snapshots;
use crate::proto::{
    Change, CreateSnapshotRequest, CreateSnapshotResponse, DiffRequest, DiffResponse, ForkRequest,
    ForkResponse, GetSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse, LogRequest, LogResponse,
    MountIntent, RemovalPreview, RemoveSnapshotsRequest, RemoveSnapshotsResponse, Snapshot,
};

/// Changes per message of a diff: well below the message size limit of any client, even with the
/// longest paths.
const CHANGES_PER_PART: usize = 256;

/// Answers the calls about snapshots.
pub(super) struct SnapshotsService {
    node: Arc<Node>,
}

impl SnapshotsService {
    pub(super) fn new(node: Arc<Node>) -> SnapshotsService {
        SnapshotsService { node }
    }
}

#[tonic::async_trait]
impl Snapshots for SnapshotsService {
    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        let work = |node: &Node, CreateSnapshotRequest { volumes, name }, ticket: Ticket<'_>| {
            let mut seen = HashSet::new();
            if let Some(twice) = volumes.iter().find(|volume| !seen.insert(volume.as_str())) {
                return Err(ApiError::NamedTwice { volume: twice.clone() });
            }
            if volumes.is_empty() {
                return Err(ApiError::Malformed { what: "no volume named" });
            }
            // All names are looked up before programs are made to write anything out.
            let ids = volumes.iter().map(|volume| Ok(node.store.volume(volume)?.id));
            let ids = ids.collect::<Result<Vec<_>, ApiError>>()?;
            let drained = node.mounts.drain(&ids)?;
            let names: Vec<&str> = volumes.iter().map(String::as_str).collect();
            let cut = |receipt: Receipt<'_, CutReport>| {
                node.store.snapshot(&names, name.as_deref(), receipt).inspect(|report| {
                    if report.snapshots.iter().any(|snapshot| snapshot.changed) {
                        node.tally.count_cut(report.held, drained);
                    }
                })
            };
            ticket.change(cut, |report: &CutReport| convert::cut(report.clone(), drained))
        };
        self.node.perform("snapshot create", request, work).await
    }

    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        let volume = request.into_inner().volume;
        let work = move |node: &Node| {
            let snapshots = node.store.snapshots(volume.as_deref())?;
            let snapshots = snapshots.into_iter().map(convert::snapshot).collect();
            Ok(ListSnapshotsResponse { snapshots })
        };
        self.node.answer("snapshot ls", work).await
    }

    async fn get_snapshot(&self, request: Request<GetSnapshotRequest>) -> Result<Response<Snapshot>, Status> {
        let snapshot = request.into_inner().snapshot;
        let work = move |node: &Node| Ok(convert::snapshot(node.store.find_snapshot(&snapshot)?));
        self.node.answer("snapshot show", work).await
    }

    async fn remove_snapshots(
        &self,
        request: Request<RemoveSnapshotsRequest>,
    ) -> Result<Response<RemoveSnapshotsResponse>, Status> {
        let work = |node: &Node, RemoveSnapshotsRequest { snapshots }, ticket: Ticket<'_>| {
            // What is not held by a capture now is not when it is removed.
            let _held = hold_owners(node, &snapshots)?;
            check_unused(node, &snapshots)?;
            failpoint::hit("snapshot-rm.checked");
            let names: Vec<&str> = snapshots.iter().map(String::as_str).collect();
            let remove = |receipt: Receipt<'_, ()>| node.store.remove_snapshots(&names, receipt);
            ticket.change(remove, |()| RemoveSnapshotsResponse {})
        };
        self.node.perform("snapshot rm", request, work).await
    }

    async fn preview_remove_snapshots(
        &self,
        request: Request<RemoveSnapshotsRequest>,
    ) -> Result<Response<RemovalPreview>, Status> {
        let RemoveSnapshotsRequest { snapshots } = request.into_inner();
        let work = move |node: &Node| {
            check_unused(node, &snapshots)?;
            let names: Vec<&str> = snapshots.iter().map(String::as_str).collect();
            Ok(convert::removal(node.store.preview_remove_snapshots(&names)?))
        };
        self.node.answer("snapshot rm --dry-run", work).await
    }

    type DiffStream = ReceiverStream<Result<DiffResponse, Status>>;

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<Self::DiffStream>, Status> {
        let DiffRequest { from, to } = request.into_inner();
        let work = move |node: &Node| {
            let mut changes = node.store.diff(&from, to.as_deref())?;
            changes.sort_by(|one, other| one.path.cmp(&other.path));
            Ok(changes.into_iter().map(convert::change).collect::<Vec<_>>())
        };
        let changes = self.node.answer("snapshot diff", work).await?.into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            for part in changes.chunks(CHANGES_PER_PART) {
                let part: Vec<Change> = part.to_vec();
                // The client is gone: nobody wants the rest.
                if sender.send(Ok(DiffResponse { changes: part })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fork(&self, request: Request<ForkRequest>) -> Result<Response<ForkResponse>, Status> {
        self.node.perform("fork", request, fork).await
    }

    async fn log(&self, request: Request<LogRequest>) -> Result<Response<LogResponse>, Status> {
        let volume = request.into_inner().volume;
        let work = move |node: &Node| {
            let entries = node.store.log(volume.as_deref())?;
            Ok(LogResponse { entries: entries.into_iter().map(convert::log_entry).collect() })
        };
        self.node.answer("log", work).await
    }
}

/// Has no capture made of any volume that a snapshot is of.
fn hold_owners(node: &Node, snapshots: &[String]) -> Result<Vec<Turn>, ApiError> {
    let volume_of = |given: &String| Ok(node.store.volume(&node.store.find_snapshot(given)?.volume)?.id);
    let volumes = snapshots.iter().map(volume_of).collect::<Result<Vec<_>, FsError>>()?;
    Ok(node.actors.hold_owners(&volumes)?)
}

/// Refuses while one of the snapshots is mounted.
fn check_unused(node: &Node, snapshots: &[String]) -> Result<(), ApiError> {
    for given in snapshots {
        let info = node.store.find_snapshot(given)?;
        let id = node.store.volume(&info.volume)?.id;
        if let Some(used) = node.mounts.of_snapshot(id, info.epoch).into_iter().next() {
            return Err(ApiError::InUse { what: used.name(), mountpoint: used.mountpoint });
        }
        check_not_held(node, given, id, info.epoch)?;
    }
    Ok(())
}

/// Forks a snapshot, and mounts the fork if asked to. The volume and the intent to mount it are one batch; from there on it
/// is as with a volume that a mount creates: see `mounts.rs`.
fn fork(node: &Node, request: ForkRequest, ticket: Ticket<'_>) -> Result<Done<ForkResponse>, ApiError> {
    let ForkRequest { snapshot, volume, mount } = request;
    actor::check_not_reserved(&volume)?;
    let Some(options) = mount else {
        return ticket.change(
            |receipt| node.store.fork(&snapshot, &volume, receipt),
            |info: &VolumeInfo| ForkResponse { volume: Some(show(node, info.clone())), mount: None },
        );
    };
    let plan = node.mounts.plan(options, &node.endpoint.store)?;
    let intent = match ticket.begun::<MountIntent>()? {
        Some(intent) => intent,
        None => {
            let intent = MountIntent { created: true, ..MountIntent::default() };
            node.store.fork(&snapshot, &volume, ticket.begin_with(&intent))?;
            intent
        }
    };
    let mounted = mount_as_begun(node, &ticket, &volume, plan, &intent)?;
    let info = node.store.volume(&volume)?;
    let answer = ForkResponse { volume: Some(show(node, info)), mount: Some(mount_view(&mounted)) };
    Ok(ticket.done_as(answer, &MountIntent { mounted: true, ..intent }))
}

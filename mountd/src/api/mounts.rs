//! The calls about mounts.
//!
//! # Crash consistency
//! A mount is outside the store, so what is about to be done is stored first (`intents.proto`), and a call that comes again
//! decides from what it finds:
//!
//! | stored | found | then |
//! |---|---|---|
//! | nothing | | nothing was done: begin |
//! | intent to mount, also one that was carried out | nothing mounted there, or a dead mount | mount: a daemon that is gone took its mounts with it |
//! | intent to mount | the same volume or snapshot, mounted there the same way | that mount is the answer: a successor took it over |
//! | intent to mount | something else there, or the head mounted elsewhere | somebody else came first: a conflict, and what the intent began with is taken back |
//! | intent to mount, by a daemon that was ending | whatever it left | the next daemon goes on with it, as after a kill |
//! | intent that was carried out | the same | a conflict; nothing is taken back, programs may have used it |
//! | intent to mount, of a volume that the call made | no such volume | somebody removed it since: not found |
//! | intent to unmount | still mounted | unmount |
//! | intent to unmount | a dead mount | remove it |
//! | intent to unmount | nothing | it is gone, as was asked: the answer is the stored list |
//! | answer or refusal | | that |
//!
//! That something is mounted is a state and no event, so a mount that is up leaves an intent that was carried out and no
//! answer: who asks again wants to use it.
//!
//! A volume that a call makes, or a quota that it changes, is in one batch with the intent; taking it back after a failed mount
//! is in one batch with the refusal.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durdir_fs::store::{VolumeInfo, VolumeSpec};
use durdir_fs::{FsError, failpoint};
use tonic::{Request, Response, Status};

use super::actors::check_not_owned;
use super::{ApiError, Done, Ticket, convert};
use crate::actor::{self, ActorError};
use crate::daemon::Node;
use crate::exit::one_line;
use crate::mounts::{MountPlan, MountView, Selector, Source, cache_name};
use crate::proto::mounts_server::Mounts;
use crate::proto::{
    ListMountsRequest, ListMountsResponse, MountInfo, MountIntent, MountRequest, MountResponse, QuotaBefore,
    UnmountIntent, UnmountRequest, UnmountResponse,
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
        self.node.perform("mount", request, mount).await
    }

    async fn unmount(&self, request: Request<UnmountRequest>) -> Result<Response<UnmountResponse>, Status> {
        self.node.perform("umount", request, unmount).await
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

fn mount(node: &Node, request: MountRequest, ticket: Ticket<'_>) -> Result<Done<MountResponse>, ApiError> {
    let options = request.options.clone().ok_or(ApiError::Malformed { what: "no mount options" })?;
    let plan = node.mounts.plan(options, &node.endpoint.store)?;
    let lowers = request.lowers.clone();
    let spec = convert::volume_spec(lowers, request.quota_bytes, request.quota_inodes)?;
    node.mounts.check_outside(&spec.lowers)?;
    if let Some(snapshot) = &request.snapshot {
        if !spec.lowers.is_empty() {
            return Err(ApiError::NotForSnapshots { what: "--lower" });
        }
        let bytes = asked_quota(request.quota_bytes, request.no_quota_bytes)?;
        let inodes = asked_quota(request.quota_inodes, request.no_quota_inodes)?;
        if bytes.is_some() || inodes.is_some() {
            return Err(ApiError::NotForSnapshots { what: "a quota" });
        }
        let mounted = mount_snapshot(node, &ticket, &request.volume, snapshot, plan)?;
        let answer = MountResponse { mount: Some(mount_view(&mounted)), created: false };
        return Ok(ticket.done_as(answer, &MountIntent { mounted: true, ..MountIntent::default() }));
    }
    let intent = match ticket.begun::<MountIntent>()? {
        Some(intent) => intent,
        None => begin_mount(node, &ticket, &request, &spec)?,
    };
    let mounted = mount_as_begun(node, &ticket, &request.volume, plan, &intent)?;
    let answer = MountResponse { mount: Some(mount_view(&mounted)), created: intent.created };
    Ok(ticket.done_as(answer, &MountIntent { mounted: true, ..intent }))
}

/// Makes the volume, or changes its quotas, as the request says, and stores the intent to mount it in the same batch.
fn begin_mount(
    node: &Node,
    ticket: &Ticket<'_>,
    request: &MountRequest,
    spec: &VolumeSpec,
) -> Result<MountIntent, ApiError> {
    let volume = &request.volume;
    let intent = match node.store.volume(volume) {
        Ok(info) => {
            check_not_owned(node, volume, info.id)?;
            check_same_lowers(&info, spec)?;
            let bytes = asked_quota(request.quota_bytes, request.no_quota_bytes)?;
            let inodes = asked_quota(request.quota_inodes, request.no_quota_inodes)?;
            if bytes.is_none() && inodes.is_none() {
                let intent = MountIntent::default();
                ticket.begin(&intent)?;
                intent
            } else {
                let before = QuotaBefore { bytes: info.quota_bytes, inodes: info.quota_inodes };
                let intent = MountIntent { quota: Some(before), ..MountIntent::default() };
                let (bytes, inodes) =
                    (bytes.unwrap_or(info.quota_bytes), inodes.unwrap_or(info.quota_inodes));
                node.store.set_quota(volume, bytes, inodes, ticket.begin_with(&intent))?;
                intent
            }
        }
        Err(FsError::VolumeNotFound { .. }) if request.create => {
            actor::check_not_reserved(volume)?;
            let intent = MountIntent { created: true, ..MountIntent::default() };
            node.store.create_volume(volume, spec, ticket.begin_with(&intent))?;
            intent
        }
        Err(FsError::VolumeNotFound { .. }) => {
            return Err(match volume.split_once('@') {
                Some((of, snapshot)) => {
                    ApiError::SnapshotAsVolume { volume: of.to_owned(), snapshot: snapshot.to_owned() }
                }
                None => ApiError::NoVolumeToMount { volume: volume.clone() },
            });
        }
        Err(error) => return Err(error.into()),
    };
    Ok(intent)
}

/// Returns what a request sets a limit to: `Some(None)` lifts it.
fn asked_quota(limit: Option<u64>, lifted: bool) -> Result<Option<Option<u64>>, ApiError> {
    match (convert::limit(limit)?, lifted) {
        (Some(_), true) => Err(ApiError::Malformed { what: "a quota that is both set and lifted" }),
        (None, false) => Ok(None),
        (limit, _) => Ok(Some(limit)),
    }
}

/// Mounts the head of a volume after the intent to do so was stored. If that fails, what the intent says is taken back, and the
/// refusal is stored with it.
pub(super) fn mount_as_begun(
    node: &Node,
    ticket: &Ticket<'_>,
    volume: &str,
    plan: MountPlan,
    intent: &MountIntent,
) -> Result<MountView, ApiError> {
    failpoint::hit("mount.after-intent");
    if let Some(mounted) = mounted_before(node, ticket, &plan, |view| {
        view.volume == volume && view.source == Source::Head && view.read_only == plan.read_only
    })? {
        return Ok(mounted);
    }
    let mounted = node.mounts.mount_head(&node.store, volume, plan).inspect_err(|error| {
        let taken_back = if intent.mounted || matches!(error, ApiError::ShuttingDown) {
            // Programs have had it since; or the client asks the next daemon, which goes on from here.
            Ok(())
        } else if intent.created {
            node.store.remove_volume(volume, ticket.refuse_with(error))
        } else if let Some(QuotaBefore { bytes, inodes }) = intent.quota {
            node.store.set_quota(volume, bytes, inodes, ticket.refuse_with(error)).map(drop)
        } else {
            Ok(())
        };
        if let Err(error) = taken_back {
            // The call fails with its own error; this one would hide it.
            let error = one_line(&error);
            tracing::error!(volume, error, "cannot take back what a failed mount had begun with");
        }
    })?;
    failpoint::hit("mount.after-mount");
    Ok(mounted)
}

/// Returns the mount that this very request made before its daemon was killed, if a successor took it over.
fn mounted_before(
    node: &Node,
    ticket: &Ticket<'_>,
    plan: &MountPlan,
    is_it: impl Fn(&MountView) -> bool,
) -> Result<Option<MountView>, ApiError> {
    if ticket.begun::<MountIntent>()?.is_none() {
        return Ok(None);
    }
    let there = node.mounts.mounted_at(&plan.mountpoint);
    Ok(there.filter(|view| is_it(view) && view.cache == plan.cache))
}

fn mount_snapshot(
    node: &Node,
    ticket: &Ticket<'_>,
    volume: &str,
    snapshot: &str,
    plan: MountPlan,
) -> Result<MountView, ApiError> {
    let volume = node.store.volume(volume)?;
    let info = node.store.find_snapshot(snapshot)?;
    if info.volume != volume.name {
        let snapshot = snapshot.to_owned();
        return Err(ApiError::ForeignSnapshot { snapshot, volume: volume.name });
    }
    let mounted = mounted_before(node, ticket, &plan, |view| {
        view.volume_id == volume.id && view.source == Source::Snapshot(info.epoch)
    })?;
    if let Some(mounted) = mounted {
        return Ok(mounted);
    }
    if ticket.begun::<MountIntent>()?.is_none() {
        ticket.begin(&MountIntent::default())?;
    }
    failpoint::hit("mount.after-intent");
    let mounted = node.mounts.mount_snapshot(&node.store, volume.id, &info, plan)?;
    failpoint::hit("mount.after-mount");
    Ok(mounted)
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

fn unmount(
    node: &Node,
    request: UnmountRequest,
    ticket: Ticket<'_>,
) -> Result<Done<UnmountResponse>, ApiError> {
    let intent = match ticket.begun::<UnmountIntent>()? {
        Some(intent) => intent,
        None => {
            let intent = what_goes(node, request)?;
            match ticket.begin(&intent) {
                // A store that takes no writes is no reason to keep its mounts: doing it again finds nothing left to do.
                Err(error) if node.store.stopped().is_some() => {
                    tracing::warn!(error = one_line(&error), "unmounting without a record of it");
                }
                begun => begun?,
            }
            intent
        }
    };
    failpoint::hit("umount.after-intent");
    for mount in &intent.mounts {
        let mountpoint = path_of(&mount.mountpoint);
        if node.mounts.mounted_at(&mountpoint).is_some_and(|there| mount_view(&there) != *mount) {
            // Mounted by somebody else after ours was gone.
            continue;
        }
        // None there any more: it was unmounted before, by this call or by others, or it died with its daemon.
        if node.mounts.unmount(&Selector::At(mountpoint.clone()))?.is_empty() {
            node.mounts.remove_remains(&mountpoint)?;
        }
    }
    failpoint::hit("umount.after-unmount");
    Ok(ticket.done(UnmountResponse { unmounted: intent.mounts }))
}

/// Returns the mounts that a request names.
fn what_goes(node: &Node, request: UnmountRequest) -> Result<UnmountIntent, ApiError> {
    let UnmountRequest { mountpoint, name } = request;
    let mountpoint = path_of(&mountpoint);
    let mut mounts = named(node, &mountpoint, &name)?;
    let tidied: Vec<bool> = heads(&mounts).map(|mount| node.actors.await_tidied(mount.volume_id)).collect();
    if tidied.contains(&true) {
        mounts = named(node, &mountpoint, &name)?;
    }
    if !mounts.is_empty() {
        check_not_in_use(node, &mounts)?;
        return Ok(UnmountIntent { mounts: mounts.iter().map(mount_view).collect() });
    }
    if node.mounts.has_remains(&mountpoint)? {
        // Whose it was died with the daemon that made it.
        let mountpoint = convert::path_bytes(&mountpoint);
        return Ok(UnmountIntent { mounts: vec![MountInfo { mountpoint, ..MountInfo::default() }] });
    }
    Err(ApiError::NotMounted { target: name })
}

/// Returns what is mounted at a place, or else what is mounted of a volume or snapshot.
fn named(node: &Node, mountpoint: &Path, name: &str) -> Result<Vec<MountView>, ApiError> {
    let there = node.mounts.selected(&Selector::At(mountpoint.to_owned()));
    match selector_of(node, name)? {
        Some(selector) if there.is_empty() => Ok(node.mounts.selected(&selector)),
        _ => Ok(there),
    }
}

/// Refuses to take away what the sandbox of an actor works on. Snapshots of it are mounted by others.
fn check_not_in_use(node: &Node, mounts: &[MountView]) -> Result<(), ApiError> {
    for mount in heads(mounts) {
        if let Some(actor) = node.actors.owner_of_volume(mount.volume_id) {
            let remedy = "`durdir actor pause` unmounts it, and so does `durdir actor rm`";
            return Err(ActorError::Owned { what: mount.name(), actor, remedy }.into());
        }
    }
    Ok(())
}

fn heads(mounts: &[MountView]) -> impl Iterator<Item = &MountView> {
    mounts.iter().filter(|mount| mount.source == Source::Head)
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
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

//! `durdir mount` and `durdir umount`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::arguments::{Limit, bytes, parse_count_limit, parse_limit, resolve};
use super::document::MountDocument;
use super::error::CliError;
use super::run::{Session, call};
use crate::client::Patience;
use crate::proto::{self, CacheMode, MountOptions, MountRequest, TransportKind, UnmountRequest};

/// Mount a volume, or one of its snapshots. The mount is up when the command returns, and ends
/// with the mountd that serves it.
#[derive(Args, Debug)]
pub(super) struct MountArgs {
    /// The volume
    volume: String,
    /// An existing directory
    mountpoint: PathBuf,
    /// Create the volume if it does not exist
    #[arg(long, conflicts_with = "snapshot")]
    create: bool,
    /// A directory that a new volume shows below what is written; the first is the topmost
    #[arg(long = "lower", value_name = "DIR")]
    lowers: Vec<PathBuf>,
    /// Mount this snapshot of the volume, read-only: VOLUME@NAME, VOLUME@EPOCH, or just NAME or EPOCH
    #[arg(long, value_name = "SNAP")]
    snapshot: Option<String>,
    /// Refuse writes through this mount
    #[arg(long)]
    read_only: bool,
    /// Most bytes the volume may store, or none
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    quota_bytes: Option<Limit>,
    /// Most files and directories the volume may store, or none
    #[arg(long, value_name = "N", value_parser = parse_count_limit)]
    quota_inodes: Option<Limit>,
    /// How the kernel caches writes
    #[arg(long, value_enum, default_value_t = Cache::WriteThrough)]
    cache: Cache,
    /// How requests travel between the kernel and mountd
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    transport: Transport,
    /// Let other users in, as far as file permissions allow [default: true for root, else false]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true"
    )]
    allow_other: Option<bool>,
}

/// How the kernel caches writes.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Cache {
    /// A write that returned is in mountd
    WriteThrough,
    /// The kernel keeps writes for a while: for workloads of many tiny appends
    Writeback,
}

/// How requests travel between the kernel and mountd.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    /// The best that the kernel has
    Auto,
    /// Through /dev/fuse
    Classic,
    /// Through io_uring
    Uring,
}

/// Unmount a mount point, or every mount of a volume or snapshot.
#[derive(Args, Debug)]
pub(super) struct UmountArgs {
    /// A mount point, a volume, or a snapshot
    #[arg(value_name = "MOUNTPOINT|VOLUME")]
    target: OsString,
}

/// What `mount --json` prints.
#[derive(Serialize, Debug)]
struct Mounted {
    #[serde(flatten)]
    mount: MountDocument,
    created: bool,
}

/// What `umount --json` prints.
#[derive(Serialize, Debug)]
struct Unmounted {
    unmounted: Vec<MountDocument>,
}

/// Returns options with everything left to the daemon but the mount point.
pub(super) fn plain_options(mountpoint: &Path) -> MountOptions {
    MountOptions { mountpoint: bytes(&resolve(mountpoint)), ..MountOptions::default() }
}

pub(super) async fn mount(session: &Session, arguments: MountArgs) -> Result<(), CliError> {
    let request = request(&arguments)?;
    let client = session.connect().await?;
    let action = || {
        let what = arguments.snapshot.as_ref().unwrap_or(&arguments.volume);
        format!("mount {what} at {}", arguments.mountpoint.display())
    };
    let answer =
        call(&client, Patience::Usual, action, request, async |to, request| to.mounts().mount(request).await)
            .await?;
    let document = Mounted { mount: answer.mount.unwrap_or_default().into(), created: answer.created };
    session.output.print(&document, || {
        let created = if document.created { "created and mounted" } else { "mounted" };
        let read_only = if document.mount.read_only { ", read-only" } else { "" };
        format!("{created} {} at {}{read_only}", document.mount.source(), document.mount.place())
    })
}

fn request(arguments: &MountArgs) -> Result<MountRequest, CliError> {
    if !arguments.lowers.is_empty() && arguments.snapshot.is_some() {
        return Err(CliError::Usage(
            "--lower is for a new volume, --snapshot for an existing one: leave one out".to_owned(),
        ));
    }
    let snapshot = arguments.snapshot.as_ref().map(|snapshot| {
        if snapshot.contains('@') { snapshot.clone() } else { format!("{}@{snapshot}", arguments.volume) }
    });
    let mut options = plain_options(&arguments.mountpoint);
    options.read_only = arguments.read_only;
    options.set_cache(match arguments.cache {
        Cache::WriteThrough => CacheMode::WriteThrough,
        Cache::Writeback => CacheMode::Writeback,
    });
    options.set_transport(match arguments.transport {
        Transport::Auto => TransportKind::Auto,
        Transport::Classic => TransportKind::Classic,
        Transport::Uring => TransportKind::Uring,
    });
    options.allow_other = arguments.allow_other;
    Ok(MountRequest {
        volume: arguments.volume.clone(),
        snapshot,
        options: Some(options),
        create: arguments.create,
        lowers: arguments.lowers.iter().map(|lower| bytes(&resolve(lower))).collect(),
        quota_bytes: arguments.quota_bytes.and_then(|limit| limit.0),
        quota_inodes: arguments.quota_inodes.and_then(|limit| limit.0),
        no_quota_bytes: arguments.quota_bytes == Some(Limit(None)),
        no_quota_inodes: arguments.quota_inodes == Some(Limit(None)),
    })
}

pub(super) async fn umount(session: &Session, arguments: UmountArgs) -> Result<(), CliError> {
    let client = session.connect().await?;
    let target = arguments.target.to_string_lossy().into_owned();
    let request =
        UnmountRequest { mountpoint: bytes(&resolve(Path::new(&arguments.target))), name: target.clone() };
    let action = || format!("umount {target}");
    let answer = call(&client, Patience::Usual, action, request, async |to, request| {
        to.mounts().unmount(request).await
    })
    .await?;
    let unmounted = answer.unmounted.into_iter().map(MountDocument::from).collect();
    let document = Unmounted { unmounted };
    session.output.print(&document, || {
        let lines = document.unmounted.iter();
        lines.map(|mount| format!("unmounted {} from {}\n", mount.source(), mount.place())).collect()
    })
}

/// Returns one line about a mount, for people.
pub(super) fn mounted_line(mount: &proto::MountInfo) -> String {
    let document = MountDocument::from(mount.clone());
    format!("mounted {} at {}", document.source(), document.place())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(snapshot: Option<&str>) -> MountArgs {
        MountArgs {
            volume: "web".to_owned(),
            mountpoint: PathBuf::from("/"),
            create: false,
            lowers: Vec::new(),
            snapshot: snapshot.map(str::to_owned),
            read_only: false,
            quota_bytes: Some(Limit(None)),
            quota_inodes: None,
            cache: Cache::Writeback,
            transport: Transport::Auto,
            allow_other: None,
        }
    }

    #[test]
    fn a_snapshot_may_be_named_within_its_volume() {
        for (given, full) in [("web@1", "web@1"), ("1", "web@1"), ("before", "web@before")] {
            let request = request(&arguments(Some(given))).unwrap();
            assert_eq!(request.snapshot.as_deref(), Some(full));
        }
    }

    #[test]
    fn what_is_not_given_is_left_to_the_daemon() {
        let request = request(&arguments(None)).unwrap();
        let options = request.options.unwrap();
        assert_eq!(options.allow_other, None);
        assert_eq!(options.cache(), CacheMode::Writeback);
        assert_eq!((request.quota_bytes, request.quota_inodes), (None, None));
        assert_eq!((request.no_quota_bytes, request.no_quota_inodes), (true, false));
    }

    #[test]
    fn documents_have_nulls_for_what_is_not_there() {
        let mount = proto::MountInfo {
            volume: "web".to_owned(),
            mountpoint: b"/m".to_vec(),
            transport: "classic".to_owned(),
            cache: "write-through".to_owned(),
            ..proto::MountInfo::default()
        };
        let json = serde_json::to_value(Mounted { mount: mount.into(), created: true }).unwrap();
        let expected = serde_json::json!({
            "volume": "web", "snapshot": null, "mountpoint": "/m", "read_only": false,
            "transport": "classic", "cache": "write-through", "created": true,
        });
        assert_eq!(json, expected);
    }
}

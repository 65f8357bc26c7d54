//! The command line of durdir, and how its arguments are read.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use uuid::Uuid;

use super::actor::ActorCommand;
use super::bundle::BundleArgs;
use super::check::{FsckArgs, GcArgs};
use super::fork::ForkArgs;
use super::log::LogArgs;
use super::mount::{MountArgs, UmountArgs};
use super::shell::{CompletionsArgs, ManArgs};
use super::snapshot::SnapshotCommand;
use super::stats::StatsArgs;
use super::top::TopArgs;
use super::verify::VerifyArgs;
use super::volume::VolumeCommand;
use crate::units::parse_duration;

/// Durable directories for sandboxes: overlay volumes with instant snapshots and forks.
#[derive(Parser, Debug)]
#[command(name = "durdir", version, after_help = AFTER_HELP)]
#[command(args_override_self = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Args, Debug)]
pub(super) struct GlobalArgs {
    /// The directory of the store [default: /var/lib/durdir as root, else $XDG_STATE_HOME/durdir]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub(super) store: Option<PathBuf>,
    /// Where its mountd listens [default: mountd.sock in the store]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global options")]
    pub(super) socket: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, global = true, help_heading = "Global options")]
    pub(super) json: bool,
    /// Tell on standard error what is being done
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(super) verbose: bool,
    /// Give up after this time [default: 60s; none for what grows with the store]
    #[arg(
        long, global = true, value_name = "TIME", value_parser = parse_duration,
        help_heading = "Global options"
    )]
    pub(super) timeout: Option<Duration>,
    /// Do what the command changes at most once for this UUID, however often it is run within an hour: a script that was
    /// interrupted runs it again, and gets the result that it got, or would have got
    #[arg(long, global = true, value_name = "UUID", help_heading = "Global options")]
    pub(super) request_id: Option<Uuid>,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Mount a volume, or one of its snapshots
    Mount(MountArgs),
    /// Unmount a mount point, or every mount of a volume or snapshot
    #[command(visible_alias = "unmount")]
    Umount(UmountArgs),
    /// Create, list, show, rename, roll back and remove volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Take, list, show, compare and remove snapshots
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Make a new volume out of a snapshot
    Fork(ForkArgs),
    /// Run, pause, capture and fork actors: sandboxes with an identity
    #[command(subcommand)]
    Actor(ActorCommand),
    /// Show the history of cuts and forks
    Log(LogArgs),
    /// Check the store
    Fsck(FsckArgs),
    /// Read what is stored, and compare it with its checksums
    Verify(VerifyArgs),
    /// Free the space of what was removed, now
    Gc(GcArgs),
    /// Show what operations cost, and sizes
    Stats(StatsArgs),
    /// Show what each volume does, live
    Top(TopArgs),
    /// Find out what is wrong, also while mountd hangs; touches no mount
    Doctor,
    /// Write a support bundle, without secrets
    Bundle(BundleArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write the man pages into a directory
    Man(ManArgs),
    /// Print the version, of a running mountd too
    Version,
}

const AFTER_HELP: &str = "\
SNAP is VOLUME@NAME or VOLUME@EPOCH. Sizes: 4096, 64KiB, 10GiB. Times: 500ms, 30s, 12h.

durdir talks to the mountd of the store. If none runs, it starts one that ends some time after the
last mount is gone.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict (busy, exists), 5 refused,
6 integrity error, 7 timed out.";

/// Reads the name of a snapshot.
pub(super) fn parse_snapshot(text: &str) -> Result<String, String> {
    match text.split_once('@') {
        Some((volume, name)) if !volume.is_empty() && !name.is_empty() => Ok(text.to_owned()),
        _ => Err("a snapshot is named VOLUME@NAME or VOLUME@EPOCH".to_owned()),
    }
}

/// Reads a limit: a size, or `none`.
pub(super) fn parse_limit(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        text => crate::units::parse_size(text).and_then(at_least_one),
    }
}

/// Reads a count: digits, or `none`.
pub(super) fn parse_count_limit(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| wrong_count(text)).and_then(at_least_one)
        }
        text => Err(wrong_count(text)),
    }
}

fn at_least_one(limit: u64) -> Result<Limit, String> {
    match limit {
        0 => Err("a limit is at least 1, or `none` for no limit".to_owned()),
        limit => Ok(Limit(Some(limit))),
    }
}

fn wrong_count(text: &str) -> String {
    format!("{text:?} is not a number")
}

/// A limit that can be lifted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limit(pub(super) Option<u64>);

/// Returns the absolute path of something that should exist, without symbolic links as far as it
/// does: the daemon has another working directory, and must be given what the user sees.
///
/// A mount point of a daemon that died cannot be looked at; then its directory is resolved.
pub(super) fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(resolved) = absolute.canonicalize() {
        return resolved;
    }
    let parent = absolute.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => lexically_normal(&absolute),
    }
}

/// Returns a path as calls have it.
pub(super) fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// Removes `.` and `..` by their text: nothing of the path is there to be followed.
fn lexically_normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(normal.pop()),
            std::path::Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn pinned_command_lines_are_understood() {
        for line in [
            "mount web /mnt --create --lower /a --lower /b --quota-bytes 10GiB --quota-inodes 1000",
            "mount web /mnt --snapshot web@1 --read-only --cache writeback --transport classic --allow-other",
            "mount --allow-other web /mnt",
            "mount web /mnt --allow-other=false",
            "umount /mnt",
            "volume create web --lower /a",
            "volume ls",
            "volume show web",
            "volume rm web",
            "volume rollback web web@1",
            "volume rename web web2",
            "volume set-quota web --bytes 1GiB --inodes none",
            "snapshot create web db --name before",
            "snapshot ls",
            "snapshot ls web",
            "snapshot show web@1",
            "snapshot rm web@1 web@2",
            "snapshot diff web@1",
            "snapshot diff web@1 web@2",
            "snapshot diff web@1 web2",
            "fork web@1 web2 --mount /mnt2",
            "actor validate agent.yaml",
            "actor validate -",
            "actor create -f agent.yaml --id web",
            "actor create -f -",
            "actor ls",
            "actor show web",
            "actor start web",
            "actor pause web --scope Data",
            "actor resume web",
            "actor suspend web",
            "actor commit web",
            "actor fork 0194c1f0-6f2a-7b3c-8d4e-5f6071829304 web2 -f other.yaml --scope Data",
            "actor rm web --dry-run",
            "actor pause web --scope None --dry-run",
            "actor suspend web --dry-run",
            "actor commit web --dry-run",
            "log --graph",
            "log web",
            "fsck --repair --offline",
            "verify",
            "verify --sample 10%",
            "verify --sample 0.5%",
            "volume rm web --dry-run",
            "volume rollback web web@1 --dry-run",
            "snapshot rm web@1 web@2 --dry-run",
            "gc --dry-run",
            "stats web",
            "top",
            "top --interval 100ms --count 3",
            "doctor",
            "bundle /tmp/support.tar",
            "completions bash",
            "man /tmp",
            "version",
            "--store /s --json -v volume ls",
            "--store /a --store /b --timeout 1s volume ls --timeout 2s",
            "snapshot create web --request-id 0194c1f0-6f2a-7b3c-8d4e-5f6071829304",
            "volume ls --store /s --socket /s/x --json -v --timeout 5s",
        ] {
            let words = std::iter::once("durdir").chain(line.split(' '));
            if let Err(error) = Arguments::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn help_is_had_as_a_command_too() {
        for (line, part) in [("durdir help", "Exit codes"), ("durdir help volume rollback", "--dry-run")] {
            let shown = Arguments::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(shown.kind(), clap::error::ErrorKind::DisplayHelp, "{line}");
            assert!(shown.to_string().contains(part), "{line}: {shown}");
        }
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "mount web",
            "mount web /mnt --quota-bytes 10XB",
            "mount web /mnt --transport pigeon",
            "mount web /mnt --create --snapshot web@1",
            "snapshot create",
            "snapshot show web",
            "snapshot rm",
            "fork web web2",
            "fork @1 web2",
            "actor validate",
            "actor create",
            "actor pause web --scope data",
            "actor fork web",
            "volume set-quota web --bytes -1",
            "volume set-quota web --bytes 0",
            "volume set-quota web --bytes 0KiB",
            "volume set-quota web --inodes 00",
            "volume create web --quota-bytes 0",
            "volume create web --quota-inodes 0",
            "mount web /mnt --quota-bytes 0",
            "mount web /mnt --quota-inodes 0",
            "volume set-quota web",
            "volume ls --request-id 17",
            "verify --sample 10",
            "verify --sample 101%",
            "verify --sample -1%",
            "nonsense",
        ] {
            let words = std::iter::once("durdir").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn paths_are_resolved_as_far_as_they_exist() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("a")).unwrap();
        std::os::unix::fs::symlink("a", real.join("link")).unwrap();
        assert_eq!(resolve(&real.join("link/../a")), real.join("a"));
        assert_eq!(resolve(&real.join("link/new")), real.join("a/new"));
        assert_eq!(resolve(&real.join("no/./such/../thing")), real.join("no/thing"));
    }
}

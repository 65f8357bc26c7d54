//! Attaching a session to a directory, and detaching it.
//!
//! # Overview
//! Root mounts with `mount(2)`; everybody else goes through the setuid helper `fusermount3`, which
//! hands the device back over a socket. fuser could do both, but it unmounts lazily, and after an
//! unmount by somebody else it unmounts whatever is at that place then.
//!
//! # Invariants
//! - No path inside a mounted volume is touched: places are compared with the mount table first.
//! - Nothing is detached lazily while a daemon serves it: an unmount is complete, or refused as
//!   busy.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::{getgid, getuid};

use super::fusermount;
use super::mount_table::{DeviceId, FS_TYPE, MountTable};
use super::transport::{MountError, MountOptions};

pub(super) const DEVICE: &str = "/dev/fuse";
/// Where the kernel shows its FUSE sessions, if that file system is mounted; and what tells that it is (linux/magic.h).
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
const FUSECTL: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x6573_5543);
const KEEP: &str = "keep the device for a successor, to mount at";

/// A served volume answers in microseconds, and in the worst case after a disk's write cache was
/// flushed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// A mount that requests can be read from.
pub(super) struct Attached {
    /// `/dev/fuse`, with the INIT request waiting in it.
    pub(super) device: OwnedFd,
    /// The mountpoint without symbolic links.
    pub(super) mountpoint: PathBuf,
    pub(super) id: DeviceId,
}

/// Has a device kept by somebody who outlives this process.
pub(super) type Keep<'k> = &'k dyn Fn(BorrowedFd<'_>) -> io::Result<()>;

/// Mounts at `options.mountpoint`, by `mount(2)` where that is allowed, else with the helper. `keep` is given the device, by
/// `mount(2)` before anybody can see the mount.
pub(super) fn attach(options: &MountOptions, keep: Keep<'_>) -> Result<Attached, MountError> {
    let mountpoint = usable_mountpoint(&options.mountpoint)?;
    let device = match mount_directly(&mountpoint, options, keep)? {
        Some(device) => device,
        None => {
            let device = fusermount::mount(&mountpoint, options)?;
            keep(device.as_fd()).map_err(|error| failed(KEEP, &mountpoint, error))?;
            device
        }
    };
    // The new mount covers whatever else is there, so the table shows it last.
    let table = load_table(&mountpoint)?;
    let entry = table.at(&mountpoint).filter(|entry| entry.is_ours());
    let id = entry.map(|entry| entry.device).ok_or_else(|| MountError::Refused {
        mountpoint: mountpoint.clone(),
        message: "the new mount is not in the mount table".into(),
    })?;
    Ok(Attached { device, mountpoint, id })
}

/// Unmounts what `id` names at `mountpoint`; nothing to do if somebody else has done so.
pub(super) fn detach(mountpoint: &Path, id: DeviceId) -> Result<(), MountError> {
    let table = load_table(mountpoint)?;
    match table.at(mountpoint) {
        Some(entry) if entry.device == id => umount(mountpoint),
        _ if table.has(mountpoint, id) => Err(MountError::Covered { mountpoint: mountpoint.into() }),
        _ => Ok(()),
    }
}

/// Unmounts a volume whose daemon died without unmounting it, and tells whether there was one.
///
/// Programs that still have files of it open keep them, and get ENOTCONN from every use: what is
/// behind them is gone, and only their closing frees the rest.
pub fn remove_dead_mount(mountpoint: &Path) -> Result<bool, MountError> {
    let Some(place) = dead_mount_at(mountpoint)? else { return Ok(false) };
    match umount(&place) {
        // Nobody serves it, so nothing can be lost by taking it out of the tree at once.
        Err(MountError::Busy { .. }) => {
            match umount2(&place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => Ok(true),
                Err(Errno::EPERM) => fusermount::umount(&place, &["-z"]).map(|()| true),
                Err(errno) => Err(failed("unmount", &place, errno.into())),
            }
        }
        result => result.map(|()| true),
    }
}

/// Tells whether a volume is mounted there whose daemon is gone.
pub fn has_dead_mount(mountpoint: &Path) -> Result<bool, MountError> {
    Ok(dead_mount_at(mountpoint)?.is_some())
}

fn dead_mount_at(mountpoint: &Path) -> Result<Option<PathBuf>, MountError> {
    let place = resolve(mountpoint)?;
    let ours = load_table(&place)?.at(&place).is_some_and(|entry| entry.is_ours());
    Ok((ours && is_dead(&place)).then_some(place))
}

/// Ends the session at once: every call in flight and every later one fails.
pub(super) fn abort(mountpoint: &Path, id: DeviceId) -> Result<(), MountError> {
    let control = format!("{CONNECTIONS}/{}/abort", id.minor);
    match std::fs::write(&control, "1") {
        Ok(()) => Ok(()),
        // The control filesystem may not be mounted. A forced unmount of a place that is in use
        // aborts the session, and then reports that it was in use.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !load_table(mountpoint)?.has(mountpoint, id) {
                // Nothing has this number; or nobody can tell.
                return match nix::sys::statfs::statfs(CONNECTIONS) {
                    Ok(found) if found.filesystem_type() == FUSECTL => Ok(()),
                    _ => Err(MountError::HeldElsewhere { mountpoint: mountpoint.into() }),
                };
            }
            match umount2(mountpoint, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) | Err(Errno::EBUSY) => Ok(()),
                Err(errno) => Err(failed("abort", mountpoint, errno.into())),
            }
        }
        Err(error) => Err(failed("abort", mountpoint, error)),
    }
}

/// Checks that a volume can be mounted at `given`, and returns that place without symbolic links.
fn usable_mountpoint(given: &Path) -> Result<PathBuf, MountError> {
    let place = resolve(given)?;
    let table = load_table(&place)?;
    if table.at(&place).is_some_and(|entry| entry.is_ours()) {
        return Err(match is_dead(&place) {
            true => MountError::Dead { mountpoint: place },
            false => MountError::AlreadyMounted { mountpoint: place },
        });
    }
    match place.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(place),
        Ok(_) => Err(MountError::NotDirectory { mountpoint: given.into() }),
        Err(error) => Err(unusable(given, error)),
    }
}

/// Returns `given` without symbolic links, refusing to look into a mounted volume.
pub fn resolve(given: &Path) -> Result<PathBuf, MountError> {
    let absolute = std::path::absolute(given).map_err(|error| unusable(given, error))?;
    let table = load_table(given)?;
    if table.at(&absolute).is_some_and(|entry| entry.is_ours()) {
        return Ok(absolute);
    }
    // One component after the other, each checked before it is looked at.
    let mut place = PathBuf::new();
    let mut waiting: Vec<PathBuf> = absolute.components().rev().map(|part| part.as_os_str().into()).collect();
    let mut links = 0;
    while let Some(part) = waiting.pop() {
        match part.components().next() {
            Some(Component::ParentDir) => {
                place.pop();
                continue;
            }
            Some(Component::CurDir) => continue,
            _ => place.push(&part),
        }
        let Some(holder) = table.holding(&place).filter(|entry| entry.is_ours()) else {
            let metadata = place.symlink_metadata().map_err(|error| unusable(given, error))?;
            if metadata.is_symlink() {
                links += 1;
                if links > 40 {
                    return Err(unusable(given, Errno::ELOOP.into()));
                }
                let target = std::fs::read_link(&place).map_err(|error| unusable(given, error))?;
                place.pop();
                waiting.extend(target.components().rev().map(|part| PathBuf::from(part.as_os_str())));
            }
            continue;
        };
        if holder.mountpoint != place || !waiting.is_empty() {
            return Err(MountError::InsideVolume {
                mountpoint: given.into(),
                outer: holder.mountpoint.clone(),
            });
        }
    }
    Ok(place)
}

/// Tells whether nobody serves the volume mounted at `place`.
///
/// A dead mount fails at once. One that is served answers, or hangs with its daemon, so a thread of
/// its own asks, and is left behind with the question if no answer comes.
fn is_dead(place: &Path) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    let place = place.to_path_buf();
    let asking = std::thread::Builder::new().name("durdir-probe".into()).spawn(move || {
        let dead = nix::sys::statfs::statfs(&place).is_err_and(|errno| errno == Errno::ENOTCONN);
        // Nobody listens any more if the answer took too long.
        tell.send(dead).ok();
    });
    asking.is_ok() && told.recv_timeout(PROBE_TIMEOUT).unwrap_or(false)
}

fn mount_directly(
    mountpoint: &Path,
    options: &MountOptions,
    keep: Keep<'_>,
) -> Result<Option<OwnedFd>, MountError> {
    let device = match std::fs::File::options().read(true).write(true).open(DEVICE) {
        Ok(device) => OwnedFd::from(device),
        Err(error) => match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => return Ok(None),
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                return Err(MountError::NoFuse { what: "the device cannot be opened", path: DEVICE });
            }
            _ => return Err(failed("open /dev/fuse to mount at", mountpoint, error)),
        },
    };
    if !getuid().is_root() {
        // It would be refused, after the device was kept.
        return Ok(None);
    }
    keep(device.as_fd()).map_err(|error| failed(KEEP, mountpoint, error))?;
    let root_mode = mountpoint.symlink_metadata().map_err(|error| unusable(mountpoint, error))?.mode();
    // The kernel checks every access against the mode, owner and ACL of the file.
    let mut data = format!(
        "fd={},rootmode={root_mode:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        getuid(),
        getgid()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    // Without nodev and nosuid: device nodes and set-user-id programs work as they do on other
    // filesystems.
    let flags = if options.read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let source = options.fs_name.as_str();
    match nix::mount::mount(Some(source), mountpoint, Some(FS_TYPE), flags, Some(data.as_str())) {
        Ok(()) => Ok(Some(device)),
        Err(Errno::EPERM) => Ok(None),
        Err(Errno::ENODEV) => Err(MountError::NoFuse { what: "the kernel does not know it", path: DEVICE }),
        Err(errno) => Err(failed("mount at", mountpoint, errno.into())),
    }
}

fn umount(mountpoint: &Path) -> Result<(), MountError> {
    match umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(MountError::Busy { mountpoint: mountpoint.into() }),
        Err(Errno::EPERM) => fusermount::umount(mountpoint, &[]),
        Err(errno) => Err(failed("unmount", mountpoint, errno.into())),
    }
}

fn load_table(mountpoint: &Path) -> Result<MountTable, MountError> {
    MountTable::load().map_err(|error| failed("read the mount table for", mountpoint, error))
}

pub(super) fn failed(step: &'static str, mountpoint: &Path, source: io::Error) -> MountError {
    MountError::Failed { step, mountpoint: mountpoint.into(), source }
}

fn unusable(given: &Path, source: io::Error) -> MountError {
    let mountpoint = given.into();
    match source.raw_os_error() {
        Some(libc::ENOENT) => MountError::Missing { mountpoint },
        Some(libc::ENOTDIR) => MountError::NotDirectory { mountpoint },
        Some(libc::ENOTCONN) => MountError::Dead { mountpoint },
        _ => MountError::Unusable { mountpoint, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_mountpoints_have_an_error_that_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let missing = dir.path().join("missing");
        assert!(
            matches!(usable_mountpoint(&missing), Err(MountError::Missing { mountpoint }) if mountpoint == missing)
        );
        assert!(matches!(usable_mountpoint(&file), Err(MountError::NotDirectory { .. })));
        assert!(matches!(usable_mountpoint(&file.join("x")), Err(MountError::NotDirectory { .. })));
    }

    #[test]
    fn symbolic_links_and_dots_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        std::os::unix::fs::symlink("../a/./b", real.join("a/link")).unwrap();
        std::os::unix::fs::symlink(real.join("a"), real.join("absolute")).unwrap();
        std::os::unix::fs::symlink("loop", real.join("loop")).unwrap();
        assert_eq!(usable_mountpoint(&real.join("absolute/link/../b")).unwrap(), real.join("a/b"));
        assert!(matches!(usable_mountpoint(&real.join("loop")), Err(MountError::Unusable { .. })));
    }
}

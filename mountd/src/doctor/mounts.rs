//! The mounts of a store, as the kernel lists them.
//!
//! A mount is dead if no process has its end of the FUSE connection open. The kernel tells which connection an open `/dev/fuse`
//! belongs to (`fuse_connection` in `/proc/PID/fdinfo`); where it does not, nothing is said to be dead.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use durdir_fs::fuse::{self, MountedVolume};
use durdir_fs::store::StoreMark;

use super::Problem;

/// Looks at the mounts of a store. `served` are those that the daemon says it serves.
pub(super) fn examine(store: &Path, served: &[PathBuf], daemon_answers: bool, problems: &mut Vec<Problem>) {
    let (Ok(mounted), Ok(store)) = (fuse::mounted_volumes(), StoreMark::of(store)) else { return };
    let connections = Connections::in_use();
    for mount in mounted {
        let volume = mount.name.split('@').next().unwrap_or_default();
        if mount.store != store || served.contains(&mount.mountpoint) {
            continue;
        }
        if connections.is_dead(&mount) {
            problems.push(Problem::dead_mount(volume, &mount.mountpoint));
        } else if let (false, Some(waiting)) = (daemon_answers, waiting(mount.connection)) {
            problems.push(Problem::waiting_requests(volume, waiting, &mount.mountpoint, mount.connection));
        }
    }
}

/// Returns how many requests wait, if any do and the kernel tells.
fn waiting(connection: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/sys/fs/fuse/connections/{connection}/waiting")).ok()?;
    text.trim().parse().ok().filter(|waiting| *waiting > 0)
}

/// The connections that some process serves.
struct Connections {
    served: HashSet<u32>,
    /// Whether every open `/dev/fuse` said which connection it is of.
    complete: bool,
}

impl Connections {
    fn in_use() -> Connections {
        let mut all = Connections { served: HashSet::new(), complete: true };
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return Connections { complete: false, ..all };
        };
        let ids = processes
            .flatten()
            .filter(|process| process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
        for process in ids {
            // Gone meanwhile, or of another user, whose mounts are none of ours.
            let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
            for descriptor in descriptors.flatten() {
                if std::fs::read_link(descriptor.path()).is_ok_and(|target| target == Path::new("/dev/fuse"))
                {
                    all.note(&process.path().join("fdinfo").join(descriptor.file_name()));
                }
            }
        }
        all
    }

    fn note(&mut self, fdinfo: &Path) {
        // Closed meanwhile.
        let Ok(text) = std::fs::read_to_string(fdinfo) else { return };
        match connection_in(&text) {
            Some(connection) => drop(self.served.insert(connection)),
            None => self.complete = false,
        }
    }

    fn is_dead(&self, mount: &MountedVolume) -> bool {
        self.complete && !self.served.contains(&mount.connection)
    }
}

fn connection_in(fdinfo: &str) -> Option<u32> {
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("fuse_connection:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_dead_only_where_all_connections_are_known() {
        let store = StoreMark::of(Path::new("/")).unwrap();
        let mount =
            MountedVolume { name: "v".to_owned(), store, mountpoint: PathBuf::from("/m"), connection: 41 };
        let text = "pos:\t0\nflags:\t02100002\nmnt_id:\t24\nino:\t90\nfuse_connection:\t41\n";
        assert_eq!(connection_in(text), Some(41));
        assert_eq!(connection_in("pos:\t0\n"), None);
        let connections =
            |served: &[u32], complete| Connections { served: served.iter().copied().collect(), complete };
        assert!(connections(&[40], true).is_dead(&mount));
        assert!(!connections(&[41], true).is_dead(&mount));
        assert!(!connections(&[40], false).is_dead(&mount));
    }
}

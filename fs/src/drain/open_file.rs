//! Files that a process has open, as `/proc/<pid>/fdinfo` shows them.
//!
//! A `stat` of `/proc/<pid>/fd/<number>` would ask the mount itself. This asks the kernel alone.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use crate::fuse::DeviceId;

/// Some of `/proc/<pid>/fdinfo/<number>`.
pub(super) struct OpenFile {
    pub(super) mount_id: u64,
    pub(super) inode: u64,
    pub(super) writable: bool,
}

impl OpenFile {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let flags = i32::from_str_radix(field("flags:")?, 8).ok()?;
        Some(Self {
            mount_id: field("mnt_id:")?.parse().ok()?,
            inode: field("ino:")?.parse().ok()?,
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
        })
    }
}

/// Which mounts, in whichever namespace, belong to which device. Their numbers are unique in the
/// system.
#[derive(Default)]
pub(super) struct MountIds {
    namespaces: HashSet<PathBuf>,
    devices: Vec<(u64, DeviceId)>,
}

impl MountIds {
    /// Learns the mounts that `pid` sees, if its namespace is a new one.
    pub(super) fn learn(&mut self, pid: u32, devices: &[DeviceId]) {
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else {
            return;
        };
        if !self.namespaces.insert(namespace) {
            return;
        }
        let Ok(table) = fs::read(format!("/proc/{pid}/mountinfo")) else {
            return;
        };
        // Paths may be of any bytes; what is looked at here is not.
        for line in String::from_utf8_lossy(&table).lines() {
            let mut fields = line.split(' ');
            let entry = (|| {
                let id = fields.next()?.parse().ok()?;
                let (major, minor) = fields.nth(1)?.split_once(':')?;
                Some((id, DeviceId { major: major.parse().ok()?, minor: minor.parse().ok()? }))
            })();
            self.devices.extend(entry.filter(|(_, device)| devices.contains(device)));
        }
    }

    pub(super) fn device_of(&self, mount_id: u64) -> Option<DeviceId> {
        self.devices.iter().find(|(id, _)| *id == mount_id).map(|(_, device)| *device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_is_writable_by_its_access_mode() {
        let info = |flags| format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t42\nino:\t17\n");
        let open = OpenFile::parse(&info("0100002")).unwrap();
        assert_eq!((open.mount_id, open.inode, open.writable), (42, 17, true));
        assert!(!OpenFile::parse(&info("0100000")).unwrap().writable);
        assert!(OpenFile::parse(&info("0100001")).unwrap().writable);
        assert!(OpenFile::parse("pos:\t0\n").is_none());
    }
}

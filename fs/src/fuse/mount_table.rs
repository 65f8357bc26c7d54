//! The mount table of this process, `/proc/self/mountinfo` (see `proc_pid_mountinfo(5)`).
//!
//! Everything that must be known about a mountpoint is read here and not with `stat`: a daemon that
//! touches a filesystem it serves may wait for itself.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::mount_source;
use crate::store::StoreMark;

/// The type under which our mounts appear in mount tables.
pub(super) const FS_TYPE: &str = "fuse.durdir";

/// The numbers of a device, as in `st_dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// 0 for every FUSE mount.
    pub major: u32,
    /// For a FUSE mount also the name of its directory in `/sys/fs/fuse/connections`.
    pub minor: u32,
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountEntry {
    pub(super) device: DeviceId,
    pub(super) mountpoint: PathBuf,
    pub(super) fs_type: String,
    pub(super) source: String,
}

/// A volume or snapshot in the mount table, whoever serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    /// Its name: a volume, or `VOLUME@EPOCH`.
    pub name: String,
    /// The store that it is of.
    pub store: StoreMark,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Its number in `/sys/fs/fuse/connections`.
    pub connection: u32,
}

/// Returns the volumes and snapshots that this process sees mounted. Reads the mount table and touches no mount.
pub fn mounted_volumes() -> io::Result<Vec<MountedVolume>> {
    let ours = MountTable::load()?.0.into_iter().filter(MountEntry::is_ours);
    Ok(ours
        .filter_map(|entry| {
            let (name, store) = mount_source::parse(&entry.source)?;
            let (name, connection) = (name.to_owned(), entry.device.minor);
            Some(MountedVolume { name, store, mountpoint: entry.mountpoint, connection })
        })
        .collect())
}

/// Returns something that this process sees mounted at a directory or below, if anything is. Reads the mount table and touches no mount.
pub fn mounted_below(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut mountpoints = MountTable::load()?.0.into_iter().map(|entry| entry.mountpoint);
    Ok(mountpoints.find(|mountpoint| mountpoint.starts_with(directory)))
}

impl MountEntry {
    pub(super) fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// All mounts that this process sees; of two at one place, the later one covers the earlier.
pub(super) struct MountTable(Vec<MountEntry>);

impl MountTable {
    pub(super) fn load() -> io::Result<Self> {
        Ok(Self::parse(&fs::read("/proc/self/mountinfo")?))
    }

    fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// Returns what is mounted exactly at `path`, if anything is.
    pub(super) fn at(&self, path: &Path) -> Option<&MountEntry> {
        self.0.iter().rev().find(|entry| entry.mountpoint == path)
    }

    /// Returns the mount that `path` lies in: the deepest one, and the last of several there.
    pub(super) fn holding(&self, path: &Path) -> Option<&MountEntry> {
        let inside = self.0.iter().filter(|entry| path.starts_with(&entry.mountpoint));
        inside.max_by_key(|entry| entry.mountpoint.components().count())
    }

    /// Tells whether `device` is mounted exactly at `path`, visible or covered.
    pub(super) fn has(&self, path: &Path, device: DeviceId) -> bool {
        self.0.iter().any(|entry| entry.device == device && entry.mountpoint == path)
    }
}

/// `36 35 98:0 /root /mountpoint options [tags...] - type source superoptions`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mountpoint = unescape(fields.nth(1)?);
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let (fs_type, source) = (after.next()?, after.next().unwrap_or_default());
    Some(MountEntry {
        device: DeviceId { major: major.parse().ok()?, minor: minor.parse().ok()? },
        mountpoint: PathBuf::from(OsString::from_vec(mountpoint)),
        fs_type: String::from_utf8_lossy(fs_type).into_owned(),
        source: String::from_utf8_lossy(&unescape(source)).into_owned(),
    })
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            digits.iter().try_fold(0u32, |value, digit| match digit {
                b'0'..=b'7' => Some(value * 8 + u32::from(digit - b'0')),
                _ => None,
            })
        };
        let code = (byte == b'\\').then(|| after.get(..3).and_then(octal)).flatten();
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(escaped) => {
                plain.push(escaped);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        40 22 0:51 / /srv/my\\040home rw shared:9 master:2 - fuse.durdir durdir:home rw,user_id=0\n\
        41 22 0:52 / /srv rw - tmpfs tmpfs rw\n\
        42 41 0:53 / /srv rw - fuse.durdir durdir:two rw\n\
        garbage\n";

    #[test]
    fn the_last_mount_at_a_place_is_the_one_seen() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.0.len(), 4);
        let home = table.at(Path::new("/srv/my home")).unwrap();
        assert_eq!((home.device, home.is_ours()), (DeviceId { major: 0, minor: 51 }, true));
        assert_eq!(table.at(Path::new("/srv")).unwrap().device.minor, 53);
        assert!(table.at(Path::new("/srv/my")).is_none());
        assert!(table.has(Path::new("/srv"), DeviceId { major: 0, minor: 52 }));
    }

    #[test]
    fn a_path_lies_in_the_deepest_mount() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.holding(Path::new("/srv/my home/x/y")).unwrap().device.minor, 51);
        assert_eq!(table.holding(Path::new("/srv/my homes")).unwrap().device.minor, 53);
        assert_eq!(table.holding(Path::new("/etc")).unwrap().fs_type, "ext4");
    }

    #[test]
    fn a_mount_with_a_name_of_any_bytes_hides_no_other() {
        let table = MountTable::parse(
            b"40 22 0:51 / /\xff rw - tmpfs \xfe rw\n41 22 0:52 / /srv rw - tmpfs tmpfs rw\n",
        );
        assert_eq!(table.0.len(), 2);
        assert_eq!(table.at(Path::new("/srv")).unwrap().device.minor, 52);
    }

    #[test]
    fn what_is_mounted_below_is_found() {
        assert!(mounted_below(Path::new("/proc")).unwrap().is_some());
        assert_eq!(mounted_below(Path::new("/no/such/place")).unwrap(), None);
    }

    #[test]
    fn broken_escapes_are_taken_as_they_are() {
        assert_eq!(unescape(br"a\134b\011c"), b"a\\b\tc");
        assert_eq!(unescape(br"a\1"), br"a\1");
        assert_eq!(unescape(br"\9zz\777"), br"\9zz\777");
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(MountTable::parse(&bytes));
        }

        #[test]
        fn a_line_cut_short_or_spoilt_hides_no_other(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let line = TABLE.split(|byte| *byte == b'\n').next().unwrap();
            let mut spoilt = line.to_vec();
            let at = at.index(spoilt.len());
            spoilt[at] = byte;
            for first in [&spoilt[..], &line[..at]] {
                let table = MountTable::parse(&[first, b"\n", TABLE].concat());
                prop_assert!(table.at(Path::new("/srv/my home")).is_some());
            }
        }
    }
}

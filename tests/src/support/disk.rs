//! A small disk of its own for a store: a file with a filesystem in it.

use std::fs::{self, File};
use std::path::PathBuf;

use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use super::MIB;
use super::program::program;
use super::store::temporary_directory;

/// A small filesystem of its own; unmounted on drop.
#[derive(Debug)]
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Makes one of so many MiB.
    pub fn new(mib: u64) -> SmallDisk {
        let dir = temporary_directory("disk");
        let disk = SmallDisk { dir };
        File::create(disk.image()).unwrap().set_len(mib * MIB).unwrap();
        fs::create_dir(disk.path()).unwrap();
        program("mkfs.ext4", "e2fsprogs").args(["-q", "-F", "-m", "0"]).arg(disk.image()).ok();
        disk.attach();
        disk
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn attach(&self) {
        // As a disk of an operator that wants no further damage: what ext4 does by default differs among distributions.
        let mount = program("mount", "mount").args(["-o", "loop,errors=remount-ro"]);
        mount.args([self.image(), self.path()]).ok();
    }

    /// Has the filesystem take itself for damaged: it is read-only from now on, whoever has files of it open for writing.
    pub fn fail(&self) {
        let table = String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").unwrap()).into_owned();
        let path = self.path();
        let line = table.lines().find(|line| line.split(' ').nth(4) == path.to_str());
        let source = line.and_then(|line| line.rsplit(' ').nth(1)).expect("it is mounted");
        let device = source.rsplit('/').next().unwrap();
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "on purpose").unwrap();
    }

    /// Has whoever writes to it wait, as for a backup of the disk, until what is returned is dropped. See `fsfreeze(8)`.
    pub fn freeze(&self) -> Frozen {
        program("fsfreeze", "util-linux").arg("--freeze").arg(self.path()).ok();
        Frozen { path: self.path() }
    }

    /// Takes it away, checks it, and brings it back, as an operator would. Nobody may use it.
    pub fn repair(&self) {
        umount2(&self.path(), MntFlags::empty()).unwrap();
        // 1: it was damaged, and is not any more.
        let checked = program("e2fsck", "e2fsprogs").args(["-f", "-y"]).arg(self.image()).finish();
        assert!([Some(0), Some(1)].contains(&checked.code()), "{checked}");
        self.attach();
    }
}

/// A disk to which nobody can write.
pub struct Frozen {
    path: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        program("fsfreeze", "util-linux").arg("--unfreeze").arg(&self.path).ok();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let result = umount2(&self.path(), MntFlags::empty());
        if !std::thread::panicking() {
            result.unwrap();
        } else if result.is_err() {
            // A store that still runs here keeps it busy; the test has failed already.
            let _detached = umount2(&self.path(), MntFlags::MNT_DETACH);
        }
    }
}

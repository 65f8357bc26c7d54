//! A mounted volume that is unmounted when the test is over, however it ends.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::panicking;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use super::dirents::names_in;
use super::layout::{Layout, LowerDir};
use super::process::Finished;
use super::store::{Store, plain_dir};
use super::watchdog;

/// A mounted volume, or a plain directory where `DURDIR_TEST_PLAIN_DIR` says so: then a test tries
/// its own expectations against the host's filesystem.
#[derive(Debug)]
pub struct Mount {
    kind: Kind,
    root: PathBuf,
    lowers: Vec<Arc<LowerDir>>,
}

#[derive(Debug)]
enum Kind {
    Plain {
        /// Removed on drop.
        _dir: TempDir,
    },
    Volume(Volume),
    /// Handed over to another `Mount`.
    Gone,
}

#[derive(Debug)]
struct Volume {
    store: Store,
    name: String,
    args: Vec<String>,
    connection: u64,
}

impl Mount {
    /// Mounts an empty volume in a store of its own.
    pub fn empty() -> Mount {
        Mount::over(Layout::default())
    }

    /// Mounts a volume over a lower with this content, in a store of its own.
    pub fn over(layout: Layout) -> Mount {
        Mount::over_stack(&[layout])
    }

    /// Mounts a volume over several lowers, the first one on top, in a store of its own.
    pub fn over_stack(layouts: &[Layout]) -> Mount {
        if let Some(parent) = plain_dir() {
            return Mount::plain(&parent, layouts);
        }
        let store = Store::new();
        let lowers: Vec<Arc<LowerDir>> = layouts.iter().map(|layout| Arc::new(layout.build())).collect();
        let paths: Vec<&Path> = lowers.iter().map(|lower| lower.path()).collect();
        for lower in &lowers {
            store.keep(lower.clone());
        }
        let mut mount = store.mount_over("v", &paths);
        mount.lowers = lowers;
        mount
    }

    /// Mounts an empty volume and writes this content into it.
    pub fn holding(layout: Layout) -> Mount {
        if let Some(parent) = plain_dir() {
            return Mount::plain(&parent, &[layout]);
        }
        let mount = Store::new().mount("v");
        layout.build_in(&mount.root);
        mount
    }

    fn plain(parent: &Path, layouts: &[Layout]) -> Mount {
        assert!(layouts.len() <= 1, "a plain directory has no layers");
        let dir = tempfile::Builder::new().prefix("durdir-plain-").tempdir_in(parent).unwrap();
        let root = dir.path().to_owned();
        super::posix::chmod(&root, 0o755).unwrap();
        for layout in layouts {
            layout.build_in(&root);
        }
        Mount { kind: Kind::Plain { _dir: dir }, root, lowers: Vec::new() }
    }

    /// Returns whether this is a plain directory, for the few expectations that differ there.
    pub fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::Plain { .. })
    }

    /// Returns the mount point.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the absolute path of something in the volume.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        let relative = relative.as_ref();
        self.root.join(relative.strip_prefix("/").unwrap_or(relative))
    }

    /// Returns the names in a directory, sorted.
    pub fn names(&self, relative: impl AsRef<Path>) -> Vec<OsString> {
        names_in(self.path(relative)).unwrap()
    }

    /// Writes a file, replacing its content.
    #[track_caller]
    pub fn write(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        fs::write(self.path(relative), content).unwrap();
    }

    /// Returns the content of a file.
    #[track_caller]
    pub fn read(&self, relative: impl AsRef<Path>) -> Vec<u8> {
        fs::read(self.path(relative)).unwrap()
    }

    /// Returns the content of a file as text.
    #[track_caller]
    pub fn text(&self, relative: impl AsRef<Path>) -> String {
        fs::read_to_string(self.path(relative)).unwrap()
    }

    /// Returns the attributes of something in the volume; does not follow a final symlink.
    #[track_caller]
    pub fn stat(&self, relative: impl AsRef<Path>) -> Metadata {
        fs::symlink_metadata(self.path(relative)).unwrap()
    }

    /// Returns the inode number of something in the volume.
    #[track_caller]
    pub fn ino(&self, relative: impl AsRef<Path>) -> u64 {
        self.stat(relative).ino()
    }

    /// Returns the permission bits of something in the volume.
    #[track_caller]
    pub fn mode(&self, relative: impl AsRef<Path>) -> u32 {
        self.stat(relative).mode() & 0o7777
    }

    /// Returns the store this volume is in.
    pub fn store(&self) -> &Store {
        &self.volume().store
    }

    /// Returns the name of the volume.
    pub fn volume_name(&self) -> &str {
        &self.volume().name
    }

    /// Returns the lowers that came with this mount, the top one first.
    pub fn lowers(&self) -> &[Arc<LowerDir>] {
        &self.lowers
    }

    fn volume(&self) -> &Volume {
        match &self.kind {
            Kind::Volume(volume) => volume,
            Kind::Plain { .. } => {
                panic!("this test needs a volume: DURDIR_TEST_PLAIN_DIR is for the POSIX families only")
            }
            Kind::Gone => unreachable!("a mount that was handed over is not reachable any more"),
        }
    }

    /// Unmounts with `durdir umount` and mounts again. A plain directory stays as it is.
    #[must_use]
    pub fn remount(self) -> Mount {
        self.again(|_| {})
    }

    /// Unmounts, ends the daemon, and mounts again: everything comes back from the disk.
    #[must_use]
    pub fn restart(self) -> Mount {
        self.again(Store::stop_daemon)
    }

    /// Mounts again after the daemon was killed, on the mount point of the dead mount.
    #[must_use]
    pub fn after_kill(mut self) -> Mount {
        let Kind::Volume(volume) = std::mem::replace(&mut self.kind, Kind::Gone) else {
            panic!("only a daemon can be killed");
        };
        watchdog::release(volume.connection);
        if is_mounted(&self.root) {
            umount2(&self.root, MntFlags::MNT_DETACH).unwrap();
        }
        self.successor(volume)
    }

    fn again(mut self, between: impl FnOnce(&Store)) -> Mount {
        match std::mem::replace(&mut self.kind, Kind::Gone) {
            Kind::Volume(volume) => {
                unmount(&self.root, &volume).unwrap();
                between(&volume.store);
                self.successor(volume)
            }
            other => {
                self.kind = other;
                self
            }
        }
    }

    fn successor(&mut self, volume: Volume) -> Mount {
        let Volume { store, name, args, .. } = volume;
        let mut next = mount_at(&store, &name, args, self.root.clone());
        next.lowers = std::mem::take(&mut self.lowers);
        next
    }

    /// Unmounts with `durdir umount`. The store and its lowers stay while somebody has a handle to it.
    pub fn unmount(mut self) {
        if let Kind::Volume(volume) = std::mem::replace(&mut self.kind, Kind::Gone) {
            unmount(&self.root, &volume).unwrap();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let Kind::Volume(volume) = std::mem::replace(&mut self.kind, Kind::Gone) else { return };
        if panicking() {
            eprintln!("{}", volume.store.log_tail());
        }
        let result = unmount(&self.root, &volume);
        if !panicking() {
            result.unwrap();
        }
    }
}

/// Runs a test body twice: with the tree in the volume itself, and with the tree in a lower below
/// an empty volume. Nobody should be able to tell.
pub fn on_both(layout: Layout, body: impl Fn(&Mount)) {
    body(&Mount::holding(layout.clone()));
    if plain_dir().is_none() {
        body(&Mount::over(layout));
    }
}

/// Mounts a volume of `store` on a fresh mount point.
pub(super) fn of_volume(store: &Store, volume: &str, args: Vec<String>) -> Mount {
    mount_at(store, volume, args, store.mountpoint())
}

fn mount_at(store: &Store, volume: &str, args: Vec<String>, root: PathBuf) -> Mount {
    let mut line: Vec<OsString> = vec!["mount".into(), volume.into(), root.clone().into()];
    line.extend(args.iter().map(OsString::from));
    let finished = store.durdir(line);
    assert!(finished.status.success(), "{finished}\n{}", store.log_tail());
    let connection = connection_of(&root);
    let connection =
        connection.unwrap_or_else(|| panic!("nothing is mounted on {}: {finished}", root.display()));
    watchdog::guard(connection, root.clone());
    let volume = Volume { store: store.clone(), name: volume.to_owned(), args, connection };
    Mount { kind: Kind::Volume(volume), root, lowers: Vec::new() }
}

/// Unmounts as a user would; where that fails, makes sure that nothing stays behind.
fn unmount(root: &Path, volume: &Volume) -> Result<(), String> {
    watchdog::release(volume.connection);
    if !is_mounted(root) {
        return Ok(());
    }
    let result = unmount_when_idle(root, &volume.store);
    if result.is_err() {
        // Abort first: a daemon that hangs would make the detached mount hang for ever.
        watchdog::abort(volume.connection);
        if let Err(err) = umount2(root, MntFlags::MNT_DETACH) {
            eprintln!("cannot detach {}: {err}", root.display());
        }
    }
    result
}

fn unmount_when_idle(root: &Path, store: &Store) -> Result<(), String> {
    let finished = store.try_umount(root.as_os_str());
    match finished.code() {
        Some(0) if is_mounted(root) => Err(format!("still mounted after {finished}")),
        Some(0) => Ok(()),
        _ => Err(format!("{finished}\n{}", store.log_tail())),
    }
}

impl Store {
    /// Unmounts a volume, or what is mounted somewhere, as a user would who has left it.
    #[track_caller]
    pub fn umount(&self, target: impl AsRef<OsStr>) {
        self.try_umount(target.as_ref()).ok();
    }

    /// A program being started elsewhere in the test process holds copies of all descriptors until it
    /// executes, and somebody may walk over the machine's directories just now: a mount can be busy for a
    /// while though the test has closed everything.
    fn try_umount(&self, target: &OsStr) -> Finished {
        const BUSY: i32 = 4;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let finished = self.durdir(["umount".as_ref(), target]);
            if finished.code() != Some(BUSY) || Instant::now() >= deadline {
                return finished;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Tells whether something is mounted there.
pub fn is_mounted(root: &Path) -> bool {
    connection_of(root).is_some()
}

/// Returns the number of the FUSE connection behind a mount point: the minor device number, which
/// the mount table tells without asking the filesystem.
fn connection_of(root: &Path) -> Option<u64> {
    let table = String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").unwrap()).into_owned();
    let root = root.to_str().expect("a path of ours").replace(' ', "\\040");
    let lines = table.lines().rev();
    let mut fields = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(4) == Some(&root.as_str()))?;
    found[2].split_once(':')?.1.parse().ok()
}

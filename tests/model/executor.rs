//! Carries out calls on a store of the product, in this process.
//!
//! Plays the part of a transport: it counts the references that lookups hand out, gives them back on
//! `Forget`, and turns failures into the errno that a program would see.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durdir_fs::attr::{Attr, SetAttr, TimeSet, Timestamp};
use durdir_fs::check::{Issue, Repair, check};
use durdir_fs::ids::NodeId;
use durdir_fs::ops::{Caller, Datasync, Entry, KillSuid, RenameMode, SetXattr, Sink, Whence};
use durdir_fs::store::{Change, ChangeKind, Receipt, VolumeSpec};
use durdir_fs::{FsError, Store, StoreOptions, VolumeFs};

use crate::wire::{
    Bytes, Call, Delta, DeltaKind, Item, Other, Owner, ROOT, Renaming, Reply, Set, SetTime, Slot, Stamp,
    Stat, View, XattrMode,
};

/// A store and what is open of it.
pub(crate) struct Executor {
    dir: PathBuf,
    options: StoreOptions,
    store: Option<Arc<Store>>,
    views: HashMap<View, Tree>,
    cursors: HashMap<u32, Cursor>,
}

struct Tree {
    what: Shown,
    fs: Option<Arc<VolumeFs>>,
    slots: BTreeMap<Slot, Held>,
}

enum Shown {
    Head(String),
    Snapshot(String),
}

#[derive(Clone, Copy)]
struct Held {
    node: NodeId,
    references: u64,
}

struct Cursor {
    view: View,
    node: NodeId,
    offset: u64,
    seen: Vec<Item>,
}

type Outcome = Result<Reply, FsError>;

/// Where an errno would be, for a panic.
const PANICKED: i32 = 2000;

const ROOT_CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1 };

impl Executor {
    /// Opens the store in `dir`, which is made if it is not there. With `background` it gives space back at any
    /// time; without, only when told, and the same calls always do the same.
    pub(crate) fn open(dir: &Path, background: bool) -> Result<Executor, String> {
        let options = StoreOptions { background, ..StoreOptions::default() };
        let (dir, views, cursors) = (dir.to_path_buf(), HashMap::new(), HashMap::new());
        let mut executor = Executor { dir, options, store: None, views, cursors };
        executor.start().map_err(|error| format!("open {}: {error:#}", executor.dir.display()))?;
        Ok(executor)
    }

    fn start(&mut self) -> Result<(), FsError> {
        self.store = Some(Store::open(&self.dir, &self.options)?);
        Ok(())
    }

    /// Closes the store; every node and view handed out is gone, as after an unmount.
    fn stop(&mut self) -> Result<(), FsError> {
        for tree in self.views.values_mut() {
            tree.fs = None;
            tree.slots.clear();
        }
        self.cursors.clear();
        match self.store.take() {
            Some(store) => store.close(),
            None => Ok(()),
        }
    }

    fn store(&self) -> &Arc<Store> {
        self.store.as_ref().expect("the store is open between calls")
    }

    /// Does one thing. A panic is an answer too, so that it can be shrunk.
    pub(crate) fn execute(&mut self, call: &Call) -> Reply {
        match catch_unwind(AssertUnwindSafe(|| self.carry_out(call))) {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => Reply::Failed { errno: errno(&error), why: format!("{error:?}") },
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Reply::Failed { errno: PANICKED, why: format!("panicked: {}", text.unwrap_or("no message")) }
            }
        }
    }

    fn carry_out(&mut self, call: &Call) -> Outcome {
        match call {
            Call::Lookup { view, parent, name, bind } => {
                let (fs, parent) = self.at(*view, *parent)?;
                let entry = fs.lookup(&ROOT_CALLER, parent, os(name))?;
                Ok(self.bind(*view, *bind, &entry))
            }
            Call::Forget { view, node } => {
                let fs = self.tree(*view)?;
                if let Some(held) = self.views.get_mut(view).and_then(|tree| tree.slots.remove(node)) {
                    fs.forget(held.node, held.references);
                }
                Ok(Reply::Done {})
            }
            Call::Getattr { view, node } => {
                let (fs, node) = self.at(*view, *node)?;
                Ok(Reply::Attr { stat: stat(&fs.getattr(node)?) })
            }
            Call::Setattr { view, node, set } => {
                let (fs, node) = self.at(*view, *node)?;
                Ok(Reply::Attr { stat: stat(&fs.setattr(&ROOT_CALLER, node, &attributes(set))?) })
            }
            Call::Readlink { view, node } => {
                let (fs, node) = self.at(*view, *node)?;
                Ok(Reply::Data { bytes: Bytes(fs.readlink(node)?.to_vec()) })
            }
            Call::Make { view, parent, name, mode, umask, rdev, owner, bind } => {
                let (fs, parent) = self.at(*view, *parent)?;
                let entry = if mode & libc::S_IFMT == libc::S_IFREG {
                    fs.create(&caller(*owner), parent, os(name), *mode, *umask)?
                } else {
                    fs.mknod(&caller(*owner), parent, os(name), *mode, *umask, *rdev)?
                };
                Ok(self.bind(*view, *bind, &entry))
            }
            Call::Mkdir { view, parent, name, mode, umask, owner, bind } => {
                let (fs, parent) = self.at(*view, *parent)?;
                let entry = fs.mkdir(&caller(*owner), parent, os(name), *mode, *umask)?;
                Ok(self.bind(*view, *bind, &entry))
            }
            Call::Symlink { view, parent, name, target, owner, bind } => {
                let (fs, parent) = self.at(*view, *parent)?;
                let entry = fs.symlink(&caller(*owner), parent, os(name), &target.0)?;
                Ok(self.bind(*view, *bind, &entry))
            }
            Call::Link { view, node, parent, name } => {
                let slot = *node;
                let (fs, node) = self.at(*view, slot)?;
                let (_, parent) = self.at(*view, *parent)?;
                let entry = fs.link(node, parent, os(name))?;
                Ok(self.bind(*view, slot, &entry))
            }
            Call::Unlink { view, parent, name } => {
                let (fs, parent) = self.at(*view, *parent)?;
                fs.unlink(&ROOT_CALLER, parent, os(name))?;
                Ok(Reply::Done {})
            }
            Call::Rmdir { view, parent, name } => {
                let (fs, parent) = self.at(*view, *parent)?;
                fs.rmdir(&ROOT_CALLER, parent, os(name))?;
                Ok(Reply::Done {})
            }
            Call::Rename { view, parent, name, to_parent, to_name, how } => {
                let (fs, parent) = self.at(*view, *parent)?;
                let (_, to_parent) = self.at(*view, *to_parent)?;
                let how = match how {
                    Renaming::Replace {} => RenameMode::Replace,
                    Renaming::NoReplace {} => RenameMode::NoReplace,
                    Renaming::Exchange {} => RenameMode::Exchange,
                };
                fs.rename(&ROOT_CALLER, parent, os(name), to_parent, os(to_name), how)?;
                Ok(Reply::Done {})
            }
            Call::Read { view, node, at, len } => {
                let (fs, node) = self.at(*view, *node)?;
                let mut out = Vec::new();
                fs.read(node, *at, *len as usize, &mut out)?;
                Ok(Reply::Data { bytes: Bytes(out) })
            }
            Call::Write { view, node, at, fill, kill_suid } => {
                let (fs, node) = self.at(*view, *node)?;
                let kill = if *kill_suid { KillSuid::Yes } else { KillSuid::No };
                fs.write(node, *at, &fill.bytes(), kill)?;
                Ok(Reply::Done {})
            }
            Call::Fallocate { view, node, mode, at, len } => {
                let (fs, node) = self.at(*view, *node)?;
                fs.fallocate(&ROOT_CALLER, node, *mode, *at, *len)?;
                Ok(Reply::Done {})
            }
            Call::Seek { view, node, at, hole } => {
                let (fs, node) = self.at(*view, *node)?;
                let whence = if *hole { Whence::Hole } else { Whence::Data };
                Ok(Reply::Offset { at: fs.seek(node, *at, whence)? })
            }
            Call::CopyRange { view, from, from_at, to, to_at, len } => {
                let (fs, from) = self.at(*view, *from)?;
                let (_, to) = self.at(*view, *to)?;
                Ok(Reply::Offset { at: fs.copy_file_range(&ROOT_CALLER, from, *from_at, to, *to_at, *len)? })
            }
            Call::Fsync { view, node } => {
                let (fs, node) = self.at(*view, *node)?;
                fs.fsync(node, Datasync::No)?;
                Ok(Reply::Done {})
            }
            Call::Readdir { view, node, chunk, plus } => self.readdir(*view, *node, *chunk, *plus),
            Call::CursorOpen { cursor, view, node } => {
                let (_, node) = self.at(*view, *node)?;
                self.cursors.insert(*cursor, Cursor { view: *view, node, offset: 0, seen: Vec::new() });
                Ok(Reply::Done {})
            }
            Call::CursorStep { cursor, count } => {
                self.step(*cursor, *count)?;
                Ok(Reply::Done {})
            }
            Call::CursorFinish { cursor } => {
                while self.step(*cursor, 5)? > 0 {}
                let items = self.cursors.remove(cursor).expect("stepped just now").seen;
                Ok(Reply::Listing { items })
            }
            Call::Getxattr { view, node, name } => {
                let (fs, node) = self.at(*view, *node)?;
                Ok(Reply::Data { bytes: Bytes(fs.getxattr(node, os(name))?.to_vec()) })
            }
            Call::Setxattr { view, node, name, value, how } => {
                let (fs, node) = self.at(*view, *node)?;
                let how = match how {
                    XattrMode::Any {} => SetXattr::Any,
                    XattrMode::Create {} => SetXattr::Create,
                    XattrMode::Replace {} => SetXattr::Replace,
                };
                fs.setxattr(&ROOT_CALLER, node, os(name), &value.bytes(), how)?;
                Ok(Reply::Done {})
            }
            Call::Listxattr { view, node } => {
                let (fs, node) = self.at(*view, *node)?;
                let list = fs.listxattr(&ROOT_CALLER, node)?;
                let names =
                    list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(Bytes::from).collect();
                Ok(Reply::Names { names })
            }
            Call::Removexattr { view, node, name } => {
                let (fs, node) = self.at(*view, *node)?;
                fs.removexattr(&ROOT_CALLER, node, os(name))?;
                Ok(Reply::Done {})
            }
            control => self.control(control),
        }
    }

    fn control(&mut self, call: &Call) -> Outcome {
        match call {
            Call::CreateVolume { view, name, lowers } => {
                let lowers = lowers.iter().map(|path| PathBuf::from(os(path))).collect();
                self.store().create_volume(
                    name,
                    &VolumeSpec { lowers, ..VolumeSpec::default() },
                    Receipt::none(),
                )?;
                self.declare(*view, Shown::Head(name.clone()));
                Ok(Reply::Done {})
            }
            Call::AttachHead { view, name } => {
                self.declare(*view, Shown::Head(name.clone()));
                Ok(Reply::Done {})
            }
            Call::RemoveVolume { view } => {
                let name = self.head_name(*view);
                self.close_view(*view)?;
                self.store().remove_volume(&name, Receipt::none())?;
                Ok(Reply::Done {})
            }
            Call::Snapshot { views, name } => {
                let volumes: Vec<String> = views.iter().map(|&view| self.head_name(view)).collect();
                let volumes: Vec<&str> = volumes.iter().map(String::as_str).collect();
                let report = self.store().snapshot(&volumes, Some(name), Receipt::none())?;
                // In the order asked for, whatever the order of the report.
                let changed = volumes
                    .iter()
                    .map(|volume| {
                        report
                            .snapshots
                            .iter()
                            .find(|cut| cut.volume == *volume)
                            .expect("one for each volume")
                            .changed
                    })
                    .collect();
                Ok(Reply::Cut { changed })
            }
            Call::RemoveSnapshot { view, name } => {
                self.store().remove_snapshots(&[&self.snapshot_name(*view, name)], Receipt::none())?;
                Ok(Reply::Done {})
            }
            Call::Fork { view, name, new_view, new_name } => {
                self.store().fork(&self.snapshot_name(*view, name), new_name, Receipt::none())?;
                self.declare(*new_view, Shown::Head(new_name.clone()));
                Ok(Reply::Done {})
            }
            Call::Rollback { view, name } => {
                self.store().rollback(
                    &self.head_name(*view),
                    &self.snapshot_name(*view, name),
                    Receipt::none(),
                )?;
                // The kernel gives back what it held of the old timeline only afterwards.
                let fs = self.tree(*view)?;
                let tree = self.views.get_mut(view).expect("found just now");
                for (_, held) in std::mem::take(&mut tree.slots) {
                    fs.forget(held.node, held.references);
                }
                self.cursors.retain(|_, cursor| cursor.view != *view);
                Ok(Reply::Done {})
            }
            Call::OpenSnapshot { view, of, name } => {
                let name = self.snapshot_name(*of, name);
                self.declare(*view, Shown::Snapshot(name));
                self.tree(*view)?;
                Ok(Reply::Done {})
            }
            Call::CloseView { view } => {
                self.close_view(*view)?;
                Ok(Reply::Done {})
            }
            Call::Snapshots { view } => {
                let mut names: Vec<Bytes> = self
                    .store()
                    .snapshots(Some(&self.head_name(*view)))?
                    .into_iter()
                    .map(|info| Bytes::from(info.name.as_deref().unwrap_or(&info.snapshot)))
                    .collect();
                names.sort();
                Ok(Reply::Names { names })
            }
            Call::Volumes { prefix } => {
                let mut names: Vec<Bytes> = self
                    .store()
                    .volumes()?
                    .iter()
                    .filter(|volume| volume.name.starts_with(prefix.as_str()))
                    .map(|volume| Bytes::from(volume.name.as_str()))
                    .collect();
                names.sort();
                Ok(Reply::Names { names })
            }
            Call::Diff { view, name, to } => {
                let from = self.snapshot_name(*view, name);
                let to = match to {
                    Other::Head {} => None,
                    Other::Snapshot { view, name } => Some(self.snapshot_name(*view, name)),
                };
                let changes = self.store().diff(&from, to.as_deref())?;
                Ok(Reply::Changes { changes: changes.iter().map(delta).collect() })
            }
            Call::Remount {} => {
                self.stop()?;
                self.start()?;
                Ok(Reply::Done {})
            }
            Call::Reclaim {} => {
                self.store().reclaim()?;
                Ok(Reply::Done {})
            }
            Call::Usage {} => {
                let usage = self.store().usage()?;
                if usage.segment_bytes == 0 {
                    return Ok(Reply::Done {});
                }
                Ok(Reply::Text { lines: vec![format!("{usage:?}")] })
            }
            Call::Check { killed } => {
                let mut issues = Vec::new();
                if *killed {
                    // What a killed process had written but not committed is the one thing it may leave.
                    issues = check(self.store(), Repair::Yes)?.issues;
                    issues.retain(|issue| !matches!(issue, Issue::LeakedPages { repaired: true, .. }));
                }
                issues.append(&mut check(self.store(), Repair::No)?.issues);
                if issues.is_empty() {
                    return Ok(Reply::Done {});
                }
                Ok(Reply::Text { lines: issues.iter().map(|issue| format!("{issue:?}")).collect() })
            }
            other => panic!("{other:?} is no call of the control plane"),
        }
    }

    fn readdir(&mut self, view: View, slot: Slot, chunk: u32, plus: bool) -> Outcome {
        let (fs, node) = self.at(view, slot)?;
        let mut items: Vec<Item> = Vec::new();
        let mut offset = 0;
        loop {
            let before = items.len();
            let mut held: Vec<NodeId> = Vec::new();
            let full = |items: &[Item]| items.len() - before == chunk as usize;
            if plus {
                fs.readdirplus(node, offset, &mut |entry, attributes| {
                    if full(&items) {
                        return Sink::Full;
                    }
                    offset = entry.next_offset;
                    let dots = entry.name == "." || entry.name == "..";
                    if !dots {
                        held.push(attributes.node);
                    }
                    items.push(Item {
                        name: Bytes::from(entry.name.as_bytes()),
                        kind: entry.kind.type_bits(),
                        ino: entry.node.0,
                        stat: (!dots).then(|| stat(&attributes.attr)),
                    });
                    Sink::Continue
                })?;
            } else {
                fs.readdir(node, offset, &mut |entry| {
                    if full(&items) {
                        return Sink::Full;
                    }
                    offset = entry.next_offset;
                    items.push(Item {
                        name: Bytes::from(entry.name.as_bytes()),
                        kind: entry.kind.type_bits(),
                        ino: entry.node.0,
                        stat: None,
                    });
                    Sink::Continue
                })?;
            }
            for node in held {
                fs.forget(node, 1);
            }
            if items.len() == before {
                return Ok(Reply::Listing { items });
            }
        }
    }

    /// Reads on by at most `count` entries; returns how many there were.
    fn step(&mut self, number: u32, count: u32) -> Result<u32, FsError> {
        let cursor = &self.cursors[&number];
        let (view, node, mut offset) = (cursor.view, cursor.node, cursor.offset);
        let fs = self.tree(view)?;
        let mut items = Vec::new();
        fs.readdir(node, offset, &mut |entry| {
            if items.len() == count as usize {
                return Sink::Full;
            }
            offset = entry.next_offset;
            items.push(Item {
                name: Bytes::from(entry.name.as_bytes()),
                kind: entry.kind.type_bits(),
                ino: entry.node.0,
                stat: None,
            });
            Sink::Continue
        })?;
        let cursor = self.cursors.get_mut(&number).expect("found above");
        let taken = items.len() as u32;
        cursor.seen.append(&mut items);
        cursor.offset = offset;
        Ok(taken)
    }

    fn declare(&mut self, view: View, what: Shown) {
        self.views.insert(view, Tree { what, fs: None, slots: BTreeMap::new() });
    }

    fn close_view(&mut self, view: View) -> Result<(), FsError> {
        let fs = self.tree(view)?;
        if let Some(tree) = self.views.remove(&view) {
            for held in tree.slots.values() {
                fs.forget(held.node, held.references);
            }
        }
        self.cursors.retain(|_, cursor| cursor.view != view);
        Ok(())
    }

    fn head_name(&self, view: View) -> String {
        match &self.views[&view].what {
            Shown::Head(name) => name.clone(),
            Shown::Snapshot(name) => panic!("view {view} is the snapshot {name}, not a head"),
        }
    }

    fn snapshot_name(&self, view: View, name: &str) -> String {
        format!("{}@{name}", self.head_name(view))
    }

    fn tree(&mut self, view: View) -> Result<Arc<VolumeFs>, FsError> {
        let store = Arc::clone(self.store());
        let tree = self.views.get_mut(&view).expect("views are declared before they are used");
        if let Some(fs) = &tree.fs {
            return Ok(Arc::clone(fs));
        }
        let fs = match &tree.what {
            Shown::Head(name) => store.open_head(name)?,
            Shown::Snapshot(name) => store.open_snapshot(name)?,
        };
        tree.fs = Some(Arc::clone(&fs));
        Ok(fs)
    }

    fn at(&mut self, view: View, slot: Slot) -> Result<(Arc<VolumeFs>, NodeId), FsError> {
        let fs = self.tree(view)?;
        if slot == ROOT {
            return Ok((fs, NodeId::ROOT));
        }
        match self.views[&view].slots.get(&slot) {
            Some(held) => Ok((fs, held.node)),
            // An earlier call of the batch failed where the parent expected it to bind the slot.
            None => Err(FsError::Stale { node: NodeId(u64::from(slot)) }),
        }
    }

    fn bind(&mut self, view: View, slot: Slot, entry: &Entry) -> Reply {
        let tree = self.views.get_mut(&view).expect("the call just used it");
        let held = tree.slots.entry(slot).or_insert(Held { node: entry.node, references: 0 });
        held.references += 1;
        let mut stat = stat(&entry.attr);
        if held.node != entry.node {
            // One file under two node numbers: shown as an impossible link count, which no model agrees with.
            stat.nlink = u32::MAX;
        }
        Reply::Attr { stat }
    }
}

fn os(name: &Bytes) -> &OsStr {
    OsStr::from_bytes(&name.0)
}

fn caller(owner: Owner) -> Caller {
    Caller { uid: owner.uid, gid: owner.gid, pid: 1 }
}

fn stat(attr: &Attr) -> Stat {
    let time = |time: Timestamp| Stamp { secs: time.secs, nanos: time.nanos };
    Stat {
        ino: attr.ino.0,
        mode: attr.kind.type_bits() | u32::from(attr.perm),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        btime: time(attr.btime),
    }
}

fn delta(change: &Change) -> Delta {
    let kind = match change.change {
        ChangeKind::Added => DeltaKind::Added {},
        ChangeKind::Removed => DeltaKind::Removed {},
        ChangeKind::Modified => DeltaKind::Modified {},
        ChangeKind::Renamed => DeltaKind::Renamed {},
        ChangeKind::Metadata => DeltaKind::Metadata {},
    };
    Delta { kind, path: Bytes::from(&change.path[..]), from: change.from.as_deref().map(Bytes::from) }
}

fn attributes(set: &Set) -> SetAttr {
    let time = |time: &SetTime| match time {
        SetTime::Now {} => TimeSet::Now,
        SetTime::At { stamp } => TimeSet::At(Timestamp { secs: stamp.secs, nanos: stamp.nanos }),
    };
    SetAttr {
        perm: set.perm,
        uid: set.uid,
        gid: set.gid,
        size: set.size,
        atime: set.atime.as_ref().map(time),
        mtime: set.mtime.as_ref().map(time),
        ctime: None,
    }
}

/// What a program would see, by the man pages; failures of the control plane get numbers no system call has.
fn errno(error: &FsError) -> i32 {
    match error {
        FsError::NotFound => libc::ENOENT,
        FsError::Exists => libc::EEXIST,
        FsError::NotDirectory { .. } => libc::ENOTDIR,
        FsError::IsDirectory { .. } => libc::EISDIR,
        FsError::NotEmpty { .. } => libc::ENOTEMPTY,
        FsError::NameTooLong { .. } => libc::ENAMETOOLONG,
        FsError::Invalid { .. } => libc::EINVAL,
        FsError::NotPermitted { .. } => libc::EPERM,
        FsError::AccessDenied => libc::EACCES,
        FsError::ReadOnly => libc::EROFS,
        FsError::Stale { .. } => libc::ESTALE,
        FsError::NoSpace => libc::ENOSPC,
        FsError::QuotaExceeded { .. } => libc::EDQUOT,
        FsError::TooManyLinks => libc::EMLINK,
        FsError::FileTooBig => libc::EFBIG,
        FsError::NoXattr => libc::ENODATA,
        FsError::XattrTooBig => libc::E2BIG,
        FsError::NoData => libc::ENXIO,
        FsError::Unsupported { .. } => libc::EOPNOTSUPP,
        FsError::CrossVolume => libc::EXDEV,
        FsError::Lower(_) | FsError::Store(_) => libc::EIO,
        // The rest is the control plane's: numbers that no system call has.
        FsError::VolumeNotFound { .. } => 1001,
        FsError::VolumeMounted { .. } => 1003,
        FsError::SnapshotNotFound { .. } => 1004,
        FsError::SnapshotMounted { .. } => 1006,
        _ => 1000,
    }
}

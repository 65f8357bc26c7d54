//! What is changed in steps is changed as if it were one.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use parking_lot::Mutex;
use rocksdb::WriteBatch;
use tempfile::TempDir;

use super::{GROUP, STEP};
use crate::attr::{Attr, SetAttr, TimeSet, Timestamp};
use crate::error::FsError;
use crate::failpoint::meanwhile;
use crate::ids::{NodeId, SessionId};
use crate::ops::{Caller, KillSuid, VolumeFs};
use crate::request::{self, Executing, KernelRequest, Ledger};
use crate::store::record::{Inode, PageRef};
use crate::store::{Prefix, Receipt, Store, StoreOptions, VolumeSpec, skipped};

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const USER: Caller = Caller { uid: 7, gid: 7, pid: 1 };
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const PAGE: u64 = 4096;

/// A change of the file that takes more than one step.
type Change = fn(&Fixture) -> Result<(), FsError>;

struct Fixture {
    fs: Arc<VolumeFs>,
    store: Arc<Store>,
    file: NodeId,
    dir: TempDir,
}

impl Fixture {
    /// An empty file, in a volume over nothing.
    fn new() -> Fixture {
        let fixture = Fixture::over(|_| {});
        let file = fixture.fs.create(&ROOT, NodeId::ROOT, OsStr::new("file"), 0o104_755, 0).unwrap().node;
        Fixture { file, ..fixture }
    }

    /// A file with a page in each of so many groups.
    fn of_groups(groups: u64) -> Fixture {
        let fixture = Fixture::new();
        (0..groups).for_each(|group| fixture.write(group));
        fixture
    }

    /// A file of a lower.
    fn over(make: impl FnOnce(&File)) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("lower");
        std::fs::create_dir(&lower).unwrap();
        make(&File::create(lower.join("below")).unwrap());
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(&dir.path().join("store"), &options).unwrap();
        let spec = VolumeSpec { lowers: vec![lower], ..VolumeSpec::default() };
        store.create_volume("v", &spec, Receipt::none()).unwrap();
        let fs = store.open_head("v").unwrap();
        let file = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("below")).unwrap().node;
        Fixture { fs, store, file, dir }
    }

    fn write(&self, group: u64) {
        self.fs.write(self.file, group * GROUP, &page(group), KillSuid::No).unwrap();
    }

    fn read(&self, offset: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.fs.read(self.file, offset, PAGE as usize, &mut bytes).unwrap();
        bytes
    }

    fn attr(&self) -> Attr {
        self.fs.getattr(self.file).unwrap()
    }

    fn punch(&self, caller: &Caller, from: u64, to: u64) -> Result<(), FsError> {
        self.fs.fallocate(caller, self.file, PUNCH, from, to - from)
    }

    fn truncate(&self, caller: &Caller, size: u64) -> Result<(), FsError> {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.fs.setattr(caller, self.file, &set).map(drop)
    }

    fn used(&self) -> u64 {
        self.store.volume("v").unwrap().used_bytes
    }

    /// Where the first page of a group lies.
    fn place(&self, group: u64) -> PageRef {
        let node = self.fs.nodes.get(self.file).unwrap();
        let group = self.fs.group(&node, &node.state.read(), group).unwrap().group;
        group.refs().next().unwrap()
    }

    fn segment(&self, page: PageRef) -> PathBuf {
        self.dir.path().join(format!("store/segments/{:08x}.seg", page.segment))
    }

    /// What is stored of the file, whoever holds it.
    fn stored(&self) -> impl Fn() -> Inode + 'static {
        let (store, node) = (self.store.clone(), self.fs.nodes.get(self.file).unwrap());
        let (tree, ino) = (node.tree.clone(), node.ino);
        move || tree.merged.view.inode(&store.db, ino).unwrap().unwrap().record.unwrap()
    }

    /// Has the groups of the file be looked up anew.
    fn forget_groups(&self) {
        let node = self.fs.nodes.get(self.file).unwrap();
        self.fs.forget_groups(&mut node.state.write());
    }
}

fn page(group: u64) -> Vec<u8> {
    vec![u8::try_from(group % 251 + 1).unwrap(); PAGE as usize]
}

/// Runs `change`, and returns what was stored of the file behind its first step.
fn between<T>(fixture: &Fixture, change: impl FnOnce() -> T) -> (Inode, T) {
    let (seen, stored) = (Rc::new(RefCell::new(None)), fixture.stored());
    let into = seen.clone();
    meanwhile::at("data.step", move || *into.borrow_mut() = Some(stored()));
    let done = change();
    (seen.take().expect("it has more than one step"), done)
}

/// Ends in the middle of a page.
const SIZE: u64 = (3 * STEP + 9) * GROUP + 2000;

/// A file of a lower that has some data and goes on behind `SIZE`.
fn sparse() -> Fixture {
    Fixture::over(|file| {
        file.set_len(SIZE + 2 * GROUP).unwrap();
        for group in [0, 1, 5, STEP + 7, 3 * STEP + 9] {
            file.write_all_at(&page(group), group * GROUP).unwrap();
        }
    })
}

#[test]
fn a_hole_that_is_refused_changes_nothing() {
    let fixture = sparse();
    fixture.write(0);
    fixture.store.set_quota("v", Some(PAGE), None, Receipt::none()).unwrap();
    let shown = || [0, 1, 5, STEP + 7, 3 * STEP + 9].map(|group| fixture.read(group * GROUP));
    let before = (fixture.attr(), fixture.used(), shown());
    // The page at its end would have to be copied up.
    let refused = fixture.punch(&USER, GROUP, SIZE);
    assert!(matches!(refused, Err(FsError::QuotaExceeded { .. })), "{refused:?}");
    assert_eq!(before, (fixture.attr(), fixture.used(), shown()));
}

#[test]
fn a_hole_in_a_full_volume_may_take_what_it_gives_back() {
    let fixture = sparse();
    for group in [2, STEP + 2, 2 * STEP + 2] {
        fixture.write(group);
    }
    let set_quota = |bytes| fixture.store.set_quota("v", Some(bytes), None, Receipt::none()).unwrap();
    set_quota(3 * PAGE);
    fixture.punch(&ROOT, GROUP + 10, SIZE).unwrap();
    assert_eq!(fixture.used(), 2 * PAGE);
    set_quota(2 * PAGE);
    let zeros = vec![0; PAGE as usize];
    let (head, tail) = (fixture.read(GROUP), fixture.read((3 * STEP + 9) * GROUP));
    assert!(head[..10] == page(1)[..10] && head[10..] == zeros[10..]);
    assert!(tail[..2000] == zeros[..2000] && tail[2000..] == page(3 * STEP + 9)[2000..]);
    for group in [2, 5, STEP + 2, STEP + 7, 2 * STEP + 2] {
        assert!(fixture.read(group * GROUP) == zeros, "group {group}");
    }
    assert!(fixture.read(0) == page(0));
    // Once more, it asks for nothing.
    fixture.punch(&ROOT, GROUP + 10, SIZE).unwrap();
    assert_eq!(fixture.used(), 2 * PAGE);
}

#[test]
fn a_change_that_meets_damage_changes_nothing() {
    let groups = 2 * STEP + 3;
    let fixture = Fixture::of_groups(groups);
    let shown = || [0, STEP, groups - 2].map(|group| fixture.read(group * GROUP));
    let place = fixture.place(1);
    let (file, at) =
        (File::options().write(true).open(fixture.segment(place)).unwrap(), u64::from(place.page) * PAGE);
    file.write_all_at(b"damage", at).unwrap();
    let before = (fixture.attr(), fixture.used(), shown());
    let refused = [
        fixture.truncate(&USER, GROUP + 100),
        fixture.punch(&USER, GROUP + 100, (groups - 1) * GROUP),
        fixture.punch(&USER, 0, GROUP + 100),
    ];
    for refused in refused {
        assert!(refused.as_ref().is_err_and(FsError::is_corruption), "{refused:?}");
    }
    assert_eq!(before, (fixture.attr(), fixture.used(), shown()));
    // What goes as a whole may be damaged.
    fixture.truncate(&USER, 100).unwrap();
    assert_eq!((fixture.used(), fixture.attr().size), (PAGE, 100));
}

#[test]
fn a_record_that_cannot_be_read_refuses_the_change_while_nothing_has_changed() {
    let groups = 2 * STEP + 3;
    let fixture = Fixture::of_groups(groups);
    let node = fixture.fs.nodes.get(fixture.file).unwrap();
    let (head, prefix) = {
        let head = node.tree.head.clone().unwrap();
        (head.clone(), Prefix::extent(head.tree, node.ino, STEP + 5))
    };
    let mut batch = WriteBatch::default();
    let key = prefix.version(head.branch, head.gate.epoch());
    batch.put_cf(fixture.store.db.family(prefix.family.name()), key, b"?");
    fixture.store.db.write(batch).unwrap();
    fixture.forget_groups();
    let shown = || [0, 1, STEP, groups - 2].map(|group| fixture.read(group * GROUP));
    let before = (fixture.attr(), fixture.used(), shown());
    for refused in [fixture.truncate(&USER, 100), fixture.punch(&USER, 100, (groups - 1) * GROUP)] {
        assert!(refused.as_ref().is_err_and(FsError::is_corruption), "{refused:?}");
    }
    assert_eq!(before, (fixture.attr(), fixture.used(), shown()));
}

#[test]
fn every_step_leaves_the_attributes_of_the_whole() {
    let changes: [Change; 3] = [
        |fixture| fixture.truncate(&USER, GROUP + 100),
        |fixture| fixture.truncate(&USER, 0),
        |fixture| fixture.punch(&USER, 100, (2 * STEP + 2) * GROUP + 100),
    ];
    for change in changes {
        let fixture = Fixture::of_groups(2 * STEP + 3);
        let before = fixture.attr();
        let (seen, done) = between(&fixture, || change(&fixture));
        done.unwrap();
        let after = fixture.attr();
        assert!(after.mtime > before.mtime && after.mtime == after.ctime && after.atime == before.atime);
        assert_eq!((seen.perm, seen.mtime, seen.ctime), (0o755, after.mtime, after.ctime));
        assert_eq!((after.perm, after.btime), (0o755, before.btime));
    }
    // Who may keep the bits keeps them, and times that are asked for are those of every step.
    let fixture = Fixture::of_groups(2 * STEP + 3);
    let at = Timestamp { secs: 5, nanos: 6 };
    let set =
        SetAttr { size: Some(100), mtime: Some(TimeSet::At(at)), ctime: Some(at), ..SetAttr::default() };
    let (seen, done) = between(&fixture, || fixture.fs.setattr(&ROOT, fixture.file, &set));
    let done = done.unwrap();
    assert_eq!((seen.perm, seen.mtime, seen.ctime), (0o4755, at, at));
    assert_eq!((done.perm, done.mtime, done.ctime, done.size), (0o4755, at, at, 100));
}

#[test]
fn steps_do_not_search_what_those_before_them_removed() {
    let groups = 5 * STEP;
    let changes: [fn(&Fixture); 3] = [
        |fixture| fixture.truncate(&ROOT, GROUP).unwrap(),
        |fixture| fixture.punch(&ROOT, GROUP, (5 * STEP - 1) * GROUP).unwrap(),
        |fixture| {
            fixture.fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("file")).unwrap();
            fixture.fs.forget(fixture.file, 1);
            fixture.fs.reap_dead(0);
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let fixture = Fixture::of_groups(groups);
        fixture.forget_groups();
        let skipped = skipped(|| change(&fixture));
        assert!(skipped < STEP, "change {number} came upon {skipped} removed records");
        assert!(fixture.used() <= 2 * PAGE);
    }
}

/// Pages that a request was handed and that a successor would give back.
#[derive(Default)]
struct Taken(Mutex<u32>);

impl Ledger for Taken {
    fn written(&self, _: u16, _: u64) {}
    fn pages_taken(&self, _: u16, _: u32, _: u32, count: u32) {
        *self.0.lock() += count;
    }
    fn pages_settled(&self, _: u16) {
        *self.0.lock() = 0;
    }
}

#[test]
fn pages_of_a_step_do_not_pass_for_those_of_a_request_that_was_not_executed() {
    let changes: [Change; 2] = [
        |fixture| fixture.truncate(&ROOT, GROUP + 100),
        |fixture| fixture.punch(&ROOT, 100, (2 * STEP + 2) * GROUP + 100),
    ];
    for (unique, change) in (1..).zip(changes) {
        let fixture = Fixture::of_groups(2 * STEP + 3);
        let (taken, at_step) = (Arc::new(Taken::default()), Rc::new(RefCell::new(None)));
        let (noted, seen) = (taken.clone(), at_step.clone());
        // Its batch is in the log, and says nothing of the request.
        meanwhile::at("txn.written", move || *seen.borrow_mut() = Some(*noted.0.lock()));
        let request = KernelRequest { session: SessionId(1), unique };
        request::execute(Executing { request, thread: 0 }, taken, || change(&fixture)).unwrap();
        assert_eq!(at_step.take(), Some(0));
    }
}

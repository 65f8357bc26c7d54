//! Every kind of corruption, built on purpose, and stores that are clean whatever was done to them.

mod clean;
mod data;
mod history;
mod live;
mod namespace;
mod orphans;
mod power;
mod quarantine;
mod records;
mod sealing;
mod sweeps;
mod usage;
mod verify;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use rocksdb::WriteBatch;
use tempfile::TempDir;

use super::{CheckReport, Repair, check};
use crate::VolumeFs;
use crate::ids::{BranchId, Epoch, Ino, NodeId, RequestId, TreeId};
use crate::ops::{Caller, KillSuid, SetXattr};
use crate::store::record::{Dentry, Group, Inode, OutcomeV1, PageRef, Record, Usage, WriterState};
use crate::store::{META, Prefix, Receipt, RequestKey, Store, StoreOptions, TOUCHED, VolumeSpec, meta};

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };
/// Of the first volume of a store.
const TREE: TreeId = TreeId(1);
const BRANCH: BranchId = BranchId(1);
const FIRST: Epoch = Epoch(1);
/// An inode that does not exist. Below what the counters were raised to.
const GHOST: Ino = Ino(500_000);

/// A store with a volume `v`.
struct Fixture {
    store: Arc<Store>,
    dir: TempDir,
}

impl Fixture {
    /// A store with an empty volume.
    fn empty() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
        let fixture = Fixture { store, dir };
        // Numbers that tests make up are in use then.
        for which in 0..4 {
            fixture.put(META, &meta::counter(which), &1000u64.to_le_bytes());
        }
        fixture.put(META, &meta::counter(4), &1_000_000u64.to_le_bytes());
        fixture
    }

    /// A store with a volume that has a file `a` of three pages, a file `b` of five bytes with an extended attribute and a second
    /// name `d/b`, and a directory `d`.
    fn filled() -> Fixture {
        let fixture = Fixture::empty();
        let fs = fixture.store.open_head("v").unwrap();
        file(&fs, NodeId::ROOT, "a", &[7; 10_000]);
        let b = file(&fs, NodeId::ROOT, "b", b"hello");
        let d = directory(&fs, NodeId::ROOT, "d");
        fs.link(b, d, OsStr::new("b")).unwrap();
        fs.forget(b, 1);
        fs.setxattr(&ROOT, b, OsStr::new("user.x"), b"value", SetXattr::Any).unwrap();
        drop(fs);
        fixture.assert_clean();
        fixture
    }

    /// Closes the store and opens it again.
    fn reopened(self) -> Fixture {
        let Fixture { store, dir } = self;
        store.close().unwrap();
        drop(store);
        Fixture { store: open(dir.path()), dir }
    }

    fn check(&self, repair: Repair) -> CheckReport {
        check(&self.store, repair).unwrap()
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.check(Repair::No).issues.iter().map(|issue| issue.kind()).collect()
    }

    fn assert_clean(&self) {
        let issues = self.check(Repair::No).issues;
        assert!(issues.is_empty(), "{}", issues.iter().map(|issue| format!("{issue}\n")).collect::<String>());
    }

    /// Asserts that there is one issue, that it is mended, and that it is gone then.
    fn assert_mended(&self, kind: &str) {
        assert_eq!(self.kinds(), [kind]);
        let issues = self.check(Repair::Yes).issues;
        assert!(issues.iter().all(|issue| issue.kind() == kind && issue.repaired()), "{issues:?}");
        self.assert_clean();
    }

    fn put(&self, family: &str, key: &[u8], value: &[u8]) {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.store.db.family(family), key, value);
        self.store.db.write(batch).unwrap();
    }

    fn delete(&self, family: &str, key: &[u8]) {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.store.db.family(family), key);
        self.store.db.write(batch).unwrap();
    }

    /// Writes a version of a record as a transaction of the first epoch would.
    fn write(&self, prefix: &Prefix, record: &impl Record) {
        self.put(prefix.family.name(), &prefix.version(BRANCH, FIRST), &record.encode());
        self.put(TOUCHED, &prefix.touched(BRANCH, FIRST), &[]);
    }

    fn dentry(&self, dir: Ino, name: &str) -> Prefix {
        Prefix::dentry(TREE, dir, self.store.hasher.hash(name.as_bytes()), name.as_bytes())
    }

    /// Returns the inode that a name in a directory leads to.
    fn ino_in(&self, dir: Ino, name: &str) -> Ino {
        let view = self.store.registry.read().view(BRANCH, Epoch(u64::MAX)).unwrap();
        match view.load(&self.store.db, &self.dentry(dir, name)).unwrap().unwrap().record {
            Dentry::Entry { ino, .. } => ino,
            Dentry::Whiteout => panic!("{name} is a whiteout"),
        }
    }

    fn ino(&self, name: &str) -> Ino {
        self.ino_in(Ino::ROOT, name)
    }

    /// Changes the stored inode, in the version that it has.
    fn edit(&self, ino: Ino, change: impl FnOnce(&mut Inode)) {
        let prefix = Prefix::inode(TREE, ino);
        let view = self.store.registry.read().view(BRANCH, Epoch(u64::MAX)).unwrap();
        let mut found = view.inode(&self.store.db, ino).unwrap().unwrap();
        change(found.record.as_mut().unwrap());
        self.put(prefix.family.name(), &prefix.version(found.branch, found.epoch), &found.record.encode());
    }

    /// Changes how the first pages of a file are referred to.
    fn edit_pages(&self, ino: Ino, change: impl Fn(&mut PageRef)) {
        let prefix = Prefix::extent(TREE, ino, 0);
        let mut group = self.group(ino);
        if let Group::Pages(pages) = &mut group {
            for page in pages.iter_mut() {
                if let crate::store::record::Page::Data(data) = page {
                    change(data);
                }
            }
        }
        self.write(&prefix, &group);
    }

    fn group(&self, ino: Ino) -> Group {
        let view = self.store.registry.read().view(BRANCH, Epoch(u64::MAX)).unwrap();
        view.group(&self.store.db, ino, 0).unwrap().unwrap().record
    }

    /// Adds to what is counted, as if it had been all the time.
    fn count(&self, bytes: i64, inodes: i64) {
        self.put(
            META,
            &meta::usage(BRANCH, 15),
            &WriterState { usage: Usage { bytes, inodes }, answered: None }.encode(),
        );
    }
}

fn open(dir: &Path) -> Arc<Store> {
    Store::open(&dir.join("store"), &StoreOptions { background: false, ..StoreOptions::default() }).unwrap()
}

/// Makes a file, and keeps the reference that this gives.
fn file(fs: &VolumeFs, parent: NodeId, name: &str, content: &[u8]) -> NodeId {
    let entry = fs.create(&ROOT, parent, OsStr::new(name), 0o100_644, 0).unwrap();
    fs.write(entry.node, 0, content, KillSuid::No).unwrap();
    entry.node
}

fn directory(fs: &VolumeFs, parent: NodeId, name: &str) -> NodeId {
    fs.mkdir(&ROOT, parent, OsStr::new(name), 0o755, 0).unwrap().node
}

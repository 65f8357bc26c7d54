//! A record of each kind is damaged in a store with several volumes. What it is about suffers, nothing else does, and what it
//! stood for is there again with the record.

use super::*;
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::{SessionId, VolumeId};
use crate::ops::Sink;
use crate::request::KernelRequest;
use crate::store::{Family, Settled};

/// No record begins with this version.
const GARBAGE: &[u8] = &[0xee; 7];

/// Two volumes, `v` with a snapshot `v@s` and one that was removed and not swept, `w` beside it.
fn two_volumes() -> Fixture {
    let fixture = Fixture::filled();
    for name in ["s", "gone"] {
        fixture.store.snapshot(&["v"], Some(name), Receipt::none()).unwrap();
        let fs = fixture.store.open_head("v").unwrap();
        let a = lookup(&fs, NodeId::ROOT, "a").unwrap();
        fs.write(a, 0, name.as_bytes(), KillSuid::No).unwrap();
    }
    fixture.store.create_volume("w", &VolumeSpec::default(), Receipt::none()).unwrap();
    let fs = fixture.store.open_head("w").unwrap();
    file(&fs, NodeId::ROOT, "other", b"unharmed");
    drop(fs);
    fixture.store.remove_snapshots(&["v@gone"], Receipt::none()).unwrap();
    fixture
}

fn lookup(fs: &VolumeFs, dir: NodeId, name: &str) -> Result<NodeId, FsError> {
    fs.lookup(&ROOT, dir, OsStr::new(name)).map(|entry| entry.node)
}

fn read(fs: &VolumeFs, name: &str) -> Result<Vec<u8>, FsError> {
    let mut content = Vec::new();
    fs.read(lookup(fs, NodeId::ROOT, name)?, 0, 1 << 20, &mut content)?;
    Ok(content)
}

/// Lists a directory in both ways; nobody may be missing in either.
fn names(fs: &VolumeFs, dir: NodeId) -> Vec<String> {
    let (mut plain, mut plus) = (Vec::new(), Vec::new());
    fs.readdir(dir, 0, &mut |entry| {
        plain.push(entry.name.to_str().unwrap().to_owned());
        Sink::Continue
    })
    .unwrap();
    fs.readdirplus(dir, 0, &mut |listed, _| {
        plus.push(listed.name.to_str().unwrap().to_owned());
        Sink::Continue
    })
    .unwrap();
    assert_eq!(plain, plus);
    plain.retain(|name| !matches!(name.as_str(), "." | ".."));
    plain.sort();
    plain
}

impl Fixture {
    fn get(&self, family: &str, key: &[u8]) -> Option<Vec<u8>> {
        let mut found = None;
        self.store
            .db
            .scan(family, key, &[], |at, value| {
                found = (at == key).then(|| value.to_vec());
                Ok(false)
            })
            .unwrap();
        found
    }

    /// Puts garbage in the place of a record, and opens the store anew. Returns what was there.
    fn damaged(self, key: &[u8]) -> (Fixture, Vec<u8>) {
        // What is written once more at the end is written before.
        self.store.close().unwrap();
        let before = self.get(META, key).expect("the record is there");
        self.put(META, key, GARBAGE);
        (self.reopened(), before)
    }

    /// `w` can be used as if nothing had happened, and the background finds nothing to complain of.
    fn assert_others_unharmed(&self) {
        let fs = self.store.open_head("w").unwrap();
        assert_eq!(read(&fs, "other").unwrap(), b"unharmed");
        let made = file(&fs, NodeId::ROOT, "made since", b"x");
        fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("made since")).unwrap();
        fs.forget(made, 1);
        drop(fs);
        self.store.snapshot(&["w"], None, Receipt::none()).unwrap();
        self.store.create_volume("new", &VolumeSpec::default(), Receipt::none()).unwrap();
        self.store.remove_volume("new", Receipt::none()).unwrap();
        self.store.reclaim().unwrap();
        self.store.usage().unwrap();
        assert!(self.store.volumes().unwrap().iter().any(|volume| volume.name == "w"));
    }

    /// Puts the record back: `v` and `v@s` are what they were.
    fn assert_whole_again(self, key: &[u8], before: &[u8]) {
        self.put(META, key, before);
        let fixture = self.reopened();
        fixture.assert_v_is_whole();
        fixture.store.reclaim().unwrap();
        fixture.assert_v_is_whole();
        fixture.assert_clean();
    }

    fn assert_v_is_whole(&self) {
        let fs = self.store.open_head("v").unwrap();
        assert_eq!(read(&fs, "a").unwrap()[..4], *b"gone");
        assert_eq!(read(&fs, "b").unwrap(), b"hello");
        drop(fs);
        let fs = self.store.open_snapshot("v@s").unwrap();
        assert_eq!(read(&fs, "a").unwrap(), [7; 10_000]);
    }
}

#[test]
fn volume() {
    let key = meta::volume(VolumeId(1));
    let (fixture, before) = two_volumes().damaged(&key);
    assert_eq!(fixture.store.quarantined(), 1);
    assert!(matches!(fixture.store.volume("v"), Err(FsError::VolumeNotFound { .. })));
    fixture.assert_others_unharmed();
    assert!(fixture.kinds().contains(&"unreadable-record"));
    fixture.assert_whole_again(&key, &before);
}

#[test]
fn branch() {
    let key = meta::branch(BRANCH);
    let (fixture, before) = two_volumes().damaged(&key);
    assert_eq!(fixture.store.quarantined(), 1);
    let listed = fixture.store.volumes().unwrap();
    let v = listed.iter().find(|volume| volume.name == "v").unwrap();
    assert!(v.flag.as_ref().unwrap().what.contains("cannot be used"), "{v:?}");
    assert!(fixture.store.open_head("v").is_err_and(|error| error.is_corruption()));
    fixture.assert_others_unharmed();
    fixture.assert_whole_again(&key, &before);
}

#[test]
fn snapshot() {
    let fixture = two_volumes();
    let key = meta::snapshot(BRANCH, FIRST);
    let (fixture, before) = fixture.damaged(&key);
    assert!(fixture.store.open_snapshot("v@1").is_err_and(|error| error.is_corruption()));
    assert!(matches!(fixture.store.open_snapshot("v@s"), Err(FsError::SnapshotNotFound { .. })));
    // The head goes on, and so do cuts of it.
    let fs = fixture.store.open_head("v").unwrap();
    assert_eq!(read(&fs, "a").unwrap()[..4], *b"gone");
    drop(fs);
    fixture.store.snapshot(&["v"], Some("later"), Receipt::none()).unwrap();
    fixture.store.remove_snapshots(&["v@later"], Receipt::none()).unwrap();
    fixture.assert_others_unharmed();
    fixture.assert_whole_again(&key, &before);
}

#[test]
fn snapshot_goes_with_its_volume() {
    let key = meta::snapshot(BRANCH, FIRST);
    let (fixture, _) = two_volumes().damaged(&key);
    fixture.store.remove_volume("v", Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    assert_eq!(fixture.get(META, &key), None);
    let fixture = fixture.reopened();
    fixture.assert_clean();
    assert_eq!(fixture.store.quarantined(), 0);
}

#[test]
fn lower_slot() {
    let fixture = two_volumes();
    let lower = fixture.dir.path().join("lower");
    std::fs::create_dir(&lower).unwrap();
    std::fs::write(lower.join("low"), "low").unwrap();
    let spec = VolumeSpec { lowers: vec![lower], ..VolumeSpec::default() };
    fixture.store.create_volume("over", &spec, Receipt::none()).unwrap();
    let tree = fixture.store.registry.read().volume("over").unwrap().1.tree;
    let look = |fixture: &Fixture| {
        let fs = fixture.store.open_head("over")?;
        lookup(&fs, NodeId::ROOT, "low")
    };
    let node = look(&fixture).unwrap();
    let key = meta::lower_slot(tree, 0);
    let (fixture, before) = fixture.damaged(&key);
    assert!(look(&fixture).is_err_and(|error| error.is_corruption()));
    fixture.assert_others_unharmed();
    fixture.put(META, &key, &before);
    let fixture = fixture.reopened();
    assert_eq!(look(&fixture).unwrap(), node);
    fixture.assert_v_is_whole();
}

#[test]
fn segment() {
    let fixture = two_volumes();
    let (id, _) = *fixture.store.segments.list().iter().min().unwrap();
    let key = meta::segment(id);
    let (fixture, before) = fixture.damaged(&key);
    assert_eq!(fixture.store.quarantined(), 1);
    fixture.assert_v_is_whole();
    fixture.assert_others_unharmed();
    fixture.assert_whole_again(&key, &before);
}

#[test]
fn usage_is_counted_anew() {
    let fixture = two_volumes();
    let whole = fixture.store.volume("v").unwrap();
    let mut writers = Vec::new();
    let scan = fixture.store.db.scan(META, &meta::usage_of(BRANCH), &[], |key, _| {
        writers.push(key.to_vec());
        Ok(true)
    });
    scan.unwrap();
    for key in &writers {
        fixture.put(META, key, GARBAGE);
    }
    let fixture = fixture.reopened();
    assert_eq!(fixture.store.quarantined(), writers.len() as u64);
    assert!(fixture.store.volume("v").unwrap().used_inodes < whole.used_inodes);
    fixture.assert_v_is_whole();
    fixture.assert_others_unharmed();
    assert!(fixture.kinds().contains(&"record-moved-aside") && fixture.kinds().contains(&"wrong-usage"));
    assert!(fixture.check(Repair::Yes).issues.iter().all(|issue| issue.repaired()));
    fixture.assert_clean();
    assert_eq!(fixture.store.quarantined(), 0);
    assert_eq!(fixture.store.volume("v").unwrap().used_inodes, whole.used_inodes);
    fixture.reopened().assert_clean();
}

#[test]
fn counters_begin_after_what_is_in_use() {
    let fixture = two_volumes();
    let ino = fixture.ino_of_v("a");
    for which in 0..=5 {
        fixture.put(META, &meta::counter(which), GARBAGE);
    }
    let fixture = fixture.reopened();
    assert_eq!(fixture.store.quarantined(), 6);
    let fs = fixture.store.open_head("v").unwrap();
    let made = file(&fs, NodeId::ROOT, "made since", &[9; 10_000]);
    assert!(made.0 > ino.0 && made.0 < 1 << 48, "{made}");
    drop(fs);
    fixture.assert_v_is_whole();
    fixture.assert_others_unharmed();
    let new = fixture.store.create_volume("newer", &VolumeSpec::default(), Receipt::none()).unwrap();
    assert!(new.id > VolumeId(1));
    let issues = fixture.check(Repair::Yes).issues;
    assert!(issues.iter().all(|issue| issue.repaired()), "{issues:?}");
    fixture.assert_clean();
}

#[test]
fn what_is_to_be_done_and_what_is_only_told() {
    let fixture = two_volumes();
    let branch = BRANCH;
    let made_up = [
        meta::sweep(branch, Epoch(77)),
        meta::settled(branch, Epoch(77)),
        meta::free(99),
        meta::departed(branch, Ino(20)),
        meta::flag(VolumeId(1)),
    ];
    for key in &made_up {
        fixture.put(META, key, GARBAGE);
    }
    // Told at once, and not in the way.
    assert!(fixture.store.volume("v").unwrap().flag.is_some());
    let fixture = fixture.reopened();
    assert_eq!(fixture.store.quarantined(), made_up.len() as u64);
    assert_eq!(fixture.store.list_quarantined().len(), made_up.len());
    assert!(fixture.store.volume("v").unwrap().flag.is_none());
    fixture.assert_v_is_whole();
    fixture.assert_others_unharmed();
    // As it was found, until it is repaired.
    for key in &made_up {
        assert_eq!(fixture.get(META, &meta::aside(key)).as_deref(), Some(GARBAGE));
        assert_eq!(fixture.get(META, key), None);
    }
    assert_eq!(fixture.kinds(), ["record-moved-aside"; 5]);
    fixture.check(Repair::Yes);
    fixture.assert_clean();
}

#[test]
fn answer_that_cannot_be_read_is_an_error_and_no_second_execution() {
    let fixture = two_volumes();
    let request = |unique| KernelRequest { session: SessionId(5), unique };
    fixture.put(META, &meta::answered(request(8)), GARBAGE);
    let fixture = fixture.reopened();
    let answers = fixture.store.recover_answers(SessionId(5), BRANCH, std::iter::empty()).unwrap();
    assert_eq!(answers.get(&8), Some(&None));
    let fs = fixture.store.open_head("v").unwrap();
    fs.adopt(SessionId(5), Vec::new(), &[]).unwrap();
    let replayed: Option<Result<(), FsError>> = fs.replay(8, NodeId::ROOT);
    assert!(replayed.unwrap().is_err_and(|error| error.is_corruption()));
    assert!(fs.replay::<()>(10, NodeId::ROOT).is_none());
}

#[test]
fn reply() {
    let fixture = two_volumes();
    fixture.put(META, &meta::reply(RequestId([3; 16])), GARBAGE);
    let fixture = fixture.reopened();
    assert_eq!(fixture.store.quarantined(), 1);
    fixture.assert_v_is_whole();
    fixture.assert_others_unharmed();
}

/// Damages the version that the head of `v` sees of a record.
fn damage_version(fixture: &Fixture, prefix: &Prefix) {
    let view = fixture.store.registry.read().view(BRANCH, Epoch(u64::MAX)).unwrap();
    let (branch, epoch) = view.version(&fixture.store.db, prefix).unwrap().unwrap();
    fixture.put(prefix.family.name(), &prefix.version(branch, epoch), GARBAGE);
}

impl Fixture {
    /// Returns the inode of a name in the root of `v`.
    fn ino_of_v(&self, name: &str) -> Ino {
        let fs = self.store.open_head("v").unwrap();
        Ino(lookup(&fs, NodeId::ROOT, name).unwrap().0)
    }
}

#[test]
fn name() {
    let fixture = two_volumes();
    let hash = fixture.store.hasher.hash(b"b");
    let prefix = Prefix::dentry(TREE, Ino::ROOT, hash, b"b");
    damage_version(&fixture, &prefix);
    let fixture = fixture.reopened();
    let fs = fixture.store.open_head("v").unwrap();
    assert_eq!(names(&fs, NodeId::ROOT), ["a", "b", "d"]);
    assert!(lookup(&fs, NodeId::ROOT, "b").is_err_and(|error| error.is_corruption()));
    assert!(fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("b")).is_err_and(|error| error.is_corruption()));
    assert_eq!(read(&fs, "a").unwrap()[..4], *b"gone");
    // Its other name leads to it.
    let d = lookup(&fs, NodeId::ROOT, "d").unwrap();
    assert!(lookup(&fs, d, "b").is_ok());
    file(&fs, NodeId::ROOT, "beside", b"x");
    drop(fs);
    fixture.assert_others_unharmed();
}

#[test]
fn inode() {
    let fixture = two_volumes();
    let ino = fixture.ino_of_v("b");
    damage_version(&fixture, &Prefix::inode(TREE, ino));
    let fixture = fixture.reopened();
    let fs = fixture.store.open_head("v").unwrap();
    assert_eq!(names(&fs, NodeId::ROOT), ["a", "b", "d"]);
    let mut kinds = Vec::new();
    fs.readdirplus(NodeId::ROOT, 0, &mut |listed, entry| {
        if listed.name == "b" {
            kinds.push((listed.kind, entry.node));
        }
        Sink::Continue
    })
    .unwrap();
    // The kernel is given no reference to it.
    assert_eq!(kinds, [(FileKind::Regular, NodeId(0))]);
    assert!(lookup(&fs, NodeId::ROOT, "b").is_err_and(|error| error.is_corruption()));
    assert_eq!(read(&fs, "a").unwrap()[..4], *b"gone");
    drop(fs);
    fixture.assert_others_unharmed();
}

#[test]
fn extended_attribute() {
    let fixture = two_volumes();
    let ino = fixture.ino_of_v("b");
    let fs = fixture.store.open_head("v").unwrap();
    fs.setxattr(&ROOT, NodeId(ino.0), OsStr::new("user.y"), b"fine", SetXattr::Any).unwrap();
    drop(fs);
    damage_version(&fixture, &Prefix::xattr(TREE, ino, b"user.x"));
    let fixture = fixture.reopened();
    let fs = fixture.store.open_head("v").unwrap();
    let b = lookup(&fs, NodeId::ROOT, "b").unwrap();
    assert_eq!(fs.listxattr(&ROOT, b).unwrap(), b"user.x\0user.y\0");
    assert!(fs.getxattr(b, OsStr::new("user.x")).is_err_and(|error| error.is_corruption()));
    assert_eq!(fs.getxattr(b, OsStr::new("user.y")).unwrap(), b"fine");
    // A new value takes its place.
    fs.setxattr(&ROOT, b, OsStr::new("user.x"), b"new", SetXattr::Any).unwrap();
    assert_eq!(fs.getxattr(b, OsStr::new("user.x")).unwrap(), b"new");
    assert_eq!(read(&fs, "b").unwrap(), b"hello");
    drop(fs);
    fixture.assert_others_unharmed();
}

#[test]
fn group_of_pages() {
    let fixture = two_volumes();
    let fs = fixture.store.open_head("v").unwrap();
    let large = file(&fs, NodeId::ROOT, "large", &[5; 200_000]);
    drop(fs);
    damage_version(&fixture, &Prefix::extent(TREE, Ino(large.0), 1));
    let fixture = fixture.reopened();
    let fs = fixture.store.open_head("v").unwrap();
    let large = lookup(&fs, NodeId::ROOT, "large").unwrap();
    let piece = |offset| {
        let mut out = Vec::new();
        fs.read(large, offset, 4096, &mut out).map(|()| out)
    };
    assert!(piece(70_000).is_err_and(|error| error.is_corruption()));
    for offset in [0, 150_000] {
        assert_eq!(piece(offset).unwrap(), [5; 4096]);
    }
    // It can be removed. Its pages stay, because nobody knows which they are, and are in nobody's way.
    fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("large")).unwrap();
    drop(fs);
    let fixture = fixture.reopened();
    assert_eq!(names(&fixture.store.open_head("v").unwrap(), NodeId::ROOT), ["a", "b", "d"]);
    fixture.assert_v_is_whole();
    fixture.assert_others_unharmed();
}

#[test]
fn sweep_of_a_record_that_cannot_be_read_keeps_it_and_goes_on() {
    let fixture = two_volumes();
    let ino = fixture.ino_of_v("a");
    let prefix = Prefix::extent(TREE, ino, 0);
    // The version of the epoch that nobody sees any more.
    fixture.put(prefix.family.name(), &prefix.version(BRANCH, Epoch(2)), GARBAGE);
    fixture.store.reclaim().unwrap();
    assert_eq!(fixture.store.quarantined(), 1);
    assert!(fixture.get(Family::Extent.name(), &prefix.version(BRANCH, Epoch(2))).is_some());
    assert_eq!(fixture.get(META, &meta::sweep(BRANCH, FIRST)), None, "the sweep is done");
    let settled = Settled { through: FIRST, has_left: true };
    assert_eq!(fixture.get(META, &meta::settled(BRANCH, FIRST)), Some(settled.encode().to_vec()));
    fixture.assert_v_is_whole();
    fixture.assert_others_unharmed();
}

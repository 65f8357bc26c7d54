//! What was unlinked just before, and who waits for it.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::unlinked::Forgetting;
use super::super::{Caller, Invalidate, KillSuid, RenameMode, SetXattr, VolumeFs};
use super::{ROOM_WAIT, SETTLE_TRIES};
use crate::attr::SetAttr;
use crate::error::FsError;
use crate::ids::{NodeId, SessionId};
use crate::store::{Receipt, Store, StoreOptions, VolumeInfo, VolumeSpec};

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };

/// A store with a volume `v`, which is open.
struct Fixture {
    fs: Arc<VolumeFs>,
    store: Arc<Store>,
    _dir: TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::over(&[])
    }

    /// One whose volume is over a lower with empty files of these names.
    fn over(names: &[&str]) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("lower");
        std::fs::create_dir(&lower).unwrap();
        for name in names {
            std::fs::write(lower.join(name), "").unwrap();
        }
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(&dir.path().join("store"), &options).unwrap();
        store
            .create_volume("v", &VolumeSpec { lowers: vec![lower], ..VolumeSpec::default() }, Receipt::none())
            .unwrap();
        let fs = store.open_head("v").unwrap();
        Fixture { fs, store, _dir: dir }
    }

    /// Makes a file, and keeps the reference that this gives.
    fn file(&self, name: &str, content: &[u8]) -> NodeId {
        let node = self.fs.create(&ROOT, NodeId::ROOT, OsStr::new(name), 0o100_644, 0).unwrap().node;
        self.fs.write(node, 0, content, KillSuid::No).unwrap();
        node
    }

    fn unlink(&self, name: &str) {
        self.fs.unlink(&ROOT, NodeId::ROOT, OsStr::new(name)).unwrap();
    }

    fn lookup(&self, name: &str) -> NodeId {
        self.fs.lookup(&ROOT, NodeId::ROOT, OsStr::new(name)).unwrap().node
    }

    /// Fills the volume with a file of so many bytes, removes that, and runs `operation` while the kernel is about to forget
    /// it. That may take too long where the machine has much else to do, but not every time.
    fn in_the_room_of(&self, bytes: usize, operation: impl Fn() -> Result<(), FsError>) {
        let times = (0..20).map(|_| self.once_in_the_room_of(bytes, &operation));
        let mut done = times.filter(|done| !matches!(done, Err(FsError::QuotaExceeded { .. })));
        done.next().expect("it is not waited for").unwrap();
    }

    fn once_in_the_room_of(
        &self,
        bytes: usize,
        operation: impl Fn() -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        self.store.set_quota("v", None, None, Receipt::none()).unwrap();
        let node = self.file("big", &vec![1; bytes]);
        let VolumeInfo { used_bytes, used_inodes, .. } = self.store.volume("v").unwrap();
        self.store.set_quota("v", Some(used_bytes), Some(used_inodes), Receipt::none()).unwrap();
        self.unlink("big");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(ROOM_WAIT * 2);
                self.fs.forget(node, 1);
            });
            operation()
        })
    }
}

/// Asserts that `operation` comes to take less time than what was just unlinked is waited for.
fn comes_not_to_wait(operation: impl Fn()) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let begun = Instant::now();
        operation();
        if begun.elapsed() < ROOM_WAIT * SETTLE_TRIES {
            return;
        }
        assert!(Instant::now() < deadline, "it waits for ever");
    }
}

#[test]
fn nobody_waits_for_a_file_that_a_program_holds() {
    let fixture = Fixture::new();
    fixture.file("held", b"x");
    fixture.unlink("held");
    comes_not_to_wait(|| assert!(fixture.fs.statfs().is_ok()));
    comes_not_to_wait(|| assert!(fixture.store.volumes().is_ok()));
}

#[test]
fn a_sign_of_life_removes_nothing_and_waits_for_nothing() {
    let fixture = Fixture::new();
    let node = fixture.file("gone", b"x");
    fixture.unlink("gone");
    fixture.fs.forget(node, 1);
    let counted = |volumes: Vec<VolumeInfo>| volumes.first().unwrap().used_inodes;
    let at_once = counted(fixture.store.volumes_at_once().unwrap());
    assert_eq!(fixture.fs.nodes.dead.lock().len(), 1);
    assert_eq!(counted(fixture.store.volumes().unwrap()) + 1, at_once);
}

#[test]
fn rollback_under_a_mount_takes_away_what_was_unlinked() {
    let fixture = Fixture::new();
    let node = fixture.file("held", b"x");
    fixture.store.snapshot(&["v"], Some("s"), Receipt::none()).unwrap();
    fixture.unlink("held");
    assert_ne!(fixture.fs.unlinked.forgetting(), Forgetting::Nothing);
    fixture.store.rollback("v", "v@s", Receipt::none()).unwrap();
    assert_eq!(fixture.fs.unlinked.forgetting(), Forgetting::Nothing);
    fixture.fs.forget(node, 1);
    fixture.fs.settle();
    assert_eq!(fixture.fs.unlinked.forgetting(), Forgetting::Nothing);
}

#[test]
fn a_successor_waits_for_what_its_predecessor_unlinked() {
    let fixture = Fixture::new();
    let [held, gone] = ["held", "gone"].map(|name| fixture.file(name, b"x"));
    fixture.unlink("held");
    fixture.unlink("gone");
    let Fixture { fs, store, _dir } = fixture;
    let head = fs.root.read().head.clone().unwrap();
    // It dies: nothing is tidied up.
    let opening = head.opening.lock();
    drop(fs);
    drop(opening);
    let fs = store.reopen_head("v", head.branch).unwrap();
    fs.adopt(SessionId(5), Vec::new(), &[]).unwrap();
    assert_ne!(fs.unlinked.forgetting(), Forgetting::Nothing);
    fs.forget(gone, 1);
    fs.settle();
    assert_ne!(fs.unlinked.forgetting(), Forgetting::Nothing);
    fs.forget(held, 1);
    fs.settle();
    assert_eq!(fs.unlinked.forgetting(), Forgetting::Nothing);
}

#[test]
fn bytes_that_are_about_to_come_back_are_waited_for() {
    const LEN: u64 = 16 << 10;
    let fixture = Fixture::new();
    let from = fixture.file("from", &[7; LEN as usize]);
    let to = fixture.file("to", b"");
    let copy =
        || fixture.fs.copy_file_range(&ROOT, from, 0, to, 0, LEN).map(|copied| assert_eq!(copied, LEN));
    fixture.in_the_room_of(LEN as usize, copy);
    fixture.in_the_room_of(LEN as usize, || fixture.fs.fallocate(&ROOT, to, 0, LEN, LEN));
    fixture.in_the_room_of(LEN as usize, || fixture.fs.write(to, LEN, &[7; LEN as usize], KillSuid::No));
}

#[test]
fn inodes_that_are_about_to_come_back_are_waited_for() {
    let fixture = Fixture::over(&["a", "b", "c", "d"]);
    let [a, b, c] = ["a", "b", "c"].map(|name| fixture.lookup(name));
    let name = OsStr::new;
    let chmod = SetAttr { perm: Some(0o600), ..SetAttr::default() };
    fixture.in_the_room_of(0, || fixture.fs.setattr(&ROOT, a, &chmod).map(drop));
    fixture.in_the_room_of(0, || fixture.fs.setxattr(&ROOT, b, name("user.x"), b"x", SetXattr::Any));
    fixture.in_the_room_of(0, || fixture.fs.link(c, NodeId::ROOT, name("link")).map(drop));
    let rename =
        || fixture.fs.rename(&ROOT, NodeId::ROOT, name("d"), NodeId::ROOT, name("e"), RenameMode::Replace);
    fixture.in_the_room_of(0, rename);
    fixture.in_the_room_of(0, || fixture.fs.mkdir(&ROOT, NodeId::ROOT, name("dir"), 0o755, 0).map(drop));
}

/// A kernel that holds these nodes, and tells nobody what it forgets.
struct Kernel(Vec<NodeId>);

impl Invalidate for Kernel {
    fn entry(&self, _parent: NodeId, _name: &OsStr) {}

    fn inode(&self, _node: NodeId) {}

    fn all_entries(&self) {}

    fn holds(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }
}

#[test]
fn what_the_kernel_has_forgotten_gives_room_before_it_says_so() {
    const LEN: usize = 1 << 20;
    let fixture = Fixture::new();
    let [held, gone] = ["held", "gone"].map(|name| fixture.file(name, &[1; LEN]));
    let to = fixture.file("to", b"");
    fixture.fs.set_invalidator(Arc::new(Kernel(vec![NodeId::ROOT, held, to])));
    fixture.store.set_quota("v", Some(2 * LEN as u64), None, Receipt::none()).unwrap();
    fixture.unlink("held");
    fixture.unlink("gone");
    fixture.fs.write(to, 0, &[2; LEN], KillSuid::No).unwrap();
    // It was asked: nothing waits for what a program has open.
    let refused = fixture.fs.write(to, LEN as u64, &[2; LEN], KillSuid::No);
    assert!(matches!(refused, Err(FsError::QuotaExceeded { .. })), "{refused:?}");
    assert_eq!(fixture.store.volume("v").unwrap().used_bytes, 2 * LEN as u64);
    // That it was forgotten is told in the end.
    fixture.fs.forget(gone, 1);
    fixture.fs.forget(held, 1);
    fixture.fs.write(to, LEN as u64, &[2; LEN], KillSuid::No).unwrap();
}

#[test]
fn room_that_somebody_is_giving_back_is_waited_for() {
    const LEN: usize = 1 << 20;
    let fixture = Fixture::new();
    let (gone, to) = (fixture.file("gone", &[1; LEN]), fixture.file("to", b""));
    fixture.store.set_quota("v", Some(LEN as u64), None, Receipt::none()).unwrap();
    fixture.unlink("gone");
    fixture.fs.forget(gone, 1);
    let (fs, writer) = (fixture.fs.clone(), fixture.fs.clone());
    let (begun, told) = std::sync::mpsc::channel();
    let reaper = std::thread::spawn(move || {
        crate::failpoint::meanwhile::at("reap.begun", move || {
            begun.send(()).unwrap();
            // Longer than what was just unlinked is waited for, and far shorter than whoever gives room back.
            std::thread::sleep(Duration::from_millis(70));
        });
        fs.reap_dead(0);
    });
    told.recv().unwrap();
    writer.write(to, 0, &[2; LEN], KillSuid::No).unwrap();
    reaper.join().unwrap();
}

//! What was unlinked just before, and who waits for it.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::unlinked::Forgetting;
use super::super::{Caller, KillSuid, VolumeFs};
use super::{ROOM_WAIT, SETTLE_TRIES};
use crate::ids::{NodeId, SessionId};
use crate::store::{Receipt, Store, StoreOptions, VolumeSpec};

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };

/// A store with a volume `v`, which is open.
struct Fixture {
    fs: Arc<VolumeFs>,
    store: Arc<Store>,
    _dir: TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(&dir.path().join("store"), &options).unwrap();
        store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
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
    let counted = |volumes: Vec<crate::store::VolumeInfo>| volumes.first().unwrap().used_inodes;
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

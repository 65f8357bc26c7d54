//! Inodes that were open and had no name when a snapshot was taken.

use super::*;
use crate::store::VolumeInfo;

/// A volume with a snapshot `s`, taken while `a` and an empty directory were open and had no name. Returns them.
fn with_orphans(fixture: &Fixture) -> (Arc<VolumeFs>, [NodeId; 2]) {
    let fs = fixture.store.open_head("v").unwrap();
    let a = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
    let gone = directory(&fs, NodeId::ROOT, "gone");
    fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap();
    fs.rmdir(&ROOT, NodeId::ROOT, OsStr::new("gone")).unwrap();
    fixture.store.snapshot(&["v"], Some("s"), Receipt::none()).unwrap();
    (fs, [a, gone])
}

fn close(fs: &VolumeFs, orphans: [NodeId; 2]) {
    for orphan in orphans {
        fs.forget(orphan, 1);
    }
}

fn used(fixture: &Fixture, volume: &str) -> (u64, u64) {
    let VolumeInfo { used_bytes, used_inodes, .. } = fixture.store.volume(volume).unwrap();
    (used_bytes, used_inodes)
}

fn departed(fixture: &Fixture) -> usize {
    let mut count = 0;
    fixture
        .store
        .db
        .scan(META, &[meta::DEPARTED], &[], |_, _| {
            count += 1;
            Ok(true)
        })
        .unwrap();
    count
}

/// What is left: five bytes, in `b` and `d`.
const LEFT: (u64, u64) = (5, 2);

#[test]
fn fork_does_not_keep_what_was_open_and_had_no_name() {
    let fixture = Fixture::filled();
    let (fs, orphans) = with_orphans(&fixture);
    // While they are still open, after they were closed, and after a restart.
    fixture.store.fork("v@s", "early", Receipt::none()).unwrap();
    fs.write(orphans[0], 0, b"still there", KillSuid::No).unwrap();
    drop(fixture.store.open_head("early").unwrap());
    assert_eq!(used(&fixture, "early"), LEFT);
    fixture.assert_clean();
    close(&fs, orphans);
    drop(fs);
    assert_eq!(used(&fixture, "v"), LEFT);
    assert_eq!(departed(&fixture), 2);
    fixture.store.fork("v@s", "late", Receipt::none()).unwrap();
    let fixture = fixture.reopened();
    drop(fixture.store.open_head("late").unwrap());
    assert_eq!(used(&fixture, "late"), LEFT);
    fixture.assert_clean();
    fixture.store.reclaim().unwrap();
    fixture.assert_clean();
}

#[test]
fn fork_of_a_fork_that_nobody_opened_does_not_keep_it_either() {
    let fixture = Fixture::filled();
    let (fs, orphans) = with_orphans(&fixture);
    fixture.store.fork("v@s", "w", Receipt::none()).unwrap();
    fixture.store.snapshot(&["w"], Some("t"), Receipt::none()).unwrap();
    fixture.store.fork("w@t", "x", Receipt::none()).unwrap();
    close(&fs, orphans);
    drop(fs);
    for volume in ["x", "w"] {
        drop(fixture.store.open_head(volume).unwrap());
        assert_eq!(used(&fixture, volume), LEFT);
    }
    // Removed in `w` by now, but not in its snapshot.
    fixture.store.fork("w@t", "y", Receipt::none()).unwrap();
    drop(fixture.store.open_head("y").unwrap());
    assert_eq!(used(&fixture, "y"), LEFT);
    fixture.store.reclaim().unwrap();
    fixture.assert_clean();
}

#[test]
fn rollback_does_not_bring_it_back() {
    for mounted in [true, false] {
        let fixture = Fixture::filled();
        let (fs, orphans) = with_orphans(&fixture);
        close(&fs, orphans);
        let kept = mounted.then_some(fs);
        fixture.store.rollback("v", "v@s", Receipt::none()).unwrap();
        if !mounted {
            drop(fixture.store.open_head("v").unwrap());
        }
        assert_eq!(used(&fixture, "v"), LEFT);
        fixture.assert_clean();
        drop(kept);
        fixture.store.reclaim().unwrap();
        fixture.assert_clean();
    }
}

#[test]
fn what_is_remembered_for_forks_goes_with_the_snapshot() {
    let fixture = Fixture::filled();
    let (fs, orphans) = with_orphans(&fixture);
    // One that had its name at the cut: nothing is to be remembered of it.
    fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("b")).unwrap();
    close(&fs, orphans);
    crate::store::LiveHead::settle(&*fs);
    assert_eq!(departed(&fixture), 2);
    fixture.store.reclaim().unwrap();
    assert_eq!(departed(&fixture), 2);
    fixture.store.fork("v@s", "w", Receipt::none()).unwrap();
    fixture.store.remove_snapshots(&["v@s"], Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    // The fork still needs it.
    assert_eq!(departed(&fixture), 2);
    drop(fixture.store.open_head("w").unwrap());
    assert_eq!(used(&fixture, "w"), LEFT);
    fixture.store.remove_volume("w", Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    assert_eq!(departed(&fixture), 0);
    fixture.assert_clean();
}

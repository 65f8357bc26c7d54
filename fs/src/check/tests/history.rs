use super::*;
use crate::attr::Timestamp;
use crate::ids::{CaptureId, VolumeId};
use crate::store::record::{Actor, Branch, Capture, CapturedV1, LowerSlot, Snapshot, Volume};

fn put_branch(fixture: &Fixture, id: u32, parent: Option<(u32, u64)>) {
    let parent = parent.map(|(branch, epoch)| (BranchId(branch), Epoch(epoch)));
    let branch = Branch { tree: TreeId(7), volume: VolumeId(70), parent, epoch: Epoch(5) };
    fixture.put(META, &meta::branch(BranchId(id)), &branch.encode());
}

fn snapshot_of(fixture: &Fixture) -> Snapshot {
    fixture.store.snapshot(&["v"], None, Receipt::none()).unwrap();
    fixture.store.registry.read().snapshots.get(&(BRANCH, FIRST)).unwrap().clone()
}

#[test]
fn branch_without_parent() {
    let fixture = Fixture::filled();
    put_branch(&fixture, 50, Some((40, 1)));
    // What left a branch that makes no sense is not told too.
    put_branch(&fixture, 51, Some((50, 1)));
    assert_eq!(fixture.kinds(), ["branch-without-parent"]);
}

#[test]
fn branch_before_parent() {
    let fixture = Fixture::filled();
    put_branch(&fixture, 60, None);
    put_branch(&fixture, 50, Some((60, 1)));
    assert_eq!(fixture.kinds(), ["branch-before-parent"]);
}

#[test]
fn branch_off_parent() {
    let fixture = Fixture::filled();
    put_branch(&fixture, 50, None);
    put_branch(&fixture, 60, Some((50, 5)));
    assert_eq!(fixture.kinds(), ["branch-off-parent"]);
    // The epoch is all right, but the tree is another.
    put_branch(&fixture, 60, Some((BRANCH.0, 0)));
    assert_eq!(fixture.kinds(), ["branch-off-parent"]);
}

fn volume(fixture: &Fixture) -> Volume {
    fixture.store.registry.read().volume("v").unwrap().1.clone()
}

#[test]
fn volume_without_head() {
    let fixture = Fixture::filled();
    let record = Volume { name: "x".into(), branch: BranchId(77), ..volume(&fixture) };
    fixture.put(META, &meta::volume(VolumeId(9)), &record.encode());
    assert_eq!(fixture.kinds(), ["volume-without-head"]);
    // The head of somebody else.
    let record = Volume { name: "x".into(), ..volume(&fixture) };
    fixture.put(META, &meta::volume(VolumeId(9)), &record.encode());
    let issues = fixture.check(Repair::No).issues;
    assert_eq!(issues.iter().map(|issue| issue.kind()).collect::<Vec<_>>(), ["volume-without-head"]);
    assert_eq!(issues[0].volume(), Some("x".into()));
}

#[test]
fn volume_named_twice() {
    let fixture = Fixture::filled();
    let other = fixture.store.create_volume("w", &VolumeSpec::default(), Receipt::none()).unwrap();
    let record = Volume { name: "v".into(), ..fixture.store.registry.read().volume("w").unwrap().1.clone() };
    fixture.put(META, &meta::volume(other.id), &record.encode());
    assert_eq!(fixture.kinds(), ["volume-named-twice"]);
}

#[test]
fn snapshot_without_branch() {
    let fixture = Fixture::filled();
    let record = snapshot_of(&fixture);
    fixture.put(META, &meta::snapshot(BranchId(77), FIRST), &record.encode());
    assert_eq!(fixture.kinds(), ["snapshot-without-branch"]);
}

#[test]
fn snapshot_of_future() {
    let fixture = Fixture::filled();
    let record = snapshot_of(&fixture);
    fixture.put(META, &meta::snapshot(BRANCH, Epoch(2)), &record.encode());
    assert_eq!(fixture.kinds(), ["snapshot-of-future"]);
}

#[test]
fn snapshot_of_other_volume() {
    let fixture = Fixture::filled();
    let record = Snapshot { volume: VolumeId(77), ..snapshot_of(&fixture) };
    fixture.put(META, &meta::snapshot(BRANCH, FIRST), &record.encode());
    assert_eq!(fixture.kinds(), ["snapshot-of-other-volume"]);
}

#[test]
fn actor_without_volume() {
    let fixture = Fixture::filled();
    let volume = fixture.store.volume("v").unwrap().id;
    let put = |volumes: Vec<VolumeId>| {
        let actor = Actor { created: Timestamp::default(), volumes, document: Vec::new() };
        fixture.put(META, &meta::actor("a"), &actor.encode());
    };
    put(vec![volume]);
    fixture.assert_clean();
    put(vec![volume, VolumeId(77)]);
    assert_eq!(fixture.kinds(), ["actor-without-volume"]);
}

#[test]
fn capture_without_snapshot() {
    let fixture = Fixture::filled();
    snapshot_of(&fixture);
    let put = |volume: VolumeId, epoch| {
        let snapshots = vec![CapturedV1 { volume, epoch, owned: true }];
        let capture = Capture { created: Timestamp::default(), snapshots, document: Vec::new() };
        fixture.put(META, &meta::capture(CaptureId([1; 16])), &capture.encode());
    };
    let volume = fixture.store.volume("v").unwrap().id;
    put(volume, FIRST);
    fixture.assert_clean();
    put(volume, Epoch(77));
    assert_eq!(fixture.kinds(), ["capture-without-snapshot"]);
}

#[test]
fn counter_behind() {
    let fixture = Fixture::filled();
    snapshot_of(&fixture);
    for which in 0..6 {
        let before = fixture.store.db.get_meta(&meta::counter(which)).unwrap().unwrap();
        fixture.put(META, &meta::counter(which), &1u64.to_le_bytes());
        assert_eq!(fixture.kinds(), ["counter-behind"], "counter {which}");
        fixture.put(META, &meta::counter(which), &before);
    }
    fixture.assert_clean();
}

#[test]
fn lower_slot_missing() {
    let fixture = Fixture::filled();
    let slot = LowerSlot { lower: 0, device: 0, high_bits: 0 };
    fixture.put(META, &meta::lower_slot(TREE, 1), &slot.encode());
    assert_eq!(fixture.kinds(), ["lower-slot-missing"]);
    fixture.put(META, &meta::lower_slot(TREE, 0), &slot.encode());
    fixture.assert_clean();
}

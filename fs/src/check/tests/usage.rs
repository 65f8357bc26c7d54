use super::*;
use crate::store::record::{Snapshot, WriterState};

#[test]
fn wrong_usage() {
    let fixture = Fixture::filled();
    let right = fixture.store.volume("v").unwrap();
    fixture.count(100, -3);
    let fixture = fixture.reopened();
    assert_eq!(
        fixture.check(Repair::No).issues[0].to_string(),
        "v: counted as 12393 bytes in 0 inodes, but it is 12293 bytes in 3 inodes"
    );
    let fs = fixture.store.open_head("v").unwrap();
    fixture.assert_mended("wrong-usage");
    drop(fs);
    let mended = fixture.store.volume("v").unwrap();
    assert_eq!((mended.used_bytes, mended.used_inodes), (right.used_bytes, right.used_inodes));
    let fixture = fixture.reopened();
    let mended = fixture.store.volume("v").unwrap();
    assert_eq!((mended.used_bytes, mended.used_inodes), (right.used_bytes, right.used_inodes));
}

#[test]
fn wrong_snapshot_usage() {
    let fixture = Fixture::filled();
    fixture.store.snapshot(&["v"], None, Receipt::none()).unwrap();
    let record = fixture.store.registry.read().snapshots.get(&(BRANCH, FIRST)).unwrap().clone();
    let wrong = Snapshot { usage: Usage { bytes: 1, inodes: 1 }, ..record };
    fixture.put(META, &meta::snapshot(BRANCH, FIRST), &wrong.encode());
    fixture.assert_mended("wrong-snapshot-usage");
    let fixture = fixture.reopened();
    fixture.assert_clean();
}

#[test]
fn usage_without_branch() {
    let fixture = Fixture::filled();
    fixture.put(META, &meta::usage(BranchId(99), 0), &WriterState::default().encode());
    assert_eq!(fixture.kinds(), ["usage-without-branch"]);
}

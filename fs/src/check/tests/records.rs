use super::*;
use crate::store::Family;
use crate::store::record::Xattr;

#[test]
fn unreadable_key() {
    let fixture = Fixture::filled();
    fixture.put("inode", &[1, 2, 3], &[1, 0]);
    assert_eq!(fixture.kinds(), ["unreadable-key"]);
    fixture.delete("inode", &[1, 2, 3]);
    fixture.put(META, &[0x77, 1], &[]);
    assert_eq!(fixture.kinds(), ["unreadable-key"]);
    fixture.delete(META, &[0x77, 1]);
    fixture.put(TOUCHED, &[0, 0, 0, 1, 5], &[]);
    assert_eq!(fixture.kinds(), ["unreadable-key"]);
}

#[test]
fn unreadable_record() {
    let fixture = Fixture::filled();
    let xattr = Prefix::xattr(TREE, fixture.ino("b"), b"user.x");
    fixture.put("xattr", &xattr.version(BRANCH, FIRST), &[9]);
    assert_eq!(fixture.kinds(), ["unreadable-record"]);
    let issue = fixture.check(Repair::Yes).issues.remove(0);
    assert!(!issue.repaired());
    assert!(issue.to_string().starts_with("xattr: record at key 00000001"), "{issue}");
}

#[test]
fn what_is_kept_of_requests_is_known_and_must_parse() {
    let fixture = Fixture::filled();
    let request = RequestKey::new(RequestId([7; 16]), "volume create", b"v");
    fixture.store.keep_reply(request, OutcomeV1::Done(b"answer".to_vec())).unwrap();
    fixture.assert_clean();
    fixture.put(META, &meta::reply(RequestId([8; 16])), &[1, 9]);
    assert_eq!(fixture.kinds(), ["unreadable-record"]);
    fixture.delete(META, &meta::reply(RequestId([8; 16])));
    fixture.put(META, &[0x30, 1], &[1, 9]);
    assert_eq!(fixture.kinds(), ["unreadable-key"]);
}

#[test]
fn an_inode_that_does_not_parse_is_one_issue() {
    let fixture = Fixture::filled();
    let inode = Prefix::inode(TREE, fixture.ino("b"));
    fixture.put("inode", &inode.version(BRANCH, FIRST), &[9]);
    assert_eq!(fixture.kinds(), ["unreadable-record"]);
}

#[test]
fn a_group_that_does_not_parse_makes_no_page_a_leak() {
    let fixture = Fixture::filled();
    let group = Prefix::extent(TREE, fixture.ino("a"), 0);
    fixture.put("extent", &group.version(BRANCH, FIRST), &[9]);
    let fixture = fixture.reopened();
    assert_eq!(fixture.kinds(), ["unreadable-record"]);
}

#[test]
fn misplaced_name() {
    let fixture = Fixture::filled();
    let hash = fixture.store.hasher.hash(b"w");
    fixture.write(&Prefix::dentry(TREE, Ino::ROOT, hash + 1, b"w"), &Dentry::Whiteout);
    assert_eq!(fixture.kinds(), ["misplaced-name"]);
}

#[test]
fn version_without_branch() {
    let fixture = Fixture::filled();
    let key = Prefix::xattr(TREE, fixture.ino("b"), b"user.y").version(BranchId(99), FIRST);
    fixture.put("xattr", &key, &Xattr::Removed.encode());
    assert_eq!(fixture.kinds(), ["version-without-branch"]);
}

#[test]
fn version_of_other_tree() {
    let fixture = Fixture::filled();
    fixture.store.create_volume("w", &VolumeSpec::default(), Receipt::none()).unwrap();
    let other = fixture.store.registry.read().volume("w").unwrap().1.branch;
    let key = Prefix::xattr(TREE, fixture.ino("b"), b"user.y").version(other, FIRST);
    fixture.put("xattr", &key, &Xattr::Removed.encode());
    assert_eq!(fixture.kinds(), ["version-of-other-tree"]);
}

#[test]
fn version_of_future() {
    let fixture = Fixture::filled();
    let key = Prefix::xattr(TREE, fixture.ino("b"), b"user.y").version(BRANCH, Epoch(50));
    fixture.put("xattr", &key, &Xattr::Removed.encode());
    assert_eq!(fixture.kinds(), ["version-of-future"]);
}

#[test]
fn untouched_version() {
    let fixture = Fixture::filled();
    for prefix in [Prefix::inode(TREE, fixture.ino("a")), Prefix::extent(TREE, fixture.ino("a"), 0)] {
        fixture.delete(TOUCHED, &prefix.touched(BRANCH, FIRST));
        fixture.assert_mended("untouched-version");
    }
}

#[test]
fn touched_without_branch() {
    let fixture = Fixture::filled();
    fixture.put(TOUCHED, &Prefix::inode(TREE, GHOST).touched(BranchId(99), FIRST), &[]);
    fixture.put(TOUCHED, &Prefix::inode(TREE, Ino(5)).touched(BranchId(99), FIRST), &[]);
    assert_eq!(fixture.kinds(), ["touched-without-branch"]);
}

#[test]
fn of_one_kind_only_so_many_issues_are_kept() {
    let fixture = Fixture::filled();
    let mut batch = WriteBatch::default();
    for ino in 0..3000 {
        let key = Prefix::inode(TREE, Ino(600_000 + ino)).version(BranchId(99), FIRST);
        batch.put_cf(fixture.store.db.family(Family::Inode.name()), key, Inode::REMOVED);
    }
    fixture.store.db.write(batch).unwrap();
    let report = fixture.check(Repair::No);
    assert_eq!(report.omitted, 2000);
    let kind = report.issues[0].kind();
    assert_eq!(report.issues.iter().filter(|issue| issue.kind() == kind).count(), 1000);
}

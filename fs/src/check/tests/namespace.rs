use super::*;
use crate::attr::FileKind;
use crate::store::record::{Group, Xattr};

fn entry(ino: Ino, kind: FileKind) -> Dentry {
    Dentry::Entry { ino, kind }
}

#[test]
fn missing_root() {
    let fixture = Fixture::empty();
    fixture.delete("inode", &Prefix::inode(TREE, Ino::ROOT).version(BRANCH, Epoch(0)));
    assert_eq!(fixture.kinds(), ["missing-root"]);
}

#[test]
fn entry_without_inode() {
    let fixture = Fixture::filled();
    let d = fixture.ino("d");
    fixture.write(&fixture.dentry(d, "ghost"), &entry(GHOST, FileKind::Regular));
    assert_eq!(fixture.kinds(), ["entry-without-inode"]);
    let issue = fixture.check(Repair::No).issues.remove(0);
    assert_eq!((issue.inode(), issue.path()), (Some(GHOST.0), Some(b"d/ghost".to_vec())));
    assert_eq!(issue.to_string(), "v: inode 500000 (/d/ghost): it has a name but does not exist");
}

#[test]
fn entry_without_directory() {
    let fixture = Fixture::filled();
    let b = fixture.ino("b");
    fixture.edit(b, |inode| inode.nlink += 1);
    for place in [GHOST, fixture.ino("a")] {
        fixture.write(&fixture.dentry(place, "x"), &entry(b, FileKind::Regular));
        assert_eq!(fixture.kinds(), ["entry-without-directory"]);
        fixture.delete("dentry", &fixture.dentry(place, "x").version(BRANCH, FIRST));
    }
}

#[test]
fn entry_of_other_kind() {
    let fixture = Fixture::filled();
    fixture.write(&fixture.dentry(Ino::ROOT, "a"), &entry(fixture.ino("a"), FileKind::Fifo));
    assert_eq!(fixture.kinds(), ["entry-of-other-kind"]);
}

#[test]
fn wrong_link_count() {
    let fixture = Fixture::filled();
    fixture.edit(fixture.ino("b"), |inode| inode.nlink = 5);
    assert_eq!(fixture.kinds(), ["wrong-link-count"]);
    fixture.edit(fixture.ino("b"), |inode| inode.nlink = 1);
    assert_eq!(fixture.kinds(), ["wrong-link-count"]);
}

#[test]
fn wrong_subdirectory_count() {
    let fixture = Fixture::filled();
    fixture.edit(Ino::ROOT, |inode| inode.nlink = 7);
    assert_eq!(fixture.kinds(), ["wrong-subdirectory-count"]);
    // Nobody counts those of a directory that has too many.
    fixture.edit(Ino::ROOT, |inode| inode.nlink = 1);
    fixture.assert_clean();
}

#[test]
fn inode_without_name() {
    let fixture = Fixture::filled();
    fixture.delete("dentry", &fixture.dentry(Ino::ROOT, "a").version(BRANCH, FIRST));
    assert_eq!(fixture.kinds(), ["inode-without-name"]);
}

#[test]
fn directory_named_twice() {
    let fixture = Fixture::filled();
    fixture.write(&fixture.dentry(Ino::ROOT, "again"), &entry(fixture.ino("d"), FileKind::Directory));
    fixture.edit(Ino::ROOT, |inode| inode.nlink += 1);
    assert_eq!(fixture.kinds(), ["directory-named-twice"]);
}

#[test]
fn wrong_parent() {
    let fixture = Fixture::filled();
    fixture.edit(fixture.ino("d"), |inode| inode.name = b"e"[..].into());
    assert_eq!(fixture.kinds(), ["wrong-parent"]);
    fixture.edit(fixture.ino("d"), |inode| {
        inode.name = b"d"[..].into();
        inode.parent = GHOST;
    });
    assert_eq!(fixture.kinds(), ["wrong-parent"]);
}

#[test]
fn unreachable_directory() {
    let fixture = Fixture::filled();
    let fs = fixture.store.open_head("v").unwrap();
    let x = directory(&fs, NodeId::ROOT, "x");
    let y = Ino(directory(&fs, x, "y").0);
    let x = Ino(x.0);
    drop(fs);
    fixture.assert_clean();
    // x/y/x, and nothing leads there.
    fixture.delete("dentry", &fixture.dentry(Ino::ROOT, "x").version(BRANCH, FIRST));
    fixture.edit(Ino::ROOT, |inode| inode.nlink -= 1);
    fixture.write(&fixture.dentry(y, "x"), &entry(x, FileKind::Directory));
    fixture.edit(y, |inode| inode.nlink += 1);
    fixture.edit(x, |inode| inode.parent = y);
    assert_eq!(fixture.kinds(), ["unreachable-directory"]);
}

/// Leaves an inode behind that was unlinked while somebody had it open.
/// Makes an inode that is open and has no name, and that `meanwhile` takes its mark away from, so that it stays.
fn orphan(fixture: &Fixture, meanwhile: impl FnOnce(Ino)) -> Ino {
    let fs = fixture.store.open_head("v").unwrap();
    let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
    fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap();
    fixture.assert_clean();
    meanwhile(Ino(node.0));
    drop(fs);
    Ino(node.0)
}

#[test]
fn orphan_without_mark() {
    let fixture = Fixture::filled();
    let ino = orphan(&fixture, |ino| fixture.delete(META, &meta::orphan(BRANCH, ino)));
    fixture.assert_mended("orphan-without-mark");
    // With the mark it goes when the volume is opened.
    drop(fixture.store.open_head("v").unwrap());
    let view = fixture.store.registry.read().view(BRANCH, Epoch(u64::MAX)).unwrap();
    assert_eq!(view.inode(&fixture.store.db, ino).unwrap(), None);
    fixture.assert_clean();
}

#[test]
fn stale_orphan_mark() {
    let fixture = Fixture::filled();
    fixture.put(META, &meta::orphan(BRANCH, GHOST), &[]);
    fixture.assert_mended("stale-orphan-mark");
}

#[test]
fn linked_orphan() {
    let fixture = Fixture::filled();
    for mounted in [false, true] {
        let fs = mounted.then(|| fixture.store.open_head("v").unwrap());
        fixture.put(META, &meta::orphan(BRANCH, fixture.ino("a")), &[]);
        fixture.assert_mended("linked-orphan");
        drop(fs);
    }
}

#[test]
fn orphan_mark_without_branch() {
    let fixture = Fixture::filled();
    fixture.put(META, &meta::orphan(BranchId(99), GHOST), &[]);
    assert_eq!(fixture.kinds(), ["orphan-mark-without-branch"]);
}

#[test]
fn xattr_without_inode() {
    let fixture = Fixture::filled();
    fixture.write(&Prefix::xattr(TREE, GHOST, b"user.x"), &Xattr::Value(b"1".to_vec()));
    assert_eq!(fixture.kinds(), ["xattr-without-inode"]);
    fixture.write(&Prefix::xattr(TREE, GHOST, b"user.x"), &Xattr::Removed);
    fixture.assert_clean();
}

#[test]
fn hidden_xattr() {
    let fixture = Fixture::filled();
    fixture.edit(fixture.ino("b"), |inode| inode.has_xattrs = false);
    assert_eq!(fixture.kinds(), ["hidden-xattr"]);
}

#[test]
fn what_many_snapshots_see_is_told_once() {
    let fixture = Fixture::filled();
    let fs = fixture.store.open_head("v").unwrap();
    fixture.edit(fixture.ino("b"), |inode| inode.nlink = 9);
    for round in 0..5 {
        fixture.store.snapshot(&["v"], None, Receipt::none()).unwrap();
        file(&fs, NodeId::ROOT, &format!("f{round}"), b"x");
    }
    fixture.store.fork("v@2", "w", Receipt::none()).unwrap();
    let issues = fixture.check(Repair::No).issues;
    assert_eq!(issues.len(), 1, "{issues:?}");
    assert_eq!(issues[0].to_string(), "v@1: inode 17 (/b): its link count is 9, but it has 2 names");
    assert_eq!(issues[0].volume(), Some("v".into()));
}

#[test]
fn what_only_a_later_tree_shows_is_found_there() {
    let fixture = Fixture::filled();
    fixture.store.snapshot(&["v"], None, Receipt::none()).unwrap();
    let (second, a) = (Epoch(2), Prefix::inode(TREE, fixture.ino("a")));
    let view = fixture.store.registry.read().view(BRANCH, Epoch(u64::MAX)).unwrap();
    let mut inode = view.inode(&fixture.store.db, fixture.ino("a")).unwrap().unwrap().record;
    // Shorter than its groups, which nobody touched.
    inode.as_mut().unwrap().size = 10;
    fixture.put("inode", &a.version(BRANCH, second), &inode.encode());
    fixture.put(TOUCHED, &a.touched(BRANCH, second), &[]);
    assert_eq!(fixture.kinds(), [] as [&str; 0]);
    inode.as_mut().unwrap().size = 0;
    fixture.put("inode", &a.version(BRANCH, second), &inode.encode());
    let issues = fixture.check(Repair::No).issues;
    assert_eq!(
        issues.iter().map(|issue| (issue.kind(), issue.to_string())).collect::<Vec<_>>(),
        [(
            "data-beyond-end",
            "v: inode 16 (/a): group 0 holds data beyond the end of the file at 0".to_owned()
        )]
    );
    assert_ne!(fixture.group(fixture.ino("a")), Group::base());
}

//! Whatever programs and operators do, nothing of it is an issue.

use super::*;
use crate::attr::SetAttr;
use crate::ops::RenameMode;

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

/// Looks a path up, and keeps the references that this takes.
fn node(fs: &VolumeFs, path: &str) -> NodeId {
    path.split('/').fold(NodeId::ROOT, |dir, part| fs.lookup(&ROOT, dir, name(part)).unwrap().node)
}

/// Accepts that an earlier round removed it.
fn unless_gone(result: Result<(), crate::FsError>) {
    assert!(matches!(result, Ok(()) | Err(crate::FsError::NotFound | crate::FsError::NoXattr)), "{result:?}");
}

fn rename(fs: &VolumeFs, from: (NodeId, &str), to: (NodeId, &str), mode: RenameMode) {
    fs.rename(&ROOT, from.0, name(from.1), to.0, name(to.1), mode).unwrap();
}

fn resize(fs: &VolumeFs, node: NodeId, size: u64) {
    fs.setattr(&ROOT, node, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
}

/// A bit of everything in a directory of its own.
fn work(fs: &VolumeFs, top: &str) {
    let dir = directory(fs, NodeId::ROOT, top);
    let sub = directory(fs, dir, "sub");
    directory(fs, sub, "deep");
    let small = file(fs, dir, "small", b"inline");
    let large = file(fs, dir, "large", &[3; 300_000]);
    fs.link(small, sub, name("again")).unwrap();
    fs.forget(small, 1);
    let entry = fs.symlink(&ROOT, dir, name("link"), b"small").unwrap();
    fs.forget(entry.node, 1);
    let entry = fs.mknod(&ROOT, dir, name("fifo"), 0o010_644, 0, 0).unwrap();
    fs.forget(entry.node, 1);
    fs.setxattr(&ROOT, large, name("user.a"), &[1; 1000], SetXattr::Any).unwrap();
    fs.setxattr(&ROOT, large, name("user.b"), b"", SetXattr::Any).unwrap();
    fs.removexattr(&ROOT, large, name("user.a")).unwrap();
    // Holes: by writing far out, by punching, by cutting and growing again.
    fs.write(large, 10_000_000, &[4; 5000], KillSuid::No).unwrap();
    fs.fallocate(&ROOT, large, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 10_000, 50_000)
        .unwrap();
    resize(fs, large, 200_123);
    resize(fs, large, 400_000);
    fs.write(large, 5, &[5; 10], KillSuid::No).unwrap();
    fs.write(small, 4000, &[6; 200], KillSuid::No).unwrap();
    let sparse = file(fs, dir, "sparse", b"");
    for page in 0..40 {
        fs.write(sparse, page * 70_000, &[9; 4096], KillSuid::No).unwrap();
    }
    file(fs, dir, "gone", &[1; 9000]);
    fs.unlink(&ROOT, dir, name("gone")).unwrap();
    file(fs, dir, "one", b"1");
    file(fs, dir, "two", &[2; 8192]);
    rename(fs, (dir, "one"), (sub, "two"), RenameMode::NoReplace);
    rename(fs, (dir, "two"), (sub, "two"), RenameMode::Replace);
    let other = directory(fs, dir, "other");
    rename(fs, (dir, "sub"), (other, "moved"), RenameMode::Replace);
    rename(fs, (other, "moved"), (dir, "fifo"), RenameMode::Exchange);
}

/// Changes what [`work`] made, and removes some of it.
fn rework(fs: &VolumeFs, top: &str) {
    let dir = node(fs, top);
    let large = node(fs, &format!("{top}/large"));
    fs.write(large, 0, &[11; 4096 * 3], KillSuid::No).unwrap();
    fs.write(large, 4096 * 5 + 7, &[12; 100], KillSuid::No).unwrap();
    resize(fs, node(fs, &format!("{top}/small")), 3);
    fs.unlink(&ROOT, dir, name("sparse")).unwrap();
    unless_gone(fs.rmdir(&ROOT, node(fs, &format!("{top}/fifo")), name("deep")));
    unless_gone(fs.removexattr(&ROOT, large, name("user.b")));
    file(fs, dir, "sparse", b"new");
}

fn remove_all(fs: &VolumeFs, dir: NodeId) {
    let mut names = Vec::new();
    fs.readdir(dir, 0, &mut |entry| {
        if entry.name != "." && entry.name != ".." {
            names.push((entry.name.to_owned(), entry.kind));
        }
        crate::ops::Sink::Continue
    })
    .unwrap();
    for (name, kind) in names {
        if kind == crate::attr::FileKind::Directory {
            let node = fs.lookup(&ROOT, dir, &name).unwrap().node;
            remove_all(fs, node);
            fs.rmdir(&ROOT, dir, &name).unwrap();
            fs.forget(node, 1);
        } else {
            fs.unlink(&ROOT, dir, &name).unwrap();
        }
    }
}

/// Takes a store through a history, and checks it at each step, as it is and after a restart.
fn history(mut fixture: Fixture) {
    let step = |fixture: Fixture| {
        fixture.assert_clean();
        let fixture = fixture.reopened();
        fixture.assert_clean();
        fixture
    };
    let fs = fixture.store.open_head("v").unwrap();
    work(&fs, "first");
    fixture.assert_clean();
    rework(&fs, "first");
    drop(fs);
    fixture = step(fixture);

    let fs = fixture.store.open_head("v").unwrap();
    for snapshot in ["one", "two", "three", "four"] {
        fixture.store.snapshot(&["v"], Some(snapshot), Receipt::none()).unwrap();
        work(&fs, snapshot);
        fixture.assert_clean();
        rework(&fs, snapshot);
    }
    rework(&fs, "one");
    fixture.assert_clean();
    fixture.store.reclaim().unwrap();
    drop(fs);
    fixture = step(fixture);

    // Forks of forks, which change what they share.
    for (from, to) in [("v@two", "w"), ("v@four", "x")] {
        fixture.store.fork(from, to, Receipt::none()).unwrap();
        let fs = fixture.store.open_head(to).unwrap();
        work(&fs, "own");
        rework(&fs, "first");
        fixture.store.snapshot(&[to], Some("own"), Receipt::none()).unwrap();
        work(&fs, "more");
    }
    fixture.store.fork("w@own", "y", Receipt::none()).unwrap();
    let fs = fixture.store.open_head("y").unwrap();
    rework(&fs, "own");
    remove_all(&fs, NodeId::ROOT);
    fixture.assert_clean();
    drop(fs);
    fixture = step(fixture);

    // Rolled back while it is in use, and again.
    let fs = fixture.store.open_head("v").unwrap();
    fixture.store.rollback("v", "v@two", Receipt::none()).unwrap();
    fixture.assert_clean();
    work(&fs, "after");
    fixture.store.snapshot(&["v", "w"], Some("cut"), Receipt::none()).unwrap();
    rework(&fs, "after");
    fixture.store.rollback("v", "v@three", Receipt::none()).unwrap();
    work(&fs, "again");
    fixture.assert_clean();
    drop(fs);
    fixture.store.reclaim().unwrap();
    fixture = step(fixture);

    // And away with most of it.
    for snapshot in ["v@one", "v@three", "v@cut", "w@cut"] {
        fixture.store.remove_snapshots(&[snapshot], Receipt::none()).unwrap();
        fixture.assert_clean();
    }
    fixture.store.reclaim().unwrap();
    fixture = step(fixture);
    fixture.store.remove_volume("w", Receipt::none()).unwrap();
    fixture.assert_clean();
    fixture.store.reclaim().unwrap();
    fixture = step(fixture);
    for volume in ["x", "y", "v"] {
        fixture.store.remove_volume(volume, Receipt::none()).unwrap();
        fixture.store.reclaim().unwrap();
        fixture = step(fixture);
    }
    let left = fixture.store.segments.bytes();
    assert_eq!(left, 0, "nothing is left of the data");
}

#[test]
fn a_long_history_is_clean() {
    history(Fixture::empty());
}

/// Files, directories and hard links below a volume.
fn lower() -> TempDir {
    let lower = tempfile::tempdir().unwrap();
    let path = |name: &str| lower.path().join(name);
    std::fs::create_dir_all(path("dir/deep/er")).unwrap();
    std::fs::create_dir(path("empty")).unwrap();
    for name in ["file", "dir/file", "dir/deep/file", "dir/deep/er/file"] {
        std::fs::write(path(name), vec![b'l'; 100_000]).unwrap();
    }
    std::fs::hard_link(path("file"), path("dir/hard")).unwrap();
    std::os::unix::fs::symlink("file", path("link")).unwrap();
    lower
}

#[test]
fn a_long_history_over_a_lower_is_clean() {
    let lower = lower();
    let fixture = Fixture::empty();
    fixture.store.remove_volume("v", Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    let spec = VolumeSpec { lowers: vec![lower.path().to_owned()], ..VolumeSpec::default() };
    fixture.store.create_volume("v", &spec, Receipt::none()).unwrap();
    fixture.assert_clean();
    history(fixture);
}

#[test]
fn what_becomes_of_a_lower_is_clean() {
    let lower = lower();
    let fixture = Fixture::empty();
    let spec = VolumeSpec { lowers: vec![lower.path().to_owned()], ..VolumeSpec::default() };
    fixture.store.create_volume("o", &spec, Receipt::none()).unwrap();
    let fs = fixture.store.open_head("o").unwrap();
    fixture.assert_clean();
    fs.write(node(&fs, "dir/deep/file"), 50_000, b"changed", KillSuid::No).unwrap();
    fixture.assert_clean();
    resize(&fs, node(&fs, "dir/file"), 10);
    fs.link(node(&fs, "file"), node(&fs, "dir"), name("third")).unwrap();
    fixture.assert_clean();
    fixture.store.snapshot(&["o"], Some("one"), Receipt::none()).unwrap();
    rename(&fs, (node(&fs, "dir"), "deep"), (NodeId::ROOT, "up"), RenameMode::Replace);
    rename(&fs, (NodeId::ROOT, "up"), (node(&fs, "empty"), "down"), RenameMode::Replace);
    fixture.assert_clean();
    fs.unlink(&ROOT, NodeId::ROOT, name("file")).unwrap();
    fs.unlink(&ROOT, node(&fs, "dir"), name("hard")).unwrap();
    fs.unlink(&ROOT, NodeId::ROOT, name("link")).unwrap();
    fixture.assert_clean();
    fs.setxattr(&ROOT, node(&fs, "dir/third"), name("user.x"), b"1", SetXattr::Any).unwrap();
    fixture.store.snapshot(&["o"], Some("two"), Receipt::none()).unwrap();
    remove_all(&fs, node(&fs, "empty"));
    fs.rmdir(&ROOT, NodeId::ROOT, name("empty")).unwrap();
    directory(&fs, NodeId::ROOT, "empty");
    fixture.assert_clean();
    drop(fs);
    fixture.store.fork("o@one", "p", Receipt::none()).unwrap();
    let fs = fixture.store.open_head("p").unwrap();
    remove_all(&fs, NodeId::ROOT);
    drop(fs);
    fixture.store.reclaim().unwrap();
    let fixture = fixture.reopened();
    fixture.assert_clean();
    fixture.store.remove_snapshots(&["o@two"], Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    fixture.assert_clean();
}

#[test]
fn copies_that_share_pages_are_clean() {
    let fixture = Fixture::empty();
    let fs = fixture.store.open_head("v").unwrap();
    let a = file(&fs, NodeId::ROOT, "a", &[1; 300_000]);
    let b = file(&fs, NodeId::ROOT, "b", &[2; 300_000]);
    fixture.store.snapshot(&["v"], Some("one"), Receipt::none()).unwrap();
    fs.copy_file_range(&ROOT, a, 0, b, 65_536, 200_000).unwrap();
    fixture.assert_clean();
    fixture.store.snapshot(&["v"], Some("two"), Receipt::none()).unwrap();
    fs.write(a, 0, &[3; 300_000], KillSuid::No).unwrap();
    fixture.store.reclaim().unwrap();
    fixture.assert_clean();
    for snapshot in ["v@one", "v@two"] {
        fixture.store.remove_snapshots(&[snapshot], Receipt::none()).unwrap();
        fixture.store.reclaim().unwrap();
        fixture.assert_clean();
    }
    fs.unlink(&ROOT, NodeId::ROOT, name("a")).unwrap();
    fixture.store.reclaim().unwrap();
    fixture.assert_clean();
    let mut bytes = Vec::new();
    fs.read(b, 65_536, 200_000, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 1));
    fs.unlink(&ROOT, NodeId::ROOT, name("b")).unwrap();
    drop(fs);
    fixture.store.reclaim().unwrap();
    let fixture = fixture.reopened();
    fixture.assert_clean();
}

#[test]
fn neighbouring_snapshots_go_together_and_give_everything_back() {
    let fixture = Fixture::empty();
    let fs = fixture.store.open_head("v").unwrap();
    let a = file(&fs, NodeId::ROOT, "a", &[0; 200_000]);
    for round in 1..=5 {
        fs.write(a, 0, &[round; 200_000], KillSuid::No).unwrap();
        fixture.store.snapshot(&["v"], Some(&format!("s{round}")), Receipt::none()).unwrap();
    }
    fs.write(a, 0, &[6; 200_000], KillSuid::No).unwrap();
    let removed = fixture.store.remove_snapshots(&["v@s2", "v@s9"], Receipt::none());
    assert!(matches!(removed, Err(crate::FsError::SnapshotNotFound { .. })));
    assert_eq!(fixture.store.snapshots(Some("v")).unwrap().len(), 5);
    // By name and by epoch, in any order.
    fixture.store.remove_snapshots(&["v@s4", "v@s2", "v@3", "v@s3"], Receipt::none()).unwrap();
    assert_eq!(fixture.store.reclaim().unwrap().bytes, 3 * 49 * 4096);
    fixture.assert_clean();
    let left = fixture.store.snapshots(Some("v")).unwrap();
    assert_eq!(left.iter().filter_map(|one| one.name.as_deref()).collect::<Vec<_>>(), ["s1", "s5"]);
    drop(fs);
    fixture.store.remove_snapshots(&["v@s5", "v@s1"], Receipt::none()).unwrap();
    assert_eq!(fixture.store.reclaim().unwrap().bytes, 2 * 49 * 4096);
    fixture.reopened().assert_clean();
}

/// Without a snapshot nothing ever sweeps: what the index lists must go when what it lists goes.
#[test]
fn files_that_come_and_go_in_one_epoch_leave_nothing_in_the_index() {
    let fixture = Fixture::empty();
    let fs = fixture.store.open_head("v").unwrap();
    let listed = || {
        let mut count = 0;
        let scan = fixture.store.db.scan(TOUCHED, &[], &[], |_, _| {
            count += 1;
            Ok(true)
        });
        scan.unwrap();
        count
    };
    let round = |number: u32| {
        let (from, to) = (format!("f{number}"), format!("g{number}"));
        let node = file(&fs, NodeId::ROOT, &from, &[7; 200_000]);
        fs.setxattr(&ROOT, node, name("user.x"), b"value", SetXattr::Any).unwrap();
        // A group that was erased is written once more.
        resize(&fs, node, 10);
        resize(&fs, node, 150_000);
        fs.write(node, 100_000, &[8; 50_000], KillSuid::No).unwrap();
        rename(&fs, (NodeId::ROOT, &from), (NodeId::ROOT, &to), RenameMode::Replace);
        fixture.assert_clean();
        fs.unlink(&ROOT, NodeId::ROOT, name(&to)).unwrap();
        fs.forget(node, 1);
        // Counting has what is dead removed first.
        fixture.store.volume("v").unwrap();
    };
    round(0);
    let before = listed();
    (1..20).for_each(round);
    assert_eq!(listed(), before);
    drop(fs);
    fixture.assert_clean();
}

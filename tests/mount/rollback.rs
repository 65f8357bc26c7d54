//! Going back to a snapshot while the volume is mounted and in use.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

fn start() -> Mount {
    let mount = Mount::over(lower! { "low" => noise(1, 0, 100_000), "d/x" => "x" });
    mount.write("up", noise(2, 0, 100_000));
    mount.write("small", "before");
    mount.store().snapshot("v", "s");
    mount
}

fn roll_back(mount: &Mount) {
    mount.store().ok(["volume", "rollback", "v", "v@s"]);
}

#[test]
fn live_tree_is_as_it_was() {
    let mount = start();
    let before = Tree::of(mount.root());
    mount.write("low", "changed");
    mount.write("up", noise(3, 0, 50_000));
    mount.write("small", "after!");
    mount.write("new", "new");
    fs::remove_file(mount.path("d/x")).unwrap();
    fs::remove_dir(mount.path("d")).unwrap();
    fs::create_dir_all(mount.path("e/f")).unwrap();
    // So that all of it is in the kernel's caches.
    let changed = Tree::of(mount.root());
    assert_ne!(before, changed);
    roll_back(&mount);
    assert_eq!(differences(&before, &Tree::of(mount.root())), Vec::<String>::new());
    let mount = mount.restart();
    assert_eq!(differences(&before, &Tree::of(mount.root())), Vec::<String>::new());
}

#[test]
fn cached_pages_and_names_do_not_show_through() {
    let mount = start();
    for round in 0..5u64 {
        mount.write("small", format!("round {round}"));
        mount.write("fresh", "x");
        open(mount.path("up"), libc::O_RDWR, 0)
            .unwrap()
            .write_all_at(&noise(round + 50, 0, 20_000), 40_000)
            .unwrap();
        assert_errno!(fs::read(mount.path("missing")), ENOENT);
        assert_eq!(mount.text("small"), format!("round {round}"));
        roll_back(&mount);
        assert_eq!(mount.text("small"), "before");
        assert!(mount.read("up") == noise(2, 0, 100_000));
        assert_errno!(fs::read(mount.path("fresh")), ENOENT);
    }
}

#[test]
fn volume_can_be_written_after_a_rollback() {
    let mount = start();
    mount.write("small", "after");
    roll_back(&mount);
    mount.write("small", "again");
    mount.write("new", "new");
    fs::remove_file(mount.path("up")).unwrap();
    let mount = mount.restart();
    assert_eq!(
        (mount.text("small"), mount.names("/")),
        ("again".into(), ["d", "low", "new", "small"].map(Into::into).to_vec())
    );
}

#[test]
fn inode_numbers_are_those_of_the_snapshot() {
    let mount = start();
    let before = ["low", "up", "small", "d", "d/x"].map(|name| mount.ino(name));
    fs::remove_file(mount.path("up")).unwrap();
    mount.write("up", "another file");
    assert_ne!(mount.ino("up"), before[1]);
    roll_back(&mount);
    assert_eq!(["low", "up", "small", "d", "d/x"].map(|name| mount.ino(name)), before);
}

#[test]
fn handle_opened_before_does_not_touch_the_restored_tree() {
    let mount = start();
    mount.write("small", "after");
    let file = open(mount.path("small"), libc::O_RDWR, 0).unwrap();
    let dir = File::open(mount.path("d")).unwrap();
    roll_back(&mount);
    // What such a handle gives is not promised; that the tree is untouched, is.
    drop(file.write_at(b"stray", 0));
    drop(file.sync_all());
    drop(open_at(&dir, "stray", libc::O_CREAT | libc::O_WRONLY, 0o600));
    drop((file, dir));
    assert_eq!(mount.text("small"), "before");
    let mount = mount.restart();
    assert_eq!(mount.text("small"), "before");
}

#[test]
fn later_snapshots_stay_and_can_be_returned_to() {
    let mount = start();
    mount.write("small", "later");
    let store = mount.store().clone();
    store.snapshot("v", "later");
    roll_back(&mount);
    assert_eq!(mount.text("small"), "before");
    store.ok(["volume", "rollback", "v", "v@later"]);
    assert_eq!(mount.text("small"), "later");
    assert_eq!(store.mount_snapshot("v@s").text("small"), "before");
}

#[test]
fn unmounted_volume_can_be_rolled_back() {
    let mount = start();
    mount.write("small", "after");
    let store = mount.store().clone();
    mount.unmount();
    store.ok(["volume", "rollback", "v", "v@s"]);
    assert_eq!(store.mount("v").text("small"), "before");
}

#[test]
fn snapshot_of_another_volume_is_refused() {
    let mount = start();
    let store = mount.store().clone();
    store.create_volume("other");
    let complaint = store.refused(5, ["volume", "rollback", "other", "v@s"]);
    assert!(complaint.contains("other") || complaint.contains("v@s"), "{complaint}");
    store.refused(3, ["volume", "rollback", "v", "v@missing"]);
    assert_eq!(mount.text("small"), "before");
}

//! What was written is there after unmounting, and after the daemon ended.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};

use durdir_tests::lower;
use durdir_tests::support::*;

fn busy_work(mount: &Mount) {
    fs::create_dir_all(mount.path("a/b/c")).unwrap();
    for number in 0..200u64 {
        mount.write(format!("a/f{number}"), noise(number, 0, usize::try_from(number * 97).unwrap()));
    }
    mount.write("a/b/large", noise(7, 0, 3 << 20));
    symlink("../f1", mount.path("a/b/link")).unwrap();
    fs::hard_link(mount.path("a/f2"), mount.path("a/b/hard")).unwrap();
    mkfifo(mount.path("a/pipe"), 0o640).unwrap();
    set_xattr(mount.path("a/f3"), "user.k", "v").unwrap();
    chown(mount.path("a/f4"), Some(5), Some(6)).unwrap();
    set_times(mount.path("a/f5"), (1, 2), (3, 4)).unwrap();
    fs::rename(mount.path("a/f6"), mount.path("a/b/c/moved")).unwrap();
    fs::remove_file(mount.path("a/f7")).unwrap();
    let sparse = File::create(mount.path("a/sparse")).unwrap();
    sparse.write_all_at(b"far", 1 << 33).unwrap();
}

#[test]
fn whole_tree_comes_back_after_a_remount() {
    let mount = Mount::empty();
    busy_work(&mount);
    let before = Tree::of(mount.root());
    let mount = mount.remount();
    assert_eq!(differences(&before, &Tree::of(mount.root())), Vec::<String>::new());
}

#[test]
fn whole_tree_comes_back_after_a_restart() {
    let mount = Mount::over(lower! { "a/low" => "low", "a/b/low" => noise(3, 0, 100_000), "gone" => "x" });
    busy_work(&mount);
    fs::remove_file(mount.path("gone")).unwrap();
    let before = Tree::of(mount.root());
    let mount = mount.restart();
    assert_eq!(differences(&before, &Tree::of(mount.root())), Vec::<String>::new());
    let mount = mount.restart();
    assert_eq!(differences(&before, &Tree::of(mount.root())), Vec::<String>::new());
}

#[test]
fn stores_through_a_mapping_are_there_after_a_restart() {
    let mount = Mount::empty();
    mount.write("file", vec![0; 1 << 20]);
    let map = Mapping::shared(&open(mount.path("file"), libc::O_RDWR, 0).unwrap(), 1 << 20).unwrap();
    map.write(500_000, b"mapped");
    drop(map);
    let mount = mount.restart();
    assert_eq!(&mount.read("file")[500_000..500_006], b"mapped");
}

#[test]
fn file_that_was_open_and_unlinked_leaves_nothing() {
    let mount = Mount::empty();
    mount.write("gone", noise(1, 0, 4 << 20));
    let file = open(mount.path("gone"), libc::O_RDWR, 0).unwrap();
    fs::remove_file(mount.path("gone")).unwrap();
    drop(file);
    let mount = mount.restart();
    assert!(mount.names("/").is_empty());
    let shown = mount.store().volume("v");
    assert_eq!(shown["used_bytes"], 0, "{shown}");
}

#[test]
fn last_of_many_small_writes_is_there() {
    let mount = Mount::empty();
    let mut log = OpenOptions::new().append(true).create(true).open(mount.path("log")).unwrap();
    for number in 0..3000 {
        writeln!(log, "{number}").unwrap();
    }
    drop(log);
    let mount = mount.restart();
    assert_eq!(mount.text("log").lines().last(), Some("2999"));
    assert_eq!(mount.text("log").lines().count(), 3000);
}

#[test]
fn sigterm_unmounts_and_keeps_everything() {
    let mount = Mount::empty();
    busy_work(&mount);
    let before = Tree::of(mount.root());
    mount.store().stop_daemon();
    assert!(names_in(mount.root()).unwrap().is_empty(), "the mount point is a plain directory again");
    let mount = mount.after_kill();
    assert_eq!(differences(&before, &Tree::of(mount.root())), Vec::<String>::new());
}

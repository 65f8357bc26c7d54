//! What is too large to be changed in one batch, with the worker dying between two.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use durdir_tests::support::*;

use crate::start_with_failpoints;

/// What lies in a group of pages, and how many groups go at a time.
const GROUP: u64 = 64 << 10;
const STEP: u64 = 4096;
const GROUPS: u64 = 2 * STEP + 100;

/// A volume with a file of so many groups that has one page in each, and a snapshot of it; the worker dies after the first step.
fn large_file() -> (Store, Mount) {
    let store = Store::new();
    store.expect_alarm("the worker died");
    start_with_failpoints(&store, "data.step:kill", true);
    let mount = store.mount("v");
    let file = File::create(mount.path("large")).unwrap();
    for group in 0..GROUPS {
        file.write_all_at(&page_of(group), group * GROUP).unwrap();
    }
    file.set_len(GROUPS * GROUP).unwrap();
    store.ok(["snapshot", "create", "v", "--name", "whole"]);
    (store, mount)
}

fn page_of(group: u64) -> Vec<u8> {
    noise(7, group * 4096, 4096)
}

#[track_caller]
fn check(file: &File, groups: impl Iterator<Item = (u64, bool)>) {
    let mut seen = vec![0; 4096];
    for (group, is_there) in groups {
        file.read_exact_at(&mut seen, group * GROUP).unwrap();
        let expected = if is_there { page_of(group) } else { vec![0; 4096] };
        assert!(seen == expected, "group {group}");
    }
}

/// The snapshot has all of it, and nothing is left where nobody looks.
#[track_caller]
fn check_rest(store: &Store, mount: &Mount, file: File, bytes: u64) {
    assert_eq!(store.takeovers(), 1);
    let before = File::open(mount.path(".snapshots/whole/large")).unwrap();
    assert_eq!(before.metadata().unwrap().len(), GROUPS * GROUP);
    check(&before, (0..GROUPS).map(|group| (group, true)));
    assert_eq!(store.volume("v")["used_bytes"], bytes);
    store.ok(["fsck"]);
    drop((before, file));
    store.ok(["snapshot", "rm", "v@whole"]);
    fs::remove_file(mount.path("large")).unwrap();
    eventually("all of it comes back", Duration::from_secs(30), || {
        (store.volume("v")["used_bytes"] == 0).then_some(())
    });
}

#[test]
fn large_file_is_cut_off_though_the_worker_dies() {
    let (store, mount) = large_file();
    let file = open(mount.path("large"), libc::O_RDWR, 0).unwrap();
    file.set_len(GROUP + 100).unwrap();
    assert_eq!(file.metadata().unwrap().len(), GROUP + 100);
    assert_eq!(file.metadata().unwrap().blocks(), 2 * 8);
    // What was cut off does not come back.
    file.set_len(GROUPS * GROUP).unwrap();
    check(&file, [(0, true)].into_iter().chain((2..GROUPS).map(|group| (group, false))));
    check_rest(&store, &mount, file, 2 * 4096);
}

#[test]
fn large_hole_is_punched_though_the_worker_dies() {
    let (store, mount) = large_file();
    let file = open(mount.path("large"), libc::O_RDWR, 0).unwrap();
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let end = GROUPS - 3;
    fallocate(&file, mode, GROUP as i64, ((end - 1) * GROUP) as i64).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 4 * 8);
    check(&file, (0..GROUPS).map(|group| (group, group == 0 || group >= end)));
    check_rest(&store, &mount, file, 4 * 4096);
}

//! What is too large to be changed in one batch, with the worker dying between two.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::time::Duration;

use durdir_tests::support::*;

use crate::start_with_failpoints;

/// What lies in a group of pages, and how many groups go at a time.
const GROUP: u64 = 64 << 10;
const STEP: u64 = 4096;
const GROUPS: u64 = 2 * STEP + 100;

/// A volume with a file of so many groups that has one page in each, and a snapshot of it; the worker dies once at a place.
fn large_file(dies: &str) -> (Store, Mount) {
    let store = Store::new();
    store.expect_alarm("the worker died");
    start_with_failpoints(&store, dies, true);
    let mount = store.mount("v");
    let file = File::create(mount.path("large")).unwrap();
    for group in 0..GROUPS {
        file.write_all_at(&page_of(group), group * GROUP).unwrap();
    }
    file.set_len(GROUPS * GROUP).unwrap();
    let set_id = fs::Permissions::from_mode(0o4755);
    fs::set_permissions(mount.path("large"), set_id).unwrap();
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
    let (store, mount) = large_file("data.step:kill");
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
    let (store, mount) = large_file("data.step:kill");
    let file = open(mount.path("large"), libc::O_RDWR, 0).unwrap();
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let end = GROUPS - 3;
    fallocate(&file, mode, GROUP as i64, ((end - 1) * GROUP) as i64).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 4 * 8);
    check(&file, (0..GROUPS).map(|group| (group, group == 0 || group >= end)));
    check_rest(&store, &mount, file, 4 * 4096);
}

/// What is left of the pages at both ends of a hole is written anew by its first step. The worker dies when the batch of that is in the log.
#[test]
fn ends_of_a_large_hole_are_there_though_the_worker_dies_over_them() {
    let (store, mount) = large_file(&format!("txn.written:kill@{}", GROUPS + 1));
    let file = open(mount.path("large"), libc::O_RDWR, 0).unwrap();
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let end = GROUPS - 3;
    fallocate(&file, mode, GROUP as i64 + 100, ((end - 1) * GROUP) as i64).unwrap();
    drop_cached_pages(&file).unwrap();
    let mut seen = vec![0; 4096];
    file.read_exact_at(&mut seen, GROUP).unwrap();
    assert!(seen[..100] == page_of(1)[..100] && seen[100..] == [0; 3996]);
    file.read_exact_at(&mut seen, end * GROUP).unwrap();
    assert!(seen[..100] == [0; 100] && seen[100..] == page_of(end)[100..]);
    check(
        &file,
        (0..GROUPS)
            .filter(|&group| group != 1 && group != end)
            .map(|group| (group, group == 0 || group > end)),
    );
    check_rest(&store, &mount, file, 5 * 4096);
}

/// An owner who has no right to keep them loses the set-id bits, and the time changes once, whoever does the rest.
#[test]
fn attributes_are_those_of_one_change_though_the_worker_dies() {
    let (_store, mount) = large_file("data.step:kill");
    let before = mount.stat("large");
    chown(mount.path("large"), Some(User::ANN.uid), Some(User::ANN.gid)).unwrap();
    fs::set_permissions(mount.path("large"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(mount.root(), fs::Permissions::from_mode(0o755)).unwrap();
    as_user(User::ANN, || {
        open(mount.path("large"), libc::O_WRONLY, 0).unwrap().set_len(GROUP + 100).unwrap()
    });
    let after = mount.stat("large");
    assert_eq!((after.len(), after.mode() & 0o7777), (GROUP + 100, 0o755));
    let time = |stat: &fs::Metadata| (stat.mtime(), stat.mtime_nsec());
    assert!(time(&after) > time(&before));
    assert_eq!(time(&after), (after.ctime(), after.ctime_nsec()));
}

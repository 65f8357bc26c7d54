//! Space comes back: seen from outside, with `du`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use durdir_tests::support::*;

const SIZE: u64 = 32 * MIB;

/// A volume with one large file that is on the disk, and the size of its store.
fn with_large_file() -> (Mount, u64) {
    let mount = Mount::empty();
    write_large(&mount, "large");
    let full = mount.store().allocated();
    assert!(full >= SIZE, "{full}");
    (mount, full)
}

fn write_large(mount: &Mount, name: &str) {
    let file = File::create(mount.path(name)).unwrap();
    for offset in (0..SIZE).step_by(1 << 20) {
        file.write_all_at(&noise(3, offset, 1 << 20), offset).unwrap();
    }
    file.sync_all().unwrap();
}

/// Waits until at least `bytes` came back.
#[track_caller]
fn gives_back(store: &Store, full: u64, bytes: u64) {
    store.ok(["gc"]);
    eventually(&format!("{bytes} of {full} bytes came back"), Duration::from_secs(30), || {
        (store.allocated() + bytes <= full).then_some(())
    });
}

#[test]
fn unlink_gives_space_back() {
    let (mount, full) = with_large_file();
    fs::remove_file(mount.path("large")).unwrap();
    gives_back(mount.store(), full, SIZE - MIB);
}

#[test]
fn unlink_gives_space_back_without_being_asked() {
    let (mount, full) = with_large_file();
    fs::remove_file(mount.path("large")).unwrap();
    eventually("the space comes back by itself", Duration::from_secs(60), || {
        (mount.store().allocated() + SIZE - MIB <= full).then_some(())
    });
}

#[test]
fn truncate_gives_space_back() {
    let (mount, full) = with_large_file();
    truncate(mount.path("large"), 8 << 20).unwrap();
    gives_back(mount.store(), full, SIZE - 9 * MIB);
    read_noise_at(&File::open(mount.path("large")).unwrap(), 3, 0, 8 << 20);
}

#[test]
fn punching_gives_space_back() {
    let (mount, full) = with_large_file();
    let file = open(mount.path("large"), libc::O_RDWR, 0).unwrap();
    fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 4 << 20, 20 << 20).unwrap();
    gives_back(mount.store(), full, 19 * MIB);
    read_noise_at(&file, 3, 0, 4 << 20);
    read_noise_at(&file, 3, 24 << 20, 8 << 20);
}

#[test]
fn replacing_a_file_gives_its_space_back() {
    let (mount, full) = with_large_file();
    mount.write("new", "small");
    fs::rename(mount.path("new"), mount.path("large")).unwrap();
    gives_back(mount.store(), full, SIZE - MIB);
}

#[test]
fn closing_an_unlinked_file_gives_its_space_back() {
    let (mount, full) = with_large_file();
    let file = File::open(mount.path("large")).unwrap();
    fs::remove_file(mount.path("large")).unwrap();
    mount.store().ok(["gc"]);
    read_noise_at(&file, 3, SIZE - MIB, 1 << 20);
    assert!(mount.store().allocated() + MIB >= full, "it is still open");
    drop(file);
    gives_back(mount.store(), full, SIZE - MIB);
}

#[test]
fn rewriting_in_place_does_not_grow_the_store() {
    let (mount, full) = with_large_file();
    let file = open(mount.path("large"), libc::O_RDWR, 0).unwrap();
    for round in 0..4 {
        for offset in (0..SIZE).step_by(1 << 20) {
            file.write_all_at(&noise(10 + round, offset, 1 << 20), offset).unwrap();
        }
    }
    file.sync_all().unwrap();
    let grown = mount.store().allocated().saturating_sub(full);
    assert!(grown < 16 * MIB, "rewriting {SIZE} bytes four times took {grown} bytes");
}

#[test]
fn removing_a_snapshot_gives_back_what_only_it_had() {
    let (mount, _) = with_large_file();
    let store = mount.store().clone();
    store.snapshot("v", "s");
    write_large(&mount, "large");
    let full = store.allocated();
    assert!(full >= 2 * SIZE, "the snapshot keeps what was overwritten: {full}");
    store.ok(["gc"]);
    assert!(store.allocated() >= 2 * SIZE, "gc takes nothing that a snapshot shows");
    store.ok(["snapshot", "rm", "v@s"]);
    gives_back(&store, full, SIZE - MIB);
    read_noise_at(&File::open(mount.path("large")).unwrap(), 3, 0, 1 << 20);
}

#[test]
fn file_that_is_only_in_a_snapshot_goes_with_it() {
    let (mount, full) = with_large_file();
    let store = mount.store().clone();
    store.snapshot("v", "s");
    fs::remove_file(mount.path("large")).unwrap();
    store.ok(["gc"]);
    assert!(store.allocated() + MIB >= full);
    read_noise_at(&File::open(store.mount_snapshot("v@s").path("large")).unwrap(), 3, 0, 1 << 20);
    store.ok(["snapshot", "rm", "v@s"]);
    gives_back(&store, full, SIZE - MIB);
}

#[test]
fn removing_a_volume_gives_everything_back() {
    let (mount, full) = with_large_file();
    let store = mount.store().clone();
    store.snapshot("v", "s");
    mount.write("more", noise(4, 0, 4 << 20));
    mount.unmount();
    store.ok(["volume", "rm", "v"]);
    gives_back(&store, full + 4 * MIB, SIZE + 3 * MIB);
    assert!(store.json(["volume", "ls"]).as_array().unwrap().is_empty());
}

#[test]
fn rollback_gives_back_what_it_abandons() {
    let mount = Mount::empty();
    mount.write("f", "x");
    let store = mount.store().clone();
    store.snapshot("v", "s");
    write_large(&mount, "large");
    let full = store.allocated();
    store.ok(["volume", "rollback", "v", "v@s"]);
    gives_back(&store, full, SIZE - MIB);
}

#[test]
fn dry_run_of_gc_tells_and_frees_nothing() {
    let (mount, _) = with_large_file();
    let store = mount.store().clone();
    store.snapshot("v", "s");
    write_large(&mount, "large");
    let before = store.allocated();
    store.json(["gc", "--dry-run"]);
    assert!(store.allocated() + MIB >= before);
}

#[test]
fn copy_of_a_large_file_takes_no_room() {
    let (mount, full) = with_large_file();
    let from = File::open(mount.path("large")).unwrap();
    let to = open(mount.path("copy"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    copy_whole_range(&from, &to, usize::try_from(SIZE).unwrap()).unwrap();
    to.sync_all().unwrap();
    let grown = mount.store().allocated().saturating_sub(full);
    assert!(grown < 2 * MIB, "a copy of {SIZE} bytes took {grown} bytes");
    for offset in (0..SIZE).step_by(8 << 20) {
        read_noise_at(&to, 3, offset, 1 << 20);
    }
}

#[test]
fn a_thousand_small_files_come_and_go_without_a_trace() {
    let mount = Mount::empty();
    let store = mount.store().clone();
    for number in 0..1000u64 {
        mount.write(format!("f{number}"), noise(number, 0, 20_000));
    }
    sync_filesystem(&File::open(mount.root()).unwrap()).unwrap();
    let full = store.allocated();
    for number in 0..1000 {
        fs::remove_file(mount.path(format!("f{number}"))).unwrap();
    }
    gives_back(&store, full, 15 * MIB);
}

//! Inode numbers: one per object, for ever, whatever happens to it or to the daemon.

use std::collections::HashMap;
use std::fs;

use durdir_tests::lower;
use durdir_tests::support::*;

/// Returns the inode number of every path in a mount.
fn numbers(mount: &Mount) -> HashMap<std::path::PathBuf, u64> {
    let paths = Tree::of(mount.root()).0.into_keys();
    paths.map(|path| (path.clone(), mount.ino(&path))).collect()
}

fn mixed() -> Mount {
    let mount = Mount::over(
        lower! { "low/a" => "1", "low/b" => hard_link("low/a"), "low/d/c" => "2", "l" => symlink_to("x") },
    );
    fs::create_dir_all(mount.path("up/d")).unwrap();
    mount.write("up/d/e", "3");
    fs::hard_link(mount.path("up/d/e"), mount.path("up/f")).unwrap();
    mount.write("low/new", "4");
    mount
}

#[test]
fn every_object_keeps_its_number_over_remount_and_restart() {
    let mount = mixed();
    let before = numbers(&mount);
    let mount = mount.remount();
    assert_eq!(numbers(&mount), before);
    let mount = mount.restart();
    assert_eq!(numbers(&mount), before);
}

#[test]
fn every_object_keeps_its_number_over_a_kill() {
    let mount = mixed();
    let before = numbers(&mount);
    mount.store().kill_daemon();
    let mount = mount.after_kill();
    assert_eq!(numbers(&mount), before);
}

#[test]
fn snapshot_and_fork_show_the_same_numbers() {
    let mount = mixed();
    let before = numbers(&mount);
    let store = mount.store().clone();
    store.snapshot("v", "s");
    mount.write("low/a", "changed after the snapshot");
    let snapshot = store.mount_snapshot("v@s");
    assert_eq!(numbers(&snapshot), before);
    store.fork("v@s", "w");
    let fork = store.mount("w");
    assert_eq!(numbers(&fork), before);
    assert_eq!(numbers(&mount), before);
    fork.write("low/d/c", "changed in the fork");
    assert_eq!(numbers(&fork), before);
}

#[test]
fn number_is_not_used_again() {
    let mount = Mount::over(lower! { "low" => "x" });
    let mut seen = vec![mount.ino("low")];
    fs::remove_file(mount.path("low")).unwrap();
    let mut mount = mount;
    for round in 0..3 {
        for _ in 0..50 {
            mount.write("file", round.to_string());
            seen.push(mount.ino("file"));
            fs::remove_file(mount.path("file")).unwrap();
        }
        mount = mount.restart();
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count);
}

#[test]
fn no_two_objects_share_a_number() {
    let mut layout = lower! {};
    for number in 0..1500 {
        layout = layout.with(format!("low/{}/{number}", number % 20), "");
    }
    let mount = Mount::over(layout);
    for number in 0..500 {
        mount.write(format!("low/{}/new{number}", number % 20), "");
    }
    let all = numbers(&mount);
    let mut distinct: Vec<u64> = all.values().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), all.len());
    assert!(distinct.iter().all(|&number| number != 0));
}

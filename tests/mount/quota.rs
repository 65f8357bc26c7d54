//! Limits of bytes and inodes: exact, refused before anything is half-done, and never in the way
//! of making room.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::process::{Command, Stdio};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use nix::sys::statvfs::statvfs;

fn limited(options: &[&str]) -> Mount {
    Store::new().mount_with("v", options)
}

fn used_bytes(mount: &Mount) -> u64 {
    mount.store().volume(mount.volume_name())["used_bytes"].as_u64().unwrap()
}

fn used_inodes(mount: &Mount) -> u64 {
    mount.store().volume(mount.volume_name())["used_inodes"].as_u64().unwrap()
}

/// Fills a volume with files of one page until it is full; returns how many it took.
fn fill(mount: &Mount) -> usize {
    for number in 0.. {
        let file = File::create(mount.path(format!("fill-{number}"))).unwrap();
        match file.write_all_at(&noise(1, 0, 4096), 0) {
            Ok(()) => {}
            Err(err) => {
                assert_eq!(err.raw_os_error(), Some(libc::EDQUOT));
                assert_eq!(file.metadata().unwrap().len(), 0, "a refused write changes nothing");
                fs::remove_file(mount.path(format!("fill-{number}"))).unwrap();
                return number;
            }
        }
    }
    unreachable!("counting up to here takes for ever")
}

#[test]
fn exactly_the_quota_of_bytes_can_be_stored() {
    let mount = limited(&["--quota-bytes", "1MiB"]);
    assert_eq!(fill(&mount), 256);
    assert_eq!(used_bytes(&mount), MIB);
}

#[test]
fn one_file_of_the_whole_quota_fits_and_not_a_byte_more() {
    let mount = limited(&["--quota-bytes", "1MiB"]);
    let file = File::create(mount.path("file")).unwrap();
    for chunk in 0..16u64 {
        file.write_all_at(&noise(1, chunk << 16, 1 << 16), chunk << 16).unwrap();
    }
    assert_errno!(file.write_all_at(b"x", 1 << 20), EDQUOT);
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    assert!(mount.read("file") == noise(1, 0, 1 << 20));
}

#[test]
fn write_that_does_not_fit_is_not_half_done() {
    let mount = limited(&["--quota-bytes", "64KiB"]);
    let file = open(mount.path("file"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    file.write_all_at(&noise(1, 0, 40_960), 0).unwrap();
    assert_errno!(file.write_at(&noise(2, 0, 40_960), 40_960), EDQUOT);
    assert_errno!(file.write_at(&noise(2, 0, 80_000), 0), EDQUOT);
    drop_cached_pages(&file).unwrap();
    assert!(mount.read("file") == noise(1, 0, 40_960));
    file.write_all_at(&noise(2, 0, 24_576), 40_960).unwrap();
    assert_eq!(used_bytes(&mount), 64 * KIB);
}

#[test]
fn full_volume_can_still_be_rewritten_renamed_and_emptied() {
    let mount = limited(&["--quota-bytes", "256KiB"]);
    let count = fill(&mount);
    mount.write("fill-0", noise(9, 0, 4096));
    fs::rename(mount.path("fill-1"), mount.path("renamed")).unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    chmod(mount.path("fill-2"), 0o600).unwrap();
    fs::hard_link(mount.path("fill-2"), mount.path("d/link")).unwrap();
    symlink("fill-2", mount.path("s")).unwrap();
    truncate(mount.path("fill-3"), 0).unwrap();
    mount.write("room", noise(1, 0, 4096));
    fs::remove_file(mount.path("fill-4")).unwrap();
    mount.write("more room", noise(1, 0, 4096));
    assert_eq!(used_bytes(&mount), 256 * KIB);
    for number in (5..count).chain([0]) {
        fs::remove_file(mount.path(format!("fill-{number}"))).unwrap();
    }
    assert!(used_bytes(&mount) <= 20 * KIB, "{}", used_bytes(&mount));
    mount.write("large", noise(1, 0, 200_000));
}

#[test]
fn rewriting_after_a_snapshot_needs_no_quota() {
    let mount = limited(&["--quota-bytes", "256KiB"]);
    let file = open(mount.path("file"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    file.write_all_at(&noise(1, 0, 256 << 10), 0).unwrap();
    mount.store().snapshot("v", "s");
    file.write_all_at(&noise(2, 0, 256 << 10), 0).unwrap();
    assert!(mount.read("file") == noise(2, 0, 256 << 10));
    assert_eq!(used_bytes(&mount), 256 * KIB);
}

#[test]
fn holes_are_free_and_allocations_are_not_over_the_limit() {
    let mount = limited(&["--quota-bytes", "256KiB"]);
    let file = open(mount.path("file"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(&noise(1, 0, 4096), 1 << 39).unwrap();
    assert_eq!(used_bytes(&mount), 4096);
    fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 1 << 40).unwrap();
    assert_eq!(used_bytes(&mount), 0);
    // What is promised must fit, or the promise is refused.
    match fallocate(&file, 0, 0, 1 << 30) {
        Err(err) => assert_eq!(err.raw_os_error(), Some(libc::EDQUOT)),
        Ok(()) => assert!(used_bytes(&mount) <= 256 * KIB),
    }
}

#[test]
fn allocation_needs_room_for_the_holes_of_its_range_alone() {
    let mount = limited(&["--quota-bytes", "128KiB"]);
    let file = open(mount.path("file"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    file.set_len(MIB).unwrap();
    file.write_all_at(&noise(1, 0, 64 << 10), 64 << 10).unwrap();
    let allocate = |offset: u64, len: u64| {
        let before = file.metadata().unwrap();
        let done = fallocate(&file, 0, offset as i64, len as i64);
        let after = file.metadata().unwrap();
        if done.is_err() {
            assert_eq!((after.len(), after.mtime_nsec()), (before.len(), before.mtime_nsec()));
        }
        done
    };
    // A half of the quota is stored, the other half may be promised.
    for (offset, len) in
        [(0, 64 << 10), (0, 128 << 10), (96 << 10, 96 << 10), (100, 65_436), (2 * MIB, 65_536)]
    {
        allocate(offset, len).unwrap();
    }
    assert_errno!(allocate(0, (128 << 10) + 1), EDQUOT);
    assert_errno!(allocate(100, 192 << 10), EDQUOT);
    assert_errno!(allocate(0, MIB), EDQUOT);
    assert_errno!(allocate(4 * MIB, 65_537), EDQUOT);
    assert_errno!(fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, 4 * MIB as i64, 65_537), EDQUOT);
    assert_eq!(file.metadata().unwrap().len(), 2 * MIB + 65_536);
    mount.write("other", noise(1, 0, 64 << 10));
    allocate(64 << 10, 64 << 10).unwrap();
    assert_errno!(allocate(60 << 10, 4 << 10), EDQUOT);
    assert_eq!(used_bytes(&mount), 128 * KIB);
}

#[test]
fn allocation_of_a_file_of_a_lower_counts_its_holes() {
    let at = 512 << 10;
    let lower = lower! { "sparse" => sparse(MIB, &[(at, &noise(1, 0, 64 << 10))]), "small" => "x" }.build();
    let store = Store::new();
    let mount = store.mount_with("v", &["--lower", lower.path().to_str().unwrap(), "--quota-bytes", "64KiB"]);
    let file = open(mount.path("sparse"), libc::O_RDWR, 0).unwrap();
    fallocate(&file, 0, at as i64 - (64 << 10), 128 << 10).unwrap();
    assert_errno!(fallocate(&file, 0, at as i64 - (64 << 10), (128 << 10) + 1), EDQUOT);
    assert_errno!(fallocate(&file, 0, 0, MIB as i64), EDQUOT);
    mount.write("other", noise(1, 0, 64 << 10));
    fallocate(&file, 0, at as i64, 64 << 10).unwrap();
    assert_errno!(fallocate(&file, 0, 0, 1), EDQUOT);
    let small = open(mount.path("small"), libc::O_RDWR, 0).unwrap();
    fallocate(&small, 0, 0, 1).unwrap();
    assert_errno!(fallocate(&small, 0, 0, 2), EDQUOT);
}

#[test]
fn copy_up_counts_only_what_is_written() {
    let lower = lower! { "big" => noise(1, 0, 1 << 20) }.build();
    let store = Store::new();
    let mount = store.mount_with("v", &["--lower", lower.path().to_str().unwrap(), "--quota-bytes", "64KiB"]);
    assert_eq!(used_bytes(&mount), 0);
    chmod(mount.path("big"), 0o600).unwrap();
    let file = open(mount.path("big"), libc::O_RDWR, 0).unwrap();
    file.write_all_at(&noise(2, 0, 4096), 500_000 / 4096 * 4096).unwrap();
    assert_eq!(used_bytes(&mount), 4096);
    assert_errno!(file.write_at(&noise(3, 0, 65_536), 0), EDQUOT);
}

#[test]
fn exactly_the_quota_of_inodes_can_be_made() {
    let mount = limited(&["--quota-inodes", "20"]);
    let taken = used_inodes(&mount);
    let mut made = 0;
    let refused = loop {
        match File::create_new(mount.path(format!("f{made}"))) {
            Ok(_) => made += 1,
            Err(err) => break err,
        }
    };
    assert_eq!(refused.raw_os_error(), Some(libc::EDQUOT));
    assert_eq!((taken + made, used_inodes(&mount)), (20, 20));
    assert_errno!(fs::symlink_metadata(mount.path(format!("f{made}"))), ENOENT);

    assert_errno!(fs::create_dir(mount.path("d")), EDQUOT);
    assert_errno!(symlink("x", mount.path("s")), EDQUOT);
    assert_errno!(mkfifo(mount.path("p"), 0o600), EDQUOT);
    assert_eq!(mount.names("/").len() as u64, made);

    fs::hard_link(mount.path("f0"), mount.path("link")).unwrap();
    fs::rename(mount.path("f1"), mount.path("renamed")).unwrap();
    fs::remove_file(mount.path("f2")).unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    assert_errno!(File::create_new(mount.path("d/one more")), EDQUOT);
    let mount = mount.restart();
    assert_errno!(File::create_new(mount.path("d/one more")), EDQUOT);
    fs::remove_dir(mount.path("d")).unwrap();
    File::create_new(mount.path("in its place")).unwrap();
}

/// Mounts a volume over a lower, and makes files in its root until `quota` inodes are in use. Returns how many.
fn over_with_all_inodes_used(lower: &LowerDir, quota: u64) -> (Mount, u64) {
    let (path, limit) = (lower.path().to_str().unwrap(), quota.to_string());
    let mount = Store::new().mount_with("v", &["--lower", path, "--quota-inodes", &limit]);
    let made = (0..).find(|number| match File::create_new(mount.path(format!("made-{number}"))) {
        Ok(_) => false,
        Err(err) => {
            assert_eq!(err.raw_os_error(), Some(libc::EDQUOT));
            true
        }
    });
    assert_eq!(used_inodes(&mount), quota);
    (mount, made.unwrap())
}

#[test]
fn whatever_is_only_in_a_lower_can_be_removed_from_a_full_volume() {
    let lower = lower! {
        "file" => "x", "empty" => dir(), "replaced" => "old", "replaced dir" => dir(),
        "deep/er/file" => "x", "pair" => "x", "deep/other" => hard_link("pair"),
    };
    let lower = lower.build();
    let (mount, made) = over_with_all_inodes_used(&lower, 8);
    let gone = |name: &str| assert_errno!(fs::symlink_metadata(mount.path(name)), ENOENT);
    fs::remove_file(mount.path("file")).unwrap();
    fs::remove_dir(mount.path("empty")).unwrap();
    fs::rename(mount.path("made-0"), mount.path("replaced")).unwrap();
    fs::remove_file(mount.path("deep/other")).unwrap();
    fs::remove_dir_all(mount.path("deep")).unwrap();
    for name in ["file", "empty", "made-0", "deep"] {
        gone(name);
    }
    fs::remove_file(mount.path("made-1")).unwrap();
    fs::remove_file(mount.path("made-2")).unwrap();
    fs::create_dir(mount.path("new")).unwrap();
    fs::rename(mount.path("new"), mount.path("replaced dir")).unwrap();
    assert_eq!(mount.read("replaced"), b"");
    // What was removed counts no more: the root, what was made, and the file that has another name.
    eventually("usage is that of what is there", std::time::Duration::from_secs(20), || {
        (used_inodes(&mount) == 1 + (made - 2) + 1 + 1).then_some(())
    });
}

#[test]
fn directory_that_is_counted_for_what_was_removed_from_it_is_in_the_way_of_growth_alone() {
    let lower = lower! { "dir/gone" => "x", "dir/kept" => "x" }.build();
    let (mount, _) = over_with_all_inodes_used(&lower, 4);
    fs::remove_file(mount.path("dir/gone")).unwrap();
    eventually("the directory is one more", std::time::Duration::from_secs(20), || {
        (used_inodes(&mount) == 5).then_some(())
    });
    assert_errno!(chmod(mount.path("dir/kept"), 0o600), EDQUOT);
    fs::remove_file(mount.path("made-0")).unwrap();
    assert_errno!(chmod(mount.path("dir/kept"), 0o600), EDQUOT);
    fs::remove_file(mount.path("made-1")).unwrap();
    chmod(mount.path("dir/kept"), 0o600).unwrap();
}

#[test]
fn open_unlinked_file_counts_until_it_is_closed() {
    let mount = limited(&["--quota-bytes", "64KiB"]);
    let file = open(mount.path("file"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    file.write_all_at(&noise(1, 0, 65_536), 0).unwrap();
    fs::remove_file(mount.path("file")).unwrap();
    let other = File::create(mount.path("other")).unwrap();
    assert_errno!(other.write_at(&noise(1, 0, 65_536), 0), EDQUOT);
    drop(file);
    // Another test may just be starting a program, which has a copy of what is open here until then.
    eventually("the room of the closed file is there", std::time::Duration::from_secs(20), || {
        other.write_all_at(&noise(1, 0, 65_536), 0).ok()
    });
}

#[test]
fn room_of_what_was_removed_is_there_for_the_next_call() {
    let mount = limited(&["--quota-bytes", "8MiB", "--quota-inodes", "20"]);
    let content = mount.store().side_dir().join("content");
    fs::write(&content, noise(1, 0, 8 << 20)).unwrap();
    // In a process of its own: what other tests start has copies of what is open in this one. The second file is removed by its close.
    let script = "set -e -C; while read -r first; do
        cat \"$0\" >file; rm file
        exec 3>other; cat \"$0\" >&3; rm other; exec 3>&-
        echo written; read -r first
        for round in 0 1 2; do
            at=$first; while [ $at -lt 20 ]; do : >$round-$at; at=$((at + 1)); done
            rm $round-*
        done
        echo made; done";
    let mut program = Command::new("sh")
        .args(["-c", script])
        .arg(&content)
        .current_dir(mount.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut tell = program.stdin.take().unwrap();
    for round in 0..10 {
        writeln!(tell, "go").unwrap();
        assert_eq!(told.next().expect("it has not failed").unwrap(), "written", "round {round}");
        assert_eq!(used_bytes(&mount), 0, "round {round}");
        writeln!(tell, "{}", used_inodes(&mount)).unwrap();
        assert_eq!(told.next().expect("it has not failed").unwrap(), "made", "round {round}");
    }
    drop(tell);
    assert!(program.wait().unwrap().success());
}

#[test]
fn df_shows_the_quota() {
    let mount = limited(&["--quota-bytes", "8MiB", "--quota-inodes", "100"]);
    mount.write("file", noise(1, 0, 3 << 20));
    File::open(mount.path("file")).unwrap().sync_all().unwrap();
    let stat = statvfs(mount.root()).unwrap();
    assert_eq!(stat.blocks() * stat.fragment_size(), 8 * MIB);
    assert_eq!(stat.blocks_available() * stat.fragment_size(), 5 * MIB);
    assert_eq!((stat.files(), stat.files_free()), (100, 100 - used_inodes(&mount)));
}

#[test]
fn quota_can_be_changed_on_a_live_mount() {
    let mount = limited(&["--quota-bytes", "64KiB"]);
    assert_eq!(fill(&mount), 16);
    mount.store().ok(["volume", "set-quota", "v", "--bytes", "128KiB"]);
    mount.write("more", noise(1, 0, 65_536));
    assert_errno!(fs::write(mount.path("too much"), "x"), EDQUOT);
    mount.store().ok(["volume", "set-quota", "v", "--bytes", "none"]);
    mount.write("much more", noise(1, 0, 1 << 20));
}

#[test]
fn quota_of_a_volume_that_exists_is_changed_and_lifted_by_a_mount() {
    let mount = limited(&["--quota-bytes", "64KiB", "--quota-inodes", "10"]);
    let store = mount.store().clone();
    mount.unmount();
    let mount = store.mount_with("v", &["--quota-bytes", "none"]);
    mount.write("file", noise(1, 0, 1 << 20));
    let shown = store.volume("v");
    assert_eq!((shown["quota_bytes"].as_u64(), shown["quota_inodes"].as_u64()), (None, Some(10)));
    mount.unmount();
    // Nothing is said, nothing is changed.
    let mount = store.mount("v");
    assert_eq!(store.volume("v")["quota_inodes"], 10);
    mount.unmount();
    store.mount_with("v", &["--quota-inodes", "none", "--quota-bytes", "2MiB"]).unmount();
    let shown = store.volume("v");
    assert_eq!((shown["quota_bytes"].as_u64(), shown["quota_inodes"].as_u64()), (Some(2 * MIB), None));
}

#[test]
fn quotas_survive_a_restart_and_are_inherited_by_forks() {
    let mount = limited(&["--quota-bytes", "64KiB", "--quota-inodes", "50"]);
    mount.write("file", noise(1, 0, 32_768));
    let store = mount.store().clone();
    store.snapshot("v", "s");
    store.fork("v@s", "w");
    let mount = mount.restart();
    let fork = store.mount("w");
    for volume in [&mount, &fork] {
        assert_eq!(used_bytes(volume), 32 * KIB);
        assert_errno!(fs::write(volume.path("too much"), noise(1, 0, 40_000)), EDQUOT);
        volume.write("fits", noise(1, 0, 32_768));
    }
}

#[test]
fn usage_follows_the_tree_down_to_zero() {
    let mount = limited(&["--quota-bytes", "64MiB", "--quota-inodes", "10000"]);
    let (bytes, inodes) = (used_bytes(&mount), used_inodes(&mount));
    fs::create_dir_all(mount.path("a/b/c")).unwrap();
    for number in 0..100u64 {
        mount.write(format!("a/b/{number}"), noise(number, 0, usize::try_from(number * 300).unwrap()));
    }
    fs::hard_link(mount.path("a/b/50"), mount.path("a/b/c/50")).unwrap();
    for number in (0..100).step_by(2) {
        truncate(mount.path(format!("a/b/{number}")), 5000).unwrap();
    }
    assert_eq!(used_inodes(&mount), inodes + 103);
    assert!(mount.stat("a/b/51").blocks() > 0);
    fs::remove_dir_all(mount.path("a")).unwrap();
    eventually("usage returns to what it was", std::time::Duration::from_secs(20), || {
        ((used_bytes(&mount), used_inodes(&mount)) == (bytes, inodes)).then_some(())
    });
}

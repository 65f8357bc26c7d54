//! Mounting and unmounting: by whom, where, how, and what is left of it.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use nix::mount::{MntFlags, umount2};

/// Returns the options of a mount point in the mount table.
fn mount_line(mount: &Mount) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let wanted = format!(" {} ", mount.root().display());
    table.lines().find(|line| line.contains(&wanted)).unwrap().to_owned()
}

#[test]
fn mount_and_its_end_are_seen_in_the_volume() {
    let store = Store::new();
    let mount = store.mount("v");
    let shown = store.volume("v");
    assert_eq!(shown["mounts"].as_array().unwrap().len(), 1, "{shown}");
    assert!(shown["mounts"][0].to_string().contains(mount.root().to_str().unwrap()), "{shown}");
    assert_eq!((&shown["name"], &shown["parent"]), (&"v".into(), &serde_json::Value::Null));
    mount.unmount();
    assert!(store.volume("v")["mounts"].as_array().unwrap().is_empty());
}

#[test]
fn mount_point_is_itself_again_after_unmounting() {
    let store = Store::new();
    let mount = store.mount("v");
    let place = mount.root().to_owned();
    mount.write("inside", "x");
    mount.unmount();
    assert!(names_in(&place).unwrap().is_empty());
    fs::remove_dir(&place).unwrap();
}

#[test]
fn volume_can_be_unmounted_by_its_name() {
    let store = Store::new();
    let mount = store.mount("v");
    store.umount("v");
    assert!(names_in(mount.root()).unwrap().is_empty());
    store.refused(3, ["umount", "v"]);
}

/// A mount there would leave the daemon without its store, have it go through its own mount, or hide a mount for good.
#[test]
fn places_that_are_in_the_way_of_the_daemon_are_refused() {
    let store = Store::new();
    let around = store.side_dir();
    fs::create_dir_all(around.join("in/ner")).unwrap();
    let link = store.side_dir().join("link");
    std::os::unix::fs::symlink(store.path(), &link).unwrap();
    let mount = store.mount("v");
    store.create_volume("w");
    store.snapshot("v", "s");
    let places =
        [store.path().to_owned(), store.path().join("segments"), store.path().parent().unwrap().into(), link];
    for place in &places {
        for args in [&["mount", "w"][..], &["fork", "v@s", "x", "--mount"]] {
            let args = args.iter().map(std::ffi::OsStr::new).chain([place.as_os_str()]);
            let complaint = store.refused(5, args);
            assert!(complaint.contains("the store of this mountd"), "{complaint}");
        }
    }
    store.ok(["mount".as_ref(), "w".as_ref(), around.join("in/ner").as_os_str()]);
    let complaint = store
        .refused(5, ["mount".as_ref(), "y".as_ref(), around.join("in").as_os_str(), "--create".as_ref()]);
    assert!(complaint.contains("volume w"), "{complaint}");
    let volumes = store.json(["volume", "ls"]);
    assert_eq!(volumes.as_array().unwrap().len(), 2, "nothing is made: {volumes}");
    store.umount("w");
    mount.write("file", "x");
}

/// A volume is made over what another daemon serves, slowly.
#[test]
fn a_lower_that_hangs_holds_up_nobody_but_who_asks_for_it() {
    let slow = Store::new();
    let mountpoint = slow.mountpoint();
    slow.ok(["mount".as_ref(), "slow".as_ref(), mountpoint.as_os_str(), "--create".as_ref()]);
    fs::create_dir(mountpoint.join("lower")).unwrap();
    slow.umount("slow");
    slow.stop_daemon();
    let marks = slow.side_dir();
    let mut mounting = slow.command();
    mounting.args(["mount", "slow"]).arg(&mountpoint).env("DURDIR_FAILPOINT_DIR", &marks);
    run(mounting.env("DURDIR_FAILPOINTS", "fuse.lookup.before:sleep=20000"), Duration::from_secs(60)).ok();
    let store = Store::new();
    let mount = store.mount("v");
    let lower = mountpoint.join("lower");
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| {
            store.ok([
                "volume".as_ref(),
                "create".as_ref(),
                "w".as_ref(),
                "--lower".as_ref(),
                lower.as_os_str(),
            ]);
        });
        eventually("it waits", Duration::from_secs(60), || {
            marks.join("fuse.lookup.before").exists().then_some(())
        });
        store.snapshot("v", "s");
        mount.write("file", "x");
        assert_eq!(store.json(["volume", "ls"]).as_array().unwrap().len(), 1);
        assert!(!creating.is_finished(), "it was not slow");
        creating.join().unwrap();
    });
    assert_eq!(store.json(["volume", "ls"]).as_array().unwrap().len(), 2);
    slow.umount("slow");
}

#[test]
fn busy_mount_is_not_unmounted() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("file", "x");
    let file = File::open(mount.path("file")).unwrap();
    let complaint = store.refused(4, ["umount".as_ref(), mount.root().as_os_str()]);
    assert!(complaint.contains(mount.root().to_str().unwrap()), "{complaint}");
    assert_eq!(mount.text("file"), "x");
    drop(file);
}

#[test]
fn command_that_starts_the_daemon_does_not_leave_its_pipes_with_it() {
    let store = Store::new();
    let place = store.mountpoint();
    let mut command = store.command();
    command.args(["mount".as_ref(), "v".as_ref(), place.as_os_str(), "--create".as_ref()]);
    // Reads both pipes to their end: whoever keeps one open keeps us waiting.
    let output = std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::channel();
        scope.spawn(move || send.send(command.output().unwrap()));
        receive.recv_timeout(Duration::from_secs(60)).expect("the output ends when the command does")
    });
    assert!(output.status.success(), "{output:?}");
    store.umount(&place);
}

#[test]
fn store_and_socket_are_private() {
    let store = Store::new();
    let _mount = store.mount("v");
    assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o077, 0);
    for entry in fs::read_dir(store.path()).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        assert_eq!(meta.mode() & 0o077, 0, "{}", entry.path().display());
    }
}

#[test]
fn mount_by_root_lets_other_users_in() {
    let store = Store::new();
    let place = store.mountpoint();
    store.ok(["mount".as_ref(), "v".as_ref(), place.as_os_str(), "--create".as_ref()]);
    fs::write(place.join("shown"), "x").unwrap();
    fs::write(place.join("hidden"), "x").unwrap();
    chmod(place.join("hidden"), 0o600).unwrap();
    as_user(User::ANN, || {
        assert_eq!(fs::read(place.join("shown")).unwrap(), b"x");
        assert_errno!(fs::read(place.join("hidden")), EACCES);
    });
    store.umount(&place);
}

#[test]
fn read_only_mount_refuses_every_change() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("file", "x");
    mount.unmount();
    let mount = store.mount_with("v", &["--read-only"]);
    assert_eq!(mount.text("file"), "x");
    assert_errno!(fs::write(mount.path("file"), "y"), EROFS);
    assert_errno!(File::create(mount.path("new")), EROFS);
    assert_errno!(fs::remove_file(mount.path("file")), EROFS);
    assert_errno!(chmod(mount.path("file"), 0o600), EROFS);
    let flags = nix::sys::statvfs::statvfs(mount.root()).unwrap().flags();
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
}

#[test]
fn place_with_a_space_and_odd_letters_works() {
    let store = Store::new();
    let place = store.mountpoint().join("my home \u{e9} \\ ,x");
    fs::create_dir(&place).unwrap();
    store.ok(["mount".as_ref(), "v".as_ref(), place.as_os_str(), "--create".as_ref()]);
    fs::write(place.join("file"), "x").unwrap();
    store.umount(&place);
    assert!(names_in(&place).unwrap().is_empty());
}

#[test]
fn place_given_relatively_or_through_a_symlink_works() {
    let store = Store::new();
    let parent = store.side_dir();
    fs::create_dir(parent.join("real")).unwrap();
    std::os::unix::fs::symlink("real", parent.join("link")).unwrap();
    for given in ["real", "link", "./link/../real/"] {
        let mut command = store.command();
        command.current_dir(&parent).args(["mount", "v", given, "--create"]);
        run(&mut command, Duration::from_secs(60)).ok();
        fs::write(parent.join("real/file"), given).unwrap();
        store.umount(parent.join("real"));
    }
}

#[test]
fn two_volumes_of_one_store_are_mounted_side_by_side() {
    let store = Store::new();
    let (one, other) = (store.mount("one"), store.mount("other"));
    one.write("file", "1");
    other.write("file", "2");
    assert_eq!((one.text("file"), other.text("file")), ("1".into(), "2".into()));
    assert_ne!(one.stat("/").dev(), other.stat("/").dev());
    assert_eq!(store.daemon().len(), 2, "one supervisor, and one worker for both");
}

#[test]
fn volume_unmounted_behind_the_daemons_back_can_be_mounted_again() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("file", "x");
    // A program that another test starts has the file open until it executes.
    eventually("it is idle", Duration::from_secs(20), || umount2(mount.root(), MntFlags::empty()).ok());
    let mount = eventually("the daemon notices", Duration::from_secs(20), || {
        store.volume("v")["mounts"].as_array().unwrap().is_empty().then(|| store.mount("v"))
    });
    assert_eq!(mount.text("file"), "x");
}

#[test]
fn mount_table_tells_what_is_mounted() {
    let store = Store::new();
    let mount = store.mount("web");
    let line = mount_line(&mount);
    assert!(line.contains(" fuse") && line.contains("web") && line.contains("default_permissions"), "{line}");
}

#[test]
fn read_ahead_is_raised() {
    let store = Store::new();
    let mount = store.mount("v");
    let device = mount.stat("/").dev();
    let path = format!(
        "/sys/class/bdi/{}:{}/read_ahead_kb",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    );
    let kib: u64 = fs::read_to_string(path).unwrap().trim().parse().unwrap();
    assert!(kib > 128, "{kib} KiB");
}

#[test]
fn writeback_mount_keeps_everything_too() {
    let store = Store::new();
    let lower = lower! { "low" => noise(1, 0, 100_000) }.build();
    let mount = store.mount_with("v", &["--cache", "writeback", "--lower", lower.path().to_str().unwrap()]);
    for number in 0..50u64 {
        mount.write(format!("f{number}"), noise(number, 0, 10_000));
    }
    mount.write("low", "changed");
    store.snapshot("v", "s");
    mount.write("f0", "after");
    let snapshot = store.mount_snapshot("v@s");
    assert!(snapshot.read("f0") == noise(0, 0, 10_000), "dirty pages are in the snapshot");
    drop(snapshot);
    let mount = mount.restart();
    assert_eq!((mount.text("f0"), mount.text("low")), ("after".into(), "changed".into()));
    assert!(mount.read("f49") == noise(49, 0, 10_000));
}

/// In a mount namespace of its own, where /dev/fuse is open to everybody as it is on Debian, whatever it is here.
#[test]
fn ordinary_user_mounts_through_fusermount() {
    const SCRIPT: &str = r#"
        set -e
        home=$1 uid=$(id -u nobody)
        chown "$uid:$uid" "$home"
        cd "$home"
        mknod -m 666 fuse c 10 229
        mount --bind fuse /dev/fuse
        as() { id=$1; shift; setpriv --reuid "$id" --regid "$id" --clear-groups env HOME="$home" "$@"; }
        durdir() { as "$uid" ./durdir --store "$home/state" "$@"; }
        as "$uid" mkdir mnt
        durdir mount v mnt --create
        as "$uid" sh -c 'echo mine > mnt/file; ln mnt/file mnt/link; mkdir mnt/d; mv mnt/link mnt/d'
        as "$uid" stat -c 'owner %U' mnt/file
        if as "$uid" chown 0 mnt/file 2>/dev/null; then echo "a user gave a file away"; fi
        if as 5002 cat mnt/file 2>/dev/null; then echo "another user was let in"; fi
        durdir snapshot create v --name s
        as "$uid" sh -c 'echo changed > mnt/file'
        as "$uid" cat mnt/.snapshots/s/file
        durdir umount mnt
        as "$uid" ls -A mnt
        durdir mount v mnt
        as "$uid" cat mnt/d/link
        durdir umount mnt
    "#;
    let store = Store::new();
    let home = store.side_dir();
    // The build directory may be closed to others.
    for name in ["durdir", "mountd"] {
        copy_program(binary(name), home.join(name));
        chmod(home.join(name), 0o755).unwrap();
    }
    drop(program("fusermount3", "fuse3"));
    let theirs = Store::in_dir(home.join("state"));
    let finished = program("unshare", "util-linux")
        .args(["--mount", "--propagation", "private", "bash", "-c", SCRIPT, "script"])
        .arg(&home)
        .ok();
    let lines = finished.text();
    let words = ["owner", "mine", "changed", "a user", "another"];
    let told: Vec<&str> =
        lines.lines().filter(|line| words.iter().any(|word| line.starts_with(word))).collect();
    assert_eq!(told, ["owner nobody", "mine", "changed"], "{finished}");
    assert_ne!(fs::metadata(theirs.path()).unwrap().uid(), 0);
    theirs.stop_daemon();
}

#[test]
fn private_daemon_ends_by_itself_when_nothing_is_left_to_do() {
    let store = Store::new();
    store.mount("v").unmount();
    let pids = store.daemon();
    assert_eq!(pids.len(), 2);
    for pid in pids {
        assert!(wait_for_exit(pid, Duration::from_secs(40)), "mountd {pid} still runs");
    }
    assert!(store.mount("v").names("/").is_empty());
}

#[test]
fn private_daemon_ends_when_its_store_was_removed() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("file", "x");
    let pids = store.daemon();
    let log = File::open(store.path().join("mountd.log")).unwrap();
    // Moved first: what is removed while mountd works in it may not become empty.
    let aside = store.side_dir().join("removed");
    fs::rename(store.path(), &aside).unwrap();
    fs::remove_dir_all(aside).unwrap();
    for pid in pids {
        assert!(wait_for_exit(pid, Duration::from_secs(40)), "mountd still runs");
    }
    let log = std::io::read_to_string(log).unwrap();
    assert!(log.lines().any(|line| line.contains(" ERROR ") && line.contains("removed")), "{log}");
    // Nothing of it is in the way of a new one.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(mount.root().to_str().unwrap()), "{table}");
    drop(mount);
    assert!(store.mount("v").names("/").is_empty());
}

//! What happens when something is wrong: one clear line, the documented exit code or errno, nothing
//! lost and nothing half-done.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use serde_json::json;

const WRONG_USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const REFUSED: i32 = 5;
const DAMAGED: i32 = 6;

/// Runs `durdir mount` on this place and returns the complaint.
fn mount_refused(store: &Store, code: i32, place: &Path, more: &[&str]) -> String {
    let mut args = vec!["mount".into(), "v".into(), place.as_os_str().to_owned()];
    args.extend(more.iter().map(Into::into));
    store.refused(code, args)
}

// Mount points.

#[test]
fn missing_mount_point_is_not_found() {
    let store = Store::new();
    let place = store.side_dir().join("missing");
    let complaint = mount_refused(&store, NOT_FOUND, &place, &["--create"]);
    assert!(complaint.contains("missing"), "{complaint}");
    assert!(!place.exists());
}

#[test]
fn file_as_a_mount_point_is_refused() {
    let store = Store::new();
    let place = store.side_dir().join("file");
    fs::write(&place, "content").unwrap();
    let complaint = mount_refused(&store, REFUSED, &place, &["--create"]);
    assert!(complaint.contains("file") && complaint.contains("directory"), "{complaint}");
    assert_eq!(fs::read(&place).unwrap(), b"content");
}

#[test]
fn mount_point_in_use_is_a_conflict() {
    let store = Store::new();
    let mount = store.mount("v");
    store.create_volume("w");
    let complaint = store.refused(CONFLICT, ["mount".as_ref(), "w".as_ref(), mount.root().as_os_str()]);
    assert!(complaint.contains(mount.root().to_str().unwrap()), "{complaint}");
    mount.write("file", "still there");
}

#[test]
fn volume_mounted_elsewhere_is_a_conflict() {
    let store = Store::new();
    let mount = store.mount("v");
    let complaint = mount_refused(&store, CONFLICT, &store.mountpoint(), &[]);
    assert!(complaint.contains(mount.root().to_str().unwrap()), "the remedy needs the place: {complaint}");
}

#[test]
fn failed_mount_creates_no_volume() {
    let store = Store::new();
    mount_refused(&store, NOT_FOUND, Path::new("/nonexistent/place"), &["--create"]);
    assert!(store.json(["volume", "ls"]).as_array().unwrap().is_empty());
}

#[test]
fn unmounting_what_is_not_mounted_is_not_found() {
    let store = Store::new();
    store.create_volume("v");
    store.refused(NOT_FOUND, ["umount".as_ref(), store.mountpoint().as_os_str()]);
    store.refused(NOT_FOUND, ["umount", "v"]);
}

// Volumes and snapshots.

#[test]
fn unknown_volume_is_not_found_by_every_command() {
    let store = Store::new();
    let complaint = mount_refused(&store, NOT_FOUND, &store.mountpoint(), &[]);
    assert!(complaint.contains("--create") && complaint.contains('v'), "it names the remedy: {complaint}");
    for command in [
        &["volume", "show", "missing"][..],
        &["volume", "rm", "missing"],
        &["volume", "rename", "missing", "new"],
        &["volume", "rollback", "missing", "missing@s"],
        &["snapshot", "create", "missing"],
        &["snapshot", "ls", "missing"],
        &["snapshot", "show", "missing@s"],
        &["snapshot", "rm", "missing@s"],
        &["snapshot", "diff", "missing@s"],
        &["fork", "missing@s", "new"],
        &["log", "missing"],
        &["stats", "missing"],
    ] {
        let complaint = store.refused(NOT_FOUND, command);
        assert!(complaint.contains("missing"), "{command:?}: {complaint}");
    }
    assert!(store.json(["volume", "ls"]).as_array().unwrap().is_empty());
}

#[test]
fn volume_that_exists_is_a_conflict() {
    let store = Store::new();
    store.create_volume("one");
    store.create_volume("two");
    store.refused(CONFLICT, ["volume", "create", "one"]);
    store.refused(CONFLICT, ["volume", "rename", "one", "two"]);
    assert_eq!(store.json(["volume", "ls"]).as_array().unwrap().len(), 2);
}

#[test]
fn mounted_volume_cannot_be_removed() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("file", "x");
    let complaint = store.refused(CONFLICT, ["volume", "rm", "v"]);
    assert!(complaint.contains("mounted"), "{complaint}");
    assert_eq!(mount.text("file"), "x");
}

#[test]
fn impossible_names_are_refused() {
    let store = Store::new();
    let long = "n".repeat(300);
    for name in ["", ".", "..", "a/b", "a@b", "with space", "new\nline", &long] {
        let finished = store.durdir(["volume", "create", name]);
        assert!([Some(REFUSED), Some(WRONG_USAGE)].contains(&finished.code()), "{name:?}: {finished}");
    }
    store.create_volume("v");
    for name in ["a/b", "7", "a@b", ".."] {
        let finished = store.durdir(["snapshot", "create", "v", "--name", name]);
        assert!([Some(REFUSED), Some(WRONG_USAGE)].contains(&finished.code()), "{name:?}: {finished}");
    }
    assert!(store.json(["snapshot", "ls"]).as_array().unwrap().is_empty());
}

#[test]
fn names_of_the_volumes_of_commits_are_reserved() {
    let store = Store::new();
    store.create_volume("v");
    store.snapshot("v", "s");
    let place = store.mountpoint();
    let place = place.to_str().unwrap();
    for command in [
        &["volume", "create", "_commit.x"][..],
        &["volume", "rename", "v", "_commit.0.home"],
        &["mount", "_commit.x", place, "--create"],
        &["fork", "v@s", "_commit.x"],
        &["fork", "v@s", "_commit.x", "--mount", place],
    ] {
        let complaint = store.refused(REFUSED, command);
        assert!(complaint.contains("reserved"), "{command:?}: {complaint}");
    }
    assert_eq!(store.json(["volume", "ls"]).as_array().unwrap().len(), 1);
    // It is the beginning that is.
    store.create_volume("x._commit.y");
}

#[test]
fn a_snapshot_is_not_mounted_as_a_volume_and_the_remedy_is_told() {
    let store = Store::new();
    store.create_volume("v");
    store.snapshot("v", "s");
    let place = store.mountpoint();
    let complaint = store.refused(NOT_FOUND, ["mount", "v@s", place.to_str().unwrap()]);
    assert!(complaint.contains("--snapshot s") && !complaint.contains("--create"), "{complaint}");
}

#[test]
fn what_a_preview_complains_about_is_called_by_its_own_name() {
    let store = Store::new();
    let complaint = store.refused(NOT_FOUND, ["--json", "actor", "rm", "nothing", "--dry-run"]);
    assert!(complaint.starts_with("durdir: actor rm --dry-run nothing: "), "{complaint}");
}

#[test]
fn wrong_usage_is_told_before_anything_is_done() {
    let store = Store::new();
    for command in [
        &["nonsense"][..],
        &[],
        &["mount", "v"],
        &["mount", "v", "/mnt", "--quota-bytes", "plenty"],
        &["mount", "v", "/mnt", "--quota-inodes", "-1"],
        &["mount", "v", "/mnt", "--cache", "sometimes"],
        &["mount", "v", "/mnt", "--create", "--snapshot", "s"],
        &["mount", "v", "/mnt", "--quota-bytes", "0"],
        &["mount", "v", "/mnt", "--quota-inodes", "0", "--create"],
        &["volume", "create", "v", "--quota-bytes", "0"],
        &["volume", "create", "v", "--quota-inodes", "0"],
        &["volume", "set-quota", "v", "--bytes", "0"],
        &["snapshot", "create"],
        &["snapshot", "show", "no-at-sign"],
        &["fork", "v@s"],
        &["volume", "show", "v", "--unknown-option"],
    ] {
        store.refused(WRONG_USAGE, command);
    }
    assert!(!store.path().exists() || names_in(store.path()).unwrap().is_empty(), "no store was made");
}

// Lowers.

#[test]
fn missing_lower_is_not_found() {
    let store = Store::new();
    let place = store.mountpoint();
    let complaint = mount_refused(&store, NOT_FOUND, &place, &["--create", "--lower", "/nonexistent/lower"]);
    assert!(complaint.contains("/nonexistent/lower"), "{complaint}");
    store.refused(NOT_FOUND, ["volume", "create", "w", "--lower", "/nonexistent/lower"]);
    assert!(store.json(["volume", "ls"]).as_array().unwrap().is_empty());
}

#[test]
fn file_as_a_lower_is_refused() {
    let store = Store::new();
    let file = store.side_dir().join("file");
    fs::write(&file, "x").unwrap();
    let complaint = store.refused(
        REFUSED,
        ["volume".as_ref(), "create".as_ref(), "v".as_ref(), "--lower".as_ref(), file.as_os_str()],
    );
    assert!(complaint.contains(file.to_str().unwrap()), "{complaint}");
}

#[test]
fn paths_of_any_bytes_are_shown_on_one_line_and_told_exactly() {
    let store = Store::new();
    let lower = store.side_dir().join(OsStr::from_bytes(b"a\nb\x1b[31m\xff"));
    fs::create_dir(&lower).unwrap();
    let volume = ["volume", "create", "odd", "--lower"].map(OsStr::new);
    store.ok(volume.into_iter().chain([lower.as_os_str()]));
    let at = store.side_dir().join(OsStr::from_bytes(b"m\n\x1b\xfe"));
    fs::create_dir(&at).unwrap();
    let hex = |path: &Path| -> String {
        path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let shown = |finished: Finished, lines: usize| {
        let text = finished.text();
        assert_eq!(text.lines().count(), lines, "{text:?}");
        assert!(!text.contains('\x1b'), "{text:?}");
        text
    };

    let mount = [OsStr::new("mount"), OsStr::new("odd"), at.as_os_str()];
    let text = shown(store.ok(mount), 1);
    assert!(text.contains("m\\n\\u{1b}\u{fffd}"), "{text}");
    let text = shown(store.ok(["volume", "show", "odd"]), 9);
    assert!(text.contains("a\\nb\\u{1b}[31m\u{fffd}"), "{text}");
    shown(store.ok(["volume", "ls"]), 2);
    let volume = store.volume("odd");
    assert_eq!((&volume["lowers_hex"], &volume["mounts_hex"]), (&json!([hex(&lower)]), &json!([hex(&at)])));
    let umount = [OsStr::new("umount"), at.as_os_str()];
    shown(store.ok(umount), 1);

    let mounted = store.json(mount);
    assert_eq!(mounted["mountpoint_hex"], hex(&at));
    let unmounted = store.json(umount);
    assert_eq!(unmounted["unmounted"][0]["mountpoint_hex"], hex(&at));

    store.ok(["snapshot", "create", "odd", "--name", "s"]);
    let fork = ["fork", "odd@s", "even", "--mount"].map(OsStr::new);
    shown(store.ok(fork.into_iter().chain([at.as_os_str()])), 2);
    store.ok(umount);
    // What is text has no other form.
    store.create_volume("plain");
    assert!(store.volume("plain").get("lowers_hex").is_none());
}

#[test]
fn lower_that_went_away_is_told_and_nothing_of_the_volume_is_lost() {
    let store = Store::new();
    let lower = store.side_dir().join("lower");
    fs::create_dir(&lower).unwrap();
    fs::write(lower.join("low"), "low").unwrap();
    let mount = store.mount_over("v", &[&lower]);
    mount.write("up", "up");
    mount.unmount();
    fs::rename(&lower, lower.with_extension("away")).unwrap();
    let complaint = mount_refused(&store, NOT_FOUND, &store.mountpoint(), &[]);
    assert!(complaint.contains(lower.to_str().unwrap()), "{complaint}");
    fs::rename(lower.with_extension("away"), &lower).unwrap();
    let mount = store.mount("v");
    assert_eq!((mount.text("low"), mount.text("up")), ("low".into(), "up".into()));
}

#[test]
fn lower_changed_behind_our_back_is_an_error_not_a_mixture() {
    let store = Store::new();
    store.expect_alarm("lower");
    store.expect_alarm("changed");
    let lower = store.side_dir();
    fs::write(lower.join("file"), noise(1, 0, 300_000)).unwrap();
    let mount = store.mount_over("v", &[&lower]);
    OpenOptions::new().write(true).open(mount.path("file")).unwrap().write_all_at(b"copied up", 0).unwrap();
    let mount = mount.restart();
    fs::write(lower.join("file"), noise(2, 0, 200_000)).unwrap();
    let file = File::open(mount.path("file")).unwrap();
    let mut page = vec![0; 4096];
    assert_errno!(file.read_at(&mut page, 100_000 / 4096 * 4096), EIO | ESTALE);
}

// Names in the volume.

#[test]
fn name_of_256_bytes_is_too_long_for_every_operation() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("file", "x");
    let long = mount.path("n".repeat(256));
    assert_errno!(File::create(&long), ENAMETOOLONG);
    assert_errno!(fs::create_dir(&long), ENAMETOOLONG);
    assert_errno!(fs::rename(mount.path("file"), &long), ENAMETOOLONG);
    assert_errno!(fs::hard_link(mount.path("file"), &long), ENAMETOOLONG);
    assert_errno!(fs::symlink_metadata(&long), ENAMETOOLONG);
    assert_eq!(mount.names("/"), ["file"]);
}

// Quota.

#[test]
fn quota_that_is_reached_is_edquot_and_leaves_everything_as_it_was() {
    let store = Store::new();
    let mount = store.mount_with("v", &["--quota-bytes", "64KiB", "--quota-inodes", "10"]);
    mount.write("kept", noise(1, 0, 60_000));
    let file = File::create(mount.path("too much")).unwrap();
    assert_errno!(file.write_at(&noise(2, 0, 60_000), 0), EDQUOT);
    assert_eq!(file.metadata().unwrap().len(), 0);
    drop(file);
    fs::remove_file(mount.path("too much")).unwrap();
    let mount = mount.restart();
    assert_eq!(mount.names("/"), ["kept"]);
    assert!(mount.read("kept") == noise(1, 0, 60_000));
}

// Stores and daemons.

#[test]
fn second_daemon_on_a_store_is_a_conflict() {
    let store = Store::new();
    let mount = store.mount("v");
    let mut second = Command::new(binary("mountd"));
    second
        .arg("--store")
        .arg(store.path())
        .arg("--socket")
        .arg(store.side_dir().join("other.sock"))
        .arg("--foreground");
    let finished = run(&mut second, Duration::from_secs(30));
    assert_eq!(finished.code(), Some(CONFLICT), "{finished}");
    let complaint = finished.complaint();
    assert!(complaint.contains(store.path().to_str().unwrap()), "{complaint}");
    mount.write("file", "the first goes on");
    assert_eq!(mount.restart().text("file"), "the first goes on");
}

#[test]
fn store_of_a_newer_format_is_refused_and_left_alone() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("file", "x");
    mount.unmount();
    store.stop_daemon();
    let format = store.path().join("FORMAT");
    let own = fs::read_to_string(&format).unwrap();
    let number = own.trim().rsplit(' ').next().unwrap().to_owned();
    fs::write(&format, own.replace(&number, "9999")).unwrap();
    let before = Tree::of(store.path().join("db"));
    let complaint = store.refused(REFUSED, ["volume", "ls"]);
    assert!(complaint.contains("9999") && complaint.contains(&number), "{complaint}");
    assert_eq!(differences(&before, &Tree::of(store.path().join("db"))), Vec::<String>::new());
    fs::write(&format, own).unwrap();
    assert_eq!(store.mount("v").text("file"), "x");
}

#[test]
fn directory_with_something_else_in_it_is_no_store() {
    let base = Store::new();
    let dir = base.side_dir();
    fs::write(dir.join("thesis.tex"), "precious").unwrap();
    let store = Store::in_dir(&dir);
    let complaint = store.refused(REFUSED, ["volume", "ls"]);
    assert!(complaint.contains(dir.to_str().unwrap()), "{complaint}");
    assert_eq!(names_in(&dir).unwrap(), ["thesis.tex"]);
}

#[test]
fn store_below_a_file_or_in_a_read_only_place_fails_clearly() {
    let base = Store::new();
    let file = base.side_dir().join("file");
    fs::write(&file, "x").unwrap();
    for dir in [file.join("store"), PathBuf::from("/proc/durdir")] {
        let finished = Store::in_dir(&dir).durdir(["volume", "ls"]);
        assert!(finished.code().is_some_and(|code| code != 0), "{finished}");
        assert_eq!(finished.complaint().trim_end().lines().count(), 1, "{finished}");
        assert!(finished.complaint().contains(dir.to_str().unwrap()), "{finished}");
    }
}

#[test]
fn killed_daemon_is_replaced_by_the_next_command() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("file", "x");
    store.kill_daemon();
    assert_errno!(fs::read(mount.path("file")), ENOTCONN);
    assert_eq!(store.json(["volume", "ls"]).as_array().unwrap().len(), 1);
    let mount = mount.after_kill();
    assert_eq!(mount.text("file"), "x");
}

#[test]
fn dead_mount_can_be_unmounted() {
    let store = Store::new();
    let mount = store.mount("v");
    store.kill_daemon();
    store.umount(mount.root());
    assert!(names_in(mount.root()).unwrap().is_empty());
}

// Damage.

/// Flips one bit where `pattern` lies in a file of the store; returns whether it was found.
fn damage(store: &Store, pattern: &[u8]) -> bool {
    fn files(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                files(&path, found);
            } else if meta.is_file() {
                found.push(path);
            }
        }
    }
    let mut all = Vec::new();
    files(store.path(), &mut all);
    let mut hits = 0;
    for path in all {
        let content = fs::read(&path).unwrap();
        let places = content
            .windows(pattern.len())
            .enumerate()
            .filter(|(_, window)| *window == pattern)
            .map(|(at, _)| at);
        for at in places {
            let byte = content[at + pattern.len() / 2];
            OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .write_all_at(&[byte ^ 0x10], (at + pattern.len() / 2) as u64)
                .unwrap();
            hits += 1;
        }
    }
    hits > 0
}

#[test]
fn damaged_data_is_an_error_and_never_wrong_bytes() {
    let store = Store::new();
    store.expect_damage();
    store.expect_alarm("checksum");
    store.expect_alarm("damaged");
    store.expect_alarm("corrupt");
    let mount = store.mount("v");
    mount.write("hurt", noise(1, 0, 256 << 10));
    mount.write("fine", noise(2, 0, 256 << 10));
    store.snapshot("v", "s");
    mount.unmount();
    store.stop_daemon();
    assert!(damage(&store, &noise(1, 100 << 10, 64)), "the data was not found in the store");
    let mount = store.mount("v");
    let file = File::open(mount.path("hurt")).unwrap();
    let mut page = vec![0; 4096];
    assert_errno!(file.read_at(&mut page, 100 << 10), EIO);
    file.read_exact_at(&mut page, 200 << 10).unwrap();
    assert!(page == noise(1, 200 << 10, 4096), "the rest of the file can be read");
    assert!(mount.read("fine") == noise(2, 0, 256 << 10));
    let log = store.log();
    assert!(log.contains("hurt"), "the log names the file:\n{log}");
    let checked = store.durdir(["--json", "fsck"]);
    let verified = store.durdir(["--json", "verify"]);
    assert!(checked.code() == Some(DAMAGED) || verified.code() == Some(DAMAGED), "{checked}\n{verified}");
}

/// The first write of a page comes with a checksum; what rewrites it gets one when its epoch ends.
#[test]
fn damage_to_a_page_that_was_rewritten_in_place_is_an_error_once_it_is_sealed() {
    let store = Store::new();
    store.expect_damage();
    store.expect_alarm("checksum");
    let mount = store.mount("v");
    mount.write("hurt", noise(1, 0, 256 << 10));
    let file = open(mount.path("hurt"), libc::O_RDWR, 0).unwrap();
    file.write_all_at(&noise(2, 0, 256 << 10), 0).unwrap();
    store.snapshot("v", "s");
    // Seals what waits, and returns when it is done.
    store.ok(["gc"]);
    drop(file);
    mount.unmount();
    store.stop_daemon();
    assert!(damage(&store, &noise(2, 100 << 10, 64)), "the data was not found in the store");
    for seen in [store.mount("v"), store.mount_snapshot("v@s")] {
        let file = File::open(seen.path("hurt")).unwrap();
        let mut page = vec![0; 4096];
        assert_errno!(file.read_at(&mut page, 100 << 10), EIO);
        file.read_exact_at(&mut page, 200 << 10).unwrap();
        assert!(page == noise(2, 200 << 10, 4096), "the rest of the file can be read");
    }
    let checked = store.durdir(["--json", "fsck"]);
    assert_eq!(checked.code(), Some(DAMAGED), "{checked}");
}

#[test]
fn damaged_record_is_an_error_and_harms_nothing_else() {
    let store = Store::new();
    store.expect_damage();
    for word in ["checksum", "damaged", "corrupt", "Corruption"] {
        store.expect_alarm(word);
    }
    let mount = store.mount("v");
    mount.write("hurt", noise(1, 0, 2000));
    mount.unmount();
    // Reopening twice moves the record from the log into a table.
    store.stop_daemon();
    let mount = store.mount("v");
    mount.write("later", noise(2, 0, 2000));
    mount.unmount();
    store.stop_daemon();
    assert!(damage(&store, &noise(1, 500, 64)), "the record was not found in the store");
    let finished = store.durdir(["volume", "ls"]);
    if finished.status.success() {
        let mount = store.mount("v");
        let seen = fs::read(mount.path("hurt"));
        assert!(seen.as_ref().is_err_and(|err| err.raw_os_error() == Some(libc::EIO)), "{seen:?}");
    } else {
        // All of the store refuses: then it says why, and that it is damage.
        assert_eq!(finished.code(), Some(DAMAGED), "{finished}");
        assert_eq!(finished.complaint().trim_end().lines().count(), 1, "{finished}");
    }
}

// A full disk.

#[test]
fn full_disk_is_enospc_and_deletes_still_work() {
    let disk = SmallDisk::new(192);
    {
        let store = Store::in_dir(disk.path().join("store"));
        store.expect_alarm("no space left");
        let mount = store.mount("v");
        let mut made = 0u64;
        let refused = loop {
            assert!(made < 1000, "192 MiB hold less than this");
            let file = File::create(mount.path(format!("f{made}")));
            let done = file.and_then(|file| {
                file.write_all_at(&noise(made, 0, 1 << 20), 0)?;
                file.sync_all()
            });
            match done {
                Ok(()) => made += 1,
                Err(err) => break err,
            }
        };
        assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
        assert!(made > 80, "only {made} MiB of 192 could be used");
        // What was refused last is whole or not there.
        drop(fs::remove_file(mount.path(format!("f{made}"))));
        for number in (0..made).step_by(10) {
            assert!(mount.read(format!("f{number}")) == noise(number, 0, 1 << 20), "file {number}");
        }
        for number in 0..made / 2 {
            fs::remove_file(mount.path(format!("f{number}"))).unwrap();
        }
        store.ok(["gc"]);
        eventually("there is room again", Duration::from_secs(30), || {
            fs::write(mount.path("again"), noise(7, 0, 1 << 20)).is_ok().then_some(())
        });
        let mount = mount.restart();
        assert!(mount.read("again") == noise(7, 0, 1 << 20));
        assert!(mount.read(format!("f{}", made - 1)) == noise(made - 1, 0, 1 << 20));
    }
}

#[test]
fn what_is_only_in_a_lower_can_be_deleted_on_a_full_disk() {
    let disk = SmallDisk::new(128);
    {
        let lower = lower! { "file" => "x", "empty" => dir(), "replaced" => "old", "deep/er/file" => "x" };
        let store = Store::in_dir(disk.path().join("store"));
        store.expect_alarm("no space left");
        store.expect_alarm("No space left on device");
        let mount = store.mount_over_layout("v", lower);
        mount.write("new", "new");
        // As full as it may become by what the store refuses: there is room for the log of deletes.
        let hog = File::create(disk.path().join("hog")).unwrap();
        let (mut at, mut made) = (0, 0);
        let refused = eventually("a new file is refused", Duration::from_secs(60), || {
            // The store keeps a twentieth for deletes, and looks how much there is from time to time only.
            let room = statvfs(disk.path().as_os_str()).unwrap();
            if room.blocks_available() > room.blocks() / 20 {
                hog.write_all_at(&[1; 65_536], at).unwrap();
                at += 65_536;
            }
            made += 1;
            File::create(mount.path(format!("made{made}"))).err()
        });
        assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
        (1..made).for_each(|number| fs::remove_file(mount.path(format!("made{number}"))).unwrap());
        fs::remove_file(mount.path("file")).unwrap();
        fs::remove_dir(mount.path("empty")).unwrap();
        fs::rename(mount.path("new"), mount.path("replaced")).unwrap();
        fs::remove_dir_all(mount.path("deep")).unwrap();
        assert_eq!(mount.names("/"), ["replaced"]);
        assert_eq!(mount.text("replaced"), "new");
    }
}

#[test]
fn disk_filled_by_somebody_else_is_enospc_and_loses_nothing() {
    let disk = SmallDisk::new(128);
    {
        let store = Store::in_dir(disk.path().join("store"));
        // Refused by the store, or by the file system under it where the disk filled up since the store last looked.
        store.expect_alarm("no space left");
        store.expect_alarm("No space left on device");
        let mount = store.mount("v");
        mount.write("kept", noise(1, 0, 1 << 20));
        File::open(mount.path("kept")).unwrap().sync_all().unwrap();
        let hog = File::create(disk.path().join("hog")).unwrap();
        let mut at = 0;
        while hog.write_all_at(&[1; 65_536], at).is_ok() {
            at += 65_536;
        }
        drop(hog);
        let refused = eventually("the daemon sees the full disk", Duration::from_secs(20), || {
            fs::write(mount.path("refused"), noise(2, 0, 1 << 20)).err()
        });
        assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
        assert!(mount.read("kept") == noise(1, 0, 1 << 20));
        fs::remove_file(disk.path().join("hog")).unwrap();
        eventually("there is room again", Duration::from_secs(30), || {
            fs::write(mount.path("again"), noise(7, 0, 1 << 20)).is_ok().then_some(())
        });
        let mount = mount.restart();
        assert!(mount.read("kept") == noise(1, 0, 1 << 20));
        assert!(mount.read("again") == noise(7, 0, 1 << 20));
    }
}

// Output.

#[test]
fn errors_are_json_free_lines_on_standard_error() {
    let store = Store::new();
    store.create_volume("v");
    let finished = store.durdir(["--json", "volume", "show", "missing"]);
    assert_eq!(finished.code(), Some(NOT_FOUND));
    assert!(finished.stdout.is_empty(), "{finished}");
    assert_eq!(finished.complaint().trim_end().lines().count(), 1, "{finished}");
}

#[test]
fn client_that_is_interrupted_leaves_the_daemon_alone() {
    let store = Store::new();
    let mount = store.mount("v");
    let pids = store.daemon();
    let mut child = store.command().args(["snapshot", "create", "v"]).spawn().unwrap();
    signal(i32::try_from(child.id()).unwrap(), Signal::SIGKILL);
    child.wait().unwrap();
    mount.write("file", "x");
    assert_eq!(store.daemon(), pids);
}

//! Looking after a store: `verify`, what `--dry-run` tells, and the support bundle.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use durdir_tests::lower;
use durdir_tests::support::*;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const REFUSED: i32 = 5;
const DAMAGED: i32 = 6;

const PAGE: u64 = 4096;

// verify

/// Flips a bit of the only place in the segments of the store that holds these bytes.
fn damage(store: &Store, pattern: &[u8]) {
    let segments = fs::read_dir(store.path().join("segments")).unwrap();
    let mut found = Vec::new();
    for path in segments.map(|entry| entry.unwrap().path()) {
        let content = fs::read(&path).unwrap();
        let places = content.windows(pattern.len()).enumerate().filter(|(_, bytes)| *bytes == pattern);
        found.extend(places.map(|(at, _)| (path.clone(), at, content[at])));
    }
    let [(path, at, byte)] = found.as_slice() else { panic!("{} places", found.len()) };
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[byte ^ 0x10], *at as u64).unwrap();
}

#[test]
fn sound_store_is_read_in_full_and_clean() {
    let mount = Mount::over(lower! { "low" => noise(1, 0, 100_000) });
    mount.write("up", noise(2, 0, 40 * 4096));
    let store = mount.store().clone();
    store.snapshot("v", "s");
    store.fork("v@s", "w");
    mount.write("up", noise(3, 0, 40 * 4096));
    let report = store.json(["verify"]);
    assert_eq!(
        (&report["clean"], &report["issues"], &report["omitted"]),
        (&json!(true), &json!([]), &json!(0))
    );
    // The head's pages and the snapshot's, which the fork shares.
    assert_eq!((&report["pages"], &report["bytes"]), (&json!(80), &json!(80 * PAGE)));
    assert!(report["records"].as_u64().unwrap() > 0, "{report}");
    let text = store.ok(["verify"]).text();
    assert!(text.starts_with("clean: ") && text.contains("320 KiB of file data read"), "{text}");
    let counted = store.json(["stats"]);
    assert_eq!((&counted["verified_pages"], &counted["verify_pages_left"]), (&json!(160), &json!(0)));
}

#[test]
fn damage_that_only_a_snapshot_shows_is_found_with_exit_code_6() {
    let store = Store::new();
    store.expect_damage();
    let mount = store.mount("v");
    fs::create_dir(mount.path("dir")).unwrap();
    mount.write("dir/hurt", noise(1, 0, 64 << 10));
    mount.write("fine", noise(2, 0, 64 << 10));
    store.snapshot("v", "s");
    mount.write("dir/hurt", noise(3, 0, 64 << 10));
    mount.unmount();
    store.stop_daemon();
    damage(&store, &noise(1, 20_000, 64));
    let finished = store.durdir(["--json", "verify"]);
    assert_eq!(finished.code(), Some(DAMAGED), "{finished}");
    let report: Value = serde_json::from_str(&finished.text()).unwrap();
    assert_eq!(report["clean"], false);
    let issues = report["issues"].as_array().unwrap();
    assert_eq!(issues.len(), 1, "{report}");
    let issue = &issues[0];
    assert_eq!(
        (&issue["kind"], &issue["volume"], &issue["path"], &issue["repaired"]),
        (&json!("wrong-checksum"), &json!("v"), &json!("dir/hurt"), &json!(false))
    );
    assert!(issue["detail"].as_str().unwrap().starts_with("v@1: "), "{issue}");
    // fsck has the same to say.
    let checked: Value = serde_json::from_str(&store.durdir(["--json", "fsck"]).text()).unwrap();
    assert_eq!(checked["issues"], report["issues"]);
    let complaint = store.refused(DAMAGED, ["verify"]);
    assert!(complaint.contains("1 issue"), "{complaint}");
}

#[test]
fn sample_reads_a_part() {
    let mount = Mount::empty();
    // Groups of 64 KiB are what is chosen: 160 of them.
    mount.write("file", noise(1, 0, 10 << 20));
    let store = mount.store().clone();
    let pages = |sample: &str| store.json(["verify", "--sample", sample])["pages"].as_u64().unwrap();
    assert_eq!(pages("100%"), 2560);
    assert_eq!(pages("0%"), 0);
    let half = pages("50%");
    assert!((640..1920).contains(&half), "{half}");
    for wrong in ["50", "101%", "-1%", "half"] {
        store.refused(2, ["verify", "--sample", wrong]);
    }
}

#[test]
fn volume_is_verified_while_programs_write() {
    let mount = Mount::empty();
    let store = mount.store().clone();
    let writing = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (mount, writing) = (&mount, &writing);
        let writer = scope.spawn(move || {
            let mut round = 0;
            while writing.load(Ordering::Relaxed) {
                mount.write(format!("f{}", round % 7), noise(round, 0, 100_000));
                round += 1;
            }
            round
        });
        for number in 0..10 {
            store.snapshot("v", &format!("s{number}"));
            let report = store.json(["verify"]);
            assert_eq!(report["clean"], true, "{report}");
        }
        writing.store(false, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
    });
}

// --dry-run

/// Runs a command and returns what it freed: everything else is swept before.
fn freed_by(store: &Store, command: &[&str]) -> u64 {
    let stored = || {
        store.ok(["gc"]);
        let stats = store.json(["stats"]);
        assert_eq!(stats["sweeps_left"], 0, "{stats}");
        ["segment_bytes", "reclaimed_bytes"].map(|name| stats[name].as_u64().unwrap())
    };
    let [before, reclaimed_before] = stored();
    store.ok(command);
    let [after, reclaimed] = stored();
    let freed = before - after;
    assert!(
        reclaimed - reclaimed_before >= freed,
        "{freed} were freed, and {reclaimed_before} became {reclaimed}"
    );
    freed
}

#[test]
fn removal_of_snapshots_is_told_and_not_done() {
    let store = Store::new();
    let mount = store.mount("v");
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        mount.write("file", noise(seed, 0, 100 * PAGE as usize));
        store.snapshot("v", name);
    }
    let before = store.json(["snapshot", "ls"]);
    let alone = store.json(["snapshot", "rm", "v@one", "--dry-run"]);
    assert_eq!(alone, json!({"dry_run": true, "removed": ["v@1"], "bytes": 100 * PAGE}));
    assert_eq!(store.json(["snapshot", "rm", "v@three", "--dry-run"])["bytes"], 0, "the volume shows it");
    let both = store.json(["snapshot", "rm", "v@one", "v@two", "v@2", "--dry-run"]);
    assert_eq!(both, json!({"dry_run": true, "removed": ["v@1", "v@2"], "bytes": 200 * PAGE}));
    let text = store.ok(["snapshot", "rm", "v@one", "--dry-run"]).text();
    assert_eq!(text, "would remove v@1, and free 400 KiB\n");
    assert_eq!(store.json(["snapshot", "ls"]), before);
    assert_eq!(freed_by(&store, &["snapshot", "rm", "v@one", "v@two"]), 200 * PAGE);
}

#[test]
fn removal_of_a_volume_is_told_and_not_done() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("shared", noise(1, 0, 50 * PAGE as usize));
    store.snapshot("v", "one");
    store.fork("v@one", "w");
    mount.write("own", noise(2, 0, 30 * PAGE as usize));
    store.snapshot("v", "two");
    mount.write("own", noise(3, 0, 30 * PAGE as usize));
    store.refused(CONFLICT, ["volume", "rm", "v", "--dry-run"]);
    mount.unmount();
    let told = store.json(["volume", "rm", "v", "--dry-run"]);
    let expected = json!({"dry_run": true, "removed": "v", "snapshots": ["v@1", "v@2"], "bytes": 60 * PAGE});
    assert_eq!(told, expected);
    let text = store.ok(["volume", "rm", "v", "--dry-run"]).text();
    assert_eq!(text, "would remove volume v with v@1, v@2, and free 240 KiB\n");
    assert_eq!(store.volume("v")["name"], "v");
    assert_eq!(freed_by(&store, &["volume", "rm", "v"]), 60 * PAGE);
    assert_eq!(store.json(["volume", "rm", "w", "--dry-run"])["bytes"], 50 * PAGE);
}

#[test]
fn rollback_is_told_and_not_done() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("kept", "x");
    mount.write("changed", noise(1, 0, 10 * PAGE as usize));
    mount.write("gone", "x");
    store.snapshot("v", "old");
    mount.write("between", "x");
    store.snapshot("v", "new");
    mount.write("changed", noise(2, 0, 10 * PAGE as usize));
    mount.write("added", noise(3, 0, 5 * PAGE as usize));
    fs::remove_file(mount.path("gone")).unwrap();
    fs::rename(mount.path("between"), mount.path("renamed")).unwrap();
    let told = store.json(["volume", "rollback", "v", "old", "--dry-run"]);
    assert_eq!(
        (&told["dry_run"], &told["volume"], &told["snapshot"], &told["since"], &told["bytes"]),
        (&json!(true), &json!("v"), &json!("v@old"), &json!("v@2"), &json!(15 * PAGE))
    );
    let lost = &told["lost"];
    assert_eq!(
        (&lost["added"], &lost["removed"], &lost["modified"], &lost["renamed"]),
        (&json!(1), &json!(1), &json!(1), &json!(1)),
        "{told}"
    );
    assert_eq!(mount.read("added").len() as u64, 5 * PAGE);
    let text = store.ok(["volume", "rollback", "v", "v@old", "--dry-run"]).text();
    assert!(text.contains("since v@2: 1 added, 1 removed, 1 modified, 1 renamed"), "{text}");
    assert_eq!(freed_by(&store, &["volume", "rollback", "v", "v@old"]), 15 * PAGE);
    assert!(!mount.path("added").exists());
}

#[test]
fn dry_run_of_the_impossible_is_refused_as_the_real_thing() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("file", "x");
    store.snapshot("v", "s");
    store.fork("v@s", "w");
    let seen = store.mount_snapshot("v@s");
    store.refused(CONFLICT, ["snapshot", "rm", "v@s", "--dry-run"]);
    seen.unmount();
    store.refused(NOT_FOUND, ["volume", "rm", "missing", "--dry-run"]);
    store.refused(NOT_FOUND, ["snapshot", "rm", "v@s", "v@9", "--dry-run"]);
    store.refused(NOT_FOUND, ["volume", "rollback", "v", "v@9", "--dry-run"]);
    store.refused(REFUSED, ["volume", "rollback", "w", "v@s", "--dry-run"]);
    let real = store.durdir(["volume", "rollback", "w", "v@s"]);
    assert_eq!(real.code(), Some(REFUSED), "{real}");
}

// bundle

/// The secrets of the tests: none of them may be in a bundle.
const SECRET_NAME: &str = "name-of-a-secret-file";
const SECRET_CONTENT: &str = "content of a secret file";
const SECRET_VALUE: &str = "value-of-a-secret-variable";

/// Unpacks a bundle and returns the directory with its members.
fn unpack(store: &Store, file: &Path) -> PathBuf {
    let dir = store.side_dir();
    program("tar", "tar").arg("-xf").arg(file).arg("-C").arg(&dir).ok();
    dir.join("durdir-bundle")
}

fn json_of(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(&path).unwrap())
        .unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

#[test]
fn bundle_has_everything_and_no_secret() {
    let store = Store::new();
    let config = store.side_dir().join("mountd.toml");
    // Libraries log names of files at this level.
    fs::write(&config, "# password: hunter2\n[log]\nfilter = 'debug'\n").unwrap();
    fs::create_dir_all(store.path()).unwrap();
    let log = fs::File::create(store.path().join("mountd.log")).unwrap();
    let mut mountd = store.mountd(["--foreground".as_ref(), "--config".as_ref(), config.as_os_str()]);
    let mut mountd = mountd.env("DURDIR_TEST_TOKEN", SECRET_VALUE).stderr(log).spawn().unwrap();
    eventually("mountd is ready", Duration::from_secs(60), || {
        store.log().contains("mountd is ready").then_some(())
    });
    let mount = store.mount("web");
    mount.write(SECRET_NAME, SECRET_CONTENT);
    store.snapshot("web", "first");
    assert!(store.log().contains(SECRET_NAME), "the log has what must not be in the bundle");
    let file = store.side_dir().join("bundle.tar");
    let listed = store.json(["bundle", file.to_str().unwrap()]);
    assert_eq!(listed["file"], file.to_str().unwrap());

    let archive = fs::read(&file).unwrap();
    for secret in [SECRET_NAME, SECRET_CONTENT, SECRET_VALUE, "hunter2"] {
        let found = archive.windows(secret.len()).any(|bytes| bytes == secret.as_bytes());
        assert!(!found, "{secret} is in the bundle");
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let top = unpack(&store, &file);
    for member in listed["members"].as_array().unwrap() {
        let path = top.parent().unwrap().join(member["name"].as_str().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().len(), member["bytes"].as_u64().unwrap(), "{member}");
    }
    assert!(json_of(top.join("versions.json"))["mountd"].is_string());
    assert_eq!(json_of(top.join("doctor.json"))["problems"], json!([]));
    assert!(json_of(top.join("stats.json"))["volumes"]["web"].is_object());
    let settings = json_of(top.join("config.json"));
    assert_eq!((&settings["log_filter"], &settings["log_format"]), (&json!("debug"), &json!("text")));
    let records = json_of(top.join("records.json"));
    let of = |kind: &str| {
        let found = records.as_array().unwrap().iter().find(|one| one["kind"] == kind);
        found.unwrap_or_else(|| panic!("{kind} in {records}"))["records"].clone()
    };
    assert_eq!((of("meta/volume"), of("meta/snapshot")), (json!(1), json!(1)));
    let read = |name: &str| fs::read_to_string(top.join(name)).unwrap();
    assert!(read("mounts.txt").contains(&format!("web at {}", mount.root().display())));
    assert!(read("processes/worker/environment").contains("DURDIR_TEST_TOKEN=(redacted)"));
    assert!(read("processes/worker/threads").lines().count() > 3);
    assert!(read("processes/supervisor/cmdline").contains("--foreground"));
    assert!(read("processes/worker/descriptors").contains("/dev/fuse"));
    assert!(read("log.txt").contains("mountd is ready"), "{}", read("log.txt"));
    assert!(read("README.txt").contains("Nothing is missing"), "{}", read("README.txt"));

    mount.unmount();
    signal(i32::try_from(mountd.id()).unwrap(), Signal::SIGTERM);
    mountd.wait().unwrap();
}

#[test]
fn bundle_is_made_while_mountd_hangs_and_where_none_runs() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write(SECRET_NAME, SECRET_CONTENT);
    let worker = store.worker_pid();
    signal(worker, Signal::SIGSTOP);
    let file = store.side_dir().join("hanging.tar");
    let finished = store.durdir(["bundle", file.to_str().unwrap()]);
    signal(worker, Signal::SIGCONT);
    finished.ok();
    let top = unpack(&store, &file);
    let missing = fs::read_to_string(top.join("README.txt")).unwrap();
    assert!(missing.contains("stats.json: mountd does not answer"), "{missing}");
    let problems = json_of(top.join("doctor.json"))["problems"].to_string();
    assert!(problems.contains("daemon-stopped"), "{problems}");
    assert!(fs::read_to_string(top.join("processes/worker/status")).unwrap().contains("(stopped)"));

    mount.unmount();
    store.stop_daemon();
    let file = store.side_dir().join("none.tar");
    store.ok(["bundle", file.to_str().unwrap()]);
    let top = unpack(&store, &file);
    assert_eq!(json_of(top.join("versions.json"))["mountd"], Value::Null);
    assert!(json_of(top.join("records.json")).as_array().unwrap().len() > 5);
}

#[test]
fn bundle_overwrites_nothing_and_needs_a_store() {
    let store = Store::new();
    let file = store.side_dir().join("bundle.tar");
    store.refused(NOT_FOUND, ["bundle", file.to_str().unwrap()]);
    assert!(!file.exists());
    store.create_volume("v");
    fs::write(&file, "mine").unwrap();
    store.refused(CONFLICT, ["bundle", file.to_str().unwrap()]);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    store.refused(NOT_FOUND, ["bundle", "/nonexistent/bundle.tar"]);
}

//! Looking after a store: `verify`.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use durdir_tests::lower;
use durdir_tests::support::*;
use serde_json::{Value, json};

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

//! The commands and what they print: scripts rely on every name here.

use std::fs;

use durdir_tests::lower;
use durdir_tests::support::*;
use serde_json::Value;

/// A field's name, and what its value must be.
type Field<'a> = (&'a str, &'a dyn Fn(&Value) -> bool);

/// Asserts that a JSON object has these fields, of these types.
#[track_caller]
fn has(object: &Value, fields: &[Field<'_>]) {
    for (name, fits) in fields {
        assert!(object.get(name).is_some_and(fits), "{name} in {object}");
    }
}

fn number(value: &Value) -> bool {
    value.is_u64()
}

fn text(value: &Value) -> bool {
    value.is_string()
}

fn list(value: &Value) -> bool {
    value.is_array()
}

fn text_or_null(value: &Value) -> bool {
    value.is_string() || value.is_null()
}

fn number_or_null(value: &Value) -> bool {
    value.is_u64() || value.is_null()
}

#[test]
fn volumes_are_created_listed_renamed_and_removed() {
    let store = Store::new();
    let names = || -> Vec<String> {
        let all = store.json(["volume", "ls"]);
        let mut names: Vec<String> =
            all.as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert!(names().is_empty());
    store.create_volume("one");
    store.create_volume("two");
    assert_eq!(names(), ["one", "two"]);
    store.ok(["volume", "rename", "one", "three"]);
    store.ok(["volume", "rm", "two"]);
    assert_eq!(names(), ["three"]);
    store.stop_daemon();
    assert_eq!(names(), ["three"]);
}

#[test]
fn volume_document_has_its_pinned_fields() {
    let lower = lower! { "a" => "x" }.build();
    let store = Store::new();
    store.ok(["volume", "create", "v", "--lower", lower.path().to_str().unwrap(), "--quota-bytes", "1GiB"]);
    let shown = store.volume("v");
    has(
        &shown,
        &[
            ("name", &text),
            ("id", &number),
            ("epoch", &number),
            ("parent", &text_or_null),
            ("lowers", &list),
            ("used_bytes", &number),
            ("used_inodes", &number),
            ("quota_bytes", &number_or_null),
            ("quota_inodes", &number_or_null),
            ("mounts", &list),
        ],
    );
    assert_eq!(
        (&shown["lowers"][0], &shown["quota_bytes"]),
        (&lower.path().to_str().unwrap().into(), &GIB.into())
    );
    assert_eq!(store.json(["volume", "ls"])[0], shown);
}

#[test]
fn renamed_volume_keeps_its_content_and_its_snapshots() {
    let store = Store::new();
    let mount = store.mount("before");
    mount.write("file", "x");
    store.snapshot("before", "s");
    mount.unmount();
    store.ok(["volume", "rename", "before", "after"]);
    assert_eq!(store.mount("after").text("file"), "x");
    assert_eq!(store.mount_snapshot("after@s").text("file"), "x");
    store.refused(3, ["snapshot", "show", "before@s"]);
}

#[test]
fn removed_volume_leaves_its_name_free() {
    let store = Store::new();
    let mount = store.mount("v");
    mount.write("old", "x");
    store.snapshot("v", "s");
    mount.unmount();
    store.ok(["volume", "rm", "v"]);
    let mount = store.mount("v");
    assert!(mount.names("/").is_empty());
    assert!(store.json(["snapshot", "ls", "v"]).as_array().unwrap().is_empty());
}

#[test]
fn statistics_count_operations_and_cuts() {
    let store = Store::new();
    let mount = store.mount("v");
    for number in 0..20 {
        mount.write(format!("f{number}"), "x");
    }
    store.snapshot("v", "s");
    let stats = store.json(["stats"]);
    assert_eq!(stats["cuts"], 1, "{stats}");
    let write = &stats["volumes"]["v"]["write"];
    has(write, &[("count", &number), ("errors", &number), ("p50_us", &number), ("p99_us", &number)]);
    assert!(write["count"].as_u64().unwrap() >= 20, "{write}");
    assert!(write["p50_us"].as_u64() <= write["p99_us"].as_u64(), "{write}");
    assert_eq!(store.json(["stats", "v"])["volumes"]["v"]["create"]["errors"], 0);
}

#[test]
fn check_of_a_sound_store_is_clean() {
    let mount = Mount::over(lower! { "low" => noise(1, 0, 100_000) });
    mount.write("up", noise(2, 0, 100_000));
    mount.write("low", "changed");
    let store = mount.store().clone();
    store.snapshot("v", "s");
    store.fork("v@s", "w");
    let online = store.json(["fsck"]);
    has(&online, &[("clean", &Value::is_boolean), ("issues", &list)]);
    assert_eq!((&online["clean"], online["issues"].as_array().unwrap().len()), (&true.into(), 0));
    mount.unmount();
    store.stop_daemon();
    assert_eq!(store.json(["fsck", "--offline"])["clean"], true);
    assert_eq!(store.json(["fsck", "--repair"])["clean"], true);
}

#[test]
fn offline_check_beside_a_daemon_is_a_conflict() {
    let store = Store::new();
    let _mount = store.mount("v");
    store.refused(4, ["fsck", "--offline"]);
}

#[test]
fn everything_prints_for_people_too() {
    let mount = Mount::over(lower! { "low" => "x" });
    let store = mount.store().clone();
    mount.write("file", noise(1, 0, 100_000));
    store.snapshot("v", "first");
    mount.write("file", "changed");
    for command in [
        &["volume", "ls"][..],
        &["volume", "show", "v"],
        &["snapshot", "ls"],
        &["snapshot", "show", "v@first"],
        &["snapshot", "diff", "v@first"],
        &["log"],
        &["log", "v", "--graph"],
        &["stats"],
        &["gc", "--dry-run"],
        &["gc"],
        &["version"],
        &["--help"],
    ] {
        let finished = store.ok(command);
        assert!(!finished.text().trim().is_empty(), "{finished}");
        assert!(serde_json::from_slice::<Value>(&finished.stdout).is_err(), "for people: {finished}");
    }
}

#[test]
fn completions_and_manual_pages_are_there() {
    let store = Store::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(store.ok(["completions", shell]).text().contains("snapshot"), "{shell}");
    }
    let dir = store.side_dir();
    store.ok(["man".as_ref(), dir.as_os_str()]);
    let pages = names_in(&dir).unwrap();
    assert!(pages.iter().any(|page| page.to_string_lossy().starts_with("durdir")), "{pages:?}");
    assert!(fs::metadata(dir.join(&pages[0])).unwrap().len() > 100);
}

#[test]
fn sizes_take_their_units() {
    let store = Store::new();
    for (number, (given, bytes)) in
        [("4096", 4096), ("64KiB", 64 * KIB), ("10GiB", 10 * GIB), ("1MiB", MIB)].into_iter().enumerate()
    {
        let name = format!("v{number}");
        store.ok(["volume", "create", &name, "--quota-bytes", given]);
        assert_eq!(store.volume(&name)["quota_bytes"], bytes, "{given}");
    }
}

//! What differs between two snapshots, with a history in common or without one.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::time::{Duration, Instant};

use durdir_tests::lower;
use durdir_tests::support::*;
use serde_json::Value;

use super::snapshot::mixed;

fn changes(store: &Store, args: &[&str]) -> Vec<(String, String, Option<String>)> {
    let all = store.json([&["snapshot", "diff"], args].concat());
    let text = |value: &Value| value.as_str().map(|text| text.trim_start_matches('/').to_owned());
    let mut lines: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (text(&line["path"]).unwrap(), text(&line["change"]).unwrap(), text(&line["from"])))
        .collect();
    lines.sort();
    lines
}

/// What is listed as changed between `v@s` and `v`, but directories.
fn modified(store: &Store) -> Vec<String> {
    let seen = changes(store, &["v@s"]).into_iter();
    seen.filter(|(_, change, _)| change == "modified").map(|(path, _, _)| path).collect()
}

/// When a directory of a lower is gone for good, nothing in the store says any more where it was.
#[test]
fn lists_what_was_in_a_removed_directory_of_the_lower() {
    let mount = Mount::over(lower! { "a/b/file" => "x", "a/b/other" => "y", "stays/z" => "z" });
    let store = mount.store().clone();
    store.snapshot("v", "s");
    fs::remove_dir_all(mount.path("a")).unwrap();
    // The kernel forgets, and the store with it.
    let mount = mount.remount();
    let removed = ["a", "a/b", "a/b/file", "a/b/other"].map(|path| (path.into(), "removed".into(), None));
    assert_eq!(changes(&store, &["v@s"]), removed);
    store.snapshot("v", "t");
    mount.write("a", "a file now");
    assert_eq!(changes(&store, &["v@s", "v@t"]), removed);
    let back = |(path, _, from)| (path, "added".to_owned(), from);
    assert_eq!(changes(&store, &["v@t", "v@s"]), removed.map(back));
}

#[test]
fn follows_forks_to_the_common_ancestor() {
    let store = Store::new();
    let mount = store.mount("v");
    store.snapshot("v", "s");
    store.fork("v@s", "w");
    store.snapshot("w", "s");
    store.fork("w@s", "x");
    mount.write("file", "x");
    let changes = |from: &str, to: &str| store.json(["snapshot", "diff", from, to]);
    assert_eq!(changes("v@s", "x").as_array().unwrap().len(), 0);
    assert_eq!(
        (&changes("w@s", "v")[0]["path"], &changes("w@s", "v")[0]["change"]),
        (&"file".into(), &"added".into())
    );
}

#[test]
fn names_every_kind_of_change() {
    let mount = mixed();
    let store = mount.store().clone();
    store.snapshot("v", "s");
    assert!(changes(&store, &["v@s"]).is_empty());
    mount.write("added", "x");
    fs::remove_file(mount.path("small")).unwrap();
    open(mount.path("up"), libc::O_RDWR, 0).unwrap().write_all_at(b"modified", 0).unwrap();
    chmod(mount.path("pipe"), 0o700).unwrap();
    fs::rename(mount.path("d/e"), mount.path("d/renamed")).unwrap();
    let seen = changes(&store, &["v@s"]);
    let has = |path: &str, change: &str, from: Option<&str>| {
        let wanted = (path.to_owned(), change.to_owned(), from.map(str::to_owned));
        assert!(seen.contains(&wanted), "{wanted:?} is not in {seen:?}");
    };
    has("added", "added", None);
    has("small", "removed", None);
    has("up", "modified", None);
    has("pipe", "metadata", None);
    has("d/renamed", "renamed", Some("d/e"));
    // Directories may be told as changed, since their times were; nothing else.
    let others: Vec<_> = seen
        .iter()
        .filter(|(path, _, _)| {
            !["added", "small", "up", "pipe", "d/renamed", "", "d"].contains(&path.as_str())
        })
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn works_between_snapshots_and_between_volumes() {
    let mount = Mount::over(lower! { "low" => "x", "d/a" => "1" });
    let store = mount.store().clone();
    mount.write("one", "1");
    store.snapshot("v", "s1");
    mount.write("two", "2");
    fs::remove_file(mount.path("low")).unwrap();
    store.snapshot("v", "s2");
    store.fork("v@s1", "w");
    store.mount("w").write("three", "3");
    let names = |args: &[&str]| -> Vec<(String, String)> {
        let lines = changes(&store, args).into_iter().filter(|(path, _, _)| !path.is_empty());
        lines.map(|(path, change, _)| (path, change)).collect()
    };
    let pair = |path: &str, change: &str| (path.to_owned(), change.to_owned());
    assert_eq!(names(&["v@s1", "v@s2"]), [pair("low", "removed"), pair("two", "added")]);
    assert_eq!(names(&["v@s2", "v@s1"]), [pair("low", "added"), pair("two", "removed")]);
    assert_eq!(names(&["v@s2", "w"]), [pair("low", "added"), pair("three", "added"), pair("two", "removed")]);
}

#[test]
fn lists_a_changed_file_under_a_name_that_it_still_has() {
    let mount = Mount::over(lower! {
        "one/a" => "x", "two/a" => hard_link("one/a"), "two/b" => hard_link("one/a"), "three/c" => hard_link("one/a"),
    });
    let store = mount.store().clone();
    mount.write("first", "1");
    fs::create_dir(mount.path("d")).unwrap();
    fs::hard_link(mount.path("first"), mount.path("d/second")).unwrap();
    fs::remove_file(mount.path("first")).unwrap();
    fs::remove_file(mount.path("one/a")).unwrap();
    store.snapshot("v", "s");
    mount.write("d/second", "changed");
    mount.write("two/b", "changed");
    assert_eq!(modified(&store), ["d/second", "two/b"]);
    // Another file takes the name that went.
    mount.write("first", "another");
    assert_eq!(modified(&store), ["d/second", "two/b"]);

    // A restart later, and the directory of the name that is known goes too.
    let mount = mount.restart();
    fs::hard_link(mount.path("d/second"), mount.path("third")).unwrap();
    let mount = mount.restart();
    let opened = open(mount.path("d/second"), libc::O_RDWR, 0).unwrap();
    let of_lower = open(mount.path("two/b"), libc::O_RDWR, 0).unwrap();
    for gone in ["d/second", "two/b", "two/a", "first"] {
        fs::remove_file(mount.path(gone)).unwrap();
    }
    fs::remove_dir(mount.path("d")).unwrap();
    fs::remove_dir(mount.path("two")).unwrap();
    store.ok(["snapshot", "rm", "v@s"]);
    store.snapshot("v", "s");
    // Nobody has looked these names up: the file is open.
    opened.write_all_at(b"again", 0).unwrap();
    of_lower.write_all_at(b"again", 0).unwrap();
    assert_eq!(modified(&store), ["third", "three/c"]);
}

#[test]
fn a_change_is_listed_beside_a_link_that_came_or_went() {
    let mount = Mount::over(lower! { "low" => "x", "pair" => "x", "pair too" => hard_link("pair") });
    let store = mount.store().clone();
    for name in ["gains", "loses", "swaps", "only linked", "renamed"] {
        mount.write(name, "one");
    }
    fs::hard_link(mount.path("loses"), mount.path("loses too")).unwrap();
    fs::hard_link(mount.path("swaps"), mount.path("swaps too")).unwrap();
    store.snapshot("v", "s");
    let append = |name: &str| {
        let mut file = File::options().append(true).open(mount.path(name)).unwrap();
        file.write_all(b"more").unwrap();
    };
    let link = |from: &str, to: &str| fs::hard_link(mount.path(from), mount.path(to)).unwrap();
    let remove = |name: &str| fs::remove_file(mount.path(name)).unwrap();
    append("gains");
    link("gains", "a gained");
    append("low");
    link("low", "low too");
    remove("loses");
    append("loses too");
    remove("pair");
    append("pair too");
    remove("swaps too");
    link("swaps", "another");
    append("swaps");
    link("only linked", "linked");
    fs::rename(mount.path("renamed"), mount.path("moved")).unwrap();
    append("moved");
    let told = |path: &str, change: &str, from: Option<&str>| {
        (path.to_owned(), change.to_owned(), from.map(str::to_owned))
    };
    let expected = [
        told("a gained", "added", None),
        told("another", "renamed", Some("swaps too")),
        told("gains", "modified", None),
        told("linked", "added", None),
        told("loses", "removed", None),
        told("loses too", "modified", None),
        told("low", "modified", None),
        told("low too", "added", None),
        told("moved", "renamed", Some("renamed")),
        told("pair", "removed", None),
        told("pair too", "modified", None),
        told("swaps", "modified", None),
    ];
    let seen: Vec<_> = changes(&store, &["v@s"]).into_iter().filter(|(path, ..)| !path.is_empty()).collect();
    assert_eq!(seen, expected);
    // Nobody remembers which name was looked up last.
    let mount = mount.restart();
    let seen: Vec<_> =
        changes(mount.store(), &["v@s"]).into_iter().filter(|(path, ..)| !path.is_empty()).collect();
    assert_eq!(seen, expected);
}

#[test]
fn what_took_the_place_of_another_is_that_one_changed() {
    let mount =
        Mount::over(lower! { "low" => "123", "low gone" => "123", "again/x" => "x", "same dir/x" => "x" });
    let store = mount.store().clone();
    mount.write("replaced", "12345");
    mount.write("over", "1");
    mount.write("file to dir", "1");
    symlink("old", mount.path("link")).unwrap();
    store.snapshot("v", "s");
    // As editors do, and `sed -i`.
    for name in ["replaced", "low"] {
        mount.write("temporary", "1234");
        fs::rename(mount.path("temporary"), mount.path(name)).unwrap();
    }
    fs::remove_file(mount.path("link")).unwrap();
    symlink("new", mount.path("link")).unwrap();
    fs::remove_file(mount.path("file to dir")).unwrap();
    fs::create_dir(mount.path("file to dir")).unwrap();
    fs::remove_dir_all(mount.path("same dir")).unwrap();
    fs::create_dir(mount.path("same dir")).unwrap();
    fs::remove_file(mount.path("low gone")).unwrap();
    fs::remove_dir_all(mount.path("again")).unwrap();
    fs::create_dir(mount.path("again")).unwrap();
    mount.write("again/x", "22");
    // Also when nobody remembers the directory that went.
    let mount = mount.remount();
    let store = mount.store().clone();
    let all = store.json(["snapshot", "diff", "v@s"]);
    let lines: Vec<_> = all.as_array().unwrap().iter().filter(|line| line["path"] != "/").collect();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap().trim_start_matches('/').to_owned();
            (text("path"), text("change"), line["bytes_changed"].as_u64().unwrap())
        })
        .collect();
    let told = |path: &str, change: &str, bytes: u64| (path.to_owned(), change.to_owned(), bytes);
    // In the order in which they can be done.
    let expected = [
        told("again/x", "modified", 2),
        told("file to dir", "removed", 1),
        told("file to dir", "added", 0),
        told("link", "modified", 3),
        told("low", "modified", 4),
        told("low gone", "removed", 3),
        told("replaced", "modified", 5),
        told("same dir/x", "removed", 1),
    ];
    assert_eq!(seen, expected, "{all}");
}

#[test]
fn costs_what_changed_not_what_is_there() {
    let mut layout = lower! {};
    for number in 0..3000 {
        layout = layout.with(format!("d{}/f{number}", number % 30), "x");
    }
    let mount = Mount::over(layout);
    for number in 0..3000 {
        mount.write(format!("new{number}"), "x");
    }
    let store = mount.store().clone();
    store.snapshot("v", "s");
    mount.write("d7/f7", "changed");
    let timed = |_| {
        let started = Instant::now();
        let seen = changes(&store, &["v@s"]);
        (started.elapsed(), seen)
    };
    let (best, seen) = (0..5).map(timed).min_by_key(|(took, _)| *took).unwrap();
    assert!(best < Duration::from_secs(1), "{best:?}");
    assert!(seen.iter().any(|(path, change, _)| path == "d7/f7" && change == "modified"), "{seen:?}");
    assert!(seen.len() <= 4, "{seen:?}");
}

/// Two volumes that were filled independently: a path is all that tells what belongs together.
#[test]
fn snapshots_of_unrelated_volumes_are_compared_by_path() {
    let store = Store::new();
    let (one, other) = (store.mount("one"), store.mount("other"));
    for mount in [&one, &other] {
        mount.write("same", noise(1, 0, 300_000));
        mount.write("differs", noise(2, 0, 300_000));
        mount.write("grows", "x");
        mount.write("mode", "x");
        mount.write("attribute", "x");
        fs::create_dir(mount.path("both")).unwrap();
        std::os::unix::fs::symlink("same", mount.path("link")).unwrap();
        mount.write("twin", noise(3, 0, 10_000));
        fs::hard_link(mount.path("twin"), mount.path("both/twin")).unwrap();
        mount.write("kind", "x");
    }
    fs::create_dir_all(one.path("gone/below")).unwrap();
    one.write("gone/below/file", "x");
    fs::create_dir(other.path("new")).unwrap();
    other.write("new/file", "12345");
    open(other.path("differs"), libc::O_RDWR, 0).unwrap().write_all_at(b"changed", 100_000).unwrap();
    other.write("grows", "xx");
    chmod(other.path("mode"), 0o600).unwrap();
    set_xattr(other.path("attribute"), "user.k", "v").unwrap();
    open(other.path("twin"), libc::O_RDWR, 0).unwrap().write_all_at(b"changed", 0).unwrap();
    for (path, make) in [("link", true), ("kind", false)] {
        fs::remove_file(other.path(path)).unwrap();
        match make {
            true => std::os::unix::fs::symlink("differs", other.path(path)).unwrap(),
            false => fs::create_dir(other.path(path)).unwrap(),
        }
    }
    // When something was written differs, and is not what is asked here.
    for mount in [&one, &other] {
        for path in ["same", "differs", "grows", "mode", "attribute", "link", "twin"] {
            set_times(mount.path(path), (1000, 0), (1000, 0)).unwrap();
        }
        store.snapshot(if std::ptr::eq(mount, &one) { "one" } else { "other" }, "s");
    }
    let line = |path: &str, change: &str| (path.to_owned(), change.to_owned(), None);
    let expected = [
        line("attribute", "metadata"),
        line("both/twin", "modified"),
        line("differs", "modified"),
        line("gone", "removed"),
        line("gone/below", "removed"),
        line("gone/below/file", "removed"),
        line("grows", "modified"),
        line("kind", "added"),
        line("kind", "removed"),
        line("link", "modified"),
        line("mode", "metadata"),
        line("new", "added"),
        line("new/file", "added"),
        line("twin", "modified"),
    ];
    assert_eq!(changes(&store, &["one@s", "other@s"]), expected);
    let bytes = |path: &str| {
        let all = store.json(["snapshot", "diff", "one@s", "other@s"]);
        let line = all.as_array().unwrap().iter().find(|line| line["path"] == path).unwrap().clone();
        line["bytes_changed"].as_u64().unwrap()
    };
    assert_eq!((bytes("differs"), bytes("new/file"), bytes("mode")), (4096, 5, 0));
}

/// To read the holes would take hours.
#[test]
fn unrelated_volumes_over_one_lower_differ_in_what_they_wrote() {
    let lower = lower! { "d/a" => "a", "d/b" => "b", "same" => noise(1, 0, 100_000) }.build();
    let store = Store::new();
    let (one, other) = (store.mount_over("one", &[lower.path()]), store.mount_over("other", &[lower.path()]));
    one.write("d/a", "A");
    fs::remove_file(other.path("d/b")).unwrap();
    // A terabyte on both sides, with one page in it on one.
    for mount in [&one, &other] {
        File::create(mount.path("sparse")).unwrap().set_len(1 << 40).unwrap();
    }
    open(other.path("sparse"), libc::O_RDWR, 0).unwrap().write_all_at(b"x", 1 << 39).unwrap();
    store.snapshot("one", "s");
    store.snapshot("other", "s");
    let line = |path: &str, change: &str| (path.to_owned(), change.to_owned(), None);
    let expected = [line("d/a", "modified"), line("d/b", "removed"), line("sparse", "modified")];
    assert_eq!(changes(&store, &["one@s", "other@s"]), expected);
}

#[test]
fn a_head_without_a_common_ancestor_is_refused_with_the_remedy() {
    let store = Store::new();
    store.create_volume("v");
    store.snapshot("v", "s");
    store.create_volume("other");
    let complaint = store.refused(5, ["snapshot", "diff", "v@s", "other"]);
    assert!(
        complaint.contains("no common ancestor") && complaint.contains("take a snapshot of other"),
        "{complaint}"
    );
}

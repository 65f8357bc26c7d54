//! Snapshots: what a cut holds, and everything that can be done with one.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Stdio;
use std::time::{Duration, Instant};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn mixed() -> Mount {
    let mount = Mount::over(lower! {
        "low/a" => file("low a").xattr("user.k", "v").mtime(1000, 1), "low/twin" => hard_link("low/a"),
        "low/big" => noise(1, 0, 300_000), "low/gone" => "x", "link" => symlink_to("low/a"), "pipe" => fifo(),
    });
    mount.write("up", noise(2, 0, 100_000));
    mount.write("small", "small");
    fs::create_dir(mount.path("d")).unwrap();
    mount.write("d/e", "e");
    fs::remove_file(mount.path("low/gone")).unwrap();
    mount
}

/// Changes about everything in [`mixed`].
fn turn_upside_down(mount: &Mount) {
    mount.write("low/a", "changed");
    let file = open(mount.path("low/big"), libc::O_RDWR, 0).unwrap();
    file.write_all_at(b"changed", 150_000).unwrap();
    file.set_len(200_000).unwrap();
    open(mount.path("up"), libc::O_RDWR, 0).unwrap().write_all_at(b"changed", 50_000).unwrap();
    fs::remove_file(mount.path("small")).unwrap();
    fs::rename(mount.path("d"), mount.path("low/d")).unwrap();
    mount.write("new", "new");
    mount.write("low/gone", "back");
    chmod(mount.path("pipe"), 0o700).unwrap();
    set_xattr(mount.path("low/a"), "user.more", "m").unwrap();
    remove_xattr(mount.path("low/a"), "user.k").unwrap();
    fs::remove_file(mount.path("link")).unwrap();
    fs::create_dir(mount.path("link")).unwrap();
}

fn listed(store: &Store, volume: &str) -> Vec<Value> {
    store.json(["snapshot", "ls", volume]).as_array().unwrap().clone()
}

#[test]
fn snapshot_is_the_tree_of_its_moment_whatever_follows() {
    let mount = mixed();
    let before = Tree::of(mount.root());
    let store = mount.store().clone();
    let made = store.snapshot("v", "s");
    turn_upside_down(&mount);
    let after = Tree::of(mount.root());
    let snapshot = store.mount_snapshot("v@s");
    assert_eq!(differences(&before, &Tree::of(snapshot.root())), Vec::<String>::new());
    assert_eq!(differences(&after, &Tree::of(mount.root())), Vec::<String>::new());
    assert_eq!(
        (&made["snapshots"][0]["volume"], &made["snapshots"][0]["name"], &made["snapshots"][0]["changed"]),
        (&"v".into(), &"s".into(), &true.into())
    );
    assert!(
        made["cut"]["held_us"].is_u64()
            && made["cut"]["sync_us"].is_u64()
            && made["cut"]["drained_inodes"].is_u64(),
        "{made}"
    );
    drop(snapshot);
    let mount = mount.restart();
    let snapshot = store.mount_snapshot("v@s");
    assert_eq!(differences(&before, &Tree::of(snapshot.root())), Vec::<String>::new());
    assert_eq!(differences(&after, &Tree::of(mount.root())), Vec::<String>::new());
}

#[test]
fn ten_snapshots_keep_ten_different_trees() {
    let mount = Mount::over(lower! { "low" => noise(0, 0, 100_000) });
    let store = mount.store().clone();
    let mut trees = Vec::new();
    for round in 0..10u64 {
        let file = open(mount.path("low"), libc::O_RDWR, 0).unwrap();
        file.write_all_at(&noise(round, 0, 5000), round * 9000).unwrap();
        mount.write("inline", format!("round {round}"));
        mount.write(format!("f{}", round % 3), noise(round, 0, usize::try_from(round * 10_000).unwrap()));
        if round % 4 == 3 {
            fs::remove_file(mount.path(format!("f{}", (round + 1) % 3))).unwrap();
        }
        drop(file);
        trees.push(Tree::of(mount.root()));
        store.snapshot("v", &format!("s{round}"));
    }
    for (round, tree) in trees.iter().enumerate() {
        let snapshot = store.mount_snapshot(&format!("v@s{round}"));
        assert_eq!(differences(tree, &Tree::of(snapshot.root())), Vec::<String>::new(), "snapshot {round}");
    }
}

/// Between the end of an epoch and the record of its snapshot: what was written in it is the snapshot's already.
#[test]
fn snapshot_that_is_just_being_made_keeps_what_another_gives_up() {
    let store = Store::new();
    let marks = store.side_dir();
    let mut command = store.command();
    let points = "reclaim.sweep:sleep=2000@1,cut.flipped:sleep=4000@2";
    command.env("DURDIR_FAILPOINTS", points).env("DURDIR_FAILPOINT_DIR", &marks);
    run(command.args(["volume", "create", "v"]), LIMIT).ok();
    let mount = store.mount("v");
    mount.write("file", "one");
    store.snapshot("v", "first");
    mount.write("file", "two");
    // What it gives up is looked for when the next one has begun, and before that is on record.
    store.ok(["snapshot", "rm", "v@first"]);
    let second = ["snapshot", "create", "v", "--name", "second"];
    let mut client = store.command().args(second).stdout(Stdio::null()).spawn().unwrap();
    eventually("the epoch has ended", LIMIT, || marks.join("cut.flipped").exists().then_some(()));
    mount.write("file", "three");
    assert!(client.wait().unwrap().success());
    assert!(marks.join("reclaim.sweep").exists());
    assert_eq!(store.mount_snapshot("v@second").text("file"), "two");
    assert_eq!(mount.text("file"), "three");
}

#[test]
fn dirty_shared_mapping_is_in_the_snapshot() {
    let mount = Mount::over(lower! { "low" => vec![0; 1 << 20] });
    mount.write("up", vec![0; 1 << 20]);
    let maps = ["low", "up"]
        .map(|name| Mapping::shared(&open(mount.path(name), libc::O_RDWR, 0).unwrap(), 1 << 20).unwrap());
    for (number, map) in maps.iter().enumerate() {
        map.write(300_000, &noise(number as u64, 0, 50_000));
    }
    let store = mount.store().clone();
    let made = store.snapshot("v", "s");
    for map in &maps {
        map.write(300_000, b"after the snapshot");
    }
    let snapshot = store.mount_snapshot("v@s");
    for (number, name) in ["low", "up"].into_iter().enumerate() {
        assert!(snapshot.read(name)[300_000..350_000] == noise(number as u64, 0, 50_000), "{name}");
    }
    assert!(made["cut"]["drained_inodes"].as_u64().unwrap() >= 2, "{made}");
}

#[test]
fn dirty_mapping_of_an_unlinked_descriptor_does_not_hold_up_a_cut() {
    let mount = Mount::empty();
    mount.write("file", vec![0; 8192]);
    let map = Mapping::shared(&open(mount.path("file"), libc::O_RDWR, 0).unwrap(), 8192).unwrap();
    fs::remove_file(mount.path("file")).unwrap();
    map.write(0, b"dirty");
    mount.store().snapshot("v", "s");
    assert_eq!(map.read(0, 5), b"dirty");
}

#[test]
fn snapshot_is_read_only() {
    let mount = mixed();
    let store = mount.store().clone();
    store.snapshot("v", "s");
    let snapshot = store.mount_snapshot("v@s");
    assert_errno!(fs::write(snapshot.path("small"), "x"), EROFS);
    assert_errno!(File::create(snapshot.path("new")), EROFS);
    assert_errno!(fs::remove_file(snapshot.path("small")), EROFS);
    assert_errno!(fs::create_dir(snapshot.path("newdir")), EROFS);
    assert_errno!(fs::rename(snapshot.path("small"), snapshot.path("x")), EROFS);
    assert_errno!(chmod(snapshot.path("small"), 0o600), EROFS);
    assert_errno!(set_xattr(snapshot.path("small"), "user.k", "v"), EROFS);
    assert_errno!(truncate(snapshot.path("small"), 0), EROFS);
    assert_eq!(snapshot.text("small"), "small");
}

#[test]
fn snapshots_can_be_browsed_inside_the_live_mount() {
    let mount = mixed();
    let before = Tree::of(mount.root());
    let store = mount.store().clone();
    store.snapshot("v", "first");
    turn_upside_down(&mount);
    store.snapshot("v", "second");
    let dir = mount.path(".snapshots");
    assert!(!mount.names("/").contains(&".snapshots".into()), "it is hidden");
    let names = names_in(&dir).unwrap();
    assert!(names.contains(&"first".into()) && names.contains(&"second".into()), "{names:?}");
    assert_eq!(differences(&before, &Tree::of(dir.join("first"))), Vec::<String>::new());
    assert_same_tree(dir.join("second"), mount.root());
    assert_errno!(fs::write(dir.join("first/small"), "x"), EROFS);
    assert_errno!(fs::create_dir(dir.join("mine")), EROFS | EPERM | EACCES);
    assert_errno!(fs::remove_dir(dir.join("first")), EROFS | EPERM | EACCES | ENOTEMPTY | EBUSY);
    assert_errno!(fs::symlink_metadata(dir.join("third")), ENOENT);
    store.snapshot("v", "third");
    assert!(fs::symlink_metadata(dir.join("third")).is_ok());
}

#[test]
fn files_come_back_from_the_hidden_directory_by_copying() {
    let mount = Mount::empty();
    mount.write("precious", noise(1, 0, 200_000));
    mount.store().snapshot("v", "s");
    fs::remove_file(mount.path("precious")).unwrap();
    fs::copy(mount.path(".snapshots/s/precious"), mount.path("precious")).unwrap();
    assert!(mount.read("precious") == noise(1, 0, 200_000));
}

#[test]
fn the_hidden_directory_is_not_in_the_way_of_removing_everything() {
    let mount = Mount::empty();
    mount.write("a", "1");
    mount.store().snapshot("v", "s");
    for name in mount.names("/") {
        fs::remove_file(mount.path(name)).unwrap();
    }
    assert!(mount.names("/").is_empty());
    assert_eq!(fs::read(mount.path(".snapshots/s/a")).unwrap(), b"1");
}

#[test]
fn nothing_takes_the_name_of_the_hidden_directory() {
    let empty = Mount::empty();
    fs::create_dir(empty.path("dir")).unwrap();
    empty.write("dir/inner", "inner");
    for mount in [empty, Mount::over(lower! { ".snapshots/own" => "own", "dir/inner" => "inner" })] {
        let (hidden, dir) = (mount.path(".snapshots"), mount.path("dir"));
        for _ in 0..2 {
            assert_eq!(mount.names("/"), ["dir"]);
        }
        assert_errno!(fs::rename(&dir, &hidden), EBUSY);
        assert_errno!(rename_with(&dir, &hidden, libc::RENAME_EXCHANGE), EBUSY);
        assert_errno!(rename_with(&dir, &hidden, libc::RENAME_NOREPLACE), EEXIST);
        assert_errno!(fs::rename(&hidden, mount.path("other")), EBUSY);
        assert_errno!(fs::remove_dir(&hidden), EBUSY);
        assert_errno!(fs::create_dir(&hidden), EEXIST);
        assert_errno!(std::os::unix::fs::symlink("target", &hidden), EEXIST);
        assert_errno!(fs::hard_link(mount.path("dir/inner"), &hidden), EEXIST);
        assert_eq!((mount.names("/"), mount.text("dir/inner")), (vec!["dir".into()], "inner".into()));
        // Below the root it is a name like any other.
        fs::create_dir(dir.join("made")).unwrap();
        fs::rename(dir.join("made"), dir.join(".snapshots")).unwrap();
        assert_eq!(mount.names("dir"), [".snapshots", "inner"]);
        fs::remove_dir(dir.join(".snapshots")).unwrap();
    }
}

#[test]
fn name_of_the_hidden_directory_in_a_lower_shows_in_snapshots_only() {
    let mount = Mount::over(lower! { ".snapshots/own" => "own", "file" => "file" });
    let store = mount.store();
    store.snapshot("v", "s");
    assert_eq!(mount.names(".snapshots"), ["s"]);
    assert_eq!(mount.text(".snapshots/s/.snapshots/own"), "own");
    let snapshot = store.mount_snapshot("v@s");
    assert_eq!(snapshot.names("/"), [".snapshots", "file"]);
    assert_eq!(snapshot.text(".snapshots/own"), "own");
}

/// The kernel asks for the attributes with the names at first, and for names alone when nobody looks at them.
#[test]
fn listing_of_a_snapshot_tells_the_numbers_that_its_files_have() {
    let mount = Mount::empty();
    let store = mount.store();
    fs::create_dir(mount.path("dir")).unwrap();
    for number in 0..2000 {
        mount.write(format!("dir/file-{number}"), "");
    }
    store.snapshot("v", "s");
    let number = |path: &str| fs::symlink_metadata(mount.path(path)).unwrap().ino();
    let all = DirStream::open(mount.path(".snapshots/s/dir")).unwrap().rest().unwrap();
    assert_eq!(all.len(), 2002);
    for entry in all {
        let path = format!(".snapshots/s/dir/{}", entry.name.to_str().unwrap());
        assert_eq!(entry.ino, number(&path), "{path}");
    }
    for (dir, own, above) in [
        (".snapshots/s", ".snapshots/s", ".snapshots"),
        (".snapshots", ".snapshots", ""),
        ("", "", ""),
        ("dir", "dir", ""),
    ] {
        let all = DirStream::open(mount.path(dir)).unwrap().rest().unwrap();
        let shown = |name: &str| all.iter().find(|entry| entry.name == name).unwrap().ino;
        assert_eq!((shown("."), shown("..")), (number(own), number(above)), "{dir}");
    }
}

#[test]
fn files_of_a_snapshot_keep_their_numbers() {
    let mount = Mount::over(lower! { "dir/lower" => "x" });
    mount.write("dir/file", "x");
    mount.store().snapshot("v", "s");
    mount.store().snapshot("v", "t");
    let paths = ["s", "s/dir", "s/dir/file", "s/dir/lower", "t/dir/file"];
    let numbers = |mount: &Mount| paths.map(|path| mount.stat(format!(".snapshots/{path}")).ino());
    let first = numbers(&mount);
    let mount = mount.restart();
    assert_eq!(numbers(&mount), first);
    let all: std::collections::HashSet<u64> = first.into_iter().collect();
    assert_eq!(all.len(), paths.len());
}

#[test]
fn cut_of_several_volumes_is_one() {
    let store = Store::new();
    let (one, other) = (store.mount("one"), store.mount("other"));
    one.write("f", "1");
    other.write("f", "2");
    let made = store.json(["snapshot", "create", "one", "other", "--name", "both"]);
    assert_eq!(made["snapshots"].as_array().unwrap().len(), 2);
    one.write("f", "changed");
    other.write("f", "changed");
    assert_eq!(
        (store.mount_snapshot("one@both").text("f"), store.mount_snapshot("other@both").text("f")),
        ("1".into(), "2".into())
    );
}

#[test]
fn cut_that_cannot_be_made_of_all_volumes_is_made_of_none() {
    let store = Store::new();
    let one = store.mount("one");
    let other = store.mount("other");
    one.write("f", "1");
    other.write("f", "1");
    store.snapshot("other", "taken");
    other.write("f", "2");
    store.refused(4, ["snapshot", "create", "one", "other", "--name", "taken"]);
    store.refused(3, ["snapshot", "create", "one", "missing", "--name", "new"]);
    assert!(listed(&store, "one").is_empty());
    assert_eq!(listed(&store, "other").len(), 1);
}

#[test]
fn unchanged_volume_says_so_and_costs_nothing() {
    let mount = mixed();
    let store = mount.store().clone();
    let first = store.snapshot("v", "first");
    let before = store.allocated();
    for round in 0..20 {
        let again = store.snapshot("v", &format!("again-{round}"));
        assert_eq!(again["snapshots"][0]["changed"], false, "{again}");
    }
    assert!(store.allocated().saturating_sub(before) < 64 * KIB);
    assert_eq!(first["snapshots"][0]["changed"], true);
    // Reading is no change.
    assert_eq!(mount.text("small"), "small");
    assert_eq!(store.json(["snapshot", "create", "v"])["snapshots"][0]["changed"], false);
    mount.write("small", "changed");
    assert_eq!(store.json(["snapshot", "create", "v"])["snapshots"][0]["changed"], true);
}

#[test]
fn first_snapshot_is_made_although_nothing_changed() {
    let store = Store::new();
    store.create_volume("v");
    let cut = |volume: &str| {
        let cut = store.json(["snapshot", "create", volume])["snapshots"][0].clone();
        assert_eq!(cut["changed"], false, "{cut}");
        cut["snapshot"].as_str().unwrap().to_owned()
    };
    let first = cut("v");
    assert_eq!(cut("v"), first);
    store.fork(&first, "w");
    let of_fork = cut("w");
    assert!(of_fork.starts_with("w@"), "{of_fork}");
    assert_eq!(cut("w"), of_fork);
    assert_eq!(store.json(["snapshot", "ls"]).as_array().unwrap().len(), 2);
}

#[test]
fn snapshot_takes_no_room_and_no_time_whatever_is_in_the_volume() {
    let mount = Mount::empty();
    for number in 0..2000u64 {
        mount.write(format!("f{number}"), noise(number, 0, 5000));
    }
    mount.write("large", noise(1, 0, 32 << 20));
    File::open(mount.path("large")).unwrap().sync_all().unwrap();
    let store = mount.store().clone();
    store.snapshot("v", "first");
    let before = store.allocated();
    // The best of them: how long the machine takes for other things is not what is asked here.
    let (mut whole, mut held) = (Duration::MAX, u64::MAX);
    for round in 0..10u64 {
        mount.write("f0", noise(round + 1, 0, 5000));
        let started = Instant::now();
        let made = store.json(["snapshot", "create", "v"]);
        whole = whole.min(started.elapsed());
        held = held.min(made["cut"]["held_us"].as_u64().unwrap());
    }
    assert!(whole < Duration::from_secs(1), "{whole:?}");
    assert!(held < 10_000, "{held}");
    let grown = store.allocated().saturating_sub(before);
    assert!(grown < MIB, "ten snapshots took {grown} bytes");
}

#[test]
fn listing_shows_names_order_and_sizes() {
    let mount = Mount::empty();
    let store = mount.store().clone();
    assert!(listed(&store, "v").is_empty());
    mount.write("kept", noise(1, 0, 1 << 20));
    mount.write("rewritten", noise(2, 0, 1 << 20));
    store.snapshot("v", "first");
    mount.write("rewritten", noise(3, 0, 1 << 20));
    store.snapshot("v", "second");
    fs::remove_file(mount.path("rewritten")).unwrap();
    let all = listed(&store, "v");
    let names: Vec<_> = all.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["first", "second"]);
    for line in &all {
        let (exclusive, shared) =
            (line["exclusive_bytes"].as_u64().unwrap(), line["shared_bytes"].as_u64().unwrap());
        assert!((MIB..MIB + 64 * KIB).contains(&exclusive), "only the rewritten file is its own: {line}");
        assert!((MIB..MIB + 64 * KIB).contains(&shared), "the other one is shared: {line}");
        assert_eq!(line["volume"], "v");
        assert_eq!(line["snapshot"], format!("v@{}", line["epoch"]));
        assert!(line["created"].is_string() && line["files_changed"].as_u64().unwrap() >= 1, "{line}");
    }
    let by_epoch = store.json(["snapshot", "show", all[0]["snapshot"].as_str().unwrap()]);
    assert_eq!(by_epoch, store.json(["snapshot", "show", "v@first"]));
}

#[test]
fn removing_a_snapshot_leaves_the_others_and_the_head() {
    let mount = mixed();
    let store = mount.store().clone();
    let first = Tree::of(mount.root());
    store.snapshot("v", "first");
    turn_upside_down(&mount);
    store.snapshot("v", "second");
    mount.write("up", noise(9, 0, 100_000));
    let third = Tree::of(mount.root());
    store.snapshot("v", "third");
    mount.write("up", "short");
    let head = Tree::of(mount.root());
    store.ok(["snapshot", "rm", "v@second"]);
    store.ok(["gc"]);
    let left: Vec<_> =
        listed(&store, "v").iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(left, ["first", "third"]);
    let mount = mount.restart();
    assert_eq!(differences(&first, &Tree::of(store.mount_snapshot("v@first").root())), Vec::<String>::new());
    assert_eq!(differences(&third, &Tree::of(store.mount_snapshot("v@third").root())), Vec::<String>::new());
    assert_eq!(differences(&head, &Tree::of(mount.root())), Vec::<String>::new());
    store.refused(3, ["snapshot", "show", "v@second"]);
}

#[test]
fn open_unlinked_file_is_not_in_a_snapshot_and_goes_on() {
    let mount = Mount::empty();
    mount.write("file", noise(1, 0, 100_000));
    let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
    fs::remove_file(mount.path("file")).unwrap();
    let store = mount.store().clone();
    store.snapshot("v", "s");
    file.write_all_at(b"after", 0).unwrap();
    drop_cached_pages(&file).unwrap();
    read_noise_at(&file, 1, 8192, 90_000);
    assert!(store.mount_snapshot("v@s").names("/").is_empty());
}

#[test]
fn names_and_epochs_of_snapshots_are_unique_in_their_volume() {
    let store = Store::new();
    let (one, other) = (store.mount("one"), store.mount("other"));
    one.write("f", "1");
    other.write("f", "1");
    store.snapshot("one", "same");
    store.snapshot("other", "same");
    one.write("f", "2");
    let complaint = store.refused(4, ["snapshot", "create", "one", "--name", "same"]);
    assert!(complaint.contains("one@same"), "{complaint}");
    let unnamed = store.json(["snapshot", "create", "one"]);
    assert_eq!(unnamed["snapshots"][0]["name"], Value::Null);
    let label = unnamed["snapshots"][0]["snapshot"].as_str().unwrap();
    assert_eq!(store.mount_snapshot(label).text("f"), "2");
}

#[test]
fn mounted_snapshot_cannot_be_removed() {
    let mount = mixed();
    let store = mount.store().clone();
    store.snapshot("v", "s");
    let snapshot = store.mount_snapshot("v@s");
    store.refused(4, ["snapshot", "rm", "v@s"]);
    drop(snapshot);
    store.ok(["snapshot", "rm", "v@s"]);
}

#[test]
fn history_tells_cuts_and_forks() {
    let mount = Mount::empty();
    let store = mount.store().clone();
    mount.write("f", "1");
    store.snapshot("v", "first");
    mount.write("f", "2");
    store.snapshot("v", "second");
    store.fork("v@first", "w");
    let log = store.json(["log"]);
    let text = log.to_string();
    assert!(text.contains("first") && text.contains("second") && text.contains("\"w\""), "{text}");
    let graph = store.ok(["log", "--graph"]).text();
    assert!(graph.contains("first") && graph.contains("second") && graph.contains('w'), "{graph}");
}

#[test]
fn snapshot_of_an_unmounted_volume_works() {
    let mount = Mount::empty();
    mount.write("f", "1");
    let store = mount.store().clone();
    mount.unmount();
    assert_eq!(store.snapshot("v", "s")["snapshots"][0]["changed"], true);
    assert_eq!(store.mount_snapshot("v@s").text("f"), "1");
}

#[test]
fn snapshot_survives_a_kill_right_after_it() {
    let mount = mixed();
    let before = Tree::of(mount.root());
    let store = mount.store().clone();
    store.snapshot("v", "s");
    store.kill_daemon();
    let mount = mount.after_kill();
    let snapshot = store.mount_snapshot("v@s");
    assert_eq!(differences(&before, &Tree::of(snapshot.root())), Vec::<String>::new());
    assert_eq!(mount.stat("up").size(), 100_000);
}

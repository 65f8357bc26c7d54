//! What lies below and what was written, seen as one tree. That the lowers stay as they were, down
//! to their access times, is checked at the end of every test that has one.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

/// Some of everything.
fn zoo() -> Layout {
    lower! {
        "a" => file("one").mode(0o640).owner(11, 12).mtime(1_000_000, 5).xattr("user.k", "v").xattr("trusted.t", "w"),
        "twin" => hard_link("a"),
        "big" => noise(1, 0, 300_000),
        "sparse" => sparse(1 << 30, &[(1 << 20, b"island"), ((1 << 30) - 10, b"end")]),
        "d" => dir().mode(0o2775).owner(21, 22).mtime(2_000_000, 6).xattr("user.d", "x"),
        "d/file" => file("two").mtime(3_000_000, 7),
        "d/deep/er/leaf" => "three",
        "link" => symlink_to("d/file"),
        "pipe" => fifo(),
        "socket" => socket(),
        "null" => device(libc::S_IFCHR, 1, 3),
        "empty" => dir(),
    }
}

fn overlaid(mount: &Mount) -> &std::path::Path {
    mount.lowers()[0].path()
}

#[test]
fn fresh_volume_shows_its_lower_as_it_is() {
    let mount = Mount::over(zoo());
    assert_same_tree(overlaid(&mount), mount.root());
    let mount = mount.restart();
    assert_same_tree(overlaid(&mount), mount.root());
    assert_eq!(mount.store().volume("v")["used_bytes"], 0);
}

#[test]
fn empty_lower_is_an_empty_volume() {
    let mount = Mount::over(lower! {});
    assert!(mount.names("/").is_empty());
    mount.write("file", "x");
    let mount = mount.restart();
    assert_eq!(mount.names("/"), ["file"]);
}

#[test]
fn root_has_the_attributes_of_the_lowers_root() {
    let mount = Mount::over(
        lower! { "." => dir().mode(0o750).owner(31, 32).mtime(4_000_000, 8).xattr("user.r", "y") },
    );
    let root = mount.stat("/");
    assert_eq!(
        (root.mode() & 0o7777, root.uid(), root.gid(), root.mtime(), root.mtime_nsec()),
        (0o750, 31, 32, 4_000_000, 8)
    );
    assert_eq!(get_xattr(mount.root(), "user.r").unwrap(), b"y");
}

#[test]
fn removed_lower_entry_stays_removed() {
    let mount = Mount::over(lower! { "a" => "1", "b" => "2", "d/c" => "3" });
    fs::remove_file(mount.path("a")).unwrap();
    fs::remove_file(mount.path("d/c")).unwrap();
    assert_eq!((mount.names("/"), mount.names("d").len()), (vec!["b".into(), "d".into()], 0));
    let mount = mount.restart();
    assert_eq!((mount.names("/"), mount.names("d").len()), (vec!["b".into(), "d".into()], 0));
    assert_errno!(fs::read(mount.path("a")), ENOENT);
}

#[test]
fn file_made_over_a_removed_one_is_new() {
    let mount = Mount::over(lower! { "a" => file("old").mode(0o600).owner(5, 5).xattr("user.k", "v") });
    let old = mount.ino("a");
    fs::remove_file(mount.path("a")).unwrap();
    with_umask(0o022, || mount.write("a", "new"));
    let check = |mount: &Mount| {
        assert_eq!((mount.text("a"), mount.mode("a"), mount.stat("a").uid()), ("new".into(), 0o644, 0));
        assert!(list_xattrs(mount.path("a")).unwrap().is_empty());
        assert_ne!(mount.ino("a"), old);
    };
    check(&mount);
    check(&mount.restart());
}

#[test]
fn directory_made_over_a_removed_one_is_empty() {
    let mount = Mount::over(lower! { "d/a" => "1", "d/sub/b" => "2" });
    fs::remove_dir_all(mount.path("d")).unwrap();
    assert!(mount.names("/").is_empty());
    fs::create_dir(mount.path("d")).unwrap();
    assert!(mount.names("d").is_empty());
    fs::create_dir(mount.path("d/sub")).unwrap();
    mount.write("d/sub/new", "3");
    let mount = mount.restart();
    assert_eq!((mount.names("d"), mount.names("d/sub")), (vec!["sub".into()], vec!["new".into()]));
    assert_errno!(fs::read(mount.path("d/a")), ENOENT);
    assert_errno!(fs::read(mount.path("d/sub/b")), ENOENT);
}

#[test]
fn directory_that_was_emptied_stays_empty() {
    let mount = Mount::over(lower! { "d/a" => "1", "d/b" => "2" });
    fs::remove_file(mount.path("d/a")).unwrap();
    fs::remove_file(mount.path("d/b")).unwrap();
    let mount = mount.restart();
    assert!(mount.names("d").is_empty());
    fs::remove_dir(mount.path("d")).unwrap();
    assert!(mount.names("/").is_empty());
}

#[test]
fn file_and_directory_can_trade_places_with_what_was_below() {
    let mount = Mount::over(lower! { "d/a" => "1", "file" => "2" });
    fs::remove_dir_all(mount.path("d")).unwrap();
    fs::remove_file(mount.path("file")).unwrap();
    mount.write("d", "a file now");
    fs::create_dir(mount.path("file")).unwrap();
    let mount = mount.restart();
    assert_eq!(mount.text("d"), "a file now");
    assert!(mount.names("file").is_empty());
    fs::remove_file(mount.path("d")).unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    assert!(mount.names("d").is_empty());
}

#[test]
fn new_and_lower_entries_are_listed_together_once() {
    let mount = Mount::over(lower! { "d/a" => "", "d/b" => "", "d/c" => "" });
    mount.write("d/b", "changed");
    mount.write("d/new", "");
    fs::remove_file(mount.path("d/c")).unwrap();
    mount.write("d/c", "again");
    assert_eq!(mount.names("d"), ["a", "b", "c", "new"]);
    let mount = mount.restart();
    assert_eq!(mount.names("d"), ["a", "b", "c", "new"]);
}

#[test]
fn change_of_any_kind_keeps_everything_else() {
    let change_then_compare = |change: &dyn Fn(&Mount)| {
        let mount = Mount::over(zoo());
        let before = Tree::of(mount.root());
        change(&mount);
        let after = Tree::of(mount.root());
        let mount = mount.restart();
        assert_eq!(
            differences(&after, &Tree::of(mount.root())),
            Vec::<String>::new(),
            "changed by the restart"
        );
        differences(&before, &after)
    };
    let same = |lines: Vec<String>, wanted: &[&str]| {
        let seen: Vec<&str> = lines.iter().map(|line| line.split(" / ").next().unwrap()).collect();
        assert_eq!(seen, wanted);
    };
    same(
        change_then_compare(&|mount| chmod(mount.path("a"), 0o600).unwrap()),
        &["a: mode 640", "twin: mode 640"],
    );
    same(change_then_compare(&|mount| chmod(mount.path("d"), 0o700).unwrap()), &["d: mode 2775"]);
    same(
        change_then_compare(&|mount| chown(mount.path("link"), Some(9), None).unwrap()),
        &["link: owner 0:0"],
    );
    same(
        change_then_compare(&|mount| chown(mount.path("pipe"), Some(9), Some(9)).unwrap()),
        &["pipe: owner 0:0"],
    );
    let leaf = "d/deep/er/leaf";
    let lines = change_then_compare(&|mount| set_times(mount.path(leaf), (1, 1), (-5, 9)).unwrap());
    assert!(lines.len() == 1 && lines[0].starts_with("d/deep/er/leaf: mtime "), "{lines:?}");
}

#[test]
fn copy_up_keeps_content_beyond_what_was_written() {
    for (name, size) in [("small", 100usize), ("page", 4096), ("large", 300_000)] {
        let mount = Mount::over(lower! { name => noise(1, 0, size) });
        let file = open(mount.path(name), libc::O_RDWR, 0).unwrap();
        file.write_all_at(b"changed", 10).unwrap();
        drop(file);
        let mut wanted = noise(1, 0, size);
        wanted[10..17].copy_from_slice(b"changed");
        assert!(mount.read(name) == wanted, "{name}");
        let mount = mount.restart();
        assert!(mount.read(name) == wanted, "{name} after the restart");
    }
}

#[test]
fn copy_up_keeps_the_inode_number_and_open_handles() {
    let mount = Mount::over(zoo());
    let names = ["a", "twin", "big", "d", "d/file", "link", "pipe", "socket", "null", "empty", "/"];
    let before: Vec<u64> = names.iter().map(|name| mount.ino(name)).collect();
    let reader = File::open(mount.path("a")).unwrap();
    mount.write("a", "changed through another handle");
    chmod(mount.path("d"), 0o700).unwrap();
    mount.write("d/file", "new");
    for name in ["big", "pipe", "socket", "null", "empty", "/"] {
        chmod(mount.path(name), 0o700).unwrap();
    }
    chown(mount.path("link"), Some(1), Some(1)).unwrap();
    let mut seen = [0; 7];
    reader.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!((&seen, reader.metadata().unwrap().ino()), (b"changed", before[0]));
    let after: Vec<u64> = names.iter().map(|name| mount.ino(name)).collect();
    assert_eq!(before, after);
    drop(reader);
    let mount = mount.restart();
    let after: Vec<u64> = names.iter().map(|name| mount.ino(name)).collect();
    assert_eq!(before, after);
}

#[test]
fn hard_links_of_a_lower_stay_one_file() {
    let mount = Mount::over(lower! { "a" => "old", "d/b" => hard_link("a"), "c" => hard_link("a") });
    // Only one of the names was ever looked at when the file is copied up.
    mount.write("d/b", "new content");
    assert_eq!((mount.text("a"), mount.text("c")), ("new content".into(), "new content".into()));
    fs::remove_file(mount.path("d/b")).unwrap();
    assert_eq!((mount.stat("a").nlink(), mount.ino("a")), (2, mount.ino("c")));
    let mount = mount.restart();
    mount.write("c", "newer");
    assert_eq!((mount.text("a"), mount.stat("a").nlink()), ("newer".into(), 2));
}

#[test]
fn sparse_file_of_a_lower_stays_sparse() {
    let mount = Mount::over(zoo());
    let before = mount.store().allocated();
    let file = open(mount.path("sparse"), libc::O_RDWR, 0).unwrap();
    file.write_all_at(b"written", 1 << 29).unwrap();
    assert!(mount.stat("sparse").blocks() * 512 < MIB);
    let mut seen = [0; 6];
    file.read_exact_at(&mut seen, 1 << 20).unwrap();
    assert_eq!(&seen, b"island");
    file.read_exact_at(&mut seen, 1 << 28).unwrap();
    assert_eq!(seen, [0; 6]);
    drop(file);
    let grown = mount.store().allocated().saturating_sub(before);
    assert!(grown < 4 * MIB, "the store grew by {grown} bytes");
}

#[test]
fn write_into_a_huge_lower_file_costs_what_it_writes() {
    let mount = Mount::over(lower! { "huge" => sparse(10 << 30, &[(0, b"begin"), (5 << 30, b"middle")]) });
    // Whatever a store needs to begin with is there.
    mount.write("warm", noise(1, 0, 8192));
    File::open(mount.path("warm")).unwrap().sync_all().unwrap();
    let before = mount.store().allocated();
    let started = Instant::now();
    let file = open(mount.path("huge"), libc::O_RDWR, 0).unwrap();
    file.write_all_at(&noise(2, 0, 4096), 7 << 30).unwrap();
    let elapsed = started.elapsed();
    file.sync_all().unwrap();
    let grown = mount.store().allocated().saturating_sub(before);
    // To copy 10 GiB takes longer on any disk; a machine with other work may stop for a moment.
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    assert!(grown < 64 * KIB, "the store grew by {grown} bytes");
    let mut seen = [0; 6];
    file.read_exact_at(&mut seen, 5 << 30).unwrap();
    assert_eq!((&seen, file.metadata().unwrap().len()), (b"middle", 10 << 30));
}

#[test]
fn bytes_that_are_copied_up_are_counted() {
    let mount = Mount::over(lower! { "large" => noise(1, 0, 300_000), "small" => "small" });
    let counted = || mount.store().json(["stats"])["copy_up_bytes"].as_u64().unwrap();
    let change = |name: &str, offset, bytes: &[u8]| {
        open(mount.path(name), libc::O_RDWR, 0).unwrap().write_all_at(bytes, offset).unwrap();
    };
    assert_eq!(counted(), 0);
    change("large", 5000, b"a part of a page");
    assert_eq!(counted(), 4096);
    // It is not the lower's any more.
    change("large", 6000, b"once more");
    // What is replaced as a whole is not copied, nor what lies beyond the end.
    change("large", 8192, &noise(2, 0, 8192));
    change("large", 400_000, b"far away");
    chmod(mount.path("large"), 0o600).unwrap();
    assert_eq!(counted(), 4096);
    change("small", 1, b"M");
    assert_eq!(counted(), 4096 + 5);
    assert_eq!(mount.text("small"), "sMall");
}

#[test]
fn changing_metadata_of_a_huge_lower_file_costs_nothing() {
    let mount = Mount::over(lower! { "huge" => sparse(10 << 30, &[(5 << 30, b"middle")]) });
    mount.write("warm", noise(1, 0, 8192));
    let before = mount.store().allocated();
    chmod(mount.path("huge"), 0o600).unwrap();
    set_xattr(mount.path("huge"), "user.k", "v").unwrap();
    fs::rename(mount.path("huge"), mount.path("renamed")).unwrap();
    File::open(mount.path("renamed")).unwrap().sync_all().unwrap();
    let grown = mount.store().allocated().saturating_sub(before);
    assert!(grown < 64 * KIB, "the store grew by {grown} bytes");
}

#[test]
fn upper_lowers_hide_the_ones_below() {
    let top =
        lower! { "both" => "top", "top only" => "t", "d/both" => "top", "d/t" => "", "kind" => "a file" };
    let bottom = lower! { "both" => "bottom", "bottom only" => "b", "d/both" => "bottom", "d/b" => "", "kind/x" => "" };
    let mount = Mount::over_stack(&[top, bottom]);
    assert_eq!(mount.names("/"), ["both", "bottom only", "d", "kind", "top only"]);
    assert_eq!(
        (mount.names("d"), mount.text("both"), mount.text("d/both")),
        (vec!["b".into(), "both".into(), "t".into()], "top".into(), "top".into())
    );
    assert_eq!((mount.text("kind"), mount.text("bottom only")), ("a file".into(), "b".into()));
}

#[test]
fn removing_what_two_lowers_have_removes_both() {
    let mount = Mount::over_stack(&[
        lower! { "a" => "1", "d/x" => "1" },
        lower! { "a" => "2", "d/x" => "2", "d/y" => "2" },
    ]);
    fs::remove_file(mount.path("a")).unwrap();
    fs::remove_file(mount.path("d/x")).unwrap();
    assert_errno!(fs::remove_dir(mount.path("d")), ENOTEMPTY);
    fs::remove_file(mount.path("d/y")).unwrap();
    fs::remove_dir(mount.path("d")).unwrap();
    assert!(mount.names("/").is_empty());
    fs::create_dir(mount.path("d")).unwrap();
    let mount = mount.restart();
    assert_eq!((mount.names("/"), mount.names("d").len()), (vec!["d".into()], 0));
}

#[test]
fn ten_lowers_keep_their_order() {
    let layouts: Vec<Layout> = (0..10)
        .map(|number| {
            let own = format!("only-{number}");
            lower! { "shared" => number.to_string().as_str(), format!("d/{own}") => own.as_str() }
        })
        .collect();
    let mount = Mount::over_stack(&layouts);
    assert_eq!((mount.text("shared"), mount.names("d").len()), ("0".into(), 10));
    mount.write("d/only-9", "changed");
    fs::remove_file(mount.path("d/only-5")).unwrap();
    let mount = mount.restart();
    assert_eq!(
        (mount.names("d").len(), mount.text("d/only-9"), mount.text("d/only-8")),
        (9, "changed".into(), "only-8".into())
    );
}

#[test]
fn whiteouts_in_a_lower_hide_what_is_below_it() {
    let whiteout = || device(libc::S_IFCHR, 0, 0);
    let top = lower! { "gone" => whiteout(), "d/gone" => whiteout(), "opaque" => dir().xattr("trusted.overlay.opaque", "y"), "opaque/new" => "n" };
    let bottom = lower! { "gone" => "1", "d/gone" => "2", "d/stays" => "3", "opaque/old" => "4" };
    let mount = Mount::over_stack(&[top, bottom]);
    assert_eq!(
        (mount.names("/"), mount.names("d"), mount.names("opaque")),
        (vec!["d".into(), "opaque".into()], vec!["stays".into()], vec!["new".into()])
    );
    assert_errno!(fs::read(mount.path("gone")), ENOENT);
    mount.write("gone", "made again");
    assert_eq!(mount.text("gone"), "made again");
}

#[test]
fn two_volumes_share_a_lower_without_seeing_each_other() {
    let lower = lower! { "file" => "shared", "d/x" => "" }.build();
    let store = Store::new();
    let one = store.mount_over("one", &[lower.path()]);
    let other = store.mount_over("other", &[lower.path()]);
    one.write("file", "one");
    fs::remove_dir_all(other.path("d")).unwrap();
    assert_eq!((one.text("file"), other.text("file")), ("one".into(), "shared".into()));
    assert_eq!((one.names("/").len(), other.names("/").len()), (2, 1));
}

#[test]
fn everything_below_can_be_removed() {
    let mount = Mount::over(zoo());
    for name in mount.names("/") {
        let path = mount.path(&name);
        if mount.stat(&name).is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
    }
    assert!(mount.names("/").is_empty());
    let mount = mount.restart();
    assert!(mount.names("/").is_empty());
}

#[test]
fn truncated_lower_file_does_not_show_its_old_end_again() {
    let mount = Mount::over(lower! { "file" => noise(1, 0, 300_000) });
    truncate(mount.path("file"), 100_000).unwrap();
    truncate(mount.path("file"), 300_000).unwrap();
    let mut wanted = noise(1, 0, 100_000);
    wanted.resize(300_000, 0);
    assert!(mount.read("file") == wanted);
    let mount = mount.restart();
    assert!(mount.read("file") == wanted);
}

#[test]
fn opening_for_writing_alone_changes_nothing() {
    let mount = Mount::over(zoo());
    let before = mount.stat("big");
    drop(open(mount.path("big"), libc::O_RDWR, 0).unwrap());
    drop(open(mount.path("a"), libc::O_WRONLY | libc::O_APPEND, 0).unwrap());
    let after = mount.stat("big");
    assert_eq!((before.mtime_nsec(), before.ctime_nsec()), (after.mtime_nsec(), after.ctime_nsec()));
    assert_eq!(mount.store().volume("v")["used_bytes"], 0);
}

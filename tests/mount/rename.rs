//! Renaming: what replaces what, what is refused, and what open handles see of it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use libc::{RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT};

#[test]
fn renamed_file_keeps_everything_but_its_name() {
    let layout = lower! { "a" => file("content").mode(0o640).owner(5, 6).mtime(77, 88).xattr("user.k", "v"), "d" => dir() };
    on_both(layout, |mount| {
        let before = mount.stat("a");
        fs::rename(mount.path("a"), mount.path("d/b")).unwrap();
        let after = mount.stat("d/b");
        assert_errno!(fs::symlink_metadata(mount.path("a")), ENOENT);
        assert_eq!(after.ino(), before.ino());
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), 5, 6));
        assert_eq!((after.mtime(), after.mtime_nsec(), after.nlink()), (77, 88, 1));
        assert_eq!(get_xattr(mount.path("d/b"), "user.k").unwrap(), b"v");
        assert_eq!(mount.text("d/b"), "content");
    });
}

#[test]
fn rename_replaces_a_file() {
    on_both(lower! { "new" => "new", "old" => "old" }, |mount| {
        let mut replaced = File::open(mount.path("old")).unwrap();
        let ino = mount.ino("new");
        fs::rename(mount.path("new"), mount.path("old")).unwrap();
        assert_eq!(mount.names("/"), ["old"]);
        assert_eq!((mount.text("old"), mount.ino("old")), ("new".into(), ino));
        let mut text = String::new();
        replaced.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), replaced.metadata().unwrap().nlink()), ("old", 0));
    });
}

#[test]
fn rename_replaces_an_empty_directory_only() {
    on_both(lower! { "d/a" => "1", "empty" => dir(), "full/b" => "2" }, |mount| {
        assert_errno!(fs::rename(mount.path("d"), mount.path("full")), ENOTEMPTY | EEXIST);
        fs::rename(mount.path("d"), mount.path("empty")).unwrap();
        assert_eq!(mount.names("/"), ["empty", "full"]);
        assert_eq!(mount.text("empty/a"), "1");
    });
}

#[test]
fn rename_replaces_a_directory_that_was_emptied() {
    on_both(lower! { "d/a" => "1", "emptied/b" => "2", "emptied/c/e" => "3" }, |mount| {
        fs::remove_file(mount.path("emptied/b")).unwrap();
        fs::remove_dir_all(mount.path("emptied/c")).unwrap();
        fs::rename(mount.path("d"), mount.path("emptied")).unwrap();
        assert_eq!(mount.names("emptied"), ["a"]);
    });
}

#[test]
fn rename_does_not_mix_files_and_directories() {
    on_both(lower! { "file" => "", "dir" => dir(), "link" => symlink_to("dir") }, |mount| {
        assert_errno!(fs::rename(mount.path("file"), mount.path("dir")), EISDIR);
        assert_errno!(fs::rename(mount.path("dir"), mount.path("file")), ENOTDIR);
        assert_errno!(fs::rename(mount.path("dir"), mount.path("link")), ENOTDIR);
        assert_errno!(fs::rename(mount.path("link"), mount.path("dir")), EISDIR);
        assert_eq!(mount.names("/"), ["dir", "file", "link"]);
    });
}

#[test]
fn rename_of_a_directory_into_itself_is_einval() {
    on_both(lower! { "d/e/f" => dir() }, |mount| {
        assert_errno!(fs::rename(mount.path("d"), mount.path("d/new")), EINVAL);
        assert_errno!(fs::rename(mount.path("d"), mount.path("d/e/f/new")), EINVAL);
        assert_errno!(fs::rename(mount.path("d"), mount.path("d/e")), EINVAL);
        assert_errno!(fs::rename(mount.path("d/e"), mount.path("d")), ENOTEMPTY);
        assert_eq!(mount.names("d/e"), ["f"]);
    });
}

#[test]
fn rename_to_the_same_name_changes_nothing() {
    on_both(lower! { "file" => "x", "d/a" => "" }, |mount| {
        fs::rename(mount.path("file"), mount.path("file")).unwrap();
        fs::rename(mount.path("d"), mount.path("d")).unwrap();
        assert_eq!(mount.text("file"), "x");
        assert_eq!(mount.names("d"), ["a"]);
    });
}

#[test]
fn rename_between_links_of_one_file_changes_nothing() {
    on_both(lower! { "a" => "x", "b" => hard_link("a") }, |mount| {
        fs::rename(mount.path("a"), mount.path("b")).unwrap();
        assert_eq!(mount.names("/"), ["a", "b"]);
        assert_eq!((mount.ino("a"), mount.stat("a").nlink()), (mount.ino("b"), 2));
    });
}

#[test]
fn rename_of_what_is_not_there_is_enoent() {
    let mount = Mount::over(lower! { "file" => "x" });
    assert_errno!(fs::rename(mount.path("missing"), mount.path("new")), ENOENT);
    assert_errno!(fs::rename(mount.path("missing"), mount.path("file")), ENOENT);
    assert_errno!(fs::rename(mount.path("file"), mount.path("missing/new")), ENOENT);
    assert_errno!(fs::rename(mount.path("file/x"), mount.path("new")), ENOTDIR);
    assert_errno!(fs::rename(mount.path("file"), mount.path("file/x")), ENOTDIR);
    assert_eq!(mount.text("file"), "x");
}

#[test]
fn rename_of_dot_is_refused() {
    let mount = Mount::over(lower! { "d" => dir() });
    assert_errno!(fs::rename(mount.path("d/."), mount.path("e")), EBUSY | EINVAL);
    assert_errno!(fs::rename(mount.path("d"), mount.path("d/..")), EBUSY | EINVAL | ENOTEMPTY);
}

#[test]
fn rename_out_of_the_volume_is_exdev() {
    let mount = Mount::over(lower! { "file" => "x" });
    if !mount.is_plain() {
        assert_errno!(fs::rename(mount.path("file"), mount.root().with_extension("outside")), EXDEV);
        assert_eq!(mount.text("file"), "x");
    }
}

#[test]
fn noreplace_refuses_an_existing_target_only() {
    on_both(lower! { "a" => "1", "b" => "2", "d" => dir(), "dangling" => symlink_to("x") }, |mount| {
        for target in ["b", "d", "dangling", "a"] {
            assert_errno!(rename_with(mount.path("a"), mount.path(target), RENAME_NOREPLACE), EEXIST);
        }
        rename_with(mount.path("a"), mount.path("c"), RENAME_NOREPLACE).unwrap();
        rename_with(mount.path("d"), mount.path("e"), RENAME_NOREPLACE).unwrap();
        assert_eq!(mount.names("/"), ["b", "c", "dangling", "e"]);
        assert_eq!(mount.text("b"), "2");
    });
}

#[test]
fn noreplace_works_on_a_name_that_was_removed() {
    on_both(lower! { "a" => "1", "b" => "2" }, |mount| {
        fs::remove_file(mount.path("b")).unwrap();
        rename_with(mount.path("a"), mount.path("b"), RENAME_NOREPLACE).unwrap();
        assert_eq!(mount.text("b"), "1");
    });
}

#[test]
fn exchange_swaps_whatever_the_two_are() {
    on_both(lower! { "file" => "f", "d/a" => "1", "other/b" => "2", "link" => symlink_to("x") }, |mount| {
        rename_with(mount.path("d"), mount.path("other"), RENAME_EXCHANGE).unwrap();
        assert_eq!((mount.names("d"), mount.names("other")), (vec!["b".into()], vec!["a".into()]));
        rename_with(mount.path("file"), mount.path("d"), RENAME_EXCHANGE).unwrap();
        assert_eq!((mount.text("d"), mount.names("file")), ("f".into(), vec!["b".into()]));
        rename_with(mount.path("link"), mount.path("other/a"), RENAME_EXCHANGE).unwrap();
        assert_eq!(mount.text("link"), "1");
        assert!(mount.stat("other/a").is_symlink());
    });
}

#[test]
fn exchange_survives_a_restart() {
    let mount = Mount::over(lower! { "low" => "l", "d/a" => "1" });
    mount.write("up", "u");
    rename_with(mount.path("low"), mount.path("up"), RENAME_EXCHANGE).unwrap();
    rename_with(mount.path("d"), mount.path("up"), RENAME_EXCHANGE).unwrap();
    let mount = mount.restart();
    assert_eq!(
        (mount.text("low"), mount.text("d"), mount.text("up/a")),
        ("u".into(), "l".into(), "1".into())
    );
}

#[test]
fn exchange_needs_both_names_and_no_nesting() {
    on_both(lower! { "a" => "1", "d/e" => dir() }, |mount| {
        assert_errno!(rename_with(mount.path("a"), mount.path("missing"), RENAME_EXCHANGE), ENOENT);
        assert_errno!(rename_with(mount.path("missing"), mount.path("a"), RENAME_EXCHANGE), ENOENT);
        assert_errno!(rename_with(mount.path("d"), mount.path("d/e"), RENAME_EXCHANGE), EINVAL);
        assert_errno!(rename_with(mount.path("d/e"), mount.path("d"), RENAME_EXCHANGE), EINVAL | ENOTEMPTY);
        assert_errno!(
            rename_with(mount.path("a"), mount.path("d"), RENAME_EXCHANGE | RENAME_NOREPLACE),
            EINVAL
        );
    });
}

#[test]
fn flags_nobody_knows_are_einval() {
    let mount = Mount::over(lower! { "a" => "1" });
    assert_errno!(rename_with(mount.path("a"), mount.path("b"), 1 << 20), EINVAL);
    if !mount.is_plain() {
        assert_errno!(rename_with(mount.path("a"), mount.path("b"), RENAME_WHITEOUT), EINVAL);
    }
    assert_eq!(mount.names("/"), ["a"]);
}

#[test]
fn dot_dot_of_a_moved_directory_is_its_new_parent() {
    on_both(lower! { "from/d/a" => "", "to" => dir() }, |mount| {
        assert_eq!(mount.ino("from/d/.."), mount.ino("from"));
        fs::rename(mount.path("from/d"), mount.path("to/d")).unwrap();
        assert_eq!(mount.ino("to/d/.."), mount.ino("to"));
        let listed = DirStream::open(mount.path("to/d")).unwrap().rest().unwrap();
        let parent = listed.iter().find(|entry| entry.name == "..").unwrap();
        assert_eq!(parent.ino, mount.ino("to"));
    });
}

#[test]
fn open_handles_follow_a_rename() {
    on_both(lower! { "d/file" => "content" }, |mount| {
        let file = open(mount.path("d/file"), libc::O_RDWR, 0).unwrap();
        let dir = File::open(mount.path("d")).unwrap();
        fs::rename(mount.path("d"), mount.path("e")).unwrap();
        fs::rename(mount.path("e/file"), mount.path("e/renamed")).unwrap();
        file.write_all_at(b"CONTENT", 0).unwrap();
        open_at(&dir, "new", libc::O_CREAT | libc::O_WRONLY, 0o600).unwrap();
        assert_eq!(mount.text("e/renamed"), "CONTENT");
        assert_eq!(mount.names("e"), ["new", "renamed"]);
    });
}

#[test]
fn times_follow_a_rename() {
    on_both(lower! { "from/file" => "x", "to" => dir() }, |mount| {
        for dir in ["from", "to"] {
            set_times(mount.path(dir), (1000, 0), (1000, 0)).unwrap();
        }
        let before = mount.stat("from/file");
        next_tick();
        fs::rename(mount.path("from/file"), mount.path("to/file")).unwrap();
        let after = mount.stat("to/file");
        assert!(mount.stat("from").mtime() > 1000 && mount.stat("to").mtime() > 1000);
        assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
        assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    });
}

#[test]
fn rename_needs_write_permission_on_both_directories() {
    let layout = lower! {
        "mine/file" => "x", "mine" => dir().mode(0o777),
        "closed/file" => "y", "closed" => dir().mode(0o755),
    };
    on_both(layout, |mount| {
        as_user(User::ANN, || {
            assert_errno!(fs::rename(mount.path("closed/file"), mount.path("mine/new")), EACCES);
            assert_errno!(fs::rename(mount.path("mine/file"), mount.path("closed/new")), EACCES);
            fs::rename(mount.path("mine/file"), mount.path("mine/new")).unwrap();
        });
    });
}

#[test]
fn moving_somebody_elses_directory_needs_write_permission_on_it() {
    let layout = lower! {
        "a/d/x" => "", "a/d" => dir().mode(0o755), "a" => dir().mode(0o777), "b" => dir().mode(0o777),
    };
    on_both(layout, |mount| {
        // Its `..` changes. Within one directory nothing in it changes.
        as_user(User::ANN, || {
            assert_errno!(fs::rename(mount.path("a/d"), mount.path("b/d")), EACCES);
            fs::rename(mount.path("a/d"), mount.path("a/e")).unwrap();
        });
    });
}

#[test]
fn renaming_over_a_removed_name_does_not_bring_the_old_one_back() {
    on_both(lower! { "a" => "old a", "b" => "old b" }, |mount| {
        fs::remove_file(mount.path("b")).unwrap();
        fs::rename(mount.path("a"), mount.path("b")).unwrap();
        fs::remove_file(mount.path("b")).unwrap();
        assert!(mount.names("/").is_empty());
        assert_errno!(fs::read(mount.path("a")), ENOENT);
        assert_errno!(fs::read(mount.path("b")), ENOENT);
    });
}

#[test]
fn symlinks_and_special_files_can_be_renamed() {
    on_both(lower! { "l" => symlink_to("target"), "p" => fifo(), "s" => socket() }, |mount| {
        for name in ["l", "p", "s"] {
            fs::rename(mount.path(name), mount.path(format!("{name}2"))).unwrap();
        }
        assert_eq!(mount.names("/"), ["l2", "p2", "s2"]);
        assert_eq!(fs::read_link(mount.path("l2")).unwrap().to_str(), Some("target"));
    });
}

/// How editors and package managers replace a file: a reader sees the old or the new one, never
/// nothing and never a mixture.
#[test]
fn replacement_by_rename_is_atomic_for_readers() {
    let mount = Mount::holding(lower! { "file" => "0".repeat(5000).as_str() });
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                let content = mount.text("file");
                let first = content.chars().next().unwrap();
                assert!(
                    content.len() == 5000 && content.chars().all(|other| other == first),
                    "torn: {content}"
                );
                seen += 1;
            }
            seen
        });
        for round in 0..500 {
            mount.write("draft", (round % 10).to_string().repeat(5000));
            fs::rename(mount.path("draft"), mount.path("file")).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn crossing_renames_neither_deadlock_nor_lose_anything() {
    let mount = Mount::holding(lower! { "a/x" => "x", "b/y" => "y", "a/d/in" => "1", "b/e/in" => "2" });
    let shuttle = |from: &str, to: &str, times: u32| {
        for _ in 0..times {
            fs::rename(mount.path(from), mount.path(to)).unwrap();
            fs::rename(mount.path(to), mount.path(from)).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| shuttle("a/x", "b/x", 300));
        scope.spawn(|| shuttle("b/y", "a/y", 300));
        scope.spawn(|| shuttle("a/d", "b/d", 300));
        scope.spawn(|| shuttle("b/e", "a/e", 300));
    });
    assert_eq!(
        (mount.names("a"), mount.names("b")),
        (vec!["d".into(), "x".into()], vec!["e".into(), "y".into()])
    );
    assert_eq!((mount.text("a/d/in"), mount.text("b/e/in")), ("1".into(), "2".into()));
}

#[test]
fn directories_cannot_be_moved_into_each_other_by_a_race() {
    let mount = Mount::holding(lower! { "a/keep" => "1", "b/keep" => "2" });
    for _ in 0..100 {
        std::thread::scope(|scope| {
            scope.spawn(|| drop(fs::rename(mount.path("a"), mount.path("b/a"))));
            scope.spawn(|| drop(fs::rename(mount.path("b"), mount.path("a/b"))));
        });
        // Exactly one of them can have happened.
        match mount.names("/").as_slice() {
            [one] if one == "a" => fs::rename(mount.path("a/b"), mount.path("b")).unwrap(),
            [one] if one == "b" => fs::rename(mount.path("b/a"), mount.path("a")).unwrap(),
            other => panic!("a directory is its own ancestor, or none moved: {other:?}"),
        }
        assert_eq!((mount.text("a/keep"), mount.text("b/keep")), ("1".into(), "2".into()));
    }
}

#[test]
fn rename_of_a_symlink_does_not_follow_it() {
    on_both(lower! { "target" => "t", "new" => "n" }, |mount| {
        symlink("target", mount.path("link")).unwrap();
        fs::rename(mount.path("new"), mount.path("link")).unwrap();
        assert_eq!((mount.text("target"), mount.text("link")), ("t".into(), "n".into()));
    });
}

//! Hard links: several names, one inode.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

#[test]
fn link_is_another_name_for_the_same_inode() {
    on_both(lower! { "a" => file("x").mode(0o640), "d" => dir() }, |mount| {
        fs::hard_link(mount.path("a"), mount.path("d/b")).unwrap();
        let (one, other) = (mount.stat("a"), mount.stat("d/b"));
        assert_eq!((one.ino(), one.nlink()), (other.ino(), other.nlink()));
        assert_eq!((one.nlink(), other.mode() & 0o7777), (2, 0o640));
    });
}

#[test]
fn change_through_one_name_is_seen_through_the_others() {
    on_both(lower! { "a" => "old", "b" => hard_link("a"), "d/c" => hard_link("a") }, |mount| {
        mount.write("d/c", "new content");
        chmod(mount.path("b"), 0o600).unwrap();
        set_xattr(mount.path("a"), "user.k", "v").unwrap();
        for name in ["a", "b", "d/c"] {
            assert_eq!((mount.text(name), mount.mode(name)), ("new content".into(), 0o600), "{name}");
            assert_eq!(get_xattr(mount.path(name), "user.k").unwrap(), b"v");
            assert_eq!((mount.ino(name), mount.stat(name).nlink()), (mount.ino("a"), 3));
        }
    });
}

#[test]
fn links_survive_a_restart() {
    let mount = Mount::over(lower! { "low" => "l", "low2" => hard_link("low") });
    mount.write("up", "u");
    fs::hard_link(mount.path("up"), mount.path("up2")).unwrap();
    fs::hard_link(mount.path("low"), mount.path("low3")).unwrap();
    mount.write("low2", "changed");
    let mount = mount.restart();
    assert_eq!((mount.ino("up"), mount.stat("up").nlink()), (mount.ino("up2"), 2));
    assert_eq!((mount.text("low"), mount.text("low3")), ("changed".into(), "changed".into()));
    assert_eq!((mount.ino("low"), mount.stat("low").nlink()), (mount.ino("low3"), 3));
}

#[test]
fn file_lives_as_long_as_one_name() {
    on_both(lower! { "a" => "x", "b" => hard_link("a") }, |mount| {
        fs::remove_file(mount.path("a")).unwrap();
        assert_eq!((mount.text("b"), mount.stat("b").nlink()), ("x".into(), 1));
        fs::hard_link(mount.path("b"), mount.path("a")).unwrap();
        assert_eq!(mount.stat("a").nlink(), 2);
    });
}

#[test]
fn link_to_a_directory_is_eperm() {
    on_both(lower! { "d" => dir() }, |mount| {
        assert_errno!(fs::hard_link(mount.path("d"), mount.path("e")), EPERM)
    });
}

#[test]
fn link_over_anything_is_eexist() {
    on_both(lower! { "a" => "1", "b" => "2", "d" => dir(), "l" => symlink_to("x") }, |mount| {
        for target in ["a", "b", "d", "l"] {
            assert_errno!(fs::hard_link(mount.path("a"), mount.path(target)), EEXIST);
        }
    });
}

#[test]
fn link_needs_source_and_directory() {
    let mount = Mount::over(lower! { "a" => "1" });
    assert_errno!(fs::hard_link(mount.path("missing"), mount.path("b")), ENOENT);
    assert_errno!(fs::hard_link(mount.path("a"), mount.path("missing/b")), ENOENT);
    assert_errno!(fs::hard_link(mount.path("a"), mount.path("a/b")), ENOTDIR);
}

#[test]
fn link_out_of_the_volume_is_exdev() {
    let mount = Mount::over(lower! { "a" => "1" });
    if !mount.is_plain() {
        assert_errno!(fs::hard_link(mount.path("a"), mount.root().with_extension("outside")), EXDEV);
    }
}

#[test]
fn link_of_a_symlink_links_the_symlink() {
    on_both(lower! { "target" => "x", "l" => symlink_to("target") }, |mount| {
        fs::hard_link(mount.path("l"), mount.path("l2")).unwrap();
        assert!(mount.stat("l2").is_symlink());
        assert_eq!((mount.ino("l"), mount.stat("l").nlink()), (mount.ino("l2"), 2));
        assert_eq!(mount.stat("target").nlink(), 1);
    });
}

#[test]
fn special_files_can_be_linked() {
    on_both(lower! { "p" => fifo(), "s" => socket() }, |mount| {
        for name in ["p", "s"] {
            fs::hard_link(mount.path(name), mount.path(format!("{name}2"))).unwrap();
            assert_eq!((mount.stat(name).nlink(), mount.ino(name)), (2, mount.ino(format!("{name}2"))));
        }
    });
}

#[test]
fn link_changes_the_change_time_only() {
    on_both(lower! { "a" => file("x").mtime(1000, 5), "d" => dir() }, |mount| {
        set_times(mount.path("d"), (1000, 0), (1000, 0)).unwrap();
        let before = mount.stat("a");
        next_tick();
        fs::hard_link(mount.path("a"), mount.path("d/b")).unwrap();
        let after = mount.stat("a");
        assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
        assert_eq!((after.mtime(), after.mtime_nsec()), (1000, 5));
        assert!(mount.stat("d").mtime() > 1000);
    });
}

#[test]
fn link_over_a_removed_name_works() {
    on_both(lower! { "a" => "1", "b" => "2" }, |mount| {
        fs::remove_file(mount.path("b")).unwrap();
        fs::hard_link(mount.path("a"), mount.path("b")).unwrap();
        assert_eq!((mount.text("b"), mount.stat("b").nlink()), ("1".into(), 2));
    });
}

#[test]
fn a_thousand_links_to_one_file() {
    let mount = Mount::over(lower! { "a" => "x" });
    for number in 0..999 {
        fs::hard_link(mount.path("a"), mount.path(format!("l{number}"))).unwrap();
    }
    assert_eq!(mount.stat("l500").nlink(), 1000);
    fs::remove_file(mount.path("a")).unwrap();
    let mount = mount.restart();
    assert_eq!((mount.stat("l0").nlink(), mount.text("l998")), (999, "x".into()));
}

#[test]
fn renaming_over_one_of_two_links_leaves_the_other() {
    on_both(lower! { "a" => "1", "b" => hard_link("a"), "c" => "2" }, |mount| {
        fs::rename(mount.path("c"), mount.path("b")).unwrap();
        assert_eq!((mount.stat("a").nlink(), mount.text("a"), mount.text("b")), (1, "1".into(), "2".into()));
        symlink("a", mount.path("s")).unwrap();
        assert_eq!(mount.names("/"), ["a", "b", "s"]);
    });
}

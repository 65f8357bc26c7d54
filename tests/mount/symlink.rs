//! Symbolic links.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, symlink};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

#[test]
fn target_is_kept_byte_for_byte() {
    let odd = OsString::from_vec((1..=255).collect());
    let long = "x".repeat(255) + "/" + &"y/".repeat(1900);
    let longest = "z".repeat(4095);
    for target in [odd, long.into(), longest.into(), "/absolute".into(), "..".into(), " ".into()] {
        on_both(lower! { "l" => symlink_to(&target) }, |mount| {
            assert_eq!(fs::read_link(mount.path("l")).unwrap(), target);
            assert_eq!(mount.stat("l").size(), target.len() as u64);
        });
    }
}

#[test]
fn target_survives_a_restart() {
    let mount = Mount::over(lower! { "low" => symlink_to("somewhere") });
    let long = "z".repeat(4095);
    symlink(&long, mount.path("up")).unwrap();
    fs::rename(mount.path("low"), mount.path("moved")).unwrap();
    let mount = mount.restart();
    assert_eq!(fs::read_link(mount.path("up")).unwrap().to_str(), Some(long.as_str()));
    assert_eq!(fs::read_link(mount.path("moved")).unwrap().to_str(), Some("somewhere"));
}

#[test]
fn impossible_targets_are_refused() {
    let mount = Mount::empty();
    assert_errno!(symlink("", mount.path("l")), ENOENT);
    assert_errno!(symlink("x".repeat(4096), mount.path("l")), ENAMETOOLONG);
    assert!(mount.names("/").is_empty());
}

#[test]
fn symlink_over_anything_is_eexist() {
    on_both(lower! { "file" => "", "dir" => dir(), "dangling" => symlink_to("x") }, |mount| {
        for name in ["file", "dir", "dangling"] {
            assert_errno!(symlink("target", mount.path(name)), EEXIST);
        }
        assert_errno!(symlink("target", mount.path("missing/l")), ENOENT);
        assert_errno!(symlink("target", mount.path("file/l")), ENOTDIR);
    });
}

#[test]
fn symlink_belongs_to_its_maker_and_grants_everything() {
    let mount = Mount::empty();
    chmod(mount.root(), 0o777).unwrap();
    as_user(User::ANN, || symlink("t", mount.path("l")).unwrap());
    let meta = mount.stat("l");
    assert_eq!(
        (meta.uid(), meta.gid(), mount.mode("l"), meta.nlink()),
        (User::ANN.uid, User::ANN.gid, 0o777, 1)
    );
}

#[test]
fn relative_and_absolute_targets_are_followed() {
    on_both(lower! { "d/file" => "x", "d/up" => symlink_to("../top"), "top" => "t" }, |mount| {
        symlink(mount.path("d"), mount.path("abs")).unwrap();
        symlink("abs/up", mount.path("chain")).unwrap();
        assert_eq!((mount.text("abs/file"), mount.text("chain")), ("x".into(), "t".into()));
        mount.write("chain", "written through three links");
        assert_eq!(mount.text("top"), "written through three links");
    });
}

#[test]
fn loops_end_in_eloop() {
    on_both(lower! { "a" => symlink_to("b"), "b" => symlink_to("a") }, |mount| {
        assert_errno!(fs::metadata(mount.path("a")), ELOOP);
        assert_errno!(fs::read_dir(mount.path("a/x")), ELOOP);
        assert_errno!(fs::write(mount.path("b"), ""), ELOOP);
        assert!(mount.stat("a").is_symlink());
    });
}

#[test]
fn readlink_of_anything_else_is_einval() {
    on_both(lower! { "file" => "", "d" => dir() }, |mount| {
        assert_errno!(fs::read_link(mount.path("file")), EINVAL);
        assert_errno!(fs::read_link(mount.path("d")), EINVAL);
        assert_errno!(fs::read_link(mount.path("missing")), ENOENT);
    });
}

#[test]
fn owner_and_times_of_the_link_itself_can_be_set() {
    on_both(lower! { "target" => file("x").owner(1, 1).mtime(5, 0), "l" => symlink_to("target") }, |mount| {
        chown(mount.path("l"), Some(7), Some(8)).unwrap();
        set_times(mount.path("l"), (100, 1), (200, 2)).unwrap();
        let (link, target) = (mount.stat("l"), mount.stat("target"));
        assert_eq!((link.uid(), link.gid(), link.mtime(), link.mtime_nsec()), (7, 8, 200, 2));
        assert_eq!((target.uid(), target.gid(), target.mtime()), (1, 1, 5));
        assert_eq!(fs::read_link(mount.path("l")).unwrap().to_str(), Some("target"));
    });
}

#[test]
fn target_that_was_replaced_is_seen_at_once() {
    let mount = Mount::over(lower! { "l" => symlink_to("one"), "one" => "1", "two" => "2" });
    assert_eq!(mount.text("l"), "1");
    fs::remove_file(mount.path("l")).unwrap();
    symlink("two", mount.path("l")).unwrap();
    assert_eq!(mount.text("l"), "2");
    symlink("one", mount.path("new")).unwrap();
    fs::rename(mount.path("new"), mount.path("l")).unwrap();
    assert_eq!(mount.text("l"), "1");
}

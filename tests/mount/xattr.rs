//! Extended attributes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use libc::{XATTR_CREATE, XATTR_REPLACE};

fn names(mount: &Mount, path: &str) -> Vec<String> {
    let all = list_xattrs(mount.path(path)).unwrap();
    all.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
}

#[test]
fn attributes_can_be_set_listed_changed_and_removed() {
    on_both(lower! { "file" => "x", "d" => dir() }, |mount| {
        for path in ["file", "d"] {
            let full = mount.path(path);
            set_xattr(&full, "user.one", "1").unwrap();
            set_xattr(&full, "user.two", "22").unwrap();
            set_xattr(&full, "user.one", "changed").unwrap();
            assert_eq!(names(mount, path), ["user.one", "user.two"]);
            assert_eq!(get_xattr(&full, "user.one").unwrap(), b"changed");
            remove_xattr(&full, "user.one").unwrap();
            assert_errno!(get_xattr(&full, "user.one"), ENODATA);
            assert_errno!(remove_xattr(&full, "user.one"), ENODATA);
            assert_eq!(names(mount, path), ["user.two"]);
        }
    });
}

#[test]
fn every_namespace_of_root_works() {
    on_both(lower! { "file" => "x" }, |mount| {
        let path = mount.path("file");
        for name in ["user.k", "trusted.k", "security.k"] {
            set_xattr(&path, name, name).unwrap();
            assert_eq!(get_xattr(&path, name).unwrap(), name.as_bytes());
        }
        assert_eq!(names(mount, "file"), ["security.k", "trusted.k", "user.k"]);
    });
}

#[test]
fn trusted_attributes_are_for_root_only() {
    on_both(
        lower! { "file" => file("x").mode(0o666).xattr("trusted.k", "t").xattr("user.k", "u") },
        |mount| {
            let path = mount.path("file");
            as_user(User::ANN, || {
                assert_eq!(names(mount, "file"), ["user.k"]);
                assert_errno!(get_xattr(&path, "trusted.k"), ENODATA);
                assert_errno!(set_xattr(&path, "trusted.k", "x"), EPERM);
            });
        },
    );
}

#[test]
fn user_attributes_follow_the_permissions_of_the_file() {
    on_both(
        lower! { "secret" => file("x").mode(0o600).xattr("user.k", "v"), "shown" => file("x").mode(0o644).xattr("user.k", "v") },
        |mount| {
            as_user(User::ANN, || {
                assert_errno!(get_xattr(mount.path("secret"), "user.k"), EACCES);
                assert_eq!(get_xattr(mount.path("shown"), "user.k").unwrap(), b"v");
                assert_errno!(set_xattr(mount.path("shown"), "user.k", "w"), EACCES);
                assert_errno!(remove_xattr(mount.path("shown"), "user.k"), EACCES);
            });
        },
    );
}

#[test]
fn create_and_replace_mean_what_they_say() {
    on_both(lower! { "file" => file("x").xattr("user.old", "1") }, |mount| {
        let path = mount.path("file");
        assert_errno!(set_xattr_with(&path, "user.old", "2", XATTR_CREATE), EEXIST);
        assert_errno!(set_xattr_with(&path, "user.new", "2", XATTR_REPLACE), ENODATA);
        set_xattr_with(&path, "user.old", "2", XATTR_REPLACE).unwrap();
        set_xattr_with(&path, "user.new", "2", XATTR_CREATE).unwrap();
        remove_xattr(&path, "user.old").unwrap();
        assert_errno!(set_xattr_with(&path, "user.old", "3", XATTR_REPLACE), ENODATA);
        set_xattr_with(&path, "user.old", "3", XATTR_CREATE).unwrap();
        assert_eq!(names(mount, "file"), ["user.new", "user.old"]);
    });
}

#[test]
fn values_are_bytes_of_any_length_up_to_the_limit() {
    let mount = Mount::empty();
    mount.write("file", "x");
    let path = mount.path("file");
    // A plain filesystem may keep all attributes in one block.
    let largest = if mount.is_plain() { 2000 } else { 65_536 };
    let values = [Vec::new(), vec![0], vec![0, 255, b'\n', 0], noise(1, 0, 1000), noise(2, 0, largest)];
    for value in &values {
        set_xattr(&path, "user.k", value).unwrap();
        assert!(get_xattr(&path, "user.k").unwrap() == *value, "{} bytes", value.len());
    }
    assert_errno!(set_xattr(&path, "user.k", noise(1, 0, 65_537)), E2BIG);
    let mount = mount.restart();
    assert!(get_xattr(mount.path("file"), "user.k").unwrap() == values[4]);
}

#[test]
fn names_may_be_255_bytes_long() {
    let mount = Mount::over(lower! { "file" => "x" });
    let path = mount.path("file");
    let longest = format!("user.{}", "n".repeat(250));
    set_xattr(&path, &longest, "v").unwrap();
    assert_eq!(get_xattr(&path, &longest).unwrap(), b"v");
    assert_errno!(set_xattr(&path, format!("{longest}n"), "v"), ERANGE);
    set_xattr(&path, b"user.\xff\xfe odd", "v").unwrap();
    let mount = mount.restart();
    assert_eq!(list_xattrs(mount.path("file")).unwrap(), [longest.as_bytes(), b"user.\xff\xfe odd"]);
}

#[test]
fn names_outside_any_namespace_are_refused() {
    on_both(lower! { "file" => "x" }, |mount| {
        let path = mount.path("file");
        assert_errno!(set_xattr(&path, "plain", "v"), EOPNOTSUPP);
        assert_errno!(set_xattr(&path, "unknown.k", "v"), EOPNOTSUPP);
        assert_errno!(set_xattr(&path, "", "v"), ERANGE);
        assert_errno!(get_xattr(&path, "unknown.k"), EOPNOTSUPP | ENODATA);
        assert!(names(mount, "file").is_empty());
    });
}

#[test]
fn only_files_and_directories_have_user_attributes() {
    on_both(lower! { "l" => symlink_to("x"), "p" => fifo() }, |mount| {
        for name in ["l", "p"] {
            assert_errno!(set_xattr(mount.path(name), "user.k", "v"), EPERM);
            set_xattr(mount.path(name), "trusted.k", "v").unwrap();
            assert_eq!(names(mount, name), ["trusted.k"]);
        }
    });
}

#[test]
fn buffer_that_is_too_small_is_erange() {
    on_both(lower! { "file" => file("x").xattr("user.k", "0123456789") }, |mount| {
        use std::ffi::CString;
        use std::os::unix::ffi::OsStrExt;
        let path = CString::new(mount.path("file").as_os_str().as_bytes()).unwrap();
        let mut buffer = [0u8; 5];
        // SAFETY: both strings end in NUL, and the buffer is as long as the call is told.
        let got = unsafe { libc::getxattr(path.as_ptr(), c"user.k".as_ptr(), buffer.as_mut_ptr().cast(), 5) };
        assert_eq!((got, nix::errno::Errno::last()), (-1, nix::errno::Errno::ERANGE));
        // SAFETY: as above.
        let got = unsafe { libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), 5) };
        assert_eq!((got, nix::errno::Errno::last()), (-1, nix::errno::Errno::ERANGE));
    });
}

#[test]
fn change_time_follows_and_modification_time_does_not() {
    on_both(lower! { "file" => file("x").mtime(1000, 1) }, |mount| {
        for change in [
            |path: &std::path::Path| set_xattr(path, "user.k", "v"),
            |path: &std::path::Path| remove_xattr(path, "user.k"),
        ] {
            let before = mount.stat("file");
            next_tick();
            change(&mount.path("file")).unwrap();
            let after = mount.stat("file");
            assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
            assert_eq!((after.mtime(), after.mtime_nsec()), (1000, 1));
        }
    });
}

#[test]
fn many_attributes_survive_a_restart() {
    let mount = Mount::over(lower! { "file" => file("x").xattr("user.low", "l") });
    for number in 0..80 {
        set_xattr(mount.path("file"), format!("user.{number:02}"), number.to_string()).unwrap();
    }
    for number in (0..80).step_by(2) {
        remove_xattr(mount.path("file"), format!("user.{number:02}")).unwrap();
    }
    let mount = mount.restart();
    let mut wanted: Vec<String> = (1..80).step_by(2).map(|number| format!("user.{number:02}")).collect();
    wanted.push("user.low".into());
    assert_eq!(names(&mount, "file"), wanted);
    assert_eq!(get_xattr(mount.path("file"), "user.07").unwrap(), b"7");
}

#[test]
fn attributes_belong_to_the_inode() {
    on_both(lower! { "a" => file("x").xattr("user.k", "v"), "b" => hard_link("a") }, |mount| {
        set_xattr(mount.path("b"), "user.more", "m").unwrap();
        fs::rename(mount.path("a"), mount.path("c")).unwrap();
        assert_eq!(names(mount, "c"), ["user.k", "user.more"]);
        fs::remove_file(mount.path("b")).unwrap();
        mount.write("b", "another file");
        assert!(names(mount, "b").is_empty());
    });
}

#[test]
fn attribute_removed_from_a_lower_file_stays_removed() {
    let mount = Mount::over(
        lower! { "file" => file("x").xattr("user.a", "1").xattr("user.b", "2"), "d" => dir().xattr("user.d", "3") },
    );
    remove_xattr(mount.path("file"), "user.a").unwrap();
    remove_xattr(mount.path("d"), "user.d").unwrap();
    let mount = mount.restart();
    assert_eq!(names(&mount, "file"), ["user.b"]);
    assert!(names(&mount, "d").is_empty());
    assert_errno!(get_xattr(mount.path("file"), "user.a"), ENODATA);
}

#[test]
fn attributes_of_what_is_not_there_are_enoent() {
    let mount = Mount::over(lower! { "file" => "x" });
    assert_errno!(get_xattr(mount.path("missing"), "user.k"), ENOENT);
    assert_errno!(set_xattr(mount.path("missing"), "user.k", "v"), ENOENT);
    assert_errno!(list_xattrs(mount.path("file/x")), ENOTDIR);
}

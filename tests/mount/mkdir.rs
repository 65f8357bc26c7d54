//! Making and removing directories.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

/// `find` takes a link count above 1 for 2 plus the number of subdirectories, and may skip the rest.
#[track_caller]
fn link_count_is_honest(mount: &Mount, path: &str, subdirectories: u64) {
    let links = mount.stat(path).nlink();
    assert!(
        links == 1 || links == 2 + subdirectories,
        "{path}: {links} links, {subdirectories} subdirectories"
    );
}

#[test]
fn new_directory_is_empty_and_belongs_to_its_maker() {
    let mount = Mount::empty();
    chmod(mount.root(), 0o777).unwrap();
    as_user(User::BOB, || with_umask(0o022, || mkdir(mount.path("d"), 0o777).unwrap()));
    let meta = mount.stat("d");
    assert!(meta.is_dir());
    assert_eq!((meta.uid(), meta.gid(), mount.mode("d")), (User::BOB.uid, User::BOB.gid, 0o755));
    assert!(mount.names("d").is_empty());
    link_count_is_honest(&mount, "d", 0);
}

#[test]
fn mkdir_over_anything_is_eexist() {
    let layout = lower! { "file" => "", "dir" => dir(), "dangling" => symlink_to("x") };
    on_both(layout, |mount| {
        for name in ["file", "dir", "dangling", "."] {
            assert_errno!(mkdir(mount.path(name), 0o755), EEXIST);
        }
    });
}

#[test]
fn mkdir_needs_a_parent_directory() {
    let mount = Mount::over(lower! { "file" => "" });
    assert_errno!(mkdir(mount.path("missing/d"), 0o755), ENOENT);
    assert_errno!(mkdir(mount.path("file/d"), 0o755), ENOTDIR);
}

#[test]
fn mkdir_and_rmdir_need_write_permission_on_the_parent() {
    on_both(lower! { "p/d" => dir(), "p" => dir().mode(0o755) }, |mount| {
        as_user(User::ANN, || {
            assert_errno!(mkdir(mount.path("p/new"), 0o755), EACCES);
            assert_errno!(fs::remove_dir(mount.path("p/d")), EACCES);
        });
    });
}

#[test]
fn rmdir_removes_only_empty_directories() {
    on_both(lower! { "full/a" => "", "empty" => dir(), "file" => "" }, |mount| {
        assert_errno!(fs::remove_dir(mount.path("full")), ENOTEMPTY);
        assert_errno!(fs::remove_dir(mount.path("file")), ENOTDIR);
        assert_errno!(fs::remove_dir(mount.path("missing")), ENOENT);
        fs::remove_dir(mount.path("empty")).unwrap();
        fs::remove_file(mount.path("full/a")).unwrap();
        fs::remove_dir(mount.path("full")).unwrap();
        assert_eq!(mount.names("/"), ["file"]);
    });
}

#[test]
fn rmdir_of_dot_is_einval_and_of_dot_dot_is_enotempty() {
    let mount = Mount::over(lower! { "d/e" => dir() });
    assert_errno!(fs::remove_dir(mount.path("d/e/.")), EINVAL);
    assert_errno!(fs::remove_dir(mount.path("d/e/..")), ENOTEMPTY);
}

#[test]
fn mount_point_cannot_be_removed() {
    let mount = Mount::empty();
    if !mount.is_plain() {
        assert_errno!(fs::remove_dir(mount.root()), EBUSY);
    }
}

#[test]
fn rmdir_through_a_symlink_is_enotdir() {
    on_both(lower! { "d" => dir(), "link" => symlink_to("d") }, |mount| {
        assert_errno!(fs::remove_dir(mount.path("link")), ENOTDIR);
        assert_eq!(mount.names("/"), ["d", "link"]);
    });
}

#[test]
fn removed_directory_that_is_still_open_cannot_be_listed() {
    on_both(lower! { "d" => dir() }, |mount| {
        let mut stream = DirStream::open(mount.path("d")).unwrap();
        fs::remove_dir(mount.path("d")).unwrap();
        assert_errno!(stream.rest(), ENOENT);
        assert_eq!(stream.file().metadata().unwrap().nlink(), 0);
    });
}

#[test]
fn directory_made_again_is_a_new_one() {
    on_both(lower! { "d/a" => "old" }, |mount| {
        let old = mount.ino("d");
        let keep = File::open(mount.path("d")).unwrap();
        fs::remove_dir_all(mount.path("d")).unwrap();
        fs::create_dir(mount.path("d")).unwrap();
        assert_ne!(mount.ino("d"), old);
        assert!(mount.names("d").is_empty());
        drop(keep);
    });
}

#[test]
fn link_counts_follow_the_subdirectories() {
    on_both(lower! { "d/one" => dir(), "d/file" => "" }, |mount| {
        link_count_is_honest(mount, "d", 1);
        fs::create_dir(mount.path("d/two")).unwrap();
        link_count_is_honest(mount, "d", 2);
        fs::remove_dir(mount.path("d/one")).unwrap();
        link_count_is_honest(mount, "d", 1);
        fs::rename(mount.path("d/two"), mount.path("two")).unwrap();
        link_count_is_honest(mount, "d", 0);
        link_count_is_honest(mount, "/", 2);
    });
}

#[test]
fn many_levels_and_many_siblings() {
    let mount = Mount::empty();
    for number in 0..300 {
        fs::create_dir(mount.path(format!("s{number}"))).unwrap();
    }
    let mut deep = mount.root().to_owned();
    for _ in 0..100 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    assert_eq!(mount.names("/").len(), 301);
    fs::remove_dir_all(mount.path("d")).unwrap();
    let mount = mount.restart();
    assert_eq!(mount.names("/").len(), 300);
}

#[test]
fn times_of_the_parent_follow_mkdir_and_rmdir() {
    on_both(lower! { "p/old" => dir() }, |mount| {
        set_times(mount.path("p"), (1000, 0), (1000, 0)).unwrap();
        fs::create_dir(mount.path("p/new")).unwrap();
        assert!(mount.stat("p").mtime() > 1000);
        set_times(mount.path("p"), (1000, 0), (1000, 0)).unwrap();
        fs::remove_dir(mount.path("p/old")).unwrap();
        assert!(mount.stat("p").mtime() > 1000);
    });
}

#[test]
fn symlink_in_the_path_is_followed() {
    on_both(lower! { "real" => dir(), "link" => symlink_to("real") }, |mount| {
        fs::create_dir(mount.path("link/d")).unwrap();
        symlink("../file", mount.path("link/d/l")).unwrap();
        assert_eq!(mount.names("real/d"), ["l"]);
    });
}

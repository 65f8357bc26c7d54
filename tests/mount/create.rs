//! Making and opening regular files.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

#[test]
fn new_file_is_empty_and_belongs_to_its_maker() {
    let mount = Mount::empty();
    chmod(mount.root(), 0o777).unwrap();
    as_user(User::ANN, || {
        with_umask(0o027, || open(mount.path("new"), libc::O_CREAT | libc::O_WRONLY, 0o666).unwrap())
    });
    let meta = mount.stat("new");
    assert_eq!((meta.size(), meta.nlink(), meta.blocks()), (0, 1, 0));
    assert_eq!((meta.uid(), meta.gid()), (User::ANN.uid, User::ANN.gid));
    assert_eq!(mount.mode("new"), 0o640);
}

#[test]
fn mode_is_cut_by_the_umask() {
    let mount = Mount::empty();
    for (number, (mask, asked, given)) in
        [(0o022, 0o666, 0o644), (0o077, 0o777, 0o700), (0, 0o7777, 0o7777), (0o777, 0o666, 0)]
            .into_iter()
            .enumerate()
    {
        let path = mount.path(number.to_string());
        with_umask(mask, || open(&path, libc::O_CREAT | libc::O_EXCL | libc::O_RDWR, asked).unwrap());
        assert_eq!(mount.mode(number.to_string()), given, "umask {mask:o}, mode {asked:o}");
    }
}

#[test]
fn file_made_without_permissions_is_writable_through_its_descriptor() {
    let mount = Mount::empty();
    chmod(mount.root(), 0o777).unwrap();
    as_user(User::ANN, || {
        let mut file = open(mount.path("locked"), libc::O_CREAT | libc::O_RDWR, 0).unwrap();
        file.write_all(b"written").unwrap();
        assert_errno!(File::open(mount.path("locked")), EACCES);
    });
    assert_eq!(mount.text("locked"), "written");
}

#[test]
fn exclusive_creation_refuses_whatever_has_the_name() {
    let layout =
        lower! { "file" => "x", "dir" => dir(), "dangling" => symlink_to("nowhere"), "pipe" => fifo() };
    on_both(layout, |mount| {
        for name in ["file", "dir", "dangling", "pipe"] {
            assert_errno!(OpenOptions::new().write(true).create_new(true).open(mount.path(name)), EEXIST);
        }
        assert_errno!(fs::symlink_metadata(mount.path("nowhere")), ENOENT);
    });
}

#[test]
fn creating_through_a_dangling_symlink_makes_its_target() {
    on_both(lower! { "link" => symlink_to("d/target"), "d" => dir() }, |mount| {
        mount.write("link", "through");
        assert_eq!(mount.text("d/target"), "through");
        assert!(mount.stat("link").is_symlink());
    });
}

#[test]
fn creating_needs_a_directory_to_create_in() {
    let mount = Mount::over(lower! { "file" => "" });
    assert_errno!(File::create(mount.path("missing/new")), ENOENT);
    assert_errno!(File::create(mount.path("file/new")), ENOTDIR);
    assert_errno!(File::create(mount.path("new/")), EISDIR);
}

#[test]
fn open_flags_are_checked_against_the_type() {
    let layout =
        lower! { "file" => "x", "dir" => dir(), "link" => symlink_to("file"), "loop" => symlink_to("loop") };
    on_both(layout, |mount| {
        assert_errno!(open(mount.path("file"), libc::O_DIRECTORY, 0), ENOTDIR);
        assert_errno!(open(mount.path("link"), libc::O_NOFOLLOW, 0), ELOOP);
        assert_errno!(open(mount.path("loop"), libc::O_RDONLY, 0), ELOOP);
        assert_errno!(open(mount.path("dir"), libc::O_WRONLY, 0), EISDIR);
        assert_errno!(open(mount.path("dir"), libc::O_RDWR, 0), EISDIR);
        assert_errno!(open(mount.path("dir"), libc::O_CREAT, 0o600), EISDIR);
        assert_errno!(open(mount.path("missing"), libc::O_RDWR, 0), ENOENT);
    });
}

#[test]
fn creating_needs_write_permission_on_the_directory() {
    on_both(lower! { "d/old" => file("old").mode(0o666), "d" => dir().mode(0o755) }, |mount| {
        as_user(User::ANN, || {
            assert_errno!(File::create(mount.path("d/new")), EACCES);
            fs::write(mount.path("d/old"), "new").unwrap();
        });
        assert_eq!(mount.text("d/old"), "new");
    });
}

#[test]
fn opening_needs_the_matching_permission() {
    let layout = lower! {
        "none" => file("x").mode(0o600),
        "readable" => file("x").mode(0o604),
        "writable" => file("x").mode(0o602),
    };
    on_both(layout, |mount| {
        as_user(User::ANN, || {
            assert_errno!(File::open(mount.path("none")), EACCES);
            assert!(File::open(mount.path("readable")).is_ok());
            assert_errno!(OpenOptions::new().write(true).open(mount.path("readable")), EACCES);
            assert!(OpenOptions::new().write(true).open(mount.path("writable")).is_ok());
            assert_errno!(OpenOptions::new().read(true).write(true).open(mount.path("writable")), EACCES);
        });
    });
}

#[test]
fn supplementary_groups_count() {
    on_both(lower! { "shared" => file("x").mode(0o640).owner(0, 7001) }, |mount| {
        as_user(User::ANN.in_groups(&[7000, 7001]), || assert!(File::open(mount.path("shared")).is_ok()));
        as_user(User::ANN, || assert_errno!(File::open(mount.path("shared")), EACCES));
    });
}

#[test]
fn creation_is_seen_in_the_times_of_the_directory() {
    let mount = Mount::empty();
    fs::create_dir(mount.path("d")).unwrap();
    set_times(mount.path("d"), (1000, 0), (1000, 0)).unwrap();
    next_tick();
    let before = mount.stat("d");
    mount.write("d/new", "");
    let after = mount.stat("d");
    assert_eq!(before.mtime(), 1000);
    assert!(after.mtime() > 1000);
    assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
    assert_eq!((after.mtime(), after.mtime_nsec()), (after.ctime(), after.ctime_nsec()));
}

#[test]
fn opening_an_existing_file_for_creation_keeps_it() {
    on_both(lower! { "file" => file("content").mode(0o640) }, |mount| {
        let ino = mount.ino("file");
        drop(open(mount.path("file"), libc::O_CREAT | libc::O_RDWR, 0o777).unwrap());
        assert_eq!(
            (mount.ino("file"), mount.mode("file"), mount.text("file")),
            (ino, 0o640, "content".into())
        );
    });
}

#[test]
fn creating_in_a_removed_directory_is_enoent() {
    on_both(lower! { "d" => dir() }, |mount| {
        let dir = open(mount.path("d"), libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
        fs::remove_dir(mount.path("d")).unwrap();
        assert_errno!(open_at(&dir, "new", libc::O_CREAT | libc::O_WRONLY, 0o600), ENOENT);
    });
}

#[test]
fn created_file_can_be_read_back_at_once_through_another_name() {
    let mount = Mount::empty();
    let mut file = open(mount.path("a"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    file.write_all(b"hello").unwrap();
    symlink("a", mount.path("b")).unwrap();
    let mut text = String::new();
    File::open(mount.path("b")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

/// `O_TMPFILE` needs a request that the FUSE library cannot carry yet. Programs fall back on
/// `EOPNOTSUPP`, and on nothing else.
#[test]
fn unnamed_temporary_file_works_or_is_cleanly_refused() {
    let mount = Mount::empty();
    match open(mount.path("/"), libc::O_TMPFILE | libc::O_RDWR, 0o600) {
        Err(err) => assert_eq!(err.raw_os_error(), Some(libc::EOPNOTSUPP)),
        Ok(mut file) => {
            file.write_all(b"unnamed").unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            assert_eq!(fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap(), b"unnamed");
        }
    }
    assert!(mount.names("/").is_empty());
}

#[test]
fn temporary_files_of_the_standard_kind_work() {
    let mount = Mount::empty();
    let mut file = tempfile::NamedTempFile::new_in(mount.root()).unwrap();
    file.write_all(b"draft").unwrap();
    file.persist(mount.path("final")).unwrap();
    assert_eq!(mount.text("final"), "draft");
    let mut unnamed = tempfile::tempfile_in(mount.root()).unwrap();
    unnamed.write_all(b"scratch").unwrap();
    assert_eq!(mount.names("/"), ["final"]);
}

#[test]
fn two_thousand_files_are_all_there_after_a_restart() {
    let mount = Mount::empty();
    for number in 0..2000 {
        mount.write(format!("f{number:04}"), number.to_string());
    }
    let mount = mount.restart();
    assert_eq!(mount.names("/").len(), 2000);
    for number in (0..2000).step_by(7) {
        assert_eq!(mount.text(format!("f{number:04}")), number.to_string());
    }
}

#[test]
fn racing_exclusive_creations_have_one_winner() {
    let mount = Mount::empty();
    for round in 0..50 {
        let path = mount.path(format!("r{round}"));
        let attempt = || OpenOptions::new().write(true).create_new(true).open(&path).is_ok();
        let winners = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(attempt)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|&won| won).count()
        });
        assert_eq!(winners, 1);
    }
}

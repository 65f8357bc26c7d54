//! Removing names, and what stays when somebody still has the file open.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

fn open_for_both(mount: &Mount, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(mount.path(name)).unwrap()
}

#[test]
fn unlinked_name_is_gone_for_good() {
    on_both(lower! { "a" => "1", "b" => "2" }, |mount| {
        fs::remove_file(mount.path("a")).unwrap();
        assert_errno!(fs::read(mount.path("a")), ENOENT);
        assert_errno!(fs::remove_file(mount.path("a")), ENOENT);
        assert_eq!(mount.names("/"), ["b"]);
    });
}

#[test]
fn unlink_of_a_directory_is_eisdir() {
    on_both(lower! { "d" => dir() }, |mount| assert_errno!(nix::unistd::unlink(&mount.path("d")), EISDIR));
}

#[test]
fn unlink_through_a_file_is_enotdir() {
    let mount = Mount::over(lower! { "file" => "" });
    assert_errno!(fs::remove_file(mount.path("file/a")), ENOTDIR);
    assert_errno!(fs::remove_file(mount.path("file/")), ENOTDIR);
}

#[test]
fn unlink_removes_the_symlink_not_its_target() {
    on_both(lower! { "target" => "x", "link" => symlink_to("target") }, |mount| {
        fs::remove_file(mount.path("link")).unwrap();
        assert_eq!(mount.names("/"), ["target"]);
    });
}

#[test]
fn unlink_needs_write_permission_on_the_directory_only() {
    let layout = lower! {
        "closed/file" => file("x").mode(0o666), "closed" => dir().mode(0o755),
        "open/file" => file("x").mode(0o000), "open" => dir().mode(0o777),
    };
    on_both(layout, |mount| {
        as_user(User::ANN, || {
            assert_errno!(fs::remove_file(mount.path("closed/file")), EACCES);
            fs::remove_file(mount.path("open/file")).unwrap();
        });
    });
}

#[test]
fn open_unlinked_file_keeps_its_content() {
    on_both(lower! { "file" => "content" }, |mount| {
        let mut file = open_for_both(mount, "file");
        fs::remove_file(mount.path("file")).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    });
}

#[test]
fn open_unlinked_file_can_be_written_resized_and_changed() {
    on_both(lower! { "file" => "content" }, |mount| {
        let file = open_for_both(mount, "file");
        fs::remove_file(mount.path("file")).unwrap();
        file.write_all_at(b"CON", 0).unwrap();
        file.write_all_at(&noise(1, 8192, 100_000), 8192).unwrap();
        file.set_len(8192 + 50_000).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o4711)).unwrap();
        drop_cached_pages(&file).unwrap();
        let mut start = [0; 7];
        file.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(&start, b"CONtent");
        read_noise_at(&file, 1, 8192, 50_000);
        let meta = file.metadata().unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o7777, meta.nlink()), (8192 + 50_000, 0o4711, 0));
    });
}

#[test]
fn unlinked_file_can_be_opened_again_through_its_descriptor() {
    on_both(lower! { "file" => "content" }, |mount| {
        let file = open_for_both(mount, "file");
        fs::remove_file(mount.path("file")).unwrap();
        let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut second = OpenOptions::new().read(true).write(true).open(by_descriptor).unwrap();
        drop(file);
        second.write_all(b"C").unwrap();
        second.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text, "Content");
    });
}

#[test]
fn name_of_an_open_unlinked_file_is_free_for_another() {
    on_both(lower! { "file" => "old" }, |mount| {
        let old = open_for_both(mount, "file");
        fs::remove_file(mount.path("file")).unwrap();
        mount.write("file", "new");
        assert_ne!(old.metadata().unwrap().ino(), mount.ino("file"));
        old.write_all_at(b"OLD", 0).unwrap();
        assert_eq!(mount.text("file"), "new");
        let mut kept = [0; 3];
        old.read_exact_at(&mut kept, 0).unwrap();
        assert_eq!(&kept, b"OLD");
    });
}

#[test]
fn file_with_no_name_left_cannot_be_linked_back() {
    let mount = Mount::over(lower! { "file" => "x" });
    let file = open_for_both(&mount, "file");
    fs::remove_file(mount.path("file")).unwrap();
    let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    let target = mount.path("back");
    let follow = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
    let here = nix::fcntl::AT_FDCWD;
    assert_errno!(nix::unistd::linkat(here, by_descriptor.as_str(), here, &target, follow), ENOENT);
}

#[test]
fn the_other_links_of_an_unlinked_file_see_the_count_and_the_time_change() {
    on_both(lower! { "a" => "x", "b" => hard_link("a"), "c" => hard_link("a") }, |mount| {
        let before = mount.stat("a");
        next_tick();
        fs::remove_file(mount.path("b")).unwrap();
        let after = mount.stat("a");
        assert_eq!((before.nlink(), after.nlink(), mount.stat("c").nlink()), (3, 2, 2));
        assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
        assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    });
}

#[test]
fn times_of_the_directory_follow_an_unlink() {
    on_both(lower! { "d/file" => "x" }, |mount| {
        set_times(mount.path("d"), (1000, 0), (1000, 0)).unwrap();
        fs::remove_file(mount.path("d/file")).unwrap();
        let meta = mount.stat("d");
        assert!(meta.mtime() > 1000 && meta.mtime() == meta.ctime());
    });
}

#[test]
fn sticky_directory_lets_only_the_owners_remove() {
    let layout = lower! {
        "shared/anns" => file("x").mode(0o666).owner(User::ANN.uid, User::ANN.gid),
        "shared/anns2" => file("x").mode(0o666).owner(User::ANN.uid, User::ANN.gid),
        "shared/annsdir" => dir().owner(User::ANN.uid, User::ANN.gid),
        "shared" => dir().mode(0o1777),
    };
    on_both(layout, |mount| {
        as_user(User::BOB, || {
            assert_errno!(fs::remove_file(mount.path("shared/anns")), EPERM);
            assert_errno!(fs::remove_dir(mount.path("shared/annsdir")), EPERM);
            assert_errno!(fs::rename(mount.path("shared/anns"), mount.path("shared/mine")), EPERM);
        });
        as_user(User::ANN, || fs::remove_file(mount.path("shared/anns")).unwrap());
        chown(mount.path("shared"), Some(User::BOB.uid), None).unwrap();
        as_user(User::BOB, || fs::remove_file(mount.path("shared/anns2")).unwrap());
    });
}

#[test]
fn five_hundred_open_unlinked_files_are_kept_apart() {
    let mount = Mount::empty();
    let files: Vec<File> = (0..500u32)
        .map(|number| {
            let path = mount.path(number.to_string());
            let file = open(&path, libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
            file.write_all_at(&noise(number.into(), 0, 5000), 0).unwrap();
            fs::remove_file(path).unwrap();
            file
        })
        .collect();
    assert!(mount.names("/").is_empty());
    for (number, file) in files.iter().enumerate() {
        read_noise_at(file, number as u64, 0, 5000);
    }
}

#[test]
fn remove_dir_all_removes_a_mixed_tree() {
    let layout = lower! {
        "t/a" => "1", "t/b/c" => "2", "t/b/l" => symlink_to("../a"), "t/p" => fifo(), "t/b/h" => hard_link("t/a"), "t/e" => dir(),
    };
    on_both(layout, |mount| {
        mount.write("t/b/new", "3");
        fs::remove_dir_all(mount.path("t")).unwrap();
        assert!(mount.names("/").is_empty());
    });
}

//! Access, modification, change and birth time, to the nanosecond.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use libc::{UTIME_NOW, UTIME_OMIT};

fn mtime(mount: &Mount, path: &str) -> (i64, i64) {
    let meta = mount.stat(path);
    (meta.mtime(), meta.mtime_nsec())
}

fn atime(mount: &Mount, path: &str) -> (i64, i64) {
    let meta = mount.stat(path);
    (meta.atime(), meta.atime_nsec())
}

fn ctime(mount: &Mount, path: &str) -> (i64, i64) {
    let meta = mount.stat(path);
    (meta.ctime(), meta.ctime_nsec())
}

#[test]
fn times_are_kept_to_the_nanosecond_and_over_a_restart() {
    let mount = Mount::over(lower! { "low" => "x", "d" => dir(), "l" => symlink_to("low") });
    mount.write("up", "x");
    let past_and_future =
        [(0, 0), (1, 999_999_999), (-1_000_000, 1), (1 << 32, 5), (8_000_000_000, 123_456_789)];
    for (number, &mtime_set) in past_and_future.iter().enumerate() {
        let atime_set = past_and_future[(number + 1) % past_and_future.len()];
        for name in ["low", "up", "d", "l"] {
            set_times(mount.path(name), atime_set, mtime_set).unwrap();
            assert_eq!((atime(&mount, name), mtime(&mount, name)), (atime_set, mtime_set), "{name}");
        }
    }
    let mount = mount.restart();
    for name in ["low", "up", "d", "l"] {
        assert_eq!(
            (atime(&mount, name), mtime(&mount, name)),
            ((0, 0), (8_000_000_000, 123_456_789)),
            "{name}"
        );
    }
}

#[test]
fn now_and_omit_are_understood() {
    on_both(lower! { "file" => "x" }, |mount| {
        set_times(mount.path("file"), (10, 1), (20, 2)).unwrap();
        set_times(mount.path("file"), (0, UTIME_OMIT), (30, 3)).unwrap();
        assert_eq!((atime(mount, "file"), mtime(mount, "file")), ((10, 1), (30, 3)));
        set_times(mount.path("file"), (0, UTIME_NOW), (0, UTIME_OMIT)).unwrap();
        assert!(atime(mount, "file").0 > 1_700_000_000);
        assert_eq!(mtime(mount, "file"), (30, 3));
        set_times(mount.path("file"), (0, UTIME_NOW), (0, UTIME_NOW)).unwrap();
        let (access, modification) = (atime(mount, "file"), mtime(mount, "file"));
        assert_eq!(access, modification);
    });
}

#[test]
fn setting_times_changes_the_change_time() {
    on_both(lower! { "file" => "x" }, |mount| {
        let before = ctime(mount, "file");
        next_tick();
        set_times(mount.path("file"), (10, 0), (20, 0)).unwrap();
        assert!(ctime(mount, "file") > before);
    });
}

#[test]
fn setting_times_is_for_the_owner_and_now_also_for_writers() {
    on_both(lower! { "file" => file("x").mode(0o666), "closed" => file("x").mode(0o644) }, |mount| {
        as_user(User::ANN, || {
            assert_errno!(set_times(mount.path("file"), (1, 0), (1, 0)), EPERM);
            set_times(mount.path("file"), (0, UTIME_NOW), (0, UTIME_NOW)).unwrap();
            assert_errno!(set_times(mount.path("closed"), (0, UTIME_NOW), (0, UTIME_NOW)), EACCES);
        });
    });
}

#[test]
fn write_changes_modification_and_change_time() {
    on_both(lower! { "file" => "content" }, |mount| {
        set_times(mount.path("file"), (10, 0), (20, 0)).unwrap();
        let before = ctime(mount, "file");
        next_tick();
        let mut file = OpenOptions::new().write(true).open(mount.path("file")).unwrap();
        file.write_all(b"C").unwrap();
        assert!(mtime(mount, "file").0 > 20 && ctime(mount, "file") > before);
        assert_eq!(atime(mount, "file"), (10, 0));
    });
}

#[test]
fn every_change_of_content_is_a_modification() {
    on_both(lower! { "file" => noise(1, 0, 20_000) }, |mount| {
        let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        let changes: [(&str, &dyn Fn()); 6] = [
            ("write", &|| file.write_all_at(b"x", 3).unwrap()),
            ("ftruncate", &|| file.set_len(15_000).unwrap()),
            ("truncate", &|| truncate(mount.path("file"), 12_000).unwrap()),
            ("O_TRUNC", &|| drop(open(mount.path("file"), libc::O_WRONLY | libc::O_TRUNC, 0).unwrap())),
            ("fallocate", &|| fallocate(&file, 0, 0, 50_000).unwrap()),
            ("punch", &|| {
                fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 8192).unwrap()
            }),
        ];
        for (what, change) in changes {
            set_times(mount.path("file"), (10, 0), (20, 0)).unwrap();
            change();
            assert!(mtime(mount, "file").0 > 20, "{what}");
        }
    });
}

#[test]
fn empty_write_and_read_are_no_modification() {
    on_both(lower! { "file" => "content" }, |mount| {
        set_times(mount.path("file"), (10, 0), (20, 5)).unwrap();
        let mut file = OpenOptions::new().read(true).write(true).open(mount.path("file")).unwrap();
        assert_eq!(file.write(b"").unwrap(), 0);
        assert_eq!(mount.text("file"), "content");
        assert_eq!(mtime(mount, "file"), (20, 5));
    });
}

#[test]
fn times_set_through_a_descriptor_stay_after_its_writes_are_done() {
    let mount = Mount::over(lower! { "file" => "content" });
    let mut file = OpenOptions::new().write(true).open(mount.path("file")).unwrap();
    file.write_all(b"written before").unwrap();
    let then = nix::sys::time::TimeSpec::new(1234, 5678);
    nix::sys::stat::futimens(&file, &then, &then).unwrap();
    drop(file);
    assert_eq!(mtime(&mount, "file"), (1234, 5678));
    let mount = mount.restart();
    assert_eq!(mtime(&mount, "file"), (1234, 5678));
}

#[test]
fn new_objects_have_one_and_the_same_time() {
    let mount = Mount::empty();
    mount.write("file", "");
    fs::create_dir(mount.path("d")).unwrap();
    for name in ["file", "d"] {
        assert_eq!(
            (atime(&mount, name), mtime(&mount, name)),
            (ctime(&mount, name), ctime(&mount, name)),
            "{name}"
        );
    }
}

/// Birth times travel in a request that the FUSE library cannot carry yet; then there is none,
/// which tools show as unknown. A wrong one would be worse.
#[test]
fn birth_time_is_right_or_absent() {
    let mount = Mount::empty();
    next_tick();
    mount.write("file", "");
    let Some(born) = birth_time(mount.path("file")).unwrap() else { return };
    let created = ctime(&mount, "file");
    assert_eq!((born.0, i64::from(born.1)), created);
    next_tick();
    mount.write("file", "changed");
    chmod(mount.path("file"), 0o600).unwrap();
    fs::rename(mount.path("file"), mount.path("renamed")).unwrap();
    let mount = mount.restart();
    assert_eq!(birth_time(mount.path("renamed")).unwrap(), Some(born));
}

#[test]
fn clock_never_goes_backwards_over_many_changes() {
    let mount = Mount::empty();
    mount.write("file", "");
    let mut last = ctime(&mount, "file");
    for round in 0..200u32 {
        chmod(mount.path("file"), 0o600 + round % 8).unwrap();
        let now = ctime(&mount, "file");
        assert!(now >= last);
        last = now;
    }
}

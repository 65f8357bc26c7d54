//! Owner and group, and the set-id and sticky bits that depend on them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

const ANN: User = User::ANN;
const BOB: User = User::BOB;

/// A valid `security.capability`: version 2, `cap_net_raw` permitted and effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn owners(mount: &Mount, path: &str) -> (u32, u32) {
    let meta = mount.stat(path);
    (meta.uid(), meta.gid())
}

#[test]
fn root_gives_files_to_anybody() {
    let mount = Mount::over(lower! { "low" => "x", "d" => dir() });
    mount.write("up", "x");
    for (name, uid, gid) in [("low", 1, 2), ("up", 3, 4), ("d", 4_000_000_000, 4_000_000_001)] {
        chown(mount.path(name), Some(uid), Some(gid)).unwrap();
        assert_eq!(owners(&mount, name), (uid, gid));
    }
    chown(mount.path("low"), Some(9), None).unwrap();
    chown(mount.path("up"), None, Some(9)).unwrap();
    let mount = mount.restart();
    assert_eq!(owners(&mount, "low"), (9, 2));
    assert_eq!(owners(&mount, "up"), (3, 9));
    assert_eq!(owners(&mount, "d"), (4_000_000_000, 4_000_000_001));
}

#[test]
fn owner_gives_the_file_only_to_groups_of_their_own() {
    on_both(lower! { "file" => file("x").owner(ANN.uid, ANN.gid) }, |mount| {
        as_user(ANN.in_groups(&[7001]), || {
            assert_errno!(chown(mount.path("file"), Some(BOB.uid), None), EPERM);
            assert_errno!(chown(mount.path("file"), None, Some(BOB.gid)), EPERM);
            chown(mount.path("file"), None, Some(7001)).unwrap();
            chown(mount.path("file"), Some(ANN.uid), None).unwrap();
        });
        as_user(BOB, || assert_errno!(chown(mount.path("file"), None, Some(BOB.gid)), EPERM));
        assert_eq!(owners(mount, "file"), (ANN.uid, 7001));
    });
}

#[test]
fn chown_changes_the_change_time_only() {
    on_both(lower! { "file" => file("x").mtime(1000, 1) }, |mount| {
        let before = mount.stat("file");
        next_tick();
        chown(mount.path("file"), Some(5), Some(5)).unwrap();
        let after = mount.stat("file");
        assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
        assert_eq!((after.mtime(), after.mtime_nsec()), (1000, 1));
    });
}

#[test]
fn chown_clears_the_set_id_bits_of_a_file() {
    on_both(
        lower! { "file" => file("x").mode(0o6775), "data" => file("x").mode(0o2644), "d" => dir().mode(0o6775) },
        |mount| {
            for name in ["file", "data", "d"] {
                chown(mount.path(name), Some(ANN.uid), Some(ANN.gid)).unwrap();
            }
            assert_eq!(mount.mode("file"), 0o775);
            // Without group execution it never meant to run as the group.
            assert_eq!(mount.mode("data"), 0o2644);
            assert_eq!(mount.mode("d"), 0o6775);
        },
    );
}

#[test]
fn chown_by_the_owner_clears_the_set_id_bits() {
    on_both(lower! { "file" => file("x").mode(0o6775).owner(ANN.uid, ANN.gid) }, |mount| {
        as_user(ANN.in_groups(&[7001]), || chown(mount.path("file"), None, Some(7001)).unwrap());
        assert_eq!((owners(mount, "file"), mount.mode("file")), ((ANN.uid, 7001), 0o775));
    });
}

#[test]
fn write_by_a_user_clears_the_set_id_bits() {
    on_both(lower! { "file" => file("content").mode(0o6777), "data" => file("x").mode(0o2666) }, |mount| {
        as_user(ANN, || {
            OpenOptions::new().write(true).open(mount.path("file")).unwrap().write_all(b"C").unwrap();
            OpenOptions::new().write(true).open(mount.path("data")).unwrap().write_all(b"D").unwrap();
        });
        assert_eq!((mount.mode("file"), mount.text("file")), (0o777, "Content".into()));
        // Linux 6.2 and later remove it here as well; before it meant mandatory locking.
        assert!([0o666, 0o2666].contains(&mount.mode("data")));
    });
}

#[test]
fn write_by_root_keeps_the_set_id_bits() {
    on_both(lower! { "file" => file("content").mode(0o6755) }, |mount| {
        OpenOptions::new().write(true).open(mount.path("file")).unwrap().write_all(b"C").unwrap();
        truncate(mount.path("file"), 3).unwrap();
        assert_eq!((mount.mode("file"), mount.text("file")), (0o6755, "Con".into()));
    });
}

#[test]
fn truncate_by_a_user_clears_the_set_id_bits() {
    on_both(
        lower! { "a" => file("content").mode(0o6777), "b" => file("content").mode(0o6777), "c" => file("content").mode(0o6777) },
        |mount| {
            as_user(ANN, || {
                truncate(mount.path("a"), 3).unwrap();
                fs::write(mount.path("b"), "").unwrap();
                fallocate(&OpenOptions::new().write(true).open(mount.path("c")).unwrap(), 0, 0, 100).unwrap();
            });
            assert_eq!((mount.mode("a"), mount.mode("b"), mount.mode("c")), (0o777, 0o777, 0o777));
        },
    );
}

#[test]
fn file_capabilities_do_not_outlive_a_change_of_content_or_owner() {
    let file_with = || file("content").mode(0o755).xattr("security.capability", CAPABILITY);
    on_both(
        lower! { "written" => file_with(), "cut" => file_with(), "given" => file_with(), "kept" => file_with() },
        |mount| {
            OpenOptions::new().write(true).open(mount.path("written")).unwrap().write_all(b"C").unwrap();
            truncate(mount.path("cut"), 3).unwrap();
            chown(mount.path("given"), Some(ANN.uid), Some(ANN.gid)).unwrap();
            chmod(mount.path("kept"), 0o700).unwrap();
            for name in ["written", "cut", "given"] {
                assert_errno!(get_xattr(mount.path(name), "security.capability"), ENODATA);
            }
            assert_eq!(get_xattr(mount.path("kept"), "security.capability").unwrap(), CAPABILITY);
        },
    );
}

#[test]
fn set_group_id_is_dropped_by_a_chmod_from_outside_the_group() {
    on_both(
        lower! { "file" => file("x").owner(ANN.uid, 7001), "mine" => file("x").owner(ANN.uid, ANN.gid) },
        |mount| {
            as_user(ANN, || {
                chmod(mount.path("file"), 0o2775).unwrap();
                chmod(mount.path("mine"), 0o2775).unwrap();
            });
            assert_eq!((mount.mode("file"), mount.mode("mine")), (0o775, 0o2775));
            as_user(ANN.in_groups(&[7001]), || chmod(mount.path("file"), 0o2775).unwrap());
            assert_eq!(mount.mode("file"), 0o2775);
        },
    );
}

#[test]
fn children_of_a_set_group_id_directory_inherit_its_group() {
    on_both(lower! { "shared" => dir().mode(0o2777).owner(0, 7001) }, |mount| {
        as_user(ANN, || {
            with_umask(0o022, || {
                fs::write(mount.path("shared/file"), "").unwrap();
                mkdir(mount.path("shared/dir"), 0o755).unwrap();
                mkfifo(mount.path("shared/pipe"), 0o644).unwrap();
                std::os::unix::fs::symlink("x", mount.path("shared/link")).unwrap();
                mkdir(mount.path("shared/dir/deeper"), 0o700).unwrap();
            });
        });
        for name in ["file", "dir", "pipe", "link", "dir/deeper"] {
            assert_eq!(owners(mount, &format!("shared/{name}")), (ANN.uid, 7001), "{name}");
        }
        assert_eq!((mount.mode("shared/dir"), mount.mode("shared/dir/deeper")), (0o2755, 0o2700));
        assert_eq!((mount.mode("shared/file"), mount.mode("shared/pipe")), (0o644, 0o644));
    });
}

#[test]
fn executable_made_by_an_outsider_in_a_set_group_id_directory_is_not_set_group_id() {
    let mount = Mount::holding(lower! { "shared" => dir().mode(0o2777).owner(0, 7001) });
    as_user(ANN, || {
        with_umask(0, || {
            open(mount.path("shared/tool"), libc::O_CREAT | libc::O_WRONLY, 0o2775).unwrap();
        });
    });
    assert_eq!((owners(&mount, "shared/tool"), mount.mode("shared/tool")), ((ANN.uid, 7001), 0o775));
}

#[test]
fn sticky_bit_of_the_directory_is_not_inherited() {
    let mount = Mount::holding(lower! { "tmp" => dir().mode(0o1777) });
    fs::create_dir(mount.path("tmp/d")).unwrap();
    mount.write("tmp/f", "");
    assert_eq!((mount.mode("tmp/d") & 0o7000, mount.mode("tmp/f") & 0o7000), (0, 0));
}

#[test]
fn chown_through_a_symlink_is_the_callers_choice() {
    on_both(lower! { "target" => file("x"), "l" => symlink_to("target") }, |mount| {
        chown(mount.path("l"), Some(1), Some(1)).unwrap();
        std::os::unix::fs::chown(mount.path("l"), Some(2), Some(2)).unwrap();
        assert_eq!((owners(mount, "l"), owners(mount, "target")), ((1, 1), (2, 2)));
    });
}

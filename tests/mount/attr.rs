//! Mode, size and the other attributes that `stat` shows.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

#[test]
fn every_mode_bit_can_be_set_and_survives_a_restart() {
    let mount = Mount::over(lower! { "low" => "x", "lowdir" => dir() });
    mount.write("up", "x");
    fs::create_dir(mount.path("updir")).unwrap();
    let modes = [0, 0o7777, 0o4755, 0o2755, 0o1777, 0o600, 0o001];
    for mode in modes {
        for name in ["low", "up", "lowdir", "updir"] {
            chmod(mount.path(name), mode).unwrap();
            assert_eq!(mount.mode(name), mode, "{name}");
        }
    }
    let mount = mount.restart();
    for name in ["low", "up", "lowdir", "updir"] {
        assert_eq!(mount.mode(name), 0o001, "{name}");
    }
}

#[test]
fn chmod_changes_the_change_time_only() {
    on_both(lower! { "file" => file("x").mtime(1000, 1) }, |mount| {
        let before = mount.stat("file");
        next_tick();
        chmod(mount.path("file"), 0o600).unwrap();
        let after = mount.stat("file");
        assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
        assert_eq!((after.mtime(), after.mtime_nsec(), after.ino()), (1000, 1, before.ino()));
    });
}

#[test]
fn only_the_owner_changes_the_mode() {
    on_both(lower! { "file" => file("x").mode(0o666).owner(User::ANN.uid, User::ANN.gid) }, |mount| {
        as_user(User::BOB, || assert_errno!(chmod(mount.path("file"), 0o777), EPERM));
        as_user(User::ANN, || chmod(mount.path("file"), 0o640).unwrap());
        assert_eq!(mount.mode("file"), 0o640);
    });
}

#[test]
fn chmod_through_an_open_descriptor_works() {
    on_both(lower! { "file" => "x" }, |mount| {
        let file = File::open(mount.path("file")).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(mount.mode("file"), 0o711);
    });
}

#[test]
fn chmod_of_what_is_not_there_is_enoent() {
    let mount = Mount::over(lower! { "file" => "x", "dangling" => symlink_to("missing") });
    assert_errno!(chmod(mount.path("missing"), 0o600), ENOENT);
    assert_errno!(chmod(mount.path("dangling"), 0o600), ENOENT);
    assert_errno!(chmod(mount.path("file/x"), 0o600), ENOTDIR);
}

#[test]
fn truncate_shortens_and_extends_with_zeros() {
    on_both(lower! { "file" => noise(1, 0, 10_000) }, |mount| {
        for len in [5000, 4096, 4095, 100, 0] {
            truncate(mount.path("file"), len).unwrap();
            assert_eq!(mount.read("file"), noise(1, 0, usize::try_from(len).unwrap()));
        }
        truncate(mount.path("file"), 20_000).unwrap();
        assert_eq!(mount.read("file"), vec![0; 20_000]);
    });
}

/// The bytes beyond a truncation are gone: they must not come back when the file grows again,
/// wherever its data was kept.
#[test]
fn bytes_cut_off_read_as_zeros_when_the_file_grows_again() {
    for (size, cut) in
        [(100, 50), (4096, 10), (10_000, 5000), (200_000, 70_001), (200_000, 65_536), (3000, 0)]
    {
        on_both(lower! { "file" => noise(9, 0, size) }, |mount| {
            truncate(mount.path("file"), i64::try_from(cut).unwrap()).unwrap();
            truncate(mount.path("file"), i64::try_from(size).unwrap()).unwrap();
            let mut wanted = noise(9, 0, cut);
            wanted.resize(size, 0);
            assert!(mount.read("file") == wanted, "size {size}, cut {cut}");
            let file = File::open(mount.path("file")).unwrap();
            drop_cached_pages(&file).unwrap();
            assert!(mount.read("file") == wanted, "size {size}, cut {cut}, from the filesystem");
        });
    }
}

#[test]
fn gap_behind_a_cut_reads_as_zeros_after_a_write_beyond_it() {
    on_both(lower! { "file" => noise(9, 0, 9000) }, |mount| {
        let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        file.set_len(1000).unwrap();
        file.write_all_at(b"end", 8000).unwrap();
        drop_cached_pages(&file).unwrap();
        let mut wanted = noise(9, 0, 1000);
        wanted.resize(8000, 0);
        wanted.extend(b"end");
        assert_eq!(mount.read("file"), wanted);
    });
}

#[test]
fn truncate_refuses_what_cannot_be() {
    let mount = Mount::over(lower! { "file" => "x", "d" => dir() });
    assert_errno!(truncate(mount.path("file"), -1), EINVAL);
    assert_errno!(truncate(mount.path("d"), 0), EISDIR);
    assert_errno!(truncate(mount.path("missing"), 0), ENOENT);
    let read_only = File::open(mount.path("file")).unwrap();
    assert_errno!(read_only.set_len(0), EINVAL);
    assert_eq!(mount.text("file"), "x");
}

#[test]
fn truncate_needs_write_permission() {
    on_both(lower! { "file" => file("x").mode(0o644), "open" => file("x").mode(0o666) }, |mount| {
        as_user(User::ANN, || {
            assert_errno!(truncate(mount.path("file"), 0), EACCES);
            truncate(mount.path("open"), 0).unwrap();
        });
    });
}

#[test]
fn blocks_tell_what_is_allocated() {
    let mount = Mount::empty();
    mount.write("full", noise(1, 0, 1 << 20));
    let sparse = File::create(mount.path("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(&noise(1, 0, 65536), 1 << 20).unwrap();
    sparse.sync_all().unwrap();
    File::open(mount.path("full")).unwrap().sync_all().unwrap();
    let (full, sparse) = (mount.stat("full").blocks() * 512, mount.stat("sparse").blocks() * 512);
    assert!((MIB..MIB + 64 * KIB).contains(&full), "{full}");
    assert!((64 * KIB..192 * KIB).contains(&sparse), "{sparse}");
    assert!(mount.stat("full").blksize() >= 512);
}

#[test]
fn blocks_shrink_with_the_file() {
    on_both(lower! { "file" => noise(1, 0, 1 << 20) }, |mount| {
        truncate(mount.path("file"), 8192).unwrap();
        assert!(mount.stat("file").blocks() * 512 <= 64 * KIB, "{}", mount.stat("file").blocks());
        truncate(mount.path("file"), 0).unwrap();
        assert_eq!(mount.stat("file").blocks(), 0);
    });
}

#[test]
fn attributes_of_an_open_file_are_those_of_its_name() {
    on_both(lower! { "file" => "content" }, |mount| {
        let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        file.write_all_at(&[7; 5000], 100).unwrap();
        let (by_handle, by_name) = (file.metadata().unwrap(), mount.stat("file"));
        assert_eq!(
            (by_handle.ino(), by_handle.size(), by_handle.mtime_nsec(), by_handle.blocks()),
            (by_name.ino(), 5100, by_name.mtime_nsec(), by_name.blocks())
        );
    });
}

#[test]
fn access_is_checked_for_the_calling_user() {
    use nix::unistd::{AccessFlags, access};
    let layout = lower! { "file" => file("x").mode(0o754).owner(User::ANN.uid, User::BOB.gid) };
    on_both(layout, |mount| {
        let path = mount.path("file");
        as_user(User::ANN, || {
            access(&path, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).unwrap()
        });
        as_user(User::BOB, || {
            access(&path, AccessFlags::R_OK | AccessFlags::X_OK).unwrap();
            assert_errno!(access(&path, AccessFlags::W_OK), EACCES);
        });
        as_user(User { uid: 6000, gid: 6000, groups: &[] }, || {
            access(&path, AccessFlags::R_OK).unwrap();
            assert_errno!(access(&path, AccessFlags::X_OK), EACCES);
        });
    });
}

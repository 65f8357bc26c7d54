//! FIFOs, sockets and device nodes.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use libc::{S_IFBLK, S_IFCHR, S_IFIFO, S_IFREG, S_IFSOCK};

#[test]
fn fifo_carries_data_between_two_ends() {
    on_both(lower! { "p" => fifo() }, |mount| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                OpenOptions::new().write(true).open(mount.path("p")).unwrap().write_all(b"through").unwrap()
            });
            let mut text = String::new();
            fs::File::open(mount.path("p")).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "through");
        });
        assert_eq!(mount.stat("p").size(), 0);
    });
}

#[test]
fn fifo_without_a_reader_is_enxio_for_a_writer_that_does_not_wait() {
    let mount = Mount::over(lower! { "p" => fifo() });
    assert_errno!(open(mount.path("p"), libc::O_WRONLY | libc::O_NONBLOCK, 0), ENXIO);
}

#[test]
fn socket_accepts_connections_by_its_path() {
    let mount = Mount::empty();
    let listener = UnixListener::bind(mount.path("s")).unwrap();
    assert!(mount.stat("s").file_type().is_socket());
    std::thread::scope(|scope| {
        scope.spawn(|| UnixStream::connect(mount.path("s")).unwrap().write_all(b"hello").unwrap());
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    });
    assert_errno!(UnixListener::bind(mount.path("s")), EADDRINUSE);
    fs::remove_file(mount.path("s")).unwrap();
    UnixListener::bind(mount.path("s")).unwrap();
}

#[test]
fn socket_that_nobody_listens_on_refuses() {
    on_both(lower! { "s" => socket() }, |mount| {
        assert_errno!(UnixStream::connect(mount.path("s")), ECONNREFUSED);
        assert_errno!(fs::File::open(mount.path("s")), ENXIO);
    });
}

#[test]
fn device_nodes_keep_type_and_number() {
    let layout = lower! {
        "zero" => device(S_IFCHR, 1, 5),
        "disk" => device(S_IFBLK, 259, 70_000),
        "large" => device(S_IFCHR, 4095, 1_048_575),
    };
    on_both(layout, |mount| {
        let number = |name: &str| {
            let device = mount.stat(name).rdev();
            (nix::sys::stat::major(device), nix::sys::stat::minor(device))
        };
        assert!(mount.stat("zero").file_type().is_char_device());
        assert!(mount.stat("disk").file_type().is_block_device());
        assert_eq!(
            (number("zero"), number("disk"), number("large")),
            ((1, 5), (259, 70_000), (4095, 1_048_575))
        );
    });
}

#[test]
fn everything_special_survives_a_restart() {
    let mount = Mount::over(lower! { "low" => device(S_IFCHR, 1, 3) });
    mknod(mount.path("c"), S_IFCHR, 0o600, 5, 1).unwrap();
    mknod(mount.path("b"), S_IFBLK, 0o600, 8, 17).unwrap();
    mknod(mount.path("s"), S_IFSOCK, 0o600, 0, 0).unwrap();
    mknod(mount.path("p"), S_IFIFO, 0o600, 0, 0).unwrap();
    mknod(mount.path("r"), S_IFREG, 0o600, 0, 0).unwrap();
    chmod(mount.path("low"), 0o666).unwrap();
    let before = Tree::of(mount.root());
    let mount = mount.restart();
    assert_eq!(differences(&before, &Tree::of(mount.root())), Vec::<String>::new());
    assert_eq!(mount.stat("r").len(), 0);
}

/// Elsewhere such a device means "deleted here"; in a volume it is just what its maker made.
#[test]
fn device_zero_zero_is_a_device_like_any_other() {
    let mount = Mount::over(lower! { "below" => "x" });
    mknod(mount.path("zero"), S_IFCHR, 0o600, 0, 0).unwrap();
    fs::remove_file(mount.path("below")).unwrap();
    mknod(mount.path("below"), S_IFCHR, 0o600, 0, 0).unwrap();
    let mount = mount.restart();
    assert_eq!(mount.names("/"), ["below", "zero"]);
    assert!(mount.stat("below").file_type().is_char_device());
    fs::remove_file(mount.path("below")).unwrap();
    assert_eq!(mount.names("/"), ["zero"]);
}

#[test]
fn making_a_device_needs_privilege_and_a_fifo_does_not() {
    let mount = Mount::empty();
    chmod(mount.root(), 0o777).unwrap();
    as_user(User::ANN, || {
        assert_errno!(mknod(mount.path("c"), S_IFCHR, 0o600, 1, 3), EPERM);
        mkfifo(mount.path("p"), 0o600).unwrap();
        mknod(mount.path("s"), S_IFSOCK, 0o600, 0, 0).unwrap();
        mknod(mount.path("r"), S_IFREG, 0o600, 0, 0).unwrap();
    });
    assert_eq!(mount.names("/"), ["p", "r", "s"]);
    assert_eq!(mount.stat("p").uid(), User::ANN.uid);
}

#[test]
fn mode_of_a_special_file_is_cut_by_the_umask() {
    let mount = Mount::empty();
    with_umask(0o027, || {
        mkfifo(mount.path("p"), 0o666).unwrap();
        mknod(mount.path("c"), S_IFCHR, 0o666, 1, 3).unwrap();
    });
    assert_eq!((mount.mode("p"), mount.mode("c")), (0o640, 0o640));
}

#[test]
fn mknod_over_anything_is_eexist() {
    on_both(lower! { "file" => "", "p" => fifo() }, |mount| {
        assert_errno!(mkfifo(mount.path("file"), 0o600), EEXIST);
        assert_errno!(mkfifo(mount.path("p"), 0o600), EEXIST);
        assert_errno!(mkfifo(mount.path("missing/p"), 0o600), ENOENT);
    });
}

//! flock, POSIX record locks, and locks of open file descriptions.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::Duration;

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

fn handle(mount: &Mount) -> File {
    open(mount.path("file"), libc::O_RDWR, 0).unwrap()
}

fn flock(file: File, how: FlockArg) -> Result<Flock<File>, Errno> {
    Flock::lock(file, how).map_err(|(_, errno)| errno)
}

/// A record lock over `start..start + len` (0: to the end).
fn range(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn lock_description(file: &File, kind: i32, start: i64, len: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, start, len))).map(drop)
}

/// Tries a record lock from another process, and returns its errno (0: granted).
fn in_another_process(file: &File, kind: i32, start: i64, len: i64) -> i32 {
    let wanted = range(kind, start, len);
    // SAFETY: the child makes two system calls that are safe after fork, and nothing else.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            // SAFETY: the descriptor is inherited and the structure is a copy of our own; _exit runs no destructor.
            unsafe {
                let failed = libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const wanted) != 0;
                libc::_exit(if failed { *libc::__errno_location() } else { 0 });
            }
        }
        nix::unistd::ForkResult::Parent { child } => match nix::sys::wait::waitpid(child, None).unwrap() {
            nix::sys::wait::WaitStatus::Exited(_, errno) => errno,
            other => panic!("{other:?}"),
        },
    }
}

#[test]
fn exclusive_flock_excludes_everybody() {
    on_both(lower! { "file" => "x" }, |mount| {
        let held = flock(handle(mount), FlockArg::LockExclusive).unwrap();
        assert_errno!(flock(handle(mount), FlockArg::LockExclusiveNonblock), EWOULDBLOCK);
        assert_errno!(flock(handle(mount), FlockArg::LockSharedNonblock), EWOULDBLOCK);
        drop(held);
        flock(handle(mount), FlockArg::LockExclusiveNonblock).unwrap();
    });
}

#[test]
fn shared_flocks_share_and_exclude_writers() {
    on_both(lower! { "file" => "x" }, |mount| {
        let one = flock(handle(mount), FlockArg::LockShared).unwrap();
        let other = flock(handle(mount), FlockArg::LockSharedNonblock).unwrap();
        assert_errno!(one.relock(FlockArg::LockExclusiveNonblock), EWOULDBLOCK);
        drop(one);
        other.relock(FlockArg::LockExclusiveNonblock).unwrap();
    });
}

#[test]
fn waiting_flock_is_woken_when_the_holder_lets_go() {
    let mount = Mount::over(lower! { "file" => "x" });
    let held = flock(handle(&mount), FlockArg::LockExclusive).unwrap();
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(flock(handle(&mount), FlockArg::LockExclusive).unwrap());
            send.send(()).unwrap();
        });
        assert!(receive.recv_timeout(Duration::from_millis(50)).is_err(), "granted while it was held");
        drop(held);
        receive.recv_timeout(Duration::from_secs(20)).unwrap();
    });
}

#[test]
fn flock_works_on_directories_and_read_only_handles() {
    on_both(lower! { "d" => dir(), "file" => "x" }, |mount| {
        let _dir = flock(File::open(mount.path("d")).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        assert_errno!(flock(File::open(mount.path("d")).unwrap(), FlockArg::LockSharedNonblock), EWOULDBLOCK);
        flock(File::open(mount.path("file")).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
    });
}

#[test]
fn record_locks_conflict_between_processes_where_they_overlap() {
    on_both(lower! { "file" => noise(1, 0, 1000) }, |mount| {
        let file = handle(mount);
        fcntl(&file, FcntlArg::F_SETLK(&range(libc::F_WRLCK, 100, 100))).unwrap();
        fcntl(&file, FcntlArg::F_SETLK(&range(libc::F_RDLCK, 300, 100))).unwrap();
        assert_eq!(in_another_process(&file, libc::F_WRLCK, 0, 100), 0);
        assert_eq!(in_another_process(&file, libc::F_WRLCK, 200, 100), 0);
        assert_eq!(in_another_process(&file, libc::F_WRLCK, 150, 10), libc::EAGAIN);
        assert_eq!(in_another_process(&file, libc::F_RDLCK, 199, 1), libc::EAGAIN);
        assert_eq!(in_another_process(&file, libc::F_RDLCK, 350, 10), 0);
        assert_eq!(in_another_process(&file, libc::F_WRLCK, 350, 10), libc::EAGAIN);
        assert_eq!(in_another_process(&file, libc::F_WRLCK, 0, 0), libc::EAGAIN);
        fcntl(&file, FcntlArg::F_SETLK(&range(libc::F_UNLCK, 120, 10))).unwrap();
        assert_eq!(in_another_process(&file, libc::F_WRLCK, 120, 10), 0);
        assert_eq!(in_another_process(&file, libc::F_WRLCK, 119, 2), libc::EAGAIN);
    });
}

#[test]
fn record_locks_go_when_their_owner_closes_any_handle() {
    on_both(lower! { "file" => "x" }, |mount| {
        let file = handle(mount);
        fcntl(&file, FcntlArg::F_SETLK(&range(libc::F_WRLCK, 0, 0))).unwrap();
        assert_eq!(in_another_process(&file, libc::F_WRLCK, 0, 0), libc::EAGAIN);
        drop(handle(mount));
        assert_eq!(in_another_process(&file, libc::F_WRLCK, 0, 0), 0);
    });
}

#[test]
fn holder_of_a_record_lock_can_be_asked_for() {
    let mount = Mount::over(lower! { "file" => "x" });
    let (holder, asker) = (handle(&mount), handle(&mount));
    lock_description(&holder, libc::F_WRLCK, 10, 20).unwrap();
    let mut question = range(libc::F_WRLCK, 0, 0);
    fcntl(&asker, FcntlArg::F_OFD_GETLK(&mut question)).unwrap();
    assert_eq!((i32::from(question.l_type), question.l_start, question.l_len), (libc::F_WRLCK, 10, 20));
    let mut question = range(libc::F_WRLCK, 30, 5);
    fcntl(&asker, FcntlArg::F_OFD_GETLK(&mut question)).unwrap();
    assert_eq!(i32::from(question.l_type), libc::F_UNLCK);
}

#[test]
fn locks_of_open_file_descriptions_conflict_inside_a_process() {
    on_both(lower! { "file" => "x" }, |mount| {
        let (one, other) = (handle(mount), handle(mount));
        lock_description(&one, libc::F_WRLCK, 0, 10).unwrap();
        assert_errno!(lock_description(&other, libc::F_WRLCK, 5, 10), EAGAIN);
        lock_description(&other, libc::F_WRLCK, 10, 10).unwrap();
        lock_description(&one, libc::F_RDLCK, 0, 10).unwrap();
        lock_description(&other, libc::F_RDLCK, 5, 2).unwrap();
        drop(one);
        // A program that another test starts has it open until it executes.
        eventually("the lock is free", Duration::from_secs(20), || {
            lock_description(&other, libc::F_WRLCK, 0, 10).ok()
        });
    });
}

#[test]
fn record_lock_needs_a_handle_of_the_matching_direction() {
    on_both(lower! { "file" => "x" }, |mount| {
        let reader = File::open(mount.path("file")).unwrap();
        assert_errno!(lock_description(&reader, libc::F_WRLCK, 0, 0), EBADF);
        lock_description(&reader, libc::F_RDLCK, 0, 0).unwrap();
    });
}

#[test]
fn flock_and_record_locks_do_not_see_each_other() {
    let mount = Mount::over(lower! { "file" => "x" });
    let _held = flock(handle(&mount), FlockArg::LockExclusive).unwrap();
    lock_description(&handle(&mount), libc::F_WRLCK, 0, 0).unwrap();
}

#[test]
fn two_processes_count_together_under_a_lock() {
    let mount = Mount::empty();
    mount.write("count", "0");
    let script = "for i in $(seq 50); do flock lock sh -c 'read n < count; echo $((n+1)) > count'; done";
    let count = || program("sh", "dash").args(["-c", script]).in_dir(mount.root()).ok();
    std::thread::scope(|scope| {
        scope.spawn(count);
        scope.spawn(count);
    });
    assert_eq!(mount.text("count"), "100\n");
}

//! Running a few lines as somebody else, without leaving the process.
//!
//! Linux keeps credentials, umask and working directory per thread; only the C library pretends
//! they belong to the process. A thread of its own therefore is another user to the kernel.

use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};

/// Somebody without privileges.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// Real, effective, saved and filesystem user id.
    pub uid: u32,
    /// The same of the group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'static [u32],
}

impl User {
    /// An ordinary user with one group.
    pub const ANN: User = User { uid: 5001, gid: 5001, groups: &[] };
    /// Another one, who shares nothing with the first.
    pub const BOB: User = User { uid: 5002, gid: 5002, groups: &[] };

    /// Returns this user with these supplementary groups.
    #[must_use]
    pub const fn in_groups(self, groups: &'static [u32]) -> User {
        User { groups, ..self }
    }
}

/// Runs `body` in a thread of its own with the credentials of `user` and no capability.
pub fn as_user<T: Send>(user: User, body: impl FnOnce() -> T + Send) -> T {
    own_thread(|| {
        become_user(user);
        body()
    })
}

/// Runs `body` in a thread of its own with this umask.
pub fn with_umask<T: Send>(mask: u32, body: impl FnOnce() -> T + Send) -> T {
    own_thread(|| {
        unshare(CloneFlags::CLONE_FS).unwrap();
        umask(Mode::from_bits_truncate(mask));
        body()
    })
}

fn own_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let result = thread::scope(|scope| scope.spawn(body).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn become_user(user: User) {
    // The raw calls change this thread only; the wrappers of the C library would change them all.
    // SAFETY: setgroups reads `groups.len()` ids from a live slice; the other two take plain integers.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()),
            libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid),
            libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid),
        ]
    };
    assert_eq!(results, [0, 0, 0], "cannot become {user:?}: these tests run as root");
}

//! Carries out the same calls on a directory of the machine's own filesystem, as root.
//!
//! A slot is an `O_PATH` descriptor, so that it means the same file after renames and after its last name is
//! gone. The access time is left alone wherever the kernel allows that.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::dir::{Dir, OwningIter};

use crate::host::{self, Sys, c, ok};
use crate::wire::{Bytes, Call, Item, ROOT, Renaming, Reply, Set, SetTime, Slot, XattrMode};

/// A directory that calls are carried out in.
pub(crate) struct LocalDir {
    slots: BTreeMap<Slot, OwnedFd>,
    cursors: HashMap<u32, (OwningIter, Vec<Item>)>,
}

impl LocalDir {
    /// Takes a directory as the root.
    pub(crate) fn open(root: &Path) -> LocalDir {
        // The model says exactly which bits a new file gets.
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        let fd = host::open(&host::path_c(root), libc::O_PATH | libc::O_DIRECTORY).unwrap();
        LocalDir { slots: BTreeMap::from([(ROOT, fd)]), cursors: HashMap::new() }
    }

    /// Does one thing.
    pub(crate) fn execute(&mut self, call: &Call) -> Reply {
        match self.carry_out(call) {
            Ok(reply) => reply,
            Err(errno) => Reply::Failed { errno, why: "a system call failed".to_owned() },
        }
    }

    fn raw(&self, slot: Slot) -> Sys<i32> {
        self.slots.get(&slot).map(AsRawFd::as_raw_fd).ok_or(libc::ESTALE)
    }

    /// A path that leads to what a slot means.
    fn path(&self, slot: Slot) -> Sys<CString> {
        Ok(c(format!("/proc/self/fd/{}", self.raw(slot)?).as_bytes()))
    }

    fn reopen(&self, slot: Slot, flags: i32) -> Sys<OwnedFd> {
        host::open(&self.path(slot)?, flags | libc::O_NOATIME)
    }

    fn stat(&self, slot: Slot) -> Sys<Reply> {
        Ok(Reply::Attr { stat: host::stat_fd(self.slots.get(&slot).ok_or(libc::ESTALE)?.as_fd())? })
    }

    fn look_up(&mut self, parent: Slot, name: &Bytes, bind: Slot) -> Sys<Reply> {
        let parent = self.slots.get(&parent).ok_or(libc::ESTALE)?;
        let fd = host::open_at(parent.as_fd(), &c(&name.0), libc::O_PATH | libc::O_NOFOLLOW, 0)?;
        self.slots.insert(bind, fd);
        self.stat(bind)
    }

    // SAFETY of every block below: strings are NUL-terminated and buffers have the length given with
    // them, and all outlive the call; a descriptor that is not open makes the kernel say EBADF.
    fn carry_out(&mut self, call: &Call) -> Sys<Reply> {
        match call {
            Call::CreateVolume { .. } | Call::RemoveVolume { .. } | Call::Check { .. } => {}
            Call::Volumes { .. } | Call::Snapshots { .. } => return Ok(Reply::Names { names: Vec::new() }),
            Call::Lookup { parent, name, bind, .. } => return self.look_up(*parent, name, *bind),
            Call::Forget { node, .. } => drop(self.slots.remove(node)),
            Call::Getattr { node, .. } => return self.stat(*node),
            Call::Setattr { node, set, .. } => {
                self.set(*node, set)?;
                return self.stat(*node);
            }
            Call::Readlink { node, .. } => {
                let mut target = vec![0u8; 8192];
                // SAFETY: see above.
                let len = ok(unsafe {
                    libc::readlinkat(self.raw(*node)?, c"".as_ptr(), target.as_mut_ptr().cast(), target.len())
                } as i64)?;
                target.truncate(len as usize);
                return Ok(Reply::Data { bytes: Bytes(target) });
            }
            Call::Make { parent, name, mode, umask: _, rdev, bind, .. } => {
                // SAFETY: see above.
                ok(unsafe {
                    libc::mknodat(self.raw(*parent)?, c(&name.0).as_ptr(), *mode, u64::from(*rdev))
                }
                .into())?;
                return self.look_up(*parent, name, *bind);
            }
            Call::Mkdir { parent, name, mode, bind, .. } => {
                // SAFETY: see above.
                ok(unsafe { libc::mkdirat(self.raw(*parent)?, c(&name.0).as_ptr(), mode & 0o7777) }.into())?;
                return self.look_up(*parent, name, *bind);
            }
            Call::Symlink { parent, name, target, bind, .. } => {
                // SAFETY: see above.
                ok(unsafe {
                    libc::symlinkat(c(&target.0).as_ptr(), self.raw(*parent)?, c(&name.0).as_ptr())
                }
                .into())?;
                return self.look_up(*parent, name, *bind);
            }
            Call::Link { node, parent, name, .. } => {
                let (node_fd, parent_fd) = (self.raw(*node)?, self.raw(*parent)?);
                let name = c(&name.0);
                // SAFETY: see above.
                ok(unsafe {
                    libc::linkat(node_fd, c"".as_ptr(), parent_fd, name.as_ptr(), libc::AT_EMPTY_PATH)
                }
                .into())?;
                return self.stat(*node);
            }
            Call::Unlink { parent, name, .. } => {
                // SAFETY: see above.
                ok(unsafe { libc::unlinkat(self.raw(*parent)?, c(&name.0).as_ptr(), 0) }.into())?;
            }
            Call::Rmdir { parent, name, .. } => {
                // SAFETY: see above.
                ok(unsafe { libc::unlinkat(self.raw(*parent)?, c(&name.0).as_ptr(), libc::AT_REMOVEDIR) }
                    .into())?;
            }
            Call::Rename { parent, name, to_parent, to_name, how, .. } => {
                let flags = match how {
                    Renaming::Replace {} => 0,
                    Renaming::NoReplace {} => libc::RENAME_NOREPLACE,
                    Renaming::Exchange {} => libc::RENAME_EXCHANGE,
                };
                let (from, to) = (self.raw(*parent)?, self.raw(*to_parent)?);
                let (name, to_name) = (c(&name.0), c(&to_name.0));
                // SAFETY: see above.
                ok(unsafe { libc::renameat2(from, name.as_ptr(), to, to_name.as_ptr(), flags) }.into())?;
            }
            data => return self.data(data),
        }
        Ok(Reply::Done {})
    }

    fn data(&mut self, call: &Call) -> Sys<Reply> {
        match call {
            Call::Read { node, at, len, .. } => {
                let fd = self.reopen(*node, libc::O_RDONLY)?;
                let mut bytes = vec![0u8; *len as usize];
                // SAFETY: see `carry_out`.
                let got = ok(unsafe {
                    libc::pread(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), *at as i64)
                } as i64)?;
                bytes.truncate(got as usize);
                return Ok(Reply::Data { bytes: Bytes(bytes) });
            }
            Call::Write { node, at, fill, .. } => {
                let fd = self.reopen(*node, libc::O_WRONLY)?;
                let bytes = fill.bytes();
                // SAFETY: see `carry_out`.
                let put =
                    ok(
                        unsafe {
                            libc::pwrite(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), *at as i64)
                        } as i64,
                    )?;
                assert_eq!(put as usize, bytes.len(), "a short write to the local directory");
            }
            Call::Fallocate { node, mode, at, len, .. } => {
                let fd = self.reopen(*node, libc::O_WRONLY)?;
                // SAFETY: see `carry_out`.
                ok(unsafe { libc::fallocate(fd.as_raw_fd(), *mode, *at as i64, *len as i64) }.into())?;
            }
            Call::Seek { node, at, hole, .. } => {
                let fd = self.reopen(*node, libc::O_RDONLY)?;
                let whence = if *hole { libc::SEEK_HOLE } else { libc::SEEK_DATA };
                // SAFETY: see `carry_out`.
                let at = ok(unsafe { libc::lseek(fd.as_raw_fd(), *at as i64, whence) })?;
                return Ok(Reply::Offset { at: at as u64 });
            }
            Call::CopyRange { from, from_at, to, to_at, len, .. } => {
                let (source, target) =
                    (self.reopen(*from, libc::O_RDONLY)?, self.reopen(*to, libc::O_WRONLY)?);
                let (mut from_at, mut to_at) = (*from_at as i64, *to_at as i64);
                // SAFETY: see `carry_out`.
                let copied = ok(unsafe {
                    libc::copy_file_range(
                        source.as_raw_fd(),
                        &raw mut from_at,
                        target.as_raw_fd(),
                        &raw mut to_at,
                        *len as usize,
                        0,
                    )
                } as i64)?;
                return Ok(Reply::Offset { at: copied as u64 });
            }
            // The disk's own durability is not what is tested.
            Call::Fsync { .. } => {}
            Call::Readdir { node, .. } => {
                let fd = self.reopen(*node, libc::O_RDONLY | libc::O_DIRECTORY)?;
                let items = Dir::from_fd(fd).unwrap().into_iter().map(|entry| item(entry.unwrap())).collect();
                return Ok(Reply::Listing { items });
            }
            Call::CursorOpen { cursor, node, .. } => {
                let fd = self.reopen(*node, libc::O_RDONLY | libc::O_DIRECTORY)?;
                self.cursors.insert(*cursor, (Dir::from_fd(fd).unwrap().into_iter(), Vec::new()));
            }
            Call::CursorStep { cursor, count } => {
                let (entries, seen) = self.cursors.get_mut(cursor).unwrap();
                seen.extend(entries.take(*count as usize).map(|entry| item(entry.unwrap())));
            }
            Call::CursorFinish { cursor } => {
                let (entries, mut items) = self.cursors.remove(cursor).unwrap();
                items.extend(entries.map(|entry| item(entry.unwrap())));
                return Ok(Reply::Listing { items });
            }
            Call::Getxattr { node, name, .. } => {
                let mut value = vec![0u8; 65536];
                let (path, name) = (self.path(*node)?, c(&name.0));
                // SAFETY: see `carry_out`.
                let len = ok(unsafe {
                    libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
                } as i64)?;
                value.truncate(len as usize);
                return Ok(Reply::Data { bytes: Bytes(value) });
            }
            Call::Setxattr { node, name, value, how, .. } => {
                let flags = match how {
                    XattrMode::Any {} => 0,
                    XattrMode::Create {} => libc::XATTR_CREATE,
                    XattrMode::Replace {} => libc::XATTR_REPLACE,
                };
                let (path, name, value) = (self.path(*node)?, c(&name.0), value.bytes());
                // SAFETY: see `carry_out`.
                ok(unsafe {
                    libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
                }
                .into())?;
            }
            Call::Listxattr { node, .. } => {
                let mut list = vec![0u8; 65536];
                let path = self.path(*node)?;
                // SAFETY: see `carry_out`.
                let len =
                    ok(unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) }
                        as i64)?;
                let names = list[..len as usize].split(|&byte| byte == 0).filter(|name| !name.is_empty());
                return Ok(Reply::Names { names: names.map(Bytes::from).collect() });
            }
            Call::Removexattr { node, name, .. } => {
                let (path, name) = (self.path(*node)?, c(&name.0));
                // SAFETY: see `carry_out`.
                ok(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }.into())?;
            }
            other => panic!("{other:?} is nothing that a local directory can do"),
        }
        Ok(Reply::Done {})
    }

    fn set(&self, slot: Slot, set: &Set) -> Sys<()> {
        let path = self.path(slot)?;
        if let Some(size) = set.size {
            let fd = self.reopen(slot, libc::O_WRONLY)?;
            // SAFETY: see `carry_out`.
            ok(unsafe { libc::ftruncate(fd.as_raw_fd(), size as i64) }.into())?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            let (uid, gid) = (set.uid.unwrap_or(u32::MAX), set.gid.unwrap_or(u32::MAX));
            // SAFETY: see `carry_out`.
            ok(unsafe { libc::fchownat(self.raw(slot)?, c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) }
                .into())?;
        }
        if let Some(perm) = set.perm {
            // SAFETY: see `carry_out`.
            ok(unsafe { libc::chmod(path.as_ptr(), perm.into()) }.into())?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let spec = |time: &Option<SetTime>| match time {
                None => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
                Some(SetTime::Now {}) => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
                Some(SetTime::At { stamp }) => {
                    libc::timespec { tv_sec: stamp.secs, tv_nsec: stamp.nanos.into() }
                }
            };
            let times = [spec(&set.atime), spec(&set.mtime)];
            // SAFETY: see `carry_out`.
            ok(unsafe {
                libc::utimensat(self.raw(slot)?, c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH)
            }
            .into())?;
        }
        Ok(())
    }
}

fn item(entry: nix::dir::Entry) -> Item {
    use nix::dir::Type;
    let kind = match entry.file_type().expect("the local filesystem says d_type") {
        Type::Fifo => libc::S_IFIFO,
        Type::CharacterDevice => libc::S_IFCHR,
        Type::Directory => libc::S_IFDIR,
        Type::BlockDevice => libc::S_IFBLK,
        Type::File => libc::S_IFREG,
        Type::Symlink => libc::S_IFLNK,
        Type::Socket => libc::S_IFSOCK,
    };
    Item { name: Bytes::from(entry.file_name().to_bytes()), kind, ino: entry.ino(), stat: None }
}

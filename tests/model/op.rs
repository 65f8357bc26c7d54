//! The operations of a sequence and the generator of random sequences.
//!
//! # Invariants
//! - An operation names nothing that another one made: it says "the 7th file of those there are then", modulo
//!   their number. So every subsequence of a sequence is a sequence, and a failure shrinks by leaving
//!   operations out.
//! - `{:?}` of an operation is the Rust expression that makes it again.

use crate::prng::Prng;
use crate::wire::{Renaming, XattrMode};

/// Which of the things there are, modulo their number.
pub(crate) type Nth = u16;

/// A file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// One that the directory has; without entries, one of the pool.
    Live(Nth),
    /// One of [`NAMES`].
    Pool(u8),
}

/// An offset in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// From the start.
    Abs(u64),
    /// From the end.
    End(i64),
}

/// An instant to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Keep,
    Now,
    At(i64, u32),
}

/// One operation of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Create {
        dir: Nth,
        name: Pick,
        perm: u16,
        owner: u8,
    },
    Mkdir {
        dir: Nth,
        name: Pick,
        perm: u16,
        owner: u8,
    },
    Mknod {
        dir: Nth,
        name: Pick,
        kind: u8,
        perm: u16,
    },
    Symlink {
        dir: Nth,
        name: Pick,
        len: u16,
    },
    Link {
        node: Nth,
        dir: Nth,
        name: Pick,
    },
    Unlink {
        dir: Nth,
        name: Pick,
    },
    Rmdir {
        dir: Nth,
        name: Pick,
    },
    Rename {
        dir: Nth,
        name: Pick,
        to_dir: Nth,
        to_name: Pick,
        how: Renaming,
    },
    Write {
        file: Nth,
        at: At,
        len: u32,
        seed: u32,
        kill_suid: bool,
    },
    Truncate {
        file: Nth,
        to: At,
    },
    Fallocate {
        file: Nth,
        mode: i32,
        at: At,
        len: u64,
    },
    CopyRange {
        from: Nth,
        from_at: At,
        to: Nth,
        to_at: At,
        len: u64,
    },
    Chmod {
        node: Nth,
        perm: u16,
    },
    Chown {
        node: Nth,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Utimens {
        node: Nth,
        atime: When,
        mtime: When,
    },
    Setxattr {
        node: Nth,
        name: u8,
        len: u32,
        seed: u32,
        how: XattrMode,
    },
    Removexattr {
        node: Nth,
        name: u8,
    },
    Getxattr {
        node: Nth,
        name: u8,
    },
    Listxattr {
        node: Nth,
    },
    Read {
        file: Nth,
        at: At,
        len: u32,
    },
    Readdir {
        dir: Nth,
        chunk: u32,
        plus: bool,
    },
    CursorOpen {
        dir: Nth,
    },
    CursorStep {
        cursor: Nth,
        count: u32,
    },
    CursorFinish {
        cursor: Nth,
    },
    Stat {
        node: Nth,
    },
    Lookup {
        dir: Nth,
        name: Pick,
    },
    Readlink {
        node: Nth,
    },
    Seek {
        file: Nth,
        at: At,
        hole: bool,
    },
    Forget {
        node: Nth,
    },
    Fsync {
        node: Nth,
    },
    /// One cut over so many of the volumes, beginning with the current one.
    Snapshot {
        volumes: u8,
    },
    RemoveSnapshot {
        snapshot: Nth,
    },
    /// Compares a snapshot, opened by itself.
    CheckSnapshot {
        snapshot: Nth,
    },
    /// Compares a snapshot as the hidden directory of its volume shows it.
    Browse {
        snapshot: Nth,
    },
    /// Removes a volume and its snapshots, unless it is the current one.
    RemoveVolume {
        volume: Nth,
    },
    /// Makes a volume of a snapshot and goes on there.
    Fork {
        snapshot: Nth,
    },
    /// Goes on with another volume.
    Switch {
        volume: Nth,
    },
    Rollback {
        snapshot: Nth,
    },
    /// Compares the differences that the store lists with those of the models; an even `with` is the head, an odd
    /// one another snapshot.
    Diff {
        snapshot: Nth,
        with: Nth,
    },
    Remount,
    Reclaim,
    /// Kills the process that holds the store after so many answers and so many microseconds.
    Kill {
        replies: u16,
        micros: u16,
    },
}

/// The names that operations choose from; the one of 256 bytes is too long.
pub(crate) fn pool_name(index: u8) -> Vec<u8> {
    match index % POOL {
        index @ 0..=11 => vec![b'a' + index],
        12 => vec![b'n'; 255],
        13 => vec![0xff, 0xfe, b'/' + 1, 1],
        14 => b"two words\n".to_vec(),
        15 => b".hidden".to_vec(),
        16 => b"a.tar.gz".to_vec(),
        17 => "größe".as_bytes().to_vec(),
        _ => vec![b'm'; 256],
    }
}
const POOL: u8 = 19;

/// The names of extended attributes that operations choose from.
pub(crate) fn xattr_name(index: u8, user_allowed: bool) -> Vec<u8> {
    let prefix = if user_allowed && !index.is_multiple_of(3) { "user" } else { "trusted" };
    match index % 7 {
        6 => format!("{prefix}.{}", "x".repeat(255 - prefix.len() - 1)).into_bytes(),
        n => format!("{prefix}.k{n}").into_bytes(),
    }
}

/// Which operations a sequence may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repertoire {
    /// Those that a local directory can also do.
    Posix,
    /// And snapshots, forks, rollbacks, remounts.
    Snapshots,
    /// And kills.
    Kills,
}

/// Returns the sequence of a seed.
pub(crate) fn generate(seed: u64, count: usize, repertoire: Repertoire) -> Vec<Op> {
    let mut random =
        Generator { random: Prng::new(seed ^ 0x6f70_7320), posix: repertoire == Repertoire::Posix };
    // Different seeds lean on different things: a sequence of everything alike seldom gets deep anywhere.
    let lean = random.random.below(4);
    (0..count).map(|_| random.op(repertoire, lean)).collect()
}

struct Generator {
    random: Prng,
    posix: bool,
}

impl Generator {
    fn op(&mut self, repertoire: Repertoire, lean: u64) -> Op {
        let special = match repertoire {
            Repertoire::Posix => 0,
            Repertoire::Snapshots | Repertoire::Kills => 8,
        };
        if self.random.chance(special) {
            return self.special(repertoire);
        }
        let (names, data) = match lean {
            0 => (65, 20),
            1 => (25, 60),
            _ => (42, 35),
        };
        match self.random.below(100) {
            n if n < names => self.naming(),
            n if n < names + data => self.data(),
            _ => self.other(),
        }
    }

    fn special(&mut self, repertoire: Repertoire) -> Op {
        let snapshot = self.nth();
        match self.random.below(100) {
            0..=27 => Op::Snapshot { volumes: 1 + (self.random.below(4) / 3) as u8 },
            28..=36 => Op::RemoveSnapshot { snapshot },
            37..=41 => Op::CheckSnapshot { snapshot },
            42..=44 => Op::Browse { snapshot },
            45..=54 => Op::Fork { snapshot },
            55..=63 => Op::Switch { volume: self.nth() },
            64..=70 => Op::Rollback { snapshot },
            71..=76 => Op::Diff { snapshot, with: self.nth() },
            77..=78 => Op::RemoveVolume { volume: self.nth() },
            79..=82 => Op::Reclaim,
            83..=88 => Op::Remount,
            _ if repertoire == Repertoire::Kills => Op::Kill {
                replies: self.random.below(80) as u16,
                micros: if self.random.chance(50) { 0 } else { self.random.below(400) as u16 },
            },
            _ => Op::Snapshot { volumes: 1 },
        }
    }

    fn naming(&mut self) -> Op {
        match self.random.below(100) {
            0..=24 => {
                Op::Create { dir: self.nth(), name: self.new_name(), perm: self.perm(), owner: self.owner() }
            }
            25..=38 => Op::Mkdir {
                dir: self.nth(),
                name: self.new_name(),
                perm: self.perm() & 0o1777,
                owner: self.owner(),
            },
            39..=43 => Op::Mknod {
                dir: self.nth(),
                name: self.new_name(),
                kind: self.random.below(4) as u8,
                perm: self.perm(),
            },
            44..=48 => {
                let len = self.random.pick(&[1, 10, 100, 1000, 4000]);
                Op::Symlink { dir: self.nth(), name: self.new_name(), len }
            }
            49..=56 => Op::Link { node: self.nth(), dir: self.nth(), name: self.new_name() },
            57..=70 => Op::Unlink { dir: self.nth(), name: self.old_name() },
            71..=77 => Op::Rmdir { dir: self.nth(), name: self.old_name() },
            _ => Op::Rename {
                dir: self.nth(),
                name: self.old_name(),
                to_dir: self.nth(),
                to_name: if self.random.chance(50) { self.old_name() } else { self.new_name() },
                how: match self.random.below(6) {
                    0 => Renaming::NoReplace {},
                    1 => Renaming::Exchange {},
                    _ => Renaming::Replace {},
                },
            },
        }
    }

    fn data(&mut self) -> Op {
        let file = self.nth();
        match self.random.below(100) {
            0..=44 => Op::Write {
                file,
                at: self.at(),
                len: self.len(),
                seed: if self.random.chance(5) { 0 } else { 1 + self.random.below(1 << 20) as u32 },
                kill_suid: !self.posix && self.random.chance(20),
            },
            45..=57 => Op::Truncate { file, to: self.at() },
            58..=69 => Op::Fallocate {
                file,
                mode: self.random.pick(&[
                    0,
                    libc::FALLOC_FL_KEEP_SIZE,
                    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                    libc::FALLOC_FL_ZERO_RANGE,
                    libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
                ]),
                at: self.at(),
                len: u64::from(self.len().max(1)),
            },
            70..=79 => Op::CopyRange {
                from: file,
                from_at: self.at(),
                to: if self.random.chance(20) { file } else { self.nth() },
                to_at: self.at(),
                len: u64::from(self.len()) * self.random.pick(&[1, 1, 3]),
            },
            80..=92 => Op::Read { file, at: self.at(), len: self.len() },
            93..=97 => Op::Seek { file, at: self.at(), hole: self.random.chance(50) },
            _ => Op::Fsync { node: file },
        }
    }

    fn other(&mut self) -> Op {
        let node = self.nth();
        match self.random.below(100) {
            0..=11 => Op::Chmod { node, perm: self.perm() },
            12..=19 => Op::Chown {
                node,
                uid: self.random.pick(&[None, Some(0), Some(1000), Some(u32::MAX - 1)]),
                gid: self.random.pick(&[None, Some(0), Some(1000), Some(70_000)]),
            },
            20..=27 => Op::Utimens { node, atime: self.when(), mtime: self.when() },
            28..=42 => Op::Setxattr {
                node,
                name: self.random.below(21) as u8,
                // A local ext4 keeps all attributes of a file in one block.
                len: if self.posix {
                    self.random.pick(&[0, 1, 30, 200])
                } else {
                    self.random.pick(&[0, 1, 30, 1000, 5000, 65536])
                },
                seed: 1 + self.random.below(1 << 20) as u32,
                how: self.random.pick(&[
                    XattrMode::Any {},
                    XattrMode::Any {},
                    XattrMode::Create {},
                    XattrMode::Replace {},
                ]),
            },
            43..=49 => Op::Removexattr { node, name: self.random.below(21) as u8 },
            50..=54 => Op::Getxattr { node, name: self.random.below(21) as u8 },
            55..=58 => Op::Listxattr { node },
            59..=68 => Op::Readdir {
                dir: node,
                chunk: self.random.pick(&[1, 2, 3, 7, 1000]),
                plus: !self.posix && self.random.chance(50),
            },
            69..=71 => Op::CursorOpen { dir: node },
            72..=75 => Op::CursorStep { cursor: node, count: 1 + self.random.below(4) as u32 },
            76..=77 => Op::CursorFinish { cursor: node },
            78..=82 => Op::Stat { node },
            83..=87 => {
                let name = if self.random.chance(70) { self.old_name() } else { self.new_name() };
                Op::Lookup { dir: node, name }
            }
            88..=89 => Op::Readlink { node },
            _ => Op::Forget { node },
        }
    }

    fn nth(&mut self) -> Nth {
        self.random.next() as Nth
    }

    fn new_name(&mut self) -> Pick {
        if self.random.chance(8) {
            Pick::Live(self.nth())
        } else {
            Pick::Pool(self.random.below(u64::from(POOL)) as u8)
        }
    }

    fn old_name(&mut self) -> Pick {
        if self.random.chance(90) {
            Pick::Live(self.nth())
        } else {
            Pick::Pool(self.random.below(u64::from(POOL)) as u8)
        }
    }

    fn owner(&mut self) -> u8 {
        if self.posix || self.random.chance(70) { 0 } else { 1 + self.random.below(2) as u8 }
    }

    fn perm(&mut self) -> u16 {
        self.random.pick(&[0o644, 0o600, 0o755, 0o777, 0o000, 0o4755, 0o2755, 0o6711, 0o2644, 0o1777, 0o7777])
    }

    fn when(&mut self) -> When {
        match self.random.below(6) {
            0 => When::Keep,
            1 => When::Now,
            // Within what an ext4 inode of 256 bytes can hold, on both sides of zero and of 2^31.
            2 => When::At(-1, 999_999_999),
            3 => When::At(1 << 32, 1),
            4 => When::At(0, 0),
            _ => When::At(self.random.below(1 << 31) as i64, self.random.below(1_000_000_000) as u32),
        }
    }

    fn near(&mut self, edge: u64) -> u64 {
        (edge + self.random.below(5)).saturating_sub(2)
    }

    fn at(&mut self) -> At {
        match self.random.below(100) {
            0..=14 => At::Abs(0),
            15..=29 => At::Abs(self.random.below(200)),
            30..=44 => {
                let page = self.random.below(6);
                At::Abs(self.near(page * 4096))
            }
            45..=54 => {
                let chunk = self.random.below(4);
                At::Abs(self.near(chunk * 65536))
            }
            55..=64 => At::Abs(self.random.below(200_000)),
            65..=68 => {
                At::Abs(self.random.pick(&[1 << 20, (1 << 20) - 1, 5 << 30, (5 << 30) - 4096, 1 << 40]))
            }
            69..=84 => At::End(0),
            85..=92 => At::End(-(self.random.below(300) as i64)),
            93..=96 => At::End(-(self.random.below(70_000) as i64)),
            _ => At::End(self.random.below(10_000) as i64),
        }
    }

    fn len(&mut self) -> u32 {
        match self.random.below(100) {
            0..=1 => 0,
            2..=29 => 1 + self.random.below(100) as u32,
            30..=49 => 1 + self.random.below(5000) as u32,
            50..=64 => self.near(4096) as u32,
            65..=79 => 4096 * (1 + self.random.below(8) as u32),
            80..=87 => self.near(65536) as u32,
            88..=95 => self.random.below(70_000) as u32,
            _ => self.random.below(300_000) as u32,
        }
    }
}

/// Returns the Rust expression that makes the operation.
pub(crate) fn rust(op: &Op) -> String {
    let mut text = format!("Op::{op:?}");
    for (bare, full) in [
        ("Live(", "Pick::Live("),
        ("Pool(", "Pick::Pool("),
        ("Abs(", "At::Abs("),
        ("End(", "At::End("),
        (": Keep", ": When::Keep"),
        (": Now", ": When::Now"),
        (": At(", ": When::At("),
    ] {
        text = text.replace(bare, full);
    }
    let kind = if matches!(op, Op::Rename { .. }) { "Renaming" } else { "XattrMode" };
    match text.split_once("how: ") {
        Some((before, how)) => format!("{before}how: {kind}::{}", how.replace(" }", " {} }")),
        None => text,
    }
}

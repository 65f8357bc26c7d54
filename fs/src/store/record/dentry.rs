//! A name in a directory: bound to an inode, or removed.

use super::Record;
use super::codec::{Reader, Writer};
use crate::attr::FileKind;
use crate::ids::Ino;

/// The newest version.
pub type Dentry = DentryV1;

/// `[1] [0]` for a whiteout, `[1] [1] ino u64, type u8` for an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DentryV1 {
    /// The name is removed here: older versions and lowers do not show through.
    Whiteout,
    /// The name is bound to an inode.
    Entry {
        /// The inode.
        ino: Ino,
        /// Its kind, so that `readdir` need not load it.
        kind: FileKind,
    },
}

fn kind_byte(kind: FileKind) -> u8 {
    // The values of `d_type` in getdents(2).
    match kind {
        FileKind::Fifo => libc::DT_FIFO,
        FileKind::CharDevice => libc::DT_CHR,
        FileKind::Directory => libc::DT_DIR,
        FileKind::BlockDevice => libc::DT_BLK,
        FileKind::Regular => libc::DT_REG,
        FileKind::Symlink => libc::DT_LNK,
        FileKind::Socket => libc::DT_SOCK,
    }
}

fn kind_of(byte: u8) -> Option<FileKind> {
    [
        FileKind::Fifo,
        FileKind::CharDevice,
        FileKind::Directory,
        FileKind::BlockDevice,
        FileKind::Regular,
        FileKind::Symlink,
        FileKind::Socket,
    ]
    .into_iter()
    .find(|&kind| kind_byte(kind) == byte)
}

impl Record for DentryV1 {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::version(1);
        match *self {
            DentryV1::Whiteout => writer.u8(0),
            DentryV1::Entry { ino, kind } => writer.u8(1).u64(ino.0).u8(kind_byte(kind)),
        };
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let record = match reader.u8()? {
            0 => DentryV1::Whiteout,
            1 => DentryV1::Entry { ino: Ino(reader.u64()?), kind: kind_of(reader.u8()?)? },
            _ => return None,
        };
        reader.end(record)
    }
}

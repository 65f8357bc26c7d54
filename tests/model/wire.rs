//! What the parent asks of an executor and what it answers, and the bytes of both on a pipe.
//!
//! A [`Call`] names files by *slot*: a number of the parent's choosing, bound to a node of the
//! filesystem by the call that first returns it. So a whole batch can be written down before the first
//! answer is seen.
//!
//! # Invariants
//! - Requests are frames `[len: u32][flush: u8][count: u32][call…]`, replies `[len: u32][reply]`, one per call, in order.
//! - Both ends are built from this file; a frame that does not decode is a bug and panics.

use std::io::{self, Read, Write};

/// The parent's number for a node inside one view.
pub(crate) type Slot = u32;
/// The parent's number for an open tree: the head of a volume, or a snapshot.
pub(crate) type View = u32;

/// The slot of the root directory in every view.
pub(crate) const ROOT: Slot = 1;

/// A value with a byte representation.
pub(crate) trait Wire: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes the value off the front.
    fn get(input: &mut &[u8]) -> Self;
}

macro_rules! wire_integers {
    ($($t:ty),*) => {$(
        impl Wire for $t {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(input: &mut &[u8]) -> Self {
                let (head, rest) = input.split_at(size_of::<$t>());
                *input = rest;
                <$t>::from_le_bytes(head.try_into().unwrap())
            }
        }
    )*};
}
wire_integers!(u8, u16, u32, i32, u64, i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(*self).put(out);
    }
    fn get(input: &mut &[u8]) -> Self {
        u8::get(input) != 0
    }
}

/// Bytes that travel as one block and print as text where they are text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.0[..self.0.len().min(40)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if self.0.len() > shown.len() {
            write!(f, "… ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Bytes(bytes.to_vec())
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Bytes(text.as_bytes().to_vec())
    }
}

impl Wire for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.0.len()).unwrap().put(out);
        out.extend_from_slice(&self.0);
    }
    fn get(input: &mut &[u8]) -> Self {
        let len = u32::get(input) as usize;
        let (head, rest) = input.split_at(len);
        *input = rest;
        Bytes(head.to_vec())
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        Bytes(self.clone().into_bytes()).put(out);
    }
    fn get(input: &mut &[u8]) -> Self {
        String::from_utf8(Bytes::get(input).0).unwrap()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(input: &mut &[u8]) -> Self {
        bool::get(input).then(|| T::get(input))
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).unwrap().put(out);
        for value in self {
            value.put(out);
        }
    }
    fn get(input: &mut &[u8]) -> Self {
        let len = u32::get(input);
        (0..len).map(|_| T::get(input)).collect()
    }
}

macro_rules! wire_struct {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $t:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) struct $name { $($(#[$fdoc])* pub(crate) $field: $t),* }
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
            fn get(input: &mut &[u8]) -> Self {
                // Fields of a struct literal are evaluated in the order written, which is that of `put`.
                $name { $($field: <$t>::get(input)),* }
            }
        }
    };
}

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident { $($field:ident: $t:ty),* $(,)? }),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$vdoc])* $variant { $($field: $t),* }),* }
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                // The tag is the position in the list: both ends are one build.
                let mut tag = 0u8;
                $(
                    if let $name::$variant { $($field),* } = self {
                        tag.put(out);
                        $($field.put(out);)*
                        return;
                    }
                    tag += 1;
                )*
                let _ = tag;
            }
            fn get(input: &mut &[u8]) -> Self {
                let wanted = u8::get(input);
                let mut tag = 0u8;
                $(
                    if wanted == tag {
                        return $name::$variant { $($field: <$t>::get(input)),* };
                    }
                    tag += 1;
                )*
                panic!("{} has no variant {wanted} (of {tag})", stringify!($name));
            }
        }
    };
}

wire_struct! {
    /// Bytes described by how to make them.
    Fill {
        /// Which stream; 0 is all zeros.
        seed: u32,
        /// How many.
        len: u32,
    }
}

impl Fill {
    /// Returns the bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; self.len as usize];
        if self.seed != 0 {
            let mut state = u64::from(self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for chunk in out.chunks_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
            }
        }
        out
    }
}

wire_struct! {
    /// A point in time.
    Stamp { secs: i64, nanos: u32 }
}
impl Copy for Stamp {}
impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Stamp {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.secs, self.nanos).cmp(&(other.secs, other.nanos))
    }
}

wire_struct! {
    /// What `stat` says, with `mode` as in `st_mode`.
    Stat {
        ino: u64,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        size: u64,
        blocks: u64,
        atime: Stamp,
        mtime: Stamp,
        ctime: Stamp,
        btime: Stamp,
    }
}

wire_enum! {
    /// A time to set.
    SetTime { Now {}, At { stamp: Stamp } }
}

wire_struct! {
    /// Attributes to change; `None` keeps.
    Set {
        perm: Option<u16>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
    }
}

wire_struct! {
    /// The owner that new files get.
    Owner { uid: u32, gid: u32 }
}
impl Copy for Owner {}

wire_struct! {
    /// One entry of a directory listing.
    Item {
        name: Bytes,
        /// The `S_IFMT` bits.
        kind: u32,
        ino: u64,
        /// From `readdirplus`.
        stat: Option<Stat>,
    }
}

wire_enum! {
    /// How `rename` treats its target.
    Renaming { Replace {}, NoReplace {}, Exchange {} }
}
impl Copy for Renaming {}

wire_enum! {
    /// How `setxattr` treats an existing value.
    XattrMode { Any {}, Create {}, Replace {} }
}
impl Copy for XattrMode {}

wire_enum! {
    /// What a snapshot is compared with.
    Other {
        /// The head of its volume.
        Head {},
        /// A snapshot of the head `view`.
        Snapshot { view: View, name: String },
    }
}

wire_enum! {
    /// What happened to a path.
    DeltaKind { Added {}, Removed {}, Modified {}, Renamed {}, Metadata {} }
}
impl Copy for DeltaKind {}

wire_struct! {
    /// One line of a diff.
    Delta { kind: DeltaKind, path: Bytes, from: Option<Bytes> }
}

wire_enum! {
    /// One thing to do.
    Call {
        /// Looks a name up and binds it to a slot.
        Lookup { view: View, parent: Slot, name: Bytes, bind: Slot },
        /// Drops every reference of the slot.
        Forget { view: View, node: Slot },
        Getattr { view: View, node: Slot },
        Setattr { view: View, node: Slot, set: Set },
        Readlink { view: View, node: Slot },
        /// Regular files, FIFOs, sockets and devices.
        Make { view: View, parent: Slot, name: Bytes, mode: u32, umask: u32, rdev: u32, owner: Owner, bind: Slot },
        Mkdir { view: View, parent: Slot, name: Bytes, mode: u32, umask: u32, owner: Owner, bind: Slot },
        Symlink { view: View, parent: Slot, name: Bytes, target: Bytes, owner: Owner, bind: Slot },
        Link { view: View, node: Slot, parent: Slot, name: Bytes },
        Unlink { view: View, parent: Slot, name: Bytes },
        Rmdir { view: View, parent: Slot, name: Bytes },
        Rename { view: View, parent: Slot, name: Bytes, to_parent: Slot, to_name: Bytes, how: Renaming },
        Read { view: View, node: Slot, at: u64, len: u32 },
        Write { view: View, node: Slot, at: u64, fill: Fill, kill_suid: bool },
        Fallocate { view: View, node: Slot, mode: i32, at: u64, len: u64 },
        Seek { view: View, node: Slot, at: u64, hole: bool },
        CopyRange { view: View, from: Slot, from_at: u64, to: Slot, to_at: u64, len: u64 },
        Fsync { view: View, node: Slot },
        /// The whole directory, in calls that take at most `chunk` entries each.
        Readdir { view: View, node: Slot, chunk: u32, plus: bool },
        /// Starts a listing that other calls will interleave with.
        CursorOpen { cursor: u32, view: View, node: Slot },
        CursorStep { cursor: u32, count: u32 },
        /// Reads on to the end and returns all entries the cursor has seen.
        CursorFinish { cursor: u32 },
        Getxattr { view: View, node: Slot, name: Bytes },
        Setxattr { view: View, node: Slot, name: Bytes, value: Fill, how: XattrMode },
        Listxattr { view: View, node: Slot },
        Removexattr { view: View, node: Slot, name: Bytes },

        /// Makes a volume whose head is `view`.
        CreateVolume { view: View, name: String, lowers: Vec<Bytes> },
        /// Declares `view` as the head of a volume that exists.
        AttachHead { view: View, name: String },
        RemoveVolume { view: View },
        /// One cut over the volumes.
        Snapshot { views: Vec<View>, name: String },
        RemoveSnapshot { view: View, name: String },
        Fork { view: View, name: String, new_view: View, new_name: String },
        Rollback { view: View, name: String },
        /// Opens a snapshot of the head `of` as a view of its own.
        OpenSnapshot { view: View, of: View, name: String },
        CloseView { view: View },
        /// Names of the snapshots of a volume.
        Snapshots { view: View },
        /// Names of the volumes that start with `prefix`.
        Volumes { prefix: String },
        /// What differs between a snapshot and another tree.
        Diff { view: View, name: String, to: Other },
        /// Closes the store and opens it again.
        Remount {},
        /// Sweeps until nothing is left to sweep.
        Reclaim {},
        /// Bytes of file data the store still holds.
        Usage {},
        /// Runs fsck. A process that was `killed` may have left pages that nothing refers to.
        Check { killed: bool },
    }
}

wire_enum! {
    /// The answer to a [`Call`].
    Reply {
        Failed { errno: i32, why: String },
        Done {},
        Attr { stat: Stat },
        Data { bytes: Bytes },
        Listing { items: Vec<Item> },
        Names { names: Vec<Bytes> },
        Offset { at: u64 },
        Cut { changed: Vec<bool> },
        Changes { changes: Vec<Delta> },
        Text { lines: Vec<String> },
    }
}

/// Writes one length-prefixed frame.
pub(crate) fn write_frame(to: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(body.len() + 4);
    u32::try_from(body.len()).unwrap().put(&mut frame);
    frame.extend_from_slice(body);
    to.write_all(&frame)
}

/// Reads one frame; `None` when the other end is gone, also in the middle of a frame.
pub(crate) fn read_frame(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Ok(None),
        _ => Err(error),
    };
    if let Err(error) = from.read_exact(&mut len) {
        return gone(error);
    }
    let mut body = vec![0; u32::from_le_bytes(len) as usize];
    match from.read_exact(&mut body) {
        Ok(()) => Ok(Some(body)),
        Err(error) => gone(error),
    }
}

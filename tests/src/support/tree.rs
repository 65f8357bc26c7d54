//! Whole trees as values that can be compared, attribute by attribute.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::dirents::names_in;
use super::layout::shown;
use super::posix::data_ranges;
use super::xattr::{get_xattr, list_xattrs};

/// What can be seen of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `file`, `directory`, `symlink`, …
    pub kind: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size; not compared for directories.
    pub size: u64,
    /// Device number of a device node.
    pub rdev: u64,
    /// BLAKE3 of the data ranges with their offsets, so that a hole equals the zeros it stands for.
    pub content: Option<String>,
    /// Target of a symlink.
    pub target: Option<PathBuf>,
    /// Modification time.
    pub mtime: (i64, i64),
    /// Access time, where it was asked for; never of symlinks, since reading one changes it.
    pub atime: Option<(i64, i64)>,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, String>,
    /// The first path, in order, that is a hard link to the same inode.
    pub same_as: Option<PathBuf>,
}

/// A tree: relative path (empty for the root) to record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Record>);

impl Tree {
    /// Reads a tree.
    pub fn of(root: impl AsRef<Path>) -> Tree {
        Scan::new(root.as_ref(), false).run()
    }

    /// Reads a tree with its access times, and without changing them.
    pub fn with_access_times(root: impl AsRef<Path>) -> Tree {
        Scan::new(root.as_ref(), true).run()
    }
}

struct Scan<'a> {
    root: &'a Path,
    access_times: bool,
    first_names: HashMap<(u64, u64), PathBuf>,
    tree: Tree,
}

impl<'a> Scan<'a> {
    fn new(root: &'a Path, access_times: bool) -> Scan<'a> {
        Scan { root, access_times, first_names: HashMap::new(), tree: Tree::default() }
    }

    fn run(mut self) -> Tree {
        let mut pending = vec![PathBuf::new()];
        while let Some(relative) = pending.pop() {
            let path = self.root.join(&relative);
            let record = self.record(&path);
            let record = record.unwrap_or_else(|err| panic!("read {}: {err}", path.display()));
            if record.kind == "directory" {
                let names = names_in(&path).unwrap_or_else(|err| panic!("list {}: {err}", path.display()));
                pending.extend(names.iter().map(|name| relative.join(name)));
            }
            match self.tree.0.entry(relative) {
                Entry::Vacant(slot) => slot.insert(record),
                Entry::Occupied(slot) => panic!("{} is listed twice", shown(slot.key())),
            };
        }
        self.group_hard_links();
        self.tree
    }

    fn record(&self, path: &Path) -> io::Result<Record> {
        let meta = fs::symlink_metadata(path)?;
        let kind = kind_of(&meta);
        let atime = (self.access_times && kind != "symlink").then(|| (meta.atime(), meta.atime_nsec()));
        Ok(Record {
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            size: if kind == "directory" { 0 } else { meta.size() },
            rdev: if kind.ends_with("device") { meta.rdev() } else { 0 },
            content: if kind == "file" { Some(hash_of(path)?) } else { None },
            target: if kind == "symlink" { Some(fs::read_link(path)?) } else { None },
            mtime: (meta.mtime(), meta.mtime_nsec()),
            atime,
            xattrs: xattrs_of(path)?,
            same_as: None,
        })
    }

    /// In a second pass, since the scan does not meet paths in order.
    fn group_hard_links(&mut self) {
        for (relative, record) in &mut self.tree.0 {
            let meta = fs::symlink_metadata(self.root.join(relative)).unwrap();
            if record.kind != "directory" && meta.nlink() > 1 {
                let identity = (meta.dev(), meta.ino());
                let first = self.first_names.entry(identity).or_insert_with(|| relative.clone());
                record.same_as = Some(first.clone());
            }
        }
    }
}

fn kind_of(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () if kind.is_char_device() => "character device",
        () => "block device",
    }
}

fn hash_of(path: &Path) -> io::Result<String> {
    let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match open(libc::O_NOATIME) {
        Err(err) if err.raw_os_error() == Some(libc::EPERM) => open(0),
        other => other,
    }?;
    let mut content =
        ContentHash { file: &file, at: 0, buffer: vec![0; 1 << 20], hasher: blake3::Hasher::new() };
    for (start, end) in data_ranges(&file)? {
        content.add(start.unsigned_abs(), end.unsigned_abs())?;
    }
    Ok(content.hasher.finalize().to_hex().to_string())
}

/// Hashes data on a fixed grid and leaves out what is all zero: how a filesystem rounds its holes
/// must not matter.
struct ContentHash<'a> {
    file: &'a File,
    /// Everything before this is hashed.
    at: u64,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
}

impl ContentHash<'_> {
    const GRID: u64 = 512;

    fn add(&mut self, start: u64, end: u64) -> io::Result<()> {
        self.at = self.at.max(start / Self::GRID * Self::GRID);
        while self.at < end {
            let got = self.file.read_at(&mut self.buffer, self.at)?;
            if got == 0 {
                break;
            }
            for block in self.buffer[..got].chunks(512) {
                let padding = block.iter().rev().take_while(|&&byte| byte == 0).count();
                if padding < block.len() {
                    self.hasher.update(&self.at.to_le_bytes());
                    // Zeros at the end of a block are as good as the end of the file, which `size` tells.
                    self.hasher.update(&block[..block.len() - padding]);
                }
                self.at += Self::GRID;
            }
        }
        Ok(())
    }
}

fn xattrs_of(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for name in list_xattrs(path)? {
        let value = get_xattr(path, &name)?;
        all.insert(name.escape_ascii().to_string(), value.escape_ascii().to_string());
    }
    Ok(all)
}

/// Returns one line for each path that is not the same in both trees.
pub fn differences(one: &Tree, other: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, record) in &one.0 {
        match other.0.get(path) {
            None => lines.push(format!("{}: missing in the second", shown(path))),
            Some(twin) if twin != record => {
                lines.push(format!("{}: {}", shown(path), what_differs(record, twin)))
            }
            Some(_) => {}
        }
    }
    let added = other.0.keys().filter(|path| !one.0.contains_key(*path));
    lines.extend(added.map(|path| format!("{}: missing in the first", shown(path))));
    lines
}

fn what_differs(one: &Record, other: &Record) -> String {
    let fields = |record: &Record| {
        [
            format!("kind {}", record.kind),
            format!("mode {:o}", record.mode),
            format!("owner {}:{}", record.uid, record.gid),
            format!("size {}", record.size),
            format!("device {:#x}", record.rdev),
            format!("content {:?}", record.content),
            format!("target {:?}", record.target),
            format!("mtime {:?}", record.mtime),
            format!("atime {:?}", record.atime),
            format!("xattrs {:?}", record.xattrs),
            format!("hard link to {:?}", record.same_as),
        ]
    };
    let pairs = fields(one).into_iter().zip(fields(other));
    let changed = pairs.filter(|(one, other)| one != other).map(|(one, other)| format!("{one} / {other}"));
    changed.collect::<Vec<_>>().join(", ")
}

/// Asserts that two trees are the same in everything but access times and inode numbers.
pub fn assert_same_tree(one: impl AsRef<Path>, other: impl AsRef<Path>) {
    let (one, other) = (one.as_ref(), other.as_ref());
    let changes = differences(&Tree::of(one), &Tree::of(other));
    let shown = changes.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        changes.is_empty(),
        "{} and {} differ at {} paths:\n{shown}",
        one.display(),
        other.display(),
        changes.len()
    );
}

/// Returns the bytes that a directory takes on its disk, as `du` counts them.
pub fn allocated_bytes(root: impl AsRef<Path>) -> u64 {
    fn walk(path: &Path) -> u64 {
        // The daemon may remove a file while we look.
        let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
        let below = if meta.is_dir() {
            fs::read_dir(path).into_iter().flatten().flatten().map(|entry| walk(&entry.path())).sum()
        } else {
            0
        };
        meta.blocks() * 512 + below
    }
    walk(root.as_ref())
}

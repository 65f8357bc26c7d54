//! Lower directories: made from a seed, loaded into the model as the merged view, and shown to be unchanged
//! at the end.
//!
//! Every access goes around the access time, so that a product which reads a lower without `O_NOATIME` is
//! found by the fingerprint.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::{Clock, Time};
use crate::content::Content;
use crate::host;
use crate::op::pool_name;
use crate::prng::Prng;
use crate::reference::{Body, Fs, Id, Name, Node};
use crate::wire::{Fill, ROOT, Stamp};

/// Which lowers a volume has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layers {
    Empty,
    One,
    Two,
}

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const PRIVATE: &[u8] = b"trusted.overlay.";

/// Makes the lowers of a seed below `at` and returns them, the topmost first.
pub(crate) fn make(layers: Layers, seed: u64, at: &Path) -> Vec<PathBuf> {
    let count = match layers {
        Layers::Empty => 0,
        Layers::One => 1,
        Layers::Two => 2,
    };
    (0..count)
        .map(|index| {
            let root = at.join(format!("lower{index}"));
            make_one(seed.wrapping_add(index << 32), &root, index + 1 < count);
            root
        })
        .collect()
}

/// Makes one tree. With `covers`, it also hides parts of the one below it.
pub(crate) fn make_one(seed: u64, root: &Path, covers: bool) {
    fs::create_dir(root).unwrap();
    let mut random = Prng::new(seed ^ 0x6c6f_7765);
    let mut dirs = vec![root.to_path_buf()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut made = vec![root.to_path_buf()];
    for _ in 0..10 + random.below(20) {
        let dir = random.pick(&dirs);
        let path = dir.join(OsStr::from_bytes(&pool_name(random.below(18) as u8)));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match random.below(100) {
            0..=29 => {
                fs::create_dir(&path).unwrap();
                if covers && random.chance(30) {
                    host::lsetxattr(&path, OPAQUE, b"y").unwrap();
                }
                dirs.push(path.clone());
            }
            30..=69 => {
                make_file(&mut random, &path);
                files.push(path.clone());
            }
            70..=77 => {
                let target = format!("{}/x", "t".repeat(random.below(300) as usize));
                std::os::unix::fs::symlink(target, &path).unwrap();
            }
            78..=83 => host::mknod(&path, libc::S_IFIFO | 0o640, 0),
            84..=91 if covers => {
                // A whiteout is not a file of the merged view: it gets no attributes below.
                host::mknod(&path, libc::S_IFCHR, 0);
                continue;
            }
            84..=85 => host::mknod(&path, libc::S_IFCHR | 0o600, libc::makedev(1, 3)),
            _ if files.is_empty() => continue,
            _ => {
                fs::hard_link(random.pick(&files), &path).unwrap();
                continue;
            }
        }
        made.push(path);
    }
    for path in made.iter().rev() {
        decorate(&mut random, path);
    }
}

fn make_file(random: &mut Prng, path: &Path) {
    let file = File::create(path).unwrap();
    let len = random.pick(&[0u32, 1, 100, 4095, 4096, 4097, 10_000, 65_535, 65_537, 150_000]);
    file.write_all_at(&Fill { seed: 1 + random.below(1 << 20) as u32, len }.bytes(), 0).unwrap();
    if random.chance(20) {
        file.write_all_at(&Fill { seed: 77, len: 5000 }.bytes(), 300_000).unwrap();
        file.set_len(random.pick(&[1 << 20, 10 << 20, 305_001])).unwrap();
    }
}

/// Gives a file owner, mode, attributes and times.
fn decorate(random: &mut Prng, path: &Path) {
    let kind = path.symlink_metadata().unwrap().file_type();
    if random.chance(30) {
        std::os::unix::fs::lchown(path, Some(random.pick(&[0, 1000])), Some(random.pick(&[0, 1000, 70_000])))
            .unwrap();
    }
    if !kind.is_symlink() {
        let mode = random.pick(&[0o755, 0o700, 0o644, 0o4711, 0o2755, 0o1777, 0o444]);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for _ in 0..random.below(4).saturating_sub(1) {
        let prefix =
            if kind.is_file() || kind.is_dir() { random.pick(&["user", "trusted"]) } else { "trusted" };
        let name = format!("{prefix}.k{}", random.below(6));
        let value = Fill { seed: 5, len: random.below(200) as u32 }.bytes();
        host::lsetxattr(path, name.as_bytes(), &value).unwrap();
    }
    let mut stamp =
        || Stamp { secs: 1 + random.below(1 << 30) as i64, nanos: random.below(1_000_000_000) as u32 };
    host::lutimens(path, stamp(), stamp());
}

/// Loads the merged view. `ctime` says whether the change times of the lowers are those of the view.
pub(crate) fn load(lowers: &[PathBuf], ctimes_hold: bool, clock: &mut Clock, next_id: &mut Id) -> Fs {
    let mut loader = Loader { nodes: BTreeMap::new(), by_inode: HashMap::new(), next_id, clock, ctimes_hold };
    let layers: Vec<(usize, PathBuf)> = lowers.iter().cloned().enumerate().collect();
    if layers.is_empty() {
        let root = Node {
            body: Body::Dir(BTreeMap::new()),
            perm: 0o755,
            uid: 0,
            gid: 0,
            links: 0,
            hidden_links: 0,
            merged: false,
            atime: loader.clock.before(),
            mtime: loader.clock.before(),
            ctime: loader.clock.before(),
            xattrs: BTreeMap::new(),
        };
        loader.nodes.insert(ROOT, root);
    } else {
        loader.directory(ROOT, &layers);
    }
    loader.finish()
}

struct Loader<'a> {
    nodes: BTreeMap<Id, Node>,
    /// Hard links: (layer, inode of the host) to node and the host's link count.
    by_inode: HashMap<(usize, u64), (Id, u32)>,
    next_id: &'a mut Id,
    clock: &'a mut Clock,
    ctimes_hold: bool,
}

impl Loader<'_> {
    /// Loads the directory that the same path is in each of the layers, the topmost first.
    fn directory(&mut self, id: Id, layers: &[(usize, PathBuf)]) {
        let mut names: Vec<Name> = layers.iter().flat_map(|(_, path)| host::names_in(path)).collect();
        names.sort();
        names.dedup();
        let mut entries = BTreeMap::new();
        for name in names {
            if let Some(child) = self.entry(layers, &name) {
                entries.insert(name, child);
            }
        }
        let mut node = self.attributes(&layers[0].1, Body::Dir(entries));
        node.merged = layers.len() > 1;
        self.nodes.insert(id, node);
    }

    fn entry(&mut self, layers: &[(usize, PathBuf)], name: &[u8]) -> Option<Id> {
        let mut merged: Vec<(usize, PathBuf)> = Vec::new();
        for (layer, directory) in layers {
            let path = directory.join(OsStr::from_bytes(name));
            let Ok(stat) = host::lstat(&path) else { continue };
            let kind = stat.mode & libc::S_IFMT;
            let whiteout = kind == libc::S_IFCHR && stat.rdev == 0;
            if kind == libc::S_IFDIR {
                let opaque = host::lxattrs(&path).iter().any(|(name, value)| name == OPAQUE && value == b"y");
                merged.push((*layer, path));
                if opaque {
                    break;
                }
            } else if !merged.is_empty() || whiteout {
                break;
            } else {
                return Some(self.file(*layer, &path, &stat));
            }
        }
        if merged.is_empty() {
            return None;
        }
        let id = self.new_id();
        self.directory(id, &merged);
        self.nodes.get_mut(&id).unwrap().links = 1;
        Some(id)
    }

    fn file(&mut self, layer: usize, path: &Path, stat: &crate::wire::Stat) -> Id {
        if let Some(&(id, _)) = self.by_inode.get(&(layer, stat.ino)) {
            self.nodes.get_mut(&id).unwrap().links += 1;
            return id;
        }
        let body = match stat.mode & libc::S_IFMT {
            libc::S_IFREG => {
                let mut content = Content::default();
                let mut bytes = Vec::new();
                host::open_quietly(path).read_to_end(&mut bytes).unwrap();
                for (index, page) in bytes.chunks(4096).enumerate() {
                    if page.iter().any(|&byte| byte != 0) {
                        content.write(index as u64 * 4096, page);
                    }
                }
                content.truncate(bytes.len() as u64);
                Body::File(content)
            }
            libc::S_IFLNK => Body::Symlink(fs::read_link(path).unwrap().into_os_string().into_vec()),
            kind => Body::Special { kind, rdev: stat.rdev },
        };
        let id = self.new_id();
        let mut node = self.attributes(path, body);
        node.links = 1;
        self.nodes.insert(id, node);
        self.by_inode.insert((layer, stat.ino), (id, stat.nlink));
        id
    }

    fn attributes(&mut self, path: &Path, body: Body) -> Node {
        let stat = host::lstat(path).unwrap();
        let xattrs = host::lxattrs(path).into_iter().filter(|(name, _)| !name.starts_with(PRIVATE)).collect();
        Node {
            body,
            perm: (stat.mode & 0o7777) as u16,
            uid: stat.uid,
            gid: stat.gid,
            links: 0,
            hidden_links: 0,
            merged: false,
            atime: Time::Exact(stat.atime),
            mtime: Time::Exact(stat.mtime),
            // Stands for any first showing that is not older than the test.
            ctime: if self.ctimes_hold { Time::Exact(stat.ctime) } else { self.clock.before() },
            xattrs,
        }
    }

    fn new_id(&mut self) -> Id {
        let id = *self.next_id;
        *self.next_id += 1;
        id
    }

    fn finish(mut self) -> Fs {
        for &(id, nlink) in self.by_inode.values() {
            let node = self.nodes.get_mut(&id).unwrap();
            node.hidden_links = nlink - node.links;
        }
        Fs { nodes: self.nodes.into_iter().map(|(id, node)| (id, Arc::new(node))).collect() }
    }
}

/// Describes everything in a directory, including what reading it without care would change.
pub(crate) fn fingerprint(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let mut stat = host::lstat(&path).unwrap();
        let mut extra = String::new();
        match stat.mode & libc::S_IFMT {
            libc::S_IFDIR => {
                left.extend(host::names_in(&path).iter().map(|name| path.join(OsStr::from_bytes(name))));
            }
            libc::S_IFREG => {
                let mut bytes = Vec::new();
                host::open_quietly(&path).read_to_end(&mut bytes).unwrap();
                extra = format!("{:x}", hash(&bytes));
            }
            libc::S_IFLNK => {
                // Nobody can read a symlink without touching its access time.
                stat.atime = stat.mtime;
                extra = format!("{:?}", fs::read_link(&path).unwrap());
            }
            _ => {}
        }
        let xattrs: Vec<_> =
            host::lxattrs(&path).iter().map(|(name, value)| (name.len(), hash(value))).collect();
        lines.push(format!("{path:?} {stat:?} {extra} {xattrs:?}"));
    }
    lines.sort();
    lines
}

/// FNV-1a, to tell contents apart.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

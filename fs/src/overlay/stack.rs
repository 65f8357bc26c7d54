//! The lowers of one volume, merged.
//!
//! # Overview
//! A [`LowerStack`] answers for its lowers as if they were one read-only tree. A directory is merged from
//! a [`LayerSet`]; only those lowers are asked about its children, so that an opaque mark or a whiteout
//! further up the path keeps its effect all the way down.
//!
//! # Invariants
//! - Lower 0 is the topmost. The order of the lowers is part of what a volume is and never changes.
//! - A whiteout is never shown, and hides its name in every lower beneath.

use std::collections::HashSet;
use std::sync::Arc;

use thiserror::Error;

use super::lower::{LayerEntry, Lower, LowerEntryKind, LowerError, LowerInode, LowerPath};
use super::resolve::{LayerSays, Resolved, resolve};
use crate::attr::FileKind;

pub use super::resolve::LayerSet;

/// How many lowers a stack may have: with the upper on top, all layers fit one [`LayerSet`].
pub const MAX_LOWERS: usize = LayerSet::CAPACITY - 1;

/// More lowers than a stack can hold.
#[derive(Debug, Error)]
#[error("{count} lowers: at most {MAX_LOWERS} can be stacked")]
pub struct TooManyLowers {
    /// How many were given.
    pub count: usize,
}

/// An ordered stack of lowers; index 0 is the topmost.
#[derive(Clone, Default)]
pub struct LowerStack {
    lowers: Vec<Arc<dyn Lower>>,
}

/// One entry of a merged lower directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackDirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The file type of the topmost entry of this name.
    pub kind: FileKind,
    /// Its inode number in its lower.
    pub host_ino: u64,
    /// The lower it is in.
    pub layer: usize,
}

impl LowerStack {
    /// Stacks lowers, the topmost first.
    pub fn new(lowers: Vec<Arc<dyn Lower>>) -> Result<Self, TooManyLowers> {
        if lowers.len() > MAX_LOWERS {
            return Err(TooManyLowers { count: lowers.len() });
        }
        Ok(Self { lowers })
    }

    /// Returns how many lowers there are.
    pub fn len(&self) -> usize {
        self.lowers.len()
    }

    /// Returns whether there is no lower at all.
    pub fn is_empty(&self) -> bool {
        self.lowers.is_empty()
    }

    /// Returns all lowers: what the root directory is merged from.
    pub fn all(&self) -> LayerSet {
        LayerSet::top(self.lowers.len())
    }

    /// Returns one lower; `None` if there are not so many.
    pub fn lower(&self, layer: usize) -> Option<&Arc<dyn Lower>> {
        self.lowers.get(layer)
    }

    /// Asks each lower in turn about `path`, as the returned iterator is advanced.
    ///
    /// One item per lower of the stack, so that positions are lower numbers. A lower that is not in
    /// `among`, the set the parent directory is merged from, is not asked and says "absent".
    pub fn ask<'a>(
        &'a self,
        path: &'a LowerPath,
        among: LayerSet,
    ) -> impl Iterator<Item = Result<LayerEntry, LowerError>> + 'a {
        self.lowers.iter().enumerate().map(move |(layer, lower)| {
            if among.contains(layer) { lower.lookup(path) } else { Ok(LayerSays::Absent) }
        })
    }

    /// Resolves `path`, whose parent directory is merged from the lowers `among`.
    pub fn lookup(&self, path: &LowerPath, among: LayerSet) -> Result<Resolved<LowerInode>, LowerError> {
        resolve(self.ask(path, among))
    }

    /// Shows every entry of the directory `path`, merged from the lowers `layers`, to `sink`.
    ///
    /// Each name once, without `.` and `..`, in no particular order.
    pub fn entries(
        &self,
        path: &LowerPath,
        layers: LayerSet,
        sink: &mut dyn FnMut(StackDirEntry<'_>),
    ) -> Result<(), LowerError> {
        let lowest = layers.iter().last();
        let mut decided: HashSet<Box<[u8]>> = HashSet::new();
        for (layer, lower) in self.lowers.iter().enumerate() {
            if !layers.contains(layer) {
                continue;
            }
            lower.entries(path, &mut |entry| {
                // Nobody asks again for the names of the lowest layer: they need no remembering.
                let first = if Some(layer) == lowest {
                    !decided.contains(entry.name)
                } else {
                    decided.insert(entry.name.into())
                };
                match entry.kind {
                    LowerEntryKind::Of(kind) if first => {
                        sink(StackDirEntry { name: entry.name, kind, host_ino: entry.host_ino, layer })
                    }
                    LowerEntryKind::Of(_) | LowerEntryKind::Whiteout => {}
                }
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;

    use super::*;
    use crate::attr::Timestamp;
    use crate::overlay::lower::{LowerDirEntry, LowerStamp, SeekTo, Xattrs};

    /// A lower in memory: what it says by path. Nothing but lookup and entries is asked of it.
    #[derive(Clone)]
    struct Tree(BTreeMap<Vec<u8>, LayerEntry>);

    /// Builds a lower: `a/` is a directory, `a/!` an opaque one, `-a` a whiteout, `a` a file.
    fn tree(number: u64, paths: &[&str]) -> Arc<dyn Lower> {
        let inode = |kind| LowerInode {
            stamp: LowerStamp {
                host_ino: number,
                size: 0,
                mtime: Timestamp::default(),
                ctime: Timestamp::default(),
            },
            host_dev: 0,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: Timestamp::default(),
        };
        let dir = |opaque| LayerSays::Directory { inode: inode(FileKind::Directory), opaque };
        let mut entries = BTreeMap::from([(Vec::new(), dir(false))]);
        for path in paths {
            let (path, says) = if let Some(path) = path.strip_suffix("/!") {
                (path.to_owned(), dir(true))
            } else if let Some(path) = path.strip_suffix('/') {
                (path.to_owned(), dir(false))
            } else if path.contains('-') {
                (path.replace('-', ""), LayerSays::Whiteout)
            } else {
                (path.to_string(), LayerSays::File(inode(FileKind::Regular)))
            };
            entries.insert(path.into_bytes(), says);
        }
        Arc::new(Tree(entries))
    }

    impl Tree {
        fn unasked<T>(&self) -> Result<T, LowerError> {
            Err(LowerError::Io {
                lower: self.identity(),
                path: LowerPath::root(),
                source: io::ErrorKind::Unsupported.into(),
            })
        }
    }

    impl Lower for Tree {
        fn lookup(&self, path: &LowerPath) -> Result<LayerEntry, LowerError> {
            Ok(*self.0.get(path.as_bytes()).unwrap_or(&LayerSays::Absent))
        }

        fn entries(
            &self,
            path: &LowerPath,
            sink: &mut dyn FnMut(LowerDirEntry<'_>),
        ) -> Result<(), LowerError> {
            for (child, says) in &self.0 {
                let child = LowerPath::parse(child).unwrap();
                let (kind, host_ino) = match says {
                    LayerSays::Absent => continue,
                    LayerSays::Whiteout => (LowerEntryKind::Whiteout, 0),
                    LayerSays::File(inode) | LayerSays::Directory { inode, .. } => {
                        (LowerEntryKind::Of(inode.kind), inode.stamp.host_ino)
                    }
                };
                if child.parent().as_ref() == Some(path) {
                    let name = child.name().unwrap();
                    sink(LowerDirEntry { name, kind, host_ino });
                }
            }
            Ok(())
        }

        fn readlink(&self, _: &LowerPath) -> Result<Vec<u8>, LowerError> {
            self.unasked()
        }

        fn read_at(&self, _: &LowerPath, _: &LowerStamp, _: u64, _: &mut [u8]) -> Result<usize, LowerError> {
            self.unasked()
        }

        fn seek(&self, _: &LowerPath, _: &LowerStamp, _: u64, _: SeekTo) -> Result<Option<u64>, LowerError> {
            self.unasked()
        }

        fn xattrs(&self, _: &LowerPath) -> Result<Xattrs, LowerError> {
            self.unasked()
        }

        fn xattr(&self, _: &LowerPath, _: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
            self.unasked()
        }

        fn identity(&self) -> String {
            "tree".to_owned()
        }
    }

    fn stack(lowers: &[&[&str]]) -> LowerStack {
        let number = |(number, paths): (usize, &&[&str])| tree(number as u64, paths);
        LowerStack::new(lowers.iter().enumerate().map(number).collect()).unwrap()
    }

    fn path(path: &str) -> LowerPath {
        LowerPath::parse(path.as_bytes()).unwrap()
    }

    /// Walks the merged tree from the root, as an overlay does.
    fn walk(stack: &LowerStack, to: &str) -> Resolved<LowerInode> {
        let mut found = stack.lookup(&LowerPath::root(), stack.all()).unwrap();
        let mut at = LowerPath::root();
        for name in to.split('/') {
            let Resolved::Directory { layers, .. } = found else {
                return Resolved::Absent;
            };
            at = at.join(name.as_bytes());
            found = stack.lookup(&at, layers).unwrap();
        }
        found
    }

    fn names(stack: &LowerStack, dir: &str, layers: LayerSet) -> Vec<(String, usize)> {
        let mut names = Vec::new();
        stack
            .entries(&path(dir), layers, &mut |entry| {
                assert_eq!(entry.host_ino, entry.layer as u64);
                let name = String::from_utf8(entry.name.to_vec()).unwrap();
                names.push((name, entry.layer));
            })
            .unwrap();
        names.sort();
        names
    }

    #[test]
    fn an_opaque_parent_hides_the_children_of_lower_directories() {
        let stack = stack(&[&["d/!", "d/top"], &["d/", "d/hidden"]]);
        let Resolved::Directory { layers, .. } = walk(&stack, "d") else {
            panic!("d is a directory");
        };
        assert_eq!(layers, LayerSet::only(0));
        assert_eq!(walk(&stack, "d/hidden"), Resolved::Absent);
        assert_eq!(names(&stack, "d", layers), [("top".to_owned(), 0)]);
    }

    #[test]
    fn a_directory_over_a_file_does_not_merge_what_the_file_hides() {
        let stack = stack(&[&["d/", "d/top"], &["d"], &["d/", "d/hidden"]]);
        assert_eq!(walk(&stack, "d/hidden"), Resolved::Absent);
    }

    #[test]
    fn listing_shows_each_name_once_from_its_topmost_layer() {
        let stack = stack(&[&["a", "-b", "c/"], &["a", "b", "c", "-d", "e"], &["b", "d", "e", "f"]]);
        let expected = [("a", 0), ("c", 0), ("e", 1), ("f", 2)];
        let expected = expected.map(|(name, layer)| (name.to_owned(), layer));
        assert_eq!(names(&stack, "", stack.all()), expected);
    }

    #[test]
    fn listing_agrees_with_lookup() {
        let stack = stack(&[
            &["a/!", "a/x", "b/", "b/-y", "-c"],
            &["a/", "a/y", "b/", "b/x", "b/y", "c", "d/", "d/-x"],
            &["b", "c", "d/", "d/x", "d/y"],
        ]);
        for dir in ["a", "b", "d"] {
            let Resolved::Directory { layers, .. } = walk(&stack, dir) else {
                panic!("{dir} is a directory");
            };
            let listed = names(&stack, dir, layers);
            for name in ["x", "y"] {
                let found = match walk(&stack, &format!("{dir}/{name}")) {
                    Resolved::File { layer, .. } => Some((name.to_owned(), layer)),
                    Resolved::Absent => None,
                    Resolved::Directory { .. } => panic!("{dir}/{name} is no directory"),
                };
                let shown = listed.iter().find(|(shown, _)| shown == name).cloned();
                assert_eq!(found, shown, "{dir}/{name}");
            }
        }
    }

    #[test]
    fn an_empty_stack_has_nothing() {
        let stack = LowerStack::default();
        let root = stack.lookup(&LowerPath::root(), stack.all()).unwrap();
        assert_eq!(root, Resolved::Absent);
        assert!(stack.lower(0).is_none());
    }

    #[test]
    fn a_stack_too_high_to_number_is_refused() {
        let lowers = |count| vec![tree(0, &[]); count];
        assert!(LowerStack::new(lowers(MAX_LOWERS)).is_ok());
        let refused = LowerStack::new(lowers(MAX_LOWERS + 1)).map(|_| ()).unwrap_err();
        assert_eq!(refused.count, 64);
    }
}

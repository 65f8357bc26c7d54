//! Trees described in a test: what a lower holds, or what a volume begins with.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::posix::{chmod, chown, mkfifo, mknod, set_times};
use super::tree::{Tree, differences};
use super::xattr::set_xattr;

/// One object of a tree, with the attributes that a test cares about.
#[derive(Clone, Debug)]
pub struct Item {
    node: Node,
    mode: Option<u32>,
    owner: Option<(u32, u32)>,
    mtime: Option<(i64, i64)>,
    xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum Node {
    File(Vec<u8>),
    Sparse { size: u64, islands: Vec<(u64, Vec<u8>)> },
    Directory,
    Symlink(PathBuf),
    HardLink(PathBuf),
    Fifo,
    Socket,
    Device { kind: u32, major: u64, minor: u64 },
}

/// A regular file.
pub fn file(content: impl AsRef<[u8]>) -> Item {
    Item::new(Node::File(content.as_ref().to_vec()))
}

/// A regular file of holes with some data in it.
pub fn sparse(size: u64, islands: &[(u64, &[u8])]) -> Item {
    let islands = islands.iter().map(|&(offset, data)| (offset, data.to_vec())).collect();
    Item::new(Node::Sparse { size, islands })
}

/// A directory; only needed where it is empty or has attributes of its own.
pub fn dir() -> Item {
    Item::new(Node::Directory)
}

/// A symbolic link.
pub fn symlink_to(target: impl AsRef<Path>) -> Item {
    Item::new(Node::Symlink(target.as_ref().to_owned()))
}

/// Another name for an object earlier in the same tree.
pub fn hard_link(of: impl AsRef<Path>) -> Item {
    Item::new(Node::HardLink(of.as_ref().to_owned()))
}

/// A FIFO.
pub fn fifo() -> Item {
    Item::new(Node::Fifo)
}

/// A Unix socket that nobody listens on any more.
pub fn socket() -> Item {
    Item::new(Node::Socket)
}

/// A character device (`S_IFCHR`) or block device (`S_IFBLK`).
pub fn device(kind: u32, major: u64, minor: u64) -> Item {
    Item::new(Node::Device { kind, major, minor })
}

impl Item {
    fn new(node: Node) -> Item {
        Item { node, mode: None, owner: None, mtime: None, xattrs: Vec::new() }
    }

    /// Sets the permission bits.
    #[must_use]
    pub fn mode(self, mode: u32) -> Item {
        Item { mode: Some(mode), ..self }
    }

    /// Sets owner and group.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Item {
        Item { owner: Some((uid, gid)), ..self }
    }

    /// Sets the modification time.
    #[must_use]
    pub fn mtime(self, secs: i64, nanos: i64) -> Item {
        Item { mtime: Some((secs, nanos)), ..self }
    }

    /// Adds an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Item {
        self.xattrs.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    fn create(&self, root: &Path, path: &Path) {
        match &self.node {
            Node::File(content) => fs::write(path, content).unwrap(),
            Node::Sparse { size, islands } => {
                let file = File::create(path).unwrap();
                file.set_len(*size).unwrap();
                for (offset, data) in islands {
                    file.write_all_at(data, *offset).unwrap();
                }
            }
            Node::Directory => fs::create_dir_all(path).unwrap(),
            Node::Symlink(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            Node::HardLink(of) => fs::hard_link(root.join(of), path).unwrap(),
            Node::Fifo => mkfifo(path, 0o644).unwrap(),
            Node::Socket => drop(UnixListener::bind(path).unwrap()),
            Node::Device { kind, major, minor } => mknod(path, *kind, 0o644, *major, *minor).unwrap(),
        }
    }

    fn decorate(&self, path: &Path) {
        for (name, value) in &self.xattrs {
            set_xattr(path, name, value).unwrap();
        }
        if let Some((uid, gid)) = self.owner {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
        if let Some(mode) = self.mode {
            chmod(path, mode).unwrap();
        }
        if let Some(mtime) = self.mtime {
            set_times(path, (0, libc::UTIME_OMIT), mtime).unwrap();
        }
    }
}

impl From<&str> for Item {
    fn from(content: &str) -> Item {
        file(content)
    }
}

impl From<Vec<u8>> for Item {
    fn from(content: Vec<u8>) -> Item {
        file(content)
    }
}

/// A tree, described but not yet built. Write it with [`lower!`](crate::lower).
#[derive(Clone, Debug, Default)]
pub struct Layout {
    items: Vec<(PathBuf, Item)>,
}

impl Layout {
    /// Adds an object at a path relative to the root; missing directories above it come by themselves.
    #[must_use]
    pub fn with(mut self, path: impl AsRef<Path>, item: impl Into<Item>) -> Layout {
        self.items.push((path.as_ref().to_owned(), item.into()));
        self
    }

    /// Builds the tree inside an existing directory.
    pub fn build_in(&self, root: &Path) {
        for (path, item) in &self.items {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            item.create(root, &path);
        }
        // From the leaves upwards: creating a child changes the times of its directory.
        for (path, item) in self.items.iter().rev() {
            item.decorate(&root.join(path));
        }
    }

    /// Builds the tree in a directory of its own.
    pub fn build(&self) -> LowerDir {
        LowerDir::new(self)
    }
}

/// A directory for use as a lower. Checks, when it goes, that nobody changed it.
#[derive(Debug)]
pub struct LowerDir {
    dir: tempfile::TempDir,
    before: Tree,
}

impl LowerDir {
    fn new(layout: &Layout) -> LowerDir {
        let dir = super::store::temporary_directory("lower");
        layout.build_in(dir.path());
        let before = Tree::with_access_times(dir.path());
        LowerDir { dir, before }
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Asserts that not a byte, attribute or access time changed since it was built.
    pub fn assert_untouched(&self) {
        let changes = differences(&self.before, &Tree::with_access_times(self.dir.path()));
        assert!(
            changes.is_empty(),
            "the lower {} changed:\n{}",
            self.dir.path().display(),
            changes.join("\n")
        );
    }
}

impl Drop for LowerDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_untouched();
        }
    }
}

/// Returns the path as bytes lossily printed, for messages.
pub(super) fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        "/".to_owned()
    } else {
        path.as_os_str().as_bytes().escape_ascii().to_string()
    }
}

/// Describes a tree: `lower! { "a" => "text", "d/b" => dir().mode(0o700), "l" => symlink_to("a") }`.
#[macro_export]
macro_rules! lower {
    ($($path:expr => $item:expr),* $(,)?) => {
        $crate::support::Layout::default()$(.with($path, $item))*
    };
}

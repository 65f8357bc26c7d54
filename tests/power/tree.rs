//! What a writer knows of its directory: names, and the sizes of what they lead to.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The tree of one writer. Paths are relative to its directory.
#[derive(Default)]
pub(crate) struct Tree {
    /// Files by path; names of one file have the same number.
    names: BTreeMap<String, u64>,
    sizes: BTreeMap<u64, u64>,
    directories: Vec<String>,
    next: u64,
}

impl Tree {
    /// Looks at a directory and those in it.
    pub(crate) fn scan(root: &Path) -> io::Result<Tree> {
        let mut tree = Tree::default();
        let mut entries: Vec<_> = fs::read_dir(root)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !entry.file_type()?.is_dir() {
                tree.add_found(name, &entry.metadata()?);
                continue;
            }
            tree.directories.push(name.clone());
            let mut inside: Vec<_> = fs::read_dir(entry.path())?.collect::<io::Result<_>>()?;
            inside.sort_by_key(fs::DirEntry::file_name);
            for entry in inside {
                tree.add_found(format!("{name}/{}", entry.file_name().to_string_lossy()), &entry.metadata()?);
            }
        }
        tree.next = tree.sizes.keys().max().map_or(0, |last| last + 1);
        Ok(tree)
    }

    fn add_found(&mut self, path: String, metadata: &fs::Metadata) {
        self.names.insert(path, metadata.ino());
        self.sizes.insert(metadata.ino(), metadata.size());
    }

    pub(crate) fn files(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    pub(crate) fn directories(&self) -> &[String] {
        &self.directories
    }

    /// Directories without anything in them.
    pub(crate) fn empty_directories(&self) -> Vec<String> {
        let full = |directory: &String| {
            let inside = format!("{directory}/");
            self.names.keys().any(|path| path.starts_with(&inside))
        };
        self.directories.iter().filter(|directory| !full(directory)).cloned().collect()
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.names.contains_key(path) || self.directories.iter().any(|directory| directory == path)
    }

    pub(crate) fn size(&self, path: &str) -> u64 {
        self.names.get(path).and_then(|file| self.sizes.get(file)).copied().unwrap_or(0)
    }

    pub(crate) fn set_size(&mut self, path: &str, size: u64) {
        if let Some(file) = self.names.get(path) {
            self.sizes.insert(*file, size);
        }
    }

    pub(crate) fn same_file(&self, one: &str, other: &str) -> bool {
        self.names.get(one) == self.names.get(other)
    }

    pub(crate) fn create(&mut self, path: &str) {
        self.names.insert(path.to_owned(), self.next);
        self.sizes.insert(self.next, 0);
        self.next += 1;
    }

    pub(crate) fn link(&mut self, from: &str, to: &str) {
        if let Some(&file) = self.names.get(from) {
            self.names.insert(to.to_owned(), file);
        }
    }

    pub(crate) fn unlink(&mut self, path: &str) {
        self.names.remove(path);
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        if let Some(file) = self.names.remove(from) {
            self.names.insert(to.to_owned(), file);
            return;
        }
        let inside = format!("{from}/");
        let moved: Vec<String> =
            self.names.keys().filter(|path| path.starts_with(&inside)).cloned().collect();
        for path in moved {
            if let Some(file) = self.names.remove(&path) {
                self.names.insert(format!("{to}/{}", path.trim_start_matches(&inside)), file);
            }
        }
        self.remove_directory(from);
        self.make_directory(to);
    }

    pub(crate) fn exchange(&mut self, one: &str, other: &str) {
        if let (Some(&first), Some(&second)) = (self.names.get(one), self.names.get(other)) {
            self.names.insert(one.to_owned(), second);
            self.names.insert(other.to_owned(), first);
        }
    }

    pub(crate) fn make_directory(&mut self, path: &str) {
        self.directories.push(path.to_owned());
    }

    pub(crate) fn remove_directory(&mut self, path: &str) {
        self.directories.retain(|directory| directory != path);
    }
}

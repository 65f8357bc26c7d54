//! One writer: random steps in a directory that is its own.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use durdir_tests::support::copy_range;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};

use crate::content::content;
use crate::outside::Outside;
use crate::random::Random;
use crate::tree::Tree;

const PAGE: u64 = 4096;
/// No file grows beyond.
const LARGEST: u64 = 48 * PAGE;
const MOST_FILES: usize = 20;
const MOST_DIRECTORIES: usize = 4;

/// What a writer does next. Paths are relative to its directory.
enum Step {
    Create(String),
    Write {
        path: String,
        offset: u64,
        length: u64,
    },
    Truncate {
        path: String,
        size: u64,
    },
    Punch {
        path: String,
        offset: u64,
        length: u64,
    },
    Copy {
        from: String,
        from_offset: u64,
        to: String,
        to_offset: u64,
        length: u64,
    },
    /// Also over an existing file.
    Rename {
        from: String,
        to: String,
    },
    Exchange {
        one: String,
        other: String,
    },
    Link {
        from: String,
        to: String,
    },
    Unlink(String),
    MakeDirectory(String),
    RemoveDirectory(String),
    Sync(String),
    SyncDirectory,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Create(path) => write!(f, "create {path}"),
            Step::Write { path, offset, length } => write!(f, "write {path} {offset} {length}"),
            Step::Truncate { path, size } => write!(f, "truncate {path} {size}"),
            Step::Punch { path, offset, length } => write!(f, "punch {path} {offset} {length}"),
            Step::Copy { from, from_offset, to, to_offset, length } => {
                write!(f, "copy {from} {from_offset} {to} {to_offset} {length}")
            }
            Step::Rename { from, to } => write!(f, "rename {from} {to}"),
            Step::Exchange { one, other } => write!(f, "exchange {one} {other}"),
            Step::Link { from, to } => write!(f, "link {from} {to}"),
            Step::Unlink(path) => write!(f, "unlink {path}"),
            Step::MakeDirectory(path) => write!(f, "mkdir {path}"),
            Step::RemoveDirectory(path) => write!(f, "rmdir {path}"),
            Step::Sync(path) => write!(f, "fsync {path}"),
            Step::SyncDirectory => write!(f, "fsyncdir"),
        }
    }
}

/// A writer.
pub(crate) struct Writer<'o> {
    outside: &'o Outside,
    name: String,
    directory: PathBuf,
    tag: u32,
    random: Random,
    syncs: u64,
    step: u64,
    tree: Tree,
    /// Steps that belong to what was begun.
    planned: Vec<Step>,
}

impl<'o> Writer<'o> {
    pub(crate) fn new(
        outside: &'o Outside,
        name: String,
        directory: PathBuf,
        tag: u32,
        random: Random,
        syncs: u64,
        step: u64,
    ) -> Writer<'o> {
        let (tree, planned) = (Tree::default(), Vec::new());
        Writer { outside, name, directory, tag, random, syncs, step, tree, planned }
    }

    /// Works until the power goes, or something fails, which is told outside.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.work() {
            self.outside.tell(&format!("{} {} failed: {error}", self.name, self.step));
        }
    }

    fn work(&mut self) -> io::Result<()> {
        if !self.directory.exists() {
            self.outside.tell(&format!("{} {} begin", self.name, self.step));
            fs::create_dir(&self.directory)?;
        }
        self.tree = Tree::scan(&self.directory)?;
        loop {
            let Some(step) = self.planned.pop().or_else(|| self.choose()) else { continue };
            self.step += 1;
            self.outside.tell(&format!("{} {} {step}", self.name, self.step));
            self.perform(step)?;
        }
    }

    /// Chooses a step that will succeed; `None` where what was drawn is not possible now.
    fn choose(&mut self) -> Option<Step> {
        if self.random.below(1000) < self.syncs {
            return Some(match self.file() {
                Some(path) if self.random.below(6) > 0 => Step::Sync(path),
                _ => Step::SyncDirectory,
            });
        }
        Some(match self.random.below(100) {
            0..9 => Step::Create(self.new_name()?),
            9..25 => {
                let path = self.file()?;
                let offset = self.tree.size(&path);
                let longest = [900, 3 * PAGE, 12 * PAGE][self.random.below(3) as usize];
                self.write(path, offset, longest)?
            }
            25..55 => {
                let path = self.file()?;
                let size = self.tree.size(&path);
                let mut offset = self.random.below(size + 1);
                if self.random.below(3) > 0 {
                    offset -= offset % PAGE;
                }
                let longest = [200, PAGE, 4 * PAGE][self.random.below(3) as usize];
                self.write(path, offset, longest)?
            }
            55..57 => {
                let path = self.file()?;
                let offset = self.tree.size(&path) + self.random.below(4 * PAGE);
                self.write(path, offset, 2 * PAGE)?
            }
            57..60 => {
                let path = self.file()?;
                let size = self.random.below(self.tree.size(&path) + 2 * PAGE);
                Step::Truncate { path, size: size.min(LARGEST) }
            }
            60..62 => {
                let path = self.file()?;
                let offset = self.random.below(self.tree.size(&path) + 1);
                Step::Punch { path, offset, length: self.random.between(1, 3 * PAGE) }
            }
            62..66 => self.copy()?,
            66..70 => Step::Rename { from: self.file()?, to: self.new_name()? },
            70..73 => {
                let (from, to) = (self.file()?, self.file()?);
                if self.tree.same_file(&from, &to) {
                    return None;
                }
                Step::Rename { from, to }
            }
            73..78 => self.save()?,
            78 => {
                let (one, other) = (self.file()?, self.file()?);
                if self.tree.same_file(&one, &other) {
                    return None;
                }
                Step::Exchange { one, other }
            }
            79..82 => Step::Link { from: self.file()?, to: self.new_name()? },
            82..90 => Step::Unlink(self.file()?),
            90..94 => {
                let name = format!("d{}", self.random.below(8));
                if self.tree.has(&name) || self.tree.directories().len() >= MOST_DIRECTORIES {
                    return None;
                }
                Step::MakeDirectory(name)
            }
            94..97 => Step::RemoveDirectory(self.random.pick(&self.tree.empty_directories())?.clone()),
            _ => {
                let from = self.random.pick(self.tree.directories())?.clone();
                let to = format!("d{}", self.random.below(8));
                if self.tree.has(&to) {
                    return None;
                }
                Step::Rename { from, to }
            }
        })
    }

    fn file(&mut self) -> Option<String> {
        self.random.pick(&self.tree.files()).cloned()
    }

    /// A name that is free: names come again, so that old files of the same name may show through if something is wrong.
    fn new_name(&mut self) -> Option<String> {
        if self.tree.files().len() >= MOST_FILES {
            return None;
        }
        let mut name = format!("f{}", self.random.below(30));
        if self.random.below(2) == 0
            && let Some(directory) = self.random.pick(self.tree.directories())
        {
            name = format!("{directory}/{name}");
        }
        (!self.tree.has(&name)).then_some(name)
    }

    fn write(&mut self, path: String, offset: u64, longest: u64) -> Option<Step> {
        let mut length = self.random.between(1, longest);
        // The kernel makes a request of its own of the rest of a page: a longer write would be two operations.
        if !offset.is_multiple_of(PAGE) {
            length = length.min(PAGE - offset % PAGE);
        }
        if length > PAGE && self.random.below(2) == 0 {
            length -= length % PAGE;
        }
        let length = length.min(LARGEST.saturating_sub(offset));
        (length > 0).then_some(Step::Write { path, offset, length })
    }

    fn copy(&mut self) -> Option<Step> {
        let (from, to) = (self.file()?, self.file()?);
        let pages = self.tree.size(&from) / PAGE;
        if pages == 0 || self.tree.same_file(&from, &to) {
            return None;
        }
        let first = self.random.below(pages);
        let length = self.random.between(1, (pages - first).min(8)) * PAGE;
        let to_offset = self.random.below(self.tree.size(&to) / PAGE + 1) * PAGE;
        let fits = to_offset + length <= LARGEST;
        fits.then_some(Step::Copy { from, from_offset: first * PAGE, to, to_offset, length })
    }

    /// Replaces a file as editors do, and half of the time without a sync.
    fn save(&mut self) -> Option<Step> {
        let to = self.file()?;
        let from = "saved~".to_owned();
        if self.tree.has(&from) {
            return None;
        }
        let length = self.random.between(1, 6 * PAGE);
        self.planned.push(Step::Rename { from: from.clone(), to });
        if self.random.below(1000) < self.syncs * 4 {
            self.planned.push(Step::Sync(from.clone()));
        }
        self.planned.push(Step::Write { path: from.clone(), offset: 0, length });
        Some(Step::Create(from))
    }

    fn perform(&mut self, step: Step) -> io::Result<()> {
        let open = |path: &String| File::options().read(true).write(true).open(self.directory.join(path));
        match step {
            Step::Create(path) => {
                File::options().write(true).create_new(true).open(self.directory.join(&path))?;
                self.tree.create(&path);
            }
            Step::Write { path, offset, length } => {
                open(&path)?.write_all_at(&content(self.tag, self.step, offset, length), offset)?;
                let size = self.tree.size(&path).max(offset + length);
                self.tree.set_size(&path, size);
            }
            Step::Truncate { path, size } => {
                open(&path)?.set_len(size)?;
                self.tree.set_size(&path, size);
            }
            Step::Punch { path, offset, length } => {
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&open(&path)?, flags, signed(offset), signed(length))?;
            }
            Step::Copy { from, from_offset, to, to_offset, length } => {
                let (source, target) = (open(&from)?, open(&to)?);
                let (at, into) = (signed(from_offset), signed(to_offset));
                let copied = copy_range(&source, at, &target, into, length as usize)?;
                if copied as u64 != length {
                    return Err(io::Error::other(format!("copied {copied} bytes of {length}")));
                }
                let size = self.tree.size(&to).max(to_offset + length);
                self.tree.set_size(&to, size);
            }
            Step::Rename { from, to } => {
                fs::rename(self.directory.join(&from), self.directory.join(&to))?;
                self.tree.rename(&from, &to);
            }
            Step::Exchange { one, other } => {
                let (first, second) = (self.directory.join(&one), self.directory.join(&other));
                renameat2(AT_FDCWD, &first, AT_FDCWD, &second, RenameFlags::RENAME_EXCHANGE)?;
                self.tree.exchange(&one, &other);
            }
            Step::Link { from, to } => {
                fs::hard_link(self.directory.join(&from), self.directory.join(&to))?;
                self.tree.link(&from, &to);
            }
            Step::Unlink(path) => {
                fs::remove_file(self.directory.join(&path))?;
                self.tree.unlink(&path);
            }
            Step::MakeDirectory(path) => {
                fs::create_dir(self.directory.join(&path))?;
                self.tree.make_directory(&path);
            }
            Step::RemoveDirectory(path) => {
                fs::remove_dir(self.directory.join(&path))?;
                self.tree.remove_directory(&path);
            }
            Step::Sync(path) => open(&path)?.sync_all()?,
            Step::SyncDirectory => File::open(&self.directory)?.sync_all()?,
        }
        Ok(())
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("files are small")
}

//! Names, links and attributes of one tree.
//!
//! What of a tree lies in a lower only is not looked at: a lower has its own `fsck`, and may be elsewhere. So names that a
//! lower gives are not counted, and directories that a lower knows may be reached through it.

use hashbrown::{HashMap, HashSet};

use super::history::History;
use super::place::Teller;
use super::trees::{Seen, Stop, groups_from};
use super::{Check, Issue};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::{BranchId, Ino};
use crate::store::NameHasher;
use crate::store::record::{Dentry, GROUP_SIZE, Group, Inode, PAGE_SIZE, Page, Xattr};

/// What is known of an inode.
struct Node {
    /// `None` if it has names or data but no record.
    kind: Option<FileKind>,
    unreadable: bool,
    has_xattrs: bool,
    lower: bool,
    nlink: u32,
    /// Entries that lead here.
    names: u32,
    size: u64,
    /// What the record says its content takes.
    stored: u64,
    /// What its groups take.
    sum: u64,
}

/// What is known of a directory, or of what has names in it.
#[derive(Default)]
struct Dir {
    /// Names in it.
    entries: u32,
    subdirectories: u32,
    /// The directory and the hash of its name, as the entry that leads here has it.
    named: Option<(Ino, u64)>,
    /// The same as the record has it.
    says: Option<(Ino, u64)>,
}

/// One tree.
#[derive(Default)]
pub(super) struct State {
    nodes: HashMap<Ino, Node>,
    dirs: HashMap<Ino, Dir>,
    /// Inodes without links, and the branch that wrote that.
    pub(super) unlinked: HashMap<Ino, BranchId>,
    /// Inodes with a record.
    pub(super) inodes: i64,
    /// What they say their content takes.
    pub(super) bytes: i64,
    /// Inodes that do not parse.
    pub(super) unreadable: u64,
}

/// What is wrong with one record, told when all of its tree is known.
pub(super) enum Flaw {
    Kind { entry: FileKind, inode: FileKind },
    XattrWithoutInode,
    HiddenXattr,
    BeyondEnd { size: u64 },
    InlineNotFirst,
}

/// Which inodes are to be looked at.
#[derive(Default)]
pub(super) struct Affected {
    everything: bool,
    inodes: HashSet<Ino>,
    flaws: Vec<(Ino, u64, Flaw)>,
}

impl Affected {
    pub(super) fn everything() -> Affected {
        Affected { everything: true, ..Affected::default() }
    }

    pub(super) fn note_inode(&mut self, ino: Ino) {
        if !self.everything {
            self.inodes.insert(ino);
        }
    }

    pub(super) fn note_entry(&mut self, child: Option<(Ino, Option<Flaw>)>) {
        if let Some((child, flaw)) = child {
            self.note_inode(child);
            self.flaws.extend(flaw.map(|flaw| (child, 0, flaw)));
        }
    }

    pub(super) fn note(&mut self, ino: Ino, group: u64, flaw: Option<Flaw>) {
        self.flaws.extend(flaw.map(|flaw| (ino, group, flaw)));
    }
}

impl State {
    fn node(&mut self, ino: Ino) -> &mut Node {
        self.nodes.entry(ino).or_insert(Node {
            kind: None,
            unreadable: false,
            has_xattrs: false,
            lower: ino.is_lower(),
            nlink: 0,
            names: 0,
            size: 0,
            stored: 0,
            sum: 0,
        })
    }

    /// Takes over what the tree shows of an inode.
    pub(super) fn set_inode(&mut self, hasher: &NameHasher, ino: Ino, seen: &Seen<Option<Inode>>) {
        let node = self.node(ino);
        let before = node.kind.map(|_| signed(node.stored));
        let was_unreadable = node.unreadable;
        node.unreadable = matches!(seen, Seen::Unreadable);
        node.kind = None;
        let mut says = None;
        let mut unlinked = None;
        if let Seen::Record(branch, Some(inode)) = seen {
            node.kind = Some(inode.kind);
            node.has_xattrs = inode.has_xattrs;
            node.lower = ino.is_lower() || inode.lower.is_some();
            node.nlink = inode.nlink;
            node.size = inode.size;
            node.stored = inode.stored;
            says = (inode.kind == FileKind::Directory).then(|| (inode.parent, hasher.hash(&inode.name)));
            unlinked = (inode.nlink == 0).then_some(*branch);
        }
        let after = node.kind.map(|_| signed(node.stored));
        self.inodes += i64::from(after.is_some()) - i64::from(before.is_some());
        self.bytes += after.unwrap_or(0) - before.unwrap_or(0);
        self.unreadable += u64::from(matches!(seen, Seen::Unreadable));
        self.unreadable -= u64::from(was_unreadable);
        match unlinked {
            Some(branch) => self.unlinked.insert(ino, branch),
            None => self.unlinked.remove(&ino),
        };
        match says {
            Some(_) => self.dirs.entry(ino).or_default().says = says,
            None => {
                if let Some(dir) = self.dirs.get_mut(&ino) {
                    dir.says = None;
                }
            }
        }
    }

    /// Takes over what the tree shows of a name, instead of what it showed before. Returns the inode it leads to.
    pub(super) fn set_entry(
        &mut self,
        dir: Ino,
        hash: u64,
        old: &Seen<Dentry>,
        new: &Seen<Dentry>,
    ) -> Option<(Ino, Option<Flaw>)> {
        if let Seen::Record(_, Dentry::Entry { ino, kind }) = *old {
            let node = self.node(ino);
            node.names = node.names.saturating_sub(1);
            let parent = self.dirs.entry(dir).or_default();
            parent.entries = parent.entries.saturating_sub(1);
            if kind == FileKind::Directory {
                parent.subdirectories = parent.subdirectories.saturating_sub(1);
                let child = self.dirs.entry(ino).or_default();
                child.named = child.named.filter(|&named| named != (dir, hash));
            }
        }
        let Seen::Record(_, Dentry::Entry { ino, kind }) = *new else { return None };
        // A directory that has names is looked at even if it has no record.
        self.node(dir);
        let node = self.node(ino);
        node.names += 1;
        let flaw = match node.kind {
            Some(inode) if inode != kind => Some(Flaw::Kind { entry: kind, inode }),
            _ => None,
        };
        let parent = self.dirs.entry(dir).or_default();
        parent.entries += 1;
        if kind == FileKind::Directory {
            parent.subdirectories += 1;
            self.dirs.entry(ino).or_default().named = Some((dir, hash));
        }
        Some((ino, flaw))
    }

    /// Tells what is wrong with an extended attribute.
    pub(super) fn judge_xattr(&self, ino: Ino, seen: &Seen<Xattr>) -> Option<Flaw> {
        let Seen::Record(_, Xattr::Value(_)) = seen else { return None };
        match self.nodes.get(&ino) {
            Some(node) if node.unreadable => None,
            Some(Node { kind: Some(_), has_xattrs, .. }) => (!has_xattrs).then_some(Flaw::HiddenXattr),
            Some(_) | None => Some(Flaw::XattrWithoutInode),
        }
    }

    /// Takes over what the tree shows of a group, instead of what it showed before. Tells what is wrong with it.
    pub(super) fn set_group(
        &mut self,
        ino: Ino,
        index: u64,
        old: &Seen<Group>,
        new: &Seen<Group>,
    ) -> Option<Flaw> {
        let stored = |seen: &Seen<Group>| match seen {
            Seen::Record(_, group) => group.stored(),
            Seen::Nothing | Seen::Unreadable => 0,
        };
        let node = self.node(ino);
        node.sum = (node.sum + stored(new)).saturating_sub(stored(old));
        node.unreadable |= matches!(new, Seen::Unreadable);
        let Seen::Record(_, group) = new else { return None };
        // What does not exist, or is no file, is told of the inode.
        if node.kind != Some(FileKind::Regular) {
            return None;
        }
        let end = match group {
            Group::Removed => return None,
            Group::Inline(_) if index > 0 => return Some(Flaw::InlineNotFirst),
            Group::Inline(bytes) => bytes.len() as u64,
            Group::Pages(pages) => match pages.iter().rposition(|page| matches!(page, Page::Data(_))) {
                Some(last) => {
                    index.saturating_mul(GROUP_SIZE as u64).saturating_add((last * PAGE_SIZE) as u64 + 1)
                }
                None => 0,
            },
        };
        (end > node.size).then_some(Flaw::BeyondEnd { size: node.size })
    }

    /// Checks the inodes that differ from the tree that was checked before.
    pub(super) fn verify(
        &mut self,
        check: &mut Check<'_>,
        history: &History,
        stop: &Stop,
        affected: Affected,
    ) -> Result<(), FsError> {
        let mut teller = Teller::new(check, history, stop);
        for (ino, group, flaw) in affected.flaws {
            teller.tell(ino, |at| match flaw {
                Flaw::Kind { entry, inode } => Issue::EntryOfOtherKind { at, entry, inode },
                Flaw::XattrWithoutInode => Issue::XattrWithoutInode { at },
                Flaw::HiddenXattr => Issue::HiddenXattr { at },
                Flaw::BeyondEnd { size } => Issue::DataBeyondEnd { at, group, size },
                Flaw::InlineNotFirst => Issue::InlineNotFirst { at, group },
            })?;
        }
        if affected.everything {
            let all: Vec<Ino> = self.nodes.keys().copied().collect();
            self.verify_inodes(&mut teller, &all)?;
            let dirs: Vec<Ino> = self.dirs.keys().copied().collect();
            self.verify_reachable(&mut teller, &dirs)?;
        } else {
            let some: Vec<Ino> = affected.inodes.into_iter().collect();
            self.verify_inodes(&mut teller, &some)?;
            self.verify_no_groups_beyond(&mut teller, &some)?;
            self.verify_reachable(&mut teller, &some)?;
        }
        self.verify_root(&mut teller, history)
    }

    fn verify_root(&self, teller: &mut Teller<'_, '_>, history: &History) -> Result<(), FsError> {
        let volume =
            history.branch(teller.stop.branch).and_then(|branch| history.meta.volumes.get(&branch.volume));
        let root = self.nodes.get(&Ino::ROOT);
        let missing = root.is_none_or(|root| root.kind.is_none() && !root.unreadable);
        if missing && volume.is_some_and(|volume| volume.lowers.is_empty()) {
            teller.tell(Ino::ROOT, |at| Issue::MissingRoot { at })?;
        }
        Ok(())
    }

    fn verify_inodes(&mut self, teller: &mut Teller<'_, '_>, inodes: &[Ino]) -> Result<(), FsError> {
        for &ino in inodes {
            let Some(node) = self.nodes.get(&ino) else { continue };
            if node.unreadable {
                continue;
            }
            let dir = self.dirs.get(&ino);
            let Some(kind) = node.kind else {
                tell_missing(teller, ino, node, dir)?;
                if node.names == 0 && node.sum == 0 && dir.is_none_or(|dir| dir.entries == 0) {
                    self.nodes.remove(&ino);
                    self.dirs.remove(&ino);
                }
                continue;
            };
            let entries = dir.map_or(0, |dir| dir.entries);
            if entries > 0 && (kind != FileKind::Directory || node.nlink == 0) {
                teller.tell(ino, |at| Issue::EntryWithoutDirectory { at, names: entries })?;
            }
            if kind != FileKind::Regular && node.sum > 0 {
                teller.tell(ino, |at| Issue::DataWithoutFile { at })?;
            } else if node.nlink > 0 && node.sum != node.stored {
                let (counted, sum) = (node.stored, node.sum);
                teller.tell(ino, |at| Issue::WrongStoredBytes { at, counted, sum })?;
            }
            match dir {
                Some(dir) if kind == FileKind::Directory => verify_directory(teller, ino, node, dir)?,
                _ => verify_file(teller, ino, node)?,
            }
        }
        Ok(())
    }

    /// Looks for groups of shorter files that were not touched when the file became shorter.
    fn verify_no_groups_beyond(&self, teller: &mut Teller<'_, '_>, inodes: &[Ino]) -> Result<(), FsError> {
        for &ino in inodes {
            let Some(node) = self.nodes.get(&ino) else { continue };
            if node.kind == Some(FileKind::Regular) && node.sum > 0 && !node.unreadable {
                let first = node.size.div_ceil(GROUP_SIZE as u64);
                let beyond = groups_from(&teller.check.frozen, &teller.stop.view, ino, first)?;
                if let Some(&group) = beyond.first() {
                    let size = node.size;
                    teller.tell(ino, |at| Issue::DataBeyondEnd { at, group, size })?;
                }
            }
        }
        Ok(())
    }

    /// Follows directories up to the root, or to one that a lower has.
    fn verify_reachable(&self, teller: &mut Teller<'_, '_>, dirs: &[Ino]) -> Result<(), FsError> {
        let mut settled: HashSet<Ino> = HashSet::from([Ino::ROOT]);
        let mut way = Vec::new();
        for &start in dirs {
            way.clear();
            let mut at = start;
            while settled.insert(at) {
                way.push(at);
                let Some(dir) = self.dirs.get(&at) else { break };
                match dir.named.or(dir.says) {
                    Some((parent, _)) => at = parent,
                    None => break,
                }
            }
            if let Some(from) = way.iter().position(|&on_the_way| on_the_way == at)
                && self.dirs.get(&at).is_some_and(|dir| dir.named.or(dir.says).is_some())
                && way.len() > from
            {
                let first = way.iter().skip(from).min().copied().unwrap_or(at);
                teller.tell(first, |at| Issue::UnreachableDirectory { at })?;
            }
        }
        Ok(())
    }
}

/// Tells what is wrong with an inode that has no record.
fn tell_missing(
    teller: &mut Teller<'_, '_>,
    ino: Ino,
    node: &Node,
    dir: Option<&Dir>,
) -> Result<(), FsError> {
    if node.names > 0 {
        teller.tell(ino, |at| Issue::EntryWithoutInode { at })?;
    }
    if let Some(names) = dir.map(|dir| dir.entries).filter(|&names| names > 0) {
        teller.tell(ino, |at| Issue::EntryWithoutDirectory { at, names })?;
    }
    if node.sum > 0 {
        teller.tell(ino, |at| Issue::DataWithoutFile { at })?;
    }
    Ok(())
}

fn verify_file(teller: &mut Teller<'_, '_>, ino: Ino, node: &Node) -> Result<(), FsError> {
    let (counted, names) = (node.nlink, node.names);
    if ino.is_lower() {
        // Names that only the lower gives are not known here.
        if names > counted {
            teller.tell(ino, |at| Issue::WrongLinkCount { at, counted, names })?;
        }
    } else if names == 0 && counted > 0 {
        teller.tell(ino, |at| Issue::InodeWithoutName { at })?;
    } else if names != counted {
        teller.tell(ino, |at| Issue::WrongLinkCount { at, counted, names })?;
    }
    Ok(())
}

fn verify_directory(teller: &mut Teller<'_, '_>, ino: Ino, node: &Node, dir: &Dir) -> Result<(), FsError> {
    let (counted, names) = (node.nlink, node.names);
    // The root is named by being the root.
    let most = u32::from(ino != Ino::ROOT);
    if names > most {
        teller.tell(ino, |at| Issue::DirectoryNamedTwice { at, names })?;
    } else if counted == 0 && names > 0 {
        teller.tell(ino, |at| Issue::WrongLinkCount { at, counted, names })?;
    } else if names == 1 && dir.named != dir.says {
        let parent = dir.says.map_or(0, |(parent, _)| parent.0);
        teller.tell(ino, |at| Issue::WrongParent { at, parent })?;
    } else if names < most && counted > 0 && !node.lower {
        teller.tell(ino, |at| Issue::InodeWithoutName { at })?;
    }
    // 1 means that nobody counts.
    let subdirectories = dir.subdirectories;
    if !node.lower && counted >= 2 && counted - 2 != subdirectories {
        teller.tell(ino, |at| Issue::WrongSubdirectoryCount { at, counted, subdirectories })?;
    }
    Ok(())
}

impl State {
    /// Returns the link count of an inode, `None` if it does not exist or does not parse.
    pub(super) fn links(&self, ino: Ino) -> Option<u32> {
        self.nodes.get(&ino).filter(|node| node.kind.is_some()).map(|node| node.nlink)
    }

    /// Tells whether the root belongs to the volume as such and is not counted: it has nothing below.
    pub(super) fn has_uncounted_root(&self) -> bool {
        self.nodes.get(&Ino::ROOT).is_some_and(|root| root.kind.is_some() && !root.lower)
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

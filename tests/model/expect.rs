//! What the model expects of an answer, and the comparison.
//!
//! # Invariants
//! - An [`Expect`] is complete when the call is planned; only what no model can know (inode numbers, the
//!   moment of a stamp) is settled by the first answer that shows it, and holds from then on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::clock::{Clock, Time, Witness};
use crate::reference::{Body, Effect, Errno, Id, Name, Node};
use crate::wire::{Bytes, Delta, DeltaKind, Item, Reply, Stamp, Stat, View};

/// What `stat` must show of a node.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// The head whose inode numbers the tree shares; `None` where files have numbers of another kind.
    pub(crate) lineage: Option<View>,
    pub(crate) id: Id,
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    /// `None` for directories, whose size means nothing.
    pub(crate) size: Option<u64>,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
}

/// What a diff of two trees must list.
#[derive(Clone, Default, Debug)]
pub(crate) struct Differences {
    /// Names that are bound to another file or to none in the newer tree, as paths in the older one.
    pub(crate) gone: BTreeSet<Name>,
    /// Names that were bound to another file or to none in the older tree, as paths in the newer one.
    pub(crate) new: BTreeSet<Name>,
    /// Of `gone` and `new` what took the place of another of its kind, and whether that is a directory: it is listed as changed, if at all.
    pub(crate) replaced: BTreeMap<Name, bool>,
    /// For each file that kept its names but not its content or attributes, all its paths: one must be listed.
    pub(crate) changed: Vec<(DeltaKind, BTreeSet<Name>)>,
}

/// What the answer to a call must be.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    Anything,
    Done,
    Fails(Errno),
    FailsEither(Errno, Errno),
    Stat(Shown),
    Data(Vec<u8>),
    /// A whole listing: `.` and `..` once, and these.
    Listing {
        dir: Shown,
        entries: BTreeMap<Name, Shown>,
    },
    /// A listing that changes went on beside: every name of `must` once, none that is not in `may`.
    Passed {
        must: BTreeSet<Name>,
        may: BTreeSet<Name>,
    },
    Names(BTreeSet<Bytes>),
    Count(u64),
    Seek {
        node: Arc<Node>,
        at: u64,
        hole: bool,
    },
    Cut(Vec<Effect>),
    Diff(Differences),
}

/// What the answers so far have settled.
#[derive(Clone, Default)]
pub(crate) struct Observer {
    inos: HashMap<Id, u64>,
    owners: HashMap<(View, u64), Id>,
    births: HashMap<Id, Stamp>,
    witness: Witness,
    /// A local directory: the kernel stamps the access time of symlinks behind our back.
    pub(crate) local_directory: bool,
}

impl Observer {
    /// Knows nothing yet, and allows for what only a local directory does.
    pub(crate) fn of_local_directory() -> Observer {
        Observer { local_directory: true, ..Observer::default() }
    }

    /// Compares an answer with what is expected.
    pub(crate) fn check(&mut self, clock: &Clock, expect: &Expect, reply: &Reply) -> Result<(), String> {
        let wrong = || Err(format!("expected {}, got {}", brief(expect), brief(reply)));
        match (expect, reply) {
            (Expect::Anything, _) | (Expect::Done, Reply::Done {}) => Ok(()),
            (Expect::Fails(wanted), Reply::Failed { errno, .. }) if errno == wanted => Ok(()),
            (Expect::FailsEither(one, other), Reply::Failed { errno, .. })
                if [one, other].contains(&errno) =>
            {
                Ok(())
            }
            (Expect::Fails(wanted), _) => Err(format!("expected {}, got {}", name(*wanted), brief(reply))),
            (_, Reply::Failed { errno, why }) => {
                Err(format!("expected {}, failed with {}: {why}", brief(expect), name(*errno)))
            }
            (Expect::Stat(shown), Reply::Attr { stat }) => self.check_stat(clock, shown, stat),
            (Expect::Data(data), Reply::Data { bytes }) => same_bytes(data, &bytes.0),
            (Expect::Listing { dir, entries }, Reply::Listing { items }) => {
                self.check_listing(clock, dir, entries, items)
            }
            (Expect::Passed { must, may }, Reply::Listing { items }) => check_passed(must, may, items),
            (Expect::Names(wanted), Reply::Names { names }) => {
                let got: BTreeSet<Bytes> = names.iter().cloned().collect();
                if got == *wanted && got.len() == names.len() { Ok(()) } else { wrong() }
            }
            (Expect::Count(wanted), Reply::Offset { at }) if at == wanted => Ok(()),
            (Expect::Seek { node, at, hole }, Reply::Offset { at: found }) => {
                check_seek(node, *at, *hole, *found)
            }
            (Expect::Cut(effects), Reply::Cut { changed }) if effects.len() == changed.len() => {
                for (effect, changed) in effects.iter().zip(changed) {
                    match (effect, changed) {
                        (Effect::Nothing, true) => {
                            return Err("the cut says changed, but nothing was".to_owned());
                        }
                        (Effect::Changed, false) => {
                            return Err("the cut says unchanged, but there was a change".to_owned());
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            (Expect::Diff(differences), Reply::Changes { changes }) => check_diff(differences, changes),
            _ => wrong(),
        }
    }

    fn check_stat(&mut self, clock: &Clock, shown: &Shown, stat: &Stat) -> Result<(), String> {
        self.check_ino(shown, stat.ino)?;
        let facts = [
            ("mode", u64::from(shown.mode), u64::from(stat.mode)),
            ("nlink", u64::from(shown.nlink), u64::from(stat.nlink)),
            ("uid", u64::from(shown.uid), u64::from(stat.uid)),
            ("gid", u64::from(shown.gid), u64::from(stat.gid)),
            ("rdev", u64::from(shown.rdev), u64::from(stat.rdev)),
            ("size", shown.size.unwrap_or(stat.size), stat.size),
        ];
        for (what, wanted, got) in facts {
            if wanted != got {
                let show = |value: u64| if what == "mode" { format!("{value:o}") } else { value.to_string() };
                return Err(format!("node {}: {what} is {}, expected {}", shown.id, show(got), show(wanted)));
            }
        }
        let birth = *self.births.entry(shown.id).or_insert(stat.btime);
        if birth != stat.btime {
            return Err(format!("node {}: birth time changed from {birth:?} to {:?}", shown.id, stat.btime));
        }
        let link = shown.mode & libc::S_IFMT == libc::S_IFLNK;
        let times = [
            ("atime", shown.atime, stat.atime),
            ("mtime", shown.mtime, stat.mtime),
            ("ctime", shown.ctime, stat.ctime),
        ];
        for (what, wanted, got) in times {
            if what == "atime" && link && self.local_directory {
                continue;
            }
            self.witness
                .check(clock, wanted, got)
                .map_err(|why| format!("node {}: {what} {why}", shown.id))?;
        }
        Ok(())
    }

    fn check_ino(&mut self, shown: &Shown, ino: u64) -> Result<(), String> {
        let Some(lineage) = shown.lineage else { return Ok(()) };
        let known = *self.inos.entry(shown.id).or_insert(ino);
        if known != ino {
            return Err(format!("node {}: inode number changed from {known} to {ino}", shown.id));
        }
        let owner = *self.owners.entry((lineage, ino)).or_insert(shown.id);
        // A local filesystem may give a number again.
        if owner != shown.id && !self.local_directory {
            return Err(format!("node {}: inode number {ino} belongs to node {owner}", shown.id));
        }
        Ok(())
    }

    fn check_listing(
        &mut self,
        clock: &Clock,
        dir: &Shown,
        entries: &BTreeMap<Name, Shown>,
        items: &[Item],
    ) -> Result<(), String> {
        let mut left: BTreeSet<&[u8]> = entries.keys().map(Vec::as_slice).chain([&b"."[..], b".."]).collect();
        for item in items {
            let name = &item.name.0[..];
            if !left.remove(name) {
                let how = if entries.contains_key(name) || name == b"." || name == b".." {
                    "twice"
                } else {
                    "but is not there"
                };
                return Err(format!("the listing shows {:?} {how}", item.name));
            }
            match name {
                b"." => self.check_ino(dir, item.ino)?,
                b".." => {}
                name => {
                    let shown = &entries[name];
                    if item.kind != shown.mode & libc::S_IFMT {
                        return Err(format!("the listing shows {:?} as kind {:o}", item.name, item.kind));
                    }
                    self.check_ino(shown, item.ino)
                        .map_err(|why| format!("listing, {:?}: {why}", item.name))?;
                    if let Some(stat) = &item.stat {
                        self.check_stat(clock, shown, stat)
                            .map_err(|why| format!("listing, {:?}: {why}", item.name))?;
                    }
                }
            }
        }
        match left.first() {
            None => Ok(()),
            Some(name) => Err(format!("the listing lacks \"{}\"", name.escape_ascii())),
        }
    }
}

fn check_passed(must: &BTreeSet<Name>, may: &BTreeSet<Name>, items: &[Item]) -> Result<(), String> {
    let mut left: BTreeSet<&Name> = must.iter().collect();
    for Item { name, .. } in items {
        if name.0 == b"." || name.0 == b".." {
            continue;
        }
        if !may.contains(&name.0) {
            return Err(format!("the cursor shows {name:?}, which was never there"));
        }
        if must.contains(&name.0) && !left.remove(&name.0) {
            return Err(format!("the cursor shows {name:?} twice"));
        }
    }
    match left.first() {
        None => Ok(()),
        Some(name) => Err(format!("the cursor missed \"{}\"", name.escape_ascii())),
    }
}

fn check_seek(node: &Node, at: u64, hole: bool, found: u64) -> Result<(), String> {
    let Body::File(content) = &node.body else { return Ok(()) };
    let limit = if hole { content.size() } else { content.size().saturating_sub(1) };
    if found < at || found > limit {
        return Err(format!("seek from {at} went to {found}, the size is {}", content.size()));
    }
    if hole {
        // The end of the file is a hole; before it, a hole is something that reads as zero.
        if found < content.size() && !content.is_zero(found, found + 1) {
            return Err(format!("seek from {at} calls {found} a hole, where there is data"));
        }
    } else if !content.is_zero(at, found) {
        return Err(format!("seek from {at} to {found} skipped data"));
    }
    Ok(())
}

fn check_diff(differences: &Differences, changes: &[Delta]) -> Result<(), String> {
    let mut listed = Differences::default();
    for Delta { kind, path, from } in changes {
        let path = path.0.clone();
        let fresh = match (kind, from) {
            (DeltaKind::Added {}, None) => listed.new.insert(path),
            (DeltaKind::Removed {}, None) => listed.gone.insert(path),
            (DeltaKind::Renamed {}, Some(from)) => {
                listed.new.insert(path) & listed.gone.insert(from.0.clone())
            }
            (DeltaKind::Modified {} | DeltaKind::Metadata {}, None) => {
                listed.changed.push((*kind, BTreeSet::from([path])));
                true
            }
            _ => return Err(format!("diff lists {kind:?} from {from:?}")),
        };
        if !fresh {
            return Err(format!("diff lists a path twice: {changes:?}"));
        }
    }
    for (path, is_directory) in &differences.replaced {
        let (gone, new) = (listed.gone.contains(path), listed.new.contains(path));
        let is_changed = listed.changed.iter().any(|(_, paths)| paths.contains(path));
        if is_changed || (*is_directory && !gone && !new) {
            listed.gone.insert(path.clone());
            listed.new.insert(path.clone());
        }
        let listed_as =
            |listed: DeltaKind| changes.iter().any(|one| one.kind == listed && one.path.0 == *path);
        if listed_as(DeltaKind::Added {}) && listed_as(DeltaKind::Removed {}) {
            let path = Bytes::from(&path[..]);
            return Err(format!("diff lists {path:?} as gone and new, though it was replaced: {changes:?}"));
        }
    }
    for (what, wanted, got) in
        [("gone", &differences.gone, &listed.gone), ("new", &differences.new, &listed.new)]
    {
        if let Some(path) = wanted.symmetric_difference(got).next() {
            let how = if wanted.contains(path) { "lacks" } else { "invents" };
            return Err(format!("diff {how} the {what} name {:?}: {changes:?}", Bytes::from(&path[..])));
        }
    }
    for (kind, paths) in &differences.changed {
        // What was written again as it was may count as modified, so that only more than wanted may be said.
        let said = |listed: DeltaKind| listed == *kind || listed == (DeltaKind::Modified {});
        if !listed.changed.iter().any(|(listed, path)| said(*listed) && !path.is_disjoint(paths)) {
            return Err(format!("diff lacks {kind:?} of one of {paths:?}: {changes:?}"));
        }
    }
    Ok(())
}

fn same_bytes(wanted: &[u8], got: &[u8]) -> Result<(), String> {
    if wanted.len() != got.len() {
        return Err(format!("{} bytes, expected {}", got.len(), wanted.len()));
    }
    match wanted.iter().zip(got).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(first) => {
            let count = wanted.iter().zip(got).filter(|(a, b)| a != b).count();
            Err(format!(
                "{count} of {} bytes differ, the first at {first}: {:#04x}, expected {:#04x}",
                wanted.len(),
                got[first],
                wanted[first]
            ))
        }
    }
}

fn name(errno: Errno) -> String {
    match errno {
        0..1000 => format!("{:?}", nix::errno::Errno::from_raw(errno)),
        _ => format!("error {errno}"),
    }
}

/// Data in a message helps nobody beyond its first bytes.
fn brief(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(600) {
        None => text,
        Some((cut, _)) => format!("{}…", &text[..cut]),
    }
}

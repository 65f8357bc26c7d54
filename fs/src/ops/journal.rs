//! What a successor must know of nodes that the store says nothing about.
//!
//! # Overview
//! The kernel calls an inode by a number it was once given, and goes on to do so when another process answers. Nearly all
//! numbers are inode numbers of the store, which finds them again. Two kinds are not:
//! - inodes of a lower that were only read: their number does not tell where they are, and nothing is stored of them;
//! - nodes that are called by numbers of their own: those seen through `.snapshots`, and all since a rollback.
//!
//! Of these a [`Fact`] is appended to the session's journal, before the kernel learns the number. The journal lives as long
//! as the mount, in memory that outlives the worker; without one nothing is noted, and the mount ends with its process.
//!
//! # Invariants
//! - A fact is in the journal before the answer that gives the kernel the number leaves.
//! - Rewriting the journal drops facts of nodes only that the kernel has forgotten.
//!
//! # Concurrency
//! A fact may be appended while nodes are locked. The journal is rewritten without holding anything: it reads the state of
//! every node.

use std::io;

use hashbrown::HashMap;

use super::{TreeKey, VolumeFs};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, Ino, NodeId};
use crate::ops::node::Node;
use crate::overlay::lower::LowerPath;

/// Something a successor must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fact<'a> {
    /// Where an inode of the lowers is that the store has no record of.
    Lower {
        /// Its number.
        ino: Ino,
        /// The directory it was found in.
        parent: Ino,
        /// The lowers that show it: bit *n* for the *n*-th.
        layers: u64,
        /// Its path in them, without a leading slash.
        path: &'a [u8],
    },
    /// Which inode a number of its own stands for.
    Called {
        /// The number.
        node: NodeId,
        /// The tree of the inode.
        tree: TreeKey,
        /// The inode.
        ino: Ino,
    },
}

/// Keeps facts for a successor.
pub trait NodeJournal: Send + Sync {
    /// Adds a fact. It outlives the process when this returns.
    fn append(&self, fact: &Fact<'_>) -> io::Result<()>;

    /// Returns where it ends, if it has grown so much that rewriting it is worth it. One caller at a time is told to.
    fn has_grown(&self) -> Option<u64>;

    /// Replaces what was before `end`, which [`has_grown`](Self::has_grown) returned, by the encoded `facts`. A process that
    /// dies meanwhile leaves the old ones.
    fn rewrite(&self, end: u64, facts: &[u8]) -> io::Result<()>;
}

const LOWER: u8 = 1;
const CALLED: u8 = 2;

impl<'a> Fact<'a> {
    /// Appends the bytes of the fact, which tell their own length: a kind, then fields in the machine's order; paths
    /// behind their length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Fact::Lower { ino, parent, layers, path } => {
                // A path is shorter than PATH_MAX times the depth that one system call can take.
                let length = u32::try_from(path.len()).expect("paths are far shorter than 4 GiB");
                out.push(LOWER);
                for field in [ino.0, parent.0, layers] {
                    out.extend_from_slice(&field.to_ne_bytes());
                }
                out.extend_from_slice(&length.to_ne_bytes());
                out.extend_from_slice(path);
            }
            Fact::Called { node, tree, ino } => {
                let (kind, branch, epoch) = match tree {
                    TreeKey::Mounted => (0, BranchId(0), Epoch(0)),
                    TreeKey::RolledBack(branch) => (1, branch, Epoch(0)),
                    TreeKey::Snapshot(branch, epoch) => (2, branch, epoch),
                };
                out.push(CALLED);
                out.push(kind);
                for field in [node.0, u64::from(branch.0), epoch.0, ino.0] {
                    out.extend_from_slice(&field.to_ne_bytes());
                }
            }
        }
    }

    /// Parses the fact at the beginning of `bytes`, and returns what follows it.
    pub fn decode(bytes: &'a [u8]) -> Option<(Fact<'a>, &'a [u8])> {
        fn number(bytes: &mut &[u8]) -> Option<u64> {
            let (field, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Some(u64::from_ne_bytes(*field))
        }
        let (&kind, mut rest) = bytes.split_first()?;
        match kind {
            LOWER => {
                let (ino, parent) = (Ino(number(&mut rest)?), Ino(number(&mut rest)?));
                let layers = number(&mut rest)?;
                let (length, after) = rest.split_first_chunk()?;
                let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
                let (path, rest) = after.split_at_checked(length)?;
                Some((Fact::Lower { ino, parent, layers, path }, rest))
            }
            CALLED => {
                let (&kind, mut rest) = rest.split_first()?;
                let node = NodeId(number(&mut rest)?);
                let branch = BranchId(u32::try_from(number(&mut rest)?).ok()?);
                let epoch = Epoch(number(&mut rest)?);
                let ino = Ino(number(&mut rest)?);
                let tree = match kind {
                    0 => TreeKey::Mounted,
                    1 => TreeKey::RolledBack(branch),
                    2 => TreeKey::Snapshot(branch, epoch),
                    _ => return None,
                };
                Some((Fact::Called { node, tree, ino }, rest))
            }
            _ => None,
        }
    }
}

/// The facts a predecessor left, by what is asked for.
#[derive(Default)]
pub(super) struct Inherited {
    bytes: Vec<u8>,
    /// Where in `bytes` the fact about an inode of the lowers begins.
    lowers: HashMap<Ino, usize>,
    /// What numbers of their own stand for.
    pub(super) called: HashMap<NodeId, (TreeKey, Ino)>,
    /// How many of them stand for an inode of the lowers, each in a tree of its own.
    callers: HashMap<Ino, usize>,
}

impl Inherited {
    /// Reads facts, as a journal has them one after the other.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Inherited, FsError> {
        let mut inherited = Inherited::default();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let (fact, after) =
                Fact::decode(rest).ok_or(FsError::Invalid { what: "journal of a session" })?;
            match fact {
                Fact::Lower { ino, .. } => drop(inherited.lowers.insert(ino, at)),
                Fact::Called { node, tree, ino } => {
                    let before = inherited.called.insert(node, (tree, ino));
                    if ino.is_lower() && before.is_none() {
                        *inherited.callers.entry(ino).or_default() += 1;
                    }
                }
            }
            rest = after;
        }
        inherited.bytes = bytes;
        Ok(inherited)
    }

    /// Returns what is known of an inode of the lowers.
    pub(super) fn lower(&self, ino: Ino) -> Option<Fact<'_>> {
        let at = *self.lowers.get(&ino)?;
        Fact::decode(self.bytes.get(at..)?).map(|(fact, _)| fact)
    }

    /// Drops what is known of a node that the kernel has forgotten.
    pub(super) fn forget(&mut self, node: NodeId) {
        let Some((tree, ino)) = self.called.remove(&node) else {
            // Trees that show it under other numbers need what is known of it, too.
            if !self.callers.contains_key(&Ino(node.0)) {
                self.lowers.remove(&Ino(node.0));
            }
            return self.shrink();
        };
        let Some(callers) = self.callers.get_mut(&ino) else { return };
        *callers = callers.saturating_sub(1);
        if *callers == 0 {
            self.callers.remove(&ino);
            // What a rollback took away does not come back to ask for it. Beside a snapshot the live tree may.
            if matches!(tree, TreeKey::RolledBack(_)) {
                self.lowers.remove(&ino);
            }
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.lowers.is_empty() {
            self.bytes = Vec::new();
        }
    }

    /// Returns the numbers that inodes of a tree are called by.
    pub(super) fn numbers_in(&self, tree: TreeKey) -> HashMap<Ino, NodeId> {
        let of_tree = self.called.iter().filter(|(_, (key, _))| *key == tree);
        of_tree.map(|(&node, &(_, ino))| (ino, node)).collect()
    }

    fn each(&self, pass_on: &mut dyn FnMut(&Fact<'_>)) {
        for &ino in self.lowers.keys() {
            self.lower(ino).iter().for_each(&mut *pass_on);
        }
        for (&node, &(tree, ino)) in &self.called {
            pass_on(&Fact::Called { node, tree, ino });
        }
    }
}

impl VolumeFs {
    /// Counts a reference that the kernel is about to be given, and notes for a successor what the store does not know.
    pub(super) fn refer(&self, node: &Node) -> Result<(), FsError> {
        // Counted first: a rewrite of the journal keeps the facts of what is referred to, and of what is appended meanwhile.
        if node.count_lookup() > 0 {
            return Ok(());
        }
        let Some(journal) = self.journal.get() else { return Ok(()) };
        let mut noted = Ok(());
        each_fact(node, &mut |fact| {
            if noted.is_ok() {
                noted = journal.append(fact);
            }
        });
        noted.map_err(|source| {
            node.uncount_lookup();
            FsError::Session { source }
        })
    }

    /// Rewrites the journal if most of it is about nodes that the kernel has forgotten. To be called without locks.
    ///
    /// Facts that are appended meanwhile stay. A node that was referred to before is found among those that are.
    pub(super) fn tidy_journal(&self) {
        let Some((journal, end)) =
            self.journal.get().and_then(|journal| Some((journal, journal.has_grown()?)))
        else {
            return;
        };
        let mut facts = Vec::new();
        if let Some(adopted) = self.adopted.get() {
            adopted.inherited.read().each(&mut |fact| fact.encode(&mut facts));
        }
        self.nodes.each_referred(|node| each_fact(node, &mut |fact| fact.encode(&mut facts)));
        if let Err(error) = journal.rewrite(end, &facts) {
            tracing::warn!(%error, volume = %self.volume, "the journal of a session keeps growing");
        }
    }
}

/// Passes on what the store does not say of a node.
fn each_fact(node: &Node, pass_on: &mut dyn FnMut(&Fact<'_>)) {
    if node.id.0 >= NodeId::FIRST_DYNAMIC {
        pass_on(&Fact::Called { node: node.id, tree: node.tree.key, ino: node.ino });
    }
    let state = node.state.read();
    if let (None, Some(lower), true) = (state.version, &state.inode.lower, node.ino != Ino::ROOT)
        && LowerPath::parse(&lower.path).is_some()
    {
        let (parent, layers) = (state.inode.parent, lower.layers);
        pass_on(&Fact::Lower { ino: node.ino, parent, layers, path: &lower.path });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Vec<Fact<'static>> {
        vec![
            Fact::Lower { ino: Ino::of_lower(3, 9), parent: Ino(1), layers: 5, path: b"a/b\xff" },
            Fact::Called { node: NodeId(1 << 63), tree: TreeKey::RolledBack(BranchId(4)), ino: Ino(17) },
            Fact::Called {
                node: NodeId((1 << 63) + 1),
                tree: TreeKey::Snapshot(BranchId(4), Epoch(2)),
                ino: Ino::of_lower(3, 9),
            },
        ]
    }

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        facts().iter().for_each(|fact| fact.encode(&mut bytes));
        bytes
    }

    #[test]
    fn facts_survive_the_round_trip() {
        let bytes = encoded();
        let (mut rest, mut read) = (bytes.as_slice(), Vec::new());
        while let Some((fact, after)) = Fact::decode(rest) {
            read.push(fact);
            rest = after;
        }
        assert_eq!((read, rest), (facts(), &[][..]));
    }

    #[test]
    fn bytes_that_are_no_facts_are_refused() {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for fact in facts() {
            fact.encode(&mut bytes);
            ends.push(bytes.len());
        }
        for length in 1..=bytes.len() {
            // Cut in the middle of a fact, or after one.
            let parsed = Inherited::parse(bytes[..length].to_vec());
            assert_eq!(parsed.is_ok(), ends.contains(&length));
        }
        assert!(Inherited::parse(vec![9; 40]).is_err());
    }

    #[test]
    fn the_newest_fact_counts_until_the_kernel_forgets() {
        let ino = Ino::of_lower(3, 9);
        let mut bytes = encoded();
        Fact::Lower { ino, parent: Ino(1), layers: 1, path: b"c" }.encode(&mut bytes);
        let mut inherited = Inherited::parse(bytes).unwrap();
        assert!(matches!(inherited.lower(ino), Some(Fact::Lower { path: b"c", .. })));
        let mut live = 0;
        inherited.each(&mut |_| live += 1);
        assert_eq!(live, 3);
        // A snapshot shows it, too.
        inherited.forget(NodeId(ino.0));
        assert!(inherited.lower(ino).is_some());
        inherited.forget(NodeId((1 << 63) + 1));
        inherited.forget(NodeId(ino.0));
        assert_eq!(inherited.lower(ino), None);
        assert_eq!(inherited.called.len(), 1);
    }

    #[test]
    fn what_a_restored_tree_needs_outlives_the_numbers_of_before() {
        let (ino, node) = (Ino::of_lower(3, 9), NodeId(1 << 63));
        let mut bytes = Vec::new();
        Fact::Lower { ino, parent: Ino(1), layers: 1, path: b"a" }.encode(&mut bytes);
        Fact::Called { node, tree: TreeKey::RolledBack(BranchId(4)), ino }.encode(&mut bytes);
        let mut inherited = Inherited::parse(bytes).unwrap();
        inherited.forget(NodeId(ino.0));
        assert!(inherited.lower(ino).is_some());
        inherited.forget(node);
        assert!(inherited.lower(ino).is_none() && inherited.bytes.is_empty());
    }
}

//! Going on with a mount that another process served until it died.
//!
//! # Overview
//! The kernel keeps its references, open files and mappings, and calls nodes as before. What this process has not counted
//! is made up for here:
//! - a node that is not in memory is found again when it is first used, in the store or by a fact of the predecessor's
//!   [journal](super::journal);
//! - how many references the kernel holds is not known. It gives all of them back at once when it drops an inode, more than
//!   this process has counted, and that is how the end of a node is told from a reference taken back;
//! - inodes without a name are kept until then, not removed as at an ordinary opening.
//!
//! A rollback under the mount, before the takeover or after it, ends all that the kernel was given until then: a number that is an inode
//! number of the store is one of the tree that was mounted, and means nothing in the one that was restored.
//!
//! # Crash consistency
//! An end that the kernel told a process which died before it acted is not told again: an inode without a name then stays
//! until the mount ends, which removes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use super::journal::{Fact, Inherited};
use super::node::{Gone, NodeRef};
use super::{Entry, Tree, TreeKey, VolumeFs};
use crate::attr::Attr;
use crate::error::FsError;
use crate::ids::{Ino, NodeId, SessionId};
use crate::overlay::lower::LowerPath;
use crate::overlay::merged::Looked;
use crate::overlay::stack::LayerSet;
use crate::request::{Answer, KernelRequest};
use crate::store::StoreError;
use crate::store::record::PageRun;

/// What a predecessor left.
pub(super) struct Adopted {
    pub(super) inherited: RwLock<Inherited>,
    /// The tree that was adopted.
    tree: TreeKey,
    /// Inodes of it without a name, by what the kernel calls them, which may refer to them.
    orphans: Mutex<HashMap<NodeId, Ino>>,
    /// Whether the kernel was asked about those.
    asked: AtomicBool,
    session: SessionId,
    /// What requests were answered with that the kernel may send again.
    answers: Mutex<HashMap<u64, Option<Answer>>>,
}

impl Adopted {
    /// Returns the inodes without a name that the kernel may refer to, once.
    pub(super) fn take_unasked(&self) -> Vec<(NodeId, Ino)> {
        if self.asked.swap(true, Ordering::SeqCst) {
            return Vec::new();
        }
        self.orphans.lock().iter().map(|(&node, &ino)| (node, ino)).collect()
    }

    /// Takes note that the kernel does not refer to an inode. Returns it if it counted as one that it may refer to.
    pub(super) fn is_over(&self, node: NodeId) -> Option<Ino> {
        self.orphans.lock().remove(&node)
    }

    /// Takes note that a rollback has taken the tree away that was adopted.
    pub(super) fn roll_back(&self) {
        self.orphans.lock().clear();
    }

    /// Tells whether a tree is the one that was adopted.
    pub(super) fn is_of(&self, tree: &Tree) -> bool {
        self.tree == tree.key
    }
}

/// A request that a predecessor had not answered when it died.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unanswered {
    /// The kernel's number, without the mark of one sent again.
    pub unique: u64,
    /// Pages it was handed and had not committed: segment, first page, count.
    pub pages: Vec<(u32, u32, u32)>,
    /// How many bytes it has written, if it is done and no batch says so.
    pub written: Option<u64>,
}

/// The result of an operation, made from what was stored as the answer of its first execution.
pub trait FromAnswer: Sized {
    /// Returns it. `node` is the one that the request names first.
    fn from_answer(answer: Answer, fs: &VolumeFs, node: NodeId) -> Result<Self, FsError>;
}

impl FromAnswer for () {
    fn from_answer(_answer: Answer, _fs: &VolumeFs, _node: NodeId) -> Result<(), FsError> {
        Ok(())
    }
}

impl FromAnswer for u32 {
    fn from_answer(answer: Answer, _fs: &VolumeFs, node: NodeId) -> Result<u32, FsError> {
        match answer {
            Answer::Count(count) => Ok(u32::try_from(count).unwrap_or(u32::MAX)),
            Answer::Done | Answer::Inode(_) => Err(other_answer(node)),
        }
    }
}

impl FromAnswer for Attr {
    fn from_answer(_answer: Answer, fs: &VolumeFs, node: NodeId) -> Result<Attr, FsError> {
        fs.getattr(node)
    }
}

impl FromAnswer for Entry {
    fn from_answer(answer: Answer, fs: &VolumeFs, node: NodeId) -> Result<Entry, FsError> {
        match answer {
            Answer::Inode(ino) => {
                let beside = fs.node(NodeId::ROOT)?;
                fs.entry(&fs.find_inode(&beside, ino)?)
            }
            Answer::Done | Answer::Count(_) => Err(other_answer(node)),
        }
    }
}

fn other_answer(node: NodeId) -> FsError {
    StoreError::Corrupt {
        what: format!("stored answer to a request about node {node}: of another operation"),
    }
    .into()
}

impl VolumeFs {
    /// Goes on with what a predecessor served in `session`. `facts` is its journal, `unanswered` what it died over. To be called
    /// before the first request.
    pub fn adopt(
        &self,
        session: SessionId,
        facts: Vec<u8>,
        unanswered: &[Unanswered],
    ) -> Result<(), FsError> {
        let inherited = Inherited::parse(facts)?;
        let tree = self.root.read().clone();
        let mut orphans = HashMap::new();
        let mut answers = HashMap::new();
        if let Some(head) = &tree.head {
            let called = inherited.numbers_in(tree.key);
            for ino in self.orphans_of(head)? {
                self.unlinked.add(ino);
                match tree.key {
                    TreeKey::Mounted => drop(orphans.insert(NodeId(ino.0), ino)),
                    // The kernel is not given a number that the journal does not have.
                    _ => match called.get(&ino) {
                        Some(&node) => drop(orphans.insert(node, ino)),
                        None => self.nodes.dead.lock().push(Gone { tree: tree.clone(), ino, node: None }),
                    },
                }
            }
            let written = unanswered.iter().filter_map(|request| Some((request.unique, request.written?)));
            answers = self.store.recover_answers(session, head.branch, written)?;
        }
        // Nothing refers to pages of a request that was not executed. One that was in several steps has an answer, and what its last
        // step was handed stays until `fsck --repair`.
        let not_executed = unanswered.iter().filter(|request| !answers.contains_key(&request.unique));
        for &(segment, page, count) in not_executed.flat_map(|request| &request.pages) {
            self.store.segments.punch(PageRun { segment, page, count })?;
        }
        self.nodes.inherit(inherited.called.iter().map(|(&node, &called)| (node, called)));
        let adopted = Adopted {
            inherited: RwLock::new(inherited),
            tree: tree.key,
            orphans: Mutex::new(orphans),
            asked: AtomicBool::new(false),
            session,
            answers: Mutex::new(answers),
        };
        let first = self.adopted.set(adopted).is_ok();
        debug_assert!(first, "a session is adopted once");
        if matches!(tree.key, TreeKey::RolledBack(_)) {
            // The predecessor may have died after the rollback and before it did this.
            self.reap_inherited(&tree)?;
        }
        Ok(())
    }

    /// Returns the stored answer to a request that was sent again, as the result of its operation; `None` if it was not
    /// executed.
    pub fn replay<T: FromAnswer>(&self, unique: u64, node: NodeId) -> Option<Result<T, FsError>> {
        let answer = *self.adopted.get()?.answers.lock().get(&unique)?;
        Some(match answer {
            Some(answer) => T::from_answer(answer, self, node),
            None => {
                let what = format!("stored answer to request {unique}: it was executed, or not");
                Err(StoreError::Corrupt { what }.into())
            }
        })
    }

    /// Forgets an answer that was given again.
    pub fn replayed(&self, unique: u64) {
        let Some(adopted) = self.adopted.get() else { return };
        if adopted.answers.lock().remove(&unique).is_some()
            && let Err(error) = self.store.forget_answer(KernelRequest { session: adopted.session, unique })
        {
            // It goes with the session.
            tracing::warn!(%error, unique, volume = %self.volume, "an answer that was given stays stored");
        }
    }

    /// Takes back references. Returns whether the kernel surely holds none any more.
    pub(super) fn forget_node(&self, id: NodeId, count: u64) {
        let gone = self.nodes.forget(id, count);
        let Some(adopted) = self.adopted.get().filter(|_| gone.is_for_good()) else { return };
        let called = adopted.inherited.read().called.get(&id).copied();
        if let Some(called) = called.filter(|_| !gone.was_in_memory()) {
            let mut dynamic = self.nodes.dynamic.lock();
            if dynamic.get(&called) == Some(&id) {
                dynamic.remove(&called);
            }
        }
        adopted.inherited.write().forget(id);
        // In memory, it goes the ordinary way.
        if let Some(ino) = adopted.is_over(id)
            && !gone.was_in_memory()
        {
            let tree = self.root.read().clone();
            if adopted.is_of(&tree) {
                self.nodes.dead.lock().push(Gone { tree, ino, node: None });
            }
        }
    }

    /// Finds a node that the kernel knows from a predecessor.
    pub(super) fn load_inherited(&self, id: NodeId) -> Result<Option<NodeRef<'_>>, FsError> {
        let Some(adopted) = self.adopted.get() else { return Ok(None) };
        let called = adopted.inherited.read().called.get(&id).copied();
        let (key, ino) = match called {
            Some(called) => called,
            None if id.0 < NodeId::FIRST_DYNAMIC => (TreeKey::Mounted, Ino(id.0)),
            None => return Ok(None),
        };
        let Some(tree) = self.tree_of(key)? else { return Ok(None) };
        let evictions = self.nodes.evictions();
        let looked = match tree.merged.stored(ino)? {
            Some(looked) => looked,
            None => match adopted.inherited.read().lower(ino) {
                Some(fact) => match looked_up_again(&tree, &fact)? {
                    Some(looked) => looked,
                    None => return Ok(None),
                },
                None => return Ok(None),
            },
        };
        self.nodes.insert(&tree, looked, evictions).map(Some)
    }

    fn tree_of(&self, key: TreeKey) -> Result<Option<Arc<Tree>>, FsError> {
        match key {
            TreeKey::Snapshot(branch, epoch) => self.browse(branch, epoch),
            TreeKey::Mounted | TreeKey::RolledBack(_) => {
                Ok(Some(self.root.read().clone()).filter(|tree| tree.key == key))
            }
        }
    }

    /// Notes on the volume what a person should know of.
    pub fn flag(&self, what: &str) -> Result<(), FsError> {
        match &self.root.read().head {
            Some(head) => self.store.flag_volume(head.volume, what),
            None => Ok(()),
        }
    }

    /// Returns how many orphans of a predecessor are kept for the kernel.
    pub fn inherited_orphans(&self) -> usize {
        self.adopted.get().map_or(0, |adopted| adopted.orphans.lock().len())
    }
}

/// Looks at an inode of the lowers where a predecessor found it.
fn looked_up_again(tree: &Tree, fact: &Fact<'_>) -> Result<Option<Looked>, FsError> {
    let Fact::Lower { ino, parent, layers, path } = *fact else { return Ok(None) };
    let Some(path) = LowerPath::parse(path) else { return Ok(None) };
    tree.merged.at_in_lower(ino, parent, &path, LayerSet::from_bits(layers))
}

impl super::node::NodeTable {
    /// Takes over what numbers stand for, and that the kernel holds references nobody here has counted.
    fn inherit(&self, called: impl Iterator<Item = (NodeId, (TreeKey, Ino))>) {
        self.inherited.store(true, Ordering::SeqCst);
        let mut dynamic = self.dynamic.lock();
        for (node, (tree, ino)) in called {
            if node.is_in_sequence() {
                self.next_dynamic.fetch_max(node.0 + 1, Ordering::SeqCst);
            }
            if node != NodeId::ROOT {
                dynamic.insert((tree, ino), node);
            }
        }
        self.first_own.store(self.next_dynamic.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

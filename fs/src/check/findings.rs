//! What was found so far.
//!
//! # Invariants
//! - Memory stays bounded however broken a store is: of one kind only the first issues are kept, and the rest is counted.
//! - What is wrong with an inode is told once, not once per snapshot that sees it.

use std::mem::discriminant;

use hashbrown::{HashMap, HashSet};

use super::{CheckReport, Issue};
use crate::ids::TreeId;

/// Issues of one kind that are kept.
const KEPT: usize = 1000;

/// Collects issues.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) report: CheckReport,
    kept: HashMap<std::mem::Discriminant<Issue>, usize>,
    told: HashSet<(std::mem::Discriminant<Issue>, TreeId, u64)>,
}

impl Findings {
    /// Adds an issue.
    pub(super) fn add(&mut self, issue: Issue) {
        let kept = self.kept.entry(discriminant(&issue)).or_default();
        if *kept < KEPT {
            *kept += 1;
            self.report.issues.push(issue);
        } else {
            self.report.omitted += 1;
        }
    }

    /// Adds an issue of an inode of `tree` unless one of its kind was told of that inode.
    pub(super) fn add_once(&mut self, tree: TreeId, issue: Issue) {
        let inode = issue.inode().unwrap_or(0);
        // The set is bounded too: it grows with the issues, of which a broken store may have millions.
        if self.told.len() < 1 << 20 && !self.told.insert((discriminant(&issue), tree, inode)) {
            return;
        }
        self.add(issue);
    }
}

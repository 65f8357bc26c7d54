//! The names of a directory that are in memory, so that what was looked up or made just before need not be read again.
//!
//! # Invariants
//! - What it knows is what the merged directory has: every change of a name goes through [`Names::bind`] or
//!   [`Names::unbind`], under the directory's lock.
//! - A *complete* one has every name there is: a name that it does not have does not exist.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::ids::Ino;
use crate::overlay::merged::MergedEntry;

/// Names of one directory that are kept; beyond that it starts afresh.
const LIMIT: usize = 1 << 14;

/// What is known of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// It leads to this inode.
    Bound(Ino),
    /// There is no such name.
    Absent,
    /// Somebody has to look.
    Unknown,
}

/// In place of an inode: a name that was looked for and is not there.
const ABSENT: Ino = Ino(0);

/// Names of a directory.
#[derive(Default)]
pub(crate) struct Names {
    known: HashMap<Box<[u8]>, Ino>,
    complete: bool,
}

/// What is in a directory, as far as it is known.
#[derive(Default)]
pub(crate) struct Children {
    /// Counts changes of its names.
    pub(crate) changes: u64,
    /// Names that were looked up or changed; filled in by readers.
    pub(crate) names: Mutex<Names>,
    /// What the lowers have in it; they do not change.
    pub(crate) below: Mutex<Option<Arc<Vec<MergedEntry>>>>,
}

impl Names {
    /// Those of a directory that was made just now.
    pub(crate) fn of_new_directory() -> Names {
        Names { known: HashMap::new(), complete: true }
    }

    pub(crate) fn get(&self, name: &[u8]) -> Known {
        match self.known.get(name) {
            Some(&ABSENT) => Known::Absent,
            Some(ino) => Known::Bound(*ino),
            None if self.complete => Known::Absent,
            None => Known::Unknown,
        }
    }

    /// Tells whether there is no name at all; `None` if that is not known.
    pub(crate) fn is_empty(&self) -> Option<bool> {
        let any = self.known.values().any(|ino| *ino != ABSENT);
        (any || self.complete).then_some(!any)
    }

    /// Notes what a name leads to.
    pub(crate) fn bind(&mut self, name: &[u8], ino: Ino) {
        self.note(name, ino);
    }

    /// Notes that a name does not exist, or no longer.
    pub(crate) fn unbind(&mut self, name: &[u8]) {
        if self.complete {
            self.known.remove(name);
        } else {
            self.note(name, ABSENT);
        }
    }

    fn note(&mut self, name: &[u8], ino: Ino) {
        if let Some(known) = self.known.get_mut(name) {
            *known = ino;
            return;
        }
        if self.known.len() >= LIMIT {
            *self = Names::default();
        }
        self.known.insert(name.into(), ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_has_no_name_that_nobody_gave_it() {
        let mut names = Names::of_new_directory();
        assert_eq!((names.get(b"a"), names.is_empty()), (Known::Absent, Some(true)));
        names.bind(b"a", Ino(20));
        assert_eq!((names.get(b"a"), names.is_empty()), (Known::Bound(Ino(20)), Some(false)));
        names.unbind(b"a");
        assert_eq!((names.get(b"a"), names.is_empty()), (Known::Absent, Some(true)));
    }

    #[test]
    fn of_another_directory_only_what_was_noted_is_known() {
        let mut names = Names::default();
        assert_eq!((names.get(b"a"), names.is_empty()), (Known::Unknown, None));
        names.unbind(b"a");
        assert_eq!((names.get(b"a"), names.is_empty()), (Known::Absent, None));
        names.bind(b"b", Ino(20));
        assert_eq!((names.get(b"b"), names.is_empty()), (Known::Bound(Ino(20)), Some(false)));
    }

    #[test]
    fn too_many_names_make_it_forget_that_it_is_complete() {
        let mut names = Names::of_new_directory();
        for number in 0..=LIMIT {
            names.bind(number.to_string().as_bytes(), Ino(20));
        }
        assert_eq!(names.get(b"0"), Known::Unknown);
        assert_eq!(names.get(LIMIT.to_string().as_bytes()), Known::Bound(Ino(20)));
    }
}

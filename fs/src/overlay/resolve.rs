//! Resolving a name through layers: the one place that knows what a whiteout and an opaque mark hide.
//!
//! # Overview
//! ```text
//!   layer 0   Directory          ─┐ merged
//!   layer 1   Absent              │
//!   layer 2   Directory, opaque  ─┘ merged, and nothing beneath it is asked
//!   layer 3   File                  hidden
//! ```
//! [`resolve`] is pure: it sees only what each layer says about one name, top layer first, and asks no
//! layer once the answer is fixed. Lookup, directory listing, rename and copy-up all decide through it.
//!
//! # Invariants
//! - Nothing beneath a whiteout, a file or an opaque directory can change the answer.
//! - A layer that could not be asked is an error, never an absent name.

use std::fmt;

/// What a single layer says about a name.
///
/// `I` is whatever the layer knows about an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerSays<I> {
    /// The layer has no opinion; ask the next one down.
    Absent,
    /// The name is deleted here; lower layers must not be asked.
    Whiteout,
    /// Anything that is not a directory.
    File(I),
    /// A directory, to be merged with the directories beneath it.
    Directory {
        /// The directory itself.
        inode: I,
        /// Hides every lower directory of the same name.
        opaque: bool,
    },
}

impl<I> LayerSays<I> {
    /// Says the same with another kind of inode.
    pub fn map<J>(self, f: impl FnOnce(I) -> J) -> LayerSays<J> {
        match self {
            LayerSays::Absent => LayerSays::Absent,
            LayerSays::Whiteout => LayerSays::Whiteout,
            LayerSays::File(inode) => LayerSays::File(f(inode)),
            LayerSays::Directory { inode, opaque } => LayerSays::Directory { inode: f(inode), opaque },
        }
    }
}

/// What all layers together say about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved<I> {
    /// The name does not exist.
    Absent,
    /// A file of one layer.
    File {
        /// The layer it is in, counted from the top.
        layer: usize,
        /// The inode there.
        inode: I,
    },
    /// A directory, merged from one or more layers.
    Directory {
        /// The layers that take part; the topmost gives the attributes.
        layers: LayerSet,
        /// The inode in the topmost of them.
        inode: I,
    },
}

/// Resolves a name from what the layers say about it, top layer first.
///
/// At most [`LayerSet::CAPACITY`] layers. The iterator is advanced only as far as the answer needs, so it
/// may do the asking. The first error met on the way is returned.
pub fn resolve<I, E>(layers: impl IntoIterator<Item = Result<LayerSays<I>, E>>) -> Result<Resolved<I>, E> {
    let mut merged: Option<(LayerSet, I)> = None;
    for (layer, says) in layers.into_iter().enumerate() {
        match says? {
            LayerSays::Absent => {}
            LayerSays::Whiteout => break,
            LayerSays::File(inode) => match merged {
                // A directory hides the file, and the file what is beneath it.
                Some(_) => break,
                None => return Ok(Resolved::File { layer, inode }),
            },
            LayerSays::Directory { inode, opaque } => {
                match &mut merged {
                    Some((layers, _)) => layers.insert(layer),
                    None => merged = Some((LayerSet::only(layer), inode)),
                }
                if opaque {
                    break;
                }
            }
        }
    }
    Ok(match merged {
        Some((layers, inode)) => Resolved::Directory { layers, inode },
        None => Resolved::Absent,
    })
}

/// A set of layers by their number from the top.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct LayerSet(u64);

impl LayerSet {
    /// How many layers can be told apart.
    pub const CAPACITY: usize = 64;

    /// No layer at all.
    pub const EMPTY: Self = Self(0);

    /// Returns the set of this one layer, which is below [`LayerSet::CAPACITY`].
    pub fn only(layer: usize) -> Self {
        assert!(layer < Self::CAPACITY, "layer {layer} does not exist");
        Self(1 << layer)
    }

    /// Returns the set of the top `count` layers, at most [`LayerSet::CAPACITY`].
    pub fn top(count: usize) -> Self {
        (0..count).collect()
    }

    /// Returns the set with these bits, bit 0 for the topmost layer.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the set as bits, bit 0 for the topmost layer.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Adds a layer, which is below [`LayerSet::CAPACITY`].
    pub fn insert(&mut self, layer: usize) {
        self.0 |= Self::only(layer).0;
    }

    /// Returns whether the layer is in the set.
    pub fn contains(self, layer: usize) -> bool {
        layer < Self::CAPACITY && self.0 & (1 << layer) != 0
    }

    /// Returns whether no layer is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns how many layers are in the set.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Returns the topmost layer of the set.
    pub fn first(self) -> Option<usize> {
        self.iter().next()
    }

    /// Returns the set renumbered for the layers beneath layer 0, which falls out of it.
    ///
    /// Turns a result of `resolve(upper, lowers…)` into numbers of lowers.
    #[must_use]
    pub fn beneath_first(self) -> Self {
        Self(self.0 >> 1)
    }

    /// Returns the layers from the top down.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let layer = rest.trailing_zeros() as usize;
            rest &= rest.checked_sub(1)?;
            Some(layer)
        })
    }
}

impl FromIterator<usize> for LayerSet {
    fn from_iter<T: IntoIterator<Item = usize>>(layers: T) -> Self {
        let mut set = Self::EMPTY;
        for layer in layers {
            set.insert(layer);
        }
        set
    }
}

impl fmt::Debug for LayerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::LayerSays::{Absent, File, Whiteout};
    use super::*;

    /// A directory, known by a number.
    fn dir(inode: u32) -> LayerSays<u32> {
        LayerSays::Directory { inode, opaque: false }
    }

    fn opaque(inode: u32) -> LayerSays<u32> {
        LayerSays::Directory { inode, opaque: true }
    }

    fn resolved(layers: &[LayerSays<u32>]) -> Resolved<u32> {
        let Ok(resolved) = resolve(layers.iter().copied().map(Ok::<_, Infallible>));
        resolved
    }

    fn file(layer: usize, inode: u32) -> Resolved<u32> {
        Resolved::File { layer, inode }
    }

    fn merged<const N: usize>(layers: [usize; N], inode: u32) -> Resolved<u32> {
        Resolved::Directory { layers: layers.into_iter().collect(), inode }
    }

    #[test]
    fn one_layer_speaks_for_itself() {
        let table = [
            (Absent, Resolved::Absent),
            (Whiteout, Resolved::Absent),
            (File(1), file(0, 1)),
            (dir(1), merged([0], 1)),
            (opaque(1), merged([0], 1)),
        ];
        assert_eq!(resolved(&[]), Resolved::Absent);
        for (layer, expected) in table {
            assert_eq!(resolved(&[layer]), expected, "{layer:?}");
        }
    }

    #[test]
    fn two_layers_in_every_combination() {
        let table = [
            (Absent, Absent, Resolved::Absent),
            (Absent, Whiteout, Resolved::Absent),
            (Absent, File(2), file(1, 2)),
            (Absent, dir(2), merged([1], 2)),
            (Absent, opaque(2), merged([1], 2)),
            (Whiteout, Absent, Resolved::Absent),
            (Whiteout, Whiteout, Resolved::Absent),
            (Whiteout, File(2), Resolved::Absent),
            (Whiteout, dir(2), Resolved::Absent),
            (Whiteout, opaque(2), Resolved::Absent),
            (File(1), Absent, file(0, 1)),
            (File(1), Whiteout, file(0, 1)),
            (File(1), File(2), file(0, 1)),
            (File(1), dir(2), file(0, 1)),
            (File(1), opaque(2), file(0, 1)),
            (dir(1), Absent, merged([0], 1)),
            (dir(1), Whiteout, merged([0], 1)),
            (dir(1), File(2), merged([0], 1)),
            (dir(1), dir(2), merged([0, 1], 1)),
            (dir(1), opaque(2), merged([0, 1], 1)),
            (opaque(1), Absent, merged([0], 1)),
            (opaque(1), Whiteout, merged([0], 1)),
            (opaque(1), File(2), merged([0], 1)),
            (opaque(1), dir(2), merged([0], 1)),
            (opaque(1), opaque(2), merged([0], 1)),
        ];
        for (top, bottom, expected) in table {
            assert_eq!(resolved(&[top, bottom]), expected, "{top:?} over {bottom:?}");
        }
    }

    #[test]
    fn a_merge_skips_silent_layers_and_ends_at_the_first_obstacle() {
        let table: [(&[LayerSays<u32>], Resolved<u32>); 4] = [
            (&[Absent, dir(1), Absent, dir(3)], merged([1, 3], 1)),
            (&[dir(0), Whiteout, dir(2)], merged([0], 0)),
            (&[dir(0), File(1), dir(2)], merged([0], 0)),
            (&[dir(0), opaque(1), dir(2)], merged([0, 1], 0)),
        ];
        for (layers, expected) in table {
            assert_eq!(resolved(layers), expected, "{layers:?}");
        }
    }

    #[test]
    fn a_layer_that_cannot_be_asked_is_not_absent() {
        assert_eq!(resolve([Ok(Absent), Err("io"), Ok(File(1))]), Err("io"));
        assert_eq!(resolve([Ok(dir(1)), Err("io")]), Err("io"));
    }

    #[test]
    fn a_layer_beneath_the_answer_is_not_asked() {
        for answer in [Whiteout, File(1), opaque(1)] {
            let layers = [Ok(Absent), Ok(answer), Err("asked")];
            assert!(resolve(layers).is_ok(), "{answer:?}");
        }
    }

    #[test]
    fn a_set_lists_its_layers_from_the_top() {
        let set: LayerSet = [63, 0, 5].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!((set.len(), set.first()), (3, Some(0)));
        assert_eq!(set.beneath_first().iter().collect::<Vec<_>>(), [4, 62]);
        assert_eq!(LayerSet::from_bits(set.bits()), set);
        assert_eq!(LayerSet::top(64).bits(), u64::MAX);
        assert_eq!(LayerSet::EMPTY.first(), None);
        assert!(!set.contains(64) && !set.contains(1) && set.contains(63));
    }

    fn any_layer() -> impl Strategy<Value = LayerSays<u32>> {
        prop_oneof![
            3 => Just(Absent),
            1 => Just(Whiteout),
            1 => any::<u32>().prop_map(File),
            3 => any::<u32>().prop_map(dir),
            1 => any::<u32>().prop_map(opaque),
        ]
    }

    fn any_layers() -> impl Strategy<Value = Vec<LayerSays<u32>>> {
        prop::collection::vec(any_layer(), 0..10)
    }

    proptest! {
        #[test]
        fn what_is_beneath_a_stop_never_matters(
            above in any_layers(),
            stop in prop_oneof![Just(Whiteout), Just(File(7)), Just(opaque(7))],
            beneath in any_layers(),
        ) {
            let without = [above, vec![stop]].concat();
            let with = [without.clone(), beneath].concat();
            prop_assert_eq!(resolved(&with), resolved(&without));
        }

        #[test]
        fn an_absent_layer_changes_nothing_but_numbers(layers in any_layers(), at in 0_usize..10) {
            let at = at.min(layers.len());
            let mut with = layers.clone();
            with.insert(at, Absent);
            let shift = |layer: usize| if layer < at { layer } else { layer + 1 };
            let expected = match resolved(&layers) {
                Resolved::Absent => Resolved::Absent,
                Resolved::File { layer, inode } => file(shift(layer), inode),
                Resolved::Directory { layers, inode } => Resolved::Directory {
                    layers: layers.iter().map(shift).collect(),
                    inode,
                },
            };
            prop_assert_eq!(resolved(&with), expected);
        }

        #[test]
        fn the_topmost_opinion_gives_the_inode(layers in any_layers()) {
            let top = layers.iter().position(|says| *says != Absent);
            match (resolved(&layers), top.map(|top| (top, layers[top]))) {
                (Resolved::Absent, None | Some((_, Whiteout))) => {}
                (Resolved::File { layer, inode }, Some((top, File(first)))) => {
                    prop_assert_eq!((layer, inode), (top, first));
                }
                (
                    Resolved::Directory { layers: merged, inode },
                    Some((top, LayerSays::Directory { inode: first, .. })),
                ) => {
                    prop_assert_eq!((merged.first(), inode), (Some(top), first));
                    for layer in merged.iter() {
                        let is_dir = matches!(layers[layer], LayerSays::Directory { .. });
                        prop_assert!(is_dir);
                    }
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

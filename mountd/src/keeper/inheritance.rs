//! What a worker gets from the one before.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use super::environment::{Environment, Handover, Predecessor};
use super::wire_name::WireName;
use crate::descriptor;

/// The first descriptor that is passed on; those below are the standard streams.
const FIRST: RawFd = 3;

/// What the keeper passed on.
#[derive(Debug)]
pub(crate) struct Inheritance {
    /// Names and descriptors, all closed on exec. Those of one name stand together, in the order they were handed over in.
    pub(crate) descriptors: Vec<(String, OwnedFd)>,
    /// What became of the worker before.
    pub(crate) predecessor: Predecessor,
    /// How many workers were replaced, as far as the keeper tells.
    pub(crate) takeovers: u64,
}

impl Inheritance {
    /// Returns what a process without a keeper has.
    pub(crate) fn none() -> Inheritance {
        Inheritance { descriptors: Vec::new(), predecessor: Predecessor::None, takeovers: 0 }
    }

    /// Takes out everything that was kept under a name, in the order it was handed over in; nothing if it was not kept.
    pub(crate) fn remove(&mut self, name: &str) -> Vec<OwnedFd> {
        let (taken, left) =
            std::mem::take(&mut self.descriptors).into_iter().partition(|(own, _)| own == name);
        self.descriptors = left;
        taken.into_iter().map(|(_, descriptor): (String, OwnedFd)| descriptor).collect()
    }

    pub(super) fn take(environment: &Environment) -> io::Result<Inheritance> {
        let found = take_descriptors(&environment.descriptors)?;
        let was_there = !found.is_empty();
        let handover = environment.handover.unwrap_or(if was_there {
            // systemd says nothing of a predecessor, but somebody left these.
            Handover { predecessor: Predecessor::Unknown, takeovers: 1 }
        } else {
            Handover { predecessor: Predecessor::None, takeovers: 0 }
        });
        Ok(Inheritance {
            descriptors: complete(found),
            predecessor: handover.predecessor,
            takeovers: handover.takeovers,
        })
    }

    pub(super) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (name, _) in &self.descriptors {
            *counts.entry(name.clone()).or_default() += 1;
        }
        counts
    }
}

/// Takes over the descriptors from number 3 on.
fn take_descriptors(names: &[String]) -> io::Result<Vec<(String, OwnedFd)>> {
    let numbers: Vec<RawFd> = (FIRST..).take(names.len()).collect();
    let descriptors = descriptor::take_over(&numbers)?;
    Ok(names.iter().cloned().zip(descriptors).collect())
}

/// Returns the descriptors of names that are complete, in order. What a worker was handing over when it died is nobody's.
fn complete(found: Vec<(String, OwnedFd)>) -> Vec<(String, OwnedFd)> {
    let mut named: Vec<(WireName, OwnedFd)> = Vec::new();
    for (wire, descriptor) in found {
        match WireName::parse(&wire) {
            Some(name) => named.push((name, descriptor)),
            None => tracing::warn!(name = wire, "inherited a descriptor that nobody knows; it is closed"),
        }
    }
    named.sort_by(|(one, _), (other, _)| one.cmp(other));
    let (mut whole, mut rest) = (Vec::new(), named.into_iter().peekable());
    while let Some((first, descriptor)) = rest.next() {
        let mut group = vec![(first.clone(), descriptor)];
        while let Some(next) = rest.next_if(|(next, _)| next.name == first.name) {
            group.push(next);
        }
        let in_order = group
            .iter()
            .enumerate()
            .all(|(place, (name, _))| name.index == place && name.count == first.count);
        if in_order && group.len() == first.count {
            whole.extend(group.into_iter().map(|(wire, descriptor)| (wire.name, descriptor)));
        } else {
            tracing::info!(name = first.name, "the previous worker died before it had handed this over");
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    fn named(names: &[&str]) -> Vec<(String, OwnedFd)> {
        names.iter().map(|name| ((*name).to_owned(), File::open("/dev/null").unwrap().into())).collect()
    }

    fn names(found: Vec<(String, OwnedFd)>) -> Vec<String> {
        found.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_belongs_together_is_put_in_order() {
        let found = named(&["b_1of2", "a_0of1", "b_0of2"]);
        let first: Vec<RawFd> = [1, 2, 0].iter().map(|&at: &usize| found[at].1.as_raw_fd()).collect();
        let whole = complete(found);
        assert_eq!(whole.iter().map(|(_, descriptor)| descriptor.as_raw_fd()).collect::<Vec<_>>(), first);
        assert_eq!(names(whole), ["a", "b", "b"]);
    }

    #[test]
    fn half_of_a_name_is_dropped() {
        assert_eq!(names(complete(named(&["a_0of2", "b_0of1", "c_1of2", "stored"]))), ["b"]);
        assert_eq!(names(complete(named(&["a_0of2", "a_0of1"]))), [""; 0]);
    }

    #[test]
    fn all_of_a_name_is_taken_out_at_once() {
        let mut inheritance = Inheritance {
            descriptors: complete(named(&["a_0of1", "b_0of2", "b_1of2"])),
            predecessor: Predecessor::Unknown,
            takeovers: 1,
        };
        assert_eq!(inheritance.counts(), BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]));
        assert_eq!(inheritance.remove("b").len(), 2);
        assert_eq!(inheritance.remove("b").len(), 0);
        assert_eq!(names(inheritance.descriptors), ["a"]);
    }
}

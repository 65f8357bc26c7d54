//! The names that single descriptors have with the keeper.
//!
//! systemd keeps no order among descriptors of one name, nor does it know how many belong together. So each has a name
//! of its own, `NAME_INDEXofCOUNT`: what is `mount-3` to a caller are `mount-3_0of2` and `mount-3_1of2` on the wire.

use std::fmt;
use std::io;

/// The name of one descriptor out of those that were handed over together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct WireName {
    pub(super) name: String,
    pub(super) index: usize,
    pub(super) count: usize,
}

/// Names travel in an environment variable, all together.
const LONGEST: usize = 64;

impl WireName {
    /// Refuses names that cannot be told apart on the wire.
    pub(super) fn check(name: &str) -> io::Result<()> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        if name.is_empty() || name.len() > LONGEST || !name.bytes().all(legal) {
            let message = format!("{name:?} is no name for a descriptor");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(())
    }

    /// Returns the names of `count` descriptors that are handed over together.
    pub(super) fn all(name: &str, count: usize) -> impl Iterator<Item = WireName> {
        (0..count).map(move |index| WireName { name: name.to_owned(), index, count })
    }

    /// Returns what a name on the wire stands for; `None` if it is not one of ours.
    pub(super) fn parse(wire: &str) -> Option<WireName> {
        let (name, place) = wire.rsplit_once('_')?;
        let (index, count) = place.split_once("of")?;
        let (index, count) = (index.parse().ok()?, count.parse().ok()?);
        WireName::check(name).ok()?;
        (index < count).then(|| WireName { name: name.to_owned(), index, count })
    }
}

impl fmt::Display for WireName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}of{}", self.name, self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_wire() {
        for wire in WireName::all("mount-3.x", 12) {
            assert_eq!(WireName::parse(&wire.to_string()), Some(wire));
        }
    }

    #[test]
    fn what_is_not_ours_is_no_name() {
        for wire in ["", "stored", "a_", "a_1", "a_1of1", "a_0of", "A_0of1", "_0of1", "a_-1of2", "a:b_0of1"] {
            assert_eq!(WireName::parse(wire), None, "{wire}");
        }
    }

    #[test]
    fn names_that_would_break_the_protocol_are_refused() {
        for name in ["", "a:b", "a\nb", "a_b", "Ä", &"x".repeat(65)] {
            assert_eq!(WireName::check(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        WireName::check("mount-0.fuse").unwrap();
    }
}

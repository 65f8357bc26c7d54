//! The source that the mount table names of a mount, `durdir:NAME#STORE`: what is mounted, and out of which store.
//!
//! Volumes of different stores may be called the same, and a dead mount cannot be asked whose it was.

use crate::store::StoreMark;

const PREFIX: &str = "durdir:";

/// Returns the source of the mount of `name`, which is `VOLUME` or `VOLUME@EPOCH`.
pub fn mount_source(name: &str, store: StoreMark) -> String {
    format!("{PREFIX}{name}#{store}")
}

/// Returns the name and the store that a source tells, if it is one of ours.
pub(super) fn parse(source: &str) -> Option<(&str, StoreMark)> {
    let (name, store) = source.strip_prefix(PREFIX)?.rsplit_once('#')?;
    Some((name, store.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let store = StoreMark::of(Path::new("/")).unwrap();
        assert_eq!(mount_source("v", store), format!("durdir:v#{store}"));
        assert_eq!(parse(&mount_source("v@7", store)), Some(("v@7", store)));
        for other in ["durdir:v", "durdir:v#", "tmpfs", "other:v#1.2"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}

//! The text of `/proc/<pid>/maps` (see `proc_pid_maps(5)`).
//!
//! ```text
//! 7f31c6a00000-7f31c6a08000 rw-s 00001000 00:33 17      /srv/home/db.sqlite-shm
//! ```
//! It comes from the kernel, but holds names that any user may choose: a line that is not
//! understood is skipped, and nothing in it can make two lines of one, because the kernel escapes
//! newlines.

use std::ops::Range;

use crate::fuse::DeviceId;

/// A shared mapping of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SharedMapping {
    pub(super) range: Range<u64>,
    /// Whether the process may store into it now. If not, it may have done so before `mprotect(2)`.
    pub(super) writable: bool,
    pub(super) device: DeviceId,
    pub(super) inode: u64,
    /// As the kernel shows it, newlines escaped, and with ` (deleted)` behind a removed name.
    pub(super) path: Vec<u8>,
}

/// Returns what `line` says, if it is a shared mapping of a file.
pub(super) fn parse_shared(line: &[u8]) -> Option<SharedMapping> {
    let (addresses, rest) = word(line)?;
    let (flags, rest) = word(rest)?;
    // Most lines end here.
    if flags.get(3) != Some(&b's') {
        return None;
    }
    let (_offset, rest) = word(rest)?;
    let (device, rest) = word(rest)?;
    let (inode, rest) = word(rest)?;
    let inode = std::str::from_utf8(inode).ok()?.parse().ok().filter(|inode| *inode != 0)?;
    let (start, end) = hex_pair(addresses, '-')?;
    let (major, minor) = hex_pair(device, ':')?;
    Some(SharedMapping {
        range: start..end,
        writable: flags.get(1) == Some(&b'w'),
        device: DeviceId { major: major.try_into().ok()?, minor: minor.try_into().ok()? },
        inode,
        path: rest.trim_ascii_start().to_vec(),
    })
}

/// Splits off the first of the words that spaces separate.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (!word.is_empty()).then(|| (word, rest.get(1..).unwrap_or_default()))
}

fn hex_pair(text: &[u8], separator: char) -> Option<(u64, u64)> {
    let (left, right) = std::str::from_utf8(text).ok()?.split_once(separator)?;
    Some((u64::from_str_radix(left, 16).ok()?, u64::from_str_radix(right, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Option<SharedMapping> {
        parse_shared(line.as_bytes())
    }

    #[test]
    fn a_shared_mapping_is_understood() {
        let expected = SharedMapping {
            range: 0x7f31c6a00000..0x7f31c6a08000,
            writable: true,
            device: DeviceId { major: 0, minor: 0x133 },
            inode: 17,
            path: b"/srv/my home/db-shm (deleted)".to_vec(),
        };
        let line = "7f31c6a00000-7f31c6a08000 rw-s 00001000 00:133 17                         /srv/my home/db-shm (deleted)";
        assert_eq!(parse(line), Some(expected.clone()));
        let read_only = line.replace("rw-s", "r--s");
        assert_eq!(parse(&read_only), Some(SharedMapping { writable: false, ..expected.clone() }));
        let nameless = "7f31c6a00000-7f31c6a08000 rw-s 00001000 00:133 17 ";
        assert_eq!(parse(nameless), Some(SharedMapping { path: Vec::new(), ..expected }));
    }

    #[test]
    fn everything_else_is_skipped() {
        for line in [
            "",
            "7f31c6a00000-7f31c6a08000 rw-p 00001000 00:33 17 /srv/private",
            "55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]",
            "7f31c6a00000-7f31c6a08000 rw-s 00000000 00:00 0 ",
            "7f31c6a00000-7f31c6a08000 rw-s 00000000",
            "7f31c6a00000 rw-s 00000000 00:33 17 /x",
            "zzz-yyy rw-s 00000000 00:33 17 /x",
            "7f31c6a00000-7f31c6a08000 rw-s 00000000 00:133333333333 17 /x",
            "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse_shared(&line);
        }

        #[test]
        fn a_name_cannot_change_what_is_before_it(name in "[ -~]{1,80}") {
            let line = format!("1000-2000 rw-s 00000000 00:33 17 /{name}");
            let mapping = parse(&line).unwrap();
            prop_assert_eq!(mapping.inode, 17);
            prop_assert_eq!(mapping.device, DeviceId { major: 0, minor: 0x33 });
            prop_assert_eq!(mapping.path, format!("/{name}").into_bytes());
        }
    }
}

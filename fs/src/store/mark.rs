//! What tells a store from the others of a machine, also for who cannot open it.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

/// Tells a store from every other one of this machine while that runs: device and inode of its directory. As text both are
/// hexadecimal, with a dot between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoreMark {
    device: u64,
    ino: u64,
}

impl StoreMark {
    /// Returns the mark of the store in a directory.
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn of(dir: &Path) -> io::Result<StoreMark> {
        let found = std::fs::metadata(dir)?;
        Ok(StoreMark { device: found.dev(), ino: found.ino() })
    }
}

impl fmt::Display for StoreMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.device, self.ino)
    }
}

/// The text is not that of a mark.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not the mark of a store")]
pub struct NoMark;

impl FromStr for StoreMark {
    type Err = NoMark;

    fn from_str(text: &str) -> Result<StoreMark, NoMark> {
        let (device, ino) = text.split_once('.').ok_or(NoMark)?;
        let number = |digits| u64::from_str_radix(digits, 16).map_err(|_| NoMark);
        Ok(StoreMark { device: number(device)?, ino: number(ino)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_directory_and_is_read_as_it_is_written() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [here, there] = [here.path(), there.path()].map(|dir| StoreMark::of(dir).unwrap());
        assert_ne!(here, there);
        assert_eq!(here.to_string().parse(), Ok(here));
        assert_eq!(StoreMark { device: 0xfe01, ino: 0x2a }.to_string(), "fe01.2a");
        for other in ["", "1", "1.", ".1", "x.y", "1.2.3"] {
            assert_eq!(other.parse::<StoreMark>(), Err(NoMark), "{other}");
        }
    }
}

//! The descriptors that workers leave with the supervisor.

use std::io;
use std::os::fd::OwnedFd;

/// The number of the first descriptor that a worker gets.
pub(super) const FIRST: i32 = 3;

/// Two for every mount, and some: what the unit file gives a worker under systemd.
pub(super) const LIMIT: usize = 4096;

/// All names go into one environment variable, of which the kernel takes 128 KiB.
const NAMES_LIMIT: usize = 120 << 10;

/// Names and descriptors, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Kept {
    entries: Vec<(String, OwnedFd)>,
}

impl Kept {
    /// Takes over what was kept by this process before it became another program.
    pub(super) fn adopt(entries: Vec<(String, OwnedFd)>) -> Kept {
        Kept { entries }
    }

    /// Keeps descriptors under a name, in place of what had that name.
    ///
    /// # Errors
    /// The name cannot be passed on, or there is no room for it.
    pub(super) fn store(&mut self, name: &str, descriptors: Vec<OwnedFd>) -> Result<(), &'static str> {
        if name.is_empty()
            || name.len() > 255
            || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
        {
            return Err("its name cannot be passed on");
        }
        if descriptors.is_empty() {
            // Without room for descriptors of its own a process does not get those that are sent to it.
            return Err("no descriptor came with it");
        }
        let others = self.entries.iter().filter(|(own, _)| own != name);
        let names: usize = others.clone().map(|(name, _)| name.len() + 1).sum();
        if others.count() + descriptors.len() > LIMIT
            || names + descriptors.len() * (name.len() + 1) > NAMES_LIMIT
        {
            return Err("there are too many");
        }
        self.remove(name);
        self.entries.extend(descriptors.into_iter().map(|descriptor| (name.to_owned(), descriptor)));
        Ok(())
    }

    /// Closes what is kept under a name.
    pub(super) fn remove(&mut self, name: &str) {
        self.entries.retain(|(own, _)| own != name);
    }

    /// Returns how many descriptors are kept.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns names and descriptors.
    pub(super) fn entries(&self) -> &[(String, OwnedFd)] {
        &self.entries
    }

    /// Returns a duplicate of every descriptor.
    pub(super) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        self.entries.iter().map(|(_, descriptor)| descriptor.try_clone()).collect()
    }

    /// Returns all names, as `LISTEN_FDNAMES` has them.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.entries.iter().map(|(name, _)| name.as_str()).collect();
        names.join(":")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn descriptors_are_kept_in_order_and_replaced_by_name() {
        let mut kept = Kept::default();
        kept.store("a", vec![null()]).unwrap();
        kept.store("b", vec![null(), null()]).unwrap();
        assert_eq!((kept.names().as_str(), kept.len()), ("a:b:b", 3));
        kept.store("a", vec![null()]).unwrap();
        assert_eq!(kept.names(), "b:b:a");
        kept.remove("b");
        kept.remove("none");
        assert_eq!((kept.names().as_str(), kept.duplicates().unwrap().len()), ("a", 1));
    }

    #[test]
    fn what_cannot_be_passed_on_is_not_kept() {
        let mut kept = Kept::default();
        for name in ["", "a:b", "a\nb", "a b", &"x".repeat(256)] {
            assert!(kept.store(name, vec![null()]).is_err(), "{name:?}");
        }
        kept.store("a", vec![null()]).unwrap();
        assert!(kept.store("a", Vec::new()).is_err());
        let too_many = (0..=LIMIT).map(|_| null()).collect();
        assert!(kept.store("a", too_many).is_err());
        assert_eq!((kept.names().as_str(), kept.len()), ("a", 1), "what is kept stays");
        kept.remove("a");
        let long = "x".repeat(250);
        let fits = (0..)
            .take_while(|number| kept.store(&format!("{long}{number:05}"), vec![null()]).is_ok())
            .count();
        assert_eq!(fits, NAMES_LIMIT / 256);
        assert!(kept.names().len() < 128 << 10);
    }
}

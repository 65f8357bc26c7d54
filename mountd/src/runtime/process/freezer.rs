//! Control groups, for what they do to all processes of a sandbox at once: hold them still, and end them.
//!
//! # Overview
//! ```text
//!   /sys/fs/cgroup/durdir/ID/        frozen and killed as a whole
//!                           NAME/    the processes of one container
//! ```
//! Version 2 is used where it is mounted, also beside version 1, and the freezer of version 1 otherwise. The groups are below the
//! top of the hierarchy, not below mountd's own: sandboxes outlive a worker, and a service's group may be ended with it.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::runtime::files::{self, at};
use crate::runtime::processes::Held;
use crate::runtime::program::await_one;
use crate::runtime::{Deadline, RuntimeError, Sandbox};

/// Between two looks at what does not tell when it changes.
const LOOK: Duration = Duration::from_millis(1);

/// Which interface the kernel offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Version {
    One,
    Two,
}

/// Where control groups are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    pub(super) top: PathBuf,
}

/// What the processes of a group do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Activity {
    /// There is no such group.
    Absent,
    /// It has no processes.
    Empty,
    /// They run.
    Running,
    /// They are held still, or about to be: one that cannot be held yet may come to it at any time.
    Frozen,
}

/// The group of one sandbox.
pub(super) struct Group {
    version: Version,
    directory: PathBuf,
}

impl Hierarchy {
    /// Finds what can freeze here.
    pub(super) fn find() -> Result<Hierarchy, RuntimeError> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = fs::read(path).map_err(at("read", path))?;
        Hierarchy::among(&String::from_utf8_lossy(&mounts)).ok_or_else(|| RuntimeError::Unsupported {
            runtime: super::NAME,
            what: "pause",
            why: "neither control groups of version 2 nor the freezer of version 1 is mounted".to_owned(),
        })
    }

    /// Chooses among the mounts that `/proc/self/mountinfo` lists.
    pub(super) fn among(mounts: &str) -> Option<Hierarchy> {
        let found = |version| {
            let mut lines = mounts.lines().filter_map(|line| line.split_once(" - "));
            lines.find_map(|(mount, file_system)| {
                let mut words = file_system.split(' ');
                let matches = match (words.next()?, version) {
                    ("cgroup2", Version::Two) => true,
                    ("cgroup", Version::One) => words.nth(1)?.split(',').any(|option| option == "freezer"),
                    _ => false,
                };
                let top = mount.split(' ').nth(4)?;
                matches.then(|| Hierarchy { version, top: top.into() })
            })
        };
        found(Version::Two).or_else(|| found(Version::One))
    }

    /// Returns the group of a sandbox, which need not be there.
    pub(super) fn group(&self, sandbox: &Sandbox) -> Group {
        Group { version: self.version, directory: self.top.join("durdir").join(&sandbox.id) }
    }
}

impl Group {
    /// Makes it, with a group inside for each container.
    pub(super) fn make(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        sandbox
            .containers
            .iter()
            .try_for_each(|container| files::create_directory(&self.directory.join(&container.name)))
    }

    /// Returns the file by which a process joins a container's group.
    pub(super) fn entrance(&self, container: &str) -> PathBuf {
        self.directory.join(container).join("cgroup.procs")
    }

    /// Returns what its processes do.
    pub(super) fn activity(&self) -> Result<Activity, RuntimeError> {
        if !self.directory.is_dir() {
            return Ok(Activity::Absent);
        }
        if self.processes()?.is_empty() {
            return Ok(Activity::Empty);
        }
        let frozen = match self.version {
            Version::Two => {
                files::read(&self.directory.join("cgroup.freeze"))?.is_some_and(|asked| asked.trim() == "1")
            }
            Version::One => !matches!(&*self.freezer_state()?, "" | "THAWED"),
        };
        Ok(if frozen { Activity::Frozen } else { Activity::Running })
    }

    /// Holds all its processes still, and waits until they are. `false` if one was not in time: then they go on.
    pub(super) fn freeze(&self, deadline: Deadline) -> Result<bool, RuntimeError> {
        let frozen = match self.version {
            Version::Two => {
                self.write("cgroup.freeze", "1")?;
                self.await_event("frozen", true, deadline)?
            }
            Version::One => {
                self.write("freezer.state", "FROZEN")?;
                self.await_state(deadline, |group| Ok(group.freezer_state()? == "FROZEN"))?
            }
        };
        if !frozen {
            self.thaw()?;
        }
        Ok(frozen)
    }

    /// Lets its processes go on.
    pub(super) fn thaw(&self) -> Result<(), RuntimeError> {
        match self.version {
            Version::Two => self.write("cgroup.freeze", "0"),
            Version::One => self.write("freezer.state", "THAWED"),
        }
    }

    /// Ends all its processes, and takes it away. `false` if one has not died in time.
    pub(super) fn end(&self, deadline: Deadline) -> Result<bool, RuntimeError> {
        let ended = self.end_processes(deadline)?;
        Ok(ended && self.await_state(deadline, Group::is_removed)?)
    }

    /// Ends all its processes. `false` if one has not died in time.
    pub(super) fn end_processes(&self, deadline: Deadline) -> Result<bool, RuntimeError> {
        if !self.directory.is_dir() {
            return Ok(true);
        }
        self.await_state(deadline, |group| {
            // Again and again: one that is told of here may have started another.
            for process in group.processes()? {
                process.kill().map_err(at("end processes of", &group.directory))?;
            }
            // What is frozen does not die in version 1.
            group.thaw()?;
            Ok(group.processes()?.is_empty())
        })
    }

    /// Removes the directories. `false` while the kernel still counts a process that has died.
    fn is_removed(&self) -> Result<bool, RuntimeError> {
        if !self.directory.is_dir() {
            return Ok(true);
        }
        for directory in below(&self.directory)?.into_iter().chain([self.directory.clone()]) {
            match fs::remove_dir(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Ok(false),
                Err(error) => return Err(at("remove", &directory)(error)),
            }
        }
        Ok(true)
    }

    /// Returns its processes.
    pub(super) fn pids(&self) -> Result<Vec<u32>, RuntimeError> {
        Ok(self.processes()?.iter().map(Held::pid).collect())
    }

    fn processes(&self) -> Result<Vec<Held>, RuntimeError> {
        let mut found = Vec::new();
        for directory in below(&self.directory)? {
            let path = directory.join("cgroup.procs");
            for pid in files::read(&path)?.unwrap_or_default().lines().filter_map(|line| line.parse().ok()) {
                found.extend(Held::of(pid).map_err(at("look at a process of", &path))?);
            }
        }
        Ok(found)
    }

    fn write(&self, name: &str, value: &str) -> Result<(), RuntimeError> {
        files::write(&self.directory.join(name), value)
    }

    fn freezer_state(&self) -> Result<String, RuntimeError> {
        let state = files::read(&self.directory.join("freezer.state"))?.unwrap_or_default();
        Ok(state.trim().to_owned())
    }

    /// Waits for an event of version 2, which tells when it happens.
    fn await_event(&self, name: &str, wanted: bool, deadline: Deadline) -> Result<bool, RuntimeError> {
        let path = self.directory.join("cgroup.events");
        let mut file = File::open(&path).map_err(at("open", &path))?;
        loop {
            let mut text = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(at("read", &path))?;
            if has_event(&text, name) == wanted {
                return Ok(true);
            }
            let mut change = [PollFd::new(&file, PollFlags::PRI)];
            if !await_one(&mut change, deadline).map_err(at("watch", &path))? {
                return Ok(false);
            }
        }
    }

    fn await_state(
        &self,
        deadline: Deadline,
        mut is_so: impl FnMut(&Group) -> Result<bool, RuntimeError>,
    ) -> Result<bool, RuntimeError> {
        loop {
            if is_so(self)? {
                return Ok(true);
            }
            if deadline.passed() {
                return Ok(false);
            }
            thread::sleep(LOOK);
        }
    }
}

fn has_event(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.split_once(' ') == Some((name, "1")))
}

/// Returns the groups inside one, also those that its programs made, each after what is inside it.
fn below(directory: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    let entries = match fs::read_dir(directory) {
        // It was removed since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at("list", directory))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(at("list", directory))?.path();
        if path.is_dir() {
            found.extend(below(&path)?);
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "33 25 0:29 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n";
    const V2: &str = "35 25 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const OTHERS: &str =
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n27 25 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";

    #[test]
    fn version_two_is_preferred_and_either_is_found() {
        let found = |mounts: &str| Hierarchy::among(mounts).map(|found| (found.version, found.top));
        let two = Some((Version::Two, "/sys/fs/cgroup/unified".into()));
        assert_eq!(found(&[OTHERS, V1, V2].concat()), two);
        assert_eq!(found(&[OTHERS, V1].concat()), Some((Version::One, "/sys/fs/cgroup/freezer".into())));
        assert_eq!(found(OTHERS), None);
    }

    /// One of its processes may be stuck where it cannot be held, in a call that is not answered.
    #[test]
    fn what_is_to_be_frozen_counts_as_frozen() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &str| fs::write(dir.path().join(name), value).unwrap();
        fs::create_dir(dir.path().join("main")).unwrap();
        write("main/cgroup.procs", &format!("{}\n", std::process::id()));
        let activity = |version| Group { version, directory: dir.path().to_owned() }.activity().unwrap();
        write("cgroup.events", "populated 1\nfrozen 0\n");
        for (asked, expected) in [("0\n", Activity::Running), ("1\n", Activity::Frozen)] {
            write("cgroup.freeze", asked);
            assert_eq!(activity(Version::Two), expected);
        }
        let states = [
            ("THAWED\n", Activity::Running),
            ("FREEZING\n", Activity::Frozen),
            ("FROZEN\n", Activity::Frozen),
        ];
        for (state, expected) in states {
            write("freezer.state", state);
            assert_eq!(activity(Version::One), expected, "{state}");
        }
    }
}

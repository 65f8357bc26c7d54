//! A volume that holds much, and what it takes to put it away without durdir.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use durdir_tests::support::*;

use super::agent::Agent;

/// Files in one directory.
const TOGETHER: u64 = 1000;

/// Hours, for what is as long as a volume is large.
const LONG: Duration = Duration::from_secs(4 * 3600);

/// What a volume holds beside what the program writes.
pub(crate) struct Ballast {
    files: u64,
    bytes: u64,
}

impl Ballast {
    /// Returns what `DURDIR_FILES` and `DURDIR_BYTES` ask for.
    pub(crate) fn of_environment() -> Option<Ballast> {
        let number = |name| std::env::var(name).map_or(0, |text| text.parse().unwrap());
        let ballast = Ballast { files: number("DURDIR_FILES"), bytes: number("DURDIR_BYTES") };
        (ballast.files > 0 || ballast.bytes > 0).then_some(ballast)
    }

    /// Puts it into a directory, and has it on the disk: whoever pauses an actor before that waits for the disk.
    pub(crate) fn put(&self, directory: &Path) {
        fs::create_dir(directory).unwrap();
        for number in 0..self.files {
            let together = directory.join(format!("d{}", number / TOGETHER));
            if number % TOGETHER == 0 {
                fs::create_dir(&together).unwrap();
            }
            fs::write(together.join(format!("f{number}")), number.to_string()).unwrap();
        }
        let block = noise(1, 0, usize::try_from(MIB).unwrap());
        let mut file = File::create(directory.join("data")).unwrap();
        for _ in 0..self.bytes / MIB {
            file.write_all(&block).unwrap();
        }
        nix::unistd::sync();
    }
}

impl fmt::Display for Ballast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} files and {} MiB", self.files, self.bytes / MIB)
    }
}

/// How long it took to put a volume away as it is done without durdir.
pub(crate) struct Tarred {
    pub(crate) pause: Duration,
    pub(crate) tar: Duration,
    pub(crate) resume: Duration,
    pub(crate) bytes: u64,
}

/// Pauses the sandbox of an actor in gVisor past its daemon, makes a tar of a volume, and has the sandbox go on.
pub(crate) fn tar(agent: &Agent, volume: &str) -> Tarred {
    let sandbox = agent.store.path().join("actors/a/sandbox/runsc");
    let archive = agent.store.side_dir().join("volume.tar");
    let runsc = |args: &[&str]| {
        let begun = Instant::now();
        let finished = run(Command::new("runsc").arg("--root").arg(&sandbox).args(args), LONG).ok();
        (begun.elapsed(), finished.text())
    };
    let listed: serde_json::Value = serde_json::from_str(&runsc(&["list", "--format=json"]).1).unwrap();
    let id = listed[0]["id"].as_str().unwrap();
    let (pause, _) = runsc(&["pause", id]);
    let begun = Instant::now();
    let directory = agent.path(volume, "");
    run(Command::new("tar").arg("-C").arg(&directory).arg("-cf").arg(&archive).arg("."), LONG).ok();
    let tar = begun.elapsed();
    let (resume, _) = runsc(&["resume", id]);
    let bytes = fs::metadata(&archive).unwrap().len();
    fs::remove_file(&archive).unwrap();
    Tarred { pause, tar, resume, bytes }
}

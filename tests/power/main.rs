//! What runs inside the guest of `scripts/power-loss`: sets up two volumes, then works in them until the power goes.
//!
//! # Overview
//! Each writer has a directory of its own in one of the volumes and does one operation after the other there. A thread of its
//! own takes snapshots, forks and removes snapshots. Every step is told outside, through [`outside`], *before* it begins, with
//! all that is needed to repeat it: what a step did is never asked of the filesystem under test.
//!
//! # Invariants
//! - A line of a writer says that all its steps before are done, and succeeded.
//! - The same seed and the same tree to begin with give each writer the same steps.

mod content;
mod history;
mod outside;
mod random;
mod tree;
mod writer;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use outside::Outside;
use random::Random;

/// The lower of volume `b`; volume `a` is empty.
const LOWER: &str = "/mnt/lower";
const STORE: &str = "/mnt/store";
const WRITERS_PER_VOLUME: u16 = 2;

/// A volume under test.
#[derive(Clone, Copy)]
pub(crate) struct Volume {
    pub(crate) name: &'static str,
    /// Part of the tag of its writers.
    number: u16,
}

const VOLUMES: [Volume; 2] = [Volume { name: "a", number: 0 }, Volume { name: "b", number: 1 }];

/// How often the writers of each volume sync, in a thousand steps. The volumes share a log, but not their data: where one syncs
/// seldom, the log gets ahead of its data.
const SYNCS: [[u64; 2]; 4] = [[60, 8], [4, 30], [4, 4], [20, 1]];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, area, seed, first] = arguments.as_slice() else {
        panic!("usage: power-guest DEVICE OFFSET-OF-LOG SEED FIRST-STEP");
    };
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let (area, seed, first) = (number(area), number(seed), number(first));
    let outside = Arc::new(Outside::open(Path::new(device), area).expect("the disk is writable"));
    outside.tell("setup 0 begin");
    for volume in VOLUMES {
        set_up(volume);
    }
    outside.tell("setup 1 done");
    let mut workers = Vec::new();
    for volume in VOLUMES {
        for number in 0..WRITERS_PER_VOLUME {
            let outside = outside.clone();
            let name = format!("{}{number}", volume.name);
            let directory = mountpoint(volume).join(&name);
            let random = Random::new(seed ^ (u64::from(volume.number) << 40) ^ (u64::from(number) << 32));
            let syncs = SYNCS[(seed % 4) as usize][usize::from(volume.number)];
            let tag = u32::from(volume.number) << 16 | u32::from(number);
            workers.push(std::thread::spawn(move || {
                writer::Writer::new(&outside, name, directory, tag, random, syncs, first).run()
            }));
        }
    }
    let history = outside.clone();
    workers.push(std::thread::spawn(move || history::run(&history, Random::new(seed ^ 0x5eed << 48), first)));
    for worker in workers {
        // A worker ends only by failing, and has told it.
        worker.join().expect("workers do not panic");
    }
}

fn mountpoint(volume: Volume) -> PathBuf {
    Path::new("/volumes").join(volume.name)
}

/// Makes the volume if it is not there yet, and mounts it.
fn set_up(volume: Volume) {
    let mountpoint = mountpoint(volume);
    std::fs::create_dir_all(&mountpoint).expect("the root of the guest is in memory");
    let mut command = vec!["mount", volume.name, mountpoint.to_str().expect("it is ASCII"), "--create"];
    if volume.name == "b" && durdir(&["volume", "show", volume.name]).is_err() {
        command.extend(["--lower", LOWER]);
    }
    durdir(&command).expect("the volume is mounted");
}

/// Runs the client.
pub(crate) fn durdir(arguments: &[&str]) -> Result<(), String> {
    let done = Command::new("/bin/durdir").args(["--store", STORE]).args(arguments).output();
    match done {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(format!("{}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr))),
        Err(error) => Err(format!("{}: {error}", arguments.join(" "))),
    }
}

/// Lets time pass between snapshots.
pub(crate) fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

//! A node full of mounts.

use std::fs;
use std::time::{Duration, Instant};

use durdir_tests::support::*;
use nix::sys::signal::Signal;

const MOUNTS: usize = 200;
/// What a restart may take until all answer. Measured as the best of a few: the machine may be busy with other things.
const LIMIT: Duration = Duration::from_secs(2);

#[test]
fn two_hundred_mounts_answer_again_within_two_seconds() {
    let store = Store::new();
    let mounts: Vec<Mount> = (0..MOUNTS).map(|number| store.mount(&format!("v{number}"))).collect();
    for (number, mount) in mounts.iter().enumerate() {
        mount.write("file", number.to_string());
    }
    let restart = |round: usize| {
        store.kill_worker(Signal::SIGKILL);
        let killed = Instant::now();
        for mount in &mounts {
            // A name that nobody asked for before: the kernel cannot know.
            fs::create_dir(mount.path(format!("round-{round}"))).unwrap();
        }
        killed.elapsed()
    };
    let mut times: Vec<Duration> = (0..4).map(restart).collect();
    println!("{MOUNTS} mounts answer again after {times:?}");
    while times.iter().all(|time| *time > LIMIT) && times.len() < 12 {
        times.push(restart(times.len()));
    }
    assert!(times.iter().min().is_some_and(|best| *best <= LIMIT), "{times:?}");
    for (number, mount) in mounts.iter().enumerate() {
        assert_eq!(mount.text("file"), number.to_string());
    }
}

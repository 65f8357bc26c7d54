//! Sequences that failed once, shrunk, and the symptom they had.

use crate::lower::Layers;
use crate::op::{At, Op, Pick};
use crate::run::{Bench, Beside, Scenario, run};
use crate::wire::Renaming;

/// Runs a sequence on a fresh store, which must be empty and clean afterwards.
fn replay(scenario: Scenario, beside: Beside, ops: &[Op]) {
    let mut bench = Bench::new(ops.iter().any(|op| matches!(op, Op::Kill { .. })), beside);
    if let Err(failure) = run(scenario, ops, &mut bench, beside) {
        panic!("{failure}");
    }
    bench.retire().unwrap();
}

/// The hole in front of the range was asked of the disk, too: ENOSPC.
#[test]
fn regression_allocating_far_behind_the_end_needs_no_space_for_the_hole() {
    let scenario = Scenario { layers: Layers::Empty, lower_seed: 34467 };
    replay(
        scenario,
        Beside::LocalDirectory,
        &[
            Op::Create { dir: 0, name: Pick::Pool(2), perm: 0o644, owner: 0 },
            Op::Fallocate { file: 0, mode: 0, at: At::Abs(1 << 40), len: 16384 },
        ],
    );
}

/// A snapshot and its volume were removed at once: the end of the first sweep deleted the second one's record, and
/// the space never came back. A matter of timing, so several times.
#[test]
fn regression_removing_a_snapshot_and_its_volume_gives_all_space_back() {
    let scenario = Scenario { layers: Layers::Two, lower_seed: 6042 };
    for _ in 0..10 {
        replay(
            scenario,
            Beside::Nothing,
            &[
                // Any kill makes this run in a process with a background of its own.
                Op::Kill { replies: 0, micros: 0 },
                Op::Write { file: 0, at: At::Abs(0), len: 9084, seed: 7, kill_suid: false },
                Op::Snapshot { volumes: 1 },
            ],
        );
    }
}

/// The sweep after a removed snapshot held on to the head: the volume was said to be mounted.
#[test]
fn regression_a_volume_that_nobody_uses_can_be_removed() {
    let scenario = Scenario { layers: Layers::Empty, lower_seed: 47870 };
    for _ in 0..10 {
        replay(
            scenario,
            Beside::Nothing,
            &[
                Op::Kill { replies: 0, micros: 0 },
                Op::Create { dir: 0, name: Pick::Pool(0), perm: 0o644, owner: 0 },
                Op::Write { file: 0, at: At::Abs(0), len: 200_000, seed: 7, kill_suid: false },
                Op::Snapshot { volumes: 1 },
                Op::Write { file: 0, at: At::Abs(0), len: 200_000, seed: 8, kill_suid: false },
                Op::Snapshot { volumes: 1 },
                Op::Write { file: 0, at: At::Abs(0), len: 200_000, seed: 9, kill_suid: false },
                Op::RemoveSnapshot { snapshot: 0 },
            ],
        );
    }
}

/// A file that only the older side had copied up was missing in a diff.
#[test]
fn regression_a_diff_lists_what_only_the_older_side_has_copied_up() {
    let scenario = Scenario { layers: Layers::One, lower_seed: 1795352487335 };
    replay(
        scenario,
        Beside::Nothing,
        &[
            Op::Snapshot { volumes: 2 },
            Op::Snapshot { volumes: 1 },
            Op::Fork { snapshot: 0 },
            Op::Snapshot { volumes: 2 },
            Op::Chown { node: 29611, uid: Some(1000), gid: Some(1000) },
            Op::Snapshot { volumes: 1 },
            Op::Diff { snapshot: 13029, with: 46141 },
        ],
    );
}

/// A directory that only the other side had renamed was listed under its new name.
#[test]
fn regression_a_diff_gives_a_directory_of_a_lower_its_old_place() {
    let scenario = Scenario { layers: Layers::Two, lower_seed: 1795683487983 };
    replay(
        scenario,
        Beside::Nothing,
        &[
            Op::Snapshot { volumes: 1 },
            Op::Snapshot { volumes: 2 },
            Op::Mkdir { dir: 13562, name: Pick::Pool(12), perm: 493, owner: 0 },
            Op::Rename {
                dir: 4519,
                name: Pick::Live(56151),
                to_dir: 58862,
                to_name: Pick::Pool(13),
                how: Renaming::Replace {},
            },
            Op::Rename {
                dir: 32662,
                name: Pick::Live(7195),
                to_dir: 60725,
                to_name: Pick::Pool(17),
                how: Renaming::Replace {},
            },
            Op::Snapshot { volumes: 1 },
            Op::Diff { snapshot: 6078, with: 46841 },
        ],
    );
}

/// What a lower hides with a directory was asked, too, where another lower has a symlink of that name: EIO.
#[test]
fn regression_a_diff_asks_only_the_lowers_that_a_directory_is_merged_from() {
    let scenario = Scenario { layers: Layers::Two, lower_seed: 20261126412 };
    replay(
        scenario,
        Beside::Nothing,
        &[
            Op::Snapshot { volumes: 1 },
            Op::Write { file: 9056, at: At::Abs(12287), len: 4256, seed: 1, kill_suid: false },
            Op::Diff { snapshot: 45441, with: 35796 },
        ],
    );
}

/// A page of a lower's file that was made a hole, and nothing else, was a change of the metadata alone.
#[test]
fn regression_a_diff_lists_a_hole_in_a_file_of_a_lower_as_modified() {
    let scenario = Scenario { layers: Layers::One, lower_seed: 20261126599 };
    replay(
        scenario,
        Beside::Nothing,
        &[
            Op::Mkdir { dir: 53220, name: Pick::Pool(2), perm: 493, owner: 0 },
            Op::Create { dir: 47160, name: Pick::Pool(16), perm: 3529, owner: 0 },
            Op::Snapshot { volumes: 1 },
            Op::Create { dir: 3385, name: Pick::Pool(17), perm: 511, owner: 0 },
            Op::Create { dir: 6315, name: Pick::Pool(2), perm: 4095, owner: 0 },
            Op::Fallocate { file: 0, mode: 16, at: At::Abs(0), len: 4096 },
            Op::Diff { snapshot: 11250, with: 17976 },
        ],
    );
}

/// What is removed of an inode without a name after a snapshot counted as a change once the volume was opened again.
#[test]
fn regression_what_is_tidied_up_is_no_change() {
    let scenario = Scenario { layers: Layers::Empty, lower_seed: 1795735406914 };
    replay(
        scenario,
        Beside::Nothing,
        &[
            Op::Mknod { dir: 56867, name: Pick::Pool(3), kind: 3, perm: 1517 },
            Op::Unlink { dir: 0, name: Pick::Live(5185) },
            Op::Snapshot { volumes: 2 },
            Op::Fork { snapshot: 0 },
            Op::Snapshot { volumes: 1 },
            Op::Unlink { dir: 0, name: Pick::Live(19648) },
            Op::Remount,
            Op::Snapshot { volumes: 2 },
        ],
    );
}

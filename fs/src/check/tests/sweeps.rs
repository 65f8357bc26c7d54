//! Sweeps look at as little as they can, and find everything all the same.

use proptest::prelude::*;

use super::*;
use crate::attr::SetAttr;
use crate::store::{ReclaimReport, Settled};

fn snapshot(fixture: &Fixture, name: &str) {
    fixture.store.snapshot(&["v"], Some(name), Receipt::none()).unwrap();
}

fn remove(fixture: &Fixture, snapshot: &str) -> ReclaimReport {
    fixture.store.remove_snapshots(&[snapshot], Receipt::none()).unwrap();
    let report = fixture.store.reclaim().unwrap();
    fixture.assert_clean();
    report
}

/// What a sweep may look at where little was written: not a hundredth of what the volume holds.
const LITTLE: u64 = 20;
const MANY: usize = 1000;

fn with_many_files(fixture: &Fixture) -> Arc<VolumeFs> {
    let fs = fixture.store.open_head("v").unwrap();
    for number in 0..MANY {
        let node = file(&fs, NodeId::ROOT, &format!("many{number}"), b"");
        fs.forget(node, 1);
    }
    fs
}

/// As those of pauses do, above a snapshot that stays.
#[test]
fn snapshots_that_follow_each_other_cost_what_was_written_between_them() {
    for base in [None, Some("base")] {
        let mut fixture = Fixture::empty();
        let mut fs = fixture.store.open_head("v").unwrap();
        base.into_iter().for_each(|base| snapshot(&fixture, base));
        let log = file(&fs, NodeId::ROOT, "log", b"");
        snapshot(&fixture, "s0");
        for round in 1..12 {
            if round == 4 {
                fs = with_many_files(&fixture);
            }
            let node = if round == 8 {
                fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("log")).unwrap().node
            } else {
                log
            };
            fs.write(node, 0, &[round; 9000], KillSuid::No).unwrap();
            snapshot(&fixture, &format!("s{round}"));
            let report = remove(&fixture, &format!("v@s{}", round - 1));
            assert!((1..LITTLE).contains(&report.looked_at), "{base:?}, round {round}: {report:?}");
            assert!(report.versions >= u64::from(round > 1), "{base:?}, round {round}: {report:?}");
            if round == 7 {
                drop(fs);
                fixture = fixture.reopened();
                fs = fixture.store.open_head("v").unwrap();
                // Numbers of nodes begin anew.
                assert_eq!(fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("log")).unwrap().node, log);
            }
        }
    }
}

/// As while the background has something else to do.
#[test]
fn snapshots_that_go_together_cost_what_was_written_around_much() {
    let fixture = Fixture::empty();
    let fs = fixture.store.open_head("v").unwrap();
    snapshot(&fixture, "base");
    let log = file(&fs, NodeId::ROOT, "log", b"");
    for round in 0..6 {
        if round == 2 {
            with_many_files(&fixture);
        }
        fs.write(log, 0, &[round; 9000], KillSuid::No).unwrap();
        snapshot(&fixture, &format!("s{round}"));
    }
    fixture.store.remove_snapshots(&["v@s0", "v@s1", "v@s3"], Receipt::none()).unwrap();
    let report = remove(&fixture, "v@s2");
    assert!((1..4 * LITTLE).contains(&report.looked_at) && report.versions > 0, "{report:?}");
    assert_eq!(overlooked(&fixture), ReclaimReport::default());
}

/// Those of two sweeps that wait, and what another snapshot shows, are no reason to count a version twice.
#[test]
fn what_would_come_back_is_what_comes_back() {
    let fixture = Fixture::empty();
    let fs = with_many_files(&fixture);
    let log = file(&fs, NodeId::ROOT, "log", b"");
    for round in 0..5 {
        fs.write(log, 0, &[round; 9000], KillSuid::No).unwrap();
        snapshot(&fixture, &format!("s{round}"));
    }
    fixture.store.remove_snapshots(&["v@s3", "v@s1", "v@s2"], Receipt::none()).unwrap();
    let told = fixture.store.reclaimable().unwrap();
    let done = fixture.store.reclaim().unwrap();
    assert_eq!((told.versions, told.bytes), (done.versions, done.bytes));
    assert!(told.bytes > 0);
}

/// Where the head follows, which is written while it is looked at.
#[test]
fn a_snapshot_that_goes_at_once_costs_what_was_written_since() {
    let fixture = Fixture::empty();
    let fs = with_many_files(&fixture);
    let log = file(&fs, NodeId::ROOT, "log", b"");
    for round in 0..6 {
        snapshot(&fixture, "s");
        fs.write(log, 0, &[round; 9000], KillSuid::No).unwrap();
        let report = remove(&fixture, "v@s");
        assert!(report.looked_at < LITTLE, "round {round}: {report:?}");
        assert!(round == 0 || report.versions > 0, "round {round}: {report:?}");
    }
}

/// The other way round: little before it, and much since.
#[test]
fn an_old_snapshot_costs_what_was_written_before_it() {
    let fixture = Fixture::empty();
    let fs = fixture.store.open_head("v").unwrap();
    snapshot(&fixture, "base");
    let log = file(&fs, NodeId::ROOT, "log", &[1; 9000]);
    snapshot(&fixture, "old");
    with_many_files(&fixture);
    fs.write(log, 0, &[2; 9000], KillSuid::No).unwrap();
    let report = remove(&fixture, "v@old");
    assert!((1..LITTLE).contains(&report.looked_at) && report.versions > 0, "{report:?}");
}

/// Much that is settled by itself is joined with little at once.
#[test]
fn the_oldest_snapshot_costs_what_was_written_before_it_however_many_followed() {
    let fixture = Fixture::empty();
    let fs = fixture.store.open_head("v").unwrap();
    let log = file(&fs, NodeId::ROOT, "log", &[1; 9000]);
    snapshot(&fixture, "base");
    snapshot_each_of_many(&fixture);
    fs.write(log, 0, &[2; 9000], KillSuid::No).unwrap();
    snapshot(&fixture, "end");
    remove(&fixture, "v@many");
    let report = remove(&fixture, "v@base");
    assert!((1..LITTLE).contains(&report.looked_at) && report.versions > 0, "{report:?}");
}

/// Makes many files, and snapshots of which only the last stays, `many`.
fn snapshot_each_of_many(fixture: &Fixture) {
    let fs = fixture.store.open_head("v").unwrap();
    for number in 0..100 {
        let node = directory(&fs, NodeId::ROOT, &format!("many{number}"));
        for name in ["a", "b", "c"] {
            file(&fs, node, name, b"");
        }
        let name = if number == 99 { "many".to_owned() } else { format!("m{number}") };
        snapshot(fixture, &name);
        if number > 0 {
            fixture.store.remove_snapshots(&[&format!("v@m{}", number - 1)], Receipt::none()).unwrap();
            fixture.store.reclaim().unwrap();
        }
    }
}

/// A file goes in each epoch, and the only snapshot that shows it.
#[test]
fn what_the_head_still_hides_does_not_have_everything_looked_at_again() {
    let fixture = Fixture::empty();
    let fs = with_many_files(&fixture);
    for round in 0..6 {
        snapshot(&fixture, "s");
        fs.unlink(&ROOT, NodeId::ROOT, OsStr::new(&format!("many{round}"))).unwrap();
        let report = remove(&fixture, "v@s");
        assert!(report.looked_at < LITTLE, "round {round}: {report:?}");
        assert!(round == 0 || report.versions > 0, "round {round}: {report:?}");
    }
}

/// The batch that takes what a mark hid is there, and the end of the sweep is not.
#[test]
fn marks_of_what_is_gone_do_not_stay_after_a_sweep_that_was_interrupted() {
    let fixture = Fixture::empty();
    let fs = fixture.store.open_head("v").unwrap();
    file(&fs, NodeId::ROOT, "kept", b"");
    snapshot(&fixture, "one");
    let node = file(&fs, NodeId::ROOT, "gone", &[1; 9000]);
    snapshot(&fixture, "two");
    fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("gone")).unwrap();
    fs.forget(node, 1);
    with_many_files(&fixture);
    fixture.store.remove_snapshots(&["v@two"], Receipt::none()).unwrap();
    drop(fs);
    let fixture = interrupted(fixture);
    let fs = fixture.store.open_head("v").unwrap();
    fixture.store.reclaim().unwrap();
    snapshot(&fixture, "three");
    file(&fs, NodeId::ROOT, "little", b"");
    snapshot(&fixture, "four");
    remove(&fixture, "v@three");
    assert_eq!(overlooked(&fixture), ReclaimReport::default());
}

/// Sweeps what one batch holds, and no more.
fn interrupted(fixture: Fixture) -> Fixture {
    fixture.store.stop_reclaimer();
    fixture.store.reclaim().unwrap();
    fixture.reopened()
}

/// What says that a file is gone goes with the last version that it hid, although it was looked at before.
#[test]
fn marks_of_what_is_gone_do_not_stay() {
    let fixture = Fixture::empty();
    let fs = with_many_files(&fixture);
    snapshot(&fixture, "one");
    let node = file(&fs, NodeId::ROOT, "gone", &[1; 9000]);
    snapshot(&fixture, "two");
    fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("gone")).unwrap();
    fs.forget(node, 1);
    // While the head is what hides it.
    remove(&fixture, "v@two");
    snapshot(&fixture, "three");
    fs.mkdir(&ROOT, NodeId::ROOT, OsStr::new("d"), 0o755, 0).unwrap();
    snapshot(&fixture, "four");
    remove(&fixture, "v@three");
    assert_eq!(overlooked(&fixture), ReclaimReport::default());
}

#[test]
fn epochs_that_are_wrongly_settled_are_found() {
    let fixture = Fixture::filled();
    let fs = fixture.store.open_head("v").unwrap();
    let a = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
    snapshot(&fixture, "one");
    fs.write(a, 0, &[9; 10_000], KillSuid::No).unwrap();
    snapshot(&fixture, "two");
    let settle = |after, through| {
        let settled = Settled { through: Epoch(through), has_left: false };
        fixture.put(META, &meta::settled(BRANCH, Epoch(after)), &settled.encode());
    };
    settle(0, 1);
    fixture.assert_clean();
    settle(1, 2);
    fixture.assert_clean();
    settle(0, 2);
    fixture.delete(META, &meta::settled(BRANCH, Epoch(1)));
    let kinds = fixture.kinds();
    assert!(!kinds.is_empty() && kinds.iter().all(|&kind| kind == "unsettled-version"), "{kinds:?}");
    assert!(fixture.check(Repair::Yes).issues.iter().all(|issue| issue.repaired()));
    fixture.assert_clean();
    assert!(remove(&fixture, "v@one").versions > 0);
}

/// Looks at everything that no retained epoch sees, whatever counts as settled, and returns what there was.
fn overlooked(fixture: &Fixture) -> ReclaimReport {
    let store = &fixture.store;
    let branches: Vec<(BranchId, Epoch)> =
        store.registry.read().branches.iter().map(|(&id, branch)| (id, branch.epoch)).collect();
    for (branch, epoch) in branches {
        // Each gap from its beginning, so that it is gone through as a whole.
        for after in (0..epoch.0).map(Epoch) {
            let mut batch = WriteBatch::default();
            let settled = Settled { through: after, has_left: true };
            batch.put_cf(store.db.family(META), meta::settled(branch, after), settled.encode());
            store.put_sweep_after(&mut batch, branch, after, Epoch(u64::MAX)).unwrap();
            store.db.write(batch).unwrap();
        }
    }
    ReclaimReport { looked_at: 0, ..store.reclaim().unwrap() }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write { file: u8, byte: u8 },
    Truncate { file: u8, size: u16 },
    Remove { file: u8 },
    Cut,
    RemoveSnapshot { which: u8 },
    Fork { which: u8 },
    RollBack { which: u8 },
    RemoveVolume,
    TurnTo { volume: u8 },
    Reclaim,
    Interrupt,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u8, any::<u8>()).prop_map(|(file, byte)| Step::Write { file, byte }),
        2 => (0..6u8, 0..12_000u16).prop_map(|(file, size)| Step::Truncate { file, size }),
        3 => (0..6u8).prop_map(|file| Step::Remove { file }),
        5 => Just(Step::Cut),
        5 => any::<u8>().prop_map(|which| Step::RemoveSnapshot { which }),
        1 => any::<u8>().prop_map(|which| Step::Fork { which }),
        1 => any::<u8>().prop_map(|which| Step::RollBack { which }),
        1 => Just(Step::RemoveVolume),
        1 => any::<u8>().prop_map(|volume| Step::TurnTo { volume }),
        4 => Just(Step::Reclaim),
        1 => Just(Step::Interrupt),
        1 => Just(Step::Reopen),
    ]
}

fn chosen<T: Clone>(from: &[T], which: u8) -> Option<T> {
    from.get(usize::from(which) % from.len().max(1)).cloned()
}

fn volumes(store: &Store) -> Vec<String> {
    store.registry.read().volumes.values().map(|volume| volume.name.clone()).collect()
}

fn take(fixture: Fixture, turn: &mut String, step: Step, forks: &mut u32) -> Fixture {
    let store = fixture.store.clone();
    let labels = || -> Vec<String> {
        let all = store.snapshots(Some(turn.as_str())).unwrap();
        all.iter().map(|one| format!("{turn}@{}", one.epoch)).collect()
    };
    match step {
        Step::Write { file: number, byte } => {
            let fs = store.open_head(turn).unwrap();
            let name = format!("f{number}");
            let node = match fs.lookup(&ROOT, NodeId::ROOT, OsStr::new(&name)) {
                Ok(entry) => entry.node,
                Err(_) => file(&fs, NodeId::ROOT, &name, b""),
            };
            fs.write(node, u64::from(byte % 3) * 5000, &[byte; 6000], KillSuid::No).unwrap();
        }
        Step::Truncate { file, size } => {
            let fs = store.open_head(turn).unwrap();
            if let Ok(entry) = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new(&format!("f{file}"))) {
                let size = Some(u64::from(size));
                fs.setattr(&ROOT, entry.node, &SetAttr { size, ..SetAttr::default() }).unwrap();
            }
        }
        Step::Remove { file } => {
            let fs = store.open_head(turn).unwrap();
            match fs.unlink(&ROOT, NodeId::ROOT, OsStr::new(&format!("f{file}"))) {
                Ok(()) | Err(crate::FsError::NotFound) => {}
                Err(error) => panic!("{error}"),
            }
        }
        Step::Cut => drop(store.snapshot(&[turn.as_str()], None, Receipt::none()).unwrap()),
        Step::RemoveSnapshot { which } => {
            if let Some(label) = chosen(&labels(), which) {
                store.remove_snapshots(&[&label], Receipt::none()).unwrap();
            }
        }
        Step::Fork { which } => {
            if let Some(label) = chosen(&labels(), which) {
                *forks += 1;
                store.fork(&label, &format!("fork{forks}"), Receipt::none()).unwrap();
            }
        }
        Step::RollBack { which } => {
            if let Some(label) = chosen(&labels(), which) {
                store.rollback(turn, &label, Receipt::none()).unwrap();
            }
        }
        Step::RemoveVolume => {
            if volumes(&store).len() > 1 {
                store.remove_volume(turn, Receipt::none()).unwrap();
                *turn = volumes(&store)[0].clone();
            }
        }
        Step::TurnTo { volume } => *turn = chosen(&volumes(&store), volume).unwrap(),
        Step::Reclaim => {
            store.reclaim().unwrap();
            fixture.assert_clean();
        }
        Step::Interrupt => {
            drop(store);
            return interrupted(fixture);
        }
        Step::Reopen => {
            drop(store);
            return fixture.reopened();
        }
    }
    fixture
}

/// Does it all, removes what is left of snapshots, and looks for what sweeps have overlooked.
fn assert_nothing_is_overlooked(steps: &[Step]) {
    let (mut fixture, mut turn, mut forks) = (Fixture::empty(), "v".to_owned(), 0);
    for &step in steps {
        fixture = take(fixture, &mut turn, step, &mut forks);
    }
    // What a running epoch has replaced or removed goes with the next sweep: there is one more of each gap.
    for volume in &volumes(&fixture.store) {
        let mut newest = Epoch(0);
        for byte in 0..2 {
            fixture = take(fixture, &mut volume.clone(), Step::Write { file: 9, byte }, &mut forks);
            newest = fixture.store.snapshot(&[volume], None, Receipt::none()).unwrap().snapshots[0].epoch;
        }
        for older in fixture.store.snapshots(Some(volume)).unwrap().iter().filter(|one| one.epoch != newest) {
            let label = format!("{volume}@{}", older.epoch);
            fixture.store.remove_snapshots(&[&label], Receipt::none()).unwrap();
        }
    }
    fixture.store.reclaim().unwrap();
    fixture.assert_clean();
    assert_eq!(overlooked(&fixture), ReclaimReport::default());
    fixture.assert_clean();
}

/// In each of these something was, by a version of this that was never released.
#[test]
fn nothing_is_overlooked_in_what_is_known_to_be_hard() {
    use Step::{Cut, Fork, Reclaim, Remove, RemoveSnapshot, Write};
    let write = |file| Write { file, byte: 0 };
    for steps in [
        // Of three epochs only the second was gone through, and the first has something in common with the third.
        vec![
            Cut,
            write(0),
            Cut,
            write(2),
            Cut,
            write(0),
            Cut,
            Fork { which: 61 },
            RemoveSnapshot { which: 55 },
            write(0),
        ],
        // A mark has to stay while the head shows it, and the sweep after that comes by another way.
        vec![
            write(5),
            write(0),
            Cut,
            Remove { file: 5 },
            Cut,
            RemoveSnapshot { which: 71 },
            RemoveSnapshot { which: 0 },
            Reclaim,
        ],
    ] {
        assert_nothing_is_overlooked(&steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_nobody_sees_is_overlooked(steps in proptest::collection::vec(step(), 1..60)) {
        assert_nothing_is_overlooked(&steps);
    }
}

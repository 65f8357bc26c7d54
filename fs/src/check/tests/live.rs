//! A store that is in use while it is checked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::attr::SetAttr;
use crate::ops::RenameMode;

/// Makes, rewrites in place, cuts, renames and removes files, and looks at nothing.
fn churn(fs: &VolumeFs, seed: u64) {
    let dir = directory(fs, NodeId::ROOT, &format!("d{seed}"));
    let mut state = seed;
    for round in 0u64.. {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (name, other) = (format!("f{}", round % 7), format!("g{}", state >> 60));
        if let Ok(entry) = fs.create(&ROOT, dir, OsStr::new(&name), 0o100_644, 0) {
            for page in 0..state >> 59 {
                fs.write(entry.node, page * 3000, &[round as u8; 5000], KillSuid::No).unwrap();
            }
            let size = Some(state >> 48);
            fs.setattr(&ROOT, entry.node, &SetAttr { size, ..SetAttr::default() }).unwrap();
            fs.forget(entry.node, 1);
        }
        fs.rename(&ROOT, dir, OsStr::new(&name), dir, OsStr::new(&other), RenameMode::Replace).unwrap();
        if round % 3 == 0 {
            fs.unlink(&ROOT, dir, OsStr::new(&other)).unwrap();
        }
        if STOP.load(Ordering::SeqCst) {
            return;
        }
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

#[test]
fn a_store_in_use_is_clean_at_every_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &StoreOptions::default()).unwrap();
    store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
    let fs = store.open_head("v").unwrap();
    let writers: Vec<_> = (0..2)
        .map(|seed| {
            let fs = fs.clone();
            std::thread::spawn(move || churn(&fs, seed))
        })
        .collect();
    let start = Instant::now();
    let mut failed = None;
    for round in 0u32.. {
        store.snapshot(&["v"], Some(&format!("s{round}")), Receipt::none()).unwrap();
        if let Some(before) = round.checked_sub(3) {
            store.remove_snapshots(&[&format!("v@s{before}")], Receipt::none()).unwrap();
        }
        let issues = check(&store, Repair::No).unwrap().issues;
        if !issues.is_empty() {
            failed = Some(issues);
            break;
        }
        if start.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
    STOP.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(failed, None);
    store.reclaim().unwrap();
    assert_eq!(check(&store, Repair::No).unwrap().issues, []);
}

//! What [`verify`] reads, and how far it says it is.

use std::os::unix::fs::FileExt;

use super::*;
use crate::check::{Progress, Sample, verify};
use crate::store::record::PAGE_SIZE;

/// Damages a byte of the first page of a file.
fn damage(fixture: &Fixture, name: &str) {
    let page = fixture.group(fixture.ino(name)).refs().next().unwrap();
    let path = fixture.dir.path().join(format!("store/segments/{:08x}.seg", page.segment));
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"!", u64::from(page.page) * PAGE_SIZE as u64 + 17).unwrap();
}

fn kinds(report: &CheckReport) -> Vec<&'static str> {
    report.issues.iter().map(|issue| issue.kind()).collect()
}

#[test]
fn everything_is_read_once() {
    let fixture = Fixture::filled();
    let progress = Progress::default();
    let report = verify(&fixture.store, Sample::EVERYTHING, &progress).unwrap();
    assert_eq!((report.issues.len(), report.pages), (0, 3), "{report:?}");
    assert!(report.records > 10, "{report:?}");
    assert_eq!((progress.read(), progress.left()), (3, 0));
}

#[test]
fn damage_is_found_in_heads_and_in_what_only_snapshots_show() {
    let fixture = Fixture::filled();
    damage(&fixture, "a");
    let report = verify(&fixture.store, Sample::EVERYTHING, &Progress::default()).unwrap();
    assert_eq!(kinds(&report), ["wrong-checksum"]);

    fixture.store.snapshot(&["v"], Some("one"), Receipt::none()).unwrap();
    let fs = fixture.store.open_head("v").unwrap();
    fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap();
    drop(fs);
    let report = verify(&fixture.store, Sample::EVERYTHING, &Progress::default()).unwrap();
    assert_eq!(kinds(&report), ["wrong-checksum"]);
    assert!(report.issues[0].to_string().starts_with("v@1: inode 16 (/a): page"), "{}", report.issues[0]);
}

#[test]
fn a_record_that_cannot_be_read_is_an_issue() {
    let fixture = Fixture::filled();
    fixture.put("inode", &Prefix::inode(TREE, GHOST).version(BRANCH, FIRST), b"\xff");
    fixture.put(TOUCHED, &Prefix::inode(TREE, GHOST).touched(BRANCH, FIRST), b"");
    let report = verify(&fixture.store, Sample::EVERYTHING, &Progress::default()).unwrap();
    assert_eq!(kinds(&report), ["unreadable-record"]);
}

#[test]
fn a_sample_reads_about_its_share_and_another_seed_reads_others() {
    let fixture = Fixture::empty();
    let fs = fixture.store.open_head("v").unwrap();
    for number in 0..200 {
        let node = file(&fs, NodeId::ROOT, &format!("f{number}"), &[number; PAGE_SIZE]);
        fs.forget(node, 1);
    }
    drop(fs);
    let pages = |per_million, seed| {
        let progress = Progress::default();
        let report = verify(&fixture.store, Sample::of(per_million, seed), &progress).unwrap();
        assert_eq!((report.issues.len(), progress.left()), (0, 0));
        report.pages
    };
    assert_eq!(pages(0, 1), 0);
    assert_eq!(pages(1_000_000, 1), 200);
    assert_eq!(pages(u32::MAX, 1), 200);
    let half = pages(500_000, 1);
    assert!((60..140).contains(&half), "{half}");
    assert_eq!(pages(500_000, 1), half, "the seed decides");

    // What one sample misses, others find.
    damage(&fixture, "f7");
    let found = (0..64).filter(|&seed| {
        let sample = Sample::of(500_000, seed);
        !verify(&fixture.store, sample, &Progress::default()).unwrap().issues.is_empty()
    });
    let found = found.count();
    assert!((10..54).contains(&found), "{found} of 64");
}

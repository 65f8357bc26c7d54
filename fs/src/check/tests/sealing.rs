//! Checksums of pages that were rewritten in place.

use std::os::unix::fs::FileExt;

use super::*;
use crate::FsError;
use crate::store::record::{PAGE_SIZE, Page, SegmentMark};

/// A volume whose file `a` has three pages of sevens, the first of which was rewritten in place with eights.
fn rewritten() -> (Fixture, Arc<VolumeFs>) {
    let fixture = Fixture::filled();
    let fs = fixture.store.open_head("v").unwrap();
    fs.write(a(&fs), 0, &[8; PAGE_SIZE], KillSuid::No).unwrap();
    assert_eq!(fixture.page().crc, None);
    (fixture, fs)
}

fn a(fs: &VolumeFs) -> NodeId {
    fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node
}

fn read(fs: &VolumeFs) -> Result<Vec<u8>, FsError> {
    let mut bytes = Vec::new();
    fs.read(a(fs), 0, PAGE_SIZE, &mut bytes)?;
    Ok(bytes)
}

fn assert_damaged(fs: &VolumeFs) {
    match read(fs) {
        Err(FsError::Store(crate::store::StoreError::Corrupt { what })) => {
            assert!(what.contains("(a)"), "{what}")
        }
        other => panic!("{other:?}"),
    }
}

impl Fixture {
    fn page(&self) -> PageRef {
        self.group(self.ino("a")).refs().next().unwrap()
    }

    fn snapshot(&self, name: &str) {
        self.store.snapshot(&["v"], Some(name), Receipt::none()).unwrap();
    }

    fn damage(&self, page: PageRef, bytes: &[u8]) {
        let path = self.dir.path().join(format!("store/segments/{:08x}.seg", page.segment));
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(bytes, u64::from(page.page) * PAGE_SIZE as u64).unwrap();
    }

    fn waits_to_be_sealed(&self, epoch: Epoch) -> bool {
        self.store.db.get_meta(&meta::seal(BRANCH, epoch)).unwrap().is_some()
    }
}

#[test]
fn page_that_was_rewritten_is_verified_once_its_epoch_is_sealed() {
    let (fixture, fs) = rewritten();
    fixture.snapshot("s");
    let browsed = fixture.store.open_snapshot("v@s").unwrap();
    // Both have the group in memory, without the checksum.
    assert_eq!((read(&fs).unwrap()[0], read(&browsed).unwrap()[0]), (8, 8));
    fixture.store.reclaim().unwrap();
    assert!(!fixture.waits_to_be_sealed(FIRST));
    assert_eq!(fixture.page().crc, Some(crc32c::crc32c(&[8; PAGE_SIZE])));
    assert_eq!((read(&fs).unwrap()[0], read(&browsed).unwrap()[0]), (8, 8));
    fixture.damage(fixture.page(), b"!");
    assert_damaged(&fs);
    assert_damaged(&browsed);
    drop((fs, browsed));
    let fixture = fixture.reopened();
    assert_damaged(&fixture.store.open_head("v").unwrap());
    assert_eq!(fixture.kinds(), ["wrong-checksum"]);
}

#[test]
fn page_that_was_taken_over_before_it_was_sealed_is_verified_after() {
    let (fixture, fs) = rewritten();
    fixture.snapshot("s");
    fixture.store.fork("v@s", "w", Receipt::none()).unwrap();
    let fork = fixture.store.open_head("w").unwrap();
    for fs in [&fs, &fork] {
        fs.write(a(fs), PAGE_SIZE as u64, &[9; PAGE_SIZE], KillSuid::No).unwrap();
    }
    assert_eq!(fixture.page().crc, None);
    fixture.store.reclaim().unwrap();
    assert_eq!((read(&fs).unwrap()[0], read(&fork).unwrap()[0]), (8, 8));
    // What was found in the older version is stored with the next change of the group.
    fs.write(a(&fs), PAGE_SIZE as u64, &[10; 10], KillSuid::No).unwrap();
    assert!(fixture.page().crc.is_some());
    fixture.damage(fixture.page(), b"!");
    assert_damaged(&fs);
    assert_damaged(&fork);
    drop((fs, fork));
    let fixture = fixture.reopened();
    assert_damaged(&fixture.store.open_head("v").unwrap());
    assert_damaged(&fixture.store.open_head("w").unwrap());
}

#[test]
fn what_a_dead_process_left_unsealed_is_sealed_by_the_next() {
    let (fixture, fs) = rewritten();
    fixture.snapshot("s");
    fs.write(a(&fs), PAGE_SIZE as u64, &[9; PAGE_SIZE], KillSuid::No).unwrap();
    fs.write(a(&fs), PAGE_SIZE as u64, &[10; 10], KillSuid::No).unwrap();
    fixture.snapshot("t");
    drop(fs);
    let fixture = fixture.reopened();
    assert!(fixture.waits_to_be_sealed(FIRST) && fixture.waits_to_be_sealed(FIRST.next()));
    fixture.assert_clean();
    fixture.store.reclaim().unwrap();
    assert!(!fixture.waits_to_be_sealed(FIRST) && !fixture.waits_to_be_sealed(FIRST.next()));
    let bare = fixture.group(fixture.ino("a")).refs().filter(|page| page.crc.is_none()).count();
    assert_eq!(bare, 0);
    fixture.assert_clean();
}

#[test]
fn nothing_that_was_removed_comes_back_by_being_sealed() {
    let (fixture, fs) = rewritten();
    fixture.snapshot("s");
    fs.write(a(&fs), 0, &[9; 3 * PAGE_SIZE], KillSuid::No).unwrap();
    fs.write(a(&fs), 0, &[10; PAGE_SIZE], KillSuid::No).unwrap();
    fixture.snapshot("t");
    let waiting = fixture.store.registry.read().branches.get(&BRANCH).unwrap().epoch;
    assert_eq!(waiting, Epoch(3));
    fixture.store.remove_snapshots(&["v@s"], Receipt::none()).unwrap();
    fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap();
    drop(fs);
    fixture.store.remove_snapshots(&["v@t"], Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    fixture.assert_clean();
    let mut versions = 0;
    fixture
        .store
        .db
        .scan("extent", &[], &[], |key, _| {
            // What is left in the running epoch says that nothing is there.
            let found = crate::store::VersionedKey::parse(crate::store::Family::Extent, key).unwrap();
            let of_a = found.prefix == Prefix::extent(TREE, Ino(16), 0);
            versions += usize::from(of_a && found.epoch < waiting);
            Ok(true)
        })
        .unwrap();
    assert_eq!(versions, 0);
    // A volume that goes takes with it what was to be done for it.
    fixture.store.create_volume("w", &VolumeSpec::default(), Receipt::none()).unwrap();
    let fs = fixture.store.open_head("w").unwrap();
    file(&fs, NodeId::ROOT, "x", &[1; 10_000]);
    fixture.store.snapshot(&["w"], None, Receipt::none()).unwrap();
    drop(fs);
    fixture.store.remove_volume("w", Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    fixture.store.db.scan(META, &[meta::SEAL], &[], |_, _| panic!("something waits to be sealed")).unwrap();
    fixture.assert_clean();
}

#[test]
fn page_that_the_power_took_is_not_sealed() {
    let (fixture, fs) = rewritten();
    fixture.snapshot("s");
    fixture.store.reclaim().unwrap();
    // A new page, which is then rewritten in place.
    fs.write(a(&fs), 0, &[9; PAGE_SIZE], KillSuid::No).unwrap();
    fs.write(a(&fs), 0, &[10; PAGE_SIZE], KillSuid::No).unwrap();
    let lost = fixture.page();
    fixture.snapshot("t");
    drop(fs);
    // As if another boot of the host had written the segment, and had never synced that page.
    let Fixture { store, dir } = fixture;
    store.close().unwrap();
    let mark = SegmentMark { synced_pages: lost.page, branch: BRANCH, loose_from: None, boot: 1 };
    let fixture = Fixture { store, dir };
    fixture.put(META, &meta::segment(lost.segment), &mark.encode());
    fixture.damage(lost, &[0; PAGE_SIZE]);
    let Fixture { store, dir } = fixture;
    drop(store);
    let fixture = Fixture { store: open(dir.path()), dir };
    assert!(fixture.waits_to_be_sealed(FIRST.next()));
    fixture.store.reclaim().unwrap();
    assert!(!fixture.waits_to_be_sealed(FIRST.next()));
    assert_eq!(fixture.page(), PageRef { crc: None, ..lost });
    let fs = fixture.store.open_head("v").unwrap();
    assert_eq!(read(&fs).unwrap(), [8; PAGE_SIZE]);
    fixture.assert_clean();
}

#[test]
fn page_without_checksum() {
    let (fixture, fs) = rewritten();
    fixture.snapshot("s");
    drop(fs);
    // While it is still to be done, nothing is missing.
    fixture.assert_clean();
    fixture.store.reclaim().unwrap();
    fixture.assert_clean();
    let first = fixture.page();
    let prefix = Prefix::extent(TREE, fixture.ino("a"), 0);
    let mut group = fixture.group(fixture.ino("a"));
    if let Group::Pages(pages) = &mut group {
        pages[0] = Page::Data(PageRef { crc: None, ..first });
    }
    fixture.write(&prefix, &group);
    fixture.assert_mended("page-without-checksum");
    assert_eq!(fixture.page(), first);
}

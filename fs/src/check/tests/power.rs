//! What a volume shows after the log reached the disk and no data but what was synced.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;
use crate::attr::SetAttr;
use crate::ops::Datasync;
use crate::store::record::{FreeList, PAGE_SIZE, PageRun, SegmentMark};

/// A boot of the host that is over.
const EARLIER: u128 = 1;

impl Fixture {
    /// Takes the power away: every record is on the disk, and of the data what the marks of the segments say.
    fn without_power(self) -> Fixture {
        let Fixture { store, dir } = self;
        drop(store);
        let fixture = Fixture { store: open(dir.path()), dir };
        for (segment, pages) in fixture.store.segments.list() {
            let key = meta::segment(segment);
            let mark = SegmentMark::decode(&fixture.store.db.get_meta(&key).unwrap().unwrap()).unwrap();
            for page in mark.synced_pages..pages {
                fixture.store.segments.punch(PageRun { segment, page, count: 1 }).unwrap();
            }
            fixture.put(META, &key, &SegmentMark { boot: EARLIER, ..mark }.encode());
        }
        let mut lists = Vec::new();
        let list = |key: &[u8], value: &[u8]| {
            lists.push((key.to_vec(), FreeList::decode(value).unwrap()));
            Ok(true)
        };
        fixture.store.db.scan(META, &[meta::FREE], &[], list).unwrap();
        for (key, list) in lists.into_iter().filter(|(_, list)| list.boot != 0) {
            fixture.put(META, &key, &FreeList { boot: EARLIER, ..list }.encode());
        }
        let Fixture { store, dir } = fixture;
        drop(store);
        Fixture { store: open(dir.path()), dir }
    }

    /// Reads the beginning of a file.
    fn read(&self, name: &str, length: usize) -> Vec<u8> {
        self.try_read(name, length).unwrap()
    }

    fn try_read(&self, name: &str, length: usize) -> Result<Vec<u8>, crate::FsError> {
        let fs = self.store.open_head("v").unwrap();
        let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new(name)).unwrap().node;
        let mut bytes = Vec::new();
        fs.read(node, 0, length, &mut bytes)?;
        Ok(bytes)
    }

    /// Runs `change` on the open volume.
    fn changing(self, change: impl FnOnce(&VolumeFs)) -> Fixture {
        let fs = self.store.open_head("v").unwrap();
        change(&fs);
        drop(fs);
        self
    }
}

fn synced(fs: &VolumeFs, name: &str, content: &[u8]) -> NodeId {
    let node = file(fs, NodeId::ROOT, name, content);
    fs.fsync(node, Datasync::No).unwrap();
    node
}

fn resize(fs: &VolumeFs, node: NodeId, size: u64) {
    fs.setattr(&ROOT, node, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
}

#[test]
fn small_file_that_was_synced_and_grew_keeps_its_bytes() {
    let fixture = Fixture::empty().changing(|fs| {
        let node = synced(fs, "a", &[1; 500]);
        fs.write(node, 500, &[2; 5000], KillSuid::No).unwrap();
    });
    assert_eq!(fixture.without_power().read("a", 500), [1; 500]);
}

#[test]
fn synced_page_whose_rest_is_cut_off_keeps_its_bytes() {
    let fixture = Fixture::empty().changing(|fs| {
        let node = synced(fs, "a", &[1; 2 * PAGE_SIZE]);
        resize(fs, node, 5000);
    });
    assert_eq!(fixture.without_power().read("a", 2 * PAGE_SIZE), [1; 5000]);
}

#[test]
fn synced_copy_that_is_written_keeps_what_it_shared() {
    let fixture = Fixture::empty().changing(|fs| {
        let a = file(fs, NodeId::ROOT, "a", &[1; 4 * PAGE_SIZE]);
        let b = file(fs, NodeId::ROOT, "b", b"");
        fs.copy_file_range(&ROOT, a, 0, b, 0, 4 * PAGE_SIZE as u64).unwrap();
        fs.fsync(b, Datasync::No).unwrap();
        fs.write(b, 0, &[2; 100], KillSuid::No).unwrap();
    });
    let bytes = fixture.without_power().read("b", 4 * PAGE_SIZE);
    assert!(bytes[..100] == [1; 100] || bytes[..100] == [2; 100]);
    assert!(bytes[100..].iter().all(|&byte| byte == 1), "shared bytes are gone");
}

#[test]
fn page_that_a_lost_copy_replaced_is_not_lost_with_it() {
    let fixture = Fixture::empty().changing(|fs| {
        let b = synced(fs, "b", &[1; 4 * PAGE_SIZE]);
        let a = file(fs, NodeId::ROOT, "a", &[2; 4 * PAGE_SIZE]);
        fs.copy_file_range(&ROOT, a, 0, b, 0, PAGE_SIZE as u64).unwrap();
    });
    let bytes = fixture.without_power().read("b", PAGE_SIZE);
    assert!(bytes == [1; PAGE_SIZE] || bytes == [2; PAGE_SIZE]);
}

#[test]
fn copy_of_a_page_that_was_rewritten_never_shows_what_that_page_was_before() {
    let fixture = Fixture::empty().changing(|fs| {
        let b = synced(fs, "b", &[3; 2 * PAGE_SIZE]);
        let a = synced(fs, "a", &[1; 2 * PAGE_SIZE]);
        fs.write(a, 0, &[2; PAGE_SIZE], KillSuid::No).unwrap();
        assert_eq!(
            fs.copy_file_range(&ROOT, a, 0, b, 0, 2 * PAGE_SIZE as u64).unwrap(),
            2 * PAGE_SIZE as u64
        );
        let mut bytes = Vec::new();
        fs.read(b, 0, 2 * PAGE_SIZE, &mut bytes).unwrap();
        assert!(bytes[..PAGE_SIZE] == [2; PAGE_SIZE] && bytes[PAGE_SIZE..] == [1; PAGE_SIZE]);
    });
    // The rewrite has not reached the disk.
    rewrite_behind(&fixture, 1);
    let fixture = fixture.without_power();
    let bytes = fixture.read("b", PAGE_SIZE);
    assert!(bytes == [3; PAGE_SIZE] || bytes == [2; PAGE_SIZE], "{:?}", bytes.first());
}

#[test]
fn what_a_synced_truncation_removed_does_not_come_back() {
    let fixture = Fixture::empty().changing(|fs| {
        synced(fs, "a", &[1; 2 * PAGE_SIZE]);
    });
    fixture.store.snapshot(&["v"], None, Receipt::none()).unwrap();
    let fixture = fixture.changing(|fs| {
        let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
        resize(fs, node, 0);
        fs.fsync(node, Datasync::No).unwrap();
        fs.write(node, 0, &[2; 2 * PAGE_SIZE], KillSuid::No).unwrap();
    });
    assert!(!fixture.without_power().read("a", 2 * PAGE_SIZE).contains(&1));
}

#[test]
fn sweep_leaves_something_to_fall_back_to() {
    let fixture = Fixture::empty().changing(|fs| {
        synced(fs, "a", &[1; PAGE_SIZE]);
    });
    fixture.store.snapshot(&["v"], Some("s"), Receipt::none()).unwrap();
    let fixture = fixture.changing(|fs| {
        let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
        fs.write(node, 0, &[2; PAGE_SIZE], KillSuid::No).unwrap();
    });
    fixture.store.remove_snapshots(&["v@s"], Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    assert_eq!(fixture.without_power().read("a", PAGE_SIZE), [2; PAGE_SIZE]);
}

#[test]
fn growing_file_that_nobody_synced_waits_for_no_disk() {
    let fixture = Fixture::empty().changing(|fs| {
        let node = file(fs, NodeId::ROOT, "a", &[1; 500]);
        fs.write(node, 500, &[2; 5000], KillSuid::No).unwrap();
        resize(fs, node, 0);
        fs.write(node, 0, &[3; 5000], KillSuid::No).unwrap();
        resize(fs, node, 4500);
    });
    for (segment, _) in fixture.store.segments.list() {
        assert!(!fixture.store.segments.is_safe(segment, 0));
    }
}

/// Reads the first page of `a` from the disk.
fn page_behind(fixture: &Fixture) -> Vec<u8> {
    let (segment, at) = first_page(fixture);
    let mut bytes = vec![0; PAGE_SIZE];
    std::fs::File::open(segment).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// Returns in which file the first page of `a` is, and where.
fn first_page(fixture: &Fixture) -> (PathBuf, u64) {
    let page = fixture.group(fixture.ino("a")).refs().next().unwrap();
    let path = fixture.dir.path().join(format!("store/segments/{:08x}.seg", page.segment));
    (path, u64::from(page.page) * PAGE_SIZE as u64)
}

/// Rewrites the first page of `a` on the disk, as an operation does whose record is lost.
fn rewrite_behind(fixture: &Fixture, byte: u8) {
    rewrite_from(fixture, 0, byte);
}

/// The same from some byte of the page on.
fn rewrite_from(fixture: &Fixture, skip: usize, byte: u8) {
    let (segment, at) = first_page(fixture);
    let segment = std::fs::File::options().write(true).open(segment).unwrap();
    segment.write_all_at(&vec![byte; PAGE_SIZE - skip], at + skip as u64).unwrap();
}

#[test]
fn bytes_of_an_append_whose_record_was_lost_do_not_come_back() {
    const END: usize = 3000;
    const LONG: u64 = 3 * PAGE_SIZE as u64;
    type Grow = fn(&VolumeFs, NodeId);
    let ways: [(&str, Grow); 4] = [
        ("write", |fs, node| fs.write(node, LONG - 1, &[2], KillSuid::No).unwrap()),
        ("truncate", |fs, node| resize(fs, node, LONG)),
        ("fallocate", |fs, node| fs.fallocate(&ROOT, node, 0, LONG - 1, 1).unwrap()),
        ("copy", |fs, node| {
            let page = PAGE_SIZE as u64;
            let other = file(fs, NodeId::ROOT, "other", &[2; PAGE_SIZE]);
            assert_eq!(fs.copy_file_range(&ROOT, other, 0, node, 2 * page, page).unwrap(), page);
        }),
    ];
    for with_snapshot in [false, true] {
        for (way, grow) in ways {
            let fixture = Fixture::empty().changing(|fs| {
                let node = synced(fs, "a", &[1; END]);
                // In place: the record says from now on that nobody knows the page's checksum.
                fs.write(node, 0, &[1], KillSuid::No).unwrap();
            });
            rewrite_from(&fixture, END, 9);
            if with_snapshot {
                fixture.store.snapshot(&["v"], None, Receipt::none()).unwrap();
            }
            let fixture = fixture.changing(|fs| {
                let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
                grow(fs, node);
            });
            fixture.assert_clean();
            let bytes = fixture.read("a", LONG as usize);
            assert_eq!(bytes.len() as u64, LONG, "{way}");
            assert!(bytes[..END].iter().all(|&byte| byte == 1), "{way}");
            assert!(
                bytes[END..2 * PAGE_SIZE].iter().all(|&byte| byte == 0),
                "{way}, snapshot: {with_snapshot}"
            );
        }
    }
}

#[test]
fn append_finds_no_bytes_of_one_whose_record_was_lost() {
    const END: usize = 3000;
    for with_snapshot in [false, true] {
        let fixture = Fixture::empty().changing(|fs| {
            let node = synced(fs, "a", &[1; END]);
            fs.write(node, 0, &[1], KillSuid::No).unwrap();
        });
        rewrite_from(&fixture, END, 9);
        if with_snapshot {
            fixture.store.snapshot(&["v"], None, Receipt::none()).unwrap();
        }
        let fixture = fixture.changing(|fs| {
            let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
            fs.write(node, END as u64, &[2], KillSuid::No).unwrap();
        });
        // Whether the byte reaches the disk or not, nobody sees a 9 where it belongs.
        let page = page_behind(&fixture);
        assert!(page[..END].iter().all(|&byte| byte == 1) && page[END] == 2);
        assert!(page[END + 1..].iter().all(|&byte| byte == 0), "snapshot: {with_snapshot}");
        fixture.assert_clean();
    }
}

#[test]
fn page_that_was_rewritten_before_its_record_was_on_the_disk_is_readable() {
    let fixture = Fixture::empty().changing(|fs| {
        synced(fs, "a", &[1; 3 * PAGE_SIZE]);
    });
    rewrite_behind(&fixture, 9);
    let fixture = fixture.without_power();
    fixture.assert_clean();
    assert_eq!(fixture.read("a", PAGE_SIZE), [9; PAGE_SIZE]);
    // Also once its epoch is sealed, and in boots to come.
    fixture.store.snapshot(&["v"], None, Receipt::none()).unwrap();
    assert_eq!(fixture.without_power().read("a", PAGE_SIZE), [9; PAGE_SIZE]);
}

#[test]
fn page_of_a_sealed_epoch_that_changed_is_damage() {
    let fixture = Fixture::empty().changing(|fs| {
        synced(fs, "a", &[1; 3 * PAGE_SIZE]);
    });
    fixture.store.snapshot(&["v"], None, Receipt::none()).unwrap();
    rewrite_behind(&fixture, 9);
    let fixture = fixture.without_power();
    assert_eq!(fixture.kinds(), ["wrong-checksum"]);
    assert!(fixture.try_read("a", PAGE_SIZE).is_err());
}

/// Writes a file that a snapshot has anew, syncs nothing, and takes the power away.
fn rewritten_after_a_snapshot() -> Fixture {
    let fixture = Fixture::empty().changing(|fs| {
        synced(fs, "a", &[1; 2 * PAGE_SIZE]);
    });
    fixture.store.snapshot(&["v"], Some("s"), Receipt::none()).unwrap();
    fixture
        .changing(|fs| {
            let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
            fs.write(node, 0, &[2; PAGE_SIZE], KillSuid::No).unwrap();
        })
        .without_power()
}

#[test]
fn what_stands_in_for_a_lost_page_outlives_its_snapshot() {
    let fixture = rewritten_after_a_snapshot();
    assert_eq!(fixture.read("a", PAGE_SIZE), [1; PAGE_SIZE]);
    fixture.store.remove_snapshots(&["v@s"], Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    assert_eq!(fixture.read("a", PAGE_SIZE), [1; PAGE_SIZE]);
    fixture.assert_clean();
    // What is written instead makes an end of it.
    fixture.store.snapshot(&["v"], Some("t"), Receipt::none()).unwrap();
    let fixture = fixture.changing(|fs| {
        let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
        fs.write(node, 0, &[3; PAGE_SIZE], KillSuid::No).unwrap();
        fs.fsync(node, Datasync::No).unwrap();
    });
    fixture.store.remove_snapshots(&["v@t"], Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    let mut bytes = fixture.read("a", 2 * PAGE_SIZE);
    assert!(bytes.split_off(PAGE_SIZE) == [1; PAGE_SIZE] && bytes == [3; PAGE_SIZE]);
    fixture.assert_clean();
}

#[test]
fn copy_of_a_lost_page_shows_what_stands_in_for_it() {
    let fixture = rewritten_after_a_snapshot().changing(|fs| {
        let a = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
        let b = file(fs, NodeId::ROOT, "b", &[5; 3 * PAGE_SIZE]);
        let length = 2 * PAGE_SIZE as u64;
        assert_eq!(fs.copy_file_range(&ROOT, a, 0, b, 0, length).unwrap(), length);
        fs.fsync(b, Datasync::No).unwrap();
    });
    assert_eq!(fixture.read("b", 2 * PAGE_SIZE), [1; 2 * PAGE_SIZE]);
    fixture.assert_clean();
}

#[test]
fn page_that_a_lost_one_replaced_is_not_given_back() {
    let fixture = Fixture::empty().changing(|fs| {
        synced(fs, "a", &[1; 2 * PAGE_SIZE]);
    });
    fixture.store.snapshot(&["v"], Some("s"), Receipt::none()).unwrap();
    fixture.store.remove_snapshots(&["v@s"], Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    // Only the head sees the page, and lets go of it.
    let fixture = fixture.changing(|fs| {
        let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
        fs.write(node, 0, &[2; PAGE_SIZE], KillSuid::No).unwrap();
    });
    let fixture = fixture.without_power();
    fixture.store.reclaim().unwrap();
    assert_eq!(fixture.read("a", PAGE_SIZE), [1; PAGE_SIZE]);
    fixture.assert_clean();
}

#[test]
fn small_file_of_a_lower_that_grows_keeps_its_bytes() {
    let lower = tempfile::tempdir().unwrap();
    std::fs::write(lower.path().join("a"), [7; 1500]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let spec = VolumeSpec { lowers: vec![lower.path().to_owned()], ..VolumeSpec::default() };
    store.create_volume("v", &spec, Receipt::none()).unwrap();
    let fixture = Fixture { store, dir }.changing(|fs| {
        let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
        fs.write(node, 0, &[8; 100], KillSuid::No).unwrap();
        fs.write(node, 1500, &[9; 4000], KillSuid::No).unwrap();
    });
    let bytes = fixture.without_power().read("a", 1500);
    assert!(bytes[..100] == [7; 100] || bytes[..100] == [8; 100]);
    assert!(bytes[100..].iter().all(|&byte| byte == 7), "bytes of the lower are gone");
}

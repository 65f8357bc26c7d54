use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;
use crate::store::record::{FreeList, PAGE_SIZE, PageRun};

fn first_page(fixture: &Fixture) -> PageRef {
    fixture.group(fixture.ino("a")).refs().next().unwrap()
}

fn segment_file(fixture: &Fixture, segment: u32) -> std::fs::File {
    let path = fixture.dir.path().join(format!("store/segments/{segment:08x}.seg"));
    std::fs::File::options().write(true).open(path).unwrap()
}

#[test]
fn wrong_stored_bytes() {
    let fixture = Fixture::filled();
    fixture.edit(fixture.ino("a"), |inode| inode.stored += 4096);
    // What the volume is charged follows from what its inodes say.
    assert_eq!(fixture.kinds(), ["wrong-stored-bytes", "wrong-usage"]);
}

#[test]
fn data_beyond_end() {
    let fixture = Fixture::filled();
    fixture.edit(fixture.ino("a"), |inode| inode.size = 8192);
    assert_eq!(fixture.kinds(), ["data-beyond-end"]);
    fixture.edit(fixture.ino("a"), |inode| inode.size = 8193);
    fixture.assert_clean();
    fixture.edit(fixture.ino("b"), |inode| inode.size = 4);
    assert_eq!(fixture.kinds(), ["data-beyond-end"]);
}

#[test]
fn inline_not_first() {
    let fixture = Fixture::filled();
    let b = fixture.ino("b");
    fixture.write(&Prefix::extent(TREE, b, 3), &Group::Inline(b"x"[..].into()));
    fixture.edit(b, |inode| (inode.stored, inode.size) = (inode.stored + 1, 1 << 20));
    fixture.count(1, 0);
    assert_eq!(fixture.kinds(), ["inline-not-first"]);
}

#[test]
fn data_without_file() {
    let fixture = Fixture::filled();
    for ino in [GHOST, fixture.ino("d")] {
        let group = Prefix::extent(TREE, ino, 0);
        fixture.write(&group, &Group::Inline(b"x"[..].into()));
        assert_eq!(fixture.kinds(), ["data-without-file"]);
        fixture.write(&group, &Group::Removed);
        fixture.assert_clean();
    }
}

#[test]
fn missing_segment() {
    let fixture = Fixture::filled();
    fixture.edit_pages(fixture.ino("a"), |page| page.segment = 0x77);
    assert_eq!(fixture.kinds(), ["missing-segment"]);
}

#[test]
fn page_beyond_segment() {
    let fixture = Fixture::filled();
    fixture.edit_pages(fixture.ino("a"), |page| page.page += 2);
    let kinds = fixture.kinds();
    // The first of the three still lies inside, where other bytes are.
    assert_eq!(kinds.iter().filter(|kind| **kind == "page-beyond-segment").count(), 2, "{kinds:?}");
}

#[test]
fn shared_page() {
    let fixture = Fixture::filled();
    let fs = fixture.store.open_head("v").unwrap();
    file(&fs, NodeId::ROOT, "c", &[8; 10_000]);
    drop(fs);
    let (a, c) = (fixture.ino("a"), fixture.ino("c"));
    let stolen = fixture.group(a);
    fixture.write(&Prefix::extent(TREE, c, 0), &stolen);
    assert_eq!(fixture.kinds(), ["shared-page"; 3]);
    // Groups that know of each other may.
    fixture.put(META, &meta::tie((TREE, a, 0), (TREE, c, 0)), &[]);
    fixture.put(META, &meta::tie((TREE, c, 0), (TREE, a, 0)), &[]);
    fixture.assert_clean();
}

#[test]
fn one_sided_tie() {
    let fixture = Fixture::filled();
    fixture.put(META, &meta::tie((TREE, Ino(20), 0), (TREE, Ino(21), 0)), &[]);
    fixture.assert_mended("one-sided-tie");
}

#[test]
fn page_of_future() {
    let fixture = Fixture::filled();
    fixture.edit_pages(fixture.ino("a"), |page| page.epoch = Epoch(9));
    assert_eq!(fixture.kinds(), ["page-of-future"; 3]);
}

#[test]
fn wrong_checksum() {
    let fixture = Fixture::filled();
    let page = first_page(&fixture);
    let offset = (u64::from(page.page) + 1) * PAGE_SIZE as u64 + 17;
    segment_file(&fixture, page.segment).write_all_at(b"!", offset).unwrap();
    let issues = fixture.check(Repair::No).issues;
    assert_eq!(
        issues.iter().map(|issue| issue.to_string()).collect::<Vec<_>>(),
        [format!(
            "v: inode 16 (/a): page {} of segment {:08x} does not match its checksum",
            page.page + 1,
            page.segment
        )]
    );
    // Without a checksum nobody knows.
    fixture.edit_pages(fixture.ino("a"), |page| page.crc = None);
    fixture.assert_clean();
}

#[test]
fn what_only_a_snapshot_shows_is_read_too() {
    let fixture = Fixture::filled();
    let page = first_page(&fixture);
    fixture.store.snapshot(&["v"], Some("one"), Receipt::none()).unwrap();
    let fs = fixture.store.open_head("v").unwrap();
    fs.unlink(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap();
    drop(fs);
    fixture.store.reclaim().unwrap();
    fixture.assert_clean();
    let offset = u64::from(page.page) * PAGE_SIZE as u64;
    segment_file(&fixture, page.segment).write_all_at(b"!", offset).unwrap();
    let issues = fixture.check(Repair::No).issues;
    assert_eq!(issues.len(), 1, "{issues:?}");
    assert!(issues[0].to_string().starts_with("v@1: inode 16 (/a): page"), "{}", issues[0]);
    fixture.store.remove_snapshots(&["v@one"], Receipt::none()).unwrap();
    fixture.store.reclaim().unwrap();
    fixture.assert_clean();
}

#[test]
fn freed_page_in_use() {
    let fixture = Fixture::filled();
    let PageRef { segment, page, .. } = first_page(&fixture);
    let list = FreeList { boot: 0, runs: vec![PageRun { segment, page, count: 2 }] };
    fixture.put(META, &meta::free(99), &list.encode());
    assert_eq!(fixture.kinds(), ["freed-page-in-use"; 2]);
}

#[test]
fn leaked_pages() {
    let fixture = Fixture::filled();
    let segment = first_page(&fixture).segment;
    let file = segment_file(&fixture, segment);
    let end = file.metadata().unwrap().len();
    file.write_all_at(&[0x55; 3 * PAGE_SIZE], end).unwrap();
    // Who writes to a segment may have handed pages out that no record has yet.
    fixture.assert_clean();
    let fixture = fixture.reopened();
    fixture.assert_mended("leaked-pages");
    let fs = fixture.store.open_head("v").unwrap();
    let node = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("a")).unwrap().node;
    let mut bytes = Vec::new();
    fs.read(node, 0, 20_000, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 10_000]);
}

#[test]
fn leaked_pages_of_zeros_are_no_finding_and_are_given_back_by_a_repair() {
    let fixture = Fixture::filled();
    let segment = first_page(&fixture).segment;
    let file = segment_file(&fixture, segment);
    let blocks = || file.metadata().unwrap().blocks();
    let before = blocks();
    file.write_all_at(&[0; 3 * PAGE_SIZE], file.metadata().unwrap().len()).unwrap();
    file.sync_all().unwrap();
    assert!(blocks() > before);
    let fixture = fixture.reopened();
    assert_eq!(fixture.check(Repair::Yes).issues, []);
    assert_eq!(blocks(), before);
    fixture.assert_clean();
}

use std::path::Path;

use super::*;

/// Numbers as the store's counter gives them.
fn number(at_least: u32) -> Result<u32, StoreError> {
    Ok(at_least)
}

const BRANCH: BranchId = BranchId(7);

fn mark(synced_pages: u32) -> SegmentMark {
    SegmentMark { synced_pages, branch: BRANCH, loose_from: None, boot: 1 }
}

fn segments(dir: &Path, boot: u128, marks: &HashMap<u32, SegmentMark>) -> Segments {
    Segments::open(dir.to_owned(), boot, Flush::Shared, marks).unwrap()
}

#[test]
fn pages_are_never_handed_out_twice_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let first = segments(dir.path(), 1, &HashMap::new());
    let appender = Appender::default();
    let a = first.allocate(&appender, BRANCH, 3, number).unwrap();
    a.write([&[7; 3 * PAGE_SIZE][..]]).unwrap();
    let b = first.allocate(&appender, BRANCH, 1, number).unwrap();
    assert_eq!((b.run.segment, b.run.page), (a.run.segment, 3));
    let again = segments(dir.path(), 1, &HashMap::new());
    let c = again.allocate(&Appender::default(), BRANCH, 1, number).unwrap();
    assert_ne!(c.run.segment, a.run.segment);
    let mut bytes = [0; 10];
    again.get(a.run.segment).unwrap().read(2, 4000, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 10]);
}

#[test]
fn a_sync_waits_for_pages_that_are_being_written_and_its_mark_covers_them() {
    let dir = tempfile::tempdir().unwrap();
    let segments = segments(dir.path(), 1, &HashMap::new());
    let appender = Appender::default();
    for gives_up in [false, true] {
        let slow = segments.allocate(&appender, BRANCH, 1, number).unwrap();
        let quick = segments.allocate(&appender, BRANCH, 1, number).unwrap();
        quick.write([&[1; PAGE_SIZE][..]]).unwrap();
        let (id, pages) = (quick.run.segment, quick.run.page + 1);
        drop(quick);
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| segments.sync(&appender).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!sync.is_finished());
            if gives_up {
                drop(slow);
            } else {
                slow.write([&[2; PAGE_SIZE][..]]).unwrap();
            }
            assert_eq!(sync.join().unwrap(), [id]);
        });
        assert_eq!(segments.unstored_marks(&[id]), [(id, mark(pages))]);
    }
}

#[test]
fn a_mark_is_everybodys_to_store_until_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let segments = segments(dir.path(), 1, &HashMap::new());
    let appender = Appender::default();
    let pages = segments.allocate(&appender, BRANCH, 2, number).unwrap();
    pages.write([&[1; 2 * PAGE_SIZE][..]]).unwrap();
    let id = pages.run.segment;
    // Whoever syncs next finds nothing to sync, and must not go on before the mark is in the log all the same.
    assert_eq!((segments.sync(&appender).unwrap(), segments.sync(&appender).unwrap()), (vec![id], vec![id]));
    segments.marks_are_stored(&segments.unstored_marks(&[id]));
    assert_eq!(segments.sync(&appender).unwrap(), []);
    assert_eq!(segments.unstored_marks(&[id]), []);
}

#[test]
fn only_what_is_rewritten_in_place_may_wait_for_the_flush_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let segments = segments(dir.path(), 1, &HashMap::new());
    let appender = Appender::default();
    let pages = segments.allocate(&appender, BRANCH, 2, number).unwrap();
    pages.write([&[1; 2 * PAGE_SIZE][..]]).unwrap();
    let id = pages.run.segment;
    drop(pages);
    let segment = segments.get(id).unwrap();
    assert_eq!(segments.sync_ahead_of_log(&appender).unwrap(), [id]);
    // Not before the log knows: else the page would be suspect after a loss of power.
    assert!(!segment.is_settled());
    segments.marks_are_stored(&[(id, mark(2))]);
    assert!(!segment.dirty.load(Ordering::SeqCst));
    segments.rewrite(&appender, id, 0, 0, &[2; PAGE_SIZE]).unwrap();
    assert_eq!(segments.sync_ahead_of_log(&appender).unwrap(), []);
    // Nobody has flushed it yet, so that a sync of its own still has to.
    assert!(segment.dirty.load(Ordering::SeqCst));
    let more = segments.allocate(&appender, BRANCH, 1, number).unwrap();
    assert!(!segment.is_settled());
    more.write([&[3; PAGE_SIZE][..]]).unwrap();
    drop(more);
    assert_eq!(segments.sync_ahead_of_log(&appender).unwrap(), [id]);
    assert_eq!(segments.unstored_marks(&[id]), [(id, mark(3))]);
}

#[test]
fn only_unsynced_pages_of_an_earlier_boot_are_suspect() {
    let dir = tempfile::tempdir().unwrap();
    let appender = Appender::default();
    let id = {
        let segments = segments(dir.path(), 1, &HashMap::new());
        segments.allocate(&appender, BRANCH, 4, number).unwrap().run.segment
    };
    let marks = HashMap::from([(id, mark(2))]);
    let same = segments(dir.path(), 1, &marks);
    assert!(!same.is_suspect(id, 3));
    let other = segments(dir.path(), 2, &marks);
    assert!(!other.is_suspect(id, 1));
    assert!(other.is_suspect(id, 2));
}

#[test]
fn checksums_of_epochs_that_were_not_sealed_are_loose_from_the_next_boot_on_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let first = segments(dir.path(), 1, &HashMap::new());
    let id = first.allocate(&Appender::default(), BRANCH, 1, number).unwrap().run.segment;
    assert_eq!(first.loosen(|_| Epoch(4)), []);
    let next = segments(dir.path(), 2, &HashMap::from([(id, mark(1))]));
    let loosened = next.loosen(|branch| if branch == BRANCH { Epoch(4) } else { Epoch(9) });
    assert_eq!(loosened, [(id, SegmentMark { loose_from: Some(Epoch(5)), ..mark(1) })]);
    assert_eq!((next.is_loose(id, Epoch(4)), next.is_loose(id, Epoch(5))), (false, true));
    std::fs::write(dir.path().join("000000ff.seg"), [1; PAGE_SIZE]).unwrap();
    // Sealed since, but the old boot's bytes are what they are.
    let later = segments(dir.path(), 3, &loosened.into_iter().collect());
    assert_eq!(later.loosen(|_| Epoch(8)), []);
    assert!(later.is_loose(id, Epoch(5)));
}

#[test]
fn a_segment_whose_pages_were_lost_stays_and_one_that_was_lost_itself_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("00000001.seg"), b"").unwrap();
    let marks = HashMap::from([(1, mark(0)), (2, mark(0))]);
    let segments = segments(dir.path(), 2, &marks);
    assert_eq!(segments.unlink_empty().unwrap(), [] as [u32; 0]);
    for id in [1, 2] {
        let mut bytes = [1; 8];
        segments.get(id).unwrap().read(3, 0, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 8]);
        assert!(segments.is_suspect(id, 3));
    }
}

#[test]
fn a_punched_segment_is_unlinked() {
    let dir = tempfile::tempdir().unwrap();
    let segments = segments(dir.path(), 1, &HashMap::new());
    let appender = Appender::default();
    let pages = segments.allocate(&appender, BRANCH, 2, number).unwrap();
    pages.write([&[1; 2 * PAGE_SIZE][..]]).unwrap();
    let run = pages.run;
    drop(pages);
    segments.punch(run).unwrap();
    assert_eq!(segments.unlink_empty().unwrap(), [] as [u32; 0]);
    appender.retire();
    assert_eq!(segments.unlink_empty().unwrap(), [run.segment]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn who_comes_while_a_segment_is_synced_waits_for_that() {
    let dir = tempfile::tempdir().unwrap();
    let segments = segments(dir.path(), 1, &HashMap::new());
    let (appender, late) = (Appender::default(), Appender::default());
    let slow = segments.allocate(&appender, BRANCH, 1, number).unwrap();
    let quick = segments.allocate(&appender, BRANCH, 1, number).unwrap();
    quick.write([&[1; PAGE_SIZE][..]]).unwrap();
    drop(quick);
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| segments.sync(&appender).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(50));
        // A fork of what was written.
        segments.note_dirty(&late);
        let (begins, begun) = std::sync::mpsc::channel();
        let (segments, late) = (&segments, &late);
        let late = scope.spawn(move || {
            begins.send(()).unwrap();
            segments.sync(late).unwrap()
        });
        begun.recv().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let waited = !sync.is_finished() && !late.is_finished();
        slow.write([&[2; PAGE_SIZE][..]]).unwrap();
        assert_eq!(sync.join().unwrap(), late.join().unwrap());
        assert!(waited);
    });
}

#[test]
fn a_segment_whose_sync_failed_is_never_synced_again() {
    let dir = tempfile::tempdir().unwrap();
    let segments = segments(dir.path(), 1, &HashMap::new());
    let appender = Appender::default();
    let pages = segments.allocate(&appender, BRANCH, 1, number).unwrap();
    pages.write([&[1; PAGE_SIZE][..]]).unwrap();
    let segment = segments.get(pages.run.segment).unwrap();
    drop(pages);
    assert!(segment.attempt("sync", || Err(std::io::Error::from_raw_os_error(libc::EIO))).is_err());
    // The host would say that it is fine.
    assert!(segments.sync(&appender).is_err() && segment.write_out().is_err());
    assert!(segments.unstored_marks(&[segment.id]).is_empty());
}

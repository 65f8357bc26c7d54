use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::attr::{FileKind, Timestamp};
use crate::ids::{BranchId, Epoch, Ino, SessionId, TreeId, VolumeId};
use crate::request::{Answer, KernelRequest};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn time(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 5 }
}

fn inode() -> Inode {
    InodeV1 {
        kind: FileKind::Regular,
        perm: 0o644,
        nlink: 2,
        uid: 1000,
        gid: 100,
        rdev: 0,
        size: 5000,
        stored: 8192,
        atime: time(1),
        mtime: time(2),
        ctime: time(3),
        btime: time(-4),
        has_xattrs: true,
        parent: Ino::ROOT,
        name: b"na\xffme"[..].into(),
        lower: Some(Box::new(LowerRefV1 {
            path: b"a/b"[..].into(),
            layers: 1,
            readable: 77,
            blocks: 16,
            host_ino: 8,
            host_size: 99,
            host_mtime: time(5),
            host_ctime: time(6),
        })),
        target: None,
    }
}

fn group() -> Group {
    let mut pages = Box::new([Page::Base; PAGES_PER_GROUP]);
    for at in 0..3u32 {
        pages[at as usize] = Page::Data(PageRef {
            epoch: Epoch(7),
            segment: 2,
            page: 40 + at,
            crc: Some(0xabcd + at),
            shared: at == 2,
        });
    }
    pages[3] = Page::Hole;
    pages[15] = Page::Data(PageRef { epoch: Epoch(8), segment: 2, page: 43, crc: None, shared: false });
    GroupV1::Pages(pages)
}

fn request() -> KernelRequest {
    KernelRequest { session: SessionId(3), unique: 4 }
}

fn answering(answer: Answer) -> WriterState {
    WriterStateV1 {
        usage: UsageV1 { bytes: -1, inodes: 2 },
        answered: Some(AnsweredV1 { request: request(), answer }),
    }
}

fn reply(outcome: OutcomeV1) -> Reply {
    ReplyV1 { stored: time(7), fingerprint: std::array::from_fn(|at| at as u8), outcome }
}

fn actor() -> Actor {
    ActorV1 { created: time(1), volumes: vec![VolumeId(2), VolumeId(3)], document: b"{}".to_vec() }
}

fn capture() -> Capture {
    let snapshot = |volume, epoch, owned| CapturedV1 { volume: VolumeId(volume), epoch: Epoch(epoch), owned };
    let snapshots = vec![snapshot(2, 4, true), snapshot(3, 5, false)];
    CaptureV1 { created: time(1), snapshots, document: b"{}".to_vec() }
}

/// One line per record: a change here is a change of the format and needs a new version.
#[test]
fn golden_bytes_of_every_record() {
    let lines = [
        ("dentry", DentryV1::Entry { ino: Ino(0x1122), kind: FileKind::Directory }.encode()),
        ("whiteout", DentryV1::Whiteout.encode()),
        ("inode", Some(inode()).encode()),
        ("inode removed", None::<Inode>.encode()),
        ("xattr", XattrV1::Value(b"v".to_vec()).encode()),
        ("xattr removed", XattrV1::Removed.encode()),
        ("group", group().encode()),
        ("group inline", GroupV1::Inline(b"hello"[..].into()).encode()),
        ("group removed", GroupV1::Removed.encode()),
        (
            "volume",
            VolumeV1 {
                name: "v".into(),
                tree: TreeId(1),
                branch: BranchId(2),
                created: time(3),
                quota_bytes: Some(4),
                quota_inodes: None,
                lowers: vec!["/l".into()],
                parent: Some("p@1".into()),
            }
            .encode(),
        ),
        (
            "branch",
            BranchV1 {
                tree: TreeId(1),
                volume: VolumeId(2),
                parent: Some((BranchId(3), Epoch(4))),
                epoch: Epoch(5),
            }
            .encode(),
        ),
        (
            "snapshot",
            SnapshotV1 {
                volume: VolumeId(1),
                name: Some("n".into()),
                created: time(2),
                cut: 3,
                usage: UsageV1 { bytes: 4, inodes: 5 },
            }
            .encode(),
        ),
        ("writer", WriterStateV1 { usage: UsageV1 { bytes: -1, inodes: 2 }, answered: None }.encode()),
        ("writer that answered", answering(Answer::Inode(Ino(5))).encode()),
        ("answered", AnsweredV1 { request: request(), answer: Answer::Count(6) }.encode()),
        ("flag", FlagV1 { since: time(1), count: 2, what: "w".into() }.encode()),
        ("lower slot", LowerSlotV1 { lower: 1, device: 2, high_bits: 3 }.encode()),
        ("free list v1", FreeListV1 { runs: vec![PageRun { segment: 1, page: 2, count: 3 }] }.encode()),
        ("free list", FreeListV2 { boot: 9, runs: vec![PageRun { segment: 1, page: 2, count: 3 }] }.encode()),
        ("segment mark v1", SegmentMarkV1 { synced_pages: 9, boot: 10 }.encode()),
        (
            "segment mark",
            SegmentMarkV2 { synced_pages: 9, branch: BranchId(2), loose_from: Some(Epoch(7)), boot: 10 }
                .encode(),
        ),
        ("reply begun", reply(OutcomeV1::Begun(b"i".to_vec())).encode()),
        ("reply done", reply(OutcomeV1::Done(b"a".to_vec())).encode()),
        ("reply refused", reply(OutcomeV1::Refused(b"e".to_vec())).encode()),
        ("actor", actor().encode()),
        ("capture", capture().encode()),
    ];
    let seen = lines.iter().map(|(name, bytes)| format!("{name}: {}\n", hex(bytes))).collect::<String>();
    assert_eq!(seen, include_str!("golden.txt"), "\nthe bytes of a stored record changed:\n{seen}");
}

#[test]
fn records_survive_the_round_trip() {
    assert_eq!(Record::decode(&Some(inode()).encode()), Some(Some(inode())));
    assert_eq!(Group::decode(&group().encode()), Some(group()));
    assert_eq!(Group::decode(&Group::base().encode()), Some(Group::base()));
    for answer in [Answer::Done, Answer::Inode(Ino(5)), Answer::Count(6)] {
        assert_eq!(WriterState::decode(&answering(answer).encode()), Some(answering(answer)));
    }
    let silent = WriterState { answered: None, ..answering(Answer::Done) };
    assert_eq!(WriterState::decode(&silent.encode()), Some(silent));
    for outcome in [OutcomeV1::Begun, OutcomeV1::Done, OutcomeV1::Refused] {
        let reply = reply(outcome(Vec::new()));
        assert_eq!(Reply::decode(&reply.encode()), Some(reply));
    }
    assert_eq!(Actor::decode(&actor().encode()), Some(actor()));
    assert_eq!(Capture::decode(&capture().encode()), Some(capture()));
}

#[test]
fn an_old_mark_is_read_and_believes_no_checksum() {
    let old = FreeListV1 { runs: vec![PageRun { segment: 1, page: 2, count: 3 }] };
    let read = FreeList::decode(&old.encode()).unwrap();
    assert_eq!((read.boot, &read.runs), (0, &old.runs));
    assert_eq!(FreeList::decode(&read.encode()), Some(read));
    let old = SegmentMarkV1 { synced_pages: 9, boot: 10 };
    let read = SegmentMark::decode(&old.encode()).unwrap();
    assert_eq!((read.synced_pages, read.boot, read.loose_from), (9, 10, Some(Epoch(0))));
    assert_eq!(SegmentMark::decode(&read.encode()), Some(read));
}

#[test]
fn a_record_of_another_version_is_refused() {
    let mut bytes = group().encode();
    bytes[0] = 2;
    assert_eq!(Group::decode(&bytes), None);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(mut bytes: Vec<u8>, known_version: bool) {
        if let (true, Some(first)) = (known_version, bytes.first_mut()) {
            *first = 1;
        }
        <Option<Inode> as Record>::decode(&bytes);
        Group::decode(&bytes);
        Dentry::decode(&bytes);
        Xattr::decode(&bytes);
        Volume::decode(&bytes);
        Branch::decode(&bytes);
        Snapshot::decode(&bytes);
        FreeList::decode(&bytes);
        WriterState::decode(&bytes);
        Answered::decode(&bytes);
        Reply::decode(&bytes);
        Actor::decode(&bytes);
        Capture::decode(&bytes);
    }
}

//! The bytes of files: every page that a version refers to, and then every page that none does.
//!
//! # Overview
//! A version that no tree shows may refer to pages that were given back already: of such only who refers to what is noted. What a
//! tree shows is read and compared with its checksum.
//!
//! A page that was handed out but never reached the disk before the host lost its power is no issue: readers see what
//! was there before it.

use hashbrown::{HashMap, HashSet};

use super::history::History;
use super::reading::Reading;
use super::{Check, Issue, Place, Repair, place, repair};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch};
use crate::store::record::{Group, PAGE_SIZE, PageRef, PageRun, Record};
use crate::store::{Family, PageSet, Prefix, PrefixOf, Store, StoreError, VersionedKey, View};

/// One version of a group.
struct Version {
    branch: BranchId,
    epoch: Epoch,
    group: Group,
}

/// A page as a version refers to it.
#[derive(Clone, Copy)]
struct Referred {
    page: PageRef,
    branch: BranchId,
    epoch: Epoch,
    /// The end of an epoch of the branch that shows it.
    shown_at: Option<Epoch>,
}

/// Which pages are referred to.
pub(super) struct Segments {
    /// How many pages of each segment were handed out.
    ends: HashMap<u32, u32>,
    known: PageSet,
    shown: PageSet,
    /// Pages of groups that share none.
    exclusive: PageSet,
}

/// Checks every page that anything refers to; `reading` says of which the bytes are read.
pub(super) fn check(
    check: &mut Check<'_>,
    history: &History,
    reading: &mut Reading<'_>,
) -> Result<Segments, FsError> {
    let ends = check.store.segments.list().into_iter().collect();
    let mut segments = Segments {
        ends,
        known: PageSet::default(),
        shown: PageSet::default(),
        exclusive: PageSet::default(),
    };
    let mut last: Option<Prefix> = None;
    let mut versions: Vec<Version> = Vec::new();
    // Groups are judged as they go by, but told outside of the scan, which has the records borrowed.
    let mut found: Vec<(Prefix, Referred, Wrong)> = Vec::new();
    check.frozen.scan(Family::Extent.name(), &[], &[], |key, value| {
        let Some(parsed) = VersionedKey::parse(Family::Extent, key) else { return Ok(true) };
        let Some(group) = Group::decode(value) else { return Ok(true) };
        if last.as_ref() != Some(&parsed.prefix) {
            if let Some(prefix) = last.replace(parsed.prefix) {
                segments.examine(check.store, history, reading, &prefix, &versions, &mut found)?;
            }
            versions.clear();
        }
        versions.push(Version { branch: parsed.branch, epoch: parsed.epoch, group });
        Ok(true)
    })?;
    if let Some(prefix) = last {
        segments.examine(check.store, history, reading, &prefix, &versions, &mut found)?;
    }
    for (prefix, referred, wrong) in found {
        tell(check, history, &prefix, &referred, wrong)?;
    }
    Ok(segments)
}

/// What is wrong with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Shared,
    Future,
    NoSegment,
    BeyondSegment,
    Checksum,
    Bare,
}

/// Things that are wrong and remembered until they are told.
const MOST: usize = 1 << 16;

impl Segments {
    /// Returns the segments that nobody writes to any more.
    pub(super) fn quiet(store: &Store) -> Vec<u32> {
        let all = store.segments.list().into_iter().map(|(id, _)| id);
        all.filter(|&id| store.segments.get(id).is_ok_and(|segment| segment.is_quiet())).collect()
    }

    /// Looks at all versions of one group.
    fn examine(
        &mut self,
        store: &Store,
        history: &History,
        reading: &mut Reading<'_>,
        prefix: &Prefix,
        versions: &[Version],
        found: &mut Vec<(Prefix, Referred, Wrong)>,
    ) -> Result<(), StoreError> {
        let mut note = |referred: &Referred, wrong| {
            if found.len() < MOST {
                found.push((prefix.clone(), *referred, wrong));
            }
        };
        let mut pages: HashMap<(u32, u32, Option<u32>), Referred> = HashMap::new();
        let mut newer: Option<&Version> = None;
        for version in versions {
            // Newest first: on its branch a version is hidden from the next one on.
            let end = newer.filter(|newer| newer.branch == version.branch).map(|newer| newer.epoch);
            let shown_at = history.retained_between(version.branch, version.epoch, end);
            newer = Some(version);
            for page in version.group.refs() {
                let referred = Referred { page, branch: version.branch, epoch: version.epoch, shown_at };
                if page.epoch > version.epoch {
                    note(&referred, Wrong::Future);
                }
                if page.crc.is_none()
                    && shown_at.is_some()
                    && history.is_sealed(version.branch, version.epoch)
                    && !store.segments.is_suspect(page.segment, page.page)
                {
                    note(&referred, Wrong::Bare);
                }
                let known = pages.entry((page.segment, page.page, page.crc)).or_insert(referred);
                if known.shown_at.is_none() {
                    *known = referred;
                }
            }
        }
        let mut pages: Vec<Referred> = pages.into_values().collect();
        pages.sort_unstable_by_key(|referred| (referred.page.segment, referred.page.page));
        let tied = match prefix.parse() {
            Some(PrefixOf::Extent { ino, group }) => versions
                .first()
                .and_then(|version| history.branch(version.branch))
                .is_some_and(|branch| history.meta.tied.contains(&(branch.tree, ino, group))),
            _ => false,
        };
        let is_read = reading.takes(prefix);
        let mut own: HashSet<(u32, u32)> = HashSet::new();
        let mut to_read: Vec<Referred> = Vec::new();
        for referred in pages {
            let PageRef { segment, page, crc, .. } = referred.page;
            let wrong = match self.ends.get(&segment) {
                None => Some(Wrong::NoSegment),
                Some(&end) if page >= end => {
                    (!store.segments.is_suspect(segment, page)).then_some(Wrong::BeyondSegment)
                }
                Some(_) => {
                    if own.insert((segment, page)) {
                        let fresh = self.known.insert(segment, page);
                        let exclusive = self.exclusive.contains(segment, page);
                        if !fresh && (exclusive || !tied) {
                            note(&referred, Wrong::Shared);
                        }
                        if !tied {
                            self.exclusive.insert(segment, page);
                        }
                    }
                    if referred.shown_at.is_some() {
                        self.shown.insert(segment, page);
                        to_read.extend(crc.filter(|_| is_read).map(|_| referred));
                    }
                    None
                }
            };
            if let (Some(wrong), Some(_)) = (wrong, referred.shown_at) {
                note(&referred, wrong);
            }
        }
        for run in to_read.chunk_by(|a, b| {
            a.page.segment == b.page.segment && (a.page.page == b.page.page || a.page.page + 1 == b.page.page)
        }) {
            reading.count(compare(store, run, &mut note)?);
        }
        Ok(())
    }

    /// Checks that nothing is about to be given back that a tree shows.
    pub(super) fn check_free_lists(&mut self, check: &mut Check<'_>, history: &History) {
        for run in &history.meta.free {
            let Some(&end) = self.ends.get(&run.segment) else { continue };
            for page in run.page..run.page.saturating_add(run.count).min(end) {
                if self.shown.contains(run.segment, page) {
                    check.findings.add(Issue::FreedPageInUse { segment: run.segment, page });
                }
                self.known.insert(run.segment, page);
            }
        }
        for &(segment, page) in &history.meta.doubted {
            if self.ends.get(&segment).is_some_and(|&end| page < end) {
                self.known.insert(segment, page);
            }
        }
    }

    /// Looks for pages that take space in segments that nobody writes to, and that nothing refers to.
    pub(super) fn check_leaks(&self, check: &mut Check<'_>, quiet: &[u32]) -> Result<(), FsError> {
        for &segment in quiet {
            let Leaks { written, zero } = self.leaks_of(check.store, segment)?;
            let repaired = check.repair == Repair::Yes;
            if repaired && !(written.is_empty() && zero.is_empty()) {
                repair::punch(check.store, &[written.as_slice(), zero.as_slice()].concat())?;
            }
            let pages = written.iter().map(|run| u64::from(run.count)).sum();
            if pages > 0 {
                check.findings.add(Issue::LeakedPages { segment, pages, repaired });
            }
        }
        Ok(())
    }

    fn leaks_of(&self, store: &Store, id: u32) -> Result<Leaks, StoreError> {
        let mut leaks = Leaks::default();
        // It may have been unlinked meanwhile.
        let Ok(segment) = store.segments.get(id) else { return Ok(leaks) };
        let mut bytes = vec![0; PAGE_SIZE];
        let mut at = 0;
        while let Some(run) = segment.next_data(at)? {
            at = run.page.saturating_add(run.count);
            for page in run.page..at {
                if self.known.contains(id, page) {
                    continue;
                }
                segment.read(page, 0, &mut bytes)?;
                let runs = match bytes.iter().all(|&byte| byte == 0) {
                    true => &mut leaks.zero,
                    false => &mut leaks.written,
                };
                match runs.last_mut() {
                    Some(last) if last.page + last.count == page => last.count += 1,
                    _ => runs.push(PageRun { segment: id, page, count: 1 }),
                }
            }
        }
        Ok(leaks)
    }
}

/// Pages of a segment that nothing refers to.
#[derive(Default)]
struct Leaks {
    /// Those that hold something.
    written: Vec<PageRun>,
    /// Those that are all zeros. Not every host can punch single pages: these may have been given back as far as that goes, and
    /// are no finding. A program may have written zeros as well, so a repair gives them back once more.
    zero: Vec<PageRun>,
}

/// Reads pages that lie side by side and compares them with their checksums. Returns how many were read.
fn compare(
    store: &Store,
    run: &[Referred],
    note: &mut impl FnMut(&Referred, Wrong),
) -> Result<u64, StoreError> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(0) };
    // Gone since, or it would have been told: what refers to it is looked up again when it is told.
    let Ok(segment) = store.segments.get(first.page.segment) else {
        note(first, Wrong::NoSegment);
        return Ok(0);
    };
    let start = first.page.page;
    let pages = last.page.page - start + 1;
    let mut bytes = vec![0; pages as usize * PAGE_SIZE];
    segment.read(start, 0, &mut bytes)?;
    for referred in run {
        let at = (referred.page.page - start) as usize * PAGE_SIZE;
        let page = bytes.get(at..at + PAGE_SIZE).unwrap_or_default();
        if referred.page.crc.is_some_and(|crc| crc32c::crc32c(page) != crc)
            && !store.segments.is_suspect(referred.page.segment, referred.page.page)
            && !store.segments.is_loose(referred.page.segment, referred.page.epoch)
        {
            note(referred, Wrong::Checksum);
        }
    }
    Ok(u64::from(pages))
}

/// Tells what is wrong with a page, if it still is.
fn tell(
    check: &mut Check<'_>,
    history: &History,
    prefix: &Prefix,
    referred: &Referred,
    wrong: Wrong,
) -> Result<(), FsError> {
    let Some(PrefixOf::Extent { ino, .. }) = prefix.parse() else { return Ok(()) };
    let tree = history.branch(referred.branch).map_or(crate::ids::TreeId(0), |branch| branch.tree);
    let written = View::new(tree, vec![(referred.branch, referred.epoch)]);
    let now = written.load::<Group>(&check.store.db, prefix)?;
    let still = now.is_some_and(|now| {
        now.epoch == referred.epoch && now.record.refs().any(|page| page == referred.page)
    });
    if !still {
        return Ok(());
    }
    let epoch = referred.shown_at.unwrap_or(referred.epoch);
    let path = match referred.shown_at {
        Some(shown_at) => place::path(&check.frozen, &history.view(referred.branch, shown_at), ino)?,
        None => None,
    };
    let at = Place { tree: history.label(referred.branch, epoch), inode: ino.0, path };
    let PageRef { segment, page, .. } = referred.page;
    let issue = match wrong {
        Wrong::Shared => Issue::SharedPage { at, segment, page },
        Wrong::Future => Issue::PageOfFuture { at, segment, page },
        Wrong::NoSegment => return once(check, tree, Issue::MissingSegment { at, segment }),
        Wrong::BeyondSegment => Issue::PageBeyondSegment { at, segment, page },
        Wrong::Checksum => Issue::WrongChecksum { at, segment, page },
        Wrong::Bare => {
            let repaired = check.repair == Repair::Yes;
            if repaired {
                check.store.seal_again(referred.branch, referred.epoch)?;
            }
            Issue::PageWithoutChecksum { at, segment, page, repaired }
        }
    };
    check.findings.add(issue);
    Ok(())
}

fn once(check: &mut Check<'_>, tree: crate::ids::TreeId, issue: Issue) -> Result<(), FsError> {
    check.findings.add_once(tree, issue);
    Ok(())
}

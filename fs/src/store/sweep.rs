//! Sweeps: dropping the versions of records that nobody sees any more.
//!
//! When a retained epoch goes (a snapshot was removed, a head rolled back, a volume removed), versions that only it saw are
//! dead. Between two neighbouring retained epochs only the newest version of a record can be seen, and
//! `touched` lists every version there is: a *sweep* walks that list over the epochs that became
//! invisible, or over those that took their place if that is shorter ([`super::swept`]), and keeps the newest version, if anything retained follows.
//!
//! A dead group of pages frees the pages that neither its successor nor its predecessor among the visible versions
//! refers to. That is enough: along a line of descent the versions that refer to a page stand side by side, because a page
//! that a version let go of is never referred to again.
//!
//! Where a loss of power took a page, the version before stands in with its own: it stays as long as the version with the lost page is the newest
//! that is kept.
//!
//! A record that cannot be read keeps its versions, and those of others go. Where it cannot be told who sees what, because a volume or a branch
//! is unreadable, sweeps stay stored: see [`quarantine`](super::quarantine).
//!
//! # Crash consistency
//! A sweep is stored with the change that made it necessary and deleted when it is done. It works in small batches, each of
//! which leaves everything visible as it was; doing a part of it twice changes nothing.
//!
//! # Concurrency
//! Where the newest retained epoch is that of a mounted head, a record is swept while the lock of its inode is held.

use std::time::Instant;

use hashbrown::{HashMap, HashSet};
use rocksdb::WriteBatch;

use super::keys::split_version;
use super::reclaim::ReclaimReport;
use super::record::{FreeList, Group, PAGE_SIZE, PageRef, PageRun, Record};
use super::registry::Registry;
use super::swept::{Epochs, Gap, Settled};
use super::view::View;
use super::{Family, META, Prefix, PrefixOf, Store, StoreError, TOUCHED, meta, parse_touched, touched_start};
use crate::error::FsError;
use crate::failpoint;
use crate::ids::{BranchId, Epoch, TreeId};

/// Records that one batch of a sweep looks at.
const BATCH: usize = 512;

/// One stored sweep: the epochs of `branch` after `after`, as far as something became invisible there.
pub(super) struct Sweep {
    branch: BranchId,
    after: Epoch,
    last: Epoch,
}

/// The epochs a sweep is about, as the registry has it now.
struct Span {
    tree: TreeId,
    /// The retained epoch before; it may be older than the sweep's where that was given up since.
    after: Epoch,
    /// What the retained epoch before sees; `None` if nothing before it is retained.
    before: Option<View>,
    /// The newest version up to here stays; `None` if nothing retained follows.
    keep: Option<Epoch>,
    live: bool,
}

impl Span {
    /// Returns what lies between its retained epochs, if there is one after it.
    fn gap(&self, branch: BranchId) -> Option<Gap> {
        let (after, live) = (self.after, self.live);
        self.keep.map(|keep| Gap { branch, after, keep, live })
    }
}

/// The versions of a record that a sweep is about.
struct Versions {
    /// The one that stays.
    kept: Option<Epoch>,
    dropped: Vec<Epoch>,
    /// Whether some that nobody sees stay all the same, for a page that may be lost.
    stand_in: bool,
}

/// What a sweep has come to.
#[derive(Default)]
struct Progress {
    report: ReclaimReport,
    /// Whether it left anything that no list of touched records is known to lead to again.
    has_left: bool,
    /// Whether it left marks of the running epoch.
    has_left_marks: bool,
}

impl Store {
    /// Adds to a batch that the epochs of `branch` around `gone`, which stops being retained, are to be swept.
    pub(crate) fn put_sweep(
        &self,
        batch: &mut WriteBatch,
        registry: &Registry,
        branch: BranchId,
        gone: Epoch,
    ) -> Result<(), FsError> {
        let after = gone.0.checked_sub(1).and_then(|before| registry.pinned_up_to(branch, Epoch(before)));
        self.put_sweep_after(batch, branch, after.unwrap_or(Epoch(0)), gone)
    }

    /// Adds to a batch that a whole branch is to be swept but for what its forks see.
    pub(crate) fn put_sweep_of_branch(
        &self,
        batch: &mut WriteBatch,
        registry: &Registry,
        branch: BranchId,
    ) -> Result<(), FsError> {
        self.put_sweep_after(batch, branch, Epoch(0), Epoch(u64::MAX))?;
        for epoch in registry.fork_points(branch) {
            self.put_sweep_after(batch, branch, epoch, Epoch(u64::MAX))?;
        }
        Ok(())
    }

    /// Adds a sweep of the epochs after `after` up to `last`, and further if one stood there that goes further.
    pub(crate) fn put_sweep_after(
        &self,
        batch: &mut WriteBatch,
        branch: BranchId,
        after: Epoch,
        last: Epoch,
    ) -> Result<(), FsError> {
        let key = meta::sweep(branch, after);
        let stored =
            self.db.get_meta(&key)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        batch.put_cf(self.db.family(META), key, last.0.max(stored).to_le_bytes());
        Ok(())
    }

    /// Returns what [`Store::reclaim`] would give back now.
    pub fn reclaimable(&self) -> Result<ReclaimReport, FsError> {
        let _working = self.reclaimer.working.lock();
        let mut report = ReclaimReport::default();
        for sweep in self.sweeps()? {
            let Some(span) = self.span(&sweep)? else { continue };
            self.walk(&sweep, self.side_of(&sweep, &span)?, |prefixes| {
                for prefix in prefixes {
                    let dropped = self.gone(&sweep, &span, prefix)?;
                    report.versions += dropped.len() as u64;
                    report.bytes +=
                        self.freed(&sweep, &span, prefix, &dropped)?.len() as u64 * PAGE_SIZE as u64;
                }
                Ok(true)
            })?;
        }
        Ok(report)
    }

    /// Returns how many pages only the snapshot at `epoch` refers to.
    pub(crate) fn exclusive_pages(&self, branch: BranchId, epoch: Epoch) -> Result<u64, FsError> {
        let sweep = {
            let registry = self.registry.read();
            if registry.forks_at(branch, epoch).next().is_some() {
                return Ok(0);
            }
            let after = registry.pinned_up_to(branch, Epoch(epoch.0.saturating_sub(1))).unwrap_or(Epoch(0));
            Sweep { branch, after, last: epoch }
        };
        let Some(mut span) = self.span(&sweep)? else { return Ok(0) };
        // As if the snapshot were gone: what follows it decides.
        let next = self.registry.read().retained_after(branch, epoch);
        span.keep = next.map(|(epoch, _)| epoch);
        let mut pages = 0;
        self.walk(&sweep, self.side_of(&sweep, &span)?, |prefixes| {
            for prefix in prefixes.iter().filter(|prefix| prefix.family == Family::Extent) {
                let dropped = self.gone(&sweep, &span, prefix)?;
                pages += self.freed(&sweep, &span, prefix, &dropped)?.len() as u64;
            }
            Ok(true)
        })?;
        Ok(pages)
    }

    /// Returns the sweeps that are stored, but for those of branches that are held.
    pub(super) fn sweeps(&self) -> Result<Vec<Sweep>, FsError> {
        let mut sweeps = Vec::new();
        self.db.scan(META, &[meta::SWEEP], &[], |key, value| {
            match (meta::tail_u32_u64(key), value.try_into().map(u64::from_le_bytes)) {
                (Some((branch, after)), Ok(last)) => {
                    sweeps.push(Sweep { branch: BranchId(branch), after: Epoch(after), last: Epoch(last) });
                }
                _ => self.quarantine.add("sweep", key),
            }
            Ok(true)
        })?;
        let registry = self.registry.read();
        sweeps.retain(|sweep| !registry.is_held(sweep.branch));
        Ok(sweeps)
    }

    pub(super) fn next_sweep(&self) -> Result<Option<Sweep>, FsError> {
        Ok(self.sweeps()?.pop())
    }

    fn span(&self, sweep: &Sweep) -> Result<Option<Span>, FsError> {
        self.span_of(&self.registry.read(), sweep)
    }

    fn span_of(&self, registry: &Registry, sweep: &Sweep) -> Result<Option<Span>, FsError> {
        let Some(branch) = registry.branches.get(&sweep.branch) else { return Ok(None) };
        let next = registry.retained_after(sweep.branch, sweep.after);
        let pinned = registry.pinned_up_to(sweep.branch, sweep.after);
        let before = match (pinned, branch.parent) {
            (Some(epoch), _) => Some(registry.view(sweep.branch, epoch)?),
            (None, Some((parent, epoch))) => Some(registry.view(parent, epoch)?),
            (None, None) => None,
        };
        Ok(Some(Span {
            tree: branch.tree,
            after: pinned.unwrap_or(Epoch(0)),
            before,
            keep: next.map(|(epoch, _)| epoch),
            live: next.is_some_and(|(_, live)| live),
        }))
    }

    /// Returns epochs that touched every record of which a sweep finds versions that nobody sees.
    fn side_of(&self, sweep: &Sweep, span: &Span) -> Result<Epochs, StoreError> {
        let gone = |last: Epoch| Epochs { after: sweep.after, last: last.min(sweep.last) };
        match span.gap(sweep.branch) {
            Some(gap) => self.side(gap, gone(gap.keep)),
            None => Ok(gone(sweep.last)),
        }
    }

    pub(super) fn sweep(&self, sweep: &Sweep) -> Result<ReclaimReport, FsError> {
        failpoint::hit("reclaim.sweep");
        let Some(span) = self.span(sweep)? else {
            self.end_sweep(sweep, None, None)?;
            return Ok(ReclaimReport::default());
        };
        let begun = Instant::now();
        // Then `secure` below, which locks hold up, finds something to do only where a program wrote meanwhile.
        self.sync_all()?;
        let mut progress = Progress::default();
        let mut walk = |epochs| self.sweep_epochs(sweep, &span, epochs, &mut progress);
        let gap = span.gap(sweep.branch);
        match gap {
            Some(gap) => self.settle_gap(gap, walk)?,
            None => drop(walk(Epochs { after: sweep.after, last: sweep.last })?),
        }
        let Progress { report, has_left, has_left_marks } = progress;
        let ReclaimReport { looked_at, versions, .. } = report;
        let micros = begun.elapsed().as_micros();
        tracing::debug!(branch = %sweep.branch, gone = %sweep.last, looked_at, versions, micros, "epochs swept");
        if !self.reclaimer.is_stopping() {
            let settled = gap.map(|gap| Settled {
                through: if has_left { gap.after } else { gap.fixed() },
                has_left: has_left || has_left_marks,
            });
            self.end_sweep(sweep, Some(&span), settled)?;
        }
        Ok(report)
    }

    /// Drops what nobody sees of the records that some epochs touched. Returns whether to go on.
    fn sweep_epochs(
        &self,
        sweep: &Sweep,
        span: &Span,
        epochs: Epochs,
        progress: &mut Progress,
    ) -> Result<bool, FsError> {
        let is_whole = self.walk(sweep, epochs, |prefixes| {
            self.push_ended()?;
            progress.report.looked_at += prefixes.len() as u64;
            if !span.live {
                self.sweep_batch(sweep, span, prefixes, progress)?;
                return Ok(!self.reclaimer.is_stopping());
            }
            for prefix in prefixes {
                let Some(ino) = prefix.parse().map(|parsed| parsed.guardian()) else { continue };
                let mut result = Ok(());
                let mut work =
                    || result = self.sweep_batch(sweep, span, std::slice::from_ref(prefix), progress);
                let _borrowing = self.reclaimer.borrowing.lock();
                match self.loaded_head(sweep.branch).and_then(|head| head.live()) {
                    Some(live) => live.exclusively(ino, &mut work),
                    None => work(),
                }
                result?;
            }
            Ok(!self.reclaimer.is_stopping())
        })?;
        progress.has_left |= !is_whole;
        Ok(!self.reclaimer.is_stopping())
    }

    /// Calls `visit` with the records that some epochs touched, some at a time. Returns whether that were all of them.
    fn walk(
        &self,
        sweep: &Sweep,
        epochs: Epochs,
        mut visit: impl FnMut(&[Prefix]) -> Result<bool, FsError>,
    ) -> Result<bool, FsError> {
        let tree = match self.registry.read().branches.get(&sweep.branch) {
            Some(branch) => branch.tree,
            None => return Ok(false),
        };
        let mut start = touched_start(sweep.branch, epochs.after.next());
        let mut is_whole = true;
        // Epoch 0 holds a root that no epoch touched.
        let mut chunk: Vec<Prefix> = Vec::new();
        if sweep.after == Epoch(0) {
            chunk.push(Prefix::inode(tree, crate::ids::Ino::ROOT));
        }
        loop {
            let mut next = None;
            self.db.scan(TOUCHED, &sweep.branch.0.to_be_bytes(), &start, |key, _| {
                let Some((_, epoch, prefix)) = parse_touched(tree, key) else {
                    self.quarantine.add("touched", key);
                    is_whole = false;
                    return Ok(true);
                };
                if epoch > epochs.last {
                    return Ok(false);
                }
                if chunk.len() == BATCH {
                    next = Some(key.to_vec());
                    return Ok(false);
                }
                chunk.push(prefix);
                Ok(true)
            })?;
            let mut seen = HashSet::new();
            chunk.retain(|prefix| seen.insert(prefix.clone()));
            if !chunk.is_empty() && !visit(&chunk)? {
                return Ok(false);
            }
            chunk.clear();
            match next {
                Some(key) => start = key,
                None => return Ok(is_whole),
            }
        }
    }

    /// Returns the version that stays and those that go.
    fn versions(&self, sweep: &Sweep, span: &Span, prefix: &Prefix) -> Result<Versions, FsError> {
        let newest = span.keep.unwrap_or(Epoch(u64::MAX));
        let mut iter = self.db.seeker(prefix.family);
        iter.seek(prefix.version(sweep.branch, newest));
        let mut kept = None;
        let mut dropped = Vec::new();
        // Where nothing before is retained, epoch 0 goes too.
        let stays = |epoch: Epoch| epoch <= span.after && !(span.keep.is_none() && span.after == Epoch(0));
        while let Some((found, branch, epoch)) = iter.key().and_then(split_version) {
            if found != prefix.as_bytes() || branch != sweep.branch || stays(epoch) {
                break;
            }
            if kept.is_none() && span.keep.is_some() {
                kept = Some(epoch);
            } else {
                dropped.push(epoch);
            }
            iter.next();
        }
        iter.status().map_err(StoreError::from)?;
        let mut stand_in = false;
        if let (Some(kept), Family::Extent, false) = (kept, prefix.family, dropped.is_empty()) {
            let group = View::new(span.tree, vec![(sweep.branch, kept)]).load::<Group>(&self.db, prefix);
            match group {
                // Who looks closer finds that it cannot be read.
                Err(error) if error.is_corruption() => {}
                group => {
                    let pages = group?.into_iter().flat_map(|group| group.record.refs().collect::<Vec<_>>());
                    for page in pages {
                        if self.may_be_lost(page)? {
                            dropped.clear();
                            stand_in = true;
                            break;
                        }
                    }
                }
            }
        }
        Ok(Versions { kept, dropped, stand_in })
    }

    /// Returns the versions that go which are of a sweep's own epochs: others are counted elsewhere.
    fn gone(&self, sweep: &Sweep, span: &Span, prefix: &Prefix) -> Result<Vec<Epoch>, FsError> {
        let mut dropped = self.versions(sweep, span, prefix)?.dropped;
        dropped.retain(|&epoch| epoch > sweep.after && epoch <= sweep.last);
        Ok(dropped)
    }

    /// Tells whether a page is not known to have outlived a loss of power.
    fn may_be_lost(&self, page: PageRef) -> Result<bool, StoreError> {
        if !self.segments.is_suspect(page.segment, page.page) {
            return Ok(false);
        }
        let mut bytes = [0; PAGE_SIZE];
        self.segments.get(page.segment)?.read(page.page, 0, &mut bytes)?;
        Ok(page.crc != Some(crc32c::crc32c(&bytes)))
    }

    /// Returns the pages that go with the dropped versions of a group.
    fn freed(
        &self,
        sweep: &Sweep,
        span: &Span,
        prefix: &Prefix,
        dropped: &[Epoch],
    ) -> Result<Vec<PageRef>, FsError> {
        if prefix.family != Family::Extent || dropped.is_empty() {
            return Ok(Vec::new());
        }
        let place = |data: PageRef| (data.segment, data.page);
        let mut needed: HashSet<(u32, u32)> = HashSet::new();
        if let Some(keep) = span.keep {
            let after = self.registry.read().view(sweep.branch, keep)?;
            let group = after.load::<Group>(&self.db, prefix)?;
            needed.extend(group.iter().flat_map(|group| group.record.refs().map(place)));
        }
        if let Some(before) = &span.before {
            let group = before.load::<Group>(&self.db, prefix)?;
            needed.extend(group.iter().flat_map(|group| group.record.refs().map(place)));
        }
        let mut freed: HashMap<(u32, u32), PageRef> = HashMap::new();
        for &epoch in dropped {
            let exact = View::new(span.tree, vec![(sweep.branch, epoch)]);
            if let Some(group) = exact.load::<Group>(&self.db, prefix)? {
                let gone = group.record.refs().filter(|&page| !needed.contains(&place(page)));
                freed.extend(gone.map(|page| (place(page), page)));
            }
        }
        Ok(freed.into_values().collect())
    }

    /// Has data on the disk before older versions go: a reader would fall back to them if the power went first.
    fn secure(&self, sweep: &Sweep, prefix: &Prefix, kept: Epoch) -> Result<(), FsError> {
        if prefix.family != Family::Extent {
            return Ok(());
        }
        let tree = self.registry.read().branch(sweep.branch)?.tree;
        let group = View::new(tree, vec![(sweep.branch, kept)]).load::<Group>(&self.db, prefix)?;
        // What is suspect was looked at: it is whole.
        let safe = |page: PageRef| {
            self.segments.is_safe(page.segment, page.page)
                || self.segments.is_suspect(page.segment, page.page)
        };
        if group.is_some_and(|group| !group.record.refs().all(safe)) {
            self.sync_all()?;
        }
        Ok(())
    }

    fn sweep_batch(
        &self,
        sweep: &Sweep,
        span: &Span,
        prefixes: &[Prefix],
        progress: &mut Progress,
    ) -> Result<(), FsError> {
        let mut batch = WriteBatch::default();
        let mut runs = Vec::new();
        let mut versions = 0;
        for prefix in prefixes {
            let Versions { kept, dropped, stand_in } = self.versions(sweep, span, prefix)?;
            progress.has_left |= stand_in;
            let looked = || {
                if let (Some(kept), false) = (kept, dropped.is_empty()) {
                    self.secure(sweep, prefix, kept)?;
                }
                self.freed(sweep, span, prefix, &dropped)
            };
            let freed = match looked() {
                // What it refers to is not known, so all of it stays.
                Err(FsError::Store(error)) if error.is_corruption() => {
                    self.quarantine.add(prefix.family.name(), prefix.as_bytes());
                    progress.has_left = true;
                    continue;
                }
                freed => freed?,
            };
            for page in freed {
                match prefix.parse() {
                    // The mark came with the copy: versions older than that do not have it.
                    Some(PrefixOf::Extent { ino, group })
                        if page.shared || self.has_ties((span.tree, ino, group))? =>
                    {
                        self.put_doubt(&mut batch, (span.tree, ino, group), page);
                    }
                    _ => runs.push(PageRun { segment: page.segment, page: page.page, count: 1 }),
                }
            }
            let family = self.db.family(prefix.family.name());
            for &epoch in &dropped {
                batch.delete_cf(family, prefix.version(sweep.branch, epoch));
                batch.delete_cf(self.db.family(TOUCHED), prefix.touched(sweep.branch, epoch));
            }
            versions += dropped.len() as u64;
            if let Some(kept) = kept
                && self.is_idle_marker(span, sweep.branch, kept, prefix).or_else(unless_corrupt)?
            {
                if let Some(gap) = span.gap(sweep.branch).filter(|gap| gap.live && gap.keep == kept) {
                    // Whoever writes it again counts on it.
                    self.put_left(&mut batch, gap)?;
                    progress.has_left_marks = true;
                } else {
                    batch.delete_cf(family, prefix.version(sweep.branch, kept));
                    versions += 1;
                }
            }
        }
        runs.sort_unstable();
        runs.dedup();
        merge_adjacent(&mut runs);
        let number = (!runs.is_empty()).then(|| self.freer.number());
        if let Some(number) = number {
            batch.put_cf(
                self.db.family(META),
                meta::free(number),
                FreeList { boot: 0, runs: runs.clone() }.encode(),
            );
        }
        if !batch.is_empty() {
            self.db.write(batch)?;
        }
        if let Some(number) = number {
            self.freer.push(number, runs);
        }
        progress.report.versions += versions;
        Ok(())
    }

    /// Tells whether a version only says that something is gone which nothing shows any more.
    fn is_idle_marker(
        &self,
        span: &Span,
        branch: BranchId,
        epoch: Epoch,
        prefix: &Prefix,
    ) -> Result<bool, FsError> {
        // Names and attributes may hide those of a lower.
        if !matches!(prefix.family, Family::Inode | Family::Extent) {
            return Ok(false);
        }
        if let Some(before) = &span.before
            && before.version(&self.db, prefix)?.is_some()
        {
            return Ok(false);
        }
        let exact = View::new(span.tree, vec![(branch, epoch)]);
        Ok(match prefix.family {
            Family::Inode => exact
                .load::<Option<super::record::Inode>>(&self.db, prefix)?
                .is_some_and(|found| found.record.is_none()),
            _ => exact.load::<Group>(&self.db, prefix)?.is_some_and(|found| found.record == Group::Removed),
        })
    }

    /// Ends a sweep that was done for a span, unless there is more to it by now. `settled`: up to where it has settled the gap.
    fn end_sweep(&self, sweep: &Sweep, span: Option<&Span>, settled: Option<Settled>) -> Result<(), FsError> {
        let spent = self.spent_departures(sweep.branch)?;
        let mut registry = self.registry.write();
        let key = meta::sweep(sweep.branch, sweep.after);
        let stored = self.db.get_meta(&key)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let done = span.map(|span| (span.keep, span.live));
        let now = self.span_of(&registry, sweep)?.map(|now| (now.keep, now.live));
        let same_end = match (done, now) {
            // A cut under a live head retains what the sweep kept.
            (Some((Some(kept), true)), Some((Some(keeps), _))) => keeps >= kept,
            (done, now) => done == now,
        };
        if stored != Some(sweep.last.0) || !same_end {
            // More became invisible meanwhile: another round looks at it.
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.db.family(META), key);
        for key in spent {
            batch.delete_cf(self.db.family(META), key);
        }
        if let (Some(gap), Some(settled)) = (span.and_then(|span| span.gap(sweep.branch)), settled) {
            self.put_settled(&mut batch, gap, settled)?;
        }
        let unused = registry.branches.contains_key(&sweep.branch)
            && sweep.after == Epoch(0)
            && registry.retained_after(sweep.branch, Epoch(0)).is_none();
        if unused {
            let parent = registry.branch(sweep.branch)?.parent;
            batch.delete_cf(self.db.family(META), meta::branch(sweep.branch));
            let of_branch =
                [meta::usage_of, meta::orphans_of, meta::departed_of, meta::seals_of, meta::settled_of];
            for start in of_branch.map(|of| of(sweep.branch)) {
                self.db.scan(META, &start, &[], |key, _| {
                    batch.delete_cf(self.db.family(META), key);
                    Ok(true)
                })?;
            }
            let touched = sweep.branch.0.to_be_bytes();
            self.db.scan(TOUCHED, &touched, &[], |key, _| {
                batch.delete_cf(self.db.family(TOUCHED), key);
                Ok(true)
            })?;
            registry.remove_branch(sweep.branch);
            // What the branch held back in its parent may go now, unless something else holds it.
            if let Some((parent, epoch)) = parent
                && !registry.is_pinned(parent, epoch)
                && registry.branches.contains_key(&parent)
            {
                self.put_sweep(&mut batch, &registry, parent, epoch)?;
            }
        }
        self.db.write(batch)?;
        Ok(())
    }
}

/// What cannot be read is no marker.
fn unless_corrupt(error: FsError) -> Result<bool, FsError> {
    match error {
        FsError::Store(error) if error.is_corruption() => Ok(false),
        error => Err(error),
    }
}

fn merge_adjacent(runs: &mut Vec<PageRun>) {
    runs.dedup_by(|next, run| {
        let adjacent = run.segment == next.segment && run.page + run.count == next.page;
        if adjacent {
            run.count += next.count;
        }
        adjacent
    });
}

//! The cut: ending the epoch of one or several volumes at one instant.
//!
//! # Crash consistency
//! 1. The next epochs are announced: from here on they exist, whatever happens.
//! 2. The gates close, move on, open ([`super::gate`]). Operations that follow write into the next epoch.
//! 3. When the last operation of the old epoch is done, one batch makes all snapshots. Who needs them to outlive the host syncs the log.
//!
//! A crash before 3 leaves epochs that ended without a snapshot: nobody can see that, and
//! what they wrote belongs to the head as before. File data of the cut that was never synced is pushed out right
//! after, in the background, and what of it has no checksum is sealed ([`super::seal`]): until then a loss of power can
//! take single pages back to their older content.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rocksdb::WriteBatch;

use super::counters::Counter;
use super::head::Head;
use super::record::{Branch, Record, Snapshot};
use super::registry::{Registry, check_name};
use super::seal::Ended;
use super::{META, Receipt, Store, meta};
use crate::attr::Timestamp;
use crate::error::FsError;
use crate::failpoint;
use crate::ids::{BranchId, Epoch, VolumeId};

/// What a cut did.
#[derive(Clone, Debug)]
pub struct CutReport {
    /// Its number.
    pub id: u64,
    /// How long operations were held.
    pub held: Duration,
    /// How long the operations that were under way took to end; nobody waited for them but the cut.
    pub drained: Duration,
    /// How long the log took to become durable; zero while that is not known.
    pub sync: Duration,
    /// One per volume, in the order in which they were named.
    pub snapshots: Vec<CutSnapshot>,
}

/// One volume's part in a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutSnapshot {
    /// The volume.
    pub volume: String,
    /// `VOLUME@EPOCH`
    pub snapshot: String,
    /// The epoch that ended.
    pub epoch: Epoch,
    /// The name it was given.
    pub name: Option<String>,
    /// Whether anything was written since the snapshot before.
    pub changed: bool,
    /// Whether the cut made the snapshot. If not, it is the one before, which says the same.
    pub made: bool,
}

/// A volume that is being cut.
struct Part {
    volume: VolumeId,
    name: String,
    head: Arc<Head>,
    changed: bool,
    /// The snapshot that says the same, where nothing changed.
    same_as: Option<Epoch>,
    ended: Epoch,
}

impl Store {
    /// Takes a snapshot of one or several volumes at one instant. Durable on return.
    ///
    /// Holds everything that had returned to its caller before this call began. What lies dirty in shared mappings is
    /// the caller's to drain first.
    pub fn snapshot(
        &self,
        volumes: &[&str],
        name: Option<&str>,
        receipt: Receipt<'_, CutReport>,
    ) -> Result<CutReport, FsError> {
        let start = Instant::now();
        let report = self.cut(volumes, name, receipt)?;
        let cut = start.elapsed();
        self.sync_records()?;
        Ok(CutReport { sync: start.elapsed() - cut, ..report })
    }

    /// The same, but of a loss of power it is not safe until [`Store::sync_records`] has returned. It does outlive the process.
    pub fn cut(
        &self,
        volumes: &[&str],
        name: Option<&str>,
        receipt: Receipt<'_, CutReport>,
    ) -> Result<CutReport, FsError> {
        if volumes.is_empty() {
            return Err(FsError::Invalid { what: "no volume is named" });
        }
        if let Some(name) = name {
            check_name(name)?;
            if name.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(FsError::BadName {
                    name: name.into(),
                    why: "only digits would be taken for an epoch",
                });
            }
        }
        let mut parts = self.parts(volumes, name)?;
        // One cut at a time per head; in the order of branches, so that two cuts never wait for each other.
        let mut order: Vec<_> = parts.iter().map(|part| part.head.clone()).collect();
        order.sort_by_key(|head| head.branch);
        order.dedup_by_key(|head| head.branch);
        let _cutting: Vec<_> = order.iter().map(|head| head.cutting.lock()).collect();

        {
            let registry = self.registry.read();
            for part in &mut parts {
                if registry.volume(&part.name)?.1.branch != part.head.branch {
                    // Rolled back since it was looked up.
                    return Err(FsError::Retired);
                }
                part.look(&registry, name)?;
            }
        }
        let moving: Vec<_> =
            parts.iter().filter(|part| part.same_as.is_none()).map(|part| part.head.clone()).collect();
        self.announce(&moving)?;
        let held = flip(&moving, || {
            for head in &moving {
                head.set_first_new_ino(self.counters.peek_ino());
                // Before anybody writes into the next epoch: pages of this one are the snapshot's from now on.
                head.set_retained(head.gate.epoch());
            }
        });
        let drained = moving.iter().map(|head| head.gate.drain(head.gate.epoch().previous())).sum();
        for part in parts.iter_mut().filter(|part| part.same_as.is_none()) {
            part.ended = part.head.gate.epoch().previous();
        }
        failpoint::hit("cut.flipped");
        let number = |_| self.number(Counter::Cut).map(u64::from);
        let recorded = moving.first().map_or(Ok(0), number).and_then(|id| {
            let snapshots = parts.iter().map(|part| part.report(name)).collect();
            let report = CutReport { id, held, drained, sync: Duration::ZERO, snapshots };
            self.record_cut(&parts, &report, name, receipt)?;
            Ok(report)
        });
        let report = recorded.inspect_err(|_| {
            // As after a crash: epochs that ended without a snapshot.
            let mut registry = self.registry.write();
            let unmade = parts.iter().filter(|part| part.same_as.is_none());
            unmade.for_each(|part| registry.finish_end(part.head.branch, part.ended));
        })?;
        self.seal_later(moving.iter().map(|head| Ended::new(head, head.gate.epoch().previous())));
        for (part, made) in parts.iter().zip(&report.snapshots) {
            // One that gets a name is not shown by its epoch any more.
            let names: Vec<_> = name.map(str::to_owned).into_iter().chain([made.epoch.to_string()]).collect();
            if let Some(live) = part.head.live() {
                live.snapshots_changed(&names);
            }
        }
        Ok(report)
    }

    /// Brings everything that is on record to the disk, but no data of files.
    pub fn sync_records(&self) -> Result<(), FsError> {
        Ok(self.db.sync_log()?)
    }

    fn parts(&self, volumes: &[&str], name: Option<&str>) -> Result<Vec<Part>, FsError> {
        let mut parts: Vec<Part> = Vec::new();
        for &volume in volumes {
            let (id, branch) = {
                let registry = self.registry.read();
                let (id, record) = registry.volume(volume)?;
                if let Some(name) = name.filter(|name| registry.snapshot_named(id, name).is_some()) {
                    return Err(FsError::SnapshotExists { name: format!("{volume}@{name}") });
                }
                (id, record.branch)
            };
            if parts.iter().any(|part| part.volume == id) {
                return Err(FsError::Invalid { what: "a volume is named twice" });
            }
            let head = self.head(branch)?;
            parts.push(Part {
                volume: id,
                name: volume.to_owned(),
                head,
                changed: true,
                same_as: None,
                ended: Epoch(0),
            });
        }
        Ok(parts)
    }

    /// Stores that the next epoch may be written from now on.
    fn announce(&self, heads: &[Arc<Head>]) -> Result<(), FsError> {
        if heads.is_empty() {
            return Ok(());
        }
        let mut registry = self.registry.write();
        let mut batch = WriteBatch::default();
        let mut announced = Vec::new();
        for head in heads {
            let branch = Branch { epoch: head.gate.epoch().next(), ..registry.branch(head.branch)?.clone() };
            batch.put_cf(self.db.family(META), meta::branch(head.branch), branch.encode());
            // Its pages that were rewritten in place get their checksums once it has ended.
            batch.put_cf(self.db.family(META), meta::seal(head.branch, head.gate.epoch()), []);
            announced.push((head.branch, branch));
        }
        self.db.write(batch)?;
        for (head, (id, branch)) in heads.iter().zip(announced) {
            // What was written in it is the snapshot's, whoever looks for what nobody sees any more before that is on record.
            registry.begin_end(id, head.gate.epoch());
            registry.insert_branch(id, branch);
        }
        Ok(())
    }

    /// Writes the snapshot records, all in one batch.
    fn record_cut(
        &self,
        parts: &[Part],
        report: &CutReport,
        name: Option<&str>,
        receipt: Receipt<'_, CutReport>,
    ) -> Result<(), FsError> {
        let created = Timestamp::now();
        let mut registry = self.registry.write();
        let mut batch = WriteBatch::default();
        let mut made: Vec<((BranchId, Epoch), Snapshot)> = Vec::new();
        for part in parts {
            let (branch, key) = match part.same_as {
                Some(epoch) => (part.head.branch, (part.head.branch, epoch)),
                None => (part.head.branch, (part.head.branch, part.ended)),
            };
            let snapshot = match (part.same_as, name) {
                (None, _) => Snapshot {
                    volume: part.volume,
                    name: name.map(str::to_owned),
                    created,
                    cut: report.id,
                    usage: part.head.settle(part.ended),
                },
                // Nothing changed: the older snapshot gets the name, which it did not have.
                (Some(_), Some(name)) => match registry.snapshots.get(&key) {
                    Some(snapshot) => Snapshot { name: Some(name.to_owned()), ..snapshot.clone() },
                    None => {
                        return Err(FsError::SnapshotNotFound { name: format!("{}@{}", part.name, key.1) });
                    }
                },
                (Some(_), None) => continue,
            };
            batch.put_cf(self.db.family(META), meta::snapshot(branch, key.1), snapshot.encode());
            made.push((key, snapshot));
        }
        self.write_change(batch, receipt, report)?;
        for (key, snapshot) in made {
            registry.insert_snapshot(key, snapshot);
            registry.finish_end(key.0, key.1);
        }
        Ok(())
    }
}

impl Part {
    /// Finds out whether a new snapshot is needed at all.
    fn look(&mut self, registry: &Registry, name: Option<&str>) -> Result<(), FsError> {
        let current = self.head.gate.epoch();
        self.changed = self.head.is_changed();
        let newest =
            registry.snapshots.range((self.head.branch, Epoch(0))..(self.head.branch, current)).next_back();
        if let (false, Some((&(_, epoch), snapshot))) = (self.changed, newest)
            // Something was written after the newest snapshot, under one that was removed since.
            && epoch >= self.head.retained()
            && self.head.last_written() <= epoch
            && (name.is_none() || snapshot.name.is_none())
        {
            self.same_as = Some(epoch);
        }
        Ok(())
    }

    fn report(&self, name: Option<&str>) -> CutSnapshot {
        let epoch = self.same_as.unwrap_or(self.ended);
        CutSnapshot {
            snapshot: format!("{}@{epoch}", self.name),
            volume: self.name.clone(),
            epoch,
            name: name.map(str::to_owned),
            changed: self.changed,
            made: self.same_as.is_none(),
        }
    }
}

/// Moves all gates to their next epoch at one instant. Returns how long they were closed.
fn flip(heads: &[Arc<Head>], meanwhile: impl FnOnce()) -> Duration {
    let start = Instant::now();
    for head in heads {
        head.gate.close();
    }
    meanwhile();
    for head in heads {
        head.gate.advance();
    }
    for head in heads {
        head.gate.open();
    }
    start.elapsed()
}

impl Epoch {
    fn previous(self) -> Epoch {
        Epoch(self.0.saturating_sub(1))
    }
}

//! What the node counts, by name: one table for `durdir stats` and for Prometheus. `docs/metrics.md` has a row for each.

use std::collections::HashMap;
use std::time::Duration;

use durdir_fs::fuse::{OldestRequest, OpSummary};
use durdir_fs::store::StoreUsage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::{ApiError, convert};
use crate::daemon::Node;
use crate::proto;

/// What every name begins with.
const PREFIX: &str = "durdir";

/// The content type of what [`exposition`] returns.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a number only grows, and what it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Counter,
    /// Stored in microseconds, shown to Prometheus in seconds.
    SecondsCounter,
    Gauge,
}

/// One number of the node.
pub(super) struct Metric {
    /// As `stats` shows it.
    pub(super) stats: &'static str,
    /// As Prometheus sees it, but for the prefix, and `_total` of counters.
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&Node, &StoreUsage) -> u64,
}

const fn metric(
    stats: &'static str,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&Node, &StoreUsage) -> u64,
) -> Metric {
    Metric { stats, name, kind, help, read }
}

/// Every number of the node.
const NODE: [Metric; 24] = [
    metric("cuts", "cuts", Kind::Counter, "Cuts taken", |node, _| node.tally.cuts()),
    metric(
        "cut_held_us",
        "cut_held_seconds",
        Kind::SecondsCounter,
        "Time for which cuts held operations",
        |node, _| node.tally.held_us(),
    ),
    metric("drained_inodes", "drained_inodes", Kind::Counter, "Files written out before cuts", |node, _| {
        node.tally.drained_inodes()
    }),
    metric(
        "takeovers",
        "takeovers",
        Kind::Counter,
        "Workers that took over from one that died",
        |node, _| node.takeovers,
    ),
    metric(
        "replayed_requests",
        "replayed_requests",
        Kind::Counter,
        "Requests of the kernel answered from the record of a worker that died",
        |node, _| node.mounts.replayed(),
    ),
    metric(
        "replayed_calls",
        "replayed_calls",
        Kind::Counter,
        "Calls of the API answered from the record",
        |node, _| node.tally.replayed(),
    ),
    metric("kept_replies", "kept_replies", Kind::Gauge, "Outcomes of requests on record", |node, _| {
        count(node.store.replies())
    }),
    metric(
        "quarantined_records",
        "quarantined_records",
        Kind::Gauge,
        "Records that cannot be read",
        |_, usage| usage.quarantined,
    ),
    metric(
        "verified_pages",
        "verified_pages",
        Kind::Counter,
        "Pages that verify read and compared with their checksums",
        |node, _| node.tally.verifying().read(),
    ),
    metric(
        "verify_pages_left",
        "verify_pages_left",
        Kind::Gauge,
        "Pages that a verify has yet to read, about",
        |node, _| node.tally.verifying().left(),
    ),
    metric(
        "store_stopped",
        "store_stopped",
        Kind::Gauge,
        "Whether the store stopped after a failed write",
        |node, _| u64::from(node.store.stopped().is_some()),
    ),
    metric(
        "copy_up_bytes",
        "copy_up_bytes",
        Kind::Counter,
        "Bytes copied out of lowers by writes that change a part of a page",
        |node, _| node.store.copied_up(),
    ),
    metric(
        "reclaimed_bytes",
        "reclaimed_bytes",
        Kind::Counter,
        "Bytes of file data given back to the disk after removals and changes",
        |node, _| node.store.reclaimed(),
    ),
    metric(
        "sweeps_left",
        "sweeps_left",
        Kind::Gauge,
        "Ranges of epochs still to be looked through for what nobody sees any more",
        |_, usage| usage.sweeps_left,
    ),
    metric("mounts", "mounts", Kind::Gauge, "Volumes and snapshots mounted", |node, _| {
        count(node.mounts.all().len())
    }),
    metric("uptime_s", "uptime_seconds", Kind::Gauge, "Age of this worker", |node, _| {
        node.started.elapsed().as_secs()
    }),
    metric("segment_bytes", "segment_bytes", Kind::Gauge, "File data on the disk", |_, usage| {
        usage.segment_bytes
    }),
    metric("table_bytes", "table_bytes", Kind::Gauge, "Tables on the disk", |_, usage| usage.table_bytes),
    metric(
        "memtable_bytes",
        "memtable_bytes",
        Kind::Gauge,
        "Records in memory that are in no table yet",
        |_, usage| usage.memtable_bytes,
    ),
    metric(
        "block_cache_bytes",
        "block_cache_bytes",
        Kind::Gauge,
        "Blocks of tables kept in memory",
        |_, usage| usage.cache_bytes,
    ),
    metric("disk_bytes", "disk_bytes", Kind::Gauge, "Size of the store's disk", |_, usage| usage.disk_bytes),
    metric(
        "disk_available_bytes",
        "disk_available_bytes",
        Kind::Gauge,
        "What may still be written",
        |_, usage| usage.disk_available,
    ),
    metric("requests", "requests", Kind::Counter, "Calls of the API answered", |node, _| {
        node.tally.requests()
    }),
    metric("failed_requests", "failed_requests", Kind::Counter, "Calls of the API that failed", |node, _| {
        node.tally.failed_requests()
    }),
];

/// Per volume or snapshot, and operation.
const OPERATION_ERRORS: (&str, &str) = ("operation_errors", "Operations that failed or were refused");
const OPERATION_BYTES: (&str, &str) = ("operation_bytes", "Bytes read and written");
const OPERATION_SECONDS: (&str, &str) = ("operation_duration_seconds", "Time from a request to its answer");
/// Per volume or snapshot.
const OLDEST_REQUEST: (&str, &str) =
    ("oldest_request_seconds", "Age of the oldest request that is worked on");

/// The upper ends of the buckets that Prometheus sees.
const BUCKETS: [Duration; 12] = [
    Duration::from_micros(2),
    Duration::from_micros(5),
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
];

/// Returns every number of the node.
pub(super) fn node_values(node: &Node) -> Result<Vec<(&'static Metric, u64)>, ApiError> {
    let usage = node.store.usage()?;
    Ok(NODE.iter().map(|metric| (metric, (metric.read)(node, &usage))).collect())
}

/// Returns one operation as the API has it.
pub(super) fn operation(summary: &OpSummary) -> proto::OperationStats {
    proto::OperationStats {
        operation: summary.name.to_owned(),
        count: summary.count,
        errors: summary.errors,
        p50_us: convert::micros(summary.times.quantile(50)),
        p99_us: convert::micros(summary.times.quantile(99)),
        bytes: summary.bytes,
        buckets: summary.times.buckets().to_vec(),
    }
}

/// Returns everything in the text format of OpenMetrics, which Prometheus reads.
pub(super) fn exposition(node: &Node) -> Result<String, ApiError> {
    let name = |view: &crate::mounts::MountView| view.snapshot().unwrap_or_else(|| view.volume.clone());
    let oldest = node.mounts.oldest_requests();
    let age = |mountpoint: &std::path::Path| {
        let own = oldest.iter().find(|(view, _)| view.mountpoint == mountpoint);
        own.map_or(Duration::ZERO, |(_, OldestRequest { age, .. })| *age)
    };
    let mounts = node.mounts.stats().into_iter().map(|(view, operations)| MountSample {
        volume: name(&view),
        mountpoint: view.mountpoint.display().to_string(),
        oldest: age(&view.mountpoint),
        operations,
    });
    let sample = Sample { node: node_values(node)?, mounts: mounts.collect() };
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(sample));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("a string takes everything");
    Ok(out)
}

/// What one scrape sees.
struct Sample {
    node: Vec<(&'static Metric, u64)>,
    mounts: Vec<MountSample>,
}

#[derive(Debug)]
struct MountSample {
    volume: String,
    mountpoint: String,
    oldest: Duration,
    operations: Vec<OpSummary>,
}

impl MountSample {
    fn labels(&self) -> [(&'static str, String); 2] {
        [("volume", self.volume.clone()), ("mountpoint", self.mountpoint.clone())]
    }

    fn labels_of(&self, operation: &OpSummary) -> [(&'static str, String); 3] {
        let [volume, mountpoint] = self.labels();
        [volume, mountpoint, ("operation", operation.name.to_owned())]
    }
}

impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sample").field("mounts", &self.mounts).finish_non_exhaustive()
    }
}

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (Metric { name, kind, help, .. }, value) in &self.node {
            let kind_of = match kind {
                Kind::Counter | Kind::SecondsCounter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let metric = encoder.encode_descriptor(name, help, None, kind_of)?;
            match kind {
                Kind::Counter => ConstCounter::new(*value).encode(metric)?,
                Kind::SecondsCounter => {
                    ConstCounter::new(Duration::from_micros(*value).as_secs_f64()).encode(metric)?;
                }
                Kind::Gauge => {
                    ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(metric)?;
                }
            }
        }
        type Read = fn(&OpSummary) -> u64;
        let counters: [((&str, &str), Read); 2] = [
            (OPERATION_ERRORS, |operation| operation.errors),
            (OPERATION_BYTES, |operation| operation.bytes),
        ];
        for ((name, help), read) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (mount, operation) in self.operations() {
                let labels = mount.labels_of(operation);
                ConstCounter::new(read(operation)).encode(family.encode_family(&labels)?)?;
            }
        }
        let (name, help) = OPERATION_SECONDS;
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (mount, operation) in self.operations() {
            let (sum, labels) = (operation.total.as_secs_f64(), mount.labels_of(operation));
            family.encode_family(&labels)?.encode_histogram(
                sum,
                operation.count,
                &buckets_of(operation),
                None::<&HashMap<usize, Exemplar<NoLabelSet, f64>>>,
            )?;
        }
        let (name, help) = OLDEST_REQUEST;
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for mount in &self.mounts {
            let labels = mount.labels();
            ConstGauge::new(mount.oldest.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Sample {
    fn operations(&self) -> impl Iterator<Item = (&MountSample, &OpSummary)> {
        self.mounts.iter().flat_map(|mount| mount.operations.iter().map(move |operation| (mount, operation)))
    }
}

/// Returns how many operations fall into each of [`BUCKETS`], and into the one without an end.
fn buckets_of(operation: &OpSummary) -> Vec<(f64, u64)> {
    let mut before = 0;
    let mut buckets: Vec<_> = BUCKETS
        .iter()
        .map(|limit| {
            let within = operation.times.at_most(*limit);
            let here = within - before;
            before = within;
            (limit.as_secs_f64(), here)
        })
        .collect();
    buckets.push((f64::MAX, operation.count.saturating_sub(before)));
    buckets
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use durdir_fs::fuse::Histogram;

    use super::*;

    #[test]
    fn every_metric_is_documented() {
        let documented = include_str!("../../../docs/metrics.md");
        let row = |name: &str| documented.contains(&format!("| `{PREFIX}_{name}` |"));
        for Metric { name, kind, stats, .. } in &NODE {
            let suffix = if *kind == Kind::Gauge { "" } else { "_total" };
            assert!(row(&format!("{name}{suffix}")), "{name}");
            assert!(documented.contains(&format!("| `{stats}` |")), "{stats}");
        }
        for (name, _) in [OPERATION_ERRORS, OPERATION_BYTES] {
            assert!(row(&format!("{name}_total")), "{name}");
        }
        for (name, _) in [OPERATION_SECONDS, OLDEST_REQUEST] {
            assert!(row(name), "{name}");
        }
    }

    #[test]
    fn an_operation_is_in_one_bucket() {
        let mut buckets = vec![0; 100];
        (buckets[0], buckets[99]) = (2, 3);
        let operation = OpSummary {
            name: "read",
            count: 5,
            errors: 0,
            bytes: 0,
            total: Duration::ZERO,
            times: Histogram::of(buckets),
        };
        let seen = buckets_of(&operation);
        assert_eq!(seen.iter().map(|(_, count)| count).sum::<u64>(), 5);
        assert_eq!(seen[0].1, 2);
    }
}

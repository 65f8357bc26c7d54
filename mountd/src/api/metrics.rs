//! What the node counts, by name: one table for `durdir stats` and for Prometheus.

use durdir_fs::fuse::OpSummary;

use super::{ApiError, convert};
use crate::daemon::Node;
use crate::proto;

/// Whether a number only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// One number of the node.
pub(super) struct Metric {
    /// As `stats` shows it; Prometheus sees it with `durdir_` before it.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) value: u64,
}

/// Returns every number of the node.
pub(super) fn node_metrics(node: &Node) -> Result<Vec<Metric>, ApiError> {
    let usage = node.store.usage()?;
    let counter = |name, help, value| Metric { name, kind: Kind::Counter, help, value };
    let gauge = |name, help, value| Metric { name, kind: Kind::Gauge, help, value };
    let count = |length| u64::try_from(length).unwrap_or(u64::MAX);
    Ok(vec![
        counter("cuts", "Cuts taken.", node.tally.cuts()),
        counter("cut_held_us", "Time for which cuts held operations.", node.tally.held_us()),
        counter("drained_inodes", "Files written out before cuts.", node.tally.drained_inodes()),
        counter("replayed_requests", "Requests answered from the record.", node.tally.replayed()),
        gauge("mounts", "Volumes and snapshots mounted.", count(node.mounts.all().len())),
        gauge("uptime_s", "Age of this daemon.", node.started.elapsed().as_secs()),
        gauge("segment_bytes", "File data on the disk.", usage.segment_bytes),
        gauge("table_bytes", "Tables on the disk.", usage.table_bytes),
        gauge("disk_bytes", "Size of the store's disk.", usage.disk_bytes),
        gauge("disk_available_bytes", "What may still be written.", usage.disk_available),
    ])
}

/// Returns one operation as the API has it.
pub(super) fn operation(summary: &OpSummary) -> proto::OperationStats {
    proto::OperationStats {
        operation: summary.name.to_owned(),
        count: summary.count,
        errors: summary.errors,
        p50_us: convert::micros(summary.p50),
        p99_us: convert::micros(summary.p99),
    }
}

/// Returns everything in the text format of Prometheus.
pub(super) fn exposition(node: &Node) -> Result<String, ApiError> {
    let mut text = String::new();
    for metric in node_metrics(node)? {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let Metric { name, help, value, .. } = metric;
        line(&mut text, format_args!("# HELP durdir_{name} {help}"));
        line(&mut text, format_args!("# TYPE durdir_{name} {kind}"));
        line(&mut text, format_args!("durdir_{name} {value}"));
    }
    let stats = node.mounts.stats();
    for (name, help, value) in OPERATION_METRICS {
        line(&mut text, format_args!("# HELP durdir_{name} {help}"));
        line(&mut text, format_args!("# TYPE durdir_{name} counter"));
        for (mount, operations) in &stats {
            let source = mount.snapshot().unwrap_or_else(|| mount.volume.clone());
            for operation in operations {
                // Names of volumes and operations need no escaping.
                line(
                    &mut text,
                    format_args!(
                        "durdir_{name}{{volume=\"{source}\",operation=\"{}\"}} {}",
                        operation.name,
                        value(operation)
                    ),
                );
            }
        }
    }
    Ok(text)
}

type OperationMetric = (&'static str, &'static str, fn(&OpSummary) -> u64);

const OPERATION_METRICS: [OperationMetric; 2] = [
    ("operations_total", "Operations answered.", |operation| operation.count),
    ("operation_errors_total", "Operations that failed.", |operation| operation.errors),
];

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.push_str(&arguments.to_string());
    text.push('\n');
}

//! `durdir stats`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::error::CliError;
use super::run::{Session, call};
use super::table::{Align, Table};
use crate::client::Patience;
use crate::proto::{GetStatsRequest, GetStatsResponse, OldestRequest};
use crate::units::{format_micros, format_size};

/// Show what operations cost since mountd started, and how large the store is.
#[derive(Args, Debug)]
pub(super) struct StatsArgs {
    /// Only this volume
    volume: Option<String>,
}

/// What `stats --json` prints. Counters of what this version does not do yet are 0.
#[derive(Serialize, Debug)]
pub(super) struct Stats {
    volumes: BTreeMap<String, BTreeMap<String, Operation>>,
    /// Of each volume that works on a request, the oldest.
    oldest_requests: BTreeMap<String, Oldest>,
    cuts: u64,
    copy_up_bytes: u64,
    replayed_requests: u64,
    takeovers: u64,
    cache_hits: u64,
    bytes_fetched: u64,
    /// Everything else the node counts.
    #[serde(flatten)]
    more: BTreeMap<String, u64>,
}

/// A request that is being worked on.
#[derive(Serialize, Debug)]
pub(super) struct Oldest {
    pub(super) operation: String,
    pub(super) age_us: u64,
}

impl From<OldestRequest> for Oldest {
    fn from(oldest: OldestRequest) -> Oldest {
        Oldest { operation: oldest.operation, age_us: oldest.age_us }
    }
}

#[derive(Serialize, Debug)]
struct Operation {
    count: u64,
    errors: u64,
    p50_us: u64,
    p99_us: u64,
}

impl From<GetStatsResponse> for Stats {
    fn from(answer: GetStatsResponse) -> Stats {
        let oldest = answer
            .volumes
            .iter()
            .filter_map(|volume| Some((volume.volume.clone(), Oldest::from(volume.oldest.clone()?))));
        let oldest_requests = oldest.collect();
        let volumes = answer.volumes.into_iter().map(|volume| {
            let operations = volume.operations.into_iter().map(|one| {
                let cost = Operation {
                    count: one.count,
                    errors: one.errors,
                    p50_us: one.p50_us,
                    p99_us: one.p99_us,
                };
                (one.operation, cost)
            });
            (volume.volume, operations.collect())
        });
        let volumes = volumes.collect();
        let mut more: BTreeMap<String, u64> =
            answer.counters.into_iter().map(|counter| (counter.name, counter.value)).collect();
        let mut take = |name: &str| more.remove(name).unwrap_or(0);
        Stats {
            volumes,
            oldest_requests,
            cuts: take("cuts"),
            copy_up_bytes: take("copy_up_bytes"),
            replayed_requests: take("replayed_requests"),
            takeovers: take("takeovers"),
            cache_hits: take("cache_hits"),
            bytes_fetched: take("bytes_fetched"),
            more,
        }
    }
}

pub(super) async fn stats(session: &Session, arguments: StatsArgs) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || match &arguments.volume {
        Some(volume) => format!("stats {volume}"),
        None => "stats".to_owned(),
    };
    let request = GetStatsRequest { volume: arguments.volume.clone() };
    let answer = call(&client, Patience::Usual, action, request, async |to, request| {
        to.node().get_stats(request).await
    })
    .await?;
    let document = Stats::from(answer);
    session.output.print(&document, || text(&document))
}

fn text(stats: &Stats) -> String {
    let mut table = Table::new(&[
        ("VOLUME", Align::Left),
        ("OPERATION", Align::Left),
        ("COUNT", Align::Right),
        ("ERRORS", Align::Right),
        ("P50", Align::Right),
        ("P99", Align::Right),
    ]);
    for (volume, operations) in &stats.volumes {
        for (operation, cost) in operations {
            table.row([
                volume.clone(),
                operation.clone(),
                cost.count.to_string(),
                cost.errors.to_string(),
                format_micros(cost.p50_us),
                format_micros(cost.p99_us),
            ]);
        }
    }
    let mut out = table.render("no operations yet\n");
    for (volume, Oldest { operation, age_us }) in &stats.oldest_requests {
        out.push_str(&format!("{volume}: a {operation} is worked on for {}\n", format_micros(*age_us)));
    }
    out.push('\n');
    let mut numbers = Table::new(&[("NODE", Align::Left), ("", Align::Right)]);
    let pinned = [
        ("cuts", stats.cuts),
        ("copy_up_bytes", stats.copy_up_bytes),
        ("replayed_requests", stats.replayed_requests),
        ("takeovers", stats.takeovers),
        ("cache_hits", stats.cache_hits),
        ("bytes_fetched", stats.bytes_fetched),
    ];
    let more = stats.more.iter().map(|(name, value)| (name.as_str(), *value));
    for (name, value) in pinned.into_iter().chain(more) {
        let value = if name.ends_with("_bytes") || name.starts_with("bytes_") {
            format_size(value)
        } else if name.ends_with("_us") {
            format_micros(value)
        } else {
            value.to_string()
        };
        numbers.row([name.to_owned(), value]);
    }
    out.push_str(&numbers.render(""));
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::{Counter, OperationStats, VolumeStats};

    #[test]
    fn stats_have_the_pinned_fields() {
        let answer = GetStatsResponse {
            volumes: vec![VolumeStats {
                volume: "web".to_owned(),
                operations: vec![OperationStats {
                    operation: "read".to_owned(),
                    count: 4,
                    errors: 1,
                    p50_us: 2,
                    p99_us: 3,
                    ..OperationStats::default()
                }],
                oldest: Some(OldestRequest { operation: "write".to_owned(), age_us: 7 }),
            }],
            counters: vec![
                Counter { name: "cuts".to_owned(), value: 5 },
                Counter { name: "mounts".to_owned(), value: 1 },
            ],
        };
        let expected = json!({
            "volumes": {"web": {"read": {"count": 4, "errors": 1, "p50_us": 2, "p99_us": 3}}},
            "oldest_requests": {"web": {"operation": "write", "age_us": 7}},
            "cuts": 5, "copy_up_bytes": 0, "replayed_requests": 0, "takeovers": 0,
            "cache_hits": 0, "bytes_fetched": 0, "mounts": 1,
        });
        assert_eq!(serde_json::to_value(Stats::from(answer)).unwrap(), expected);
    }
}

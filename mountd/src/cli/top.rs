//! `durdir top`: what each volume does, as it does it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use durdir_fs::fuse::Histogram;
use serde::Serialize;

use super::error::CliError;
use super::run::{Session, call_quietly};
use super::stats::Oldest;
use super::table::{Align, Table};
use crate::client::{Client, Patience};
use crate::proto::{GetStatsRequest, GetStatsResponse, VolumeStats};
use crate::units::{format_micros, format_size, parse_duration};

/// Show what each volume does, again and again; with --json once.
#[derive(Args, Debug)]
pub(super) struct TopArgs {
    /// How long each look takes
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    interval: Duration,
    /// End after so many looks [default: none with a table, 1 with --json]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// What `top --json` prints.
#[derive(Serialize, Debug)]
struct Sample {
    interval_ms: u64,
    volumes: Vec<Activity>,
}

/// What a volume did between two looks. Rates are per second, rounded.
#[derive(Serialize, Debug, PartialEq)]
struct Activity {
    volume: String,
    operations_per_s: u64,
    errors_per_s: u64,
    read_bytes_per_s: u64,
    written_bytes_per_s: u64,
    p50_us: u64,
    p99_us: u64,
    oldest_request: Option<OldestShown>,
}

#[derive(Serialize, Debug, PartialEq)]
struct OldestShown {
    operation: String,
    age_us: u64,
}

pub(super) async fn top(session: &Session, arguments: TopArgs) -> Result<(), CliError> {
    let client = session.connect().await?;
    let most = arguments.count.or(session.output.is_json().then_some(1));
    let mut before = look(&client).await?;
    let mut looks = 0;
    while most.is_none_or(|most| looks < most) {
        tokio::time::sleep(arguments.interval).await;
        let now = look(&client).await?;
        let sample = sample(&before, &now);
        session.output.refresh(&sample, || table(&sample))?;
        before = now;
        looks += 1;
    }
    Ok(())
}

struct Look {
    at: Instant,
    stats: GetStatsResponse,
}

async fn look(client: &Client) -> Result<Look, CliError> {
    let request = GetStatsRequest::default();
    let asking = call_quietly(
        client,
        Patience::Usual,
        || "top".to_owned(),
        request,
        async |to, request| to.node().get_stats(request).await,
    );
    Ok(Look { stats: asking.await?, at: Instant::now() })
}

fn sample(before: &Look, now: &Look) -> Sample {
    let elapsed = now.at.duration_since(before.at);
    let earlier: BTreeMap<&str, &VolumeStats> =
        before.stats.volumes.iter().map(|volume| (volume.volume.as_str(), volume)).collect();
    let mut volumes: Vec<_> = now
        .stats
        .volumes
        .iter()
        .map(|volume| activity(earlier.get(volume.volume.as_str()).copied(), volume, elapsed))
        .collect();
    volumes.sort_by(|one, other| {
        (other.operations_per_s, &one.volume).cmp(&(one.operations_per_s, &other.volume))
    });
    Sample { interval_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), volumes }
}

/// Returns what was done between two looks. A worker that began anew has done all that it counts.
fn activity(before: Option<&VolumeStats>, now: &VolumeStats, elapsed: Duration) -> Activity {
    let (mut count, mut errors, mut read, mut written) = (0, 0, 0, 0);
    let mut times = Histogram::default();
    for operation in &now.operations {
        let earlier = before
            .and_then(|before| before.operations.iter().find(|one| one.operation == operation.operation))
            .filter(|earlier| earlier.count <= operation.count)
            .cloned()
            .unwrap_or_default();
        count += operation.count - earlier.count;
        errors += operation.errors.saturating_sub(earlier.errors);
        let bytes = operation.bytes.saturating_sub(earlier.bytes);
        match operation.operation.as_str() {
            "read" => read += bytes,
            "write" => written += bytes,
            _ => {}
        }
        times.add(&Histogram::of(operation.buckets.clone()).since(&Histogram::of(earlier.buckets)));
    }
    let rate = |number: u64| {
        let millis = elapsed.as_millis().max(1);
        u64::try_from(u128::from(number) * 1000 / millis).unwrap_or(u64::MAX)
    };
    let micros = |time: Duration| u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
    let oldest = now.oldest.clone().map(Oldest::from);
    Activity {
        volume: now.volume.clone(),
        operations_per_s: rate(count),
        errors_per_s: rate(errors),
        read_bytes_per_s: rate(read),
        written_bytes_per_s: rate(written),
        p50_us: micros(times.quantile(50)),
        p99_us: micros(times.quantile(99)),
        oldest_request: oldest.map(|Oldest { operation, age_us }| OldestShown { operation, age_us }),
    }
}

fn table(sample: &Sample) -> String {
    let mut table = Table::new(&[
        ("VOLUME", Align::Left),
        ("OPS/S", Align::Right),
        ("ERRORS/S", Align::Right),
        ("READ/S", Align::Right),
        ("WRITTEN/S", Align::Right),
        ("P50", Align::Right),
        ("P99", Align::Right),
        ("OLDEST REQUEST", Align::Left),
    ]);
    for volume in &sample.volumes {
        let oldest = volume.oldest_request.as_ref();
        table.row([
            volume.volume.clone(),
            volume.operations_per_s.to_string(),
            volume.errors_per_s.to_string(),
            format_size(volume.read_bytes_per_s),
            format_size(volume.written_bytes_per_s),
            format_micros(volume.p50_us),
            format_micros(volume.p99_us),
            oldest.map_or(String::new(), |oldest| {
                format!("{} for {}", oldest.operation, format_micros(oldest.age_us))
            }),
        ]);
    }
    table.render("no volumes\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{OldestRequest, OperationStats};

    fn volume(count: u64, bytes: u64) -> VolumeStats {
        let write = OperationStats {
            operation: "write".to_owned(),
            count,
            bytes,
            buckets: vec![count],
            ..OperationStats::default()
        };
        VolumeStats {
            volume: "web".to_owned(),
            operations: vec![write],
            oldest: Some(OldestRequest { operation: "read".to_owned(), age_us: 3 }),
        }
    }

    #[test]
    fn rates_are_what_two_looks_differ_by() {
        let half = Duration::from_millis(500);
        let seen = activity(Some(&volume(10, 1000)), &volume(30, 5000), half);
        assert_eq!((seen.operations_per_s, seen.written_bytes_per_s, seen.read_bytes_per_s), (40, 8000, 0));
        assert_eq!(seen.oldest_request, Some(OldestShown { operation: "read".to_owned(), age_us: 3 }));
        // Another daemon: it began at 0.
        assert_eq!(activity(Some(&volume(30, 5000)), &volume(10, 1000), half).operations_per_s, 20);
        assert_eq!(activity(None, &volume(10, 1000), half).operations_per_s, 20);
    }

    #[test]
    fn a_volume_that_does_nothing_has_zeros() {
        let idle = activity(Some(&volume(10, 1)), &volume(10, 1), Duration::from_secs(1));
        assert_eq!((idle.operations_per_s, idle.p99_us), (0, 0));
    }
}

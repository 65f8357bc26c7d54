//! What each operation of a mount costs: how often it ran, how often it failed, how long it took.
//!
//! # Overview
//! One `OpStats` per mount. Every request adds to it exactly once, in
//! [`Op::finish`](super::reply::Op::finish), before its reply leaves: a program that has seen its
//! call return finds it counted. Times are taken from decoding to just before the reply is sent.
//!
//! # Concurrency
//! Relaxed atomics only. A summary taken under load may miss requests in flight, never count one
//! twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

macro_rules! operations {
    ($($variant:ident $name:literal,)*) => {
        /// An operation of the filesystem that a transport can ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum OpKind {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl OpKind {
            /// Every operation, in the order of its discriminant.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$variant),*];

            /// Returns the name used in logs and in `durdir stats`.
            pub fn name(self) -> &'static str {
                match self {
                    $(OpKind::$variant => $name,)*
                }
            }

            /// Returns the failpoint between a request's arrival and its execution.
            pub(super) fn before_it(self) -> &'static str {
                match self {
                    $(OpKind::$variant => concat!("fuse.", $name, ".before"),)*
                }
            }

            /// Returns the failpoint between a request's execution and its answer.
            pub(super) fn after_it(self) -> &'static str {
                match self {
                    $(OpKind::$variant => concat!("fuse.", $name, ".after"),)*
                }
            }
        }
    };
}

operations! {
    Lookup "lookup",
    Forget "forget",
    Getattr "getattr",
    Setattr "setattr",
    Readlink "readlink",
    Create "create",
    Mknod "mknod",
    Mkdir "mkdir",
    Symlink "symlink",
    Unlink "unlink",
    Rmdir "rmdir",
    Rename "rename",
    Link "link",
    Read "read",
    Write "write",
    Fallocate "fallocate",
    Lseek "lseek",
    CopyFileRange "copy_file_range",
    Fsync "fsync",
    Fsyncdir "fsyncdir",
    Readdir "readdir",
    Readdirplus "readdirplus",
    Getxattr "getxattr",
    Setxattr "setxattr",
    Listxattr "listxattr",
    Removexattr "removexattr",
    Statfs "statfs",
}

/// Four buckets per power of two, up to 2^37 ns (137 s): a quantile is off by a quarter at most.
const BUCKETS: usize = 4 * 36;

struct Counters {
    errors: AtomicU64,
    total_nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// Counts and times of every operation of one mount.
pub(super) struct OpStats {
    operations: Vec<Counters>,
}

/// What one operation has cost so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpSummary {
    /// Its name, such as `lookup`.
    pub name: &'static str,
    /// How often it ran.
    pub count: u64,
    /// How often it was answered with an errno that is not an everyday answer, such as a missing
    /// name is.
    pub errors: u64,
    /// Mean time to its answer.
    pub mean: Duration,
    /// Half of them took at most this long.
    pub p50: Duration,
    /// 99 % of them took at most this long.
    pub p99: Duration,
}

/// Whether an answer counts as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The operation was done, or answered with what happens every day.
    Done,
    /// It failed or was refused.
    Failed,
}

impl OpStats {
    /// Returns a set of counters at zero.
    pub(super) fn new() -> Self {
        let counters = || Counters {
            errors: AtomicU64::new(0),
            total_nanos: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        };
        Self { operations: OpKind::ALL.iter().map(|_| counters()).collect() }
    }

    /// Counts one operation that took `time`.
    pub(super) fn count(&self, kind: OpKind, time: Duration, outcome: Outcome) {
        let counters = &self.operations[kind as usize];
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        counters.buckets[bucket_of(nanos)].fetch_add(1, Ordering::Relaxed);
        counters.total_nanos.fetch_add(nanos, Ordering::Relaxed);
        if outcome == Outcome::Failed {
            counters.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns a line for each operation that ran at least once.
    pub(super) fn summary(&self) -> Vec<OpSummary> {
        OpKind::ALL
            .iter()
            .zip(&self.operations)
            .filter_map(|(kind, counters)| {
                let buckets: Vec<u64> =
                    counters.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
                let count: u64 = buckets.iter().sum();
                let mean = counters.total_nanos.load(Ordering::Relaxed).checked_div(count)?;
                Some(OpSummary {
                    name: kind.name(),
                    count,
                    errors: counters.errors.load(Ordering::Relaxed),
                    mean: Duration::from_nanos(mean),
                    p50: quantile(&buckets, count, 50),
                    p99: quantile(&buckets, count, 99),
                })
            })
            .collect()
    }
}

impl Default for OpStats {
    fn default() -> Self {
        Self::new()
    }
}

fn bucket_of(nanos: u64) -> usize {
    if nanos < 4 {
        return nanos as usize;
    }
    let exponent = nanos.ilog2() as usize;
    let quarter = (nanos >> (exponent - 2)) as usize & 3;
    ((exponent - 1) * 4 + quarter).min(BUCKETS - 1)
}

/// Returns the largest time that falls into a bucket.
fn bucket_limit(bucket: usize) -> u64 {
    match bucket {
        0..4 => bucket as u64,
        _ => ((5 + bucket as u64 % 4) << (bucket / 4 - 1)) - 1,
    }
}

fn quantile(buckets: &[u64], count: u64, percent: u64) -> Duration {
    let rank = (count * percent).div_ceil(100);
    let mut seen = 0;
    let bucket = buckets.iter().position(|n| {
        seen += n;
        seen >= rank
    });
    Duration::from_nanos(bucket.map_or(0, bucket_limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_hold_their_limits() {
        for bucket in 0..BUCKETS - 1 {
            assert_eq!(bucket_of(bucket_limit(bucket)), bucket);
            assert_eq!(bucket_of(bucket_limit(bucket) + 1), bucket + 1);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_at_most_a_quarter_too_large() {
        let stats = OpStats::new();
        for micros in 1..=1000 {
            stats.count(OpKind::Read, Duration::from_micros(micros), Outcome::Done);
        }
        stats.count(OpKind::Unlink, Duration::from_nanos(5), Outcome::Failed);
        let lines = stats.summary();
        assert_eq!(lines.iter().map(|line| line.name).collect::<Vec<_>>(), ["unlink", "read"]);
        let read = lines[1];
        assert_eq!((read.count, read.errors), (1000, 0));
        assert_eq!(lines[0].errors, 1);
        for (quantile, exact) in [(read.p50, 500), (read.p99, 990)] {
            let exact = Duration::from_micros(exact);
            assert!(quantile >= exact && quantile <= exact * 5 / 4, "{quantile:?} for {exact:?}");
        }
    }

    #[test]
    fn names_follow_the_discriminants() {
        for (index, kind) in OpKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }
}

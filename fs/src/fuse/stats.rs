//! What each operation of a mount costs: how often it ran, how often it failed, how long it took, how many bytes it moved.
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

use super::in_flight::InFlight;

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
    bytes: AtomicU64,
    total_nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// Counts and times of every operation of one mount.
pub(super) struct OpStats {
    operations: Vec<Counters>,
    in_flight: InFlight,
}

/// What one operation has cost so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpSummary {
    /// Its name, such as `lookup`.
    pub name: &'static str,
    /// How often it ran.
    pub count: u64,
    /// How often it was answered with an errno that is not an everyday answer, such as a missing
    /// name is.
    pub errors: u64,
    /// Bytes that were read or written; 0 for everything else.
    pub bytes: u64,
    /// All times to their answers, added up.
    pub total: Duration,
    /// How long they took.
    pub times: Histogram,
}

/// How many operations took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram(Vec<u64>);

impl Histogram {
    /// Returns the histogram of these buckets, as [`Self::buckets`] returns them.
    pub fn of(buckets: Vec<u64>) -> Histogram {
        Histogram(buckets)
    }

    /// Returns how many fell into each bucket, the shortest first.
    pub fn buckets(&self) -> &[u64] {
        &self.0
    }

    /// Returns how many there were.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns a time that so many percent of them did not exceed, a quarter too large at most; zero if there were none.
    pub fn quantile(&self, percent: u64) -> Duration {
        let rank = (self.count() * percent).div_ceil(100);
        let mut seen = 0;
        let bucket = self.0.iter().position(|n| {
            seen += n;
            seen >= rank && seen > 0
        });
        Duration::from_nanos(bucket.map_or(0, bucket_limit))
    }

    /// Returns how many surely took at most `limit`.
    pub fn at_most(&self, limit: Duration) -> u64 {
        let within = |bucket: usize| u128::from(bucket_limit(bucket)) <= limit.as_nanos();
        self.0.iter().enumerate().take_while(|(bucket, _)| within(*bucket)).map(|(_, count)| count).sum()
    }

    /// Returns those that came after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let before = earlier.0.iter().copied().chain(std::iter::repeat(0));
        Histogram(self.0.iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect())
    }

    /// Adds others.
    pub fn add(&mut self, other: &Histogram) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own += other;
        }
    }
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
            bytes: AtomicU64::new(0),
            total_nanos: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        };
        Self { operations: OpKind::ALL.iter().map(|_| counters()).collect(), in_flight: InFlight::new() }
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

    /// Counts bytes that an operation has moved.
    pub(super) fn count_bytes(&self, kind: OpKind, bytes: usize) {
        self.operations[kind as usize].bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the requests that are being worked on.
    pub(super) fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Returns a line for each operation that ran at least once.
    pub(super) fn summary(&self) -> Vec<OpSummary> {
        OpKind::ALL
            .iter()
            .zip(&self.operations)
            .filter_map(|(kind, counters)| {
                let load = |bucket: &AtomicU64| bucket.load(Ordering::Relaxed);
                let times = Histogram(counters.buckets.iter().map(load).collect());
                let count = times.count();
                (count > 0).then(|| OpSummary {
                    name: kind.name(),
                    count,
                    errors: counters.errors.load(Ordering::Relaxed),
                    bytes: counters.bytes.load(Ordering::Relaxed),
                    total: Duration::from_nanos(counters.total_nanos.load(Ordering::Relaxed)),
                    times,
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
        let read = &lines[1];
        assert_eq!((read.count, read.errors), (1000, 0));
        assert_eq!(lines[0].errors, 1);
        for (quantile, exact) in [(read.times.quantile(50), 500), (read.times.quantile(99), 990)] {
            let exact = Duration::from_micros(exact);
            assert!(quantile >= exact && quantile <= exact * 5 / 4, "{quantile:?} for {exact:?}");
        }
    }

    #[test]
    fn histograms_are_added_and_subtracted() {
        let stats = OpStats::new();
        stats.count(OpKind::Read, Duration::from_micros(1), Outcome::Done);
        stats.count_bytes(OpKind::Read, 4096);
        let before = stats.summary()[0].clone();
        stats.count(OpKind::Read, Duration::from_millis(1), Outcome::Done);
        let after = stats.summary()[0].clone();
        assert_eq!((after.bytes, after.total), (4096, Duration::from_micros(1001)));
        let mut late = after.times.since(&before.times);
        assert_eq!((late.count(), late.at_most(Duration::from_micros(999))), (1, 0));
        assert_eq!(late.at_most(Duration::from_secs(1)), 1);
        late.add(&before.times);
        assert_eq!(late, after.times);
        assert_eq!(Histogram::default().quantile(99), Duration::ZERO);
        assert_eq!(after.times.since(&Histogram::default()), after.times);
    }

    #[test]
    fn names_follow_the_discriminants() {
        for (index, kind) in OpKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }
}

//! Makes a failing sequence small: leaves operations out, then makes what remains plainer.

use std::time::{Duration, Instant};

use crate::op::{At, Op, Pick, When};
use crate::run::Failure;
use crate::wire::{Renaming, XattrMode};

const PATIENCE: Duration = Duration::from_secs(120);

/// Returns the smallest sequence found that `try_it` still finds a failure in, and that failure.
pub(crate) fn shrink(
    ops: &[Op],
    failure: Failure,
    try_it: &mut dyn FnMut(&[Op]) -> Option<Failure>,
) -> (Vec<Op>, Failure) {
    let started = Instant::now();
    let mut best = ops.to_vec();
    let first = failure.op;
    let mut reason = failure;
    let mut attempt = |candidate: Vec<Op>, best: &mut Vec<Op>| match try_it(&candidate) {
        Some(failure) => {
            *best = candidate;
            reason = failure;
            true
        }
        None => false,
    };

    attempt(best[..(first + 1).min(best.len())].to_vec(), &mut best);
    let mut chunk = best.len().div_ceil(2).max(1);
    while started.elapsed() < PATIENCE {
        let mut progress = false;
        let mut start = 0;
        while start < best.len() && started.elapsed() < PATIENCE {
            let mut candidate = best.clone();
            candidate.drain(start..(start + chunk).min(best.len()));
            if attempt(candidate, &mut best) {
                progress = true;
            } else {
                start += chunk;
            }
        }
        if chunk > 1 {
            chunk = chunk.div_ceil(2);
        } else if !progress {
            break;
        }
    }
    for index in 0..best.len() {
        for plainer in plainer(&best[index]) {
            if started.elapsed() > PATIENCE {
                break;
            }
            if plainer != best[index] {
                let mut candidate = best.clone();
                candidate[index] = plainer;
                attempt(candidate, &mut best);
            }
        }
    }
    (best, reason)
}

/// Returns variants of an operation that are easier to read, each changed in one respect.
fn plainer(op: &Op) -> Vec<Op> {
    let mut variants = Vec::new();
    let mut vary = |change: &dyn Fn(&mut Op)| {
        let mut variant = op.clone();
        change(&mut variant);
        variants.push(variant);
    };
    match op {
        Op::Create { .. } | Op::Mkdir { .. } => {
            vary(&|op| {
                if let Op::Create { owner, .. } | Op::Mkdir { owner, .. } = op {
                    *owner = 0
                }
            });
            vary(&|op| {
                if let Op::Create { perm, .. } | Op::Mkdir { perm, .. } = op {
                    *perm = 0o755
                }
            });
            vary(&|op| {
                if let Op::Create { dir, .. } | Op::Mkdir { dir, .. } = op {
                    *dir = 0
                }
            });
            vary(&|op| {
                if let Op::Create { name, .. } | Op::Mkdir { name, .. } = op {
                    *name = Pick::Pool(0)
                }
            });
        }
        Op::Write { .. } => {
            vary(&|op| {
                if let Op::Write { kill_suid, .. } = op {
                    *kill_suid = false
                }
            });
            for small in [1, 100, 4096, 65536] {
                vary(&|op| {
                    if let Op::Write { len, .. } = op {
                        *len = small.min(*len)
                    }
                });
            }
            vary(&|op| {
                if let Op::Write { at, .. } = op {
                    *at = At::Abs(0)
                }
            });
            vary(&|op| {
                if let Op::Write { seed, .. } = op {
                    *seed = 1
                }
            });
        }
        Op::CopyRange { .. } => {
            vary(&|op| {
                if let Op::CopyRange { from_at, .. } = op {
                    *from_at = At::Abs(0)
                }
            });
            vary(&|op| {
                if let Op::CopyRange { to_at, .. } = op {
                    *to_at = At::Abs(0)
                }
            });
        }
        Op::Fallocate { .. } => {
            vary(&|op| {
                if let Op::Fallocate { at, .. } = op {
                    *at = At::Abs(0)
                }
            });
            vary(&|op| {
                if let Op::Fallocate { len, .. } = op {
                    *len = 4096
                }
            });
        }
        Op::Truncate { .. } => vary(&|op| {
            if let Op::Truncate { to, .. } = op {
                *to = At::Abs(0)
            }
        }),
        Op::Setxattr { .. } => {
            vary(&|op| {
                if let Op::Setxattr { len, .. } = op {
                    *len = 1
                }
            });
            vary(&|op| {
                if let Op::Setxattr { how, .. } = op {
                    *how = XattrMode::Any {}
                }
            });
        }
        Op::Rename { .. } => vary(&|op| {
            if let Op::Rename { how, .. } = op {
                *how = Renaming::Replace {}
            }
        }),
        Op::Utimens { .. } => vary(&|op| {
            if let Op::Utimens { atime, .. } = op {
                *atime = When::Keep
            }
        }),
        Op::Kill { .. } => vary(&|op| {
            if let Op::Kill { micros, .. } = op {
                *micros = 0
            }
        }),
        _ => {}
    }
    // Which of the things there are: the first is the easiest to find.
    vary(&|op| match op {
        Op::Chmod { node, .. }
        | Op::Chown { node, .. }
        | Op::Utimens { node, .. }
        | Op::Setxattr { node, .. }
        | Op::Forget { node }
        | Op::Link { node, .. } => *node = 0,
        Op::Write { file, .. }
        | Op::Truncate { file, .. }
        | Op::Fallocate { file, .. }
        | Op::Read { file, .. } => {
            *file = 0;
        }
        Op::CopyRange { from, .. } => *from = 0,
        Op::Unlink { dir, .. } | Op::Rmdir { dir, .. } | Op::Rename { dir, .. } | Op::Symlink { dir, .. } => {
            *dir = 0
        }
        Op::RemoveSnapshot { snapshot } | Op::Fork { snapshot } | Op::Rollback { snapshot } => *snapshot = 0,
        _ => {}
    });
    variants
}

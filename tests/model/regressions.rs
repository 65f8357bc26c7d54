//! Sequences that failed once, shrunk.

use crate::op::Op;
use crate::run::{Bench, Beside, Scenario, run};

/// Runs a sequence on a fresh store.
#[allow(dead_code, reason = "used by the first regression")]
fn replay(scenario: Scenario, beside: Beside, ops: &[Op]) {
    let mut bench = Bench::new(ops.iter().any(|op| matches!(op, Op::Kill { .. })));
    if let Err(failure) = run(scenario, ops, &mut bench, beside) {
        panic!("{failure}");
    }
    bench.retire().unwrap();
}

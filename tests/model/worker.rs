//! A process that holds a store and does what it is told over its standard input, so that it can be killed.
//!
//! Every reply is written before the next call begins when the frame asks for it: what was answered had
//! been done, and at most one call more.

#![allow(clippy::unwrap_used, reason = "a worker that cannot go on should stop, loudly")]

mod executor;
mod wire;

use std::io::{self, BufWriter, Write};
use std::path::Path;

use executor::Executor;
use wire::{Call, Wire};

fn main() {
    let dir = std::env::args_os().nth(1).expect("usage: model-worker STORE_DIR");
    let mut executor = Executor::open(Path::new(&dir), true).unwrap_or_else(|error| panic!("{error}"));
    let mut input = io::stdin().lock();
    let mut output = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    while let Some(frame) = wire::read_frame(&mut input).unwrap() {
        let mut rest = &frame[..];
        let flush_each = bool::get(&mut rest);
        let calls: Vec<Call> = Vec::get(&mut rest);
        for call in &calls {
            let mut reply = Vec::new();
            executor.execute(call).put(&mut reply);
            wire::write_frame(&mut output, &reply).unwrap();
            if flush_each {
                output.flush().unwrap();
            }
        }
        output.flush().unwrap();
    }
}

//! Reads a JSON list of measurements and prints their sum: enough to need its dependencies.

use serde::Deserialize;

#[derive(Deserialize)]
struct Measurement {
    value: f64,
}

fn main() -> anyhow::Result<()> {
    let measurements: Vec<Measurement> = serde_json::from_reader(std::io::stdin())?;
    println!("{}", measurements.iter().map(|m| m.value).sum::<f64>());
    Ok(())
}

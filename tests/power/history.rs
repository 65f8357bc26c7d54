//! Snapshots, forks and removals of snapshots, while the writers work.

use crate::outside::Outside;
use crate::random::Random;
use crate::{durdir, pause};

/// Snapshots of a volume that are kept.
const KEPT: usize = 4;
/// Forks of a volume that are made.
const FORKS: usize = 2;

/// Works until the power goes.
pub(crate) fn run(outside: &Outside, mut random: Random, first: u64) {
    let mut kept: Vec<(&str, String)> = Vec::new();
    let mut forks = 0;
    for step in first.. {
        pause(random.between(100, 900));
        let many = kept.len() > 2 * KEPT;
        let command: Vec<String> = match random.below(10) {
            _ if many => {
                let (volume, name) = kept.remove(usize::try_from(random.below(KEPT as u64)).unwrap_or(0));
                vec!["snapshot".into(), "rm".into(), format!("{volume}@{name}")]
            }
            0..2 if forks < FORKS => {
                let Some((volume, name)) = random.pick(&kept) else { continue };
                forks += 1;
                vec!["fork".into(), format!("{volume}@{name}"), format!("fork-{step}")]
            }
            _ => {
                let volumes: &[&str] = [&["a"][..], &["b"], &["a", "b"]][random.below(3) as usize];
                let name = format!("s{step}");
                kept.extend(volumes.iter().map(|&volume| (volume, name.clone())));
                ["snapshot", "create"]
                    .into_iter()
                    .chain(volumes.iter().copied())
                    .chain(["--name", &name])
                    .map(str::to_owned)
                    .collect()
            }
        };
        outside.tell(&format!("s {step} {}", command.join(" ")));
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        if let Err(error) = durdir(&arguments) {
            outside.tell(&format!("s {step} failed: {error}"));
            return;
        }
        outside.tell(&format!("s {step} done"));
    }
}

//! Rules about several parts of a template: names that are used twice, mounts of volumes, paths inside of each other.

use std::collections::HashMap;

use super::super::fields::{Given, Items};
use super::super::mount_path::lies_inside;
use super::super::problem::{Place, Problems};
use super::super::raw::{RawContainer, RawTemplate};

/// Applies these rules, as far as what they are about is known.
pub(super) fn check(raw: &RawTemplate, problems: &Problems) {
    let place = Place::root();
    if let Given::Value(containers) = &raw.containers {
        let place = place.field("containers");
        unique(containers.iter().map(|container| name(container, |c| &c.name)), &place, "name", problems);
        for (number, container) in containers.iter().enumerate() {
            let Given::Value(container) = container else { continue };
            paths(container, &place.item(number).field("volumeMounts"), problems);
            if let Given::Value(env) = &container.env {
                let names = env.iter().map(|variable| name(variable, |v| &v.name));
                unique(names, &place.item(number).field("env"), "name", problems);
            }
        }
    }
    let declared = match &raw.volumes {
        Given::Absent => &Items::new(),
        Given::Value(volumes) => volumes,
        Given::Wrong => return,
    };
    let names: Vec<Option<&str>> = declared.iter().map(|volume| name(volume, |v| &v.name)).collect();
    unique(names.iter().copied(), &place.field("volumes"), "name", problems);
    mounts(&names, &raw.containers, problems);
}

/// Each mount is of a volume, and each volume is mounted.
fn mounts(volumes: &[Option<&str>], containers: &Given<Items<RawContainer>>, problems: &Problems) {
    let place = Place::root();
    let mut mounted: HashMap<&str, bool> = volumes.iter().flatten().map(|name| (*name, false)).collect();
    // A volume without a readable name may be the one that a mount means, and the other way round.
    let all_volumes_known = volumes.iter().all(Option::is_some);
    let mut all_mounts_known = true;
    let containers = match containers {
        Given::Absent => &Items::new(),
        Given::Value(containers) => containers,
        Given::Wrong => return,
    };
    for (number, container) in containers.iter().enumerate() {
        let place = place.field("containers").item(number).field("volumeMounts");
        let mounts = match container {
            Given::Value(RawContainer { volume_mounts: Given::Value(mounts), .. }) => mounts,
            Given::Value(RawContainer { volume_mounts: Given::Absent, .. }) => continue,
            _ => {
                all_mounts_known = false;
                continue;
            }
        };
        for (number, mount) in mounts.iter().enumerate() {
            let Some(name) = name(mount, |m| &m.name) else {
                all_mounts_known = false;
                continue;
            };
            match mounted.get_mut(name) {
                Some(mounted) => *mounted = true,
                None if all_volumes_known => {
                    problems.report(
                        &place.item(number).field("name"),
                        format!("{name:?} is the name of no volume of this template"),
                    );
                }
                None => {}
            }
        }
    }
    for (number, volume) in volumes.iter().enumerate() {
        let is_mounted = volume.is_none_or(|name| mounted.get(name) == Some(&true));
        if all_mounts_known && !is_mounted {
            problems
                .report(&place.field("volumes").item(number), "must be mounted by at least one container");
        }
    }
}

/// Mount paths of one container are unique, and not inside of each other.
fn paths(container: &RawContainer, place: &Place, problems: &Problems) {
    let Given::Value(mounts) = &container.volume_mounts else { return };
    let paths: Vec<Option<&str>> = mounts.iter().map(|mount| name(mount, |m| &m.mount_path)).collect();
    unique(paths.iter().copied(), place, "mountPath", problems);
    for (number, other, outer) in nested(&paths) {
        problems.report(
            &place.item(number).field("mountPath"),
            format!("must not lie inside of volumeMounts[{other}].mountPath, {outer}"),
        );
    }
}

/// Returns which paths lie inside of which: of several the innermost. Each is compared with few, however long the list.
fn nested<'a>(paths: &[Option<&'a str>]) -> Vec<(usize, usize, &'a str)> {
    let known = paths.iter().enumerate().filter_map(|(number, path)| path.map(|path| (number, path)));
    let mut sorted: Vec<(usize, &str)> = known.collect();
    // By components: what lies inside of a path comes right after it.
    sorted.sort_by(|(_, one), (_, other)| one.split('/').cmp(other.split('/')));
    let mut around: Vec<(usize, &str)> = Vec::new();
    let mut found = Vec::new();
    for (number, path) in sorted {
        while around.pop_if(|(_, outer)| !lies_inside(path, outer)).is_some() {}
        found.extend(around.last().map(|(other, outer)| (number, *other, *outer)));
        around.push((number, path));
    }
    found.sort_unstable();
    found
}

/// No two items of a list have the same name.
fn unique<'a>(names: impl Iterator<Item = Option<&'a str>>, place: &Place, field: &str, problems: &Problems) {
    let mut first = HashMap::new();
    for (number, name) in names.enumerate() {
        let Some(name) = name else { continue };
        let before = *first.entry(name).or_insert(number);
        if before != number {
            problems.report(
                &place.item(number).field(field),
                format!("is the same as {}", place.item(before).field(field)),
            );
        }
    }
}

/// Returns the name of an item, if it can be read.
fn name<T>(item: &Given<T>, field: impl Fn(&T) -> &Given<String>) -> Option<&str> {
    match item {
        Given::Value(item) => match field(item) {
            Given::Value(name) => Some(name),
            Given::Absent | Given::Wrong => None,
        },
        Given::Absent | Given::Wrong => None,
    }
}

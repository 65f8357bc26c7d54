//! The rules of `volumes`.

use durdir_fs::overlay::stack::MAX_LOWERS;

use super::super::fields::{Given, Items};
use super::super::problem::{Place, Problems};
use super::super::raw::{RawDurableDir, RawVolume};
use super::super::{DurableDir, Label, Volume};
use super::value::{at_most, check as check_value, each, host_path, number};

/// How many volumes an actor may have.
const MAX_VOLUMES: usize = 32;

/// Applies them.
pub(super) fn check(raw: Given<Items<RawVolume>>, place: &Place, problems: &Problems) -> Option<Vec<Volume>> {
    at_most(&raw, MAX_VOLUMES, place, problems);
    each(raw.or(Items::new())?, place, |volume, place| {
        let name = label(volume.name, &place.field("name"), problems);
        let source = volume.durable_dir.value();
        let durable_dir = source.and_then(|source| durable_dir(source, &place.field("durableDir"), problems));
        Some(Volume { name: name?, durable_dir: durable_dir? })
    })
}

fn durable_dir(raw: RawDurableDir, place: &Place, problems: &Problems) -> Option<DurableDir> {
    let lowers_place = place.field("lowers");
    at_most(&raw.lowers, MAX_LOWERS, &lowers_place, problems);
    let lowers = raw.lowers.or(Items::new()).and_then(|lowers| {
        each(lowers, &lowers_place, |lower, place| host_path(Given::Value(lower), place, problems).value())
    });
    let bytes = check_value(raw.quota_bytes, &place.field("quotaBytes"), problems, |bytes| {
        if bytes == 0 { Err("must be at least 1; leave it out for no limit".to_owned()) } else { Ok(bytes) }
    });
    let inodes = number(raw.quota_inodes, 1..=u64::MAX, &place.field("quotaInodes"), problems);
    let (quota_bytes, quota_inodes) = (bytes.optional(), inodes.optional());
    Some(DurableDir { lowers: lowers?, quota_bytes: quota_bytes?, quota_inodes: quota_inodes? })
}

/// Checks a name that must be there.
pub(super) fn label(name: Given<String>, place: &Place, problems: &Problems) -> Option<Label> {
    check_value(name, place, problems, |name| Label::parse(&name)).required(place, problems)
}

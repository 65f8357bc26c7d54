//! The rules of `snapshotsConfig`.

use super::super::fields::Given;
use super::super::problem::{Place, Problems};
use super::super::raw::RawSnapshotsConfig;
use super::super::{Location, SandboxClass, Scope, SnapshotsConfig};
use super::value::{check as check_value, one_of};

/// Applies them; `class` is `None` where it is not known.
pub(super) fn check(
    raw: Given<RawSnapshotsConfig>,
    class: Option<SandboxClass>,
    has_volumes: bool,
    place: &Place,
    problems: &Problems,
) -> Option<SnapshotsConfig> {
    let raw = raw.required(place, problems)?;
    let location_place = place.field("location");
    let location = check_value(raw.location, &location_place, problems, |url| Location::parse(&url))
        .required(&location_place, problems);

    // Golden snapshots are memory without an actor of its own; there are none here.
    let from_data_place = place.field("onResume").field("fromData");
    one_of(raw.from_data, &[("ColdBoot", ())], &from_data_place, problems);

    // A process has no memory to be captured, so that Full cannot be what its author meant.
    let default = if class == Some(SandboxClass::Process) { Scope::Data } else { Scope::Full };
    let names = Scope::ALL.map(|scope| (scope.name(), scope));
    let scope = |given: Given<String>, field: &str| {
        let place = place.field(field);
        let is_given = given.is_given();
        let scope = one_of(given, &names, &place, problems).or(default);
        match scope {
            Some(Scope::Full) if class == Some(SandboxClass::Process) => {
                problems.report(
                    &place,
                    "must be Data or None for sandboxClass process: its memory cannot be captured",
                );
            }
            Some(Scope::Data) if !has_volumes => {
                let given = if is_given { "" } else { ", the default," };
                problems
                    .report(&place, format!("Data{given} captures the volumes, and this template has none"));
            }
            _ => {}
        }
        scope
    };
    let (on_pause, on_commit) = (scope(raw.on_pause, "onPause"), scope(raw.on_commit, "onCommit"));
    if let (Some(on_pause), Some(on_commit)) = (on_pause, on_commit)
        && !on_commit.is_subset_of(on_pause)
    {
        problems.report(
            &place.field("onCommit"),
            format!("onCommit must be a subset of onPause: {on_commit} is more than {on_pause}"),
        );
    }
    Some(SnapshotsConfig { location: location?, on_pause: on_pause?, on_commit: on_commit? })
}

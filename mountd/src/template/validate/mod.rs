//! The rules of templates: a [`RawTemplate`] in, a [`Template`] out, or everything that is wrong with it.
//!
//! # Invariants
//! - Every rule is applied to everything it can be applied to. A field of the wrong type was reported by whoever read it, and is
//!   left out here: it neither hides another problem nor causes one.
//! - A value that is `None` here has been reported.
//! - A rule that says what no runtime can run is in `fit.rs`, and is not applied to a template that is stored: an actor can be shown and
//!   removed, whatever rules came since it was made.

mod containers;
mod fit;
mod references;
mod sandbox;
mod snapshots;
mod value;
mod volumes;

use super::fields::Given;
use super::problem::{Place, Problems};
use super::raw::RawTemplate;
use super::{SandboxClass, Template};

/// Whose document it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Its author's.
    Author,
    /// Ours: an actor was made of it.
    Store,
}

/// Applies every rule.
pub(super) fn validate(raw: RawTemplate, origin: Origin, problems: &Problems) -> Option<Template> {
    let place = Place::root();
    references::check(&raw, problems);

    let class_names = SandboxClass::ALL.map(|class| (class.name(), class));
    let class =
        value::one_of(raw.sandbox_class.clone(), &class_names, &place.field("sandboxClass"), problems)
            .or(SandboxClass::Gvisor);
    if let (Some(class), Origin::Author) = (class, origin) {
        fit::check(&raw, class, problems);
    }
    let has_volumes = match &raw.volumes {
        Given::Absent => false,
        Given::Value(volumes) => !volumes.is_empty(),
        // Nobody knows; no rule is broken for sure.
        Given::Wrong => true,
    };
    let snapshots =
        snapshots::check(raw.snapshots_config, class, has_volumes, &place.field("snapshotsConfig"), problems);
    let volumes = volumes::check(raw.volumes, &place.field("volumes"), problems);
    let containers = containers::check(raw.containers, class, &place.field("containers"), problems);
    let sandbox = sandbox::check(raw.sandbox, class, &place.field("sandbox"), problems);
    let readyz = containers::readyz(raw.readyz, &place.field("readyz"), problems);
    Some(Template {
        volumes: volumes?,
        containers: containers?,
        sandbox: sandbox?,
        snapshots: snapshots?,
        readyz: readyz?,
    })
}

//! Actor templates: what an actor is made of, as its author writes it.
//!
//! # Overview
//! ```text
//!   bytes ── yaml, json ──▶ Node ── raw ──▶ RawTemplate ── validate ──▶ Template ── sandbox ──▶ runtime::Sandbox
//!            syntax, size           types, names           rules             │
//!                                                                            └── to_json ──▶ what is stored
//! ```
//! Fields, defaults and rules are those of the orchestrator that actors come from, and what this daemon adds to them:
//! `docs/templates.md` has them all.
//!
//! # Invariants
//! - A [`Template`] is valid, and complete: defaults are written into it, so that no reader guesses.
//! - Everything that is wrong with a document is reported at once, each with its place. No document makes a reader panic, take more
//!   memory than a few times its size, or recurse deeply.
//! - [`Template::to_json`] is canonical: equal templates give equal bytes, and [`Template::parse`] gives the same template back.
//!   (Requests are compared by the document as it was sent, before it is read.)
//! - What was stored can be read again, by [`Template::parse_stored`], also where it would be refused by now.

mod container;
mod document;
mod fields;
mod json;
mod label;
mod location;
mod mount_path;
mod node;
mod problem;
mod raw;
mod readyz;
mod sandbox;
mod scope;
mod settings;
#[cfg(test)]
mod tests;
mod validate;
mod volume;
mod yaml;

use serde::Serialize;

pub(crate) use container::{Container, User, Variable, VolumeMount};
pub(crate) use document::MAX_BYTES;
pub(crate) use label::Label;
pub(crate) use location::{Location, directory_of};
pub(crate) use mount_path::MountPath;
pub(crate) use problem::{Problem, TemplateError};
pub(crate) use readyz::{HttpGet, Readyz};
pub(crate) use sandbox::sandbox;
pub(crate) use scope::{Scope, SnapshotsConfig};
pub(crate) use settings::{MachineSettings, Platform, RuntimeSettings, SandboxClass, SandboxSettings};
pub(crate) use volume::{DurableDir, Volume};

use fields::Given;
use node::Node;
use problem::Problems;
use raw::RawTemplate;
use validate::Origin;

/// What actors are made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Template {
    /// Its volumes: at most 32, with unique names, each mounted at least once.
    pub(crate) volumes: Vec<Volume>,
    /// Its programs: 1 to 10, with unique names.
    pub(crate) containers: Vec<Container>,
    /// What runs them.
    pub(crate) sandbox: SandboxSettings,
    /// What is captured when, and where commits go.
    pub(crate) snapshots: SnapshotsConfig,
    /// How the actor is found to be ready, besides what its containers say. `None`: by them alone.
    pub(crate) readyz: Option<Readyz>,
}

/// The document of a template: its fields in the order in which they are written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    volumes: &'a [Volume],
    containers: &'a [Container],
    sandbox_class: SandboxClass,
    sandbox: &'a SandboxSettings,
    snapshots_config: &'a SnapshotsConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    readyz: Option<&'a Readyz>,
}

impl Template {
    /// Reads a document, YAML or JSON: a template, or an object of kind `ActorTemplate` with one as its `spec`.
    pub(crate) fn parse(document: &[u8]) -> Result<Template, TemplateError> {
        Template::parse_with_warnings(document).map(|(template, _)| template)
    }

    /// The same, with what is missing before an actor of it can be started here: an orchestrator's template names an image, and nothing of this host.
    pub(crate) fn parse_with_warnings(document: &[u8]) -> Result<(Template, Vec<Problem>), TemplateError> {
        let node = document::read(document).map_err(TemplateError::unreadable)?;
        let (template, warnings) = Template::of(&node, Origin::Author)?;
        if template.to_json().len() > MAX_BYTES {
            let message = format!(
                "with every default, as it is stored, the template is larger than {} MiB",
                MAX_BYTES >> 20
            );
            return Err(TemplateError::unreadable(message));
        }
        Ok((template, warnings))
    }

    /// Reads a canonical document that an actor was made of.
    pub(crate) fn parse_stored(document: &str) -> Result<Template, TemplateError> {
        Template::of(
            &json::read(document).map_err(|misread| TemplateError::unreadable(misread.message))?,
            Origin::Store,
        )
        .map(|(template, _)| template)
    }

    fn of(node: &Node, origin: Origin) -> Result<(Template, Vec<Problem>), TemplateError> {
        let problems = Problems::default();
        let template = match RawTemplate::read(node, &problems) {
            Given::Value(raw) => validate::validate(raw, origin, &problems),
            Given::Absent | Given::Wrong => None,
        };
        match (problems.finish(), template) {
            (Err(error), _) => Err(error),
            (Ok(warnings), Some(template)) => Ok((template, warnings)),
            (Ok(_), None) => Err(TemplateError::unreadable("is no template")),
        }
    }

    /// Returns the canonical document, on one line.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(&self.document()).expect("names and texts of a template are UTF-8")
    }

    /// Returns the canonical document as a value, for documents around it.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self.document()).expect("names and texts of a template are UTF-8")
    }

    /// Returns the class of sandboxes that its actors run in.
    pub(crate) fn sandbox_class(&self) -> SandboxClass {
        self.sandbox.runtime.class()
    }

    /// Returns every probe that must succeed before an actor is ready.
    pub(crate) fn probes(&self) -> impl Iterator<Item = &Readyz> {
        self.readyz.iter().chain(self.containers.iter().filter_map(|container| container.readyz.as_ref()))
    }

    fn document(&self) -> Document<'_> {
        Document {
            volumes: &self.volumes,
            containers: &self.containers,
            sandbox_class: self.sandbox_class(),
            sandbox: &self.sandbox,
            snapshots_config: &self.snapshots,
            readyz: self.readyz.as_ref(),
        }
    }
}

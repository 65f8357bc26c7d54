//! What a template asks for, as far as captures are concerned.

use durdir_fs::store::VolumeSpec;

use crate::template::{Scope, Template};

/// Separates these hashes from all others of the project.
const HASH_CONTEXT: &str = "durdir 2026-02 template of an actor";

/// What a template asks for.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// The volumes of the actor.
    pub(crate) volumes: Vec<RecipeVolume>,
    /// A family of runtimes: memory never crosses from one to another.
    pub(crate) sandbox_class: &'static str,
    /// The name of the runtime.
    pub(crate) runtime: &'static str,
    /// What a pause captures.
    pub(crate) on_pause: Scope,
    /// What a commit holds.
    pub(crate) on_commit: Scope,
    /// Where commits go: a URL.
    pub(crate) location: String,
    /// The BLAKE3 of the template.
    pub(crate) hash: String,
    /// Everything else.
    pub(crate) template: Template,
}

/// A volume of an actor.
#[derive(Clone, Debug)]
pub(crate) struct RecipeVolume {
    /// Its name in the template.
    pub(crate) name: String,
    /// What it is made with.
    pub(crate) spec: VolumeSpec,
}

impl Recipe {
    /// Reads a template as it is stored.
    pub(crate) fn parse(template: &str) -> Result<Recipe, String> {
        let parsed = Template::parse_stored(template).map_err(|problems| problems.to_string())?;
        Ok(Recipe::of(parsed))
    }

    /// Returns what a template asks for.
    pub(crate) fn of(template: Template) -> Recipe {
        let volumes = template.volumes.iter().map(|volume| RecipeVolume {
            name: volume.name.as_str().to_owned(),
            spec: VolumeSpec {
                lowers: volume.durable_dir.lowers.clone(),
                quota_bytes: volume.durable_dir.quota_bytes,
                quota_inodes: volume.durable_dir.quota_inodes,
            },
        });
        let mut hasher = blake3::Hasher::new_derive_key(HASH_CONTEXT);
        hasher.update(template.to_json().as_bytes());
        Recipe {
            volumes: volumes.collect(),
            sandbox_class: template.sandbox_class().name(),
            runtime: template.sandbox.runtime.name(),
            on_pause: template.snapshots.on_pause,
            on_commit: template.snapshots.on_commit,
            location: template.snapshots.location.as_str().to_owned(),
            hash: hasher.finalize().to_hex().to_string(),
            template,
        }
    }
}

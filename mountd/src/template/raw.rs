//! A template as it was written: of the right shape where it says anything, and otherwise unchecked.

use super::fields::{Fields, Given, Items};
use super::node::Node;
use super::problem::{Place, Problems};

/// What a document says. [`super::validate`] makes a template of it.
#[derive(Debug)]
pub(super) struct RawTemplate {
    pub(super) volumes: Given<Items<RawVolume>>,
    pub(super) containers: Given<Items<RawContainer>>,
    pub(super) sandbox_class: Given<String>,
    pub(super) sandbox: Given<RawSandbox>,
    pub(super) snapshots_config: Given<RawSnapshotsConfig>,
    pub(super) readyz: Given<RawReadyz>,
}

#[derive(Debug)]
pub(super) struct RawVolume {
    pub(super) name: Given<String>,
    pub(super) durable_dir: Given<RawDurableDir>,
}

#[derive(Debug)]
pub(super) struct RawDurableDir {
    pub(super) lowers: Given<Items<String>>,
    pub(super) quota_bytes: Given<u64>,
    pub(super) quota_inodes: Given<i128>,
}

#[derive(Debug)]
pub(super) struct RawContainer {
    pub(super) name: Given<String>,
    pub(super) image: Given<String>,
    pub(super) rootfs: Given<String>,
    pub(super) command: Given<Items<String>>,
    pub(super) args: Given<Items<String>>,
    pub(super) env: Given<Items<RawVariable>>,
    pub(super) working_dir: Given<String>,
    pub(super) user: Given<RawUser>,
    pub(super) volume_mounts: Given<Items<RawVolumeMount>>,
    pub(super) readyz: Given<RawReadyz>,
}

#[derive(Debug)]
pub(super) struct RawVariable {
    pub(super) name: Given<String>,
    pub(super) value: Given<String>,
}

#[derive(Debug)]
pub(super) struct RawUser {
    pub(super) uid: Given<i128>,
    pub(super) gid: Given<i128>,
}

#[derive(Debug)]
pub(super) struct RawVolumeMount {
    pub(super) name: Given<String>,
    pub(super) mount_path: Given<String>,
}

#[derive(Debug)]
pub(super) struct RawSnapshotsConfig {
    pub(super) location: Given<String>,
    pub(super) on_pause: Given<String>,
    pub(super) on_commit: Given<String>,
    pub(super) from_data: Given<String>,
}

#[derive(Debug)]
pub(super) struct RawReadyz {
    pub(super) http_get: Given<RawHttpGet>,
    pub(super) timeout_seconds: Given<i128>,
    pub(super) try_timeout_milliseconds: Given<i128>,
    pub(super) interval_microseconds: Given<i128>,
}

#[derive(Debug)]
pub(super) struct RawHttpGet {
    pub(super) path: Given<String>,
    pub(super) port: Given<i128>,
}

#[derive(Debug, Default)]
pub(super) struct RawSandbox {
    pub(super) runtime: Given<String>,
    pub(super) network: Given<String>,
    pub(super) platform: Given<String>,
    pub(super) runtime_flags: Given<Items<String>>,
    pub(super) memory: Given<u64>,
    pub(super) cpus: Given<i128>,
    pub(super) kernel: Given<String>,
    pub(super) initramfs: Given<String>,
    pub(super) kernel_arguments: Given<String>,
    pub(super) accelerator: Given<String>,
}

impl RawTemplate {
    /// Reads a document: a template, or an object of kind `ActorTemplate` around one.
    pub(super) fn read(document: &Node, problems: &Problems) -> Given<RawTemplate> {
        let is_object = matches!(document, Node::Mapping(entries)
            if entries.iter().any(|(key, _)| ["apiVersion", "kind", "spec"].contains(&key.as_str())));
        if !is_object {
            return Fields::read(document, Place::root(), problems, RawTemplate::fields);
        }
        let object = Fields::read(document, Place::root(), problems, |fields| {
            fields.text("apiVersion");
            let kind = fields.text("kind").required(&fields.place().field("kind"), problems);
            if let Some(kind) = kind.filter(|kind| kind != "ActorTemplate") {
                problems
                    .report(&fields.place().field("kind"), format!("must be ActorTemplate, not {kind:?}"));
            }
            // What an orchestrator keeps about it, and what became of it, are no part of the template.
            fields.skip("metadata");
            fields.skip("status");
            fields.skip("spec");
        });
        let spec = match document {
            Node::Mapping(entries) => entries.iter().find(|(key, _)| key == "spec").map(|(_, spec)| spec),
            _ => None,
        };
        match (object, spec) {
            (Given::Value(()), Some(spec)) => {
                Fields::read(spec, Place::root(), problems, RawTemplate::fields)
            }
            (Given::Value(()), None) => {
                problems.report(&Place::root().field("spec"), "is required");
                Given::Wrong
            }
            (Given::Absent | Given::Wrong, _) => Given::Wrong,
        }
    }

    fn fields(fields: &mut Fields<'_>) -> RawTemplate {
        RawTemplate {
            volumes: fields.mappings("volumes", RawVolume::fields),
            containers: fields.mappings("containers", RawContainer::fields),
            sandbox_class: fields.text("sandboxClass"),
            sandbox: fields.mapping("sandbox", RawSandbox::fields),
            snapshots_config: fields.mapping("snapshotsConfig", RawSnapshotsConfig::fields),
            readyz: fields.mapping("readyz", RawReadyz::fields),
        }
    }
}

impl RawVolume {
    fn fields(fields: &mut Fields<'_>) -> RawVolume {
        let volume = RawVolume {
            name: fields.text("name"),
            durable_dir: fields.choice("durableDir", |fields| RawDurableDir {
                lowers: fields.texts("lowers"),
                quota_bytes: fields.size("quotaBytes"),
                quota_inodes: fields.integer("quotaInodes"),
            }),
        };
        let is_external = fields.has("externalVolumeTemplate");
        fields.refuse("externalVolumeTemplate", "is not supported: durableDir is the only source");
        match (volume.durable_dir.is_given(), is_external) {
            (true, false) => {}
            (true, true) => fields.complain("exactly one source is allowed, and there are 2"),
            (false, true) => {}
            (false, false) => fields.complain("exactly one source is needed: durableDir: {}"),
        }
        volume
    }
}

impl RawContainer {
    fn fields(fields: &mut Fields<'_>) -> RawContainer {
        RawContainer {
            name: fields.text("name"),
            image: fields.text("image"),
            rootfs: fields.text("rootfs"),
            command: fields.texts("command"),
            args: fields.texts("args"),
            env: fields.mappings("env", |fields| RawVariable {
                name: fields.text("name"),
                value: fields.text("value"),
            }),
            working_dir: fields.text("workingDir"),
            user: fields
                .mapping("user", |fields| RawUser { uid: fields.integer("uid"), gid: fields.integer("gid") }),
            volume_mounts: fields.mappings("volumeMounts", |fields| RawVolumeMount {
                name: fields.text("name"),
                mount_path: fields.text("mountPath"),
            }),
            readyz: fields.mapping("readyz", RawReadyz::fields),
        }
    }
}

impl RawSnapshotsConfig {
    fn fields(fields: &mut Fields<'_>) -> RawSnapshotsConfig {
        RawSnapshotsConfig {
            location: fields.text("location"),
            on_pause: fields.text("onPause"),
            on_commit: fields.text("onCommit"),
            from_data: match fields.mapping("onResume", |fields| fields.text("fromData")) {
                Given::Value(from_data) => from_data,
                Given::Absent => Given::Absent,
                Given::Wrong => Given::Wrong,
            },
        }
    }
}

impl RawReadyz {
    fn fields(fields: &mut Fields<'_>) -> RawReadyz {
        RawReadyz {
            http_get: fields.mapping("httpGet", |fields| RawHttpGet {
                path: fields.text("path"),
                port: fields.integer("port"),
            }),
            timeout_seconds: fields.integer("timeoutSeconds"),
            try_timeout_milliseconds: fields.integer("tryTimeoutMilliseconds"),
            interval_microseconds: fields.integer("intervalMicroseconds"),
        }
    }
}

impl RawSandbox {
    fn fields(fields: &mut Fields<'_>) -> RawSandbox {
        RawSandbox {
            runtime: fields.text("runtime"),
            network: fields.text("network"),
            platform: fields.text("platform"),
            runtime_flags: fields.texts("runtimeFlags"),
            memory: fields.size("memory"),
            cpus: fields.integer("cpus"),
            kernel: fields.text("kernel"),
            initramfs: fields.text("initramfs"),
            kernel_arguments: fields.text("kernelArguments"),
            accelerator: fields.text("accelerator"),
        }
    }
}

//! What is captured, and when an actor is ready.

use super::*;

/// As an orchestrator has them: an image, and nothing of this host.
#[test]
fn what_is_only_needed_for_a_start_is_warned_of() {
    let bare = |class: &str| {
        json!({
            "volumes": [{"name": "home", "durableDir": {}}],
            "containers": [{"name": "main", "volumeMounts": [{"name": "home", "mountPath": "/home"}]}],
            "sandboxClass": class,
            "snapshotsConfig": {"location": "file:///c", "onPause": "Data", "onCommit": "Data"},
        })
    };
    let of_root = [
        ("containers[0].rootfs", "is needed to start it"),
        ("containers[0].command", "is needed to start it"),
    ];
    let of_machine = [
        ("sandbox.initramfs", "is needed to start it in qemu"),
        ("sandbox.kernel", "is needed to start it in qemu"),
        ("containers[0].command", "is needed to start it"),
    ];
    let expected: [(&str, &[(&str, &str)]); 3] =
        [("gvisor", &of_root), ("process", &of_root), ("microvm", &of_machine)];
    for (class, expected) in expected {
        let document = bare(class).to_string();
        let (template, warnings) = Template::parse_with_warnings(document.as_bytes()).unwrap();
        assert_eq!(warnings.len(), expected.len(), "{class}: {warnings:?}");
        for (warning, (path, message)) in warnings.iter().zip(expected) {
            assert!(warning.path == *path && warning.message.contains(message), "{class}: {warning}");
        }
        assert_eq!(Template::parse_stored(&template.to_json()).unwrap(), template, "{class}");
    }
    assert_eq!(Template::parse_with_warnings(usual().to_string().as_bytes()).unwrap().1, []);
}

#[test]
fn a_container_says_what_it_runs() {
    let container = |field: &str, value: Value| with(usual(), &[(&format!("/containers/0/{field}"), value)]);
    accepted(&with(usual(), &[("/containers/0/command", json!([])), ("/containers/0/args", json!(["x"]))]));
    accepted(&container("image", json!("registry/agent@sha256:00")));
    accepted(&container("env", json!([{"name": "A B", "value": "x=y\nz"}, {"name": "~", "value": ""}])));
    let place = |field: &str| format!("containers[0].{field}");
    for (field, value, at, message) in [
        ("command", json!(["a\0b"]), "command[0]", "NUL"),
        ("args", json!(["", "\0"]), "args[1]", "NUL"),
        ("image", json!("agent:latest"), "image", "pinned by its digest"),
        ("rootfs", json!("images"), "rootfs", "must be an absolute path"),
        ("rootfs", json!(format!("/{}", "x".repeat(4095))), "rootfs", "at most 4095 bytes"),
        ("workingDir", json!("home"), "workingDir", "must be an absolute path"),
        ("env", json!([{"name": "", "value": ""}]), "env[0].name", "printable ASCII"),
        ("env", json!([{"name": "A=B", "value": ""}]), "env[0].name", "without '='"),
        ("env", json!([{"name": "ä", "value": ""}]), "env[0].name", "printable ASCII"),
        ("env", json!([{"name": "A"}]), "env[0].value", "is required"),
        ("env", json!([{"name": "A", "value": "\0"}]), "env[0].value", "NUL"),
        ("user", json!({"gid": 1}), "user.uid", "is required"),
        ("user", json!({"uid": -1}), "user.uid", "must be 0 to 4294967294, not -1"),
        ("user", json!({"uid": 1, "gid": 4_294_967_295_u32}), "user.gid", "must be 0 to 4294967294"),
    ] {
        refused(&container(field, value), &[(&place(at), message)]);
    }
    let user = accepted(&container("user", json!({"uid": 1000}))).containers[0].user;
    assert_eq!(user, User { uid: 1000, gid: 1000 }, "the group is that of the user's number");
}

// Captures.

#[test]
fn scopes_default_to_full_and_commits_are_subsets() {
    let scopes = |pause: Option<&str>, commit: Option<&str>| {
        let mut document = usual();
        for (field, scope) in [("onPause", pause), ("onCommit", commit)] {
            if let Some(scope) = scope {
                set(&mut document, &format!("/snapshotsConfig/{field}"), json!(scope));
            }
        }
        document
    };
    for (pause, commit, is) in [
        (None, None, (Scope::Full, Scope::Full)),
        (None, Some("Full"), (Scope::Full, Scope::Full)),
        (None, Some("Data"), (Scope::Full, Scope::Data)),
        (None, Some("None"), (Scope::Full, Scope::None)),
        (Some("Full"), None, (Scope::Full, Scope::Full)),
        (Some("Data"), Some("Data"), (Scope::Data, Scope::Data)),
        (Some("Data"), Some("None"), (Scope::Data, Scope::None)),
        (Some("None"), Some("None"), (Scope::None, Scope::None)),
    ] {
        let snapshots = accepted(&scopes(pause, commit)).snapshots;
        assert_eq!((snapshots.on_pause, snapshots.on_commit), is, "{pause:?} {commit:?}");
    }
    // A commit that is not given counts as Full.
    for (pause, commit) in [
        (Some("Data"), None),
        (Some("None"), None),
        (Some("Data"), Some("Full")),
        (Some("None"), Some("Full")),
        (Some("None"), Some("Data")),
    ] {
        refused(
            &scopes(pause, commit),
            &[("snapshotsConfig.onCommit", "onCommit must be a subset of onPause")],
        );
    }
    for unknown in ["full", "", "Memory", "DATA_ON_GOLDEN"] {
        refused(
            &scopes(Some(unknown), None),
            &[("snapshotsConfig.onPause", &format!("must be Full, Data or None, not {unknown:?}"))],
        );
        refused(
            &scopes(None, Some(unknown)),
            &[("snapshotsConfig.onCommit", &format!("must be Full, Data or None, not {unknown:?}"))],
        );
    }
}

#[test]
fn data_needs_volumes() {
    refused(
        &with(smallest(), &[("/snapshotsConfig/onCommit", json!("Data"))]),
        &[("snapshotsConfig.onCommit", "Data captures the volumes, and this template has none")],
    );
    accepted(&with(smallest(), &[("/snapshotsConfig/onCommit", json!("None"))]));
}

#[test]
fn snapshots_config_and_its_location_are_required() {
    let mut document = usual();
    remove(&mut document, "/snapshotsConfig");
    refused(&document, &[("snapshotsConfig", "is required")]);
    let location = |url: &str| with(usual(), &[("/snapshotsConfig/location", json!(url))]);
    accepted(&location("s3://bucket/prefix"));
    refused(&location(""), &[("snapshotsConfig.location", "must not be empty")]);
    refused(&location("ftp://x"), &[("snapshotsConfig.location", "must be file:///DIRECTORY, s3://")]);
}

#[test]
fn actors_that_resume_from_data_start_cold() {
    let from = |source: &str| with(usual(), &[("/snapshotsConfig/onResume", json!({"fromData": source}))]);
    accepted(&from("ColdBoot"));
    refused(&from("Golden"), &[("snapshotsConfig.onResume.fromData", "must be ColdBoot, not \"Golden\"")]);
}

#[test]
fn probes_have_ports_and_limits() {
    let readyz = |value: Value| with(usual(), &[("/containers/0/readyz", value)]);
    for port in [1, 65535] {
        let template = accepted(&readyz(json!({"httpGet": {"port": port}})));
        assert_eq!(template.probes().count(), 1);
    }
    let place = "containers[0].readyz";
    for (value, at, message) in [
        (json!({}), ".httpGet", "is required"),
        (json!({"httpGet": {}}), ".httpGet.port", "is required"),
        (json!({"httpGet": {"port": 0}}), ".httpGet.port", "must be 1 to 65535, not 0"),
        (json!({"httpGet": {"port": 65536}}), ".httpGet.port", "must be 1 to 65535, not 65536"),
        (json!({"httpGet": {"port": -1}}), ".httpGet.port", "must be 1 to 65535, not -1"),
        (json!({"httpGet": {"port": 80, "path": ""}}), ".httpGet.path", "must start with '/'"),
        (json!({"httpGet": {"port": 80, "path": "/a?b"}}), ".httpGet.path", "as in a URL"),
        (
            json!({"httpGet": {"port": 80}, "timeoutSeconds": 0}),
            ".timeoutSeconds",
            "must be 1 to 3600, not 0",
        ),
        (json!({"httpGet": {"port": 80}, "timeoutSeconds": 3601}), ".timeoutSeconds", "must be 1 to 3600"),
        (
            json!({"httpGet": {"port": 80}, "tryTimeoutMilliseconds": 0}),
            ".tryTimeoutMilliseconds",
            "must be 1 to 60000",
        ),
        (
            json!({"httpGet": {"port": 80}, "intervalMicroseconds": 99}),
            ".intervalMicroseconds",
            "must be 100 to 1000000",
        ),
    ] {
        refused(&readyz(value), &[(&format!("{place}{at}"), message)]);
    }
    let both = with(readyz(json!({"httpGet": {"port": 1}})), &[("/readyz", json!({"httpGet": {"port": 2}}))]);
    let ports: Vec<u16> = accepted(&both).probes().map(|probe| probe.http_get.port).collect();
    assert_eq!(ports, [2, 1]);
}

// Sandboxes.

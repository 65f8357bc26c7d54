//! Documents: what is read, what is refused, and what becomes of it.

use super::*;

#[test]
fn every_default_is_written_into_the_canonical_document() {
    let expected = json!({
        "volumes": [],
        "containers": [{
            "name": "main", "rootfs": "/images/agent", "command": ["/bin/agent"], "args": [], "env": [],
            "workingDir": "/", "user": {"uid": 0, "gid": 0}, "volumeMounts": [],
        }],
        "sandboxClass": "gvisor",
        "sandbox": {"runtime": "gvisor", "platform": "systrap", "runtimeFlags": [], "network": "none"},
        "snapshotsConfig": {"location": "file:///commits", "onPause": "Full", "onCommit": "Full"},
    });
    assert_eq!(accepted(&smallest()).to_value(), expected);

    let probed = with(
        microvm(),
        &[
            ("/readyz", json!({"httpGet": {"port": 80}})),
            ("/sandbox/cpus", Value::Null),
            ("/volumes/0/durableDir/quotaBytes", json!("1Gi")),
        ],
    );
    let template = accepted(&probed).to_value();
    assert_eq!(
        template["readyz"],
        json!({
            "httpGet": {"path": "/readyz", "port": 80}, "timeoutSeconds": 30, "tryTimeoutMilliseconds": 250,
            "intervalMicroseconds": 500,
        })
    );
    assert_eq!(
        template["sandbox"],
        json!({
            "runtime": "qemu", "memory": 536_870_912, "cpus": 1, "kernel": "/boot/vmlinuz", "initramfs": "/boot/initramfs",
            "kernelArguments": "", "accelerator": "auto", "runtimeFlags": [], "network": "none",
        })
    );
    assert_eq!(template["volumes"][0]["durableDir"], json!({"lowers": [], "quotaBytes": 1 << 30}));

    let template = accepted(&process()).to_value();
    assert_eq!(template["sandbox"], json!({"runtime": "process", "network": "none"}));
    assert_eq!(
        template["snapshotsConfig"],
        json!({"location": "file:///commits", "onPause": "Data", "onCommit": "Data"})
    );
}

#[test]
fn yaml_json_and_the_orchestrators_object_mean_the_same() {
    let yaml = "
volumes:
- name: home
  durableDir: {}
- {name: work, durableDir: {}}
containers:
- name: main
  rootfs: /images/agent
  command: [/bin/agent]
  volumeMounts:
  - {name: home, mountPath: /home/agent}
  - {name: work, mountPath: /work}
snapshotsConfig: {location: 'file:///commits'}
";
    let template = accepted(&usual());
    assert_eq!(Template::parse(yaml.as_bytes()), Ok(template.clone()));
    let object = json!({
        "apiVersion": "v1alpha1", "kind": "ActorTemplate", "metadata": {"name": "x", "labels": {"a": "b"}},
        "spec": usual(), "status": {"phase": "Ready"},
    });
    assert_eq!(accepted(&object), template);
    assert_eq!(Template::parse(template.to_json().as_bytes()), Ok(template));
}

/// A document whose canonical form is larger than it is by `quotes` bytes: JSON escapes what YAML does not.
fn growing(quotes: usize) -> String {
    format!(
        "containers: [{{name: main, rootfs: /r, command: [x, '{}']}}]\nsnapshotsConfig: {{location: 'file:///c'}}\n",
        "\"".repeat(quotes)
    )
}

#[test]
fn a_template_that_is_too_large_with_its_defaults_is_refused() {
    let largest = Template::parse(growing(520_000).as_bytes()).unwrap();
    assert_eq!(Template::parse(largest.to_json().as_bytes()), Ok(largest));
    let document = growing(530_000);
    assert!(document.len() < MAX_BYTES);
    refused_text(
        &document,
        &[("", "with every default, as it is stored, the template is larger than 1 MiB")],
    );
}

#[test]
fn a_stored_template_is_read_whatever_is_refused_by_now() {
    let no_runtime_runs = [
        with(microvm(), &[("/containers/0/rootfs", json!("/r")), ("/sandbox/initramfs", Value::Null)]),
        of_class("gvisor", json!({"network": "host"})),
    ];
    for document in no_runtime_runs {
        assert!(!problems(document.to_string().as_bytes()).is_empty(), "{document}");
        let template = Template::parse_stored(&document.to_string()).unwrap();
        assert_eq!(Template::parse_stored(&template.to_json()), Ok(template));
    }
    let yaml = growing(530_000);
    let large = Template::of(&yaml::read(&yaml).unwrap(), Origin::Author).unwrap().0;
    assert_eq!(Template::parse_stored(&large.to_json()), Ok(large));
    assert!(Template::parse_stored("{}").is_err());
}

#[test]
fn other_objects_are_refused() {
    refused(&json!({"kind": "Pod", "spec": usual()}), &[("kind", "must be ActorTemplate, not \"Pod\"")]);
    refused(&json!({"spec": usual()}), &[("kind", "is required")]);
    refused(&json!({"kind": "ActorTemplate"}), &[("spec", "is required")]);
    refused(
        &json!({"kind": "ActorTemplate", "data": 1, "spec": 7}),
        &[("data", "is unknown; known here: apiVersion, kind"), ("", "must be a mapping, not a number")],
    );
    // Paths are those of the template.
    let mut spec = usual();
    remove(&mut spec, "/containers/0/name");
    refused(&json!({"kind": "ActorTemplate", "spec": spec}), &[("containers[0].name", "is required")]);
}

#[test]
fn what_is_no_mapping_is_refused() {
    for (document, message) in [
        ("", "the document is empty"),
        ("- a", "must be a mapping, not a list"),
        ("text", "must be a mapping, not text"),
        ("7", "must be a mapping, not a number"),
        ("null", "must be a mapping, not nothing"),
        ("{\"volumes\": [}", "line 1 column"),
        ("volumes: [", "line"),
        ("{a: !!str x}", "tags are not supported at line 1 column"),
        ("{a: [b}", "mismatched bracket '[' closed by '}' at line 1 column 5"),
        ("{\"a\": [1, 2", "EOF while parsing a list at line 1 column 11"),
        ("{\"a\": @}", "expected value at line 1 column 7"),
    ] {
        refused_text(document, &[("", message)]);
    }
}

#[test]
fn unknown_and_repeated_fields_are_refused_with_their_path() {
    let document = with(
        usual(),
        &[
            ("/volume", json!([])),
            ("/volumes/0/emptyDir", json!({})),
            ("/volumes/0/durableDir/size", json!(1)),
            ("/containers/0/workDir", json!("/")),
            ("/containers/0/volumeMounts/1/subPath", json!("x")),
            ("/snapshotsConfig/on.pause", json!("Full")),
            ("/sandbox", json!({"gpu": 1})),
            ("/readyz", json!({"httpGet": {"port": 1, "host": "x"}, "tcp": 1})),
        ],
    );
    refused(
        &document,
        &[
            (
                "volume",
                "is unknown; known here: volumes, containers, sandboxClass, sandbox, snapshotsConfig, readyz",
            ),
            ("volumes[0].emptyDir", "is unknown; known here: name, durableDir"),
            ("volumes[0].durableDir.size", "is unknown"),
            ("containers[0].workDir", "is unknown"),
            ("containers[0].volumeMounts[1].subPath", "is unknown; known here: name, mountPath"),
            ("snapshotsConfig[\"on.pause\"]", "is unknown"),
            ("sandbox.gpu", "is unknown"),
            ("readyz.httpGet.host", "is unknown; known here: path, port"),
            ("readyz.tcp", "is unknown"),
        ],
    );
    let twice = usual().to_string().replacen("\"name\":\"main\"", "\"name\":\"main\",\"name\":\"other\"", 1);
    refused_text(&twice, &[("containers[0].name", "is given twice")]);
    refused_text(
        "containers: []\ncontainers: []\nsnapshotsConfig: {location: 's3://b'}",
        &[("containers", "is given twice"), ("containers", "at least one")],
    );
}

#[test]
fn types_are_not_guessed() {
    let document = with(
        usual(),
        &[
            ("/containers/0/name", json!(7)),
            ("/containers/0/command", json!("/bin/agent")),
            ("/containers/0/args", json!(["-v", 8080, true, null])),
            ("/containers/0/env", json!({"A": "b"})),
            ("/containers/0/user", json!(1000)),
            ("/volumes/1", json!("work")),
            ("/snapshotsConfig/location", json!(1.5)),
            ("/sandbox", json!([])),
            ("/readyz", json!({"httpGet": {"port": "80"}})),
        ],
    );
    refused(
        &document,
        &[
            ("containers[0].name", "must be text, not a number: quote it"),
            ("containers[0].command", "must be a list, not text"),
            ("containers[0].args[1]", "must be text, not a number: quote it"),
            ("containers[0].args[2]", "must be text, not true or false: quote it"),
            ("containers[0].args[3]", "must be text, not nothing"),
            ("containers[0].env", "must be a list, not a mapping"),
            ("containers[0].user", "must be a mapping, not a number"),
            ("volumes[1]", "must be a mapping, not text"),
            ("snapshotsConfig.location", "must be text, not a number: quote it"),
            ("sandbox", "must be a mapping, not a list"),
            ("readyz.httpGet.port", "must be a number without a fraction, not text"),
        ],
    );
}

#[test]
fn a_number_that_does_not_fit_is_shown() {
    let large = "9".repeat(60);
    for (number, message) in [
        ("1.5", "must be a number without fraction and exponent, not 1.5"),
        ("1e3", "must be a number without fraction and exponent, not 1e3"),
        (".nan", "must be a number without fraction and exponent, not .nan"),
        (&large, &format!("{}… is too large a number", &large[..40])),
    ] {
        let yaml = format!(
            "containers: [{{name: main, rootfs: /r, command: [x], readyz: {{httpGet: {{port: {number}}}}}}}]\n\
             snapshotsConfig: {{location: 'file:///c'}}\n"
        );
        refused_text(&yaml, &[("containers[0].readyz.httpGet.port", message)]);
    }
    let port = |number: &str| {
        let document = with(usual(), &[("/readyz", json!({"httpGet": {"port": 7}}))]).to_string();
        document.replacen("\"port\":7", &format!("\"port\":{number}"), 1)
    };
    refused_text(&port("1e3"), &[("readyz.httpGet.port", "without fraction and exponent, not 1000.0")]);
    refused_text(&port("18446744073709551616"), &[("readyz.httpGet.port", "is too large a number")]);
    let cpus = with(microvm(), &[("/sandbox/cpus", json!(1.5)), ("/sandbox/memory", json!(0.5))]);
    refused(
        &cpus,
        &[
            ("sandbox.cpus", "must be a number without fraction and exponent, not 1.5"),
            ("sandbox.memory", "must be a size, such as 512MiB or 536870912, not 0.5"),
        ],
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let document = json!({
        "volumes": [{"name": "Home", "durableDir": {}}, {"name": "idle", "durableDir": {}}, {"durableDir": null}],
        "containers": [{
            "name": "main",
            "volumeMounts": [{"name": "Home", "mountPath": "home//x/"}],
        }],
        "sandboxClass": "gvisr",
        "snapshotsConfig": {"onPause": "Data", "onCommit": "Full"},
        "readyz": {"httpGet": {"path": "x", "port": 0}},
    });
    refused(
        &document,
        &[
            ("volumes[0].name", "DNS label"),
            ("volumes[1]", "must be mounted by at least one container"),
            ("volumes[2].name", "is required"),
            ("volumes[2].durableDir", "write durableDir: {}"),
            ("containers[0].volumeMounts[0].mountPath", "must start with '/'"),
            ("containers[0].volumeMounts[0].mountPath", "must not end with '/'"),
            ("containers[0].volumeMounts[0].mountPath", "must not contain '//'"),
            ("sandboxClass", "must be gvisor, microvm or process, not \"gvisr\""),
            ("snapshotsConfig.location", "is required"),
            ("snapshotsConfig.onCommit", "onCommit must be a subset of onPause"),
            ("readyz.httpGet.path", "must start with '/'"),
            ("readyz.httpGet.port", "must be 1 to 65535, not 0"),
        ],
    );
}

// Volumes and mounts.

//! The rules of templates, each with its edges.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::runtime;

/// A valid template that says as little as it can.
fn smallest() -> Value {
    json!({
        "containers": [{"name": "main", "rootfs": "/images/agent", "command": ["/bin/agent"]}],
        "snapshotsConfig": {"location": "file:///commits"},
    })
}

/// A valid template with two volumes.
fn usual() -> Value {
    json!({
        "volumes": [{"name": "home", "durableDir": {}}, {"name": "work", "durableDir": {}}],
        "containers": [{
            "name": "main",
            "rootfs": "/images/agent",
            "command": ["/bin/agent"],
            "volumeMounts": [
                {"name": "home", "mountPath": "/home/agent"},
                {"name": "work", "mountPath": "/work"},
            ],
        }],
        "snapshotsConfig": {"location": "file:///commits"},
    })
}

/// A template of the class without memory captures.
fn process() -> Value {
    let mut document = usual();
    set(&mut document, "/sandboxClass", json!("process"));
    document
}

/// A template of a virtual machine.
fn microvm() -> Value {
    let mut document = usual();
    remove(&mut document, "/containers/0/rootfs");
    set(&mut document, "/sandboxClass", json!("microvm"));
    set(&mut document, "/sandbox", json!({"kernel": "/boot/vmlinuz", "initramfs": "/boot/initramfs"}));
    document
}

/// Sets what a JSON pointer names, in an object or at the end of a list if it is not there.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Object(object) => drop(object.insert(last.to_owned(), value)),
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => list[last.parse::<usize>().unwrap()] = value,
        other => panic!("{pointer} in {other}"),
    }
}

fn remove(document: &mut Value, pointer: &str) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(last).unwrap();
}

fn with(mut document: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        set(&mut document, pointer, value.clone());
    }
    document
}

#[track_caller]
fn accepted(document: &Value) -> Template {
    Template::parse(document.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}: {document}"))
}

fn problems(document: &[u8]) -> Vec<(String, String)> {
    let Err(error) = Template::parse(document) else { return Vec::new() };
    error.problems.into_iter().map(|problem| (problem.path, problem.message)).collect()
}

/// Asserts that exactly these problems are found, in any order: their paths, and a part of their messages.
#[track_caller]
fn refused(document: &Value, expected: &[(&str, &str)]) {
    refused_text(&document.to_string(), expected);
}

#[track_caller]
fn refused_text(document: &str, expected: &[(&str, &str)]) {
    let mut found = problems(document.as_bytes());
    for (path, message) in expected {
        let at = found.iter().position(|(at, text)| at == path && text.contains(message));
        let Some(at) = at else { panic!("{path}: {message} is not in {found:?} of {document}") };
        found.remove(at);
    }
    assert!(found.is_empty(), "{found:?} of {document}");
}

fn labels(count: usize, prefix: &str) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

// Documents.

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

#[test]
fn names_are_dns_labels() {
    for length in [1, 63] {
        let name = "x".repeat(length);
        accepted(&with(
            usual(),
            &[("/volumes/0/name", json!(name)), ("/containers/0/volumeMounts/0/name", json!(name))],
        ));
        accepted(&with(usual(), &[("/containers/0/name", json!(name))]));
    }
    for name in ["x".repeat(64), "Home".to_owned(), "a_b".to_owned(), String::new()] {
        refused(
            &with(
                usual(),
                &[("/volumes/0/name", json!(name)), ("/containers/0/volumeMounts/0/name", json!(name))],
            ),
            &[("volumes[0].name", "must be a DNS label: 1 to 63")],
        );
        refused(
            &with(usual(), &[("/containers/0/name", json!(name))]),
            &[("containers[0].name", "must be a DNS label")],
        );
    }
}

#[test]
fn a_volume_has_exactly_one_source() {
    let mut none = usual();
    remove(&mut none, "/volumes/0/durableDir");
    refused(&none, &[("volumes[0]", "exactly one source is needed: durableDir: {}")]);
    let external = with(none, &[("/volumes/0/externalVolumeTemplate", json!({}))]);
    refused(&external, &[("volumes[0].externalVolumeTemplate", "durableDir is the only source")]);
    let two = with(external, &[("/volumes/0/durableDir", json!({}))]);
    refused(
        &two,
        &[
            ("volumes[0].externalVolumeTemplate", "durableDir is the only source"),
            ("volumes[0]", "exactly one source is allowed, and there are 2"),
        ],
    );
    refused_text(
        &usual().to_string().replacen("\"durableDir\":{}", "\"durableDir\":null", 1),
        &[("volumes[0].durableDir", "must be a mapping: write durableDir: {}")],
    );
}

#[test]
fn names_are_unique() {
    let document = with(
        usual(),
        &[
            ("/volumes/-", json!({"name": "home", "durableDir": {}})),
            ("/containers/-", json!({"name": "main", "rootfs": "/r", "command": ["x"]})),
            ("/containers/0/env", json!([{"name": "A", "value": ""}, {"name": "A", "value": "b"}])),
        ],
    );
    refused(
        &document,
        &[
            ("volumes[2].name", "is the same as volumes[0].name"),
            ("containers[1].name", "is the same as containers[0].name"),
            ("containers[0].env[1].name", "is the same as containers[0].env[0].name"),
        ],
    );
}

#[test]
fn mounts_and_volumes_belong_together() {
    refused(
        &with(usual(), &[("/containers/0/volumeMounts/1/name", json!("other"))]),
        &[
            ("containers[0].volumeMounts[1].name", "\"other\" is the name of no volume of this template"),
            ("volumes[1]", "must be mounted by at least one container"),
        ],
    );
    let mut unmounted = usual();
    remove(&mut unmounted, "/containers/0/volumeMounts");
    refused(
        &unmounted,
        &[
            ("volumes[0]", "must be mounted by at least one container"),
            ("volumes[1]", "must be mounted by at least one container"),
        ],
    );
    let mut undeclared = usual();
    remove(&mut undeclared, "/volumes");
    refused(
        &undeclared,
        &[
            ("containers[0].volumeMounts[0].name", "no volume"),
            ("containers[0].volumeMounts[1].name", "no volume"),
        ],
    );
    // What cannot be read may be what is missing: no guesses.
    refused(&with(usual(), &[("/volumes/1/name", json!(7))]), &[("volumes[1].name", "must be text")]);
    refused(
        &with(usual(), &[("/containers/0/volumeMounts/1/name", json!(7))]),
        &[("containers[0].volumeMounts[1].name", "must be text")],
    );
    refused(&with(usual(), &[("/volumes", json!(7))]), &[("volumes", "must be a list")]);
}

#[test]
fn one_volume_may_be_in_several_containers_and_one_container_may_have_several() {
    let second = json!({
        "name": "second", "rootfs": "/r", "command": ["x"],
        "volumeMounts": [{"name": "home", "mountPath": "/elsewhere"}, {"name": "work", "mountPath": "/home/agent"}],
    });
    let template = accepted(&with(usual(), &[("/containers/-", second)]));
    assert_eq!(template.containers[1].volume_mounts[0].mount_path.as_path(), Path::new("/elsewhere"));
}

#[test]
fn mount_paths_of_a_container_are_apart() {
    let paths = |first: &str, second: &str| {
        with(
            usual(),
            &[
                ("/containers/0/volumeMounts/0/mountPath", json!(first)),
                ("/containers/0/volumeMounts/1/mountPath", json!(second)),
            ],
        )
    };
    for (first, second) in [("/a", "/ab"), ("/a", "/a b"), ("/x/y", "/x/z"), ("/a", "/b/a"), ("/a", "/a.b")] {
        accepted(&paths(first, second));
    }
    refused(
        &paths("/a", "/a"),
        &[(
            "containers[0].volumeMounts[1].mountPath",
            "is the same as containers[0].volumeMounts[0].mountPath",
        )],
    );
    refused(
        &paths("/a", "/a/b/c"),
        &[(
            "containers[0].volumeMounts[1].mountPath",
            "must not lie inside of volumeMounts[0].mountPath, /a",
        )],
    );
    refused(
        &paths("/a/b", "/a"),
        &[(
            "containers[0].volumeMounts[0].mountPath",
            "must not lie inside of volumeMounts[1].mountPath, /a",
        )],
    );
}

#[test]
fn mount_paths_follow_the_rules() {
    let path = |path: &str| with(usual(), &[("/containers/0/volumeMounts/0/mountPath", json!(path))]);
    for legal in
        ["/home/.config", "/x/..config", "/x..y", "/my home directory", &format!("/{}", "x".repeat(4095))]
    {
        accepted(&path(legal));
    }
    let place = "containers[0].volumeMounts[0].mountPath";
    refused(&path("/a/../b"), &[(place, "'.' or '..'")]);
    refused(&path("/a:b"), &[(place, "':'")]);
    refused(&path("/a\u{7f}"), &[(place, "control characters")]);
    refused(&path(&"/x".repeat(2049)), &[(place, "must be 2 to 4096 bytes long, not 4098")]);
}

#[test]
fn lists_have_limits() {
    let many = |volumes: usize| {
        let names = labels(volumes, "v");
        let declared: Vec<Value> = names.iter().map(|name| json!({"name": name, "durableDir": {}})).collect();
        let mounts: Vec<Value> =
            names.iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")})).collect();
        with(usual(), &[("/volumes", json!(declared)), ("/containers/0/volumeMounts", json!(mounts))])
    };
    accepted(&many(32));
    refused(
        &many(33),
        &[
            ("volumes", "at most 32 are allowed, and there are 33"),
            ("containers[0].volumeMounts", "at most 32 are allowed, and there are 33"),
        ],
    );
    let containers = |count: usize| {
        let all: Vec<Value> = labels(count, "c")
            .iter()
            .map(|name| json!({"name": name, "rootfs": "/r", "command": ["x"]}))
            .collect();
        with(smallest(), &[("/containers", json!(all))])
    };
    accepted(&containers(10));
    refused(&containers(11), &[("containers", "at most 10 are allowed, and there are 11")]);
    refused(&containers(0), &[("containers", "at least one container is needed")]);
    let lowers =
        |count: usize| with(usual(), &[("/volumes/0/durableDir/lowers", json!(labels(count, "/l")))]);
    accepted(&lowers(63));
    refused(&lowers(64), &[("volumes[0].durableDir.lowers", "at most 63")]);
}

#[test]
fn mounts_of_a_list_that_is_too_long_are_compared_all_the_same() {
    let mut mounts: Vec<Value> =
        labels(33, "p").iter().map(|path| json!({"name": "home", "mountPath": format!("/{path}")})).collect();
    mounts[1]["name"] = json!("work");
    mounts[31]["mountPath"] = json!("/p0/x");
    mounts[32]["mountPath"] = json!("/p5");
    refused(
        &with(usual(), &[("/containers/0/volumeMounts", json!(mounts))]),
        &[
            ("containers[0].volumeMounts", "at most 32 are allowed, and there are 33"),
            (
                "containers[0].volumeMounts[31].mountPath",
                "must not lie inside of volumeMounts[0].mountPath, /p0",
            ),
            (
                "containers[0].volumeMounts[32].mountPath",
                "is the same as containers[0].volumeMounts[5].mountPath",
            ),
        ],
    );
}

#[test]
fn a_durable_dir_may_have_lowers_and_quotas() {
    let dir = |value: Value| with(usual(), &[("/volumes/0/durableDir", value)]);
    let template =
        accepted(&dir(json!({"lowers": ["/srv/a", "/srv/b"], "quotaBytes": "10GiB", "quotaInodes": 5})));
    let expected = DurableDir {
        lowers: vec![PathBuf::from("/srv/a"), PathBuf::from("/srv/b")],
        quota_bytes: Some(10 << 30),
        quota_inodes: Some(5),
    };
    assert_eq!(template.volumes[0].durable_dir, expected);
    for size in [json!("10Gi"), json!("10 GiB"), json!(10_u64 << 30)] {
        assert_eq!(
            accepted(&dir(json!({"quotaBytes": size}))).volumes[0].durable_dir.quota_bytes,
            Some(10 << 30)
        );
    }
    let place = "volumes[0].durableDir";
    for (field, value, message) in [
        ("lowers", json!(["relative"]), "must be an absolute path"),
        ("quotaBytes", json!("10GB"), "is no size"),
        ("quotaBytes", json!(-1), "is no size"),
        ("quotaBytes", json!(0), "must be at least 1"),
        ("quotaBytes", json!(true), "must be a size"),
        ("quotaInodes", json!(0), "must be 1 to 18446744073709551615, not 0"),
        ("quotaInodes", json!(1.5), "must be a number without fraction and exponent, not 1.5"),
    ] {
        let item = if field == "lowers" { "[0]" } else { "" };
        refused(&dir(json!({field: value})), &[(&format!("{place}.{field}{item}"), message)]);
    }
}

// Containers.

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

/// A valid template of a class, but for its sandbox.
fn of_class(class: &str, settings: Value) -> Value {
    let document = if class == "microvm" { microvm() } else { usual() };
    with(document, &[("/sandboxClass", json!(class)), ("/sandbox", settings)])
}

#[test]
fn a_runtime_fits_its_class() {
    for (class, settings, name) in [
        ("gvisor", json!({}), "gvisor"),
        ("gvisor", json!({"runtime": "gvisor", "platform": "kvm"}), "gvisor"),
        ("microvm", json!({"kernel": "/k", "initramfs": "/i"}), "qemu"),
        ("microvm", json!({"kernel": "/k", "initramfs": "/i", "runtime": "qemu"}), "qemu"),
        (
            "microvm",
            json!({"kernel": "/k", "initramfs": "/i", "runtime": "cloud-hypervisor"}),
            "cloud-hypervisor",
        ),
        ("process", json!({}), "process"),
        ("process", json!({"runtime": "process", "network": "host"}), "process"),
    ] {
        let template = accepted(&of_class(class, settings));
        assert_eq!(template.sandbox.runtime.name(), name);
        assert_eq!(template.sandbox_class().name(), class);
    }
    for (class, settings, at, message) in [
        (
            "gvisor",
            json!({"runtime": "qemu", "kernel": "/k", "initramfs": "/i"}),
            "runtime",
            "qemu is of sandboxClass microvm, not gvisor",
        ),
        (
            "microvm",
            json!({"runtime": "process"}),
            "runtime",
            "process is of sandboxClass process, not microvm",
        ),
        ("microvm", json!({"runtime": "firecracker"}), "runtime", "firecracker has no virtio-fs"),
        ("gvisor", json!({"runtime": "firecracker"}), "runtime", "firecracker has no virtio-fs"),
        (
            "gvisor",
            json!({"runtime": "kata"}),
            "runtime",
            "must be gvisor, qemu, cloud-hypervisor or process, not \"kata\"",
        ),
        ("gvisor", json!({"platform": "ptrac"}), "platform", "must be systrap, kvm or ptrace"),
        ("gvisor", json!({"network": "bridge"}), "network", "must be none, own or host"),
        ("gvisor", json!({"kernel": "/k"}), "kernel", "has no effect with runtime gvisor"),
        ("gvisor", json!({"runtimeFlags": ["\0"]}), "runtimeFlags[0]", "NUL"),
        ("process", json!({"memory": 1}), "memory", "has no effect with runtime process"),
        ("process", json!({"runtimeFlags": []}), "runtimeFlags", "has no effect with runtime process"),
        ("microvm", json!({"kernel": "k", "initramfs": "/i"}), "kernel", "must be an absolute path"),
        (
            "microvm",
            json!({"kernel": "/k", "initramfs": "/i", "platform": "kvm"}),
            "platform",
            "has no effect with runtime qemu",
        ),
        (
            "microvm",
            json!({"kernel": "/k", "initramfs": "/i", "memory": "15MiB"}),
            "memory",
            "must be at least 16 MiB",
        ),
        (
            "microvm",
            json!({"kernel": "/k", "initramfs": "/i", "cpus": 0}),
            "cpus",
            "must be 1 to 1024, not 0",
        ),
        ("microvm", json!({"kernel": "/k", "initramfs": "i"}), "initramfs", "must be an absolute path"),
        (
            "microvm",
            json!({"kernel": "/k", "initramfs": "/i", "kernelArguments": "a\nb"}),
            "kernelArguments",
            "control characters",
        ),
        (
            "microvm",
            json!({"kernel": "/k", "initramfs": "/i", "accelerator": "hvf"}),
            "accelerator",
            "must be auto, kvm or tcg",
        ),
        (
            "microvm",
            json!({"kernel": "/k", "initramfs": "/i", "runtime": "cloud-hypervisor", "accelerator": "tcg"}),
            "accelerator",
            "needs KVM",
        ),
    ] {
        refused(&of_class(class, settings), &[(&format!("sandbox.{at}"), message)]);
    }
}

#[test]
fn what_no_runtime_can_run_is_refused() {
    let qemu = |settings: Value| {
        let mut sandbox = json!({"kernel": "/k", "initramfs": "/i"});
        sandbox.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        of_class("microvm", sandbox)
    };
    let cloud_hypervisor = |settings: Value| {
        let mut document = qemu(settings);
        set(&mut document, "/sandbox/runtime", json!("cloud-hypervisor"));
        document
    };
    let probe = json!({"httpGet": {"port": 80}});
    let host = |pause: &str, commit: &str| {
        let scopes = json!({"location": "file:///c", "onPause": pause, "onCommit": commit});
        with(of_class("gvisor", json!({"network": "host"})), &[("/snapshotsConfig", scopes)])
    };
    for legal in [
        qemu(json!({"network": "own", "runtimeFlags": ["-cpu", "max"]})),
        with(qemu(json!({})), &[("/readyz", probe.clone()), ("/containers/0/readyz", probe.clone())]),
        cloud_hypervisor(json!({"network": "none", "runtimeFlags": []})),
        of_class("process", json!({"network": "host"})),
        of_class("gvisor", json!({"network": "own"})),
        host("Data", "Data"),
    ] {
        accepted(&legal);
    }
    for (document, at, message) in [
        (
            with(microvm(), &[("/containers/0/rootfs", json!("/images/agent"))]),
            "containers[0].rootfs",
            "has no effect with sandboxClass microvm",
        ),
        (qemu(json!({"network": "host"})), "sandbox.network", "must be none or own with runtime qemu"),
        (
            cloud_hypervisor(json!({"network": "own"})),
            "sandbox.network",
            "must be none with runtime cloud-hypervisor",
        ),
        (
            cloud_hypervisor(json!({"network": "host"})),
            "sandbox.network",
            "must be none with runtime cloud-hypervisor",
        ),
        (
            cloud_hypervisor(json!({"runtimeFlags": ["--x"]})),
            "sandbox.runtimeFlags",
            "has no effect with runtime cloud-hypervisor",
        ),
        (
            with(cloud_hypervisor(json!({})), &[("/readyz", probe.clone())]),
            "readyz",
            "cannot be asked with runtime cloud-hypervisor",
        ),
        (
            with(cloud_hypervisor(json!({})), &[("/containers/0/readyz", probe)]),
            "containers[0].readyz",
            "cannot be asked with runtime cloud-hypervisor",
        ),
        (host("Full", "Data"), "snapshotsConfig.onPause", "Full cannot be captured with network host"),
    ] {
        refused(&document, &[(at, message)]);
    }
    refused(
        &of_class("gvisor", json!({"network": "host"})),
        &[
            ("snapshotsConfig.onPause", "Full, the default, cannot be captured with network host"),
            ("snapshotsConfig.onCommit", "Full, the default, cannot be captured with network host"),
        ],
    );
}

#[test]
fn a_microvm_runs_one_container() {
    let second = json!({"name": "second", "command": ["x"]});
    refused(
        &with(microvm(), &[("/containers/-", second)]),
        &[("containers", "sandboxClass microvm runs one container, and there are 2")],
    );
}

#[test]
fn processes_have_no_memory_captures() {
    let scope = |field: &str| with(process(), &[(&format!("/snapshotsConfig/{field}"), json!("Full"))]);
    refused(
        &scope("onPause"),
        &[("snapshotsConfig.onPause", "must be Data or None for sandboxClass process")],
    );
    refused(
        &scope("onCommit"),
        &[
            ("snapshotsConfig.onCommit", "must be Data or None for sandboxClass process"),
            ("snapshotsConfig.onCommit", "onCommit must be a subset of onPause"),
        ],
    );
    let mut without = process();
    remove(&mut without, "/volumes");
    remove(&mut without, "/containers/0/volumeMounts");
    refused(
        &without,
        &[
            (
                "snapshotsConfig.onPause",
                "Data, the default, captures the volumes, and this template has none",
            ),
            ("snapshotsConfig.onCommit", "Data, the default, captures the volumes"),
        ],
    );
}

#[test]
fn a_template_becomes_the_sandbox_of_an_actor() {
    let document = with(
        microvm(),
        &[
            ("/containers/0/args", json!(["--serve"])),
            ("/containers/0/env", json!([{"name": "A", "value": "b"}])),
            ("/containers/0/user", json!({"uid": 7, "gid": 8})),
            ("/containers/0/workingDir", json!("/work")),
            (
                "/sandbox",
                json!({
                    "kernel": "/k", "initramfs": "/i", "memory": "64MiB", "cpus": 2, "kernelArguments": "quiet",
                    "accelerator": "tcg", "network": "own", "runtimeFlags": ["-x"],
                }),
            ),
        ],
    );
    let made = sandbox(&accepted(&document), "a-1", PathBuf::from("/run/a-1"), |volume| {
        PathBuf::from("/mnt").join(volume.as_str())
    });
    let mount = |volume: &str, destination: &str| runtime::VolumeMount {
        volume: volume.to_owned(),
        source: PathBuf::from("/mnt").join(volume),
        destination: PathBuf::from(destination),
    };
    let expected = runtime::Sandbox {
        id: "a-1".to_owned(),
        directory: PathBuf::from("/run/a-1"),
        containers: vec![runtime::Container {
            name: "main".to_owned(),
            rootfs: None,
            command: vec!["/bin/agent".to_owned(), "--serve".to_owned()],
            env: vec![("A".to_owned(), "b".to_owned())],
            working_directory: PathBuf::from("/work"),
            user: (7, 8),
            mounts: vec![mount("home", "/home/agent"), mount("work", "/work")],
        }],
        network: runtime::Network::Own,
        machine: runtime::Machine {
            memory_bytes: 64 << 20,
            cpus: 2,
            kernel: Some(PathBuf::from("/k")),
            initramfs: Some(PathBuf::from("/i")),
            kernel_arguments: "quiet".to_owned(),
            accelerator: runtime::Accelerator::Tcg,
            platform: None,
            runtime_flags: vec!["-x".to_owned()],
        },
    };
    assert_eq!(made, expected);
    let gvisor = sandbox(&accepted(&usual()), "a-2", PathBuf::from("/run/a-2"), |_| PathBuf::from("/mnt"));
    assert_eq!(gvisor.machine.platform.as_deref(), Some("systrap"));
}

// Properties.

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9-]{0,8}", any::<String>().prop_map(|text| text.replace('\0', ""))]
}

/// Documents of valid templates, as varied as the rules allow.
fn valid_document() -> impl Strategy<Value = Value> {
    let label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
    let path_part = "[^/:\\x00-\\x1f\\x7f]{1,20}";
    let parts =
        prop::collection::vec(path_part.prop_filter("dots", |part| part != "." && part != ".."), 1..4);
    let volumes = prop::collection::btree_map(
        label,
        (parts, any::<Option<u64>>(), prop::option::of(1..u64::MAX)),
        0..6,
    );
    let words = prop::collection::vec(any_text(), 0..4);
    let env = prop::collection::btree_map("[ -<>-~]{1,10}", any_text(), 0..4);
    let class = prop_oneof![Just("gvisor"), Just("microvm"), Just("process")];
    let scopes = (0..3_usize, 0..3_usize);
    let readyz = prop::option::of((1..=u16::MAX, 1..=3600_u32, 1..=60_000_u32, 100..=1_000_000_u32));
    (label, volumes, words, env, class, scopes, readyz, (any::<u32>(), any_text())).prop_map(
        |(name, volumes, words, env, class, (pause, commit), readyz, (id, argument))| {
            let mut declared = Vec::new();
            let mut mounts = Vec::new();
            for (number, (name, (parts, bytes, inodes))) in volumes.iter().enumerate() {
                let lowers: Vec<String> = parts.iter().map(|part| format!("/l/{part}")).collect();
                declared.push(json!({
                    "name": name,
                    "durableDir": {"lowers": lowers, "quotaBytes": bytes.filter(|bytes| *bytes > 0), "quotaInodes": inodes},
                }));
                // A first component of its own keeps them apart.
                mounts.push(json!({"name": name, "mountPath": format!("/{number}/{}", parts.join("/"))}));
            }
            let scopes: &[&str] = match (class, volumes.is_empty()) {
                ("process", true) => &["None"],
                ("process", false) => &["Data", "None"],
                (_, true) => &["Full", "None"],
                (_, false) => &["Full", "Data", "None"],
            };
            let pause = pause % scopes.len();
            let commit = pause + commit % (scopes.len() - pause);
            let probe = readyz.map(|(port, timeout, one_try, interval)| {
                json!({
                    "httpGet": {"port": port}, "timeoutSeconds": timeout, "tryTimeoutMilliseconds": one_try,
                    "intervalMicroseconds": interval,
                })
            });
            let env: Vec<Value> =
                env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            let sandbox = match class {
                "microvm" => json!({"kernel": "/k", "initramfs": "/i", "memory": u64::from(id) + (16 << 20), "cpus": id % 1024 + 1}),
                "gvisor" => json!({"runtimeFlags": words}),
                _ => Value::Null,
            };
            json!({
                "volumes": declared,
                "containers": [{
                    "name": name, "rootfs": (class != "microvm").then_some("/r"), "command": ["/bin/x", argument], "args": words, "env": env,
                    "user": {"uid": id.min(u32::MAX - 1)}, "volumeMounts": mounts, "readyz": probe,
                }],
                "sandboxClass": class,
                "sandbox": sandbox,
                "snapshotsConfig": {"location": "s3://b/p", "onPause": scopes[pause], "onCommit": scopes[commit]},
                "readyz": probe,
            })
        },
    )
}

/// Values of any shape, with the field names of templates now and then.
fn any_document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    let key = prop_oneof![
        prop::sample::select(vec![
            "volumes",
            "containers",
            "name",
            "durableDir",
            "lowers",
            "quotaBytes",
            "quotaInodes",
            "command",
            "args",
            "env",
            "value",
            "volumeMounts",
            "mountPath",
            "sandboxClass",
            "sandbox",
            "runtime",
            "memory",
            "kernel",
            "snapshotsConfig",
            "location",
            "onPause",
            "onCommit",
            "readyz",
            "httpGet",
            "port",
            "kind",
            "spec",
            "user",
        ])
        .prop_map(str::to_owned),
        any_text(),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::hash_map(key.clone(), inner, 0..8).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn a_valid_template_survives_its_canonical_document(document in valid_document()) {
        let template = Template::parse(document.to_string().as_bytes());
        let template = template.map_err(|error| TestCaseError::fail(format!("{error}: {document}")))?;
        let canonical = template.to_json();
        prop_assert_eq!(Template::parse(canonical.as_bytes()), Ok(template.clone()));
        let again = Template::parse(canonical.as_bytes()).map(|template| template.to_json());
        prop_assert_eq!(again, Ok(canonical));
        prop_assert_eq!(template.to_value(), serde_json::from_str::<Value>(&template.to_json()).unwrap());
    }

    #[test]
    fn documents_of_any_shape_are_answered(document in any_document()) {
        if let Err(error) = Template::parse(document.to_string().as_bytes()) {
            prop_assert!(!error.problems.is_empty());
        }
    }

    #[test]
    fn bytes_of_any_kind_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = Template::parse(&bytes) {
            prop_assert!(!error.problems.is_empty());
        }
    }

    #[test]
    fn texts_of_yaml_are_answered(text in "[-a{}\\[\\]:,&*!|>'\"%@#?~ \n\t0]{0,60}") {
        if let Err(error) = Template::parse(text.as_bytes()) {
            prop_assert!(!error.problems.is_empty());
        }
    }

    #[test]
    fn one_changed_byte_is_answered(document in valid_document(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = document.to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Err(error) = Template::parse(&bytes) {
            prop_assert!(!error.problems.is_empty());
        }
    }
}

//! Volumes, and where containers have them.

use super::*;

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

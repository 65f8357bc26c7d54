//! Whatever is thrown at it is answered.

use super::*;

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

//! What of a template is for a runtime.

use super::*;

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

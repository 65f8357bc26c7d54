//! `durdir actor validate`: what is told about a template, without a daemon.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use durdir_tests::support::*;
use serde_json::{Value, json};

const NOT_FOUND: i32 = 3;
const REFUSED: i32 = 5;
const LIMIT: Duration = Duration::from_secs(60);

const VALID: &str = "
volumes:
- name: home
  durableDir: {}
containers:
- name: main
  rootfs: /images/agent
  command: [/bin/agent]
  volumeMounts:
  - name: home
    mountPath: /my home directory/.config
snapshotsConfig: {location: 's3://bucket/prefix'}
";

const INVALID: &str = "
volumes:
- name: home
  durableDir: {}
containers:
- name: main
  rootfs: /images/agent
  command: [/bin/agent]
  volumeMounts:
  - name: home
    mountPath: /home/../etc
  - name: other
    mountPath: /work
snapshotsConfig: {location: 's3://bucket/prefix', onPause: Data, onCommit: Full}
";

fn file(store: &Store, text: &str) -> PathBuf {
    let file = store.side_dir().join("template.yaml");
    fs::write(&file, text).unwrap();
    file
}

/// Runs `durdir actor validate` on this text.
fn validate(store: &Store, text: &str, options: &[&str]) -> Finished {
    let file = file(store, text);
    let args = ["actor", "validate", file.to_str().unwrap()];
    store.durdir(args.iter().chain(options))
}

fn examples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    assert!(!files.is_empty());
    files
}

#[test]
fn valid_template_is_printed_with_its_defaults() {
    let store = Store::new();
    let finished = validate(&store, VALID, &["--json"]).ok();
    let document: Value = serde_json::from_str(&finished.text()).unwrap();
    assert_eq!((&document["valid"], &document["errors"]), (&json!(true), &json!([])));
    let template = &document["template"];
    assert_eq!(template["sandboxClass"], "gvisor");
    assert_eq!(
        template["snapshotsConfig"],
        json!({"location": "s3://bucket/prefix", "onPause": "Full", "onCommit": "Full"})
    );
    assert_eq!(template["containers"][0]["volumeMounts"][0]["mountPath"], "/my home directory/.config");
    // What is printed is a template itself, and changes no more.
    let again = validate(&store, &template.to_string(), &["--json"]).ok();
    assert_eq!(serde_json::from_str::<Value>(&again.text()).unwrap(), document);

    let text = validate(&store, VALID, &[]).ok().text();
    assert!(text.starts_with("valid\n") && text.contains("home"), "{text}");
}

#[test]
fn every_error_is_told_with_its_path_and_exit_code_5() {
    let store = Store::new();
    let finished = validate(&store, INVALID, &["--json"]);
    assert_eq!(finished.code(), Some(REFUSED), "{finished}");
    let document: Value = serde_json::from_str(&finished.text()).unwrap();
    assert_eq!((&document["valid"], &document["template"]), (&json!(false), &Value::Null));
    let mut paths: Vec<&str> =
        document["errors"].as_array().unwrap().iter().map(|error| error["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "containers[0].volumeMounts[0].mountPath",
            "containers[0].volumeMounts[1].name",
            "snapshotsConfig.onCommit",
        ]
    );
    assert!(document["errors"].to_string().contains("onCommit must be a subset of onPause"), "{document}");

    let finished = validate(&store, INVALID, &[]);
    assert_eq!(finished.code(), Some(REFUSED));
    assert_eq!(finished.text().lines().count(), 3, "{finished}");
    assert!(finished.complaint().contains("template.yaml: 3 errors"), "{finished}");
}

#[test]
fn missing_file_is_not_found_and_a_directory_is_a_failure() {
    let store = Store::new();
    let complaint = store.refused(NOT_FOUND, ["actor", "validate", "/nonexistent/template.yaml"]);
    assert!(complaint.contains("/nonexistent/template.yaml"), "{complaint}");
    store.refused(1, ["actor", "validate", "/"]);
    store.refused(2, ["actor", "validate"]);
}

#[test]
fn endless_input_is_refused() {
    let store = Store::new();
    let finished = store.durdir(["actor", "validate", "/dev/zero"]);
    assert_eq!(finished.code(), Some(REFUSED), "{finished}");
    assert!(finished.text().contains("larger than 1 MiB"), "{finished}");
}

#[test]
fn standard_input_is_read() {
    let store = Store::new();
    let mut child = store
        .command()
        .args(["actor", "validate", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(VALID.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["valid"], true);
}

#[test]
fn checking_needs_no_store_and_starts_no_daemon() {
    let store = Store::new();
    validate(&store, VALID, &[]).ok();
    assert!(!store.path().exists());
    // A directory in which nobody can make anything.
    let nowhere = Command::new(binary("durdir"))
        .args(["--store", "/proc/nothing", "actor", "validate"])
        .arg(file(&store, VALID))
        .output()
        .unwrap();
    assert!(nowhere.status.success(), "{}", String::from_utf8_lossy(&nowhere.stderr));
}

#[test]
fn a_user_without_a_home_may_check() {
    let store = Store::new();
    // Both are where everybody may look.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (program, template) = (place.path().join("durdir"), place.path().join("template.yaml"));
    copy_program(binary("durdir"), &program);
    fs::copy(file(&store, VALID), &template).unwrap();
    let validate = |args: &[&str]| {
        let mut command = Command::new(&program);
        command
            .args(args)
            .env_remove("HOME")
            .env_remove("XDG_STATE_HOME")
            .uid(User::ANN.uid)
            .gid(User::ANN.gid);
        run(&mut command, LIMIT)
    };
    validate(&["actor", "validate", template.to_str().unwrap()]).ok();
    let finished = validate(&["volume", "ls"]);
    assert_eq!(finished.code(), Some(1), "{finished}");
    assert!(finished.complaint().contains("no HOME to keep a store in"), "{finished}");
}

#[test]
fn errors_that_nobody_reads_are_errors() {
    let store = Store::new();
    let unknown: String = (0..1000).map(|number| format!("unknown{number}: 1\n")).collect();
    let file = file(&store, &format!("{unknown}{VALID}"));
    for option in ["-v", "--json"] {
        let mut child = store
            .command()
            .args([option, "actor", "validate", file.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut first).unwrap();
        // It has written no more than the pipe holds.
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(REFUSED),
            "{option}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let nobody = || std::io::pipe().unwrap().1;
    let validate = |file: &Path| {
        let mut command = store.command();
        command.args(["actor", "validate"]).arg(file).stdout(nobody()).stderr(nobody()).status().unwrap()
    };
    assert_eq!(validate(&file).code(), Some(REFUSED));
    // What succeeded is no failure for that.
    assert!(validate(&self::file(&store, VALID)).success());
}

#[test]
fn examples_name_places_that_this_version_can_commit_to() {
    let store = Store::new();
    for example in examples() {
        let document = store.json(["actor", "validate", example.to_str().unwrap()]);
        let location = document["template"]["snapshotsConfig"]["location"].as_str().unwrap();
        assert!(location.starts_with("file:///"), "{}: {location}", example.display());
        let text = store.ok(["actor", "validate", example.to_str().unwrap()]).text();
        assert!(!text.contains("not by this version"), "{text}");
    }
    let text = validate(&store, VALID, &[]).ok().text();
    assert!(text.contains("s3://bucket/prefix (not by this version"), "{text}");
}

#[test]
fn examples_are_valid() {
    let store = Store::new();
    let examples = examples();
    assert!(examples.len() >= 4, "{examples:?}");
    for example in examples {
        let document = store.json(["actor", "validate", example.to_str().unwrap()]);
        assert_eq!(document["valid"], true, "{}: {document}", example.display());
    }
}

//! The rules of templates, each with its edges.

mod documents;
mod properties;
mod sandboxes;
mod settings;
mod volumes;

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

/// A valid template of a class, but for its sandbox.
fn of_class(class: &str, settings: Value) -> Value {
    let document = if class == "microvm" { microvm() } else { usual() };
    with(document, &[("/sandboxClass", json!(class)), ("/sandbox", settings)])
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

//! Cloud Hypervisor's interface: HTTP over a Unix socket (see
//! <https://github.com/cloud-hypervisor/cloud-hypervisor/blob/main/docs/api.md>).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{MONITOR, NAME};
use crate::runtime::connection::connect_unix;
use crate::runtime::files::{Shortcut, at};
use crate::runtime::http::{self, Wanted};
use crate::runtime::program::last_lines;
use crate::runtime::virtiofsd::shares;
use crate::runtime::{Connection, Deadline, RuntimeError, Sandbox};

/// Memory of a machine whose template does not say.
const MEMORY: u64 = 512 << 20;

/// Sends a request, and returns what is answered, `null` where that is nothing.
pub(super) fn call(
    sandbox: &Sandbox,
    method: &str,
    action: &str,
    body: Option<&Value>,
    deadline: Deadline,
) -> Result<Value, RuntimeError> {
    let shortcut = Shortcut::to(&sandbox.directory)?;
    let path = shortcut.path(MONITOR);
    let body = body.map(Value::to_string).unwrap_or_default();
    let failed =
        |detail: String| RuntimeError::Failed { program: NAME.to_owned(), action: action.to_owned(), detail };
    let timed_out = || RuntimeError::TimedOut { program: NAME.to_owned(), action: action.to_owned() };
    let stream = connect_unix(&path, deadline).map_err(|error| match error.kind() {
        ErrorKind::TimedOut => timed_out(),
        _ => at("connect to", &path)(error),
    })?;
    let path = format!("/api/v1/{action}");
    let mut connection = Connection::Unix(stream);
    let answer = http::ask(&mut connection, method, &path, body.as_bytes(), Wanted::Body, deadline);
    let answer = answer.map_err(|error| match error.kind() {
        ErrorKind::TimedOut => timed_out(),
        _ => failed(error.to_string()),
    })?;
    match answer.status {
        204 => Ok(Value::Null),
        200 => serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string())),
        status => Err(failed(format!("status {status}: {}", last_lines(&answer.body)))),
    }
}

/// Returns the description of a machine. Its files are relative to the sandbox's directory, in which Cloud Hypervisor is started.
pub(super) fn machine(sandbox: &Sandbox, kernel: &Path, console: &str) -> Value {
    let machine = &sandbox.machine;
    let cpus = machine.cpus.max(1);
    let memory = if machine.memory_bytes == 0 { MEMORY } else { machine.memory_bytes };
    let command_line = format!("console=ttyS0 reboot=t panic=-1 quiet {}", machine.kernel_arguments);
    let mut description = json!({
        "payload": { "cmdline": command_line.trim() },
        "cpus": { "boot_vcpus": cpus, "max_vcpus": cpus },
        // Shared, since virtiofsd reads and writes it.
        "memory": { "size": memory, "shared": true },
        "serial": { "mode": "File" },
        "console": { "mode": "Off" },
    });
    let queues = |tag: String| json!({ "tag": tag, "num_queues": 1, "queue_size": 1024 });
    let shares = shares(sandbox).into_values();
    description["fs"] = shares.map(|share| queues(share.tag())).collect();
    place(&mut description, sandbox, kernel, console);
    description
}

/// Writes all paths of this sandbox into a machine's description: into a new one, or into that of an image, which may have been made
/// elsewhere.
pub(super) fn place(description: &mut Value, sandbox: &Sandbox, kernel: &Path, console: &str) {
    description["payload"]["kernel"] = json!(kernel);
    description["payload"]["initramfs"] = json!(PathBuf::from(super::INITRAMFS));
    description["serial"]["file"] = json!(console);
    for share in shares(sandbox).into_values() {
        let devices = description["fs"].as_array_mut().into_iter().flatten();
        for device in devices.filter(|device| device["tag"] == json!(share.tag())) {
            device["socket"] = json!(share.socket());
        }
    }
}

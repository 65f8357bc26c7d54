//! From a runtime's name to its driver.

use super::cloud_hypervisor::CloudHypervisor;
use super::gvisor::GVisor;
use super::preflight::refused;
use super::process::Process;
use super::qemu::Qemu;
use super::{Runtime, RuntimeError};

/// Returns the driver of a name, as templates and manifests write it.
pub(crate) fn choose(name: &str) -> Result<Box<dyn Runtime>, RuntimeError> {
    match name {
        "gvisor" => Ok(Box::new(GVisor)),
        "qemu" => Ok(Box::new(Qemu)),
        "cloud-hypervisor" => Ok(Box::new(CloudHypervisor::new())),
        "process" => Ok(Box::new(Process::new())),
        "firecracker" => Err(RuntimeError::Unsupported {
            runtime: "firecracker",
            what: "run sandboxes with volumes",
            why: "it has no virtio-fs, the only way to give a guest a directory of the host; use qemu or cloud-hypervisor"
                .to_owned(),
        }),
        other => Err(refused(
            "runtime",
            format!("{other:?} is none of gvisor, qemu, cloud-hypervisor and process"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_is_found_by_its_own_name() {
        for name in ["gvisor", "qemu", "cloud-hypervisor", "process"] {
            assert_eq!(choose(name).map_err(|error| error.to_string()).unwrap().name(), name);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        let refusal = |name| choose(name).err().unwrap().to_string();
        assert!(refusal("firecracker").contains("no virtio-fs"));
        assert!(refusal("docker").contains("none of gvisor"));
    }
}

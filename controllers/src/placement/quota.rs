//! What a tenant may take: the quota and the permissions of its Namespace. Pure.

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use skysail_schemas::host::Resources;
use std::fmt::Display;
use std::str::FromStr;

/// Annotations `quota.skysail.dev/{cpu,memory,disk,containers}` of a Namespace limit what its Containers take together.
pub const QUOTA: &str = "quota.skysail.dev/";

/// What a Namespace allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Containers may be privileged: label `skysail.dev/privileged: allowed`.
    pub privileged: bool,
    /// The limits; or which annotation cannot be read.
    pub quota: Result<Quota, String>,
}

/// Upper bounds; none where absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quota {
    /// Millicores.
    pub cpu: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of disk.
    pub disk: Option<u64>,
    /// Containers with a Host.
    pub containers: Option<u64>,
}

impl Tenant {
    /// Reads it off the Namespace.
    pub fn new(namespace: &Namespace) -> Self {
        let allowed = namespace.labels().get("skysail.dev/privileged");
        Self {
            privileged: allowed.is_some_and(|v| v == "allowed"),
            quota: Quota::new(namespace),
        }
    }
}

impl Quota {
    fn new(namespace: &Namespace) -> Result<Self, String> {
        use skysail_schemas::quantity::{Bytes, Cpu};
        fn read<T: FromStr<Err: Display>>(
            namespace: &Namespace,
            name: &str,
        ) -> Result<Option<T>, String> {
            let text = namespace.annotations().get(&format!("{QUOTA}{name}"));
            text.map(|t| t.parse().map_err(|e| format!("{QUOTA}{name}: {e}")))
                .transpose()
        }
        Ok(Self {
            cpu: read::<Cpu>(namespace, "cpu")?.map(|v| v.0),
            memory: read::<Bytes>(namespace, "memory")?.map(|v| v.0),
            disk: read::<Bytes>(namespace, "disk")?.map(|v| v.0),
            containers: read(namespace, "containers")?,
        })
    }

    /// Whether `wanted` may be added to what `count` Containers take; else a sentence with the bound.
    pub fn allows(&self, taken: Resources, count: u64, wanted: Resources) -> Result<(), String> {
        use skysail_schemas::quantity::{Bytes, Cpu};
        let over = |bound: Option<u64>, taken: u64, wanted: u64| {
            bound.filter(|b| taken.saturating_add(wanted) > *b)
        };
        let say = |name: &str, bound: String, taken: String, wanted: String| {
            Err(format!(
                "{QUOTA}{name} is {bound}; {taken} are taken and {wanted} more are asked for"
            ))
        };
        if let Some(b) = over(self.containers, count, 1) {
            return say("containers", b.to_string(), count.to_string(), "1".into());
        }
        if let Some(b) = over(self.cpu, taken.cpu.0, wanted.cpu.0) {
            let (taken, wanted) = (taken.cpu.to_string(), wanted.cpu.to_string());
            return say("cpu", Cpu(b).to_string(), taken, wanted);
        }
        if let Some(b) = over(self.memory, taken.memory.0, wanted.memory.0) {
            let (taken, wanted) = (taken.memory.to_string(), wanted.memory.to_string());
            return say("memory", Bytes(b).to_string(), taken, wanted);
        }
        if let Some(b) = over(self.disk, taken.disk.0, wanted.disk.0) {
            let (taken, wanted) = (taken.disk.to_string(), wanted.disk.to_string());
            return say("disk", Bytes(b).to_string(), taken, wanted);
        }
        Ok(())
    }
}

//! A container that runs gets another size, without a restart.
//!
//! Processors, memory and processes are values of its control group; its disk grows in
//! place where the kernel allows it, else at the next start (`DiskLimited` tells). What
//! cannot be had yet, like less memory than is in use, is tried again at every turn and
//! stands in the condition `Resized`, which a container has once it was resized.

use super::config;
use super::plan::{Plan, Step};
use super::record::{Desired, Id, Record, Trouble};
use super::site::Site;
use crate::usage::cgroup::{self, Version};
use skysail_schemas::condition::Fact;
use skysail_schemas::container::{Allocation, ContainerStatus};

const CONDITION: &str = "Resized";

/// Gives the init on record the size that it should have, and puts on record what came of it.
pub async fn resize(site: &Site, id: &Id, desired: &Desired, record: &mut Record) {
    let Some(init) = record.init else {
        return;
    };
    let size = &desired.allocation;
    record.resize = match memory_in_use(site.version, init.pid, size) {
        Some(trouble) => Some(trouble),
        None => limit(site, id, size).await,
    };
    match site.layers.grow(id, size.disk).await {
        Ok(layer) => record.layer = layer.or(record.layer.take()),
        Err(error) => {
            tracing::info!(container = %id, %error, "its disk grows at its next start");
        }
    }
    if record.resize.is_none() {
        tracing::info!(container = %id, ?size, "resized");
        record.sized = Some((init, size.clone()));
    }
}

/// With cgroup v2 a lower limit than what is in use would end processes.
fn memory_in_use(version: Version, pid: i32, size: &Allocation) -> Option<Trouble> {
    if version == Version::V1 {
        return None;
    }
    let used = cgroup::read(version, pid)?.memory;
    (used > size.memory.0).then(|| in_use(size))
}

fn in_use(size: &Allocation) -> Trouble {
    Trouble {
        reason: "MemoryInUse".into(),
        message: format!(
            "it uses more memory than {}; it gets its new size when it uses less, or when it is restarted",
            size.memory
        ),
    }
}

async fn limit(site: &Site, id: &Id, size: &Allocation) -> Option<Trouble> {
    for (key, value) in config::limits(size, site.version) {
        let key = key.split_once("cgroup").map_or(key, |(_, rest)| {
            rest.trim_start_matches('2').trim_start_matches('.')
        });
        let Err(failure) = site.lxc.set(id, key, &value).await else {
            continue;
        };
        // The kernel refuses what it cannot reclaim down to.
        if key.starts_with("memory.") {
            return Some(in_use(size));
        }
        return Some(Trouble {
            reason: "ResizeFailed".into(),
            message: format!("{key} could not be set to {value}: {failure}; it is tried again"),
        });
    }
    None
}

/// What the API is told; nothing of a container that was never resized.
pub fn fact(status: &ContainerStatus, record: &Record, plan: &Plan) -> Option<Fact> {
    if let Some(trouble) = record.resize.as_ref().filter(|_| record.init.is_some()) {
        return Some(Fact::no(
            CONDITION,
            trouble.reason.clone(),
            trouble.message.clone(),
        ));
    }
    let before = status.conditions.iter().any(|c| c.type_ == CONDITION);
    let now = plan.steps.contains(&Step::Resize);
    let (_, size) = record.sized.as_ref().filter(|_| before || now)?;
    let message = format!(
        "{} of cpu, {} of memory, {} processes",
        size.cpu, size.memory, size.pids
    );
    Some(Fact::yes(CONDITION, "Applied", message))
}

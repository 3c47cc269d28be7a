//! Which of the possible Hosts is best. Pure.

use super::filter::skew;
use super::snapshot::{HostView, Resident};
use skysail_schemas::Container;
use skysail_schemas::host::Resources;

/// The smallest is best; the order of the fields is the policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// How uneven the spread becomes.
    pub skew: u32,
    /// Containers here that mostly use the same resource.
    pub rivals: u32,
    /// How full the fullest resource becomes, in thousandths: evenly filled Hosts have room for bursts.
    pub load: u64,
    /// Makes the choice the same every time.
    pub name: String,
}

/// The score of a Host for a Container.
pub fn score(
    container: &Container,
    resident: &Resident,
    wanted: Resources,
    host: &HostView,
    hosts: &[HostView],
) -> Score {
    let spreads = &container.spec.placement.spread;
    let permille =
        |used: u64, wanted: u64, all: u64| (used + wanted).saturating_mul(1000) / all.max(1);
    let (used, all) = (host.used, host.allocatable);
    Score {
        skew: spreads
            .iter()
            .map(|s| skew(container, &resident.namespace, s, host, hosts).0)
            .sum(),
        rivals: match resident.profile {
            None => 0,
            profile => host
                .containers
                .iter()
                .filter(|r| r.profile == profile)
                .count() as u32,
        },
        load: permille(used.cpu.0, wanted.cpu.0, all.cpu.0).max(permille(
            used.memory.0,
            wanted.memory.0,
            all.memory.0,
        )),
        name: host.name.clone(),
    }
}

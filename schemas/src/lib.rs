//! Skysail's API kinds: types, defaults and validation. No I/O, nothing async.
//!
//! Glossary, one line per kind, and who owns whom:
//!
//! ```text
//! Cloud          where machines come from (a driver and its settings)
//!  ├─ MachineType  a size of machine that the cloud offers, with its price
//!  ├─ Host         one machine that runs an agent; may also exist without a cloud
//!  └─ HostPool     Hosts that come when they are needed and go when they are empty
//! RebalancePolicy  when containers that run are moved, and how many at once
//! Image          a root filesystem, named by digest once it is built
//! Namespace      the tenant
//!  ├─ InstanceType  the tenant's own size of container
//!  ├─ Network       the tenant's private network; owns one Segment
//!  ├─ SecurityPolicy who of the tenant's containers may open connections to whom
//!  ├─ ContainerSet  a template and a count; owns Containers
//!  ├─ Container     a system container; owns one Port per network
//!  ├─ Migration     one move of a Container to another host
//!  └─ MigrationGroup  moves of many Containers, in waves; owns one Migration each
//! Port           (made by Skysail) one container's address on one network, and the host where it is
//! Segment        (made by Skysail) the claim on one VXLAN network identifier (VNI)
//! ```
//!
//! `Port` and `Segment` are claims: their *name* is the thing allocated (an
//! address, a VNI), so the store's create-if-absent is what makes double use
//! impossible, also under concurrency and crashes. Kubernetes' `IPAddress` works
//! the same way.

#![allow(
    clippy::duplicated_attributes,
    reason = "kube's `printcolumn` repeats words from one column to the next"
)]

pub mod cloud;
pub mod condition;
pub mod container;
pub mod container_set;
pub mod duration;
pub mod estimate;
pub mod generate;
pub mod host;
pub mod host_pool;
pub mod identity;
pub mod image;
pub mod instance_type;
pub mod kinds;
pub mod machine_type;
pub mod migration;
pub mod migration_group;
pub mod network;
pub mod placement;
pub mod port;
pub mod quantity;
pub mod rebalance_policy;
pub mod security_policy;
pub mod segment;
pub mod session;
pub mod validate;

pub use cloud::{Cloud, CloudSpec, CloudStatus};
pub use container::{Container, ContainerSpec, ContainerStatus};
pub use container_set::{ContainerSet, ContainerSetSpec, ContainerSetStatus};
pub use host::{Host, HostSpec, HostStatus};
pub use host_pool::{HostPool, HostPoolSpec, HostPoolStatus};
pub use image::{Image, ImageSpec, ImageStatus};
pub use instance_type::{InstanceType, InstanceTypeSpec};
pub use machine_type::{MachineType, MachineTypeSpec};
pub use migration::{Migration, MigrationSpec, MigrationStatus};
pub use migration_group::{MigrationGroup, MigrationGroupSpec, MigrationGroupStatus};
pub use network::{Network, NetworkSpec, NetworkStatus};
pub use port::{Port, PortSpec};
pub use rebalance_policy::{RebalancePolicy, RebalancePolicySpec, RebalancePolicyStatus};
pub use security_policy::{SecurityPolicy, SecurityPolicySpec, SecurityPolicyStatus};
pub use segment::{Segment, SegmentSpec};

/// The API group of every Skysail kind.
pub const GROUP: &str = "skysail.dev";
/// The only served and stored version.
pub const VERSION: &str = "v1alpha1";
/// The namespace of Skysail's own objects: host leases, the control plane's elections, generated keys.
pub const SYSTEM_NAMESPACE: &str = "skysail-system";

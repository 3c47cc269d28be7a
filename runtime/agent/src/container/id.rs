//! The name of a container on its host.

use serde::{Deserialize, Serialize};
use skysail_schemas::Container;

/// Names a container on this host: its namespace and name.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// The tenant.
    pub namespace: String,
    /// The container.
    pub name: String,
}

impl Id {
    /// The container's id.
    pub fn of(container: &Container) -> Self {
        let meta = &container.metadata;
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Id {
    /// `<namespace>.<name>`: neither part can contain a dot, so no two containers share it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

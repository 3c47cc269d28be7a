//! What the plane remembers on disk, so that it works while the control plane is away.

use super::error::{Error, Result};
use super::policy::Policies;
use serde::{Deserialize, Serialize};
use skysail_schemas::PortSpec;
use skysail_schemas::quantity::Bandwidth;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// A port is known by its network and address, everywhere.
pub type PortKey = (u32, Ipv4Addr);

/// The key of a port.
pub fn key(port: &PortSpec) -> PortKey {
    (port.vni, port.address)
}

/// A container's interface on this host.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Attachment {
    /// Where the container's network namespace is mounted.
    pub netns: PathBuf,
    /// The port.
    pub port: PortSpec,
    /// Whether the default route leads through it.
    pub default_route: bool,
    /// What all ports of the container together may carry in each direction; none is no limit.
    #[serde(default)]
    pub bandwidth: Option<Bandwidth>,
}

/// Everything that is remembered.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Record {
    /// Interfaces on this host.
    pub attachments: Vec<Attachment>,
    /// Last known ports of the networks that this host carries.
    pub ports: Vec<PortSpec>,
    /// Last known policies of their tenants; none if an agent wrote this that knew of no policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies: Option<BTreeMap<String, Policies>>,
}

impl Record {
    /// The attachments by key.
    pub fn attached(&self) -> BTreeMap<PortKey, Attachment> {
        self.attachments
            .iter()
            .map(|a| (key(&a.port), a.clone()))
            .collect()
    }

    /// Reads it; nothing yet is an empty record, and so is one that cannot be read (it is only a memory).
    pub fn load(path: &Path) -> Self {
        let Ok(text) = std::fs::read(path) else {
            return Self::default();
        };
        serde_json::from_slice(&text).unwrap_or_else(|e| {
            tracing::warn!(path = %path.display(), error = %e, "forgotten: the network's record is damaged");
            Self::default()
        })
    }

    /// Writes it whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let failed = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let text = serde_json::to_vec(self).map_err(|e| failed(e.into()))?;
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let draft = path.with_extension("new");
        std::fs::write(&draft, text).map_err(failed)?;
        std::fs::rename(&draft, path).map_err(failed)
    }
}

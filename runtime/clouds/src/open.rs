//! From a Cloud object to its driver: the one place that lists the drivers.

use crate::{Driver, Error, Result, sandbox, ssh};
use ipnet::Ipv4Net;
use skysail_schemas::{cloud, host};
use std::{net::Ipv4Addr, path::PathBuf};

/// What this machine lends to drivers.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where drivers keep their records (`<data-dir>`).
    pub data_dir: PathBuf,
    /// The sandbox fabric of this installation.
    pub fabric: sandbox::Settings,
}

impl Default for Site {
    fn default() -> Self {
        let data_dir = PathBuf::from("/var/lib/skysail");
        let fabric = sandbox::Settings {
            instance: "sky".into(),
            block: Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 16),
            state_dir: data_dir.join("sandbox"),
            cache_dir: "/var/cache/skysail".into(),
        };
        Self { data_dir, fabric }
    }
}

/// The driver of the Cloud `name`.
pub fn cloud(name: &str, spec: &cloud::CloudSpec, site: &Site) -> Result<Box<dyn Driver>> {
    match spec.driver {
        cloud::Driver::Sandbox => {
            let settings = spec.sandbox.clone().ok_or_else(|| {
                Error::Refused(format!(
                    "Cloud {name}: driver sandbox needs spec.sandbox.subnet"
                ))
            })?;
            Ok(Box::new(sandbox::Sandbox::new(
                name,
                settings,
                site.fabric.clone(),
            )))
        }
        cloud::Driver::Ssh => {
            let settings = spec.ssh.clone().unwrap_or(cloud::SshSettings {
                machines: vec![],
                key_secret: None,
            });
            Ok(Box::new(ssh::Inventory::new(
                name,
                settings,
                site.data_dir.join("ssh-claims"),
            )))
        }
    }
}

/// The driver of one machine that exists without a Cloud (`Host.spec.ssh`).
pub fn existing(target: &host::SshTarget) -> Box<dyn Driver> {
    Box::new(ssh::Existing::new(target.clone()))
}

//! From a Cloud object to its driver: the one place that lists the drivers.

use crate::{Driver, Error, Result, ec2, hetzner, qemu, sandbox, ssh};
use ipnet::Ipv4Net;
use skysail_schemas::{cloud, host};
use std::{collections::BTreeMap, fmt, net::Ipv4Addr, path::PathBuf};

/// A Cloud as its driver sees it.
#[derive(Debug, Clone)]
pub struct Account {
    /// The Cloud's name.
    pub name: String,
    /// Its uid: no other Cloud, of this or another installation, ever has it.
    pub uid: String,
    /// Its settings.
    pub spec: cloud::CloudSpec,
    /// The Secret that it names.
    pub secret: Option<Secret>,
}

impl Account {
    /// An account without credentials.
    pub fn new(name: &str, uid: &str, spec: &cloud::CloudSpec) -> Self {
        Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            spec: spec.clone(),
            secret: None,
        }
    }
}

/// The content of a Secret; it never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Where it is, for messages: `Secret skysail-system/aws`.
    pub name: String,
    /// Its keys and values.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secret").field(&self.name).finish()
    }
}

/// What this machine lends to drivers.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where drivers keep their records (`<data-dir>`).
    pub data_dir: PathBuf,
    /// The sandbox fabric of this installation.
    pub fabric: sandbox::Settings,
    /// What the ec2 driver keeps between calls.
    pub ec2: ec2::Memories,
    /// What the hetzner driver keeps between calls.
    pub hetzner: hetzner::Listings,
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
        Self {
            data_dir,
            fabric,
            ec2: ec2::Memories::default(),
            hetzner: hetzner::Listings::default(),
        }
    }
}

/// The driver of a Cloud.
pub fn cloud(account: &Account, site: &Site) -> Result<Box<dyn Driver>> {
    let (name, spec) = (account.name.as_str(), &account.spec);
    match spec.driver {
        cloud::Driver::Hetzner => Ok(Box::new(hetzner::Hetzner::new(account, &site.hetzner)?)),
        cloud::Driver::Ec2 => Ok(Box::new(ec2::Ec2::new(account, &site.ec2)?)),
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
        cloud::Driver::Qemu => {
            let settings = spec.qemu.clone().ok_or_else(|| {
                Error::Refused(format!("Cloud {name}: driver qemu needs spec.qemu.subnet"))
            })?;
            Ok(Box::new(qemu::Qemu::new(
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

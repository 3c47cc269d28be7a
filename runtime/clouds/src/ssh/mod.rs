//! Machines that exist already: nothing is made, machines are only claimed.
//!
//! A claim is a file named after the machine, created at once with its content (the
//! Host's name), so that of two orders at the same moment only one gets the machine,
//! and a claim outlives every process. Deleting a machine releases its claim; the
//! machine itself is left as the host controller leaves it.

use crate::{Driver, Error, Machine, Offer, Order, Result, SshTarget, State};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use skysail_schemas::cloud::{SshMachine, SshSettings};
use skysail_schemas::host;
use std::{collections::BTreeMap, fs, io, path::PathBuf};

/// The machines listed in a Cloud.
pub struct Inventory {
    cloud: String,
    settings: SshSettings,
    claims: PathBuf,
}

/// Who has a machine.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    name: String,
    tags: BTreeMap<String, String>,
    machine: SshMachine,
}

impl Inventory {
    /// The machines of `cloud`; claims are kept below `claims`, which is made when needed.
    pub fn new(cloud: &str, settings: SshSettings, claims: PathBuf) -> Self {
        Self {
            cloud: cloud.to_owned(),
            settings,
            claims: claims.join(cloud),
        }
    }

    fn claimed(&self) -> Result<Vec<Claim>> {
        let entries = match fs::read_dir(&self.claims) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(self.trouble("read", &e)),
        };
        let mut claims = vec![];
        for entry in entries {
            let path = entry.map_err(|e| self.trouble("read", &e))?.path();
            if path.extension().is_none_or(|e| e != "claim") {
                continue;
            }
            match fs::read(&path) {
                Ok(bytes) => claims.push(
                    serde_json::from_slice(&bytes).map_err(|e| self.trouble("understand", &e))?,
                ),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(self.trouble("read", &e)),
            }
        }
        claims.sort_by(|a: &Claim, b| a.name.cmp(&b.name));
        Ok(claims)
    }

    /// Takes `machine` for `order`; `false` where somebody has it already.
    fn claim(&self, machine: &SshMachine, order: &Order) -> Result<bool> {
        fs::create_dir_all(&self.claims).map_err(|e| self.trouble("write", &e))?;
        let claim = Claim {
            name: order.name.clone(),
            tags: order.tags.clone(),
            machine: machine.clone(),
        };
        // Written aside and then linked: a claim is never seen half written, and link refuses to replace.
        let draft = self.claims.join(format!("{}.draft", order.name));
        fs::write(
            &draft,
            serde_json::to_vec(&claim).map_err(|e| self.trouble("write", &e))?,
        )
        .map_err(|e| self.trouble("write", &e))?;
        let linked = fs::hard_link(&draft, self.claims.join(format!("{}.claim", id(machine))));
        fs::remove_file(&draft).map_err(|e| self.trouble("write", &e))?;
        match linked {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(self.trouble("write", &e)),
        }
    }

    fn trouble(&self, verb: &str, error: &dyn std::fmt::Display) -> Error {
        Error::Transient(format!(
            "Cloud {}: cannot {verb} claims in {}: {error}",
            self.cloud,
            self.claims.display()
        ))
    }

    fn machine(&self, claim: Claim) -> Machine {
        let target = SshTarget {
            address: claim.machine.address.clone(),
            port: claim.machine.port,
            user: claim.machine.user.clone(),
            proxy_command: None,
            key_secret: self.settings.key_secret.clone(),
        };
        existing(id(&claim.machine), claim.name, claim.tags, target)
    }
}

/// The machine's name among the claims: address and port, fit for a file name.
fn id(machine: &SshMachine) -> String {
    let address: String = machine
        .address
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    format!("{address}_{}", machine.port)
}

fn existing(id: String, name: String, tags: BTreeMap<String, String>, ssh: SshTarget) -> Machine {
    // Only a literal address is known without asking anybody; the agent reports the rest.
    let address = ssh.address.parse().ok();
    Machine {
        id,
        name,
        tags,
        state: State::Running,
        internal: address,
        external: None,
        ssh,
    }
}

#[async_trait]
impl Driver for Inventory {
    async fn offers(&self) -> Result<Vec<Offer>> {
        Ok(vec![])
    }

    async fn create(&self, order: &Order) -> Result<Machine> {
        for claim in self.claimed()? {
            if claim.name == order.name {
                return Ok(self.machine(claim));
            }
        }
        for machine in &self.settings.machines {
            if self.claim(machine, order)? {
                tracing::info!(
                    cloud = self.cloud,
                    host = order.name,
                    machine = id(machine),
                    "claimed"
                );
                return self.get(&id(machine)).await;
            }
        }
        Err(Error::NoCapacity(format!(
            "Cloud {}: all {} machines in spec.ssh.machines are taken; add a machine or delete a Host of this cloud",
            self.cloud,
            self.settings.machines.len()
        )))
    }

    async fn get(&self, wanted: &str) -> Result<Machine> {
        self.claimed()?
            .into_iter()
            .find(|claim| id(&claim.machine) == wanted)
            .map(|claim| self.machine(claim))
            .ok_or_else(|| {
                Error::NotFound(format!(
                    "Cloud {}: no Host has the machine {wanted}",
                    self.cloud
                ))
            })
    }

    async fn list(&self) -> Result<Vec<Machine>> {
        Ok(self
            .claimed()?
            .into_iter()
            .map(|claim| self.machine(claim))
            .collect())
    }

    async fn delete(&self, id: &str) -> Result<()> {
        match fs::remove_file(self.claims.join(format!("{id}.claim"))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.trouble("remove", &e)),
            _ => Ok(()),
        }
    }

    async fn retire(&self) -> Result<()> {
        if let Some(claim) = self.claimed()?.first() {
            return Err(Error::Refused(format!(
                "Cloud {}: Host {} still has a machine of it",
                self.cloud, claim.name
            )));
        }
        match fs::remove_dir_all(&self.claims) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.trouble("remove", &e)),
            _ => Ok(()),
        }
    }
}

/// The one machine of a Host that has no Cloud (`Host.spec.ssh`).
pub struct Existing {
    target: host::SshTarget,
}

impl Existing {
    /// The machine at `target`.
    pub fn new(target: host::SshTarget) -> Self {
        Self { target }
    }

    fn machine(&self, name: &str, tags: BTreeMap<String, String>) -> Machine {
        let machine = SshMachine {
            address: self.target.address.clone(),
            port: self.target.port,
            user: self.target.user.clone(),
        };
        let ssh = SshTarget {
            address: machine.address.clone(),
            port: machine.port,
            user: machine.user.clone(),
            proxy_command: None,
            key_secret: self.target.key_secret.clone(),
        };
        existing(id(&machine), name.to_owned(), tags, ssh)
    }
}

#[async_trait]
impl Driver for Existing {
    async fn offers(&self) -> Result<Vec<Offer>> {
        Ok(vec![])
    }
    async fn create(&self, order: &Order) -> Result<Machine> {
        Ok(self.machine(&order.name, order.tags.clone()))
    }
    async fn get(&self, id: &str) -> Result<Machine> {
        let machine = self.machine("", BTreeMap::new());
        if machine.id == id {
            Ok(machine)
        } else {
            Err(Error::NotFound(format!(
                "the machine {id} is not the one in spec.ssh"
            )))
        }
    }
    async fn list(&self) -> Result<Vec<Machine>> {
        Ok(vec![self.machine("", BTreeMap::new())])
    }
    async fn delete(&self, _id: &str) -> Result<()> {
        Ok(())
    }
    async fn retire(&self) -> Result<()> {
        Ok(())
    }
}

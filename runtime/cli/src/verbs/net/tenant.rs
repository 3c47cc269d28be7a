//! A tenant's ports and policies, and what the policies say of a connection.

use crate::refusal::explain;
use anyhow::{Result, anyhow};
use kube::Client;
use kube::api::{Api, ListParams};
use skysail_schemas::security_policy::{Direction, End, Service, Verdict, decide};
use skysail_schemas::{Port, PortSpec, SecurityPolicy};
use std::net::Ipv4Addr;

/// What is known of a tenant.
pub struct Tenant {
    pub namespace: String,
    pub ports: Vec<PortSpec>,
    pub policies: Vec<SecurityPolicy>,
}

impl Tenant {
    /// Asks the server.
    pub async fn of(client: &Client, namespace: &str) -> Result<Self> {
        let all = ListParams::default();
        let ports = Api::<Port>::namespaced(client.clone(), namespace);
        let policies = Api::<SecurityPolicy>::namespaced(client.clone(), namespace);
        let ports = ports.list(&all).await.map_err(|e| explain(e, "ports"))?;
        let policies = policies.list(&all).await;
        let policies = policies.map_err(|e| explain(e, "securitypolicies"))?;
        Ok(Self {
            namespace: namespace.to_owned(),
            ports: ports.items.into_iter().map(|p| p.spec).collect(),
            policies: policies.items,
        })
    }

    /// The ports of a container, eth0 first.
    pub fn of_container(&self, container: &str) -> Result<Vec<&PortSpec>> {
        let mut ports: Vec<_> = self
            .ports
            .iter()
            .filter(|p| p.container == container)
            .collect();
        ports.sort_by_key(|p| p.interface);
        if ports.is_empty() {
            return Err(anyhow!(
                "no container {container:?} in namespace {} has an address; see `skysail get containers -n {}`",
                self.namespace,
                self.namespace
            ));
        }
        Ok(ports)
    }

    /// The port with an address on the network of `near`.
    pub fn at(&self, near: &PortSpec, address: Ipv4Addr) -> Option<&PortSpec> {
        let those = |p: &&PortSpec| p.vni == near.vni && p.address == address;
        self.ports.iter().find(those)
    }

    /// What the policies say of a connection, in one direction.
    pub fn decide(
        &self,
        direction: Direction,
        (from, to): (&PortSpec, Ipv4Addr),
        service: Service,
    ) -> Verdict<'_> {
        let target = self.at(from, to);
        let opener = End {
            address: from.address,
            labels: Some(&from.labels),
        };
        let target = End {
            address: to,
            labels: target.map(|p| &p.labels),
        };
        let policies = self
            .policies
            .iter()
            .map(|p| (p.metadata.name.as_deref().unwrap_or_default(), &p.spec));
        match direction {
            Direction::Egress => decide(policies, direction, opener, target, service),
            Direction::Ingress => decide(policies, direction, target, opener, service),
        }
    }

    /// Why the policies do not allow a connection; none where they do.
    pub fn refusal(&self, ends: (&PortSpec, Ipv4Addr), service: Service) -> Option<String> {
        for direction in [Direction::Egress, Direction::Ingress] {
            if let Verdict::Denied(policies) = self.decide(direction, ends, service) {
                return Some(closed(direction, &policies));
            }
        }
        None
    }
}

/// Which policies close a direction.
pub fn closed(direction: Direction, policies: &[&str]) -> String {
    let direction = format!("{direction:?}").to_lowercase();
    format!(
        "{direction} closed by SecurityPolicy {}",
        policies.join(", ")
    )
}

/// The name of a container and its host, for people.
pub fn shown(port: &PortSpec) -> String {
    let host = port.location.as_ref().map_or("no host", |l| &l.host);
    format!("{} ({}, {host})", port.container, port.address)
}

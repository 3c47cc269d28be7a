//! Laws of the Host controller by subject, and its bootstrap on a real sandbox host.

mod conditions;
mod laws;
mod machine;
mod upgrade;

use super::{
    plan::{Heartbeat, Observed, Report, Seen},
    probe::Probe,
    ssh::Trouble,
    status,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skysail_clouds::{Machine, Order, SshTarget, State};
use skysail_reconcile::Next;
use skysail_schemas::{
    Host, HostSpec,
    condition::{self, Fact},
    host::{HostPhase, Resources},
    quantity::{Bytes, Cpu},
};
use std::collections::BTreeMap;

fn host() -> Host {
    Host::new(
        "east-1",
        HostSpec {
            cloud: Some("east".into()),
            machine_type: Some("east-small".into()),
            ..HostSpec::default()
        },
    )
}

/// A Host that has said that its machine is being ordered.
fn ordering() -> Host {
    let mut host = host();
    host.status = Some(skysail_schemas::HostStatus {
        phase: HostPhase::Provisioning,
        ..Default::default()
    });
    host
}

/// A Host of which `reason` says how far its bootstrap is.
fn at(reason: &str) -> Host {
    let mut host = ordering();
    let fact = Fact::no("Bootstrapped", reason, "");
    if let Some(status) = &mut host.status {
        condition::merge(&mut status.conditions, &[fact], None, Timestamp::UNIX_EPOCH);
    }
    host
}

fn leaving() -> Host {
    let mut host = host();
    host.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    host
}

fn machine(state: State) -> Machine {
    let ssh = SshTarget {
        address: "198.18.0.9".into(),
        port: 22,
        user: "root".into(),
        proxy_command: None,
        key_secret: None,
    };
    Machine {
        id: "m1".into(),
        name: "east-1".into(),
        tags: BTreeMap::new(),
        state,
        internal: None,
        external: None,
        ssh,
    }
}

fn resources() -> Resources {
    Resources {
        cpu: Cpu(1000),
        memory: Bytes(1 << 30),
        disk: Bytes(1 << 30),
    }
}

fn order() -> Order {
    Order {
        name: "east-1".into(),
        offer: "small".into(),
        resources: resources(),
        public_address: true,
        authorized_keys: vec![],
        tags: BTreeMap::new(),
        spot: false,
        instead_of: None,
    }
}

fn observed(
    machine: Seen,
    heartbeat: Heartbeat,
    probe: Option<Result<Probe, Trouble>>,
) -> Observed {
    Observed {
        order: Ok(order()),
        machine,
        heartbeat,
        probe,
        binary: "new".into(),
        upgrade: Default::default(),
        labels: BTreeMap::new(),
        resources: Some(resources()),
        containers: vec![],
    }
}

fn fresh() -> Probe {
    Probe {
        root: true,
        os: vec!["debian".into()],
        os_name: "Debian 13".into(),
        os_version: Some(13),
        ..Probe::default()
    }
}

fn say(host: &Host, observed: &Observed, report: &Report) -> (skysail_schemas::HostStatus, Next) {
    let outcome = status::status(host, observed, report, Timestamp::UNIX_EPOCH);
    (outcome.status, outcome.next)
}

//! `skysail net trace`: asks the switches themselves, host by host.

use super::tenant::{Tenant, closed, shown};
use super::way::{End, Way, name, parse};
use crate::print::Output;
use crate::session::{self, Session};
use anyhow::{Context, Result, anyhow, bail};
use kube::Client;
use skysail_schemas::PortSpec;
use skysail_schemas::port::mac;
use skysail_schemas::security_policy::{Direction, Service, Verdict};
use std::net::Ipv4Addr;

/// Flags of `net trace`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail net trace -n acme web-0 db --tcp 5432\n  skysail net trace -n acme web-0 10.0.0.1 --udp 53     the network's DNS\n\nWithout a port it is a ping. The exit code is 1 where the packet would be dropped. Nothing is sent."
)]
pub struct Trace {
    /// Namespace of the containers
    #[arg(short, long)]
    namespace: Option<String>,
    /// The container that opens the connection
    from: String,
    /// The container that it is opened to, or an address
    to: String,
    /// A TCP port
    #[arg(long, value_name = "PORT", conflicts_with = "udp")]
    tcp: Option<u16>,
    /// A UDP port
    #[arg(long, value_name = "PORT")]
    udp: Option<u16>,
}

impl Trace {
    fn service(&self) -> Service {
        match (self.tcp, self.udp) {
            (Some(port), _) => Service::Tcp(port),
            (None, Some(port)) => Service::Udp(port),
            (None, None) => Service::Icmp(8, 0),
        }
    }
}

/// A connection between two ends of one network.
struct Connection<'a> {
    tenant: &'a Tenant,
    from: &'a PortSpec,
    to: Ipv4Addr,
    service: Service,
}

/// Runs it; 1 where the packet would be dropped.
///
/// # Errors
/// When the server or an agent does not answer, or there is nothing to trace.
pub async fn run(client: &Client, default: &str, args: Trace) -> Result<i32> {
    let namespace = args.namespace.clone().unwrap_or_else(|| default.into());
    let tenant = Tenant::of(client, &namespace).await?;
    let (from, to) = ends(&tenant, &args.from, &args.to)?;
    let connection = Connection {
        tenant: &tenant,
        from,
        to,
        service: args.service(),
    };
    let out = Output::stdout();
    out.write(&connection.title())?;
    let mut rows = vec![
        ["HOST", "TABLE", "WHAT", "MATCHED"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let here = connection.on(client, from, "container").await?;
    rows.extend(here.rows(host(from)));
    let target = tenant.at(from, to);
    let (mut way, mut at) = (here, from);
    if let (End::Tunnel, Some(target)) = (&way.end, target) {
        way = connection.on(client, target, "tunnel").await?;
        at = target;
        rows.extend(way.rows(host(target)));
    }
    out.write(&out.aligned(&rows, &mut vec![], true))?;
    let (text, code) = connection.verdict(&way, host(at));
    out.write(&format!("\n{text}\n"))?;
    Ok(code)
}

/// The port that the packet leaves, and the address that it goes to: on the first network that both share.
fn ends<'a>(tenant: &'a Tenant, from: &str, to: &str) -> Result<(&'a PortSpec, Ipv4Addr)> {
    let ports = tenant.of_container(from)?;
    if let Ok(address) = to.parse::<Ipv4Addr>() {
        let inside = ports.iter().find(|p| p.cidr.contains(&address));
        let outward = inside.or(ports.iter().find(|p| p.egress)).or(ports.first());
        let port = outward.with_context(|| format!("{from} has no network"))?;
        return Ok((port, address));
    }
    let targets = tenant.of_container(to)?;
    let shared = ports.iter().find_map(|p| {
        let other = targets.iter().find(|t| t.vni == p.vni)?;
        Some((*p, other.address))
    });
    shared
        .ok_or_else(|| anyhow!("{from} and {to} share no network, so nothing passes between them"))
}

fn host(port: &PortSpec) -> &str {
    port.location.as_ref().map_or("-", |l| &l.host)
}

impl Connection<'_> {
    fn title(&self) -> String {
        let target = self.tenant.at(self.from, self.to);
        let target = target.map_or_else(|| self.to.to_string(), shown);
        let (network, vni) = (&self.from.network, self.from.vni);
        format!(
            "{} -> {target}: {} on network {network} (VNI {vni})\n\n",
            shown(self.from),
            self.service
        )
    }

    /// Asks the host of `at`, where the packet comes in from a container, or by the tunnel.
    async fn on(&self, client: &Client, at: &PortSpec, enters: &str) -> Result<Way> {
        let target = self.tenant.at(self.from, self.to);
        // What is no container of the network is reached by way of the gateway.
        let gateway = || mac(self.from.vni, self.from.gateway);
        let target_mac = target.map_or_else(gateway, |p| p.mac.clone());
        let (protocol, port) = match self.service {
            Service::Tcp(port) => ("tcp", port),
            Service::Udp(port) => ("udp", port),
            Service::Icmp(..) | Service::Other(_) => ("icmp", 0),
        };
        let session = Session {
            namespace: self.tenant.namespace.clone(),
            container: at.container.clone(),
            action: "trace",
            query: vec![
                ("enters", enters.to_owned()),
                ("vni", self.from.vni.to_string()),
                ("from", self.from.address.to_string()),
                ("to", self.to.to_string()),
                ("fromMac", self.from.mac.clone()),
                ("toMac", target_mac),
                ("protocol", protocol.to_owned()),
                ("port", port.to_string()),
            ],
        };
        let done = session::captured(client, &session).await?;
        if done.code != 0 {
            bail!("host {}: {}", host(at), done.stderr.trim());
        }
        parse(&done.stdout).with_context(|| {
            format!(
                "host {}: its switch says what is not understood: {}",
                host(at),
                done.stdout
            )
        })
    }

    /// What came of it, and the exit code.
    fn verdict(&self, way: &Way, host: &str) -> (String, i32) {
        let ends = (self.from, self.to);
        let dropped = |table: u8, why: String| {
            let text = format!("dropped on {host} in table {}: {why}", name(table));
            (text, 1)
        };
        match way.end {
            End::Container => (
                format!("it reaches the container on {host}{}", self.allowed()),
                0,
            ),
            End::Service => (
                format!("it reaches the network's gateway on {host}: its DNS, or the world"),
                0,
            ),
            End::Answered => (format!("the gateway answers it on {host}"), 0),
            End::Tunnel => (
                format!("it leaves {host} by the tunnel, for a host that is not known"),
                1,
            ),
            End::Dropped(table) => {
                let direction = match name(table).as_str() {
                    "opener" => Some(Direction::Egress),
                    "target" => Some(Direction::Ingress),
                    _ => None,
                };
                let verdict = direction.map(|d| (d, self.tenant.decide(d, ends, self.service)));
                let why = match (verdict, name(table).as_str()) {
                    (Some((direction, Verdict::Denied(policies))), _) => {
                        format!("{}, and no rule allows it", closed(direction, &policies))
                    }
                    (Some(_), _) => "the host has not heard of the newest policies yet; try again".to_owned(),
                    (None, "policy") => "the host does not know the tenant's policies yet; see `skysail describe host`".to_owned(),
                    (None, "gateway") if self.to != self.from.gateway && self.from.cidr.contains(&self.to) => {
                        format!("no container on network {} has this address", self.from.network)
                    }
                    (None, "gateway") if !self.from.egress => format!("network {} has no egress", self.from.network),
                    (None, "gateway") => "the gateway takes this from nobody".to_owned(),
                    (None, "output") => "no container on the network has this address, or it has no host yet".to_owned(),
                    _ => "the packet is none that the container may send".to_owned(),
                };
                dropped(table, why)
            }
        }
    }

    /// The policies whose rules let it through.
    fn allowed(&self) -> String {
        let of = |d| match self.tenant.decide(d, (self.from, self.to), self.service) {
            Verdict::Allowed(policy) => Some(format!("{d:?} by {policy}").to_lowercase()),
            _ => None,
        };
        let all: Vec<String> = [Direction::Egress, Direction::Ingress]
            .into_iter()
            .filter_map(of)
            .collect();
        match all.is_empty() {
            true => String::new(),
            false => format!(" (allowed: {})", all.join(", ")),
        }
    }
}

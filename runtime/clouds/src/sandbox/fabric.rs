//! The fabric: "the internet" between the sandbox clouds of one installation.
//!
//! ```text
//! this machine ──<inst>-up── bridge in <inst>-fabric ──r-…── up · <inst>-r-<cloud> · lan ──h-…── eth0 · <inst>-h-<host>
//!  198.18.0.1                 (public addresses)              router, 1:1 NAT        private subnet
//! ```
//!
//! Two clouds may use the same private subnet: nothing routes to one from outside.

use super::{cgroup::Group, namespace, records};
use crate::{Error, Result, command};
use ipnet::Ipv4Net;
use records::{Host, Records, Router, gateway, short};
use std::{
    fmt::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Where and how an installation has its fabric.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Name of the installation: at most eight lower-case letters and digits. It begins
    /// the name of every namespace, link and group, so two installations never meet.
    pub instance: String,
    /// The public addresses, for example 198.18.0.0/16; no other installation's.
    pub block: Ipv4Net,
    /// Records and the machines' disks; must not lie on an overlay filesystem.
    pub state_dir: PathBuf,
    /// Where the hosts' root filesystem is kept once built.
    pub cache_dir: PathBuf,
}

impl Settings {
    /// This machine's address in the fabric: where hosts find the API server.
    pub fn gateway(&self) -> Ipv4Addr {
        gateway(self.block)
    }
    pub(crate) fn records(&self) -> Records {
        Records::new(&self.state_dir)
    }
    pub(crate) fn fabric(&self) -> String {
        format!("{}-fabric", self.instance)
    }
    pub(crate) fn router(&self, cloud: &str) -> String {
        format!("{}-r-{cloud}", self.instance)
    }
    pub(crate) fn host(&self, host: &str) -> String {
        format!("{}-h-{host}", self.instance)
    }
    pub(crate) fn group(&self, host: &str) -> String {
        format!("skysail-{}/{host}", self.instance)
    }
    fn uplink(&self) -> String {
        format!("{}-up", self.instance)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let name = &self.instance;
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if name.is_empty() || name.len() > 8 || !plain {
            return Err(Error::Refused(format!(
                "instance {name:?} must be one to eight lower-case letters and digits"
            )));
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Denied("sandbox hosts are namespaces, and making them needs root: run as root, or use driver ssh".into()));
        }
        if self.block.prefix_len() > 28 {
            return Err(Error::Refused(format!(
                "fabric block {} is too small: /28 at the least",
                self.block
            )));
        }
        real_path(&self.state_dir)
    }
}

/// Mount options cannot hold every character.
fn real_path(path: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    if !path.is_absolute() || text.contains([',', ':', '\\', '\n', ' ', '"', '\'']) {
        return Err(Error::Refused(format!(
            "{text}: the sandbox needs an absolute path without spaces, commas, colons and quotes; choose another data directory"
        )));
    }
    Ok(())
}

/// The fabric of an installation.
pub struct Fabric;

impl Fabric {
    /// Makes the fabric, or what is missing of it. Idempotent.
    pub async fn ensure(settings: &Settings) -> Result<()> {
        settings.check()?;
        let lock = settings.records().lock(".fabric").await?;
        Self::ensure_locked(settings).await?;
        drop(lock);
        Ok(())
    }

    /// The same for who holds the lock.
    pub(crate) async fn ensure_locked(settings: &Settings) -> Result<()> {
        let (fabric, uplink) = (settings.fabric(), settings.uplink());
        namespace::ensure(&fabric).await?;
        namespace::parameters(
            &fabric,
            &[
                ("net/bridge/bridge-nf-call-iptables", "0"),
                ("net/ipv6/conf/default/disable_ipv6", "1"),
            ],
        )
        .await?;
        if !namespace::has_link(Some(&fabric), "fabric").await {
            namespace::batch(&fabric, "link add name fabric type bridge\n").await?;
        }
        let (near, far) = tokio::join!(
            namespace::has_link(None, &uplink),
            namespace::has_link(Some(&fabric), "machine")
        );
        if near != far {
            // A namespace of that name was removed with its end; the kernel is about to remove ours.
            let _ = command::run("ip", &["link", "delete", "dev", &uplink]).await;
        }
        if !(near && far) {
            command::run(
                "ip",
                &[
                    "link", "add", "name", &uplink, "type", "veth", "peer", "name", "machine",
                    "netns", &fabric,
                ],
            )
            .await?;
        }
        namespace::batch(
            &fabric,
            "link set dev fabric up\nlink set dev machine master fabric up\n",
        )
        .await?;
        let address = format!("{}/{}", settings.gateway(), settings.block.prefix_len());
        command::run("ip", &["address", "replace", &address, "dev", &uplink]).await?;
        command::run("ip", &["link", "set", "dev", &uplink, "up"]).await?;
        Ok(())
    }

    /// Removes the fabric with every machine and router of the installation, the
    /// records last. Idempotent, also after a kill at any point; finished when it returns.
    pub async fn remove(settings: &Settings) -> Result<()> {
        settings.check()?;
        let prefix = format!("{}-", settings.instance);
        Group::open(&format!("skysail-{}", settings.instance))?
            .remove()
            .await?;
        for name in namespace::names()
            .await?
            .into_iter()
            .filter(|n| n.starts_with(&prefix))
        {
            namespace::remove(&name).await?;
        }
        if namespace::has_link(None, &settings.uplink()).await {
            // It goes by itself with the namespace at its other end, some time soon.
            let _ = command::run("ip", &["link", "delete", "dev", &settings.uplink()]).await;
        }
        settings.records().remove_all()
    }
}

/// Makes the router of `router.cloud` with the cables to `hosts`, the machines of that
/// cloud, and programs its NAT for them. Idempotent; the fabric must exist.
pub(crate) async fn ensure_router(
    settings: &Settings,
    router: &Router,
    hosts: &[Host],
) -> Result<()> {
    let name = settings.router(&router.cloud);
    let fabric = settings.fabric();
    let port = format!("r-{}", short(&router.cloud));
    namespace::ensure(&name).await?;
    let quiet = [
        ("net/ipv4/ip_forward", "1"),
        ("net/bridge/bridge-nf-call-iptables", "0"),
        ("net/ipv6/conf/default/disable_ipv6", "1"),
    ];
    namespace::parameters(&name, &quiet).await?;
    if !namespace::has_link(Some(&name), "lan").await {
        namespace::batch(&name, "link add name lan type bridge\n").await?;
    }
    namespace::cable(&fabric, &port, &name, "up").await?;
    namespace::batch(&fabric, &format!("link set dev {port} master fabric up\n")).await?;
    let mut wanted = format!(
        "link set dev lan up\nlink set dev up up\naddress replace {}/{} dev lan\naddress replace {}/{} dev up\nroute replace default via {}\n",
        gateway(router.subnet),
        router.subnet.prefix_len(),
        router.uplink,
        settings.block.prefix_len(),
        settings.gateway(),
    );
    for address in hosts.iter().filter_map(|h| h.external) {
        let _ = writeln!(wanted, "address replace {address}/32 dev up");
    }
    namespace::batch(&name, &wanted).await?;
    command::feed(
        "ip",
        &["netns", "exec", &name, "nft", "-f", "-"],
        &ruleset(hosts),
    )
    .await?;
    Ok(())
}

/// The router's rules: public addresses map one to one onto private ones, everybody
/// else goes out under the router's address, and nothing else comes in. Replaced as a
/// whole in one transaction; connections that are open keep their translation.
fn ruleset(hosts: &[Host]) -> String {
    let public: Vec<(Ipv4Addr, Ipv4Addr)> = hosts
        .iter()
        .filter_map(|h| h.external.map(|e| (e, h.internal)))
        .collect();
    let elements = |pairs: Vec<String>| {
        if pairs.is_empty() {
            String::new()
        } else {
            format!(" elements = {{ {} }}", pairs.join(", "))
        }
    };
    let inward = elements(public.iter().map(|(e, i)| format!("{e} : {i}")).collect());
    let outward = elements(public.iter().map(|(e, i)| format!("{i} : {e}")).collect());
    format!(
        "table ip skysail\ndelete table ip skysail\ntable ip skysail {{
  map inward {{ type ipv4_addr : ipv4_addr;{inward} }}
  map outward {{ type ipv4_addr : ipv4_addr;{outward} }}
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    dnat to ip daddr map @inward
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname \"up\" snat to ip saddr map @outward
    oifname \"up\" masquerade
    iifname \"lan\" oifname \"lan\" ct status dnat masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname \"lan\" accept
    ct status dnat accept
  }}
}}\n"
    )
}

/// Takes the router of `cloud` away. Idempotent.
pub(crate) async fn remove_router(settings: &Settings, cloud: &str) -> Result<()> {
    namespace::remove(&settings.router(cloud)).await?;
    let (fabric, port) = (settings.fabric(), format!("r-{}", short(cloud)));
    if namespace::has_link(Some(&fabric), &port).await {
        let _ = command::run("ip", &["-n", &fabric, "link", "delete", "dev", &port]).await;
    }
    settings.records().remove_router(cloud)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_cannot_name_a_link_and_a_path_that_cannot_be_mounted_are_refused() {
        let settings = |instance: &str, dir: &str| Settings {
            instance: instance.into(),
            block: "198.18.0.0/24".parse().unwrap(),
            state_dir: dir.into(),
            cache_dir: "/tmp".into(),
        };
        for (instance, dir) in [
            ("", "/d"),
            ("toolonganame", "/d"),
            ("a-b", "/d"),
            ("a", "/d:e"),
            ("a", "d"),
        ] {
            assert!(
                settings(instance, dir).check().is_err(),
                "{instance:?} in {dir:?} was accepted"
            );
        }
    }

    #[test]
    fn a_host_without_a_public_address_is_not_in_the_routers_maps() {
        assert!(!ruleset(&[]).contains("elements"));
    }
}

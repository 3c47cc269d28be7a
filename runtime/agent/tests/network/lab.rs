//! Hosts made of namespaces: two clouds, each behind a router that translates public addresses one to one.
//!
//! ```text
//!   a1 .2 ─┐                 fabric 198.18.90.0/24                ┌─ b1 .2
//!   a2 .3 ─┴─ router a (198.18.91.1) ── bridge ── router b (198.18.92.1)
//! ```

use super::resolver::Resolver;
use super::role::{ANSWER, Command, Identity, ROLE};
use skysail_schemas::port::{Location, Port, mac, name};
use skysail_schemas::quantity::Bandwidth;
use skysail_schemas::{PortSpec, SecurityPolicy};
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Packages of a host's root filesystem.
const PACKAGES: &str = "openvswitch-switch,iproute2,nftables,iputils-ping,iperf3,ethtool,netcat-openbsd,perl-base,libc-bin";

/// An address of "the internet": what is neither a host nor a router of a cloud.
pub const INTERNET: &str = "198.18.90.254";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Everything that a test uses; gone when dropped.
pub struct Lab {
    pub a1: Host,
    pub a2: Host,
    pub b1: Host,
    ports: Vec<Port>,
    spaces: Spaces,
    _alone: MutexGuard<'static, ()>,
}

/// Namespaces, removed when dropped.
struct Spaces(Vec<String>);

impl Drop for Spaces {
    fn drop(&mut self) {
        for space in &self.0 {
            let _ = Process::new("ip").args(["netns", "del", space]).status();
        }
    }
}

/// One host.
pub struct Host {
    pub identity: Identity,
    netns: String,
    shell: Child,
    init: u32,
    agent: Option<Agent>,
}

struct Agent {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

fn sh(script: &str) -> String {
    let output = Process::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The root filesystem of the hosts: `SKYSAIL_TEST_ROOT`, or one built once from packages.
fn root() -> PathBuf {
    if let Some(path) = std::env::var_os("SKYSAIL_TEST_ROOT") {
        return path.into();
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("network-root");
    if !path.exists() {
        let draft = path.with_extension("tar");
        sh(&format!(
            "mmdebstrap --quiet --variant=apt --include={PACKAGES} trixie {}",
            draft.display()
        ));
        let making = path.with_extension("new");
        sh(&format!(
            "mkdir -p {0} && tar -C {0} -xf {1} && rm {1} && mv {0} {2}",
            making.display(),
            draft.display(),
            path.display()
        ));
    }
    path
}

/// Waits until `probe` yields something, and says how long it took.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> (T, Duration) {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return (found, started.elapsed());
        }
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "waited in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Lab {
    /// Two clouds and three hosts with a running agent each.
    pub fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let me = String::from_utf8(
            std::process::Command::new("id")
                .arg("-u")
                .output()
                .unwrap()
                .stdout,
        )
        .unwrap();
        assert_eq!(
            me.trim(),
            "0",
            "these tests make network namespaces and run Open vSwitch: run them as root"
        );
        let tag = format!("skn{}", std::process::id());
        let fabric = format!("{tag}-fabric");
        sh(&format!("ip netns add {fabric}; ip -n {fabric} link add br0 type bridge; ip -n {fabric} link set br0 up
                     ip -n {fabric} addr add {INTERNET}/24 dev br0; ip -n {fabric} link set lo up"));
        let mut spaces = Spaces(vec![fabric.clone()]);
        let mut hosts = Vec::new();
        for (cloud, number, members) in [("a", 91, 2), ("b", 92, 1)] {
            let router = format!("{tag}-{cloud}");
            spaces.0.push(router.clone());
            sh(&router_script(&router, &fabric, cloud, number));
            for member in 1..=members {
                let netns = format!("{tag}-{cloud}{member}");
                spaces.0.push(netns.clone());
                let identity = Identity {
                    host: format!("{cloud}{member}"),
                    cloud: cloud.into(),
                    internal: Ipv4Addr::new(198, 18, number, member + 1).into(),
                    external: Ipv4Addr::new(198, 18, 90, number - 80 + (member - 1) * 10).into(),
                };
                sh(&host_script(&netns, &router, &identity));
                hosts.push(Host::boot(identity, netns));
            }
        }
        let mut hosts = hosts.into_iter();
        let mut next = || hosts.next().unwrap();
        Self {
            a1: next(),
            a2: next(),
            b1: next(),
            ports: Vec::new(),
            spaces,
            _alone: alone,
        }
    }

    pub fn hosts(&mut self) -> [&mut Host; 3] {
        [&mut self.a1, &mut self.a2, &mut self.b1]
    }

    pub fn host(&mut self, name: &str) -> &mut Host {
        self.hosts()
            .into_iter()
            .find(|h| h.identity.host == name)
            .unwrap()
    }

    /// A resolver in "the internet", which all hosts ask from now on.
    pub fn resolver(&mut self) -> Resolver {
        for host in self.hosts() {
            host.sh(&format!("echo nameserver {INTERNET} >/etc/resolv.conf"));
        }
        Resolver::start(&self.spaces.0[0])
    }

    /// A second uplink `eth1` of a host, for a switch that puts packets on the wire as they are.
    pub fn wire(&self, host: &Host) {
        let (router, name) = (&self.spaces.0[1], &host.identity.host);
        assert_eq!(host.identity.cloud, "a", "the wire is that of cloud a");
        sh(&format!(
            "ip -n {router} link add w-{name} type veth peer name eth1 netns {0}
             ip -n {router} link set w-{name} master lan up; ip -n {0} link set eth1 up",
            host.netns
        ));
    }

    /// Makes a container's Port at a host and pushes all Ports to all agents.
    pub fn place(
        &mut self,
        container: &str,
        network: &Tenant,
        address: &str,
        host: &str,
    ) -> PortSpec {
        let identity = self.host(host).identity.clone();
        let address: Ipv4Addr = address.parse().unwrap();
        let spec = PortSpec {
            namespace: network.domain.into(),
            labels: Default::default(),
            container: container.into(),
            network: "net".into(),
            interface: 0,
            vni: network.vni,
            address,
            cidr: "10.0.0.0/24".parse().unwrap(),
            gateway: "10.0.0.1".parse().unwrap(),
            mac: mac(network.vni, address),
            dns_domain: network.domain.into(),
            egress: network.egress,
            location: Some(Location {
                host: identity.host,
                epoch: 1,
                cloud: Some(identity.cloud),
                internal: Some(identity.internal),
                external: Some(identity.external),
            }),
        };
        let mut port = Port::new(&name("net", address), spec.clone());
        port.metadata.namespace = Some(network.domain.into());
        self.ports
            .retain(|p| (p.spec.vni, p.spec.address) != (spec.vni, spec.address));
        self.ports.push(port);
        self.push();
        spec
    }

    /// Pushes all Ports to all agents.
    pub fn push(&mut self) {
        let ports = self.ports.clone();
        for host in self.hosts() {
            host.command(&Command::Ports(ports.clone()));
        }
    }

    /// Tells all agents which policies there are.
    pub fn policies(&mut self, policies: &[SecurityPolicy]) {
        for host in self.hosts() {
            host.command(&Command::Policies(policies.to_vec()));
        }
    }

    /// Makes a container: its Port, its namespace and its interface.
    pub fn container(
        &mut self,
        container: &str,
        network: &Tenant,
        address: &str,
        host: &str,
    ) -> PortSpec {
        let spec = self.place(container, network, address, host);
        let host = self.host(host);
        host.sh(&format!("ip netns add {container}"));
        host.attach(container, &spec);
        spec
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill_agent();
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A tenant's network. All have the same addresses.
pub struct Tenant {
    pub vni: u32,
    pub domain: &'static str,
    pub egress: bool,
}

fn router_script(router: &str, fabric: &str, cloud: &str, number: u8) -> String {
    let uplink = number - 90;
    let pairs = [(2, number - 80), (3, number - 70)];
    let nat: String = pairs
        .iter()
        .map(|(host, public)| {
            format!(
                "ip -n {router} addr add 198.18.90.{public}/32 dev up0
                 ip netns exec {router} nft add rule ip nat pre iifname up0 ip daddr 198.18.90.{public} dnat to 198.18.{number}.{host}
                 ip netns exec {router} nft add rule ip nat post oifname up0 ip saddr 198.18.{number}.{host} snat to 198.18.90.{public}\n"
            )
        })
        .collect();
    format!(
        "ip netns add {router}
         ip -n {fabric} link add r-{cloud} type veth peer name up0 netns {router}
         ip -n {fabric} link set r-{cloud} master br0 up; ip -n {router} link set up0 up; ip -n {router} link set lo up
         ip -n {router} addr add 198.18.90.{uplink}/24 dev up0
         ip -n {router} link add lan type bridge; ip -n {router} link set lan up; ip -n {router} addr add 198.18.{number}.1/24 dev lan
         ip netns exec {router} sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
         ip netns exec {router} nft 'table ip nat {{ chain pre {{ type nat hook prerouting priority dstnat; }}; chain post {{ type nat hook postrouting priority srcnat; }}; }}'
         {nat}"
    )
}

fn host_script(netns: &str, router: &str, identity: &Identity) -> String {
    let (host, internal) = (&identity.host, identity.internal);
    let gateway = internal.to_string().rsplit_once('.').unwrap().0.to_owned() + ".1";
    format!(
        "ip netns add {netns}; ip -n {netns} link set lo up
         ip -n {router} link add h-{host} type veth peer name eth0 netns {netns}; ip -n {router} link set h-{host} master lan up
         ip -n {netns} addr add {internal}/24 dev eth0; ip -n {netns} link set eth0 up; ip -n {netns} route add default via {gateway}"
    )
}

/// Makes the host's root and stays as its first process, which reaps.
const INIT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir="$ROOT",upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp; mount --rbind /dev dev
mkdir -p run/netns; touch agent; mount --bind "$AGENT" agent
exec chroot . /bin/sh -c 'touch /ready; while :; do sleep 1000 & wait $!; done'
"#;

impl Host {
    fn boot(identity: Identity, netns: String) -> Self {
        let mut shell = Process::new("ip")
            .args([
                "netns",
                "exec",
                &netns,
                "unshare",
                "-m",
                "-p",
                "-u",
                "-i",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                INIT,
            ])
            .env("ROOT", root())
            .env("AGENT", std::env::current_exe().unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", shell.id());
        let (init, _) = wait_for("the host's first process", || {
            assert!(shell.try_wait().unwrap().is_none(), "a host did not boot");
            let pid: u32 = std::fs::read_to_string(&children)
                .ok()?
                .trim()
                .parse()
                .ok()?;
            Path::new(&format!("/proc/{pid}/root/ready"))
                .exists()
                .then_some(pid)
        });
        let mut host = Self {
            identity,
            netns,
            shell,
            init,
            agent: None,
        };
        host.start_agent();
        host
    }

    fn enter(&self) -> Process {
        let mut process = Process::new("nsenter");
        process.args([
            "-t",
            &self.init.to_string(),
            "-m",
            "-p",
            "-u",
            "-i",
            "-r",
            "-w",
            "-n",
        ]);
        process
    }

    /// Starts the agent and waits until its plane runs.
    pub fn start_agent(&mut self) {
        let mut child = self
            .enter()
            .args([
                "/agent",
                "--exact",
                "agent_of_a_host",
                "--ignored",
                "--nocapture",
            ])
            .env(ROLE, serde_json::to_string(&self.identity).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        self.agent = Some(Agent { child, answers });
        assert_eq!(self.answer(), "started");
    }

    /// Kills the agent, and the process that it runs in (`nsenter` forks).
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let children = format!("/proc/{0}/task/{0}/children", agent.child.id());
            for pid in std::fs::read_to_string(children)
                .unwrap_or_default()
                .split_whitespace()
            {
                let _ = Process::new("kill").args(["-9", pid]).status();
            }
            let _ = agent.child.kill();
            let _ = agent.child.wait();
        }
    }

    fn answer(&mut self) -> String {
        let agent = self.agent.as_mut().unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(
                agent.answers.read_line(&mut line).unwrap(),
                0,
                "the agent of {} ended",
                self.identity.host
            );
            if let Some(answer) = line.strip_prefix(ANSWER) {
                return serde_json::from_str(answer).unwrap();
            }
        }
    }

    /// Asks the agent for something; a host without agent hears nothing.
    pub fn command(&mut self, command: &Command) -> String {
        let Some(agent) = self.agent.as_mut() else {
            return "no agent".into();
        };
        writeln!(
            agent.child.stdin.as_mut().unwrap(),
            "{}",
            serde_json::to_string(command).unwrap()
        )
        .unwrap();
        self.answer()
    }

    pub fn attach(&mut self, container: &str, port: &PortSpec) {
        assert_eq!(self.try_attach(container, port, None), "done");
    }

    /// Attaches and returns the agent's answer: `done`, or what failed.
    pub fn try_attach(
        &mut self,
        container: &str,
        port: &PortSpec,
        bandwidth: Option<Bandwidth>,
    ) -> String {
        let netns = Path::new("/run/netns").join(container);
        self.command(&Command::Attach(netns, vec![port.clone()], bandwidth))
    }

    pub fn detach(&mut self, port: &PortSpec) {
        assert_eq!(self.command(&Command::Detach(vec![port.clone()])), "done");
    }

    /// Runs a script on the host; none if it fails.
    pub fn try_sh(&self, script: &str) -> Option<String> {
        let output = self
            .enter()
            .args(["/bin/sh", "-ec", script])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a script on the host.
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(script)
            .unwrap_or_else(|| panic!("on {} ({}): {script}", self.identity.host, self.netns))
    }

    /// Runs a script in a container; none if it fails.
    pub fn inside(&self, container: &str, script: &str) -> Option<String> {
        self.try_sh(&format!(
            "mkdir -p /etc/netns/{container}; ip netns exec {container} sh -ec '{script}'"
        ))
    }

    pub fn pings(&self, container: &str, target: &str) -> bool {
        self.inside(container, &format!("ping -n -c 1 -W 1 {target}"))
            .is_some()
    }

    /// Waits until a container reaches `target`, and says how long it took.
    pub fn wait_ping(&self, container: &str, target: &str) -> Duration {
        let (host, what) = (&self.identity.host, format!("{container} reaches {target}"));
        wait_for(&format!("{host}: {what}"), || {
            self.pings(container, target).then_some(())
        })
        .1
    }

    /// IP packets that a container's interface has received.
    pub fn received(&self, container: &str) -> u64 {
        self.inside(container, "cat /proc/net/snmp | grep ^Ip: | tail -1")
            .unwrap()
            .split_whitespace()
            .nth(3)
            .unwrap()
            .parse()
            .unwrap()
    }

    /// The flows of the switch, sorted, without numbers that count.
    pub fn flows(&self) -> Vec<String> {
        let text = self
            .try_sh("ovs-ofctl -O OpenFlow14 --no-stats --no-names dump-flows br-int")
            .unwrap_or_default();
        let mut flows: Vec<String> = text
            .lines()
            .map(|l| l.trim().trim_start_matches("reset_counts ").to_owned())
            .collect();
        flows.sort();
        flows
    }
}

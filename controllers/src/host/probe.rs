//! What bootstrap must know of a machine: one script that only looks, and its answer.

use std::collections::BTreeMap;

/// Which package brings a program that a host needs.
const PROGRAMS: &[(&str, &str)] = &[
    ("lxc-start", "lxc"),
    ("ovs-vswitchd", "openvswitch-switch"),
    ("ovs-vsctl", "openvswitch-switch"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("newuidmap", "uidmap"),
    ("ethtool", "ethtool"),
    ("curl", "curl"),
    ("tar", "tar"),
    ("zstd", "zstd"),
    ("xz", "xz-utils"),
    ("pgrep", "procps"),
    ("criu", "criu"),
];

/// A machine as bootstrap sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    /// Whether the login is root or can become it without a password.
    pub root: bool,
    /// Identifiers of the distribution and what it is like (`debian`, `ubuntu debian`).
    pub os: Vec<String>,
    /// The distribution's name for people.
    pub os_name: String,
    /// Its version, where it is a number.
    pub os_version: Option<u32>,
    /// Its processor, as the kernel names it (`x86_64`, `aarch64`).
    pub architecture: Option<String>,
    /// Whether systemd is process 1.
    pub systemd: bool,
    /// Packages that bring what is missing.
    pub missing: Vec<String>,
    /// SHA-256 of the binary there.
    pub binary: Option<String>,
    /// Seconds since the agent's credential was written.
    pub credential_age: Option<u64>,
    /// The last lines of the agent's log.
    pub log: String,
}

/// The script; it changes nothing and runs as the login user.
pub fn script() -> String {
    let programs: Vec<&str> = PROGRAMS.iter().map(|(program, _)| *program).collect();
    format!(
        r#"PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
if [ "$(id -u)" = 0 ]; then r=; echo root=yes; elif sudo -n true 2>/dev/null; then r="sudo -n"; echo root=yes; else r=; echo root=no; fi
(. /etc/os-release 2>/dev/null; echo "os=${{ID:-}} ${{ID_LIKE:-}}"; echo "os_name=${{PRETTY_NAME:-$(uname -s)}}"; echo "os_version=${{VERSION_ID:-}}")
echo "architecture=$(uname -m)"
[ -d /run/systemd/system ] && echo systemd=yes
for p in {}; do command -v $p >/dev/null || echo missing=$p; done
echo "binary=$($r sha256sum /usr/local/bin/skysail 2>/dev/null | cut -d' ' -f1)"
at=$($r stat -c %Y /etc/skysail/agent.kubeconfig 2>/dev/null) && echo "credential_age=$(($(date +%s) - at))"
log=$($r tail -n 3 /var/log/skysail/skysail-agent.log 2>/dev/null | cut -c -200 | tr '\n' ';') && echo "log=$log"
true
"#,
        programs.join(" ")
    )
}

/// The script's answer.
pub fn parse(answer: &str) -> Probe {
    let mut probe = Probe::default();
    let packages: BTreeMap<&str, &str> = PROGRAMS.iter().copied().collect();
    for (key, value) in answer.lines().filter_map(|l| l.split_once('=')) {
        let value = value.trim();
        match key {
            "root" => probe.root = value == "yes",
            "os" => probe.os = value.split_whitespace().map(str::to_owned).collect(),
            "os_name" => probe.os_name = value.to_owned(),
            "os_version" => probe.os_version = value.split('.').next().and_then(|v| v.parse().ok()),
            "architecture" if !value.is_empty() => probe.architecture = Some(value.to_owned()),
            "systemd" => probe.systemd = true,
            "missing" => probe
                .missing
                .extend(packages.get(value).map(|p| (*p).to_owned())),
            "binary" if !value.is_empty() => probe.binary = Some(value.to_owned()),
            "credential_age" => {
                probe.credential_age = value
                    .parse::<i64>()
                    .ok()
                    .map(|age| u64::try_from(age).unwrap_or(0))
            }
            "log" => probe.log = value.trim_end_matches(';').replace(';', "; "),
            _ => {}
        }
    }
    probe.missing.sort();
    probe.missing.dedup();
    probe
}

//! The steps of bootstrap on a machine: each may be repeated, and each leaves
//! either the old or the new, whenever it is interrupted.

use super::ssh::{Remote, Trouble};
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);

/// The agent's command line.
fn agent(host: &str) -> String {
    format!(
        "/usr/local/bin/skysail agent --host {host} --kubeconfig /etc/skysail/agent.kubeconfig --data-dir /var/lib/skysail"
    )
}

/// Installs packages with apt.
pub async fn packages(remote: &Remote, names: &[String]) -> Result<(), Trouble> {
    let script = format!(
        "export DEBIAN_FRONTEND=noninteractive\n\
         install='apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 {}'\n\
         $install >/dev/null 2>&1 || {{ apt-get update -q >/dev/null; $install >/dev/null; }}",
        names.join(" ")
    );
    remote
        .work(&script, tokio::io::empty(), LONG)
        .await
        .map(drop)
}

/// Copies the program that runs here, so that all speak the same version.
pub async fn binary(remote: &Remote, hash: &str) -> Result<(), Trouble> {
    let file = tokio::fs::File::open("/proc/self/exe")
        .await
        .map_err(|e| Trouble::Failed(format!("/proc/self/exe: {e}")))?;
    let script = format!(
        "t=$(mktemp /usr/local/bin/.skysail.XXXXXX); trap 'rm -f $t' EXIT\n\
         cat >$t; echo '{hash}  '$t | sha256sum -c --quiet\n\
         chmod 755 $t; mv -f $t /usr/local/bin/skysail; rm -f /usr/local/bin/.skysail.*"
    );
    remote.work(&script, file, LONG).await.map(drop)
}

/// Puts the agent's credential in its place.
pub async fn credential(remote: &Remote, kubeconfig: &str) -> Result<(), Trouble> {
    let script = "umask 077; mkdir -p /etc/skysail; cat >/etc/skysail/.agent.kubeconfig\n\
                  mv -f /etc/skysail/.agent.kubeconfig /etc/skysail/agent.kubeconfig";
    remote
        .work(script, kubeconfig.as_bytes(), SHORT)
        .await
        .map(drop)
}

/// Starts the agent, which starts the switch; or starts the agent again where it ran.
pub async fn start(remote: &Remote, host: &str, systemd: bool) -> Result<(), Trouble> {
    let script = if systemd {
        systemd_script(host)
    } else {
        supervisor_script(host)
    };
    remote
        .work(&script, tokio::io::empty(), SHORT)
        .await
        .map(drop)
}

/// Takes the agent off a machine that stays; packages and container data remain.
pub async fn remove(remote: &Remote) -> Result<(), Trouble> {
    let script = "if [ -d /run/systemd/system ]; then systemctl disable --now skysail-agent.service skysail-containers.service 2>/dev/null || true; fi
rm -f /etc/systemd/system/skysail-agent.service /etc/systemd/system/skysail-containers.service /etc/skysail/services.d/skysail-agent /etc/skysail/agent.kubeconfig
if pgrep -x skysail-superv >/dev/null; then pkill -x skysail-superv; fi
pid=$(cat /run/skysail/agent.pid 2>/dev/null || true)
if [ -n \"$pid\" ] && [ \"$(readlink /proc/$pid/exe 2>/dev/null | cut -d' ' -f1)\" = /usr/local/bin/skysail ]; then kill $pid; fi
rm -f /usr/local/bin/skysail /usr/local/sbin/skysail-superv /run/skysail/agent.pid";
    remote
        .work(script, tokio::io::empty(), SHORT)
        .await
        .map(drop)
}

/// What containers need of systemd, whether the agent runs or not: control groups with all
/// controllers, for they are beside the agent's; and at shutdown, after the agent and before
/// the network, to be told. Without, shutdown waits a minute and a half for processes that
/// take no other hint.
const CONTAINERS: &str = r#"[Unit]
Description=Skysail containers
After=network-online.target openvswitch-switch.service
[Service]
Type=oneshot
RemainAfterExit=yes
Delegate=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'p=/var/lib/skysail/containers; for c in $$(lxc-ls -1 --running -P $$p); do lxc-stop -P $$p -n "$$c" -t 20 & done; wait'
TimeoutStopSec=60
[Install]
WantedBy=multi-user.target
"#;

fn systemd_script(host: &str) -> String {
    format!(
        "cat >/etc/systemd/system/skysail-agent.service <<'END'
[Unit]
Description=Skysail agent
After=network-online.target openvswitch-switch.service skysail-containers.service
Wants=network-online.target openvswitch-switch.service skysail-containers.service
[Service]
ExecStart={}
Restart=always
RestartSec=1
KillMode=process
Delegate=yes
LimitNOFILE=infinity
StandardOutput=append:/var/log/skysail/skysail-agent.log
StandardError=inherit
[Install]
WantedBy=multi-user.target
END
cat >/etc/systemd/system/skysail-containers.service <<'END'
{CONTAINERS}END
mkdir -p /var/log/skysail /var/lib/skysail
systemctl daemon-reload
systemctl enable --quiet --now skysail-containers.service
systemctl enable --quiet skysail-agent.service
systemctl restart skysail-agent.service
",
        agent(host)
    )
}

fn supervisor_script(host: &str) -> String {
    let place = |name: &str, text: &str| {
        format!(
            "cat >/etc/skysail/.{name} <<'END'\n{text}END\nchmod 755 /etc/skysail/.{name}; mv -f /etc/skysail/.{name} /etc/skysail/services.d/{name}\n"
        )
    };
    let agent = format!(
        "#!/bin/sh\nmkdir -p /run/skysail\necho $$ >/run/skysail/agent.pid\nexec {}\n",
        agent(host)
    );
    format!(
        "mkdir -p /etc/skysail/services.d /var/log/skysail /var/lib/skysail\n{}{}",
        place("skysail-agent", &agent),
        SUPERVISE,
    ) + &format!(
        "if [ -n \"$own\" ]; then cat >/usr/local/sbin/skysail-superv <<'SUPERVISOR'\n{}SUPERVISOR\n",
        skysail_clouds::sandbox::INIT
    ) + "chmod 755 /usr/local/sbin/skysail-superv\n\
           setsid /usr/local/sbin/skysail-superv >/dev/null 2>&1 </dev/null &\nfi\n"
}

/// Ends a running agent, whose supervisor starts it again, and wakes the supervisor.
/// Leaves `own` set where the machine has no supervisor yet.
const SUPERVISE: &str = "own=
pid=$(cat /run/skysail/agent.pid 2>/dev/null || true)
if [ -n \"$pid\" ] && [ \"$(readlink /proc/$pid/exe 2>/dev/null | cut -d' ' -f1)\" = /usr/local/bin/skysail ]; then kill $pid; fi
if pgrep -x skysail-init >/dev/null; then pkill -HUP -x skysail-init
elif pgrep -x skysail-superv >/dev/null; then pkill -HUP -x skysail-superv
else own=yes; fi
";

//! Starting and ending the namespaces of one host.

use super::{
    Settings,
    cgroup::Group,
    namespace,
    records::{Host, Router, gateway, short},
};
use crate::{Error, Result, command};
use sha2::{Digest, Sha256};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

const LAUNCH: &str = include_str!("launch.sh");
const ENTER: &str = include_str!("enter.sh");
/// Process 1 of a sandbox host; on other machines without systemd, the plain supervisor.
pub const INIT: &str = include_str!("init.sh");
const SSHD: &str = "#!/bin/sh\nmkdir -p /run/sshd\nexec /usr/sbin/sshd -D -e -o PasswordAuthentication=no -o UseDNS=no\n";
const RESOLV: &str = "# No resolver: a sandbox host has no way to the internet.\n";
/// How long the kernel may take to set a host's namespaces up.
const DEADLINE: Duration = Duration::from_secs(30);

/// Whether everything of `host` is there: its process 1, its network namespace under
/// its name, and the cable to the router.
pub(crate) async fn complete(settings: &Settings, host: &Host) -> Result<bool> {
    let Some(init) = Group::open(&settings.group(&host.name))?.init() else {
        return Ok(false);
    };
    let (netns, router) = (settings.host(&host.name), settings.router(&host.cloud));
    if !same_namespace(init, &namespace::file(&netns)) {
        return Ok(false);
    }
    namespace::connected(&router, &port(host), &netns, "eth0").await
}

/// Whether the process `init` is in the network namespace that `file` names.
pub(crate) fn same_namespace(init: i32, file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    id(Path::new(&format!("/proc/{init}/ns/net"))).is_some_and(|own| id(file) == Some(own))
}

/// The machine's port on its cloud's bridge.
pub(crate) fn port(host: &Host) -> String {
    format!("h-{}", short(&host.name))
}

/// Ends every process of the host `name` and takes its namespaces and groups away. Idempotent.
pub(crate) async fn stop(settings: &Settings, name: &str) -> Result<()> {
    Group::open(&settings.group(name))?.remove().await?;
    namespace::remove(&settings.host(name)).await
}

/// Starts `host`, of which nothing runs; its router is there. Finished when its
/// process 1 runs, a moment before sshd answers.
pub(crate) async fn start(settings: &Settings, router: &Router, host: &Host) -> Result<()> {
    let folder = settings.records().machine(&host.name);
    prepare(&folder, router, host).map_err(|e| {
        Error::Transient(format!("machine {}: {}: {e}", host.name, folder.display()))
    })?;
    host_keys(&folder.join("upper")).await?;
    plug(settings, router, host).await?;
    let group = Group::open(&settings.group(&host.name))?;
    group.make(&host.resources)?;
    launch(settings, host, &folder, &group).await
}

/// The host's network: its namespace with a cable to the router's bridge.
async fn plug(settings: &Settings, router: &Router, host: &Host) -> Result<()> {
    let (netns, lan, port) = (
        settings.host(&host.name),
        settings.router(&host.cloud),
        port(host),
    );
    namespace::ensure(&netns).await?;
    namespace::parameters(&netns, &[("net/ipv6/conf/default/disable_ipv6", "1")]).await?;
    namespace::cable(&lan, &port, &netns, "eth0").await?;
    namespace::batch(&lan, &format!("link set dev {port} master lan up\n")).await?;
    let wanted = format!(
        "link set dev eth0 address {} up\naddress replace {}/{} dev eth0\nroute replace default via {}\n",
        mac(host),
        host.internal,
        router.subnet.prefix_len(),
        gateway(router.subnet),
    );
    namespace::batch(&netns, &wanted).await
}

/// A locally administered address that stays the same over restarts.
pub(crate) fn mac(host: &Host) -> String {
    let hash = Sha256::digest(format!("{}/{}", host.cloud, host.name));
    format!(
        "02:5b:{:02x}:{:02x}:{:02x}:{:02x}",
        hash[0], hash[1], hash[2], hash[3]
    )
}

/// What the machine's `/etc/machine-id` says.
pub(crate) fn machine_id(host: &Host) -> String {
    Sha256::digest(format!("machine-id {} {}", host.cloud, host.name))
        .iter()
        .take(16)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The machine's folder, with what its own layer has from the start.
fn prepare(folder: &Path, router: &Router, host: &Host) -> io::Result<()> {
    let upper = folder.join("upper");
    for part in ["work", "root", "data"] {
        directory(&folder.join(part), 0o755)?;
    }
    for (part, mode) in [
        ("", 0o755),
        ("etc", 0o755),
        ("etc/ssh", 0o755),
        ("etc/skysail", 0o755),
        ("etc/skysail/services.d", 0o755),
        ("root", 0o700),
        ("root/.ssh", 0o700),
    ] {
        directory(&upper.join(part), mode)?;
    }
    // /sbin is a link into /usr in Debian; a directory of that name would hide it.
    for part in ["usr", "usr/sbin"] {
        directory(&upper.join(part), 0o755)?;
    }
    let hosts = format!(
        "127.0.0.1 localhost\n{} {}\n{} gateway\n",
        host.internal,
        host.name,
        gateway(router.subnet)
    );
    place(
        &upper.join("etc/hostname"),
        0o644,
        &format!("{}\n", host.name),
    )?;
    place(&upper.join("etc/hosts"), 0o644, &hosts)?;
    place(&upper.join("etc/resolv.conf"), 0o644, RESOLV)?;
    place(
        &upper.join("etc/machine-id"),
        0o444,
        &format!("{}\n", machine_id(host)),
    )?;
    place(&upper.join("etc/skysail/services.d/sshd"), 0o755, SSHD)?;
    place(&upper.join("usr/sbin/skysail-init"), 0o755, INIT)?;
    place(
        &upper.join("root/.ssh/authorized_keys"),
        0o600,
        &(host.authorized_keys.join("\n") + "\n"),
    )
}

fn directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// A file that is never seen half written.
fn place(path: &Path, mode: u32, content: &str) -> io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, content)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(mode))?;
    fs::rename(&draft, path)
}

/// The machine's own SSH identity, made once and kept with its disk.
async fn host_keys(upper: &Path) -> Result<()> {
    let key = upper.join("etc/ssh/ssh_host_ed25519_key");
    if key.with_extension("pub").exists() {
        return Ok(());
    }
    // Of a key without its public half, the maker was killed in between.
    let _ = fs::remove_file(&key);
    command::run(
        "ssh-keygen",
        &[
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "",
            "-f",
            &key.to_string_lossy(),
        ],
    )
    .await?;
    Ok(())
}

async fn launch(settings: &Settings, host: &Host, folder: &Path, group: &Group) -> Result<()> {
    let log = folder.join("boot.log");
    let trouble = |e: io::Error| Error::Transient(format!("machine {}: {e}", host.name));
    let spaced = |paths: Vec<String>| paths.join(" ");
    // A session of its own: what ends this process or its terminal leaves the hosts running.
    let mut child = Command::new("setsid")
        .args(["sh", "-c", LAUNCH])
        .env(
            "CGROUPS",
            spaced(
                group
                    .directories()
                    .iter()
                    .map(|d| d.display().to_string())
                    .collect(),
            ),
        )
        .env("HIERARCHIES", spaced(group.v1()))
        .env("UNIFIED", group.only_unified().unwrap_or_default())
        .env("NETNS", namespace::file(&settings.host(&host.name)))
        .env("DIR", folder)
        .env("LOWER", &host.lower)
        .env("NAME", &host.name)
        .env("ENTER", ENTER)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log).map_err(trouble)?)
        .spawn()
        .map_err(trouble)?;
    let Some(stdout) = child.stdout.take() else {
        return Err(trouble(io::Error::other("no pipe")));
    };
    let mut lines = BufReader::new(stdout).lines();
    let said = tokio::time::timeout(DEADLINE, lines.next_line()).await;
    match said {
        Ok(Ok(Some(line))) if line == "ready" => {
            // Somebody must take the exit status when the host ends.
            tokio::spawn(async move { child.wait().await });
            Ok(())
        }
        _ => {
            let said = command::tail(&fs::read(&log).unwrap_or_default());
            stop(settings, &host.name).await?;
            Err(Error::Transient(format!(
                "machine {} did not start: {said}",
                host.name
            )))
        }
    }
}

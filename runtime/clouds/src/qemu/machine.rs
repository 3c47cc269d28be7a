//! One virtual machine: its disk, its cable, its process.
//!
//! The process is found again by its control group, which nothing else is in, as the
//! sandbox finds its hosts; it runs in the network namespace of the cloud's router, where
//! its cable is a port of the bridge.

use super::{
    accelerator::Accelerator,
    identity,
    image::Image,
    saved::{self, Saved},
};
use crate::{
    Error, Result, command,
    sandbox::{
        Settings, boot,
        cgroup::Group,
        namespace,
        records::{Host, Router},
    },
};
use skysail_schemas::host::Resources;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Joins the machine's groups and the router's namespace, then becomes QEMU. The state that
/// it starts from, if any, is its descriptor 9.
const LAUNCH: &str = "groups=$1 netns=$2 state=$3; shift 3
for group in $groups; do echo 0 >\"$group/cgroup.procs\"; done
[ -z \"$state\" ] || exec 9<\"$state\"
exec nsenter --net=\"$netns\" \"$@\"";

/// A QEMU that runs or shall run.
pub struct Process<'a> {
    /// The installation.
    pub settings: &'a Settings,
    /// The last part of its control group's name.
    pub group: String,
    /// The network namespace that it runs in.
    pub netns: String,
    /// Its network device there.
    pub tap: String,
}

/// What a QEMU is started with.
pub struct Start<'a> {
    /// Has the disk; gets the console's log and the identity.
    pub folder: &'a Path,
    /// The machine, or one of the same size.
    pub host: &'a Host,
    /// What runs its instructions.
    pub accelerator: Accelerator,
    /// Who it is.
    pub identity: String,
    /// The state that it starts from; it boots without.
    pub saved: Option<&'a Saved>,
    /// Where its monitor listens.
    pub monitor: Option<&'a Path>,
}

impl<'a> Process<'a> {
    /// That of the machine `host`.
    pub fn of(settings: &'a Settings, host: &Host) -> Self {
        Self {
            settings,
            group: host.name.clone(),
            netns: settings.router(&host.cloud),
            tap: boot::port(host),
        }
    }

    fn group(&self) -> Result<Group> {
        Group::open(&self.settings.group(&self.group))
    }

    /// Whether it runs in its network namespace.
    pub fn runs(&self) -> Result<bool> {
        let netns = namespace::file(&self.netns);
        let here = |pid: i32| lives(pid) && boot::same_namespace(pid, &netns);
        Ok(self.group()?.processes().into_iter().any(here))
    }

    /// Whether it runs and has its cable.
    pub async fn complete(&self) -> Result<bool> {
        Ok(self.runs()? && namespace::has_link(Some(&self.netns), &self.tap).await)
    }

    /// Ends it as a power cut does and pulls its cable. Idempotent.
    pub async fn stop(&self) -> Result<()> {
        self.group()?.remove().await?;
        if namespace::has_link(Some(&self.netns), &self.tap).await {
            let args = ["-n", &self.netns, "link", "delete", "dev", &self.tap];
            command::run("ip", &args).await?;
        }
        Ok(())
    }

    /// Starts it; nothing of it runs, and its network namespace is there. Finished when it has begun.
    pub async fn start(&self, start: &Start<'_>) -> Result<()> {
        let identity = start.folder.join("identity");
        fs::write(&identity, &start.identity).map_err(|e| trouble(&identity, &e))?;
        let tap = &self.tap;
        let cable = format!("tuntap add dev {tap} mode tap\nlink set dev {tap} master lan up\n");
        namespace::batch(&self.netns, &cable).await?;
        let group = self.group()?;
        // What QEMU itself takes is not the machine's: its limits are the guest's own size.
        group.make(&Resources::default())?;
        let shown = |path: &PathBuf| path.display().to_string();
        let groups: Vec<String> = group.directories().iter().map(shown).collect();
        let state = start.saved.map(|s| shown(&s.memory())).unwrap_or_default();
        let mut args: Vec<String> = ["-euc", LAUNCH, "launch"].map(str::to_owned).into();
        args.extend([
            groups.join(" "),
            shown(&namespace::file(&self.netns)),
            state,
        ]);
        args.push(super::QEMU.to_owned());
        args.extend(options(start, tap));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        if let Err(failure) = command::run("sh", &args).await {
            self.stop().await?;
            return Err(Error::Transient(format!(
                "machine {} did not start: {}",
                start.host.name, failure.how
            )));
        }
        Ok(())
    }
}

/// Whether a process is more than the exit status of one.
fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(") ")
            .next()
            .is_some_and(|s| !s.starts_with('Z'))
    })
}

/// Starts the machine `host`, of which nothing runs; its router is there. Finished when it
/// has begun, before sshd answers.
///
/// A new machine starts from a saved state; one that ran before boots from its disk.
pub async fn start(
    settings: &Settings,
    router: &Router,
    host: &Host,
    accelerator: Accelerator,
) -> Result<()> {
    let folder = settings.records().machine(&host.name);
    let disk = folder.join("disk.qcow2");
    let mut saved = None;
    if !disk.exists() {
        let state = Saved::ensure(settings, host, accelerator).await;
        let state = state.inspect_err(|error| {
            tracing::warn!(machine = host.name, %error, "no state could be saved; the machine boots");
        });
        let draft = folder.join("disk.draft");
        let image = Image {
            folder: host.lower.clone(),
        };
        let (base, format) = match &state {
            Ok(state) => (state.disk(), "qcow2"),
            Err(_) => (image.disk(), "raw"),
        };
        saved::overlay(&base, format, &draft, saved::disk_size(host)).await?;
        fs::rename(&draft, &disk).map_err(|e| trouble(&disk, &e))?;
        saved = state.ok();
    }
    let seed = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let start = Start {
        folder: &folder,
        host,
        accelerator,
        identity: identity::text(host, router, seed.trim())?,
        saved: saved.as_ref(),
        monitor: None,
    };
    Process::of(settings, host).start(&start).await
}

/// Processors, and memory in mebibytes.
pub fn size(host: &Host) -> (u64, u64) {
    let Resources { cpu, memory, .. } = host.resources;
    (cpu.0.div_ceil(1000).max(1), (memory.0 >> 20).max(256))
}

/// QEMU's command line. A machine that starts from a saved state must have the same devices.
fn options(start: &Start<'_>, tap: &str) -> Vec<String> {
    let image = Image {
        folder: start.host.lower.clone(),
    };
    let file = |name: &str| start.folder.join(name).display().to_string();
    let (cores, memory) = size(start.host);
    let mut all: Vec<String> = start.accelerator.options().map(str::to_owned).into();
    let mut add = |option: &str, value: &str| all.extend([option.to_owned(), value.to_owned()]);
    add("-name", &start.host.name);
    add("-M", "q35");
    add("-smp", &cores.to_string());
    add("-m", &format!("{memory}M"));
    add("-display", "none");
    add("-kernel", &image.kernel().display().to_string());
    add("-initrd", &image.initrd().display().to_string());
    add("-append", &identity::command_line(start.accelerator));
    add(
        "-drive",
        &format!(
            "if=none,id=disk,format=qcow2,discard=unmap,file={}",
            file("disk.qcow2")
        ),
    );
    add("-device", "virtio-blk-pci,drive=disk");
    add(
        "-netdev",
        &format!("tap,id=net,ifname={tap},script=no,downscript=no"),
    );
    add(
        "-device",
        &format!("virtio-net-pci,netdev=net,mac={}", boot::mac(start.host)),
    );
    add("-device", "virtio-rng-pci");
    // Tells the kernel that it was copied: its random numbers begin anew.
    add("-device", "vmgenid,guid=auto");
    add(
        "-fw_cfg",
        &format!("name=opt/skysail/identity,file={}", file("identity")),
    );
    add("-serial", &format!("file:{}", file("console.log")));
    if let Some(monitor) = start.monitor {
        add(
            "-qmp",
            &format!("unix:{},server=on,wait=off", monitor.display()),
        );
    }
    if start.saved.is_some() {
        add("-incoming", "fd:9");
    }
    all.extend(["-nodefaults", "-no-user-config", "-daemonize"].map(str::to_owned));
    all
}

fn trouble(path: &Path, error: &io::Error) -> Error {
    Error::Transient(format!("{}: {error}", path.display()))
}

#[cfg(test)]
pub fn example() -> (Host, Router) {
    let router = Router {
        cloud: "box".into(),
        subnet: "10.2.0.0/24".parse().unwrap(),
        uplink: "198.18.0.2".parse().unwrap(),
    };
    let host = Host {
        name: "box-1".into(),
        cloud: "box".into(),
        offer: "tiny".into(),
        resources: Resources::default(),
        internal: "10.2.0.2".parse().unwrap(),
        external: None,
        authorized_keys: vec!["ssh-ed25519 AAAA one\ntwo".into()],
        tags: Default::default(),
        lower: "/cache/vm-images/1".into(),
    };
    (host, router)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_from_a_saved_state_differs_in_nothing_but_where_it_begins() {
        let (host, _) = example();
        let mut start = Start {
            folder: Path::new("/m"),
            host: &host,
            accelerator: Accelerator::Emulation,
            identity: identity::none(),
            saved: None,
            monitor: None,
        };
        let cold = options(&start, "tap");
        let saved = Saved::at("/s");
        start.saved = Some(&saved);
        let warm = options(&start, "tap");
        let new: Vec<&String> = warm.iter().filter(|o| !cold.contains(o)).collect();
        assert_eq!(new, ["-incoming", "fd:9"]);
    }
}

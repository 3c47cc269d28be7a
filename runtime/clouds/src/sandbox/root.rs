//! The root filesystem under every sandbox host: built once from the
//! distribution's packages, kept by the hash of its recipe, never changed after.
//!
//! It is built beside its final place and renamed when complete, so a killed build
//! leaves only rubbish that the next one removes.

use crate::{Error, Result, mmdebstrap};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

/// The distribution's release.
pub(crate) const SUITE: &str = "trixie";
/// What a host needs before the agent comes.
pub(crate) const PACKAGES: &[&str] = &[
    "bash",
    "ca-certificates",
    "criu",
    "curl",
    "dnsmasq-base",
    "e2fsprogs",
    "ethtool",
    "iperf3",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "lxc",
    "netcat-openbsd",
    "nftables",
    "openssh-server",
    "openvswitch-switch",
    "procps",
    "tar",
    "uidmap",
    "util-linux",
    "xz-utils",
    "zstd",
];
/// No manuals and translations; no recommended packages; host keys are each host's own.
pub(crate) const OPTIONS: &[&str] = &[
    "--variant=apt",
    "--mode=root",
    "--format=directory",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--aptopt=APT::Install-Recommends \"false\"",
    // CRIU and its own libraries of the next release: this one's (4.1) cannot dump TCP connections on newer kernels.
    // Where they cannot be had, this release's stays, and the host says so in its condition `LiveMigration`.
    "--customize-hook=sed -n 's/^deb \\([^ ]*\\) trixie main$/deb [check-valid-until=no] \\1 forky main/p' \"$1\"/etc/apt/sources.list >\"$1\"/etc/apt/sources.list.d/criu.list; printf 'Package: *\\nPin: release n=forky\\nPin-Priority: 1\\n' >\"$1\"/etc/apt/preferences.d/criu; chroot \"$1\" sh -c 'apt-get update -q && apt-get install -y -q --no-install-recommends criu/forky libcompel1/forky libnet9/forky libnl-3-200/forky' || true; rm -rf \"$1\"/etc/apt/sources.list.d/criu.list \"$1\"/etc/apt/preferences.d/criu \"$1\"/var/lib/apt/lists/*_forky_*",
    "--customize-hook=rm -f \"$1\"/etc/ssh/ssh_host_* \"$1\"/etc/machine-id",
];

/// Where the root filesystem is in `cache_dir`, whether built yet or not.
pub fn path(cache_dir: &Path) -> PathBuf {
    let mut hash = Sha256::new();
    for part in [&[SUITE], PACKAGES, OPTIONS].concat() {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let hex: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect();
    cache_dir.join("host-roots").join(hex)
}

/// Builds the root filesystem unless it is in `cache_dir`, and returns where it is.
///
/// Idempotent and safe against other processes: one builds, the others wait. Takes
/// about 40 s and needs the distribution's mirror and `mmdebstrap`. `progress` gets a
/// line for people at each stage.
pub async fn ensure(cache_dir: &Path, progress: impl Fn(&str) + Send + Sync) -> Result<PathBuf> {
    let root = path(cache_dir);
    if root.exists() {
        return Ok(root);
    }
    let roots = cache_dir.join("host-roots");
    fs::create_dir_all(&roots).map_err(|e| trouble(&roots, &e))?;
    let lock = wait_for(root.with_extension("lock"), &progress).await?;
    if !root.exists() {
        build(&root, &progress).await?;
    }
    drop(lock);
    Ok(root)
}

/// The lock of who builds; another process's build is waited for.
pub(crate) async fn wait_for(
    path: PathBuf,
    progress: &(impl Fn(&str) + Send + Sync),
) -> Result<Flock<fs::File>> {
    let file = fs::File::create(&path).map_err(|e| trouble(&path, &e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, _)) => {
            progress("waiting for another process that builds the hosts' root filesystem");
            tokio::task::spawn_blocking(move || Flock::lock(file, FlockArg::LockExclusive))
                .await
                .map_err(|e| Error::Transient(e.to_string()))?
                .map_err(|(_, e)| trouble(&path, &io::Error::from(e)))
        }
    }
}

async fn build(root: &Path, progress: &(impl Fn(&str) + Send + Sync)) -> Result<()> {
    let started = Instant::now();
    let draft = root.with_extension("draft");
    // The lock is ours, so a draft here is what a killed build left.
    match fs::remove_dir_all(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(trouble(&draft, &e)),
        _ => {}
    }
    progress(&format!(
        "building the hosts' root filesystem from Debian {SUITE} ({} packages and what they need)",
        PACKAGES.len()
    ));
    let mut args: Vec<String> = OPTIONS.iter().map(|o| (*o).to_owned()).collect();
    args.extend([
        format!("--include={}", PACKAGES.join(",")),
        SUITE.to_owned(),
        draft.to_string_lossy().into_owned(),
    ]);
    mmdebstrap::run(&args, |stage| {
        progress(&format!("root filesystem: {stage}"))
    })
    .await?;
    fs::rename(&draft, root).map_err(|e| trouble(root, &e))?;
    progress(&format!(
        "root filesystem built in {} s",
        started.elapsed().as_secs()
    ));
    Ok(())
}

fn trouble(path: &Path, error: &io::Error) -> Error {
    Error::Transient(format!("{}: {error}", path.display()))
}

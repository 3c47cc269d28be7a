//! How a virtual machine's processor is made: by this machine's own, where that really
//! works, or by emulation.
//!
//! `/dev/kvm` tells too little: it may open and even start a guest that then hangs, for
//! instance inside another virtual machine. So a guest is started once per boot of this
//! machine, and has to say a word.

use super::image::Image;
use crate::{Error, Result};
use std::{fs, path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// What the guest of the trial says on its console; `initrd.sh` knows it too.
const WORD: &str = "skysail-probe-ok";
/// How long it may take; with KVM it is less than one second.
const PATIENCE: Duration = Duration::from_secs(10);

/// What runs a virtual machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// This machine's processor.
    Kvm,
    /// QEMU's translator: several times slower.
    Emulation,
}

impl Accelerator {
    /// The best that works here. Tries once per boot of this machine and remembers it in
    /// the folder `memory`.
    pub async fn detect(image: &Image, memory: &Path) -> Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let file = memory.join("accelerator");
        if let Ok(known) = fs::read_to_string(&file)
            && let Some((at, what)) = known.split_once(' ')
            && at == boot.trim()
        {
            return Ok(if what == "kvm" {
                Self::Kvm
            } else {
                Self::Emulation
            });
        }
        let works = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
            && trial(image).await;
        let (found, word) = if works {
            (Self::Kvm, "kvm")
        } else {
            tracing::info!("KVM does not work on this machine; virtual machines are emulated");
            (Self::Emulation, "emulation")
        };
        fs::write(&file, format!("{} {word}", boot.trim()))
            .map_err(|e| Error::Transient(format!("{}: {e}", file.display())))?;
        Ok(found)
    }

    /// QEMU's options for it.
    pub fn options(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // The translator's default buffer is an eighth of this machine's memory.
            Self::Emulation => ["-accel", "tcg,tb-size=256", "-cpu", "max"],
        }
    }
}

/// Whether a guest comes as far as its first process with KVM.
async fn trial(image: &Image) -> bool {
    let child = Command::new(super::QEMU)
        .args(Accelerator::Kvm.options())
        .args(["-M", "q35", "-m", "256", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(image.kernel())
        .arg("-initrd")
        .arg(image.initrd())
        .args(["-append", "console=ttyS0 quiet panic=-1 skysail.probe"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut child) = child else {
        return false;
    };
    let Some(stdout) = child.stdout.take() else {
        return false;
    };
    let mut lines = BufReader::new(stdout).lines();
    let says = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains(WORD) {
                return true;
            }
        }
        false
    };
    let works = tokio::time::timeout(PATIENCE, says).await.unwrap_or(false);
    // Already ended is what we want.
    let _ = child.kill().await;
    works
}

//! Virtual machines on this machine: hosts with a kernel of their own and systemd, by KVM
//! where that works and emulated where it does not.
//!
//! They share the sandbox's fabric: each cloud has a router with a private subnet, 1:1 NAT
//! for public addresses, and records that are written before the first effect. A machine is
//! one process of QEMU with a cable into its cloud's bridge, and an overlay of one disk
//! image that is built from the distribution's packages. New ones start from a saved state of
//! a machine of their size that has booted and only lacks an identity.

mod accelerator;
mod console;
mod cpio;
mod identity;
mod image;
mod machine;
mod monitor;
mod saved;

pub use image::Image;

use crate::{
    Driver, Error, Machine, Offer, Order, Result, State, command,
    sandbox::{Settings, claims::Claims, namespace, records::Host},
};
use accelerator::Accelerator;
use async_trait::async_trait;
use skysail_schemas::{
    cloud::QemuSettings,
    host::Resources,
    quantity::{Bytes, Cpu},
};

/// The emulator of this driver's machines.
const QEMU: &str = "qemu-system-x86_64";
/// Programs that must be here, and the packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    (QEMU, "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("mke2fs", "e2fsprogs"),
];

/// A cloud of virtual machines.
pub struct Qemu {
    claims: Claims,
}

impl Qemu {
    /// The cloud `cloud` in the fabric of `settings`. Makes nothing yet.
    pub fn new(cloud: &str, spec: QemuSettings, settings: Settings) -> Self {
        Self {
            claims: Claims::new(cloud, spec.subnet, "spec.qemu.subnet", settings),
        }
    }

    /// Why this machine can have no virtual machines, if so.
    async fn check(&self) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Denied(format!(
                "Cloud {}: virtual machines need root for their networks: run as root",
                self.claims.cloud
            )));
        }
        if std::env::consts::ARCH != "x86_64" {
            return Err(Error::Refused(format!(
                "Cloud {}: driver qemu makes x86_64 machines only, and this one is {}",
                self.claims.cloud,
                std::env::consts::ARCH
            )));
        }
        for (program, package) in PROGRAMS {
            let found = command::run("sh", &["-c", &format!("command -v {program}")]).await;
            if found.is_err() {
                return Err(Error::Refused(format!(
                    "Cloud {}: there is no {program} on this machine; install the package {package}",
                    self.claims.cloud
                )));
            }
        }
        Ok(())
    }

    async fn machine(&self, host: &Host) -> Result<Machine> {
        let state = if machine::Process::of(&self.claims.settings, host)
            .complete()
            .await?
        {
            State::Running
        } else {
            State::Stopped
        };
        // Without a public address the way in is through the cloud's router.
        let through_router = || {
            let router = namespace::file(&self.claims.settings.router(&self.claims.cloud));
            let image = Image {
                folder: host.lower.clone(),
            };
            format!(
                "nsenter --net={} {} nc %h %p",
                router.display(),
                image.busybox().display()
            )
        };
        Ok(host.machine(state, through_router))
    }
}

#[async_trait]
impl Driver for Qemu {
    async fn offers(&self) -> Result<Vec<Offer>> {
        self.check().await?;
        let offer = |name: &str, cores: u64, memory_gib: u64, price: &str| Offer {
            name: name.into(),
            resources: Resources {
                cpu: Cpu(cores * 1000),
                memory: Bytes(memory_gib << 30),
                disk: Bytes(memory_gib << 33),
            },
            price_per_hour: Some(price.into()),
            ..Offer::default()
        };
        Ok(vec![
            offer("tiny", 1, 1, "0.010"),
            offer("small", 2, 2, "0.020"),
            offer("medium", 2, 4, "0.040"),
            offer("large", 4, 8, "0.080"),
        ])
    }

    async fn create(&self, order: &Order) -> Result<Machine> {
        self.check().await?;
        let cloud = self.claims.cloud.clone();
        let cache = &self.claims.settings.cache_dir;
        let image = Image::ensure(cache, move |line| tracing::info!(cloud, "{line}")).await?;
        let accelerator = Accelerator::detect(&image, &cache.join("vm-images")).await?;
        let lock = self.claims.settings.records().lock(&order.name).await?;
        let (router, host) = self.claims.establish(order, image.folder).await?;
        let process = machine::Process::of(&self.claims.settings, &host);
        if !process.complete().await? {
            process.stop().await?;
            machine::start(&self.claims.settings, &router, &host, accelerator).await?;
        }
        drop(lock);
        self.machine(&host).await
    }

    async fn get(&self, id: &str) -> Result<Machine> {
        let found = self.claims.settings.records().host(id)?;
        match found.filter(|h| h.cloud == self.claims.cloud) {
            Some(host) => self.machine(&host).await,
            None => Err(Error::NotFound(format!(
                "Cloud {}: there is no machine {id}",
                self.claims.cloud
            ))),
        }
    }

    async fn list(&self) -> Result<Vec<Machine>> {
        let mut machines = vec![];
        for host in self.claims.hosts()? {
            machines.push(self.machine(&host).await?);
        }
        Ok(machines)
    }

    async fn delete(&self, id: &str) -> Result<()> {
        let records = self.claims.settings.records();
        let lock = records.lock(id).await?;
        let Some(host) = records.host(id)?.filter(|h| h.cloud == self.claims.cloud) else {
            return Ok(());
        };
        machine::Process::of(&self.claims.settings, &host)
            .stop()
            .await?;
        self.claims.release(&host).await?;
        drop(lock);
        Ok(())
    }

    async fn console(&self, id: &str) -> Result<String> {
        let log = self
            .claims
            .settings
            .records()
            .machine(id)
            .join("console.log");
        match std::fs::read(&log) {
            Ok(said) => Ok(console::end(&said)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(e) => Err(Error::Transient(format!("{}: {e}", log.display()))),
        }
    }

    async fn retire(&self) -> Result<()> {
        self.claims.retire().await
    }
}

//! What the sandbox remembers: one file per router and per machine, complete before
//! the first effect and removed after the last, so that nothing in the kernel is
//! without a record. A record is also the claim on its addresses.

use super::erase::erase;
use crate::{Error, Machine, Result, SshTarget, State};
use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use skysail_schemas::host::Resources;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

/// A cloud's router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Router {
    /// The Cloud.
    pub cloud: String,
    /// Its private subnet; the first address is the router's.
    pub subnet: Ipv4Net,
    /// The router's own address in the fabric.
    pub uplink: Ipv4Addr,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The Host's name, and the machine's id.
    pub name: String,
    /// The Cloud.
    pub cloud: String,
    /// What it was ordered as.
    pub offer: String,
    /// Its limits.
    pub resources: Resources,
    /// Address in the cloud's subnet.
    pub internal: Ipv4Addr,
    /// Address in the fabric, if asked for.
    pub external: Option<Ipv4Addr>,
    /// Who may log in.
    pub authorized_keys: Vec<String>,
    /// Marks.
    pub tags: BTreeMap<String, String>,
    /// The root filesystem below its own layer.
    pub lower: PathBuf,
}

impl Host {
    /// The machine as it is told; `way_in` is the `ProxyCommand` where it has no public address.
    pub fn machine(&self, state: State, way_in: impl FnOnce() -> String) -> Machine {
        Machine {
            id: self.name.clone(),
            name: self.name.clone(),
            tags: self.tags.clone(),
            state,
            internal: Some(IpAddr::V4(self.internal)),
            external: self.external.map(IpAddr::V4),
            ssh: SshTarget {
                address: self.external.unwrap_or(self.internal).to_string(),
                port: 22,
                user: "root".into(),
                proxy_command: self.external.is_none().then(way_in),
                key_secret: None,
            },
        }
    }
}

/// The records below one folder.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// The records in `folder`, which is made when something is written.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// The folder of the machine `name`.
    pub fn machine(&self, name: &str) -> PathBuf {
        self.folder.join("machines").join(name)
    }

    /// Waits until no other task or process holds `name`, and holds it until dropped.
    pub async fn lock(&self, name: &str) -> Result<Flock<fs::File>> {
        let folder = self.folder.join("locks");
        let path = folder.join(name);
        let work = move || {
            fs::create_dir_all(&folder)?;
            let file = fs::File::create(&path)?;
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| io::Error::from(e))
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::Transient(e.to_string()))?
            .map_err(|e| trouble(&self.folder, &e))
    }

    /// Every machine, in order of names.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        self.all("machines")
    }
    /// The machine `name`.
    pub fn host(&self, name: &str) -> Result<Option<Host>> {
        read(&self.machine(name).join("record.json"))
    }
    /// Keeps `host`.
    pub fn put_host(&self, host: &Host) -> Result<()> {
        write(&self.machine(&host.name).join("record.json"), host)
    }
    /// Forgets the machine `name` and removes its folder, the record last.
    pub fn remove_host(&self, name: &str) -> Result<()> {
        let folder = self.machine(name);
        for part in ["upper", "work", "root", "data"] {
            remove(&folder.join(part))?;
        }
        remove(&folder)
    }

    /// Every router.
    pub fn routers(&self) -> Result<Vec<Router>> {
        self.all("routers")
    }
    /// The router of `cloud`.
    pub fn router(&self, cloud: &str) -> Result<Option<Router>> {
        read(&self.folder.join("routers").join(cloud).join("record.json"))
    }
    /// Keeps `router`.
    pub fn put_router(&self, router: &Router) -> Result<()> {
        write(
            &self
                .folder
                .join("routers")
                .join(&router.cloud)
                .join("record.json"),
            router,
        )
    }
    /// Forgets the router of `cloud`.
    pub fn remove_router(&self, cloud: &str) -> Result<()> {
        remove(&self.folder.join("routers").join(cloud))
    }

    /// Removes the folder with everything in it.
    pub fn remove_all(&self) -> Result<()> {
        remove(&self.folder)
    }

    fn all<T: DeserializeOwned>(&self, sort: &str) -> Result<Vec<T>> {
        let folder = self.folder.join(sort);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(trouble(&folder, &e)),
        };
        let mut folders: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        folders.sort();
        // A folder without a record is one that was never more than a name.
        folders
            .iter()
            .filter_map(|f| read(&f.join("record.json")).transpose())
            .collect()
    }
}

/// The lowest address of `pool` that is neither in `taken` nor the gateway (its first).
pub fn free_address(pool: Ipv4Net, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    pool.hosts().skip(1).find(|a| !taken.contains(a))
}

/// Every fabric address in use.
pub fn fabric_addresses(routers: &[Router], hosts: &[Host]) -> BTreeSet<Ipv4Addr> {
    routers
        .iter()
        .map(|r| r.uplink)
        .chain(hosts.iter().filter_map(|h| h.external))
        .collect()
}

/// The first address of `net`: the router's in a cloud, this machine's in the fabric.
pub fn gateway(net: Ipv4Net) -> Ipv4Addr {
    net.hosts().next().unwrap_or(net.addr())
}

/// Eight hexadecimal digits for names that must be short.
pub fn short(name: &str) -> String {
    Sha256::digest(name)
        .iter()
        .take(4)
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::Refused(format!("{}: {e}", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(trouble(path, &e)),
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let draft = path.with_extension("draft");
    let work = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::File::create(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    work().map_err(|e| trouble(path, &e))
}

fn remove(path: &Path) -> Result<()> {
    erase(path).map_err(|e| trouble(path, &e))
}

fn trouble(path: &Path, error: &io::Error) -> Error {
    Error::Transient(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_never_given_away_and_a_full_pool_says_so() {
        let pool: Ipv4Net = "10.1.0.0/29".parse().unwrap();
        let mut taken = BTreeSet::new();
        while let Some(address) = free_address(pool, &taken) {
            assert!(taken.insert(address));
        }
        assert_eq!(taken.len(), 5);
        assert!(!taken.contains(&gateway(pool)));
    }

    #[test]
    fn what_is_written_is_found_again_and_half_written_things_are_not() {
        let folder = std::env::temp_dir().join(format!("skysail-records-{}", std::process::id()));
        let records = Records::new(&folder);
        let router = Router {
            cloud: "east".into(),
            subnet: "10.1.0.0/24".parse().unwrap(),
            uplink: "198.18.0.2".parse().unwrap(),
        };
        records.put_router(&router).unwrap();
        fs::create_dir_all(folder.join("routers/west")).unwrap();
        fs::write(folder.join("routers/west/record.draft"), "{").unwrap();
        assert_eq!(records.routers().unwrap(), [router]);
        records.remove_all().unwrap();
        assert_eq!(records.routers().unwrap(), []);
    }
}

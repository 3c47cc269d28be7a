//! Hetzner Cloud: what a driver for a small cloud takes.
//!
//! Ordered twice is bought once, because the name of a server is unique in its project: it is
//! made of the Host's name and the Cloud's uid, and whoever asks for it a second time is told that it
//! exists. A token has 3600 calls an hour: whoever only looks, looks at a listing that is at the most
//! two seconds old, whatever the number of Hosts. Everything made carries the Cloud's uid as a label; nothing without it is touched.

mod api;

use crate::{
    Driver, Error, Machine, Offer, Order, Result, SshTarget, State,
    ec2::{instances::user_data, offers::matches},
    open::Account,
};
use api::Api;
use async_trait::async_trait;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use skysail_schemas::{
    cloud::HetznerSettings,
    host::Resources,
    quantity::{Bytes, Cpu},
};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How old a listing may be for one who only looks.
const FRESH: Duration = Duration::from_secs(2);
const UID: &str = "skysail.dev/cloud-uid";
const NAME: &str = "skysail.dev/machine";

/// One location of Hetzner Cloud, as one project sees it.
pub struct Hetzner {
    api: Api,
    uid: String,
    location: String,
    settings: HetznerSettings,
    listed: Arc<Listed>,
}

/// The last listing of one cloud, and when it was asked for.
type Listed = tokio::sync::Mutex<Option<(Instant, Vec<Server>)>>;

/// The last listings of all clouds, by uid. Losing them costs a call.
#[derive(Clone, Default)]
pub struct Listings(Arc<Mutex<HashMap<String, Arc<Listed>>>>);

impl fmt::Debug for Listings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listings")
    }
}

impl Listings {
    fn of(&self, uid: &str) -> Arc<Listed> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(uid.to_owned()).or_default().clone()
    }
}

#[derive(Clone, Deserialize)]
struct Server {
    id: u64,
    name: String,
    status: String,
    labels: BTreeMap<String, String>,
    public_net: Value,
    #[serde(default)]
    private_net: Vec<Value>,
}

#[derive(Deserialize)]
struct ServerType {
    name: String,
    cores: u64,
    memory: f64,
    disk: u64,
    architecture: String,
    #[serde(default)]
    deprecated: Option<bool>,
    prices: Vec<Value>,
}

#[derive(Deserialize)]
struct Key {
    id: u64,
    public_key: String,
    labels: BTreeMap<String, String>,
}

impl Hetzner {
    /// The cloud of `account`. Asks nothing yet.
    ///
    /// # Errors
    /// [`Error::Denied`] without a token.
    pub fn new(account: &Account, listings: &Listings) -> Result<Self> {
        let settings = account.spec.hetzner.clone().unwrap_or_default();
        let (place, token) = match &account.secret {
            Some(secret) => (secret.name.as_str(), secret.data.get("token").cloned()),
            None => {
                let found = std::env::var("HCLOUD_TOKEN").ok();
                (
                    "the server's environment (HCLOUD_TOKEN)",
                    found.map(String::into_bytes),
                )
            }
        };
        let token = token.and_then(|t| String::from_utf8(t).ok());
        let token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| {
            Error::Denied(format!(
                "{place} has no key token, which driver hetzner needs"
            ))
        })?;
        Ok(Self {
            api: Api::new(&account.name, &settings.endpoint, place, token),
            uid: account.uid.clone(),
            location: account.spec.region.clone().unwrap_or_default(),
            settings,
            listed: listings.of(&account.uid),
        })
    }

    /// The servers of this Cloud, as asked for at `since` or later.
    async fn servers(&self, since: Instant) -> Result<Vec<Server>> {
        let mut listed = self.listed.lock().await;
        if let Some((at, servers)) = &*listed
            && *at >= since
        {
            return Ok(servers.clone());
        }
        let at = Instant::now();
        let path = format!(
            "/servers?label_selector={}%3D{}",
            UID.replace('/', "%2F"),
            self.uid
        );
        let mut servers: Vec<Server> = self.api.all(&path, "servers").await?;
        servers.retain(|s| s.labels.get(UID) == Some(&self.uid) && s.status != "deleting");
        servers.sort_by(|a, b| a.labels.get(NAME).cmp(&b.labels.get(NAME)));
        *listed = Some((at, servers.clone()));
        Ok(servers)
    }

    /// The same for one who only looks.
    async fn glance(&self) -> Result<Vec<Server>> {
        let since = Instant::now().checked_sub(FRESH);
        self.servers(since.unwrap_or_else(Instant::now)).await
    }

    fn machine(&self, server: &Server) -> Machine {
        let address = |value: &Value| -> Option<IpAddr> { value.as_str()?.parse().ok() };
        let external = address(&server.public_net["ipv4"]["ip"]);
        let internal = server.private_net.first().and_then(|n| address(&n["ip"]));
        let reach = external.or(internal);
        let state = match server.status.as_str() {
            "running" if reach.is_some() => State::Running,
            "off" | "stopping" => State::Stopped,
            _ => State::Starting,
        };
        let mut tags = server.labels.clone();
        tags.remove(UID);
        Machine {
            id: server.id.to_string(),
            name: tags.remove(NAME).unwrap_or_default(),
            tags,
            state,
            internal: internal.or(external),
            external,
            ssh: SshTarget {
                address: reach.map(|a| a.to_string()).unwrap_or_default(),
                port: 22,
                user: "root".into(),
                proxy_command: None,
                key_secret: None,
            },
        }
    }

    /// Without a key of the project's, a server gets a password that must be changed before any login.
    async fn key(&self, public: &str) -> Result<u64> {
        let same = |key: &Key| {
            key.public_key
                .split(' ')
                .take(2)
                .eq(public.split(' ').take(2))
        };
        let keys: Vec<Key> = self.api.all("/ssh_keys?sort=id", "ssh_keys").await?;
        if let Some(key) = keys.iter().find(|k| same(k)) {
            return Ok(key.id);
        }
        let name = format!("skysail-{}-{}", self.api.cloud, self.uid);
        let body = json!({"name": name, "public_key": public, "labels": {UID: self.uid}});
        let made = self
            .api
            .call(Method::POST, "/ssh_keys", Some(&body))
            .await?;
        made["ssh_key"]["id"]
            .as_u64()
            .ok_or_else(|| Error::Transient("the answer to POST /ssh_keys has no key".into()))
    }

    async fn buy(&self, order: &Order) -> Result<Server> {
        let mut keys = vec![];
        for public in order.authorized_keys.iter().take(1) {
            keys.push(self.key(public).await?);
        }
        let mut labels = order.tags.clone();
        labels.insert(UID.into(), self.uid.clone());
        labels.insert(NAME.into(), order.name.clone());
        let short: String = self
            .uid
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(8)
            .collect();
        let name = format!("{}-{short}", order.name);
        let body = json!({
            "name": name, "server_type": order.offer, "image": self.settings.image,
            "location": self.location, "labels": labels, "ssh_keys": keys,
            "user_data": user_data(&order.name, &order.authorized_keys),
            "public_net": {"enable_ipv4": true, "enable_ipv6": false},
        });
        let server: Option<Server> =
            match self.api.call(Method::POST, "/servers", Some(&body)).await {
                Ok(mut answer) => serde_json::from_value(answer["server"].take()).ok(),
                // Bought by a call whose answer was lost, and not listed under its label yet.
                Err(Error::Refused(said)) if said.contains("uniqueness_error") => {
                    let path = format!("/servers?name={name}");
                    self.api.all::<Server>(&path, "servers").await?.pop()
                }
                Err(e) => return Err(e),
            };
        let ordered = |s: &Server| s.name == name && s.labels.get(UID) == Some(&self.uid);
        server.filter(ordered).ok_or_else(|| {
            Error::Transient(format!(
                "Cloud {}: POST /servers for {} was answered with another server; it is not used",
                self.api.cloud, order.name
            ))
        })
    }
}

#[async_trait]
impl Driver for Hetzner {
    async fn offers(&self) -> Result<Vec<Offer>> {
        let own = if std::env::consts::ARCH == "aarch64" {
            "arm"
        } else {
            "x86"
        };
        let mut types: Vec<ServerType> = self
            .api
            .all("/server_types?sort=id", "server_types")
            .await?;
        let wanted = |name: &str| self.settings.machine_types.iter().any(|p| matches(p, name));
        types.retain(|t| t.architecture == own && t.deprecated != Some(true) && wanted(&t.name));
        let offer = |t: ServerType| {
            let here = t
                .prices
                .iter()
                .find(|p| p["location"] == self.location.as_str())?;
            let price = here["price_hourly"]["net"].as_str()?.parse::<f64>().ok()?;
            Some(Offer {
                name: t.name,
                resources: Resources {
                    cpu: Cpu(t.cores * 1000),
                    memory: Bytes((t.memory * 1024.0) as u64 * (1 << 20)),
                    disk: Bytes(t.disk << 30),
                },
                price_per_hour: Some(price.to_string()),
                ..Offer::default()
            })
        };
        Ok(types.into_iter().filter_map(offer).collect())
    }

    async fn create(&self, order: &Order) -> Result<Machine> {
        let cloud = &self.api.cloud;
        if order.spot {
            let message =
                format!("Cloud {cloud}: Hetzner Cloud has no spot market; leave spec.spot out");
            return Err(Error::Refused(message));
        }
        let mine = |s: &&Server| s.labels.get(NAME) == Some(&order.name);
        let servers = self.servers(Instant::now()).await?;
        let server = match servers.into_iter().find(|s| mine(&s)) {
            Some(server) => server,
            None => self.buy(order).await?,
        };
        *self.listed.lock().await = None;
        if server.status == "off" {
            let path = format!("/servers/{}/actions/poweron", server.id);
            self.api.call(Method::POST, &path, None).await?;
        }
        Ok(self.machine(&server))
    }

    async fn get(&self, id: &str) -> Result<Machine> {
        let missing = || {
            Error::NotFound(format!(
                "Cloud {}: there is no machine {id}",
                self.api.cloud
            ))
        };
        let id: u64 = id.parse().map_err(|_| missing())?;
        if let Some(server) = self.glance().await?.iter().find(|s| s.id == id) {
            return Ok(self.machine(server));
        }
        let mut answer = self
            .api
            .call(Method::GET, &format!("/servers/{id}"), None)
            .await?;
        let server: Server = serde_json::from_value(answer["server"].take()).map_err(|e| {
            Error::Transient(format!("Cloud {}: GET /servers/{id}: {e}", self.api.cloud))
        })?;
        let ours = server.id == id && server.labels.get(UID) == Some(&self.uid);
        match ours && server.status != "deleting" {
            true => Ok(self.machine(&server)),
            false => Err(missing()),
        }
    }

    async fn list(&self) -> Result<Vec<Machine>> {
        let servers = self.glance().await?;
        Ok(servers.iter().map(|s| self.machine(s)).collect())
    }

    async fn delete(&self, id: &str) -> Result<()> {
        match self.get(id).await {
            Err(Error::NotFound(_)) => return Ok(()),
            other => other?,
        };
        let path = format!("/servers/{id}");
        let ended = self.api.call(Method::DELETE, &path, None).await;
        *self.listed.lock().await = None;
        match ended {
            Ok(_) | Err(Error::NotFound(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn retire(&self) -> Result<()> {
        if let Some(left) = self.servers(Instant::now()).await?.first() {
            let message = format!(
                "Cloud {}: machine {} is left; delete its Host first",
                self.api.cloud, left.name
            );
            return Err(Error::Refused(message));
        }
        let keys: Vec<Key> = self.api.all("/ssh_keys?sort=id", "ssh_keys").await?;
        for key in keys.iter().filter(|k| k.labels.get(UID) == Some(&self.uid)) {
            match self
                .api
                .call(Method::DELETE, &format!("/ssh_keys/{}", key.id), None)
                .await
            {
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

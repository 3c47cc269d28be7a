//! Two clouds of different makes, end to end: the sandbox, and a small EC2 whose instances are
//! machines (see `runtime/clouds/tests/double`). The cases share the system and run in order.

#[path = "../../../runtime/clouds/tests/double/mod.rs"]
mod double;

mod credentials;
mod life;

use anyhow::{Context, Result, ensure};
use double::Double;
use serde_json::Value;
use skysail_clouds::sandbox::Settings;
use skysail_e2e::{Cluster, suite, until};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// How long anything here may take.
pub const LIMIT: Duration = Duration::from_secs(120);

/// What the cases share.
pub struct Clouds {
    /// The system.
    pub cluster: Cluster,
    /// The cloud from which its Cloud `aws` buys.
    pub double: Double,
}

/// A case: its name is a sentence.
pub type Case = (&'static str, fn(&Clouds) -> Result<()>);

impl Clouds {
    fn up() -> Result<Self> {
        let cluster = Cluster::planned("e2c", &[])?;
        cluster.start(&[])?;
        let settings = Settings {
            instance: cluster.instance().to_owned(),
            block: block(cluster.instance())?,
            state_dir: cluster.data().join("sandbox"),
            cache_dir: PathBuf::from(
                std::env::var_os("SKYSAIL_CACHE").unwrap_or_else(|| "/var/cache/skysail".into()),
            ),
        };
        let double = Double::start(&settings, "10.9.0.0/24");
        let double = double.context("moto is missing: e2e/setup target/tools installs it")?;
        Ok(Self { cluster, double })
    }

    /// `kubectl apply`.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.cluster.apply(manifest)?.ok().map(drop)
    }

    /// Status, reason and message of a condition.
    pub fn condition(&self, kind: &str, name: &str, of: &str) -> Result<[String; 3]> {
        let object = self.cluster.get(kind, "acme", name)?;
        let conditions = object["status"]["conditions"].as_array();
        let found = conditions.into_iter().flatten().find(|c| c["type"] == of);
        let found = found.with_context(|| format!("{kind} {name} says nothing of {of}"))?;
        Ok(["status", "reason", "message"].map(|f| text(&found[f])))
    }

    /// Waits until a condition has this status and reason (any, where empty), and this in its message.
    pub fn says(
        &self,
        [kind, name, of]: [&str; 3],
        [status, reason, part]: [&str; 3],
    ) -> Result<Duration> {
        let what = format!("{kind} {name}: {of}={status} {reason} {part:?}");
        let (_, took) = until(&what, LIMIT, || {
            let found = self.condition(kind, name, of)?;
            let fits = found[0] == status
                && (reason.is_empty() || found[1] == reason)
                && found[2].contains(part);
            ensure!(fits, "{found:?}");
            Ok(())
        })?;
        Ok(took)
    }

    /// Waits until the object is ready.
    pub fn ready(&self, kind: &str, name: &str) -> Result<Duration> {
        self.says([kind, name, "Ready"], ["True", "", ""])
    }

    /// The instance that a Host has.
    pub fn machine(&self, host: &str) -> Result<String> {
        let host = self.cluster.get("host", "acme", host)?;
        let id = host["status"]["machineId"].as_str();
        id.map(str::to_owned).context("no machine yet")
    }

    /// Whether one container reaches another by its address in their network.
    pub fn reaches(&self, from: &str, address: &str) -> Result<()> {
        let (_, _) = until(&format!("{from} to reach {address}"), LIMIT, || {
            let ping = ["ping", "-c", "1", "-W", "1", address];
            self.cluster.exec("acme", from, &ping)?.ok()
        })?;
        Ok(())
    }
}

/// A text in an object; empty where there is none.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The addresses of the system's fabric, as its link on this machine shows them.
fn block(instance: &str) -> Result<ipnet::Ipv4Net> {
    let link = format!("{instance}-up");
    let shown = Command::new("ip")
        .args(["-4", "-o", "address", "show", "dev", &link])
        .output()?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let mut words = shown.split_whitespace().skip_while(|w| *w != "inet");
    let net: ipnet::Ipv4Net = words.nth(1).context("the fabric has no address")?.parse()?;
    Ok(net.trunc())
}

fn main() -> ExitCode {
    let listed = std::env::args().any(|a| a == "--list");
    if !listed && !Double::is_possible() {
        eprintln!("skipped: no Python with moto; `make test-deps` installs it");
        return ExitCode::SUCCESS;
    }
    let cases = [credentials::CASES, life::CASES].concat().into_iter();
    suite::run(
        Clouds::up,
        cases.map(|(name, case)| (name, move |clouds: &mut Clouds| case(clouds))),
    )
}

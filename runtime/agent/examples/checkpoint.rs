//! Freezes and restores a container of the host that it runs on, in place of the agent, which must stand still: for
//! trying and for the tests. `checkpoint VERB NAMESPACE NAME DIR [TIMES]`.

use skysail_agent::checkpoint::{self, Options};
use skysail_agent::container::apply::apply;
use skysail_agent::container::layer::Layers;
use skysail_agent::container::paths::Paths;
use skysail_agent::container::plan::{Plan, Step};
use skysail_agent::container::record::{Id, Record};
use skysail_agent::container::site::Site;
use skysail_agent::image::Images;
use skysail_agent::ports::{PortError, PortPlane};
use skysail_schemas::PortSpec;
use skysail_schemas::quantity::Bandwidth;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

/// Gives the interfaces that are there their addresses; the switch's side stays as it is.
struct Addresses;

#[async_trait::async_trait]
impl PortPlane for Addresses {
    async fn attach(
        &self,
        netns: &Path,
        ports: &[PortSpec],
        _: Option<Bandwidth>,
    ) -> Result<(), PortError> {
        for port in ports {
            let script = format!(
                "ip link show eth{i} >/dev/null 2>&1 || ip link add eth{i} type veth peer name far{i}; ip link set lo up; ip addr replace {}/{} dev eth{i}; ip link set eth{i} up; ip route replace default via {}",
                port.address,
                port.cidr.prefix_len(),
                port.gateway,
                i = port.interface
            );
            let status = Command::new("nsenter")
                .arg(format!("--net={}", netns.display()))
                .args(["sh", "-ec", &script])
                .status();
            if !status.is_ok_and(|s| s.success()) {
                return Err(PortError(script));
            }
        }
        Ok(())
    }

    async fn detach(&self, _: &[PortSpec]) -> Result<(), PortError> {
        Ok(())
    }
}

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [verb, namespace, name, dir, rest @ ..] = words.as_slice() else {
        return Err("checkpoint VERB NAMESPACE NAME DIR [TIMES]".into());
    };
    let id = Id {
        namespace: namespace.clone(),
        name: name.clone(),
    };
    let dir = PathBuf::from(dir);
    std::fs::create_dir_all(&dir)?;
    let times: usize = rest.first().map_or(Ok(1), |t| t.parse())?;
    let paths = Paths::new("/var/lib/skysail");
    let (alarms, _alarmed) = tokio::sync::mpsc::unbounded_channel();
    let nowhere = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse()?))?;
    let images = Images::open("here", "/var/lib/skysail/images".into(), nowhere)?;
    let layers = Layers::open(paths.clone()).await?;
    let site = Site::open(paths, images, layers, Arc::new(Addresses), alarms);
    let opts = Options::default();
    match verb.as_str() {
        "preflight" => {
            for obstacle in checkpoint::preflight(&site, &id).await {
                println!("{obstacle:?}");
            }
        }
        // From the record of the source in DIR/record.json: all that a restore needs.
        "prepare" => {
            let record: Record = serde_json::from_slice(&std::fs::read(dir.join("record.json"))?)?;
            std::fs::remove_file(dir.join("record.json"))?;
            let steps = vec![
                Step::Remember,
                Step::TakeIds,
                Step::Namespaces,
                Step::Root,
                Step::Ports,
            ];
            let plan = Plan {
                steps,
                ..Plan::default()
            };
            let report = apply(&site, &id, &record.desired, &plan).await;
            if let Some((step, error)) = report.steps.first_failure() {
                return Err(format!("{step}: {error}").into());
            }
        }
        "recover" => {
            let (frozen, parked) = (
                checkpoint::frozen(&site, &id, &dir).await,
                checkpoint::parked(&site, &id).await,
            );
            println!("{} {}", frozen.is_some(), parked.is_some());
        }
        // As after the commit of a move: nothing of it stays.
        "forget" => {
            let steps = vec![Step::Unmount, Step::DropNamespaces, Step::Forget];
            let plan = Plan {
                steps,
                ..Plan::default()
            };
            let report = apply(&site, &id, &site.record(&id).desired, &plan).await;
            if let Some((step, error)) = report.steps.first_failure() {
                return Err(format!("{step}: {error}").into());
            }
        }
        "freeze" => {
            let frozen = checkpoint::freeze(&site, &id, &dir, &opts).await?;
            println!("stands for {:?}", frozen.since.map(|s| s.elapsed()));
        }
        "resume" => {
            checkpoint::frozen(&site, &id, &dir)
                .await
                .ok_or("not frozen")?
                .resume(&site)
                .await?
        }
        "end" => {
            checkpoint::frozen(&site, &id, &dir)
                .await
                .ok_or("not frozen")?
                .end(&site)
                .await?
        }
        "restore" => drop(checkpoint::restore(&site, &id, &dir, &opts).await?),
        "go" => {
            checkpoint::parked(&site, &id)
                .await
                .ok_or("not parked")?
                .resume(&site)
                .await?
                .settle()
                .await?
        }
        "discard" => {
            checkpoint::parked(&site, &id)
                .await
                .ok_or("not parked")?
                .discard(&site)
                .await?
        }
        "abort" => {
            for _ in 0..times {
                let frozen = checkpoint::freeze(&site, &id, &dir, &opts).await?;
                println!("stands for {:?}", frozen.since.map(|s| s.elapsed()));
                frozen.resume(&site).await?;
            }
        }
        "cycle" => {
            for _ in 0..times {
                let begun = Instant::now();
                let frozen = checkpoint::freeze(&site, &id, &dir, &opts).await?;
                let dumped = frozen.since.map(|s| s.elapsed());
                frozen.end(&site).await?;
                let ended = begun.elapsed();
                let parked = checkpoint::restore(&site, &id, &dir, &opts).await?;
                let restored = begun.elapsed();
                parked.resume(&site).await?.settle().await?;
                println!(
                    "dump {dumped:?}, ended after {ended:?}, restored after {restored:?}, runs after {:?}",
                    begun.elapsed()
                );
                for entry in std::fs::read_dir(&dir)?.flatten() {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        other => return Err(format!("no such verb: {other}").into()),
    }
    Ok(())
}

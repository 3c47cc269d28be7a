//! `skysail top`: what is used, and what is promised.

use crate::print::Output;
use crate::refusal::explain;
use crate::verbs::get::{Scope, Selector};
use anyhow::Result;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use skysail_schemas::host::Resources;
use skysail_schemas::quantity::{Bytes, Cpu};
use skysail_schemas::{Container, Host};
use std::collections::BTreeMap;

/// Flags of `top`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail top hosts                            by name\n  skysail top hosts --sort-by memory           the fullest first\n  skysail top containers -A --sort-by cpu\n\nFor hosts, `promised` is what the containers there were given of what the host can give. `-` is what is not known, never zero."
)]
pub struct Top {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Use and promises of every host
    #[command(visible_alias = "host")]
    Hosts(Hosts),
    /// Use and limits of containers
    #[command(visible_alias = "container", visible_alias = "ct")]
    Containers(Containers),
}

#[derive(Debug, clap::Args)]
struct Hosts {
    #[command(flatten)]
    selector: Selector,
    /// The greatest first, by what is used
    #[arg(long, value_name = "COLUMN")]
    sort_by: Option<Column>,
}

#[derive(Debug, clap::Args)]
struct Containers {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    selector: Selector,
    /// The greatest first
    #[arg(long, value_name = "COLUMN")]
    sort_by: Option<Column>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Column {
    Cpu,
    Memory,
}

/// Runs the verb.
///
/// # Errors
/// When the server does not answer.
pub async fn run(client: &Client, default: &str, args: Top) -> Result<()> {
    let rows = match args.what {
        What::Hosts(args) => {
            let containers = list::<Container>(Api::all(client.clone()), "").await?;
            let hosts = list::<Host>(Api::all(client.clone()), &args.selector.labels).await?;
            hosts_table(&hosts, &containers, args.sort_by)
        }
        What::Containers(args) => {
            let api = match args.scope.place(default) {
                Some(namespace) => Api::namespaced(client.clone(), namespace),
                None => Api::all(client.clone()),
            };
            let containers = list::<Container>(api, &args.selector.labels).await?;
            containers_table(&containers, args.sort_by, args.scope.all_namespaces)
        }
    };
    let out = Output::stdout();
    out.write(&out.aligned(&rows, &mut vec![], true))?;
    Ok(())
}

async fn list<K>(api: Api<K>, labels: &str) -> Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let list = api.list(&ListParams::default().labels(labels)).await;
    Ok(list.map_err(|e| explain(e, K::plural(&())))?.items)
}

fn header(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|c| (*c).to_owned()).collect()
}

const UNKNOWN: &str = "-";

fn hosts_table(hosts: &[Host], containers: &[Container], sort: Option<Column>) -> Vec<Vec<String>> {
    let mut promised: BTreeMap<&str, (Resources, u32)> = BTreeMap::new();
    for status in containers.iter().filter_map(|c| c.status.as_ref()) {
        let (Some(host), Some(given)) = (&status.host, &status.allocation) else {
            continue;
        };
        let (sum, count) = promised.entry(host).or_default();
        sum.cpu = sum.cpu.saturating_add(given.cpu);
        sum.memory = sum.memory.saturating_add(given.memory);
        sum.disk = sum.disk.saturating_add(given.disk);
        *count += 1;
    }
    let mut hosts: Vec<&Host> = hosts.iter().collect();
    let usage = |h: &Host| h.status.as_ref().and_then(|s| s.usage.clone());
    sort_by(&mut hosts, sort, |h| usage(h).map(|u| (u.cpu, u.memory)));
    let mut rows = vec![header(&[
        "NAME",
        "CLOUD",
        "CONTAINERS",
        "CPU",
        "PROMISED",
        "MEMORY",
        "PROMISED",
        "DISK",
        "PROMISED",
        "PRESSURE cpu/mem/io",
    ])];
    for host in hosts {
        let name = host.name_any();
        let all = host.status.as_ref().and_then(|s| s.allocatable);
        let (given, count) = promised.get(name.as_str()).copied().unwrap_or_default();
        let used = usage(host);
        let share = |given: u64, all: Option<u64>| {
            all.map_or_else(
                || UNKNOWN.to_owned(),
                |all| format!("{}%", given * 100 / all.max(1)),
            )
        };
        rows.push(vec![
            name,
            host.spec
                .cloud
                .clone()
                .unwrap_or_else(|| UNKNOWN.to_owned()),
            count.to_string(),
            of(used.as_ref().map(|u| u.cpu), all.map(|a| a.cpu), |c| {
                c.to_string()
            }),
            share(given.cpu.0, all.map(|a| a.cpu.0)),
            of(used.as_ref().map(|u| u.memory), all.map(|a| a.memory), size),
            share(given.memory.0, all.map(|a| a.memory.0)),
            of(used.as_ref().map(|u| u.disk), all.map(|a| a.disk), size),
            share(given.disk.0, all.map(|a| a.disk.0)),
            used.map_or_else(
                || UNKNOWN.to_owned(),
                |u| {
                    let all = [u.cpu_pressure, u.memory_pressure, u.io_pressure];
                    all.map(pressure).join("/")
                },
            ),
        ]);
    }
    rows
}

fn containers_table(
    containers: &[Container],
    sort: Option<Column>,
    all_namespaces: bool,
) -> Vec<Vec<String>> {
    let mut containers: Vec<&Container> = containers.iter().collect();
    let usage = |c: &Container| c.status.as_ref().and_then(|s| s.usage.clone());
    sort_by(&mut containers, sort, |c| {
        usage(c).map(|u| (u.cpu, u.memory))
    });
    let mut columns = header(&["NAME", "HOST", "CPU", "MEMORY", "PROCESSES", "DISK"]);
    if all_namespaces {
        columns.insert(0, "NAMESPACE".to_owned());
    }
    let mut rows = vec![columns];
    for container in containers {
        let status = container.status.clone().unwrap_or_default();
        let (used, given) = (status.usage, status.allocation);
        let mut row = vec![
            container.name_any(),
            status.host.unwrap_or_else(|| UNKNOWN.to_owned()),
            of(
                used.as_ref().map(|u| u.cpu),
                given.as_ref().map(|g| g.cpu),
                |c| c.to_string(),
            ),
            of(
                used.as_ref().map(|u| u.memory),
                given.as_ref().map(|g| g.memory),
                size,
            ),
            of(
                used.as_ref().map(|u| u.pids),
                given.as_ref().map(|g| g.pids),
                |n| n.to_string(),
            ),
            of(
                used.as_ref().and_then(|u| u.disk),
                given.as_ref().map(|g| g.disk),
                size,
            ),
        ];
        if all_namespaces {
            row.insert(0, container.namespace().unwrap_or_default());
        }
        rows.push(row);
    }
    rows
}

/// By name, or the greatest first; what is not known comes last.
fn sort_by<K: kube::Resource>(
    objects: &mut [&K],
    column: Option<Column>,
    usage: impl Fn(&K) -> Option<(Cpu, Bytes)>,
) {
    objects.sort_by_cached_key(|o| {
        let used = usage(o).map(|(cpu, memory)| match column {
            Some(Column::Cpu) => cpu.0,
            Some(Column::Memory) => memory.0,
            None => 0,
        });
        let rank = column.map(|_| used.map_or(u64::MAX, |u| u64::MAX - 1 - u));
        (rank, o.namespace(), o.name_any())
    });
}

/// `used/all`.
fn of<T>(used: Option<T>, all: Option<T>, text: impl Fn(T) -> String) -> String {
    let one = |v: Option<T>| v.map_or_else(|| UNKNOWN.to_owned(), &text);
    if used.is_none() && all.is_none() {
        return UNKNOWN.to_owned();
    }
    format!("{}/{}", one(used), one(all))
}

/// Bytes as people read them: three digits or so.
pub fn size(bytes: Bytes) -> String {
    let units = [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    for (shift, unit) in units {
        let whole = bytes.0 >> shift;
        if whole >= 10 || (whole > 0 && bytes.0.is_multiple_of(1 << shift)) {
            return format!("{whole}{unit}");
        }
        if whole > 0 {
            let tenths = (bytes.0 >> (shift - 10)) * 10 / 1024;
            return format!("{}.{}{unit}", tenths / 10, tenths % 10);
        }
    }
    bytes.0.to_string()
}

/// Hundredths of a percent as percent.
fn pressure(value: Option<u32>) -> String {
    value.map_or_else(
        || UNKNOWN.to_owned(),
        |v| format!("{}.{}%", v / 100, v % 100 / 10),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_have_three_digits_or_so() {
        let sizes = [0, 900, 2048, 192 << 20, 1_600_000_000, 100 << 30].map(|b| size(Bytes(b)));
        assert_eq!(sizes, ["0", "900", "2Ki", "192Mi", "1.4Gi", "100Gi"]);
    }

    #[test]
    fn what_is_not_known_is_not_zero_and_comes_last() {
        let host = |name: &str, usage| -> Host {
            let status = json!({"allocatable": {"cpu": "2", "memory": "1Gi", "disk": "1Gi"}, "usage": usage});
            serde_json::from_value(json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Host", "metadata": {"name": name}, "spec": {"cloud": "east"}, "status": status})).unwrap()
        };
        let used =
            |cpu: &str| json!({"cpu": cpu, "memory": "512Mi", "disk": "1Mi", "cpuPressure": 1234});
        let hosts = [
            host("a", json!(null)),
            host("b", used("100m")),
            host("c", used("900m")),
        ];
        let db: Container = serde_json::from_value(json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Container", "metadata": {"name": "db"}, "spec": {"image": "i", "instanceType": "s"},
            "status": {"host": "b", "allocation": {"cpu": "500m", "memory": "256Mi", "disk": "1Mi"}}})).unwrap();
        let rows = hosts_table(&hosts, &[db], Some(Column::Cpu));
        let names: Vec<_> = rows.iter().map(|r| r[0].as_str()).collect();
        assert_eq!(names, ["NAME", "c", "b", "a"]);
        assert_eq!(rows[2][2..7], ["1", "100m/2", "25%", "512Mi/1Gi", "25%"]);
        assert_eq!(
            (rows[2][9].as_str(), rows[3][3].as_str()),
            ("12.3%/-/-", "-/2")
        );
    }
}

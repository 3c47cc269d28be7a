//! `skysail net check`: every container of a namespace probes every other.

use super::tenant::{Tenant, shown};
use crate::print::Output;
use crate::session::{self, Session};
use anyhow::Result;
use futures::future::join_all;
use kube::Client;
use skysail_schemas::PortSpec;
use skysail_schemas::security_policy::Service;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Flags of `net check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  skysail net check -n acme\n\nEach container that has a host pings every other one of its network from its host, and finds the largest packet that passes whole. The exit code is 1 where something is lost that no SecurityPolicy closes, or packets do not pass that fit the interface."
)]
pub struct Check {
    /// Namespace of the containers
    #[arg(short, long)]
    namespace: Option<String>,
    /// Pings for each pair
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    count: u8,
}

/// What one probe found.
#[derive(Debug, Clone, PartialEq)]
struct Probe {
    sent: u32,
    answered: u32,
    /// Least, mean, most, deviation, in milliseconds.
    times: Option<[f64; 4]>,
    /// The largest packet that passes whole; none where nothing does.
    passes: Option<u32>,
    /// What the interface sends at most.
    mtu: u32,
}

/// What is to be thought of a pair.
#[derive(Debug, Clone, PartialEq)]
enum Finding {
    Fine,
    /// A policy closes it, as it should be.
    Closed(String),
    Wrong(String),
}

/// Runs it; 1 where something is wrong.
///
/// # Errors
/// When the server does not answer.
pub async fn run(client: &Client, default: &str, args: Check) -> Result<i32> {
    let namespace = args.namespace.unwrap_or_else(|| default.into());
    let tenant = Tenant::of(client, &namespace).await?;
    let mut sources: Vec<&PortSpec> = tenant
        .ports
        .iter()
        .filter(|p| p.location.is_some())
        .collect();
    sources.sort_by_key(|p| (p.vni, p.address));
    let probes = sources.iter().map(|source| async {
        let peers = peers(&sources, source);
        (
            *source,
            probe(client, &namespace, source, &peers, args.count).await,
        )
    });
    let mut rows = vec![header()];
    let (mut wrong, mut pairs) = (0, 0);
    for (source, found) in join_all(probes).await {
        for peer in peers(&sources, source) {
            let probe = match &found {
                Ok(all) => all.get(&peer.address).ok_or("was not probed"),
                Err(e) => Err(e.as_str()),
            };
            let refused = tenant.refusal((source, peer.address), Service::Icmp(8, 0));
            let finding = judge(probe, refused);
            pairs += 1;
            wrong += u32::from(matches!(finding, Finding::Wrong(_)));
            rows.push(row(source, peer, probe.ok(), &finding));
        }
    }
    let out = Output::stdout();
    if pairs == 0 {
        out.write(&format!(
            "namespace {namespace} has no two containers on one network that have a host\n"
        ))?;
        return Ok(0);
    }
    out.write(&out.aligned(&rows, &mut vec![], true))?;
    out.write(&match wrong {
        0 => format!("\n{pairs} pairs, all as they should be\n"),
        wrong => format!("\n{wrong} of {pairs} pairs are not as they should be\n"),
    })?;
    Ok(i32::from(wrong > 0))
}

/// The others on a port's network.
fn peers<'a>(all: &[&'a PortSpec], of: &PortSpec) -> Vec<&'a PortSpec> {
    let other = |p: &&&PortSpec| p.vni == of.vni && p.container != of.container;
    all.iter().filter(other).copied().collect()
}

async fn probe(
    client: &Client,
    namespace: &str,
    source: &PortSpec,
    peers: &[&PortSpec],
    count: u8,
) -> Result<BTreeMap<Ipv4Addr, Probe>, String> {
    if peers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut query = vec![("count", count.to_string())];
    query.extend(peers.iter().map(|p| ("to", p.address.to_string())));
    let session = Session {
        namespace: namespace.to_owned(),
        container: source.container.clone(),
        action: "probe",
        query,
    };
    let done = session::captured(client, &session).await;
    let done = done.map_err(|e| format!("{e:#}"))?;
    if done.code != 0 {
        return Err(done.stderr.trim().to_owned());
    }
    Ok(done.stdout.lines().filter_map(read).collect())
}

/// One line of the agent's answer.
fn read(line: &str) -> Option<(Ipv4Addr, Probe)> {
    let [address, sent, answered, times, passes, mtu] = line
        .split_whitespace()
        .collect::<Vec<_>>()
        .try_into()
        .ok()?;
    let numbers: Option<Vec<f64>> = times.split('/').map(|n| n.parse().ok()).collect();
    let probe = Probe {
        sent: sent.parse().ok()?,
        answered: answered.parse().ok()?,
        times: numbers.and_then(|n| n.try_into().ok()),
        passes: passes.parse().ok(),
        mtu: mtu.parse().ok()?,
    };
    Some((address.parse().ok()?, probe))
}

fn judge(probe: Result<&Probe, &str>, refused: Option<String>) -> Finding {
    match (probe, refused) {
        (Err(why), _) => Finding::Wrong(why.to_owned()),
        (Ok(p), Some(policy)) if p.answered == 0 => Finding::Closed(policy),
        (Ok(_), Some(policy)) => Finding::Wrong(format!("answered, though {policy}")),
        (Ok(p), None) if p.answered == 0 => Finding::Wrong("no answer".into()),
        (Ok(p), None) if p.answered < p.sent => Finding::Wrong("packets are lost".into()),
        (Ok(p), None) if p.passes.is_none_or(|n| n < p.mtu) => {
            Finding::Wrong(format!("packets of {} bytes do not pass", p.mtu))
        }
        (Ok(_), None) => Finding::Fine,
    }
}

fn header() -> Vec<String> {
    let names = ["FROM", "TO", "LOSS", "MEAN MS", "MOST MS", "MTU", "FINDING"];
    names.map(str::to_owned).to_vec()
}

fn row(
    source: &PortSpec,
    peer: &PortSpec,
    probe: Option<&Probe>,
    finding: &Finding,
) -> Vec<String> {
    let none = || "-".to_owned();
    let loss = probe.map(|p| {
        let lost = f64::from(p.sent.saturating_sub(p.answered));
        format!("{:.0}%", 100.0 * lost / f64::from(p.sent.max(1)))
    });
    let time = |i: usize| probe.and_then(|p| Some(format!("{:.2}", p.times?[i])));
    let size = probe.and_then(|p| Some(p.passes?.to_string()));
    let finding = match finding {
        Finding::Fine => "fine".to_owned(),
        Finding::Closed(why) | Finding::Wrong(why) => why.clone(),
    };
    let cells = [loss, time(1), time(2), size].map(|c| c.unwrap_or_else(none));
    [shown(source), shown(peer)]
        .into_iter()
        .chain(cells)
        .chain([finding])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(answered: u32, passes: u32) -> Probe {
        let line = format!("10.0.0.2 5 {answered} 0.1/0.2/0.4/0.1 {passes} 1400");
        read(&line).unwrap().1
    }

    #[test]
    fn a_pair_is_fine_when_nothing_is_lost_and_the_interfaces_packets_pass() {
        assert_eq!(judge(Ok(&probe(5, 1400)), None), Finding::Fine);
        let wrong = [probe(4, 1400), probe(0, 1400), probe(5, 1300)];
        for probe in &wrong {
            assert!(
                matches!(judge(Ok(probe), None), Finding::Wrong(_)),
                "{probe:?}"
            );
        }
        assert!(matches!(judge(Err("away"), None), Finding::Wrong(_)));
    }

    #[test]
    fn what_a_policy_closes_is_wrong_only_when_it_is_answered() {
        let policy = || Some("closed".to_owned());
        let silent = read("10.0.0.2 5 0 - - 1400").unwrap().1;
        assert_eq!(silent.passes, None);
        assert_eq!(
            judge(Ok(&silent), policy()),
            Finding::Closed("closed".into())
        );
        let open = judge(Ok(&probe(5, 1400)), policy());
        assert!(matches!(open, Finding::Wrong(_)));
    }
}

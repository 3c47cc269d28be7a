//! Agents, the server, hosts and the link between them fail at every step of a live move, each in more than one way.
//! Afterwards the container runs in exactly one place, its Migration says what came of it and of its memory, nothing is
//! left on the other side, and another move succeeds.
//!
//! `make test` does a few of them, `make test-faults` all.

use crate::Case;
use crate::drain::hosts_are_ready;
use crate::faults::{SOURCE, TARGET, arm, other, was_met};
use crate::mover::{LIMIT, Mover};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::{Cluster, until};
use std::process::Command;
use std::time::Duration;

/// All of them, or (`SKYSAIL_TEST_FAULTS` is not set) one that does some of each.
pub fn cases() -> Vec<Case> {
    if std::env::var_os("SKYSAIL_TEST_FAULTS").is_none() {
        return vec![(
            "what_fails_in_a_live_move_leaves_one_container_and_the_truth",
            few,
        )];
    }
    vec![
        (
            "an_agent_stopped_at_any_step_costs_time_and_nothing_else",
            |c| all(c, &STOPPED),
        ),
        (
            "an_agent_that_is_asked_to_end_does_and_another_goes_on",
            |c| all(c, &ENDED),
        ),
        ("a_link_cut_at_any_step_and_healed_loses_nothing", |c| {
            all(c, &CUT)
        }),
        ("the_server_stopped_at_any_step_loses_nothing", |c| {
            all(c, &HALTED)
        }),
        ("a_host_that_dies_in_a_move_leaves_it_in_one_place", |c| {
            all(c, &DIES)
        }),
        ("a_target_whose_disk_is_full_is_given_up", |c| all(c, &FULL)),
        (
            "a_memory_that_is_lost_after_the_commit_is_said_to_be",
            |c| all(c, &LOST),
        ),
    ]
}

/// What goes wrong, and at which points of a move.
struct Fault {
    points: &'static [&'static [&'static str]],
    /// What is tried of it where not all is.
    few: &'static [&'static str],
    /// Asks for the move, lets it happen at the point, and looks.
    strike: fn(&Trial, &str) -> Result<()>,
}

const STOPPED: Fault = Fault {
    points: &[&SOURCE, &TARGET],
    few: &["target.prepared"],
    strike: stopped,
};
const ENDED: Fault = Fault {
    points: &[&SOURCE, &TARGET],
    few: &["source.leaving"],
    strike: ended,
};
const CUT: Fault = Fault {
    points: &[&[
        "source.copying",
        "source.freezing",
        "source.sending",
        "source.committing.before",
        "source.committing",
        "source.leaving",
        "source.clearing",
        "target.receiving",
        "target.prepared.before",
        "target.prepared",
        "target.starting",
    ]],
    few: &["source.sending"],
    strike: cut,
};
const HALTED: Fault = Fault {
    points: &[&[
        "source.copying",
        "source.sending",
        "source.committing.before",
        "source.committing",
        "source.leaving.before",
        "source.clearing",
        "target.receiving",
        "target.prepared",
        "target.starting",
    ]],
    few: &[], // it is killed in another case
    strike: halted,
};
const DIES: Fault = Fault {
    points: &[&[
        "source.sending",
        "source.leaving",
        "target.prepared.before",
        "target.starting",
    ]],
    few: &["target.prepared.before"],
    strike: dies,
};
const FULL: Fault = Fault {
    points: &[&["target.receiving"]],
    few: &["target.receiving"],
    strike: full,
};
const LOST: Fault = Fault {
    points: &[&["target.resuming"]],
    few: &["target.resuming"],
    strike: lost,
};

/// Longer than the two hosts believe a silent connection to live.
const SILENT: Duration = Duration::from_secs(11);
/// A host starts again.
const BOOT: Duration = Duration::from_secs(180);

fn few(cluster: &Cluster) -> Result<()> {
    let faults = [FULL, LOST, ENDED, CUT, STOPPED, HALTED, DIES];
    let each = faults
        .iter()
        .flat_map(|f| f.few.iter().map(|p| (f.strike, *p)));
    strike(cluster, &each.collect::<Vec<_>>())
}

fn all(cluster: &Cluster, fault: &Fault) -> Result<()> {
    let points = fault.points.iter().flat_map(|p| p.iter());
    let each = points.map(|p| (fault.strike, *p));
    strike(cluster, &each.collect::<Vec<_>>())
}

type Strike = fn(&Trial, &str) -> Result<()>;

/// Does each to one container that goes there and back.
fn strike(cluster: &Cluster, each: &[(Strike, &str)]) -> Result<()> {
    Mover::lively(cluster, "struck", "east-2", |mover| {
        for (number, (strike, point)) in each.iter().enumerate() {
            let trial = Trial::new(mover, number)?;
            strike(&trial, point).map_err(|e| e.context(format!("at {point}")))?;
            let gone = ["delete", "mig", "--all", "-n", "acme"];
            cluster.kubectl(&gone)?.ok()?;
        }
        Ok(())
    })
}

/// A move that something happens to.
struct Trial<'a> {
    mover: &'a Mover<'a>,
    number: usize,
    from: String,
    to: &'static str,
}

impl<'a> Trial<'a> {
    fn new(mover: &'a Mover<'a>, number: usize) -> Result<Self> {
        let from = mover.host()?;
        let to = other(&from);
        remember(mover)?;
        Ok(Self {
            mover,
            number,
            from,
            to,
        })
    }

    /// The host whose agent passes the point.
    fn at(&self, point: &str) -> &str {
        if point.starts_with("source") {
            &self.from
        } else {
            self.to
        }
    }

    fn name(&self) -> String {
        format!("f{}", self.number)
    }

    /// Asks for the move with something armed at the point, and waits until that is met.
    fn ask(&self, point: &str, what: &str) -> Result<()> {
        let victim = self.at(point);
        arm(self.mover.cluster, victim, &format!("{point} {what}"))?;
        let spec = json!({"mode": "Live", "target": {"host": self.to}});
        self.mover.ask(&self.name(), spec)
    }

    fn until_met(&self, point: &str) -> Result<()> {
        let met = || was_met(self.mover.cluster, self.at(point));
        until("the point to be met", LIMIT, met).map(drop)
    }

    /// Where it is, what it has, and what is said of both; then another move works.
    fn ends_well(&self, mortal: bool, limit: Duration) -> Result<()> {
        let name = self.name();
        let (status, _) = until("the migration to be finished", limit, || {
            let status = self.mover.migration(&name)?["status"].clone();
            ensure!(status["finishedAt"].is_string(), "it is {status}");
            Ok(status)
        })?;
        let moved = status["phase"] == "Succeeded";
        let expected = if moved { self.to } else { &self.from };
        let is = self.mover.host()?;
        ensure!(is == expected, "it is on {is}: {status}");
        let whole = || self.mover.is_whole();
        until("it to be whole", limit, whole).context(status.to_string())?;
        let remembers = remembers(self.mover)?;
        ensure!(remembers || mortal, "its memory is lost: {status}");
        let kept = condition(&status, "MemoryKept");
        ensure!(
            !moved || (kept["status"] == "True") == remembers,
            "it is said of its memory: {status}, and that it is kept is {remembers}"
        );
        hosts_are_ready(self.mover.cluster)?;
        let back = json!({"mode": "Live", "target": {"host": other(&is)}});
        self.mover.moves(&format!("a{}", self.number), back)?;
        self.mover.is_whole()
    }
}

fn condition(status: &Value, kind: &str) -> Value {
    let all = status["conditions"].as_array().into_iter().flatten();
    all.into_iter()
        .find(|c| c["type"] == kind)
        .cloned()
        .unwrap_or_default()
}

/// A process that is not started again by anybody.
fn remember(mover: &Mover) -> Result<()> {
    if remembers(mover)? {
        return Ok(());
    }
    let line = "setsid sleep 424242 </dev/null >/dev/null 2>&1 &";
    mover.sh(line).map(drop)
}

fn remembers(mover: &Mover) -> Result<bool> {
    let line = "pgrep -f '[s]leep 424242' >/dev/null && echo yes || echo no";
    Ok(mover.sh(line)?.trim() == "yes")
}

fn stopped(trial: &Trial, point: &str) -> Result<()> {
    let whole = std::env::var_os("SKYSAIL_TEST_FAULTS").is_some();
    trial.ask(point, if whole { "stop 30s" } else { "stop 11s" })?;
    trial.until_met(point)?;
    trial.ends_well(false, BOOT)
}

fn ended(trial: &Trial, point: &str) -> Result<()> {
    trial.ask(point, "end")?;
    trial.until_met(point)?;
    trial.ends_well(false, LIMIT)
}

/// Cuts what goes between two hosts of different clouds: the router of each drops what is meant for the other.
/// What a router's own rules say is put right again within seconds, this is not.
struct Cut([(String, String); 2]);

impl Cut {
    fn between(cluster: &Cluster, host: &str, peer: &str) -> Result<Self> {
        let end = |host: &str, peer: &str| -> Result<(String, String)> {
            let object = cluster.get("host", "default", peer)?;
            let address = object["status"]["addresses"]["external"].as_str();
            let address = address.with_context(|| format!("{peer} has no address"))?;
            let cloud = host.split('-').next().unwrap_or_default();
            Ok((
                format!("{}-r-{cloud}", cluster.instance()),
                address.to_owned(),
            ))
        };
        let cut = Self([end(host, peer)?, end(peer, host)?]);
        cut.route("replace")?;
        Ok(cut)
    }

    fn route(&self, verb: &str) -> Result<()> {
        for (router, address) in &self.0 {
            let mut command = Command::new("ip");
            command.args(["-n", router, "route", verb, "blackhole", address]);
            let output = command.output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "route in {router}: {said}");
        }
        Ok(())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Err(e) = self.route("del") {
            eprintln!("the link stays cut: {e:#}");
        }
    }
}

fn cut(trial: &Trial, point: &str) -> Result<()> {
    trial.ask(point, "pause 2s")?;
    trial.until_met(point)?;
    let cut = Cut::between(trial.mover.cluster, &trial.from, trial.to)?;
    // The time is what is tested: both ends take the other for dead.
    std::thread::sleep(SILENT);
    drop(cut);
    trial.ends_well(false, LIMIT)
}

fn halted(trial: &Trial, point: &str) -> Result<()> {
    trial.ask(point, "pause 2s")?;
    trial.until_met(point)?;
    let pid = trial.mover.cluster.server_pid()?;
    let signal = |name: &str| Command::new("kill").args([name, &pid]).status();
    signal("-STOP")?;
    std::thread::sleep(Duration::from_secs(30));
    ensure!(signal("-CONT")?.success(), "the server is gone");
    trial.ends_well(false, LIMIT)
}

fn dies(trial: &Trial, point: &str) -> Result<()> {
    trial.ask(point, "pause 60s")?;
    trial.until_met(point)?;
    trial.mover.cluster.destroy(trial.at(point))?;
    // What only the dead host had of its memory is lost.
    let mortal = point.starts_with("source") || point == "target.starting";
    trial.ends_well(mortal, BOOT)
}

fn full(trial: &Trial, _: &str) -> Result<()> {
    let (folder, host, cluster) = ("/var/lib/skysail/containers", trial.to, trial.mover.cluster);
    let on = |line: &str| cluster.on_host(host, line)?.ok().map(drop);
    let much = "dd if=/dev/urandom of=/srv/much bs=1M count=40 2>/dev/null; sync";
    trial.mover.sh(much)?;
    on(&format!(
        "mount -t tmpfs -o size=24m small-for-a-move {folder}"
    ))?;
    let spec = json!({"mode": "Live", "target": {"host": host}});
    let result = trial.mover.ask(&trial.name(), spec).and_then(|()| {
        let status = trial.mover.finished(&trial.name())?;
        let told = condition(&status, "Succeeded");
        ensure!(
            status["phase"] == "Failed" && told["reason"] == "TargetDiskFull",
            "{status}"
        );
        Ok(())
    });
    let freed = until("the small disk to be free", LIMIT, || {
        on(&format!("umount {folder}"))
    });
    result.and(freed.map(drop))?;
    trial.mover.sh("rm /srv/much")?;
    trial.ends_well(false, LIMIT)
}

fn lost(trial: &Trial, point: &str) -> Result<()> {
    trial.ask(point, &["fail"; 3].join(&format!("\n{point} ")))?;
    let status = trial.mover.finished(&trial.name())?;
    let reason = |kind: &str| condition(&status, kind)["reason"].clone();
    ensure!(
        reason("MemoryKept") == "MemoryLost" && reason("Succeeded") == "MovedWithoutMemory",
        "{status}"
    );
    ensure!(!remembers(trial.mover)?, "it was not started anew");
    trial.ends_well(true, LIMIT)
}

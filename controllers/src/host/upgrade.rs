//! Agents of another build than ours are replaced, a few at a time. Pure.
//!
//! An agent tells in its Host's status which program it runs. Where that is not the one
//! that runs here, the Host is bootstrapped over SSH once more, with its containers
//! running on: an agent may end at any time. A tenth of the Hosts at a time, one at
//! least, and a Host holds its place until the new agent has reported; so a build that
//! does not work stops at the first.

use super::plan::{Observed, Report, usable};
use super::status;
use kube::ResourceExt;
use skysail_schemas::condition::Fact;
use skysail_schemas::{Host, host::HostPhase};
use std::sync::Arc;

/// The condition of a Host that tells of it; no part of `Ready`.
pub const CONDITION: &str = "AgentCurrent";
const WAITS: &str = "WaitsForTurn";
const AWAITS: &str = "AwaitingReport";

/// What is to be done about the build of a Host's agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Upgrade {
    /// Nobody knows its build: it is silent, or has not reported yet.
    #[default]
    Unknown,
    /// It is ours.
    Current,
    /// It is another one, and these Hosts come first.
    Waits(String),
    /// It is another one, and is replaced now.
    Now,
}

/// Whether the agent that last reported runs another program than `binary`. One that reports without telling is
/// older than the question.
fn is_other(host: &Host, binary: &str) -> bool {
    let status = host.status.as_ref();
    status.is_some_and(|s| s.agent_version.is_some() && s.agent_build.as_deref() != Some(binary))
}

fn said(host: &Host) -> Option<&str> {
    let conditions = host.status.iter().flat_map(|s| &s.conditions);
    let mut said = conditions.filter(|c| c.type_ == CONDITION && c.status == "False");
    said.next().map(|c| c.reason.as_str())
}

/// Whether the replacement is under way: announced, and not failed with the old agent still there.
fn is_under_way(host: &Host) -> bool {
    said(host).is_some_and(|reason| reason != WAITS && !reason.ends_with("Failed"))
}

/// Whether the agent of `host`, one of `hosts`, is to be replaced by `binary` now.
pub fn turn(host: &Host, hosts: &[Arc<Host>], binary: &str) -> Upgrade {
    let Some(status) = host.status.as_ref().filter(|s| s.agent_version.is_some()) else {
        return Upgrade::Unknown;
    };
    if status.agent_build.as_deref() == Some(binary) {
        return Upgrade::Current;
    }
    if said(host).is_some_and(|reason| reason != WAITS) {
        return Upgrade::Now;
    }
    let name = host.name_any();
    let others = || hosts.iter().filter(|h| h.name_any() != name);
    let mut first: Vec<String> = others()
        .filter(|h| is_other(h, binary) && is_under_way(h))
        .map(|h| h.name_any())
        .collect();
    // Of those that wait, the first by name goes first; one that is away waits for nobody.
    let runs = |h: &&Arc<Host>| {
        h.status
            .as_ref()
            .is_some_and(|s| s.phase == HostPhase::Running)
    };
    let before = others().filter(|h| {
        is_other(h, binary) && said(h).is_none_or(|r| r == WAITS) && h.name_any() < name
    });
    first.extend(before.filter(runs).map(|h| h.name_any()));
    if first.len() < (hosts.len() / 10).max(1) {
        return Upgrade::Now;
    }
    first.sort();
    first.truncate(3);
    Upgrade::Waits(first.join(", "))
}

/// The next Host in the row, when another one has changed.
pub fn next(hosts: &[Arc<Host>]) -> Option<Arc<Host>> {
    let waits = hosts.iter().filter(|h| said(h) == Some(WAITS));
    waits.min_by_key(|h| h.name_any()).cloned()
}

/// What is said of it; nothing where nothing is known.
pub fn fact(observed: &Observed, report: &Report) -> Option<Fact> {
    let no = |reason: &str, message: String| Some(Fact::no(CONDITION, reason, message));
    match &observed.upgrade {
        Upgrade::Unknown => return None,
        Upgrade::Current => {
            return Some(Fact::yes(
                CONDITION,
                "SameBuild",
                "the agent is of the server's build",
            ));
        }
        Upgrade::Waits(first) => {
            return no(
                WAITS,
                format!("its agent is of another build and is replaced after those of {first}"),
            );
        }
        Upgrade::Now => {}
    }
    if let Some((step, e)) = &report.failed
        && let Some([_, failed]) = step.doing()
    {
        return no(
            failed,
            format!("replacing the agent: {}: {e}", step.title()),
        );
    }
    match &observed.probe {
        Some(Err(trouble)) => {
            let fact = status::unreachable(trouble);
            return no(
                "LoginFailed",
                format!(
                    "the agent is of another build and cannot be replaced: {}",
                    fact.message
                ),
            );
        }
        Some(Ok(probe)) => {
            if let Err(e) = usable(probe) {
                return no("NotUsableFailed", e.to_string());
            }
        }
        None => {}
    }
    let next = status::left(observed, report)
        .into_iter()
        .find_map(|step| step.doing().map(|[doing, _]| (doing, step.title())));
    match next {
        Some((doing, title)) => no(doing, format!("replacing the agent: {title}")),
        None => no(
            AWAITS,
            "the new agent was started and has not reported yet".into(),
        ),
    }
}

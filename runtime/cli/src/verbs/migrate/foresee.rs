//! `skysail migrate --dry-run`: where each container would go by placement's own rules, and what that would take.

use super::How;
use crate::print::{Output, clean};
use crate::verbs::plan::world;
use anyhow::{Result, bail};
use jiff::Timestamp;
use kube::ResourceExt as _;
use skysail_controllers::placement::board::Board;
use skysail_controllers::placement::elsewhere;
use skysail_controllers::placement::snapshot::Snapshot;
use skysail_schemas::Container;
use skysail_schemas::duration::Span;
use skysail_schemas::estimate::{Burden, Estimate};
use skysail_schemas::migration::{MigrationMode, MigrationTarget};
use skysail_schemas::quantity::{Bandwidth, Bytes};
use std::sync::Arc;

/// How something would be moved.
struct Wish {
    target: MigrationTarget,
    mode: MigrationMode,
    budget: Option<Span>,
    limit: Option<Bandwidth>,
}

/// Says it.
///
/// # Errors
/// When the server does not answer, or one of them would be refused.
pub async fn tell(client: &kube::Client, how: &How, containers: Vec<Container>) -> Result<()> {
    let wish = Wish {
        target: how.target(),
        mode: how.mode(),
        budget: how.freeze_budget,
        limit: how.bandwidth,
    };
    let snapshot = Snapshot::new(world::read(client).await?, Timestamp::now());
    let mut board = Board::new(&snapshot);
    let head = [
        "CONTAINER",
        "FROM",
        "TO",
        "MODE",
        "BYTES",
        "FREEZE",
        "TOTAL",
        "NOTE",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let (mut refused, mut sum) = (0, Estimate::default());
    for container in containers {
        let container = Arc::new(container);
        match one(&mut board, &container, &wish) {
            Ok((row, estimate)) => {
                sum.bytes.0 += estimate.bytes.0;
                sum.freeze = sum.freeze.max(estimate.freeze);
                rows.push(row);
            }
            Err(why) => {
                refused += 1;
                let cells = [container.name_any(), host(&container), "-".to_owned()];
                let refused = ["-", "-", "-", "-"].map(str::to_owned).into_iter();
                rows.push(
                    cells
                        .into_iter()
                        .chain(refused)
                        .chain([clean(&why)])
                        .collect(),
                );
            }
        }
    }
    let out = Output::stdout();
    out.write(&out.aligned(&rows, &mut vec![], true))?;
    let all = rows.len() - 1;
    out.write(&format!(
        "{} of {all} would be moved: about {} in all, each stands still for {} at the most (nothing was changed)\n",
        all - refused, sum.bytes, sum.freeze
    ))?;
    if all == 0 {
        bail!("the selector picks no container of the namespace");
    }
    if refused > 0 {
        bail!("{refused} of {all} would not be moved");
    }
    Ok(())
}

fn host(container: &Container) -> String {
    let host = container.status.as_ref().and_then(|s| s.host.clone());
    host.unwrap_or_else(|| "-".into())
}

/// A row, and what it would take; or why it would be refused.
fn one(
    board: &mut Board<'_>,
    container: &Arc<Container>,
    wish: &Wish,
) -> Result<(Vec<String>, Estimate), String> {
    let status = container.status.clone().unwrap_or_default();
    if status.host.is_none() {
        return Err("NotPlaced: it has no host yet".to_owned());
    }
    let found = elsewhere::from(board, container, &wish.target);
    let (_, _, found) = found.map_err(|e| format!("{}: {}", e.reason, e.message))?;
    let usage = status.usage.clone().unwrap_or_default();
    let burden = Burden {
        memory: usage.memory,
        processes: usage.pids,
        files: usage.disk.unwrap_or_default(),
        left: Bytes::default(),
        rate: None,
        limit: wish.limit,
    };
    let (mode, mut note) = mode(container, &burden, wish)?;
    let estimate = match mode {
        MigrationMode::Cold => burden.cold(),
        _ => burden.live(),
    };
    if usage.disk.is_none() {
        note += " how much it wrote is not known, as its disk has no limit";
    }
    let cells = [
        container.name_any(),
        host(container),
        found.host,
        format!("{mode:?}"),
        estimate.bytes.to_string(),
        estimate.freeze.to_string(),
        estimate.total.to_string(),
        clean(note.trim()),
    ];
    Ok((cells.to_vec(), estimate))
}

/// What would be done, and why not what was asked for.
fn mode(
    container: &Container,
    burden: &Burden,
    wish: &Wish,
) -> Result<(MigrationMode, String), String> {
    if wish.mode == MigrationMode::Cold {
        return Ok((MigrationMode::Cold, String::new()));
    }
    let conditions = container.status.iter().flat_map(|s| &s.conditions);
    let told = conditions.clone().find(|c| c.type_ == "Migratable");
    let obstacle = told.filter(|c| c.status != "True");
    let obstacle = obstacle.map(|c| format!("{}: {}", c.reason, c.message));
    let freeze = burden.live().freeze;
    let over = wish.budget.filter(|b| freeze > *b);
    let over =
        over.map(|b| format!("FreezeBudget: it would stand still for {freeze}, {b} is allowed"));
    match obstacle.or(over) {
        None => Ok((MigrationMode::Live, String::new())),
        Some(why) if wish.mode == MigrationMode::Live => Err(why),
        Some(why) => Ok((MigrationMode::Cold, format!("its memory is lost: {why}"))),
    }
}

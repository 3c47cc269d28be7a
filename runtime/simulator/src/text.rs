//! A run for people.

use crate::account::Account;
use crate::world::World;
use std::fmt::Write as _;

/// Lines of the timeline that are printed, at the most.
const LINES: usize = 400;

/// A time of the run: `1d 02:03:04`.
pub fn clock(ms: u64) -> String {
    let s = ms / 1000;
    let day = if s >= 86_400 {
        format!("{}d ", s / 86_400)
    } else {
        String::new()
    };
    let s = s % 86_400;
    format!("{day}{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

fn seconds(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{:.1}s", ms as f64 / 1000.0),
        60_000..3_600_000 => format!("{:.1}m", ms as f64 / 60_000.0),
        _ => format!("{:.1}h", ms as f64 / 3.6e6),
    }
}

/// What happened, and what it came to.
pub fn text(world: &World) -> String {
    let scenario = &world.scenario;
    let mut text = format!(
        "{}: {} in steps of {}, seed {}\n\n",
        scenario.name, scenario.duration, scenario.step, scenario.seed
    );
    for line in world.log.iter().take(LINES) {
        let _ = writeln!(text, "{:>12}  {}", clock(line.at), line.text);
    }
    if world.log.len() > LINES {
        let more = world.log.len() - LINES;
        let _ = writeln!(text, "{:>12}  {more} more lines: --json has all", "...");
    }
    text.push('\n');
    for (what, value) in summary(world) {
        let _ = writeln!(text, "{what:<12} {value}");
    }
    text
}

/// What it came to, by name.
pub fn summary(world: &World) -> Vec<(&'static str, String)> {
    let account = &world.account;
    let length = world.scenario.duration.0.max(1) as f64;
    let cost = Account::money(account.spent);
    let alone = Account::money(account.alone);
    let hours = length / 3.6e6;
    let share = if alone > 0.0 {
        cost * 100.0 / alone
    } else {
        0.0
    };
    let moves: Vec<String> = account
        .moves
        .iter()
        .map(|(why, n)| format!("{why} {n}"))
        .collect();
    let moves = if moves.is_empty() {
        String::new()
    } else {
        format!(" ({})", moves.join(", "))
    };
    let (promised, there) = account.promised;
    let hot_share = account.hot as f64 * 100.0 / account.host_time.max(1) as f64;
    vec![
        (
            "containers",
            format!(
                "{} came, {} left, {} were lost; {} of waiting in all",
                account.arrived,
                account.left,
                account.lost,
                seconds(account.waiting)
            ),
        ),
        (
            "hosts",
            format!(
                "{:.1} on average, {} at the most; {} bought, {} given back; {:.0}% of their cores promised",
                account.host_time as f64 / length,
                account.most_hosts,
                account.bought,
                account.returned,
                promised as f64 * 100.0 / (there.max(1) as f64)
            ),
        ),
        (
            "cost",
            format!(
                "{cost:.3} in all, {:.4} per hour; one machine per container {alone:.3} ({share:.0}%)",
                cost / hours
            ),
        ),
        (
            "moves",
            format!(
                "{} done{moves}, {} given up; {:.1} GiB sent, {} stood still",
                account.moved.len(),
                account.gave_up,
                account.bytes as f64 / f64::from(1 << 30),
                seconds(account.frozen)
            ),
        ),
        (
            "hot hosts",
            format!(
                "{hot_share:.2}% of their time, {} at a stretch",
                seconds(account.longest_hot)
            ),
        ),
        (
            "laws",
            if account.broken.is_empty() {
                "held at every step: no host over capacity, no budget exceeded".into()
            } else {
                format!("BROKEN: {}", account.broken.join("; "))
            },
        ),
    ]
}

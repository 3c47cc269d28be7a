//! The whole system in one process, without kernels: a world in memory on a manual clock, and the real planners of
//! placement, rebalancing and host pools on it.
//!
//! What is simulated is what machines and containers do (booting, using, failing, moving); every decision is made by
//! the controllers' own code. The same scenario and seed give the same run, to the letter. After every step the laws
//! are looked at: no host holds more than it can give, no budget is exceeded, a policy that reports moves nothing.
//!
//! `scenario.rs` is what users write; `world.rs` what there is; `life.rs`, `machines.rs` and `moves.rs` what happens;
//! `engine.rs` the clock and the laws; `account.rs` and `text.rs` what it came to; `packing.rs` compares purchases.

mod account;
mod engine;
mod life;
mod machines;
mod moves;
pub mod packing;
mod random;
mod scenario;
mod text;
mod world;

pub use account::Account;
pub use scenario::{Mistake, Scenario};
pub use world::Line;

use serde_json::{Value, json};
use world::World;

/// A run that is over.
pub struct Run(World);

/// Runs a scenario from its beginning to its end.
pub fn simulate(scenario: Scenario) -> Run {
    let mut world = World::new(scenario);
    world.run();
    Run(world)
}

impl Run {
    /// What it came to.
    pub fn account(&self) -> &Account {
        &self.0.account
    }

    /// What happened.
    pub fn log(&self) -> &[Line] {
        &self.0.log
    }

    /// For people.
    pub fn text(&self) -> String {
        text::text(&self.0)
    }

    /// For programs: the timeline, the sums, and the policies' and pools' last statuses.
    pub fn json(&self) -> Value {
        let world = &self.0;
        let length = world.scenario.duration.0.max(1) as f64 / 3.6e6;
        let cost = Account::money(world.account.spent);
        json!({
            "scenario": world.scenario.name,
            "seed": world.scenario.seed,
            "cost": cost,
            "costPerHour": cost / length,
            "costOfOneMachinePerContainer": Account::money(world.account.alone),
            "account": world.account,
            "policies": world.policies.iter().map(|p| json!({"name": p.metadata.name, "status": p.status})).collect::<Vec<_>>(),
            "pools": world.pools.iter().map(|p| json!({"name": p.metadata.name, "status": p.status})).collect::<Vec<_>>(),
            "hosts": world.objects.hosts.iter().map(|h| &h.metadata.name).collect::<Vec<_>>(),
            "timeline": world.log,
        })
    }
}

//! Machines are bought, boot, and are given back.

use crate::world::World;
use kube::ResourceExt;
use serde_json::json;
use skysail_controllers::host_pool::plan::{LEAVING, Plan, Seen, plan};
use skysail_controllers::placement::request::full_name;
use skysail_schemas::Host;
use std::sync::Arc;

impl World {
    /// Machines whose boot is over report; what clouds take back ends.
    pub fn boot(&mut self) {
        let now = self.now;
        let up: Vec<String> = self
            .objects
            .hosts
            .iter()
            .filter(|h| {
                let refused = h.status.as_ref().is_some_and(|s| !s.conditions.is_empty());
                let ready = self
                    .machines
                    .get(&h.name_any())
                    .is_some_and(|m| m.ready <= now);
                ready && !refused
            })
            .map(|h| h.name_any())
            .collect();
        for name in up {
            self.come_up(&name);
            self.say(format!("{name} is up"));
        }
        let taken: Vec<String> = self
            .machines
            .iter()
            .filter(|(_, m)| m.taken.is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in taken {
            let on = |c: &Arc<skysail_schemas::Container>| {
                c.status.as_ref().and_then(|s| s.host.as_deref()) == Some(name.as_str())
            };
            let lost: Vec<String> = self
                .objects
                .containers
                .iter()
                .filter(|c| on(c))
                .map(|c| full_name(c))
                .collect();
            for lost in &lost {
                self.lives.remove(lost);
            }
            self.objects.containers.retain(|c| !on(c));
            self.account.lost += lost.len() as u64;
            self.say(format!("{name} is gone, with {} containers", lost.len()));
            self.drop_host(&name);
        }
    }

    fn drop_host(&mut self, name: &str) {
        self.machines.remove(name);
        self.objects.hosts.retain(|h| h.name_any() != name);
    }

    /// The pools' own planner looks, and what it says is done.
    pub fn pool(&mut self) {
        if self.pools.is_empty() {
            return;
        }
        let seen = Seen {
            pools: self.pools.clone(),
            objects: self.objects.clone(),
        };
        let planned = plan(&seen, self.now);
        drop(seen);
        self.pooled(planned);
    }

    fn pooled(&mut self, planned: Plan) {
        for (host, closed) in planned.cordon {
            if let Some(host) = self.host_mut(&host.name_any()) {
                host.spec.unschedulable = closed;
                host.annotations_mut().remove(LEAVING);
                if closed {
                    host.annotations_mut().insert(LEAVING.into(), "true".into());
                }
            }
        }
        for host in planned.remove {
            let name = host.name_any();
            self.account.returned += 1;
            self.say(format!("gives back {name}"));
            self.drop_host(&name);
        }
        for host in planned.create {
            self.order(host);
        }
        for (pool, status) in planned.status {
            let mut pools = self.pools.iter_mut();
            if let Some(there) = pools.find(|p| p.name_any() == pool.name_any()) {
                Arc::make_mut(there).status = Some(status);
            }
        }
    }

    fn order(&mut self, mut host: Host) {
        let kind = host.spec.machine_type.clone().unwrap_or_default();
        let cloud = host.spec.cloud.clone().unwrap_or_default();
        let none = self
            .exhausted
            .get(&kind)
            .is_some_and(|until| *until > self.now);
        let wish = self.scenario.clouds.iter().find(|c| c.name == cloud);
        let quota = wish.and_then(|c| c.quota);
        let of_cloud = |h: &&Arc<Host>| h.spec.cloud.as_ref() == Some(&cloud);
        let has = self.objects.hosts.iter().filter(of_cloud).count();
        let reason = match (none, quota) {
            (true, _) => Some("NoCapacity"),
            (_, Some(most)) if has >= most => Some("QuotaExceeded"),
            _ => None,
        };
        let uid = self.uid();
        host.metadata.uid = Some(uid);
        host.metadata.creation_timestamp = Some(crate::world::time(self.now));
        let name = host.name_any();
        let Some(reason) = reason else {
            self.account.bought += 1;
            self.say(format!("buys {name} ({kind})"));
            return self.add(host, false);
        };
        self.say(format!("{kind} for {name} is refused: {reason}"));
        let no = json!([{"type": "Provisioned", "status": "False", "reason": reason, "message": "", "lastTransitionTime": self.now}]);
        host.status = serde_json::from_value(json!({"phase": "Failed", "conditions": no})).ok();
        self.objects.hosts.push(Arc::new(host));
    }
}

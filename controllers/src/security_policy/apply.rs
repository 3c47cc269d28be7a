//! Effects of the SecurityPolicy controller: none but its status.

use super::plan::{self, Observed};
use crate::Context;
use jiff::Timestamp;
use skysail_reconcile::{Error, Outcome, Reconciler};
use skysail_schemas::{SecurityPolicy, SecurityPolicyStatus};
use std::sync::Arc;

pub(super) struct PolicyReconciler {
    pub context: Arc<Context>,
}

impl Reconciler for PolicyReconciler {
    type Kind = SecurityPolicy;
    type Observed = Observed;
    type Plan = ();
    type Report = ();
    const NAME: &'static str = "security-policy";

    async fn observe(&self, policy: &SecurityPolicy) -> Result<Observed, Error> {
        let ports = self.context.ports.list();
        let said = |host: &str| {
            let host = self.context.hosts.get(None, host)?;
            Some(plan::said(&host))
        };
        Ok(plan::observe(policy, ports.iter().map(|p| &**p), said))
    }

    fn plan(_policy: &SecurityPolicy, _observed: &Observed, _now: Timestamp) {}

    async fn apply(&self, _policy: &SecurityPolicy, _plan: &()) {}

    fn status(
        policy: &SecurityPolicy,
        observed: &Observed,
        _plan: &(),
        _report: &(),
        now: Timestamp,
    ) -> Outcome<SecurityPolicyStatus> {
        plan::status(policy, observed, now)
    }
}

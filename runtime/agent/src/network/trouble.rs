//! What is wrong with networks that containers here were given: found by the plane at its
//! every pass, asked for by who tells the API. What passes within a moment, as when the
//! switch is started again, is nobody's concern.

use super::error::Result;
use super::plane::Pass;
use super::record::{PortKey, key};
use skysail_schemas::PortSpec;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shorter trouble is not told.
const MOMENT: Duration = Duration::from_secs(5);

/// What something concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Host,
    Network(u32),
    Port(PortKey),
}

/// The troubles of one host, each since when.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<Of, (Instant, String)>>);

impl Troubles {
    /// Takes what came of a pass.
    pub fn note(&self, outcome: &Result<Pass>, now: Instant) {
        let mut found = BTreeMap::new();
        match outcome {
            Err(e) => {
                found.insert(Of::Host, e.to_string());
            }
            Ok(pass) => {
                found.extend(
                    pass.ports
                        .iter()
                        .map(|(k, e)| (Of::Port(*k), e.to_string())),
                );
                let networks = pass.networks.iter();
                found.extend(networks.map(|(vni, e)| (Of::Network(*vni), e.clone())));
            }
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |of: &Of| known.get(of).map_or(now, |(since, _)| *since);
        let next = found.into_iter().map(|(of, e)| (of, (since(&of), e)));
        *known = next.collect();
    }

    /// What is wrong with any of `ports`.
    pub fn with(&self, ports: &[PortSpec], now: Instant) -> Option<String> {
        let first = ports.first()?;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = ports.iter().map(|p| Of::Port(key(p)));
        let all = all.chain(ports.iter().map(|p| Of::Network(p.vni)));
        let mut lasting = all.chain([Of::Host]).filter_map(|of| {
            let (since, message) = known.get(&of)?;
            (now.duration_since(*since) >= MOMENT).then(|| message.clone())
        });
        let message = lasting.next()?;
        Some(format!(
            "the network {} does not work as it must here: {message}; it is tried again every two seconds",
            first.network
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::error::Error;

    fn port(vni: u32, address: &str) -> PortSpec {
        let spec = serde_json::json!({
            "container": "c", "network": "net", "interface": 0, "vni": vni, "address": address, "cidr": "10.0.0.0/24",
            "gateway": "10.0.0.1", "mac": "02:07:0a:00:00:02", "dnsDomain": "x", "egress": false,
        });
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn trouble_that_lasts_is_told_of_those_whom_it_concerns_until_it_is_over() {
        let (troubles, begun) = (Troubles::default(), Instant::now());
        let (one, two) = (port(7, "10.0.0.2"), port(8, "10.0.0.2"));
        let broken = || {
            let networks = [(7, "no gateway".to_owned())].into();
            Ok(Pass {
                networks,
                ..Pass::default()
            })
        };
        troubles.note(&broken(), begun);
        let tells = |port: &PortSpec, after: Duration| {
            troubles.with(std::slice::from_ref(port), begun + after)
        };
        assert_eq!(tells(&one, Duration::from_secs(1)), None, "it may pass");
        troubles.note(&broken(), begun + Duration::from_secs(4));
        let told = tells(&one, MOMENT).unwrap();
        assert!(
            told.contains("network net") && told.contains("no gateway"),
            "{told}"
        );
        assert_eq!(tells(&two, MOMENT), None, "another network");
        assert_eq!(troubles.with(&[], begun + MOMENT), None);

        troubles.note(&Err(Error::Switch("it is gone".into())), begun + MOMENT);
        assert!(tells(&two, MOMENT * 2).unwrap().contains("it is gone"));
        troubles.note(&Ok(Pass::default()), begun + MOMENT * 2);
        assert_eq!(tells(&two, MOMENT * 9), None, "it is over");
    }
}

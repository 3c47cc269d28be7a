//! What a policy must satisfy, each mistake with its field and the way out.

use super::{Direction, IpBlock, Peer, PolicyPort, PolicyProtocol, SecurityPolicySpec};
use crate::validate::{Cause, Errors, Validate};
use ipnet::Ipv4Net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;

/// Rules of one direction, peers of one rule, ports of one rule: what a switch can be asked to hold.
const MOST: usize = 128;

impl Validate for SecurityPolicySpec {
    fn validate(&self, name: &str, _old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        selector(&self.container_selector, "spec.containerSelector", errors);
        self.check_types(errors);
        for (direction, at, peers_at) in [
            (Direction::Ingress, "spec.ingress", "from"),
            (Direction::Egress, "spec.egress", "to"),
        ] {
            let rules = self.rules(direction);
            at_most(rules.len(), at, "rules", errors);
            for (i, (peers, ports)) in rules.into_iter().enumerate() {
                let at = format!("{at}[{i}]");
                at_most(peers.len(), &format!("{at}.{peers_at}"), "peers", errors);
                at_most(ports.len(), &format!("{at}.ports"), "ports", errors);
                for (j, peer) in peers.iter().enumerate() {
                    check_peer(peer, &format!("{at}.{peers_at}[{j}]"), errors);
                }
                for (j, port) in ports.iter().enumerate() {
                    check_port(port, &format!("{at}.ports[{j}]"), errors);
                }
            }
        }
    }
}

impl SecurityPolicySpec {
    fn check_types(&self, errors: &mut Errors) {
        let Some(types) = &self.policy_types else {
            return;
        };
        let at = "spec.policyTypes";
        if types.is_empty() {
            errors.push(
                Cause::Required,
                at,
                "names no direction: write Ingress, Egress or both, or leave it out",
            );
        }
        for (i, kind) in types.iter().enumerate() {
            if types[..i].contains(kind) {
                errors.push(
                    Cause::Duplicate,
                    format!("{at}[{i}]"),
                    format!("{kind:?} stands twice"),
                );
            }
        }
        for (direction, field) in [
            (Direction::Ingress, "spec.ingress"),
            (Direction::Egress, "spec.egress"),
        ] {
            if !types.is_empty() && !types.contains(&direction) && !self.rules(direction).is_empty()
            {
                errors.push(
                    Cause::Forbidden,
                    field,
                    format!("has rules that would do nothing: name {direction:?} in {at}, or remove them"),
                );
            }
        }
    }
}

fn at_most(count: usize, at: &str, what: &str, errors: &mut Errors) {
    if count > MOST {
        errors.push(
            Cause::TooMany,
            at,
            format!("has {count} {what}, of at most {MOST}; write several policies, they add up"),
        );
    }
}

fn selector(selector: &LabelSelector, at: &str, errors: &mut Errors) {
    if let Err(e) = Selector::try_from(selector.clone()) {
        errors.push(Cause::Invalid, at, e.to_string());
    }
}

fn check_peer(peer: &Peer, at: &str, errors: &mut Errors) {
    match (&peer.container_selector, &peer.ip_block) {
        (Some(named), None) => selector(named, &format!("{at}.containerSelector"), errors),
        (None, Some(block)) => check_block(block, &format!("{at}.ipBlock"), errors),
        (None, None) => errors.push(
            Cause::Required,
            at,
            "needs either containerSelector ({} is every container) or ipBlock",
        ),
        (Some(_), Some(_)) => errors.push(
            Cause::Forbidden,
            format!("{at}.ipBlock"),
            "cannot stand beside containerSelector: write two peers",
        ),
    }
}

fn check_block(block: &IpBlock, at: &str, errors: &mut Errors) {
    let Some(whole) = check_cidr(&block.cidr, &format!("{at}.cidr"), errors) else {
        return;
    };
    at_most(
        block.except.len(),
        &format!("{at}.except"),
        "blocks",
        errors,
    );
    for (i, except) in block.except.iter().enumerate() {
        let at = format!("{at}.except[{i}]");
        if let Some(part) = check_cidr(except, &at, errors) {
            errors.check(
                whole.contains(&part) && whole != part,
                &at,
                format!("{part} is no part of {whole}"),
            );
        }
    }
}

fn check_cidr(text: &str, at: &str, errors: &mut Errors) -> Option<Ipv4Net> {
    let Ok(net) = text.parse::<Ipv4Net>() else {
        errors.push(
            Cause::Invalid,
            at,
            format!("{text:?} is no block of IPv4 addresses, such as 10.0.0.0/24 or 10.0.0.7/32"),
        );
        return None;
    };
    let trunc = net.trunc();
    errors.check(
        net == trunc,
        at,
        format!("{net} has host bits set; write {trunc}"),
    );
    Some(trunc)
}

fn check_port(port: &PolicyPort, at: &str, errors: &mut Errors) {
    let forbid = |set: bool, field: &str, why: &str, errors: &mut Errors| {
        if set {
            errors.push(Cause::Forbidden, format!("{at}.{field}"), why);
        }
    };
    if port.protocol == PolicyProtocol::Icmp {
        let why = "ICMP has no ports: use icmpType and icmpCode";
        forbid(port.port.is_some(), "port", why, errors);
        forbid(port.end_port.is_some(), "endPort", why, errors);
        if port.icmp_code.is_some() && port.icmp_type.is_none() {
            errors.push(
                Cause::Required,
                format!("{at}.icmpType"),
                "a code only means something together with its type",
            );
        }
        return;
    }
    let why = "is for protocol ICMP only";
    forbid(port.icmp_type.is_some(), "icmpType", why, errors);
    forbid(port.icmp_code.is_some(), "icmpCode", why, errors);
    errors.check(
        port.port != Some(0),
        &format!("{at}.port"),
        "must be between 1 and 65535",
    );
    match (port.port, port.end_port) {
        (None, Some(_)) => errors.push(
            Cause::Required,
            format!("{at}.port"),
            "endPort needs port, where the range begins",
        ),
        (Some(first), Some(last)) => errors.check(
            first <= last,
            &format!("{at}.endPort"),
            format!("{last} is less than port {first}"),
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn mistakes(spec: Value) -> Vec<String> {
        let spec: SecurityPolicySpec = serde_json::from_value(spec).unwrap();
        let mut errors = Errors::default();
        spec.validate("web", None, &mut errors);
        errors.0.iter().map(|e| e.field.clone()).collect()
    }

    fn ingress(rule: Value) -> Vec<String> {
        mistakes(json!({"containerSelector": {}, "ingress": [rule]}))
    }

    #[test]
    fn what_users_of_network_policies_write_is_accepted() {
        let spec = json!({
            "containerSelector": {"matchLabels": {"app": "db"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [{"containerSelector": {"matchLabels": {"app": "web"}}},
                          {"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.128/25"]}}],
                 "ports": [{"port": 5432}, {"protocol": "UDP", "port": 1000, "endPort": 2000},
                           {"protocol": "ICMP", "icmpType": 8}]},
                {}
            ],
            "egress": []
        });
        assert_eq!(mistakes(spec), Vec::<String>::new());
    }

    #[test]
    fn each_mistake_is_named_with_its_field() {
        let port = |p: Value| ingress(json!({"ports": [{"port": 1}, p]}));
        assert_eq!(port(json!({"port": 0})), ["spec.ingress[0].ports[1].port"]);
        assert_eq!(
            port(json!({"port": 9, "endPort": 8})),
            ["spec.ingress[0].ports[1].endPort"]
        );
        assert_eq!(
            port(json!({"endPort": 8})),
            ["spec.ingress[0].ports[1].port"]
        );
        assert_eq!(
            port(json!({"protocol": "ICMP", "port": 8})),
            ["spec.ingress[0].ports[1].port"]
        );
        assert_eq!(
            port(json!({"icmpType": 8})),
            ["spec.ingress[0].ports[1].icmpType"]
        );
        let block = |b: Value| ingress(json!({"from": [{"ipBlock": b}]}));
        let at = "spec.ingress[0].from[0].ipBlock";
        assert_eq!(block(json!({"cidr": "10.0.0/24"})), [format!("{at}.cidr")]);
        assert_eq!(
            block(json!({"cidr": "10.0.0.7/24"})),
            [format!("{at}.cidr")]
        );
        assert_eq!(
            block(json!({"cidr": "10.0.0.0/24", "except": ["10.0.1.0/28"]})),
            [format!("{at}.except[0]")]
        );
        assert_eq!(ingress(json!({"from": [{}]})), ["spec.ingress[0].from[0]"]);
        assert_eq!(
            ingress(json!({"from": [{"containerSelector": {}, "ipBlock": {"cidr": "0.0.0.0/0"}}]})),
            [at]
        );
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Near", "values": []}]});
        assert_eq!(
            ingress(json!({"from": [{"containerSelector": bad}]})),
            ["spec.ingress[0].from[0].containerSelector"]
        );
    }

    #[test]
    fn rules_of_a_direction_that_is_not_named_are_refused_instead_of_ignored() {
        let both = |types: Value| {
            mistakes(json!({"containerSelector": {}, "policyTypes": types, "egress": [{}]}))
        };
        assert_eq!(both(json!(["Ingress"])), ["spec.egress"]);
        assert_eq!(both(json!([])), ["spec.policyTypes"]);
        assert_eq!(both(json!(["Egress", "Egress"])), ["spec.policyTypes[1]"]);
        assert_eq!(both(json!(["Egress"])), Vec::<String>::new());
    }
}

//! Laws of policies.

use super::model::{Fate, Packet, Switch};
use super::{End, Policies, Policy, compile};
use crate::network::flow::Mac;
use crate::network::plan::{self, Member, Network, Place, Tunnel, View};
use crate::network::tables::Table;
use proptest::prelude::*;
use serde_json::{Value, json};
use skysail_schemas::security_policy::{self as text, Direction, Service, decide};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

type Labels = BTreeMap<String, String>;

/// The tenant's network, and another tenant's with the same addresses.
const VNIS: [u32; 2] = [7, 263];
const TUNNEL: u32 = 90;

/// A tenant's containers: the first `HERE` are on this host, the others elsewhere.
const HERE: usize = 3;
const COUNT: usize = 5;

fn address(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 2 + i as u8)
}

fn mac(vni: u32, i: usize) -> Mac {
    Mac([2, vni as u8, 10, 0, 0, 2 + i as u8])
}

/// Where packets of a container come in on this host, and where those for it go out.
fn port(vni: u32, i: usize) -> u32 {
    match i {
        i if i < HERE => vni * 100 + i as u32,
        _ => TUNNEL + vni,
    }
}

fn network(vni: u32, labels: &[Labels], policies: &Policies) -> Network {
    let ends: BTreeMap<Ipv4Addr, End<'_>> = labels
        .iter()
        .enumerate()
        .map(|(i, labels)| {
            let here = i < HERE;
            (address(i), End { labels, here })
        })
        .collect();
    let member = |i: usize| Member {
        mac: mac(vni, i),
        place: match i {
            i if i < HERE => Place::Here(port(vni, i)),
            _ => Place::There("198.18.0.9".parse().unwrap()),
        },
        limit: None,
    };
    Network {
        cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        gateway_mac: Mac([2, vni as u8, 10, 0, 0, 1]),
        egress: false,
        service: Some(30_000 + vni),
        tunnel: Some(Tunnel::Device(TUNNEL + vni)),
        members: (0..COUNT).map(|i| (address(i), member(i))).collect(),
        guard: compile("acme", policies, &ends),
    }
}

fn switch(labels: &[Labels], policies: &Policies) -> Switch {
    let view = View {
        networks: BTreeMap::from([
            (VNIS[0], network(VNIS[0], labels, policies)),
            (VNIS[1], network(VNIS[1], labels, &Policies::new())),
        ]),
    };
    Switch::new(plan::flows(&view))
}

fn policies(specs: Vec<Value>) -> Policies {
    let policy = |(i, spec): (usize, Value)| {
        let spec = serde_json::from_value(spec).unwrap();
        let policy = Policy {
            generation: 1,
            spec,
        };
        (format!("p{i}"), policy)
    };
    specs.into_iter().enumerate().map(policy).collect()
}

/// What the policies' text says of a connection, as far as this host has a say.
fn allowed(labels: &[Labels], policies: &Policies, a: usize, b: usize, service: Service) -> bool {
    let end = |i: usize| text::End {
        address: address(i),
        labels: Some(&labels[i]),
    };
    let specs = || policies.iter().map(|(n, p)| (n.as_str(), &p.spec));
    let out = decide(specs(), Direction::Egress, end(a), end(b), service);
    let into = decide(specs(), Direction::Ingress, end(b), end(a), service);
    (a >= HERE || out.passes()) && (b >= HERE || into.passes())
}

fn opening(vni: u32, a: usize, b: usize, service: Service) -> Packet {
    let (from, to) = ((mac(vni, a), address(a)), (mac(vni, b), address(b)));
    Packet::opening(port(vni, a), from, to, service)
}

/// Pairs of which at least one is on this host: what passes here.
fn pairs() -> impl Iterator<Item = (usize, usize)> {
    let all = (0..COUNT).flat_map(|a| (0..COUNT).map(move |b| (a, b)));
    all.filter(|(a, b)| a != b && (*a < HERE || *b < HERE))
}

const SERVICES: [Service; 9] = [
    Service::Tcp(80),
    Service::Tcp(81),
    Service::Tcp(8080),
    Service::Udp(53),
    Service::Udp(80),
    Service::Icmp(8, 0),
    Service::Icmp(13, 0),
    Service::Other(47),
    Service::Tcp(1023),
];

fn a_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        (0..2, 0..2).prop_map(|(k, v)| json!({"matchLabels": {format!("k{k}"): format!("v{v}")}})),
        (0..2, prop_oneof![Just("Exists"), Just("DoesNotExist")]).prop_map(
            |(k, op)| json!({"matchExpressions": [{"key": format!("k{k}"), "operator": op}]})
        ),
    ]
}

fn a_peer() -> impl Strategy<Value = Value> {
    let block = |cidr: &'static str, except: Vec<&'static str>| json!({"ipBlock": {"cidr": cidr, "except": except}});
    prop_oneof![
        a_selector().prop_map(|s| json!({"containerSelector": s})),
        Just(block("10.0.0.0/29", vec![])),
        Just(block("10.0.0.4/32", vec![])),
        Just(block("0.0.0.0/0", vec!["10.0.0.2/31"])),
        Just(block("10.0.0.0/24", vec!["10.0.0.3/32", "10.0.0.6/31"])),
    ]
}

fn a_port() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"port": 80})),
        Just(json!({"protocol": "UDP"})),
        Just(json!({"protocol": "UDP", "port": 53})),
        Just(json!({"protocol": "ICMP", "icmpType": 8})),
        Just(json!({"protocol": "ICMP"})),
        (1_u16..9000, 0_u16..2000).prop_map(|(a, n)| json!({"port": a, "endPort": a + n})),
    ]
}

fn a_policy() -> impl Strategy<Value = Value> {
    let few = |s: BoxedStrategy<Value>| proptest::collection::vec(s, 0..3);
    let rule = |peers: &'static str| {
        let parts = (few(a_peer().boxed()), few(a_port().boxed()));
        parts
            .prop_map(move |(p, ports)| json!({peers: p, "ports": ports}))
            .boxed()
    };
    let types = prop_oneof![
        Just(None),
        Just(Some(json!(["Ingress"]))),
        Just(Some(json!(["Egress"]))),
        Just(Some(json!(["Ingress", "Egress"]))),
    ];
    (a_selector(), types, few(rule("from")), few(rule("to"))).prop_map(
        |(selector, types, ingress, egress)| {
            let mut spec =
                json!({"containerSelector": selector, "ingress": ingress, "egress": egress});
            if let Some(types) = types {
                spec["policyTypes"] = types;
            }
            spec
        },
    )
}

fn some_policies() -> impl Strategy<Value = Policies> {
    proptest::collection::vec(a_policy(), 0..4).prop_map(policies)
}

fn some_labels() -> impl Strategy<Value = Vec<Labels>> {
    let one = proptest::collection::btree_map("k[01]", "v[01]", 0..3);
    proptest::collection::vec(one, COUNT)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_switch_lets_through_exactly_what_the_policies_say_and_the_answers(
        labels in some_labels(), before in some_policies(), after in some_policies(),
    ) {
        let mut switch = switch(&labels, &before);
        for (a, b) in pairs() {
            for service in SERVICES {
                let packet = opening(VNIS[0], a, b, service);
                let answer = packet.answer(port(VNIS[0], b));
                let passes = allowed(&labels, &before, a, b, service);
                let fate = switch.run(packet);
                prop_assert_eq!(fate == Fate::Output(port(VNIS[0], b)), passes, "{} to {} {}: {:?}", a, b, service, fate);
                if passes {
                    prop_assert_eq!(switch.run(answer), Fate::Output(port(VNIS[0], a)), "answer {} to {} {}", b, a, service);
                }
            }
        }
        // Open connections after a change: cut, both ways, exactly where the new rules do not allow them.
        switch.flows = self::switch(&labels, &after).flows;
        let selected = network(VNIS[0], &labels, &before).guard.selected;
        let tracked: Vec<usize> = (0..COUNT)
            .filter(|i| selected.values().any(|s| s.contains(&address(*i))))
            .collect();
        for (a, b) in pairs() {
            for service in SERVICES {
                if !allowed(&labels, &before, a, b, service) {
                    continue;
                }
                let mut packet = opening(VNIS[0], a, b, service);
                let answer = packet.answer(port(VNIS[0], b));
                packet.syn = false;
                let passes = allowed(&labels, &after, a, b, service);
                let mut both = [(answer, port(VNIS[0], a)), (packet, port(VNIS[0], b))];
                // Of what no policy looked at before, only TCP says who opened it: else it is who is heard first.
                if !tracked.contains(&a) && !tracked.contains(&b) && !matches!(service, Service::Tcp(_)) {
                    if !passes {
                        continue;
                    }
                    both.reverse();
                }
                for (packet, out) in both {
                    let fate = switch.run(packet);
                    prop_assert_eq!(fate == Fate::Output(out), passes, "{:?} of {} to {} {}: {:?}", packet, a, b, service, fate);
                }
            }
        }
    }

    #[test]
    fn a_connection_that_is_seen_in_its_middle_goes_on_where_it_is_allowed(
        labels in some_labels(), policies in some_policies(), answered_first in any::<bool>(),
    ) {
        let mut switch = switch(&labels, &policies);
        for (a, b) in pairs() {
            for service in SERVICES.into_iter().filter(|s| matches!(s, Service::Tcp(_))) {
                switch.forget();
                let mut packet = opening(VNIS[0], a, b, service);
                let answer = packet.answer(port(VNIS[0], b));
                packet.syn = false;
                let mut both = [(packet, port(VNIS[0], b)), (answer, port(VNIS[0], a))];
                if answered_first {
                    both.reverse();
                }
                let passes = allowed(&labels, &policies, a, b, service);
                for (packet, out) in both.into_iter().chain(both) {
                    let fate = switch.run(packet);
                    prop_assert_eq!(fate == Fate::Output(out), passes, "{} to {} {}: {:?}", a, b, service, fate);
                }
            }
        }
    }

    #[test]
    fn no_policy_lets_a_packet_out_of_its_tenant(
        labels in some_labels(), policies in some_policies(), forged in 0..COUNT,
    ) {
        let mut switch = switch(&labels, &policies);
        let of = |vni: u32| (0..COUNT).map(|i| port(vni, i)).collect::<Vec<_>>();
        for (vni, (a, b)) in VNIS.into_iter().flat_map(|v| pairs().map(move |p| (v, p))) {
            for service in SERVICES {
                let mut packet = opening(vni, a, b, service);
                for target in [mac(vni, b), mac(VNIS[0], forged), mac(VNIS[1], forged)] {
                    packet.target.0 = target;
                    if let Fate::Output(out) = switch.run(packet) {
                        prop_assert!(of(vni).contains(&out), "{} of {} went out of {}", a, vni, out);
                    }
                }
            }
        }
    }

    #[test]
    fn a_change_of_one_policy_leaves_the_flows_of_others_alone(
        labels in some_labels(), policies in some_policies(), more in a_policy(),
    ) {
        let text = |p: &Policies| -> std::collections::BTreeSet<String> {
            let flows = switch(&labels, p).flows;
            // The conditions that several rules share carry parts of each of them.
            flows.iter().filter(|f| !f.to_string().contains("conjunction")).map(ToString::to_string).collect()
        };
        let mut with = policies.clone();
        let spec = serde_json::from_value(more).unwrap();
        with.insert("zz".into(), Policy { generation: 1, spec });
        let (before, after) = (text(&policies), text(&with));
        let gone: Vec<_> = before.difference(&after).collect();
        prop_assert!(gone.is_empty(), "{:?}", gone);
    }
}

fn plain() -> Vec<Labels> {
    vec![Labels::new(); COUNT]
}

#[test]
fn without_policies_nothing_is_looked_up() {
    let switch = switch(&plain(), &Policies::new());
    assert!(!switch.flows.iter().any(|f| f.to_string().contains("ct(")));
}

#[test]
fn a_container_whose_policies_are_not_known_is_closed() {
    let mut network = network(7, &plain(), &Policies::new());
    network.guard.closed.insert(address(0));
    let view = View {
        networks: BTreeMap::from([(7, network)]),
    };
    let mut switch = Switch::new(plan::flows(&view));
    let closed = Fate::Dropped(Table::Policy);
    assert_eq!(switch.run(opening(7, 0, 1, Service::Tcp(80))), closed);
    assert_eq!(switch.run(opening(7, 4, 0, Service::Tcp(80))), closed);
    let open = opening(7, 4, 1, Service::Tcp(80));
    assert_eq!(switch.run(open), Fate::Output(port(7, 1)));
}

#[test]
fn a_rule_for_many_peers_and_ports_takes_as_many_flows_as_they_are_not_their_product() {
    let ports: Vec<Value> = (0..20).map(|p| json!({"port": 1000 + 2 * p})).collect();
    let blocks: Vec<Value> = (0..20)
        .map(|n| json!({"ipBlock": {"cidr": format!("10.1.{n}.0/24")}}))
        .collect();
    let spec = json!({"containerSelector": {}, "ingress": [{"from": blocks, "ports": ports}]});
    let with = switch(&plain(), &policies(vec![spec])).flows.len();
    let without = switch(&plain(), &Policies::new()).flows.len();
    assert!(with - without < 20 + 20 + 10 * HERE, "{}", with - without);
}

#[test]
fn a_block_without_some_of_it_is_the_rest() {
    let spec = json!({"containerSelector": {}, "ingress": [
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/30", "except": ["10.0.0.2/32"]}}]}]});
    let labels = plain();
    let ends = BTreeMap::from([(
        address(0),
        End {
            labels: &labels[0],
            here: true,
        },
    )]);
    let guard = compile("acme", &policies(vec![spec]), &ends);
    let peers = guard.rules[0].peers.clone().unwrap();
    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["10.0.0.0/31", "10.0.0.3/32"]);
}

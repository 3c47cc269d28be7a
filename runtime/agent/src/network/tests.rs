//! Laws of the plans. Each scenario's flows are a golden file; `BLESS=1` writes them anew.

use super::flow::{Flow, Mac, Meter, Meters, Seen, Strict, cookie};
use super::plan::{
    Change, Limit, Member, Network, Place, Program, Tunnel, View, after, change, flows, forwarding,
    program,
};
use super::policy::{self, End, Guard, Policies};
use super::switch::wire;
use super::tables::{PIPELINE, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

fn mac(vni: u32, last: u8) -> Mac {
    Mac([2, (vni & 0xff) as u8, 10, 0, 0, last])
}

fn network(vni: u32, tunnel: Tunnel, egress: bool, members: &[(u8, Place)]) -> (u32, Network) {
    let member = |(last, place): &(u8, Place)| {
        (
            Ipv4Addr::new(10, 0, 0, *last),
            Member {
                mac: mac(vni, *last),
                place: *place,
                limit: None,
            },
        )
    };
    let network = Network {
        cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        gateway_mac: mac(vni, 1),
        egress,
        service: Some(100 + vni),
        tunnel: Some(tunnel),
        members: members.iter().map(member).collect(),
        guard: Guard::default(),
    };
    (vni, network)
}

fn there() -> Place {
    Place::There("198.18.0.9".parse().unwrap())
}

fn scenario(name: &str) -> View {
    let networks = match name {
        "empty" => vec![],
        "userspace" => vec![network(
            7,
            Tunnel::Device(3),
            false,
            &[(2, Place::Here(5)), (3, there()), (4, Place::Nowhere)],
        )],
        "kernel" => vec![network(
            7,
            Tunnel::Shared(1),
            false,
            &[(2, Place::Here(5)), (3, there())],
        )],
        "two_tenants" => vec![
            network(
                7,
                Tunnel::Shared(1),
                false,
                &[(2, Place::Here(5)), (3, there())],
            ),
            network(
                263,
                Tunnel::Shared(1),
                true,
                &[(2, Place::Here(6)), (3, there())],
            ),
        ],
        "limited" | "guarded" => vec![network(
            7,
            Tunnel::Device(3),
            false,
            &[(2, Place::Here(5)), (3, there()), (4, Place::Here(6))],
        )],
        _ => panic!("no scenario {name}"),
    };
    let mut view = View {
        networks: networks.into_iter().collect(),
    };
    match name {
        "limited" => limit(&mut view, 100_000_000),
        "guarded" => guard(&mut view),
        _ => {}
    }
    view
}

/// Limits 10.0.0.2, whose switch port is 5.
fn limit(view: &mut View, rate: u64) {
    let members = &mut view.networks.get_mut(&7).unwrap().members;
    members.get_mut(&Ipv4Addr::new(10, 0, 0, 2)).unwrap().limit = Some(Limit { rate, number: 5 });
}

/// Only 10.0.0.3 and 10.0.0.4 may open TCP 80 and 443 of 10.0.0.2, and everybody may ping it; 10.0.0.4 may open
/// nothing.
fn guard(view: &mut View) {
    let labelled = |role: &str| BTreeMap::from([("role".to_owned(), role.to_owned())]);
    let labels = ["web", "user", "user"].map(labelled);
    let ends = (2..).zip(&labels).map(|(last, labels)| {
        let here = last != 3;
        (Ipv4Addr::new(10, 0, 0, last), End { labels, here })
    });
    let written = serde_json::json!({
        "web": {"generation": 1, "spec": {
            "containerSelector": {"matchLabels": {"role": "web"}},
            "ingress": [
                {"from": [{"containerSelector": {"matchLabels": {"role": "user"}}}],
                 "ports": [{"port": 80}, {"port": 443}]},
                {"ports": [{"protocol": "ICMP", "icmpType": 8}]}
            ]}},
        "mute": {"generation": 1, "spec": {
            "containerSelector": {"matchLabels": {"role": "user"}}, "policyTypes": ["Egress"]}}
    });
    let policies: Policies = serde_json::from_value(written).unwrap();
    let network = view.networks.get_mut(&7).unwrap();
    network.guard = policy::compile("acme", &policies, &ends.collect());
}

const SCENARIOS: [&str; 6] = [
    "empty",
    "userspace",
    "kernel",
    "two_tenants",
    "limited",
    "guarded",
];

/// What the switch dumps after these flows were added: they went over the wire and back.
fn dumped(flows: &[Flow]) -> Vec<Seen> {
    wire::seen(&wire::tests::dumped(flows)).unwrap()
}

/// A flow with a condition that is none of ours (`nw_tos=4`, as the wire has it).
fn odd(cookie: u64) -> Seen {
    let at = Strict {
        table: 50,
        priority: 7,
        conditions: vec![0x80, 0, 10, 2, 8, 0, 0x80, 0, 16, 1, 1],
    };
    let mut seen = dumped(&[Flow::new(Table::Output, 7, "odd", &[], &[])]).remove(0);
    (seen.cookie, seen.at, seen.flow) = (cookie, at, None);
    seen
}

fn only(flows: Vec<Flow>) -> Program {
    Program {
        flows,
        ..Program::default()
    }
}

#[test]
fn the_flows_of_every_scenario_are_the_golden_ones() {
    for name in SCENARIOS {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/network/golden/{name}.flows"));
        let mut lines: Vec<String> = flows(&scenario(name)).iter().map(Flow::to_string).collect();
        lines.sort_by_key(|l| {
            (
                l.split("table=")
                    .nth(1)
                    .and_then(|t| t.split(',').next()?.parse::<u8>().ok()),
                l.clone(),
            )
        });
        let text = lines.join("\n") + "\n";
        if std::env::var_os("BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{name}");
    }
}

#[test]
fn a_converged_switch_needs_no_change() {
    for name in SCENARIOS {
        let wanted = program(&scenario(name));
        let seen = dumped(&wanted.flows);
        assert_eq!(
            change(&wanted, &seen, &wanted.meters),
            Change::default(),
            "{name}"
        );
        let foreign = odd(0x1234);
        let then = after(&wanted, vec![foreign.clone()]);
        assert!(then.contains(&foreign));
        assert!(change(&wanted, &then, &wanted.meters).is_empty(), "{name}");
    }
}

#[test]
fn an_empty_switch_gets_everything_and_a_left_network_goes_away_whole() {
    let (two, empty) = (
        program(&scenario("two_tenants")),
        program(&scenario("empty")),
    );
    assert_eq!(change(&two, &[], &Meters::new()).add, two.flows);
    let gone = change(&empty, &dumped(&two.flows), &two.meters);
    assert_eq!(
        (gone.add.len(), gone.remove.len()),
        (0, two.flows.len() - empty.flows.len())
    );
}

#[test]
fn flows_that_are_not_ours_are_not_touched() {
    let wanted = program(&scenario("kernel"));
    let seen = [dumped(&wanted.flows), vec![odd(0x1234)]].concat();
    assert!(change(&wanted, &seen, &Meters::new()).is_empty());
}

#[test]
fn a_flow_that_was_changed_is_replaced_and_one_of_ours_that_is_not_understood_is_removed() {
    let flows = flows(&scenario("kernel"));
    let mut seen = dumped(&flows);
    seen[3].flow.as_mut().unwrap().actions.clear();
    seen.push(odd(cookie(Table::Output, "x")));
    let change = change(&only(flows.clone()), &seen, &Meters::new());
    assert_eq!(change.add, [flows[3].clone()]);
    assert_eq!(change.remove, [odd(0).at]);
}

#[test]
fn a_limit_has_a_meter_for_each_direction_that_is_changed_in_place_and_goes_with_it() {
    let mut view = scenario("limited");
    let wanted = program(&view);
    let meter = Meter {
        rate: 100_000,
        burst: 30_000,
    };
    assert_eq!(wanted.meters, Meters::from([(10, meter), (11, meter)]));
    let made = change(&wanted, &[], &Meters::new());
    assert_eq!(made.meters.add, wanted.meters);
    let seen = dumped(&wanted.flows);

    limit(&mut view, 200_000_000);
    let faster = change(&program(&view), &seen, &wanted.meters);
    assert_eq!((faster.add.len(), faster.remove.len()), (0, 0));
    assert_eq!(faster.meters.modify, program(&view).meters);

    let free = change(&program(&scenario("empty")), &seen, &wanted.meters);
    assert_eq!(free.meters.remove, BTreeSet::from([10, 11]));
    // A slow container's burst still lets through what a device hands over at once.
    limit(&mut view, 100_000);
    assert_eq!(program(&view).meters[&10].burst, 600);
}

#[test]
fn every_flow_that_decides_by_address_also_decides_by_network() {
    for flow in flows(&scenario("two_tenants")) {
        let text = flow.to_string();
        let by_address = ["nw_dst=", "nw_src=", "arp_tpa=", "dl_dst=", "dl_src="]
            .iter()
            .any(|f| text.contains(f));
        assert!(
            !by_address || text.contains("reg0=") || text.contains("in_port="),
            "{text}"
        );
    }
}

#[test]
fn no_two_flows_have_the_same_key_and_packets_only_go_forward() {
    for name in SCENARIOS {
        let flows = flows(&scenario(name));
        let keys: BTreeSet<_> = flows.iter().map(Flow::key).collect();
        assert_eq!(keys.len(), flows.len(), "{name}");
        for flow in flows {
            for goto in flow.to_string().split("goto_table:").skip(1) {
                assert!(goto.parse::<u8>().unwrap() > flow.table as u8, "{flow}");
            }
            for track in flow.to_string().split("ct(table=").skip(1) {
                let next = track.split(',').next().unwrap();
                assert!(next.parse::<u8>().unwrap() > flow.table as u8, "{flow}");
            }
        }
    }
    assert!(PIPELINE.is_sorted_by_key(|(t, _)| *t));
}

#[test]
fn only_kernel_devices_need_forwarding_entries_and_only_for_other_hosts() {
    let of = |name: &str| forwarding(&scenario(name));
    assert_eq!(
        of("userspace"),
        BTreeSet::from([(7, mac(7, 3), "198.18.0.9".parse().unwrap())])
    );
    assert!(of("two_tenants").is_empty());
}

//! Laws of the plans. Each scenario's flows are a golden file; `BLESS=1` writes them anew.

use super::flow::{Flow, Mac, Seen, cookie};
use super::plan::{Change, Member, Network, Place, Tunnel, View, change, flows, forwarding};
use super::tables::{PIPELINE, Table};
use std::collections::BTreeSet;
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
        _ => panic!("no scenario {name}"),
    };
    View {
        networks: networks.into_iter().collect(),
    }
}

const SCENARIOS: [&str; 4] = ["empty", "userspace", "kernel", "two_tenants"];

/// What the switch dumps after these flows were added.
fn dumped(flows: &[Flow]) -> Vec<Seen> {
    let line = |f: &Flow| f.to_string().replacen(",actions=", " actions=", 1);
    flows.iter().map(|f| line(f).parse().unwrap()).collect()
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
        let flows = flows(&scenario(name));
        assert_eq!(change(&flows, &dumped(&flows)), Change::default(), "{name}");
    }
}

#[test]
fn an_empty_switch_gets_everything_and_a_left_network_goes_away_whole() {
    let (two, empty) = (flows(&scenario("two_tenants")), flows(&scenario("empty")));
    assert_eq!(change(&two, &[]).add, two);
    let gone = change(&empty, &dumped(&two));
    assert_eq!(
        (gone.add.len(), gone.remove.len()),
        (0, two.len() - empty.len())
    );
}

#[test]
fn flows_that_are_not_ours_are_not_touched() {
    let foreign: Seen = " cookie=0x1234, table=50, priority=7,ip,nw_tos=4 actions=NORMAL"
        .parse()
        .unwrap();
    let flows = flows(&scenario("kernel"));
    let seen = [dumped(&flows), vec![foreign]].concat();
    assert!(change(&flows, &seen).is_empty());
}

#[test]
fn a_flow_that_was_changed_is_replaced_and_one_of_ours_that_is_not_understood_is_removed() {
    let flows = flows(&scenario("kernel"));
    let mut seen = dumped(&flows);
    seen[3].flow.as_mut().unwrap().actions.clear();
    let odd = format!(
        " cookie={:#x}, table=50, priority=7,ip,nw_tos=4 actions=drop",
        cookie(Table::Output, "x")
    );
    seen.push(odd.parse().unwrap());
    let change = change(&flows, &seen);
    assert_eq!(change.add, [flows[3].clone()]);
    assert_eq!(change.remove, ["table=50,priority=7,ip,nw_tos=4"]);
    let bundle = change.bundle();
    assert!(
        bundle.find("add ").unwrap() < bundle.find("delete_strict ").unwrap(),
        "new flows go in before stale ones go out"
    );
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

//! The network plane on real switches: three hosts made of namespaces, in two clouds. Needs root,
//! `mmdebstrap` for the hosts' root filesystem (or `SKYSAIL_TEST_ROOT`), `nft` and `iproute2`.
#![allow(missing_docs, clippy::unwrap_used)]

mod lab;
mod resolver;
mod role;

use lab::{INTERNET, Lab, Tenant, wait_for};
use skysail_schemas::quantity::Bandwidth;

const ACME: Tenant = Tenant {
    vni: 7,
    domain: "acme.internal",
    egress: false,
};
const BLUE: Tenant = Tenant {
    vni: 263,
    domain: "blue.internal",
    egress: false,
};
const OPEN: Tenant = Tenant {
    vni: 9,
    domain: "open.internal",
    egress: true,
};

/// Not a test of its own: what the others start on their hosts.
#[test]
#[ignore = "started by the other tests inside a host's namespaces"]
fn agent_of_a_host() {
    if let Ok(identity) = std::env::var(role::ROLE) {
        role::run(&identity);
    }
}

fn use_dns(lab: &mut Lab, containers: &[(&str, &str, &str)]) {
    for (container, host, domain) in containers {
        let text = format!(
            "mkdir -p /etc/netns/{container}; printf \"nameserver 10.0.0.1\\nsearch {domain}\\n\" >/etc/netns/{container}/resolv.conf"
        );
        lab.host(host).sh(&text);
    }
}

#[test]
fn containers_of_a_tenant_reach_one_another_across_hosts_and_clouds_by_address_and_name() {
    let mut lab = Lab::new();
    for (name, address, host) in [
        ("web", "10.0.0.2", "a1"),
        ("db", "10.0.0.3", "a2"),
        ("far", "10.0.0.4", "b1"),
        ("near", "10.0.0.5", "a1"),
    ] {
        lab.container(name, &ACME, address, host);
    }
    use_dns(
        &mut lab,
        &[
            ("web", "a1", "acme.internal"),
            ("far", "b1", "acme.internal"),
        ],
    );
    for target in [
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.1",
        "db",
        "far.acme.internal",
    ] {
        lab.a1.wait_ping("web", target);
    }
    for target in ["web", "db", "10.0.0.1"] {
        lab.b1.wait_ping("far", target);
    }
    let reverse = lab.a1.inside("web", "getent hosts 10.0.0.4").unwrap();
    assert!(reverse.contains("far.acme.internal"), "{reverse}");
    assert!(lab.a1.inside("web", "getent hosts nobody").is_none());
    assert!(lab.a1.inside("web", "getent hosts example.org").is_none());
    // A transfer larger than any packet: MTU and checksums are right.
    lab.b1
        .sh("ip netns exec far iperf3 -s -D -1 --pidfile /run/iperf.pid");
    let sent = lab
        .a1
        .inside("web", "iperf3 -c 10.0.0.4 -n 20M --connect-timeout 3000");
    assert!(sent.is_some(), "TCP across clouds");
}

#[test]
fn nothing_passes_between_tenants_with_the_same_addresses() {
    let mut lab = Lab::new();
    for (name, tenant, address, host) in [
        ("acme2", &ACME, "10.0.0.2", "a1"),
        ("acme3", &ACME, "10.0.0.3", "b1"),
        ("blue2", &BLUE, "10.0.0.2", "a1"),
        ("blue3", &BLUE, "10.0.0.3", "b1"),
        ("blue9", &BLUE, "10.0.0.9", "a1"),
    ] {
        lab.container(name, tenant, address, host);
    }
    use_dns(
        &mut lab,
        &[
            ("acme2", "a1", "acme.internal"),
            ("blue2", "a1", "blue.internal"),
        ],
    );
    lab.a1.wait_ping("acme2", "10.0.0.3");
    lab.a1.wait_ping("blue2", "10.0.0.3");
    let blue = (
        lab.a1.received("blue2"),
        lab.b1.received("blue3"),
        lab.a1.received("blue9"),
    );
    lab.a1
        .inside("acme2", "ping -n -c 20 -i 0.01 10.0.0.3")
        .unwrap();
    assert!(!lab.a1.pings("acme2", "10.0.0.9"), "only blue has 10.0.0.9");
    // The address resolution of the other tenant, forged: still nothing.
    lab.a1
        .inside(
            "acme2",
            "ip neigh replace 10.0.0.9 lladdr 02:07:0a:00:00:09 dev eth0",
        )
        .unwrap();
    assert!(!lab.a1.pings("acme2", "10.0.0.9"));
    assert_eq!(
        blue,
        (
            lab.a1.received("blue2"),
            lab.b1.received("blue3"),
            lab.a1.received("blue9")
        )
    );
    assert!(
        lab.a1.inside("acme2", "getent hosts blue9").is_none(),
        "names of other tenants"
    );
    assert!(lab.a1.inside("blue2", "getent hosts blue9").is_some());
}

#[test]
fn forged_addresses_and_arp_do_not_leave_a_container() {
    let mut lab = Lab::new();
    for (name, address, host) in [
        ("evil", "10.0.0.2", "a1"),
        ("local", "10.0.0.3", "a1"),
        ("remote", "10.0.0.4", "a2"),
    ] {
        lab.container(name, &ACME, address, host);
    }
    lab.a1.wait_ping("evil", "10.0.0.3");
    lab.a1.wait_ping("evil", "10.0.0.4");
    lab.a1.wait_ping("local", "10.0.0.4");
    let before = (lab.a1.received("local"), lab.a2.received("remote"));
    lab.a1
        .inside(
            "evil",
            "ip addr add 10.0.0.77/32 dev eth0; ip addr add 10.0.0.3/32 dev eth0",
        )
        .unwrap();
    for target in ["10.0.0.4", "10.0.0.1"] {
        assert!(
            lab.a1
                .inside(
                    "evil",
                    &format!("ping -n -c 2 -i 0.1 -W 1 -I 10.0.0.77 {target}")
                )
                .is_none(),
            "forged address to {target}"
        );
    }
    assert!(
        lab.a1
            .inside("evil", "ping -n -c 2 -i 0.1 -W 1 -I 10.0.0.3 10.0.0.4")
            .is_none(),
        "a neighbour's address"
    );
    // Gratuitous ARP for the neighbour's address, to everyone.
    let forged = r#"socket(S,17,3,768); $m=pack("H*","ffffffffffff02070a00000208060001080006040002")
        .pack("H*","02070a0000020a000003ffffffffffff0a000003"); $i=(split /:/,`ip -o link show eth0`)[0]; send(S,$m,0,pack("SnlSCCa8",17,2054,$i,0,0,6,"")) or die $!"#;
    lab.a1.sh(&format!(
        "cat >/tmp/forged.pl <<'EOF'\n{forged}\nEOF\nip netns exec evil perl /tmp/forged.pl"
    ));
    let neighbour =
        lab.a1.inside("local", "ip neigh").unwrap() + &lab.a2.inside("remote", "ip neigh").unwrap();
    assert!(
        !neighbour.contains("10.0.0.3 dev eth0 lladdr 02:07:0a:00:00:02"),
        "{neighbour}"
    );
    lab.a1
        .inside(
            "evil",
            "ip addr del 10.0.0.3/32 dev eth0; ip link set eth0 address 02:07:0a:00:00:03",
        )
        .unwrap();
    assert!(!lab.a1.pings("evil", "10.0.0.4"), "forged MAC");
    assert_eq!(
        before,
        (lab.a1.received("local"), lab.a2.received("remote"))
    );
    lab.a1
        .inside("evil", "ip link set eth0 address 02:07:0a:00:00:02")
        .unwrap();
    lab.a1.wait_ping("evil", "10.0.0.4");
}

#[test]
fn drift_is_repaired_whatever_was_broken() {
    let mut lab = Lab::new();
    let web = lab.container("web", &ACME, "10.0.0.2", "a1");
    lab.container("db", &ACME, "10.0.0.3", "a2");
    lab.a1.wait_ping("web", "10.0.0.3");
    let device = lab
        .a1
        .sh("ip -o link | grep -o 'skc[0-9a-f]*' | head -1")
        .trim()
        .to_owned();
    let flow = "table=50,ip,reg0=0x7,reg1=0x1,dl_dst=02:07:0a:00:00:03,nw_dst=10.0.0.3";
    for (what, damage) in [
        ("a flow deleted", format!("ovs-ofctl del-flows br-int {flow}")),
        ("a flow changed", format!("ovs-ofctl mod-flows br-int {flow},actions=drop")),
        ("all flows deleted", "ovs-ofctl del-flows br-int".into()),
        ("the port removed", format!("ovs-vsctl del-port br-int {device}")),
        ("br-int deleted", "ovs-vsctl del-br br-int".into()),
        ("vswitchd killed", "kill -9 $(cat /run/openvswitch/ovs-vswitchd.pid)".into()),
        ("both daemons killed", "kill -9 $(cat /run/openvswitch/ovs-vswitchd.pid) $(cat /run/openvswitch/ovsdb-server.pid)".into()),
        ("the interface deleted", format!("ip link del {device}")),
        ("the tunnel deleted", "ip link del skx7".into()),
        ("the forwarding entry deleted", "bridge fdb del 02:07:0a:00:00:03 dev skx7 dst 198.18.91.3".into()),
    ] {
        lab.a1.sh(&damage);
        println!("{what}: repaired after {:?}", lab.a1.wait_ping("web", "10.0.0.3"));
    }
    lab.a1.sh("ip netns del sky-svc-7");
    use_dns(&mut lab, &[("web", "a1", "acme.internal")]);
    println!(
        "service namespace deleted: repaired after {:?}",
        lab.a1.wait_ping("web", "db")
    );
    lab.a1.detach(&web);
    let left = lab.a1.sh("ovs-vsctl list-ports br-int; ip -o link");
    assert!(!left.contains(&device), "{left}");
}

#[test]
fn a_restarted_agent_changes_nothing_and_needs_no_control_plane() {
    let mut lab = Lab::new();
    let web = lab.container("web", &ACME, "10.0.0.2", "a1");
    lab.container("db", &ACME, "10.0.0.3", "b1");
    lab.a1.wait_ping("web", "10.0.0.3");
    let before = lab.a1.flows();
    lab.a1
        .sh("ip netns exec web ping -n -i 0.02 -w 4 10.0.0.3 >/tmp/ping.log 2>&1 &");
    lab.a1.kill_agent();
    assert!(lab.a1.pings("web", "10.0.0.3"), "while no agent runs");
    // The new agent's API is out of service until the test pushes Ports: what was known last is kept.
    lab.a1.start_agent();
    let (summary, _) = wait_for("the end of ping", || {
        lab.a1.try_sh("grep transmitted /tmp/ping.log")
    });
    assert!(summary.contains(" 0% packet loss"), "{summary}");
    lab.push();
    lab.a1.attach("web", &web);
    wait_for("the same flows as before", || {
        (lab.a1.flows() == before).then_some(())
    });
}

#[test]
fn policies_outlive_their_agent_and_a_container_is_closed_until_its_own_are_known() {
    let mut lab = Lab::new();
    lab.container("web", &ACME, "10.0.0.2", "a1");
    lab.container("db", &ACME, "10.0.0.3", "a2");
    lab.a1.wait_ping("web", "10.0.0.3");
    let closed = serde_json::from_value(serde_json::json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "SecurityPolicy",
        "metadata": {"name": "closed", "namespace": ACME.domain, "generation": 1},
        "spec": {"containerSelector": {}, "policyTypes": ["Ingress"]}
    }));
    lab.policies(&[closed.unwrap()]);
    wait_for("the policy to close", || {
        (!lab.a1.pings("web", "10.0.0.3")).then_some(())
    });
    let port = lab.place("late", &BLUE, "10.0.0.4", "a2");
    let flows = lab.a2.flows();
    lab.a2.kill_agent();
    // The API is away from here on: what was known holds, and of blue's policies nothing is known.
    lab.a2.start_agent();
    lab.a2.sh("ip netns add late");
    lab.a2.attach("late", &port);
    assert!(!lab.a1.pings("web", "10.0.0.3"), "forgotten with its agent");
    assert!(!lab.a2.pings("late", "10.0.0.1"), "open before it is known");
    let all = lab.a2.flows();
    let gone: Vec<_> = flows.iter().filter(|f| !all.contains(f)).collect();
    assert!(gone.is_empty(), "{gone:#?}");
    lab.push();
    lab.a2.wait_ping("late", "10.0.0.1");
    lab.a1.wait_ping("web", "10.0.0.3");
}

#[test]
fn the_last_container_of_a_network_leaves_nothing_behind() {
    let mut lab = Lab::new();
    let (empty, _) = wait_for("the pipeline", || {
        Some(lab.a1.flows()).filter(|f| !f.is_empty())
    });
    let web = lab.container("web", &OPEN, "10.0.0.2", "a1");
    lab.a1.attach("web", &web);
    lab.place("web", &OPEN, "10.0.0.2", "b1");
    lab.a1.detach(&web);
    wait_for("an empty switch", || {
        (lab.a1.flows() == empty).then_some(())
    });
    let left = lab.a1.sh("ovs-vsctl list-ports br-int; ip netns list | grep sky-svc || true; ip -o link | grep -E ' sk[cstx]' || true");
    assert_eq!(left.trim(), "", "left behind");
}

#[test]
fn egress_leads_to_the_world_and_never_to_the_host_or_its_cloud() {
    let mut lab = Lab::new();
    lab.container("out", &OPEN, "10.0.0.2", "a1");
    lab.container("shut", &ACME, "10.0.0.2", "a1");
    lab.place("other", &OPEN, "10.0.0.3", "b1");
    lab.a1.wait_ping("out", INTERNET);
    assert!(!lab.a1.pings("shut", INTERNET), "egress is off");
    for target in [
        "198.18.91.2",
        "198.18.91.3",
        "198.18.90.11",
        "198.18.90.12",
        "169.254.64.0",
    ] {
        assert!(!lab.a1.pings("out", target), "{target} is a host");
    }
    lab.a1.sh("nft delete table inet skysail");
    println!(
        "host rules deleted: restored after {:?}",
        wait_for("the rules", || lab.a1.try_sh("nft list table inet skysail")).1
    );
}

#[test]
fn a_network_that_cannot_be_made_whole_fails_its_containers_until_it_can() {
    let mut lab = Lab::new();
    // A folder where the gateway's namespace belongs: it can be neither removed as one nor entered.
    lab.a1
        .sh("mkdir -p /run/netns/sky-svc-7/in-the-way; ip netns add web");
    let web = lab.place("web", &ACME, "10.0.0.2", "a1");
    let refused = lab.a1.try_attach("web", &web, None);
    assert!(
        refused.contains("VNI 7 is not whole") && refused.contains("sky-svc-7"),
        "{refused}"
    );
    lab.a1
        .sh("rmdir /run/netns/sky-svc-7/in-the-way /run/netns/sky-svc-7");
    lab.a1.attach("web", &web);
    use_dns(&mut lab, &[("web", "a1", "acme.internal")]);
    assert!(lab.a1.inside("web", "getent hosts web").is_some());
}

#[test]
fn a_gateway_or_dns_that_dies_while_containers_run_is_made_again() {
    let mut lab = Lab::new();
    lab.container("out", &OPEN, "10.0.0.2", "a1");
    use_dns(&mut lab, &[("out", "a1", "open.internal")]);
    let serves = |lab: &Lab| {
        let name = lab.a1.inside("out", "getent hosts out.open.internal");
        let there = lab.a1.try_sh("ip netns exec sky-svc-9 true");
        (there.is_some() && name.is_some() && lab.a1.pings("out", INTERNET)).then_some(())
    };
    wait_for("name and way out", || serves(&lab));
    for (what, damage) in [
        ("the namespace deleted", "ip netns del sky-svc-9"),
        ("the gateway's device deleted", "ip link del sks9"),
        ("the way out deleted", "ip link del skt9"),
        (
            "the DNS's sockets destroyed",
            "ip netns exec sky-svc-9 ss -K -a sport = :53",
        ),
    ] {
        lab.a1.sh(damage);
        let (_, took) = wait_for(what, || serves(&lab));
        println!("{what}: repaired after {took:?}");
    }
}

#[test]
fn other_names_are_asked_of_the_world_only_where_egress_is_on_and_tenants_names_never() {
    let mut lab = Lab::new();
    let world = lab.resolver();
    lab.container("out", &OPEN, "10.0.0.2", "a1");
    lab.container("shut", &ACME, "10.0.0.2", "a1");
    use_dns(
        &mut lab,
        &[
            ("out", "a1", "open.internal"),
            ("shut", "a1", "acme.internal"),
        ],
    );
    let found = lab.a1.inside("out", "getent ahostsv4 example.org").unwrap();
    let answer = std::net::Ipv4Addr::from(resolver::ANSWER).to_string();
    assert!(found.contains(&answer), "{found}");
    for (container, name) in [
        ("shut", "example.net"),
        ("out", "shut.acme.internal"),
        ("shut", "out.open.internal"),
        ("out", "nobody"),
    ] {
        let script = format!("getent ahostsv4 {name}");
        assert!(
            lab.a1.inside(container, &script).is_none(),
            "{container} found {name}"
        );
    }
    let asked = world.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|n| n == "example.org."),
        "{asked:?}"
    );
}

/// Megabit per second that TCP brings from `slow` to `fast`, or the other way.
fn rate(lab: &Lab, reverse: bool) -> f64 {
    let way = if reverse { "-R" } else { "" };
    let run = format!("iperf3 -J -c 10.0.0.3 -t 4 --connect-timeout 3000 {way}");
    let report: serde_json::Value =
        serde_json::from_str(&lab.a1.inside("slow", &run).unwrap()).unwrap();
    let received = &report["end"]["sum_received"]["bits_per_second"];
    received.as_f64().unwrap() / 1e6
}

#[test]
fn a_containers_bandwidth_is_limited_in_both_directions() {
    let mut lab = Lab::new();
    let limit = |megabit: u64| Some(Bandwidth(megabit * 1_000_000));
    let slow = lab.container("slow", &ACME, "10.0.0.2", "a1");
    lab.container("fast", &ACME, "10.0.0.3", "a2");
    lab.a1.wait_ping("slow", "10.0.0.3");
    lab.a2.sh("ip netns exec fast iperf3 -s -D");
    let meters = |lab: &Lab| {
        let text = lab
            .a1
            .sh("ovs-ofctl -O OpenFlow14 dump-meters br-int | grep -o \"rate=.*\" || true");
        text.lines().count()
    };
    for megabit in [20, 40] {
        assert_eq!(lab.a1.try_attach("slow", &slow, limit(megabit)), "done");
        for reverse in [false, true] {
            let of_limit = || rate(&lab, reverse) / megabit as f64;
            // A busy machine may slow traffic down at times, but nothing may ever make it faster than its limit.
            let (share, _) = wait_for("traffic near its limit", || {
                let share = of_limit();
                println!("{megabit} Mbit/s, receiving {reverse}: {share:.2} of it");
                assert!(share < 1.15, "{share:.2} of the limit");
                (share > 0.7).then_some(share)
            });
            assert!(share > 0.7);
        }
    }
    assert_eq!(meters(&lab), 2);
    lab.a1.sh("ovs-ofctl -O OpenFlow14 del-meters br-int");
    let (_, took) = wait_for("the meters to be back", || {
        (meters(&lab) == 2).then_some(())
    });
    println!("meters deleted: repaired after {took:?}");
    lab.a1.wait_ping("slow", "10.0.0.3");
    assert!(rate(&lab, false) < 46.0, "limited again");
    lab.a1.detach(&slow);
    assert_eq!(meters(&lab), 0, "left behind");
}

#[test]
fn the_overlay_is_as_fast_as_the_same_switch_without_it() {
    let mut lab = Lab::new();
    lab.container("web", &ACME, "10.0.0.2", "a1");
    lab.container("db", &ACME, "10.0.0.3", "a2");
    lab.a1.wait_ping("web", "10.0.0.3");
    // The underlay by the same datapath: a pair whose switch puts packets on the wire as they are.
    for (host, address) in [(&lab.a1, "192.168.7.2"), (&lab.a2, "192.168.7.3")] {
        lab.wire(host);
        host.sh(&format!(
            "ovs-vsctl add-br br-raw -- set bridge br-raw datapath_type=netdev; ip netns add raw
             ip link add raw0 type veth peer name eth0 netns raw; ip link set raw0 up
             ip netns exec raw ethtool -K eth0 tx off tso off gso off gro off
             ip -n raw addr add {address}/24 dev eth0; ip -n raw link set eth0 up
             ovs-vsctl add-port br-raw raw0 -- add-port br-raw eth1"
        ));
    }
    lab.a1.wait_ping("raw", "192.168.7.3");
    for container in ["raw", "db"] {
        lab.a2
            .sh(&format!("ip netns exec {container} iperf3 -s -D"));
    }
    let mut best = [0.0_f64; 2];
    // The better of several turns each, in turn: other work on the machine disturbs both alike. More turns only
    // where it disturbed one of them much more.
    for turn in 0..10 {
        if turn >= 3 && best[1] / best[0] > 0.8 {
            break;
        }
        for (best, (container, target)) in best
            .iter_mut()
            .zip([("raw", "192.168.7.3"), ("web", "10.0.0.3")])
        {
            let report = lab
                .a1
                .inside(
                    container,
                    &format!("iperf3 -J -c {target} -t 3 --connect-timeout 3000"),
                )
                .unwrap();
            let report: serde_json::Value = serde_json::from_str(&report).unwrap();
            *best = best.max(
                report["end"]["sum_received"]["bits_per_second"]
                    .as_f64()
                    .unwrap()
                    / 1e6,
            );
        }
    }
    let trip = |container: &str, target: &str| {
        let text = lab
            .a1
            .inside(
                container,
                &format!("ping -n -q -c 200 -i 0.005 {target} | tail -1"),
            )
            .unwrap();
        text.split('/').nth(4).unwrap().to_owned()
    };
    let (raw, overlay) = (trip("raw", "192.168.7.3"), trip("web", "10.0.0.3"));
    let ratio = best[1] / best[0];
    println!(
        "underlay {:.0} Mbit/s, overlay {:.0} Mbit/s: {ratio:.2}; round trip {raw} ms and {overlay} ms",
        best[0], best[1]
    );
    assert!(ratio > 0.7, "the overlay costs more than its headers");
}

//! Looking at a container's network from its host: the way of a packet through the switch, and probes of others.
//!
//! What a client asks for are addresses and numbers, and nothing else gets into a command.

use super::line::Query;
use std::net::Ipv4Addr;
use std::path::Path;

/// Traces one packet through the switch. `$1` owner of the port that it comes in by, `$2` the packet, `$3` the network:
/// where all networks share one tunnel, the packet carries its key.
const TRACE: &str = r#"
of() { ovs-vsctl --timeout=5 --bare --columns=ofport find interface "external_ids:skysail=\"$1\""; }
port=$(of "$1") key=
case $port,$1 in ,*/tunnel) port=$(of tunnel) key=,tun_id=$3;; esac
[ -n "$port" ] || { echo "this host has no port $1 in its switch" >&2; exit 3; }
exec ovs-appctl -T 5 ofproto/trace --names br-int "in_port=$port$key,$2"
"#;

/// Probes addresses from a container's network namespace, all at once. `$1` the namespace, `$2` how many packets to
/// each; the addresses follow. Prints a line for each: the address, packets sent, packets answered, times in ms
/// (least/mean/most/deviation), the largest packet that passes whole, and that of the interface.
const PROBE: &str = r#"
netns=$1 count=$2; shift 2
inside() { nsenter --net="$netns" "$@"; }
mtu=$(inside ip -o link show eth0 | sed -n 's/.* mtu \([0-9]*\) .*/\1/p')
[ -n "$mtu" ] || { echo "the container has no network" >&2; exit 3; }
whole() { inside ping -n -q -M do -s $(($2 - 28)) -c 2 -i 0.2 -W 1 "$1" >/dev/null 2>&1; }
probe() {
  out=$(inside ping -n -q -c "$count" -i 0.2 -W 1 "$1" 2>&1)
  sent=$(echo "$out" | sed -n 's/^\([0-9]*\) packets transmitted.*/\1/p')
  got=$(echo "$out" | sed -n 's/.* \([0-9]*\) received.*/\1/p')
  times=$(echo "$out" | sed -n 's/.* = \([0-9./]*\) ms.*/\1/p')
  passes=-
  if [ "${got:-0}" -gt 0 ]; then
    low=68 high=$mtu
    if whole "$1" "$mtu"; then low=$mtu; fi
    while [ $low -lt $high ]; do
      middle=$(((low + high + 1) / 2))
      if whole "$1" $middle; then low=$middle; else high=$((middle - 1)); fi
    done
    passes=$low
  fi
  echo "$1 ${sent:-0} ${got:-0} ${times:--} $passes $mtu"
}
for address; do probe "$address" & done
wait
"#;

/// The command that traces; none if what is asked for is no packet.
pub fn trace(query: &Query) -> Option<Vec<String>> {
    let address = |key: &str| query.first(key)?.parse::<Ipv4Addr>().ok();
    let number = |key: &str| query.first(key)?.parse::<u32>().ok();
    let (from, to) = (address("from")?, address("to")?);
    let vni = number("vni")?;
    let owner = match query.first("enters")? {
        "container" => format!("{vni}/{from}"),
        "tunnel" => format!("{vni}/tunnel"),
        _ => return None,
    };
    let mac = |key: &str| {
        let text = query.first(key)?;
        let fine = text.len() == 17 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        fine.then_some(text)
    };
    let (source, target) = (mac("fromMac")?, mac("toMac")?);
    // The first packet of a connection. Who opens it is what conntrack would say of it; a trace does not ask conntrack.
    let (service, connection) = match query.first("protocol")? {
        name @ ("tcp" | "udp") => {
            let port = u16::try_from(number("port")?).ok()?;
            let (flags, protocol) = match name {
                "tcp" => (",tcp_flags=syn", 6),
                _ => ("", 17),
            };
            let connection = format!("ct_nw_proto={protocol},ct_tp_src=40000,ct_tp_dst={port}");
            (
                format!("{name},{name}_src=40000,{name}_dst={port}{flags}"),
                connection,
            )
        }
        "icmp" => (
            "icmp,icmp_type=8,icmp_code=0".to_owned(),
            "ct_nw_proto=1,ct_tp_src=8,ct_tp_dst=0".to_owned(),
        ),
        _ => return None,
    };
    let packet = format!(
        "{service},dl_src={source},dl_dst={target},nw_src={from},nw_dst={to},nw_ttl=64,\
         ct_state=trk|new,ct_nw_src={from},ct_nw_dst={to},{connection}"
    );
    Some(script(TRACE, &[&owner, &packet, &vni.to_string()]))
}

/// The command that probes; none if what is asked for are no addresses.
pub fn probe(query: &Query, netns: &Path) -> Option<Vec<String>> {
    let count = query.first("count").unwrap_or("5").parse::<u8>().ok()?;
    let addresses: Option<Vec<Ipv4Addr>> = query
        .all("to")
        .iter()
        .map(|text| text.parse().ok())
        .collect();
    let addresses: Vec<String> = addresses?.iter().map(ToString::to_string).collect();
    let (netns, count) = (netns.to_string_lossy(), count.clamp(1, 100).to_string());
    let mut words = vec![&*netns, &*count];
    words.extend(addresses.iter().map(String::as_str));
    Some(script(PROBE, &words))
}

fn script(text: &str, arguments: &[&str]) -> Vec<String> {
    let fixed = ["sh", "-c", text, "skysail-net"];
    let all = fixed.iter().chain(arguments);
    all.map(|word| (*word).to_owned()).collect()
}

/// What is run for a request that cannot be understood.
pub fn refused() -> Vec<String> {
    script(
        "echo 'the request is not understood; is this skysail of the same version as the server?' >&2; exit 2",
        &[],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "enters=container&vni=7&from=10.0.0.2&to=10.0.0.3&fromMac=02:07:0a:00:00:02\
        &toMac=02:07:0a:00:00:03&protocol=udp&port=53";

    #[test]
    fn a_packet_is_put_together_from_addresses_and_numbers() {
        let words = trace(&Query::parse(ASKED)).unwrap();
        assert_eq!(words[4], "7/10.0.0.2");
        assert!(words[5].starts_with("udp,udp_src=40000,udp_dst=53,dl_src=02:07:0a:00:00:02,"));
        assert!(words[5].ends_with("ct_nw_proto=17,ct_tp_src=40000,ct_tp_dst=53"));
        assert_eq!(words[6], "7");
    }

    #[test]
    fn nothing_else_gets_into_a_command() {
        for (key, bad) in [
            ("to=10.0.0.3", "to=10.0.0.3;reboot"),
            ("port=53", "port=53,x"),
            ("vni=7", "vni=$(id)"),
            ("toMac=02:07:0a:00:00:03", "toMac=02:07:0a:00:00:0'"),
            ("protocol=udp", "protocol=all"),
        ] {
            assert_eq!(
                trace(&Query::parse(&ASKED.replace(key, bad))),
                None,
                "{bad}"
            );
        }
        let netns = Path::new("/run/netns/x");
        assert_eq!(probe(&Query::parse("to=-h"), netns), None);
        let words = probe(&Query::parse("count=3&to=10.0.0.2&to=10.0.0.3"), netns).unwrap();
        assert_eq!(words[4..], ["/run/netns/x", "3", "10.0.0.2", "10.0.0.3"]);
    }
}

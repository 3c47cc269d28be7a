//! Looking at a container's network from its host: the way of a packet through the switch, and probes of others.
//!
//! What a client asks for are addresses and numbers, and nothing else gets into a command.

use super::line::Query;
use std::net::Ipv4Addr;
use std::path::Path;

/// Traces one packet of a container through the switch. `$1` owner of the port that it comes in by, `$2` the packet.
const TRACE: &str = r#"
port=$(ovs-vsctl --timeout=5 --bare --columns=ofport find interface "external_ids:skysail=\"$1\"")
[ -n "$port" ] || { echo "this host has no port $1 in its switch" >&2; exit 3; }
exec ovs-appctl -T 5 ofproto/trace br-int "in_port=$port,$2"
"#;

/// Probes addresses from a container's network namespace, all at once. `$1` the namespace, `$2` how many packets to
/// each; the addresses follow. Prints a line for each: the address, packets sent, packets answered, times in ms
/// (least/mean/most/deviation), the largest packet that passes whole, and that of the interface.
const PROBE: &str = r#"
netns=$1 count=$2; shift 2
inside() { nsenter --net="$netns" "$@"; }
mtu=$(inside cat /sys/class/net/eth0/mtu 2>/dev/null || inside ip -o link show eth0 | sed -n 's/.* mtu \([0-9]*\) .*/\1/p')
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
    let owner = match query.first("enters")? {
        "container" => format!("{}/{from}", number("vni")?),
        "tunnel" => format!("{}/tunnel", number("vni")?),
        _ => return None,
    };
    let mac = |key: &str| {
        let text = query.first(key)?;
        let fine = text.len() == 17 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        fine.then_some(text)
    };
    let (source, target) = (mac("fromMac")?, mac("toMac")?);
    let service = match query.first("protocol")? {
        name @ ("tcp" | "udp") => {
            let port = u16::try_from(number("port")?).ok()?;
            let flags = if name == "tcp" { ",tcp_flags=syn" } else { "" };
            format!("{name},tp_src=40000,tp_dst={port}{flags}")
        }
        "icmp" => "icmp,icmp_type=8,icmp_code=0".to_owned(),
        _ => return None,
    };
    let packet =
        format!("{service},dl_src={source},dl_dst={target},nw_src={from},nw_dst={to},nw_ttl=64");
    Some(script(TRACE, &[&owner, &packet]))
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

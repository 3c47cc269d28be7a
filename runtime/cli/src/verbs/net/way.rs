//! What a switch's trace says, as steps and an end. Pure.

use skysail_agent::network::table_name;

/// One table that a packet went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub table: u8,
    /// The conditions of the flow that matched; empty where none did.
    pub matched: String,
    /// What the flow did.
    pub actions: Vec<String>,
}

/// Where a packet ends on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Put out to a container.
    Container,
    /// Into the tunnel to another host.
    Tunnel,
    /// To the network's gateway on this host: its DNS and the way to the world.
    Service,
    /// Answered by the switch itself.
    Answered,
    /// Dropped in this table.
    Dropped(u8),
}

/// What the switch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Table by table.
    pub steps: Vec<Step>,
    /// Its end.
    pub end: End,
}

/// Reads the output of `ofproto/trace --names`. None if there is no step in it.
pub fn parse(text: &str) -> Option<Way> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        if let Some((table, rest)) = step(line) {
            let matched = rest.split(", priority ").next().unwrap_or_default();
            let plain = rest.starts_with("priority ") || rest.starts_with("No match");
            steps.push(Step {
                table,
                matched: if plain {
                    String::new()
                } else {
                    matched.to_owned()
                },
                actions: Vec::new(),
            });
        } else if line.starts_with("    ")
            && let Some(last) = steps.last_mut()
        {
            let action = line.trim();
            // What the switch remarks, and what it says of a resumed packet, is no action.
            if !action.starts_with("->") && action != "thaw" && !action.starts_with("Resuming") {
                last.actions.push(action.to_owned());
            }
        }
    }
    let end = end(steps.last()?);
    Some(Way { steps, end })
}

fn step(line: &str) -> Option<(u8, &str)> {
    let (number, rest) = line.split_once(". ")?;
    let short = number.len() <= 3 && !line.starts_with("    ");
    Some((number.trim().parse().ok().filter(|_| short)?, rest))
}

fn end(last: &Step) -> End {
    let out = last.actions.iter().find_map(|a| a.strip_prefix("output:"));
    match out {
        Some(port) if port.starts_with("skx") => End::Tunnel,
        Some(port) if port.starts_with("sks") => End::Service,
        Some(_) => End::Container,
        None if last
            .actions
            .iter()
            .any(|a| a == "IN_PORT" || a == "in_port") =>
        {
            End::Answered
        }
        None => End::Dropped(last.table),
    }
}

/// The name of a table.
pub fn name(table: u8) -> String {
    table_name(table).unwrap_or_else(|| table.to_string())
}

impl Way {
    /// Rows for people: tables that only pass a packet on are left out.
    pub fn rows(&self, host: &str) -> Vec<Vec<String>> {
        let last = self.steps.len().saturating_sub(1);
        let telling = |(i, s): &(usize, &Step)| *i == last || !s.matched.is_empty();
        let row = |(i, s): (usize, &Step)| {
            let outcome = if i == last { self.outcome() } else { next(s) };
            vec![host.to_owned(), name(s.table), outcome, short(&s.matched)]
        };
        self.steps
            .iter()
            .enumerate()
            .filter(telling)
            .map(row)
            .collect()
    }

    fn outcome(&self) -> String {
        match self.end {
            End::Container => "to the container",
            End::Tunnel => "into the tunnel",
            End::Service => "to the gateway",
            End::Answered => "answered",
            End::Dropped(_) => "dropped",
        }
        .to_owned()
    }
}

fn next(step: &Step) -> String {
    let goto = |a: &String| a.strip_prefix("goto_table:")?.parse().ok();
    let tracked = step.actions.iter().any(|a| a.starts_with("ct(table="));
    match step.actions.iter().find_map(goto) {
        _ if tracked => "looked up".to_owned(),
        Some(table) => format!("to {}", name(table)),
        None => "passed".to_owned(),
    }
}

/// Conditions as few as a line has room for.
fn short(matched: &str) -> String {
    let parts: Vec<&str> = matched
        .split(',')
        .filter(|p| {
            !p.starts_with("reg0=") && !p.starts_with("reg1=") && !p.starts_with("ct_state=")
        })
        .collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPPED: &str = r#"Flow: tcp,in_port=skxd9648e,tp_dst=80

bridge("br-int")
----------------
 0. ip,in_port=skxd9648e, priority 200, cookie 0x5c01006dcf649574
    set_field:0xd9648e->reg0
    goto_table:20
20. ip,reg0=0xd9648e,nw_dst=10.0.0.10, priority 150, cookie 0x5c011414553fbc3d
    ct(table=21,zone=2)
    drop
     -> A clone of the packet is forked to recirculate.

Final flow: tcp,reg0=0xd9648e
Datapath actions: ct(zone=2),recirc(0x4)

===============================================================================
recirc(0x4) - resume conntrack with default ct_state=trk|new (use --ct-next to customize)
===============================================================================

bridge("br-int")
----------------
    thaw
        Resuming from table 21
21. ct_state=-inv+trk,ip,reg0=0xd9648e, priority 100, cookie 0x5c01156dcf649574
    move:NXM_NX_CT_NW_SRC[]->NXM_NX_REG2[]
     -> NXM_NX_REG2[] is now 0xa000002
    goto_table:22
22. priority 0, cookie 0x5c0116fd410ed2f2
    goto_table:23
23. reg0=0xd9648e,reg3=0xa00000a, priority 100, cookie 0x5c011714553fbc3d
    drop

Datapath actions: drop
"#;

    #[test]
    fn a_dropped_packet_ends_in_its_table() {
        let way = parse(DROPPED).unwrap();
        assert_eq!(way.end, End::Dropped(23));
        let tables: Vec<u8> = way.steps.iter().map(|s| s.table).collect();
        assert_eq!(tables, [0, 20, 21, 22, 23]);
        let rows = way.rows("east-1");
        let what: Vec<&str> = rows.iter().map(|r| r[2].as_str()).collect();
        assert_eq!(what, ["to policy", "looked up", "to opener", "dropped"]);
    }

    #[test]
    fn a_packet_ends_where_it_is_put_out() {
        let of = |action: &str| {
            let text = format!("50. ip,reg0=0x7, priority 200, cookie 0x1\n    {action}\n");
            parse(&text).unwrap().end
        };
        assert_eq!(of("output:skx7"), End::Tunnel);
        assert_eq!(of("output:sks7"), End::Service);
        assert_eq!(of("output:skc8b05ba1b7f"), End::Container);
        assert_eq!(of("drop"), End::Dropped(50));
        assert_eq!(parse("nothing"), None);
    }
}

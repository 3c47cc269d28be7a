//! A container moves to another cloud while another one talks with it over one TCP connection.
//!
//! The server's answers are the count of what it was asked: a number that lives in its
//! memory alone. A process that started anew, or a connection that was opened anew, would
//! begin with one.

use super::{Member, sh};
use crate::system::watch::Journal;
use anyhow::{Context, Result, ensure};
use kube::api::{Api, PostParams};
use kube::runtime::wait::await_condition;
use skysail_schemas::migration::{MigrationMode, MigrationPhase, MigrationSpec, MigrationTarget};
use skysail_schemas::{Container, Host, Migration, MigrationStatus};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A system that still boots, or whose agents are just replaced, has what stands against a move for so long at the most.
const SETTLES: Duration = Duration::from_secs(30);
/// A move that takes longer shows nothing.
const LIMIT: Duration = Duration::from_secs(60);

/// Tells on which port it listens, then answers every line with how many there were; ends by itself.
const SERVER: &str = "alarm 300; $l=IO::Socket::INET->new(LocalPort=>0,Listen=>1) or die qq($!\\n); print $l->sockport,qq(\\n); open STDOUT,q(>/dev/null); $c=$l->accept; $c->autoflush(1); while(<$c>){$n++; print $c qq($n\\n)}";
/// Asks every 10 ms until it is told that the move is over; prints how often, and the longest wait in seconds.
const CLIENT: &str = "sub now {open $u,q(<),q(/proc/uptime); (split q( ),<$u>)[0]} $s=IO::Socket::INET->new(PeerAddr=>q(ADDRESS),PeerPort=>PORT,Timeout=>5) or die qq(no connection: $!\\n); $s->autoflush(1); $m=0; until(-e q(/run/moved)){$t=now; print $s qq(x\\n); $a=<$s>; die qq(the connection broke\\n) unless defined $a; die qq(answer $a instead of $n\\n) if $a!=++$n; $g=now()-$t; $m=$g if $g>$m; select(undef,undef,undef,0.01)} printf qq(%d %.2f\\n),$n,$m";

/// Shows it, or says why nothing can be shown.
///
/// # Errors
/// When a container that says that it can move does not, or an answer is lost.
pub async fn run(client: &kube::Client, members: &[Member], journal: &Journal) -> Result<()> {
    let Some((goes, cloud)) = candidate(client, members).await? else {
        journal.say("no move is shown: no container here can move live to another cloud; its condition Migratable says why");
        return Ok(());
    };
    let mut others = members.iter().filter(|m| m.tenant == goes.tenant);
    let Some(talks) = others.find(|m| m.name != goes.name) else {
        journal.say("no move is shown: the container that can move has nobody to talk with");
        return Ok(());
    };
    let Some(port) = listen(client, goes).await? else {
        journal
            .say("no move is shown: the image has no perl, with which two containers would talk");
        return Ok(());
    };
    let asks = CLIENT
        .replace("ADDRESS", &goes.address)
        .replace("PORT", &port.to_string());
    let asks = format!("rm -f /run/moved; exec perl -MIO::Socket::INET -e '{asks}'");
    let moving = async {
        let done = moved(client, goes, &cloud).await;
        // Whatever came of it, the one who asks must hear that it is over.
        sh(client, talks, "touch /run/moved").await?;
        done
    };
    let (talk, status) = tokio::join!(sh(client, talks, &asks), moving);
    let (talk, status) = (talk?, status?);
    ensure!(
        talk.code == 0,
        "while {}/{} moved, {} lost it: {}",
        goes.tenant,
        goes.name,
        talks.name,
        talk.stderr.trim()
    );
    let (answers, longest) = talk.stdout.trim().split_once(' ').unwrap_or(("0", "0"));
    journal.say(format!(
        "across clouds: {}/{} moved live from {} to {} in {} and kept its address, its memory and the TCP connection of {}: {answers} questions, none unanswered, the longest wait {longest} s",
        goes.tenant,
        goes.name,
        status.source.as_deref().unwrap_or("?"),
        status.target.as_deref().unwrap_or("?"),
        status.total.map_or_else(|| "?".into(), |t| t.to_string()),
        talks.name,
    ));
    Ok(())
}

/// Starts the server; its port, or none where there is nothing to run it with.
async fn listen(client: &kube::Client, at: &Member) -> Result<Option<u16>> {
    let server = format!(
        "command -v perl >/dev/null || exit 3; f=/run/listens; : >$f; setsid perl -MIO::Socket::INET -e '{SERVER}' </dev/null >$f 2>&1 & for i in $(seq 50); do [ -s $f ] && break; sleep 0.1; done; cat $f"
    );
    let done = sh(client, at, &server).await?;
    if done.code == 3 {
        return Ok(None);
    }
    let port = done.stdout.trim().parse();
    let port = port.with_context(|| {
        let said = format!("{}{}", done.stdout.trim(), done.stderr.trim());
        format!("{}/{} does not listen: {said}", at.tenant, at.name)
    })?;
    Ok(Some(port))
}

/// A container that may go anywhere and of which nobody knows that it cannot move, and another cloud than its own.
async fn candidate<'a>(
    client: &kube::Client,
    members: &'a [Member],
) -> Result<Option<(&'a Member, String)>> {
    let hosts = Api::<Host>::all(client.clone());
    let hosts = hosts.list(&Default::default()).await?;
    let clouds: BTreeMap<_, _> = hosts
        .items
        .iter()
        .filter_map(|h| Some((h.metadata.name.clone()?, h.spec.cloud.clone()?)))
        .collect();
    for member in members {
        let api = Api::<Container>::namespaced(client.clone(), &member.tenant);
        let container = api.get(&member.name).await?;
        let rules = &container.spec.placement;
        let bound = !rules.clouds.is_empty() || rules.host.is_some() || !rules.spread.is_empty();
        let status = container.status.unwrap_or_default();
        let told = status.conditions.iter().find(|c| c.type_ == "Migratable");
        if bound || told.is_some_and(|c| c.status == "False") {
            continue;
        }
        let own = status.host.and_then(|h| clouds.get(&h).cloned());
        let other = own.and_then(|own| clouds.values().find(|c| **c != own));
        if let Some(other) = other {
            return Ok(Some((member, other.clone())));
        }
    }
    Ok(None)
}

/// The move. One that is given up leaves the container where it was, and is tried again while things settle.
async fn moved(client: &kube::Client, member: &Member, cloud: &str) -> Result<MigrationStatus> {
    let begun = Instant::now();
    loop {
        let (name, status) = migrate(client, member, cloud).await?;
        if status.phase == MigrationPhase::Succeeded {
            return Ok(status);
        }
        let told = status.conditions.iter().find(|c| c.type_ == "Succeeded");
        let why = told.map_or("", |c| c.message.as_str());
        ensure!(
            begun.elapsed() < SETTLES,
            "migration/{name} -n {}: {:?}: {why}",
            member.tenant,
            status.phase
        );
        let migrations = Api::<Migration>::namespaced(client.clone(), &member.tenant);
        migrations.delete(&name, &Default::default()).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn migrate(
    client: &kube::Client,
    member: &Member,
    cloud: &str,
) -> Result<(String, MigrationStatus)> {
    let migrations = Api::<Migration>::namespaced(client.clone(), &member.tenant);
    let spec = MigrationSpec {
        container: member.name.clone(),
        target: MigrationTarget {
            host: None,
            cloud: Some(cloud.to_owned()),
        },
        mode: MigrationMode::Live,
        ..MigrationSpec::default()
    };
    let mut wanted = Migration::new("", spec);
    wanted.metadata.name = None;
    wanted.metadata.generate_name = Some(format!("{}-", member.name));
    let made = migrations.create(&PostParams::default(), &wanted).await?;
    let name = made.metadata.name.unwrap_or_default();
    let over = await_condition(migrations, &name, |m: Option<&Migration>| {
        m.and_then(|m| m.status.as_ref())
            .is_some_and(|s| s.phase.is_finished())
    });
    let about = format!("migration/{name} -n {}", member.tenant);
    let over = tokio::time::timeout(LIMIT, over)
        .await
        .with_context(|| format!("{about} is not over after {} s", LIMIT.as_secs()))??;
    let status = over.and_then(|m| m.status).unwrap_or_default();
    Ok((name, status))
}

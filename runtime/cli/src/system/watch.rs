//! Waiting until what was asked for is real, saying all the while what happens.

use anyhow::{Result, bail};
use kube::api::{Api, DynamicObject, ListParams};
use kube::discovery::ApiResource;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The kinds that become ready, in the order in which they do.
const KINDS: [(&str, &str); 6] = [
    ("Cloud", "clouds"),
    ("Host", "hosts"),
    ("Image", "images"),
    ("Network", "networks"),
    ("ContainerSet", "containersets"),
    ("Container", "containers"),
];
/// Silence for longer than this is explained.
const STALL: Duration = Duration::from_secs(10);

/// Prints lines with the time since the start, so that slow steps are seen.
pub struct Journal {
    begun: Instant,
    marks: RefCell<Vec<(String, f64)>>,
}

impl Journal {
    /// Starts the clock.
    pub fn start() -> Self {
        Self {
            begun: Instant::now(),
            marks: RefCell::default(),
        }
    }
    /// Notes that `what` is done now; only the first time counts.
    pub fn mark(&self, what: &str) {
        let mut marks = self.marks.borrow_mut();
        if marks.iter().all(|(w, _)| w != what) {
            marks.push((what.to_owned(), self.begun.elapsed().as_secs_f64()));
        }
    }
    /// What was done when, in seconds since the start.
    pub fn marks(&self) -> String {
        let marks = self.marks.borrow();
        let all: Vec<String> = marks.iter().map(|(w, s)| format!("{w} {s:.1} s")).collect();
        all.join(", ")
    }
    /// One line.
    pub fn say(&self, text: impl std::fmt::Display) {
        eprintln!("{:>7.1}s  {text}", self.begun.elapsed().as_secs_f64());
    }
}

struct State {
    ready: bool,
    /// What must change for the line to be worth printing again: not every word of the message.
    gist: String,
    line: String,
}

/// `build` is that of the server; a host with an agent of another one is about to get ours.
fn state(kind: &str, object: &DynamicObject, build: &str) -> State {
    let text = |v: Option<&serde_json::Value>| {
        v.and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let name = match &object.metadata.namespace {
        Some(namespace) => format!(
            "{namespace}/{}",
            object.metadata.name.as_deref().unwrap_or_default()
        ),
        None => object.metadata.name.clone().unwrap_or_default(),
    };
    let conditions = object
        .data
        .pointer("/status/conditions")
        .and_then(|c| c.as_array())
        .cloned()
        .unwrap_or_default();
    let ready = conditions.iter().find(|c| c["type"] == "Ready");
    let mut is_ready = ready.is_some_and(|c| c["status"] == "True");
    let (mut reason, mut message) = ready.map_or((String::from("Pending"), String::new()), |c| {
        (text(c.get("reason")), text(c.get("message")))
    });
    let agent = text(object.data.pointer("/status/agentBuild"));
    if is_ready && !agent.is_empty() && agent != build {
        is_ready = false;
        (reason, message) = ("OtherBuild".into(), "its agent is replaced by ours".into());
    }
    let place = text(object.data.pointer("/status/host"));
    let line = match (is_ready, place.is_empty()) {
        (true, true) => format!("{kind} {name}: ready"),
        (true, false) => format!("{kind} {name}: ready on {place}"),
        (false, _) if message.is_empty() => format!("{kind} {name}: {reason}"),
        (false, _) => format!("{kind} {name}: {reason}: {message}"),
    };
    // What the object itself does is told step by step; what waits for others is told once.
    let own = matches!(kind, "Image" | "Host");
    let gist = if own {
        line.clone()
    } else {
        format!("{is_ready} {reason} {place}")
    };
    State {
        ready: is_ready,
        gist,
        line,
    }
}

async fn states(client: &kube::Client, build: &str) -> Result<BTreeMap<(usize, String), State>> {
    let mut all = BTreeMap::new();
    for (order, (kind, plural)) in KINDS.into_iter().enumerate() {
        let resource = ApiResource {
            group: skysail_schemas::GROUP.into(),
            version: skysail_schemas::VERSION.into(),
            api_version: format!("{}/{}", skysail_schemas::GROUP, skysail_schemas::VERSION),
            kind: kind.into(),
            plural: plural.into(),
        };
        let list = Api::<DynamicObject>::all_with(client.clone(), &resource)
            .list(&ListParams::default())
            .await?;
        for object in &list.items {
            let key = format!(
                "{}/{}",
                object.metadata.namespace.clone().unwrap_or_default(),
                object.metadata.name.clone().unwrap_or_default()
            );
            all.insert((order, key), state(kind, object, build));
        }
    }
    Ok(all)
}

/// Waits until every object is ready, and prints each change.
///
/// # Errors
/// After `limit` without an end, with what is still waited for.
pub async fn until_ready(client: &kube::Client, journal: &Journal, limit: Duration) -> Result<()> {
    let mut shown: BTreeMap<(usize, String), String> = BTreeMap::new();
    let build = skysail_reconcile::program::hash().await?;
    let (begun, mut changed) = (Instant::now(), Instant::now());
    loop {
        let now = states(client, &build).await?;
        for (key, state) in &now {
            if shown.get(key) != Some(&state.gist) {
                journal.say(&state.line);
                shown.insert(key.clone(), state.gist.clone());
                changed = Instant::now();
            }
        }
        for (order, (_, plural)) in KINDS.into_iter().enumerate() {
            let mut of = now.iter().filter(|((o, _), _)| *o == order).peekable();
            if of.peek().is_some() && of.all(|(_, state)| state.ready) {
                journal.mark(plural);
            }
        }
        let waiting: Vec<_> = now
            .values()
            .filter(|s| !s.ready)
            .map(|s| s.line.as_str())
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > limit {
            bail!(
                "gave up after {} s; still waiting for:\n  {}",
                limit.as_secs(),
                waiting.join("\n  ")
            );
        }
        if changed.elapsed() > STALL {
            journal.say(format!(
                "still waiting for {} of {}; first: {}",
                waiting.len(),
                now.len(),
                waiting[0]
            ));
            changed = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

//! What a container is promised: its limits, its life, and the ways into it.

mod access;
mod copies;
mod life;
mod limits;
mod resize;
mod storage;

use crate::Case;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::{Cluster, Output, until};
use std::time::Duration;

pub const CASES: &[Case] = &[
    (
        "hosts_tell_how_many_containers_they_run",
        limits::hosts_count,
    ),
    ("a_container_gets_no_more_cpu_than_its_type", limits::cpu),
    (
        "more_memory_than_its_type_ends_a_process_and_not_the_container",
        limits::memory,
    ),
    ("more_processes_than_its_type_cannot_be_made", limits::pids),
    (
        "a_full_disk_is_full_for_its_container_only_and_leaves_no_loop_device",
        limits::disk,
    ),
    ("no_container_sees_another_ones_files", limits::files),
    (
        "an_image_that_fills_the_disk_of_its_host_is_said_and_heals",
        storage::full,
    ),
    (
        "a_container_that_runs_follows_the_size_of_its_type",
        resize::live,
    ),
    (
        "a_size_that_cannot_be_had_is_said_and_harms_nothing",
        resize::refused,
    ),
    ("user_data_runs_at_the_first_boot_only", life::user_data),
    (
        "a_stopped_container_starts_with_its_address_and_files",
        life::stopped,
    ),
    (
        "an_init_that_ends_is_started_again_or_not_as_its_policy_says",
        life::policies,
    ),
    (
        "a_privileged_container_needs_the_leave_of_its_namespace",
        life::privileged,
    ),
    ("egress_of_a_network_can_be_switched", life::egress),
    ("exec_passes_input_output_and_exit_codes", access::exec),
    (
        "cp_copies_both_ways_with_content_mode_and_owner",
        copies::both_ways,
    ),
    ("a_copy_of_what_is_not_there_says_so", copies::of_nothing),
    (
        "a_copy_that_breaks_off_says_so_and_leaves_nothing",
        copies::broken_off,
    ),
    ("logs_show_the_boot", access::logs),
    (
        "the_console_is_typed_into_and_left_without_harm",
        access::console,
    ),
];

const LIMIT: Duration = Duration::from_secs(30);

/// A container for one case, in tenant acme, with an image whose init only waits: it boots at once.
struct Trial<'a> {
    cluster: &'a Cluster,
    name: &'static str,
}

/// An init that says so on its console and ends when it is asked.
const INIT: &str = "echo it boots; trap 'exit 0' PWR TERM; while :; do sleep 60 & wait $!; done";

impl Trial<'_> {
    /// Runs `body` with a container of the given further spec, then removes all of it.
    fn with(
        cluster: &Cluster,
        name: &'static str,
        spec: &Value,
        body: impl FnOnce(&Trial) -> Result<()>,
    ) -> Result<()> {
        let debian = cluster.get("image", "default", "debian")?["spec"]["debian"].clone();
        let image = json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "Image", "metadata": { "name": "waits" },
            "spec": { "debian": debian, "init": ["/bin/sh", "-c", INIT] },
        });
        let size = json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "InstanceType",
            "metadata": { "name": "trial", "namespace": "acme" },
            "spec": { "cpu": "200m", "memory": "64Mi", "disk": "32Mi", "pids": 64 },
        });
        let trial = Trial { cluster, name };
        let manifests = [image, size, trial.manifest(spec)].map(|m| format!("---\n{m}\n"));
        let result = cluster
            .apply(&manifests.concat())
            .and_then(Output::ok)
            .and_then(|_| body(&trial));
        let removed = trial.remove(&["instancetype/trial", "image/waits"]);
        result.and(removed)
    }

    /// Runs `body` with one more container on the same host.
    fn beside(&self, name: &'static str, body: impl FnOnce(&Trial) -> Result<()>) -> Result<()> {
        let cluster = self.cluster;
        let trial = Trial { cluster, name };
        let spec = json!({ "placement": { "host": self.host()? } });
        let result = cluster
            .apply(&trial.manifest(&spec).to_string())
            .and_then(Output::ok)
            .and_then(|_| body(&trial));
        let removed = trial.remove(&[]);
        result.and(removed)
    }

    fn manifest(&self, spec: &Value) -> Value {
        let mut full = json!({
            "image": "waits", "instanceType": "trial", "networks": [{ "name": "private" }],
        });
        if let (Some(full), Some(more)) = (full.as_object_mut(), spec.as_object()) {
            full.extend(more.clone());
        }
        json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
            "metadata": { "name": self.name, "namespace": "acme" }, "spec": full,
        })
    }

    fn remove(&self, more: &[&str]) -> Result<()> {
        let container = format!("container/{}", self.name);
        let head = ["delete", "-n", "acme", "--ignore-not-found", &container];
        self.cluster
            .kubectl(&[&head[..], more].concat())?
            .ok()
            .map(drop)
    }

    /// Waits until it runs and is on its network.
    fn ready(&self) -> Result<()> {
        self.cluster
            .kubectl(&[
                "wait",
                "-n",
                "acme",
                &format!("container/{}", self.name),
                "--for=condition=Ready",
                "--timeout=60s",
            ])?
            .ok()
            .map(drop)
    }

    fn object(&self) -> Result<Value> {
        self.cluster.get("container", "acme", self.name)
    }

    /// Changes its spec.
    fn patch(&self, spec: &Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        self.cluster
            .kubectl(&[
                "patch",
                "container",
                "-n",
                "acme",
                self.name,
                "--type=merge",
                "-p",
                &patch,
            ])?
            .ok()
            .map(drop)
    }

    /// Runs a shell line in it.
    fn sh(&self, line: &str) -> Result<Output> {
        self.cluster.exec("acme", self.name, &["sh", "-c", line])
    }

    fn host(&self) -> Result<String> {
        let object = self.object()?;
        let host = object["status"]["host"].as_str();
        Ok(host.context("it has no host")?.to_owned())
    }

    fn pid(&self) -> Result<i64> {
        self.object()?["status"]["pid"]
            .as_i64()
            .context("it has no init")
    }

    /// The condition `kind`: its status and reason.
    fn condition(&self, kind: &str) -> Result<(String, String)> {
        let object = self.object()?;
        let conditions = object["status"]["conditions"].as_array();
        let found = conditions
            .into_iter()
            .flatten()
            .find(|c| c["type"] == kind)
            .with_context(|| format!("no condition {kind}"))?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("reason")))
    }

    /// Waits until its phase is `phase`.
    fn phase(&self, phase: &str) -> Result<()> {
        until(&format!("acme/{} to be {phase}", self.name), LIMIT, || {
            let object = self.object()?;
            let now = &object["status"]["phase"];
            ensure!(now == phase, "it is {now}");
            Ok(())
        })
        .map(drop)
    }
}

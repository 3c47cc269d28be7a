//! Where containers go: foreseen, said, and with a host bought where there is no room.

use crate::Case;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skysail_e2e::{Cluster, until};
use std::time::Duration;

pub const CASES: &[Case] = &[
    (
        "a_plan_comes_true_exactly_and_is_refused_once_the_world_has_changed",
        foreseen,
    ),
    (
        "a_plan_that_prunes_says_what_goes_and_then_exactly_that_goes",
        pruned,
    ),
    (
        "a_cordoned_host_gets_nothing_and_the_way_out_is_said",
        cordoned,
    ),
    (
        "a_pool_buys_the_cheapest_host_for_what_fits_nowhere_and_gives_it_back",
        bought,
    ),
];

const HEAD: &str = "apiVersion: skysail.dev/v1alpha1\n";

/// Two containers that keep apart over clouds.
fn pair() -> String {
    let one = |name: &str| {
        format!(
            "{HEAD}kind: Container\nmetadata: {{name: {name}, namespace: acme, labels: {{app: pair}}}}\nspec: {{image: debian, instanceType: small, networks: [{{name: private}}], placement: {{antiAffinity: {{required: [{{topology: cloud, selector: {{matchLabels: {{app: pair}}}}}}]}}}}}}\n"
        )
    };
    format!("{}---\n{}", one("pair-a"), one("pair-b"))
}

fn foreseen(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let manifests = write("pair.yaml", &pair())?;
    let plan = cluster.skysail(&["plan", "-f", &manifests, "-o", "json"])?;
    ensure!(plan.code == Some(2), "{plan:?}");
    let foreseen: Value = serde_json::from_str(&plan.stdout)?;
    let placements = foreseen["placements"].as_array().context("placements")?;
    ensure!(placements.len() == 2, "{foreseen}");
    let before = cluster.kubectl(&["get", "container", "-n", "acme", "pair-a"])?;
    ensure!(before.code != Some(0), "a plan made something");
    let file = write("plan.json", &plan.stdout)?;
    cluster.skysail(&["apply", "--plan", &file])?.ok()?;
    for placement in placements {
        let name = placement["container"].as_str().unwrap_or_default();
        let name = name.trim_start_matches("acme/");
        until(name, Duration::from_secs(30), || {
            let there = cluster.get("container", "acme", name)?;
            ensure!(
                there["status"]["host"] == placement["host"],
                "{placement}: {}",
                there["status"]
            );
            Ok(())
        })?;
    }
    let again = cluster.skysail(&["apply", "--plan", &file])?;
    ensure!(
        again.code == Some(1) && again.stderr.contains("the world has changed"),
        "{again:?}"
    );
    let calm = cluster.skysail(&["plan", "-f", &manifests])?;
    ensure!(calm.code == Some(0), "{calm:?}");
    cluster
        .skysail(&["delete", "-f", &manifests])?
        .ok()
        .map(drop)
}

fn pruned(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let one = |name: &str| {
        format!(
            "{HEAD}kind: InstanceType\nmetadata: {{name: {name}, namespace: acme, labels: {{app: pruned}}}}\nspec: {{cpu: 100m, memory: 64Mi}}\n"
        )
    };
    let both = format!("{}---\n{}", one("kept"), one("dropped"));
    cluster.apply(&both)?.ok()?;
    // Has the label, but was never applied: somebody else's.
    let foreign = ["create", "configmap", "foreign", "-n", "acme"];
    cluster.kubectl(&foreign)?.ok()?;
    let label = ["label", "configmap", "foreign", "-n", "acme", "app=pruned"];
    cluster.kubectl(&label)?.ok()?;
    let manifests = write("kept.yaml", &one("kept"))?;
    let ask = [
        "plan",
        "-f",
        &manifests,
        "--prune",
        "-l",
        "app=pruned",
        "-o",
        "json",
    ];
    let plan = cluster.skysail(&ask)?;
    ensure!(plan.code == Some(2), "{plan:?}");
    let foreseen: Value = serde_json::from_str(&plan.stdout)?;
    let changes = foreseen["changes"].as_array().context("changes")?;
    ensure!(changes.len() == 1, "{foreseen}");
    let said = changes[0].to_string();
    ensure!(
        said.contains("dropped") && said.to_lowercase().contains("delete"),
        "{said}"
    );
    let file = write("plan.json", &plan.stdout)?;
    cluster.skysail(&["apply", "--plan", &file])?.ok()?;
    let left = [
        "get",
        "instancetype,configmap",
        "-n",
        "acme",
        "-l",
        "app=pruned",
        "-o",
        "name",
    ];
    let left = cluster.kubectl(&left)?.ok()?;
    ensure!(
        left.contains("/kept") && left.contains("/foreign") && !left.contains("dropped"),
        "{left}"
    );
    let calm = cluster.skysail(&ask)?;
    ensure!(calm.code == Some(0), "{calm:?}");
    for what in ["instancetype/kept", "configmap/foreign"] {
        cluster.kubectl(&["delete", what, "-n", "acme"])?.ok()?;
    }
    Ok(())
}

fn cordoned(cluster: &Cluster) -> Result<()> {
    cluster.skysail(&["cordon", "east-1"])?.ok()?;
    let only = format!(
        "{HEAD}kind: Container\nmetadata: {{name: only, namespace: acme}}\nspec: {{image: debian, instanceType: small, networks: [{{name: private}}], placement: {{host: east-1}}}}\n"
    );
    cluster.apply(&only)?.ok()?;
    until("the way out", Duration::from_secs(30), || {
        let there = cluster.get("container", "acme", "only")?;
        let said = there["status"]["conditions"].to_string();
        ensure!(
            said.contains("1 cordoned") && said.contains("uncordon east-1"),
            "{said}"
        );
        Ok(())
    })?;
    until("an event", Duration::from_secs(30), || {
        let events = cluster
            .kubectl(&[
                "get",
                "events",
                "-n",
                "acme",
                "--field-selector",
                "involvedObject.name=only",
            ])?
            .ok()?;
        ensure!(events.contains("NoHostFits"), "{events}");
        Ok(())
    })?;
    cluster.skysail(&["uncordon", "east-1"])?.ok()?;
    cluster
        .skysail(&[
            "wait",
            "container/only",
            "-n",
            "acme",
            "--for=condition=Ready",
            "--timeout",
            "60s",
        ])?
        .ok()?;
    let top = cluster.skysail(&["top", "hosts"])?.ok()?;
    ensure!(top.contains("east-1") && top.contains("PROMISED"), "{top}");
    cluster
        .skysail(&["delete", "container", "only", "-n", "acme"])?
        .ok()
        .map(drop)
}

fn bought(cluster: &Cluster) -> Result<()> {
    let pool = format!(
        "{HEAD}kind: HostPool\nmetadata: {{name: elastic}}\nspec: {{clouds: [west], max: 2, returnAfter: 3s, template: {{publicAddress: true, labels: {{pool: elastic}}}}}}\n"
    );
    cluster.apply(&pool)?.ok()?;
    let needy = format!(
        "{HEAD}kind: Container\nmetadata: {{name: needy, namespace: acme}}\nspec: {{image: debian, instanceType: small, networks: [{{name: private}}], placement: {{hostSelector: {{pool: elastic}}}}}}\n"
    );
    cluster.apply(&needy)?.ok()?;
    cluster
        .skysail(&[
            "wait",
            "container/needy",
            "-n",
            "acme",
            "--for=condition=Ready",
            "--timeout",
            "180s",
        ])?
        .ok()?;
    let there = cluster.get("container", "acme", "needy")?;
    ensure!(
        there["status"]["host"] == "elastic-0",
        "{}",
        there["status"]
    );
    let host = cluster.get("host", "default", "elastic-0")?;
    ensure!(host["spec"]["cloud"] == "west", "{host}");
    cluster
        .skysail(&["delete", "container", "needy", "-n", "acme"])?
        .ok()?;
    until("the host to be given back", Duration::from_secs(90), || {
        let hosts = cluster.kubectl(&["get", "hosts", "-o", "name"])?.ok()?;
        ensure!(!hosts.contains("elastic"), "{hosts}");
        Ok(())
    })?;
    cluster
        .skysail(&["delete", "hostpool", "elastic"])?
        .ok()
        .map(drop)
}

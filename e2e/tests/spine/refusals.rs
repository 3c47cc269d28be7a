//! Bad input is refused whole, with a field path and a way out; what may heal, heals.

use crate::Case;
use anyhow::{Result, ensure};
use serde_json::Value;
use skysail_e2e::{Cluster, until};
use std::time::Duration;

pub const CASES: &[Case] = &[
    (
        "a_manifest_with_mistakes_is_refused_with_their_fields",
        refused,
    ),
    (
        "an_address_outside_the_network_or_taken_is_said_and_heals",
        addresses,
    ),
    ("a_missing_image_is_accepted_said_and_heals", missing_image),
    ("a_container_larger_than_any_machine_says_so", too_large),
    ("an_unreachable_host_says_so", unreachable),
];

const HEAD: &str = "apiVersion: skysail.dev/v1alpha1\n";

fn refused(cluster: &Cluster) -> Result<()> {
    let cases = [
        (
            "kind: Network\nmetadata: {name: n1, namespace: acme}\nspec: {cidr: 10.9.0.0/24, egres: true}\n",
            "spec.egres",
        ),
        (
            "kind: Network\nmetadata: {name: n1, namespace: acme}\nspec: {cidr: 8.8.8.0/24}\n",
            "spec.cidr",
        ),
        (
            "kind: Network\nmetadata: {name: n1, namespace: acme}\nspec: {cidr: 10.9.0.7/24}\n",
            "spec.cidr",
        ),
        (
            "kind: InstanceType\nmetadata: {name: x, namespace: acme}\nspec: {cpu: 0, memory: 1Gi}\n",
            "spec.cpu",
        ),
        (
            "kind: InstanceType\nmetadata: {name: x, namespace: acme}\nspec: {cpu: [1], memory: 1Gi}\n",
            "spec.cpu",
        ),
        (
            "kind: Container\nmetadata: {name: c, namespace: acme}\nspec: {image: debian, instanceType: small, networks: [{name: private}, {name: private}]}\n",
            "spec.networks[1].name",
        ),
        (
            "kind: Container\nmetadata: {name: c, namespace: nowhere}\nspec: {image: debian, instanceType: small}\n",
            "nowhere",
        ),
        (
            "kind: SecurityPolicy\nmetadata: {name: p, namespace: acme}\nspec: {containerSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.7/24}}]}]}\n",
            "spec.ingress[0].from[0].ipBlock.cidr",
        ),
        (
            "kind: SecurityPolicy\nmetadata: {name: p, namespace: acme}\nspec: {containerSelector: {}, egress: [{ports: [{port: 80, endPort: 79}]}]}\n",
            "spec.egress[0].ports[0].endPort",
        ),
        (
            "kind: SecurityPolicy\nmetadata: {name: p, namespace: acme}\nspec: {containerSelector: {}, ingress: [{ports: [{protocol: TPC}]}]}\n",
            "spec.ingress[0].ports[0].protocol",
        ),
        ("kind: Host\nmetadata: {name: h}\nspec: {}\n", "spec"),
    ];
    for (manifest, field) in cases {
        let output = cluster.apply(&format!("{HEAD}{manifest}"))?;
        ensure!(output.code != Some(0), "was accepted:\n{manifest}");
        ensure!(
            output.stderr.contains(field),
            "{field} is not named for\n{manifest}{}",
            output.stderr
        );
    }
    let long = "a".repeat(64);
    let output = cluster.apply(&format!("{HEAD}kind: Container\nmetadata: {{name: {long}, namespace: acme}}\nspec: {{image: debian, instanceType: small}}\n"))?;
    ensure!(
        output.stderr.contains("metadata.name") && output.stderr.contains("63"),
        "{}",
        output.stderr
    );
    Ok(())
}

fn reason(cluster: &Cluster, name: &str, kind: &str) -> Result<String> {
    let object = cluster.get("container", "acme", name)?;
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = conditions
        .iter()
        .find(|c| c["type"] == kind && c["status"] != "True");
    Ok(found
        .and_then(|c| c["reason"].as_str())
        .unwrap_or_default()
        .to_owned())
}

fn says(cluster: &Cluster, name: &str, kind: &str, expected: &str) -> Result<()> {
    until(
        &format!("acme/{name} to say {expected}"),
        Duration::from_secs(20),
        || {
            let found = reason(cluster, name, kind)?;
            ensure!(found == expected, "it says {found:?}");
            Ok(())
        },
    )
    .map(drop)
}

fn addresses(cluster: &Cluster) -> Result<()> {
    let container = |name: &str, address: &str| {
        format!(
            "{HEAD}kind: Container\nmetadata: {{name: {name}, namespace: acme}}\nspec: {{image: debian, instanceType: small, networks: [{{name: private, address: {address}}}]}}\n"
        )
    };
    cluster.apply(&container("outside", "10.7.0.9"))?.ok()?;
    cluster.apply(&container("taken", "10.0.0.10"))?.ok()?;
    says(cluster, "outside", "Networked", "AddressNotUsable")?;
    says(cluster, "taken", "Networked", "AddressTaken")?;
    cluster
        .kubectl(&["delete", "container", "-n", "acme", "outside", "taken"])?
        .ok()
        .map(drop)
}

fn missing_image(cluster: &Cluster) -> Result<()> {
    cluster.apply(&format!("{HEAD}kind: Container\nmetadata: {{name: early, namespace: acme}}\nspec: {{image: later, instanceType: small, networks: [{{name: private}}]}}\n"))?.ok()?;
    says(cluster, "early", "Scheduled", "ImageNotFound")?;
    let mut image = cluster.get("image", "default", "debian")?;
    image["metadata"] = serde_json::json!({ "name": "later" });
    if let Some(object) = image.as_object_mut() {
        object.remove("status");
    }
    cluster.apply(&image.to_string())?.ok()?;
    cluster
        .kubectl(&[
            "wait",
            "-n",
            "acme",
            "container/early",
            "--for=condition=Ready",
            "--timeout=120s",
        ])?
        .ok()?;
    cluster
        .kubectl(&["delete", "container", "-n", "acme", "early"])?
        .ok()?;
    cluster
        .kubectl(&["delete", "image", "later"])?
        .ok()
        .map(drop)
}

fn too_large(cluster: &Cluster) -> Result<()> {
    cluster.apply(&format!("{HEAD}kind: InstanceType\nmetadata: {{name: giant, namespace: acme}}\nspec: {{cpu: 512, memory: 8Ti}}\n"))?.ok()?;
    cluster.apply(&format!("{HEAD}kind: Container\nmetadata: {{name: giant, namespace: acme}}\nspec: {{image: debian, instanceType: giant, networks: [{{name: private}}]}}\n"))?.ok()?;
    says(cluster, "giant", "Scheduled", "LargerThanAnyHost")?;
    let object = cluster.get("container", "acme", "giant")?;
    let message = object["status"]["conditions"].to_string();
    ensure!(
        message.contains("spec.instanceType") && message.contains("largest"),
        "the refusal names no field or no way out: {message}"
    );
    cluster
        .kubectl(&[
            "delete",
            "-n",
            "acme",
            "container/giant",
            "instancetype/giant",
        ])?
        .ok()
        .map(drop)
}

fn unreachable(cluster: &Cluster) -> Result<()> {
    cluster.apply(&format!("{HEAD}kind: Host\nmetadata: {{name: nobody}}\nspec: {{ssh: {{address: 127.0.0.1, port: 1}}}}\n"))?.ok()?;
    until(
        "host nobody to say that it cannot be reached",
        Duration::from_secs(30),
        || {
            let object = cluster.get("host", "default", "nobody")?;
            let empty = vec![];
            let conditions = object["status"]["conditions"].as_array().unwrap_or(&empty);
            let reachable = conditions
                .iter()
                .find(|c| c["type"] == "Reachable")
                .and_then(|c| c["status"].as_str().map(str::to_owned));
            ensure!(
                reachable.as_deref() == Some("False"),
                "Reachable is {reachable:?}: {}",
                Value::from(conditions.clone())
            );
            Ok(())
        },
    )?;
    cluster
        .kubectl(&["delete", "host", "nobody"])?
        .ok()
        .map(drop)
}

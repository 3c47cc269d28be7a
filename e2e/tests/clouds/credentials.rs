//! Credentials: said when they are missing, taken when they come, rotated, and never shown.

use crate::double::KEYS;
use crate::{Case, Clouds};
use anyhow::{Result, ensure};
use std::process::Command;

pub const CASES: &[Case] = &[
    (
        "a_cloud_says_which_secret_and_which_key_of_it_is_missing_and_goes_on_when_it_comes",
        missing_then_there,
    ),
    ("credentials_are_rotated_without_a_restart", rotated),
    ("a_host_may_not_read_secrets", hosts_see_none),
];

fn secret(clouds: &Clouds, pairs: &[(&str, &str)]) -> Result<()> {
    let literals: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("--from-literal={key}={value}"))
        .collect();
    let mut args = vec!["create", "secret", "generic", "aws", "-n", "skysail-system"];
    args.extend(literals.iter().map(String::as_str));
    args.extend(["--dry-run=client", "-o", "yaml"]);
    let manifest = clouds.cluster.kubectl(&args)?.ok()?;
    clouds.apply(&manifest)
}

const CONDITION: [&str; 3] = ["cloud", "aws", "CredentialsValid"];

fn missing_then_there(clouds: &Clouds) -> Result<()> {
    let endpoint = &clouds.double.endpoint;
    clouds.apply(&format!(
        "apiVersion: skysail.dev/v1alpha1
kind: Cloud
metadata: {{name: aws}}
spec:
  driver: ec2
  region: eu-central-1
  credentials: {{secret: aws}}
  ec2: {{endpoint: {endpoint:?}, machineTypes: [t3.medium]}}
"
    ))?;
    let way_out = "kubectl create secret generic aws -n skysail-system";
    clouds.says(CONDITION, ["False", "SecretNotFound", way_out])?;
    secret(clouds, &[("accessKeyId", KEYS.0)])?;
    clouds.says(CONDITION, ["False", "Denied", "no key secretAccessKey"])?;
    secret(
        clouds,
        &[("accessKeyId", KEYS.0), ("secretAccessKey", "wrong")],
    )?;
    clouds.says(CONDITION, ["False", "Denied", "SignatureDoesNotMatch"])?;
    let action = serde_json::json!({"action": "RunInstances", "dryRun": true, "code": "UnauthorizedOperation", "status": 403, "count": 1000});
    clouds.double.fault(action);
    secret(
        clouds,
        &[("accessKeyId", KEYS.0), ("secretAccessKey", KEYS.1)],
    )?;
    let lacking = "Secret skysail-system/aws lack the permission ec2:RunInstances;";
    clouds.says(CONDITION, ["False", "Denied", lacking])?;
    clouds.double.heal();
    // Nobody tells us of a policy that was mended: an edit of the Cloud makes it look at once.
    let touch = ["annotate", "cloud", "aws", "looked=again"];
    clouds.cluster.kubectl(&touch)?.ok()?;
    clouds.says(CONDITION, ["True", "Accepted", ""])?;
    clouds.ready("cloud", "aws")?;
    let size = clouds.cluster.get("machinetype", "acme", "aws-t3-medium")?;
    ensure!(size["spec"]["pricePerHour"] == "0.0416", "{size}");
    Ok(())
}

fn rotated(clouds: &Clouds) -> Result<()> {
    clouds.double.rotate("AKIDNEXT", "the-next-secret");
    secret(
        clouds,
        &[
            ("accessKeyId", "AKIDNEXT"),
            ("secretAccessKey", "the-next-secret"),
        ],
    )?;
    let touch = ["annotate", "cloud", "aws", "rotated=once"];
    clouds.cluster.kubectl(&touch)?.ok()?;
    clouds.ready("cloud", "aws")?;
    let before = clouds.double.calls("DescribeInstances");
    skysail_e2e::until("a call with the new keys", crate::LIMIT, || {
        ensure!(clouds.double.calls("DescribeInstances") > before);
        Ok(())
    })?;
    clouds.says(CONDITION, ["True", "Accepted", ""])?;
    Ok(())
}

fn hosts_see_none(clouds: &Clouds) -> Result<()> {
    let path = "/apis/skysail.dev/v1alpha1/hosts/no-such-host/credential";
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "{}")?;
    let body = file.path().to_string_lossy().into_owned();
    clouds.apply("apiVersion: skysail.dev/v1alpha1\nkind: Host\nmetadata: {name: no-such-host}\nspec: {ssh: {address: 198.18.255.254}}\n")?;
    let answer = clouds
        .cluster
        .kubectl(&["create", "--raw", path, "-f", &body])?
        .ok()?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    std::fs::write(file.path(), crate::text(&answer["kubeconfig"]))?;
    for args in [
        ["get", "secret", "aws", "-n", "skysail-system"].as_slice(),
        &["get", "secrets", "-A"],
        &["get", "clouds"],
    ] {
        let refused = clouds.cluster.kubectl_with(file.path(), args)?;
        ensure!(
            refused.code != Some(0) && refused.stderr.contains("Forbidden"),
            "{args:?}: {refused:?}"
        );
    }
    let delete = ["delete", "host", "no-such-host"];
    clouds.cluster.kubectl(&delete)?.ok().map(drop)
}

/// Everything that Skysail writes or shows, searched for the secrets of this test.
pub fn nowhere(clouds: &Clouds) -> Result<()> {
    let data = clouds.cluster.data();
    let mut shown = std::fs::read_to_string(data.join("server.log"))?;
    for kind in ["events", "clouds,hosts,machinetypes,containers"] {
        shown += &clouds
            .cluster
            .kubectl(&["get", kind, "-A", "-o", "yaml"])?
            .ok()?;
    }
    for entry in std::fs::read_dir("/proc")?.flatten() {
        // kubectl of this very test had them as arguments; it has ended.
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
            let words = String::from_utf8_lossy(&bytes).into_owned();
            // The cloud itself knows its keys.
            if !words.contains("double/ec2.py") {
                shown += &words;
            }
        }
    }
    let hosts = Command::new("grep")
        .args(["-rlE", "the/secret\\+of|the-next-secret"])
        .arg(data.join("sandbox"))
        .output()?;
    ensure!(hosts.stdout.is_empty(), "on a host: {hosts:?}");
    for secret in [KEYS.1, "the-next-secret"] {
        ensure!(!shown.contains(secret), "{secret} is shown somewhere");
    }
    Ok(())
}

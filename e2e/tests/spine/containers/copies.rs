//! `skysail cp`, both ways: whole, or not at all.

use super::{LIMIT, Trial};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use skysail_e2e::{Cluster, Output, until};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What a copy must keep: of every path its kind, mode, owners, size and link.
const LISTED: &str = r"-printf '%P %y %m %U:%G %s %l\n'";

fn copy(cluster: &Cluster, more: &[&str], from: &str, to: &str) -> Result<Output> {
    let head = ["cp", "-n", "acme"];
    cluster.skysail(&[&head[..], more, &[from, to]].concat())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A folder with everything that may get lost on the way.
fn fill(site: &Path) -> Result<()> {
    std::fs::create_dir_all(site.join("deep/er"))?;
    std::fs::write(site.join("deep/er/page"), "hello")?;
    std::fs::write(site.join("large"), vec![7; 3 << 20])?;
    std::fs::write(site.join(".hidden"), "")?;
    symlink("deep/er/page", site.join("link"))?;
    let mode = |name: &str, mode| {
        std::fs::set_permissions(site.join(name), std::fs::Permissions::from_mode(mode))
    };
    chown(site.join("large"), Some(7), Some(4242))?;
    chown(site.join("deep"), Some(1), None)?;
    mode("large", 0o4751)?;
    mode("deep", 0o2770)?;
    Ok(mode("deep/er/page", 0o400)?)
}

fn listed(folder: &Path) -> Result<Vec<String>> {
    let line = format!("find '{}' {LISTED}", folder.display());
    let output = Command::new("sh").args(["-c", &line]).output()?;
    Ok(sorted(&String::from_utf8_lossy(&output.stdout)))
}

/// Directories' sizes are of their file system, not of the copy.
fn sorted(list: &str) -> Vec<String> {
    let fields = |line: &str| {
        let mut fields: Vec<_> = line.split(' ').map(str::to_owned).collect();
        if fields.get(1).is_some_and(|kind| kind == "d") {
            fields.truncate(4);
        }
        fields.join(" ")
    };
    let mut lines: Vec<_> = list.lines().map(fields).collect();
    lines.sort();
    lines
}

fn same(what: &str, one: &[String], other: &[String]) -> Result<()> {
    ensure!(one.len() > 5, "{what}: {one:?}");
    ensure!(one == other, "{what}: {one:#?}\n{other:#?}");
    Ok(())
}

pub fn both_ways(cluster: &Cluster) -> Result<()> {
    let here = tempfile::tempdir()?;
    let (site, back) = (here.path().join("site"), here.path().join("back"));
    std::fs::create_dir_all(&back)?;
    fill(&site)?;
    Trial::with(cluster, "copied", &json!({}), |trial| {
        trial.ready()?;
        copy(cluster, &[], &text(&site), "copied:/srv")?.ok()?;
        let inside = trial.sh(&format!("find /srv/site {LISTED}"))?.ok()?;
        same("into", &listed(&site)?, &sorted(&inside))?;
        copy(cluster, &["-p"], "copied:/srv/site", &text(&back))?.ok()?;
        same("out of", &listed(&site)?, &listed(&back.join("site"))?)?;
        // The contents too; and one file alone, onto one that is there.
        let diff = Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([&site, &back.join("site")])
            .output()?;
        ensure!(diff.status.success(), "{diff:?}");
        let page = site.join("deep/er/page");
        std::fs::write(&page, "hello again")?;
        copy(cluster, &[], &text(&page), "copied:/srv/site/deep/er")?.ok()?;
        let inside = trial.sh("cat /srv/site/link")?.ok()?;
        ensure!(inside == "hello again", "{inside:?}");
        // Without -p what comes out is the caller's, and nothing of it runs as somebody else.
        copy(cluster, &[], "copied:/srv/site/large", &text(&back))?.ok()?;
        let out = listed(&back.join("large"))?;
        ensure!(out == [" f 751 0:0 3145728 "], "{out:?}");
        Ok(())
    })
}

pub fn of_nothing(cluster: &Cluster) -> Result<()> {
    let here = tempfile::tempdir()?;
    let (file, folder) = (here.path().join("file"), text(here.path()));
    std::fs::write(&file, "")?;
    let cases = [
        (
            "db:/no/such",
            folder.as_str(),
            "/no/such: there is no such file",
        ),
        (
            &text(&file),
            "db:/no/such",
            "/no/such: is no folder in the container",
        ),
        (&text(&file), "nobody:/srv", "nobody"),
        ("/no/such/file", "db:/srv", "/no/such/file: No such file"),
        ("db:/etc/hostname", "/no/such", "/no/such: is no folder"),
    ];
    for (from, to, says) in cases {
        let output = copy(cluster, &[], from, to)?;
        ensure!(
            output.code != Some(0) && output.stderr.contains(says),
            "cp {from} {to}: {output:?}"
        );
    }
    let left = std::fs::read_dir(here.path())?.count();
    ensure!(left == 1, "{left} files are here");
    Ok(())
}

/// A copy that takes long enough to be broken off.
fn begin(cluster: &Cluster, from: &str, to: &str) -> Result<Child> {
    let mut client = cluster.client();
    client.args(["cp", "-n", "acme", from, to]);
    Ok(client.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?)
}

fn ended(client: Child, says: &str) -> Result<()> {
    let output = client.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains(says),
        "{:?}, and it says {said:?}",
        output.status
    );
    Ok(())
}

fn interrupt(client: &Child) -> Result<()> {
    let pid = client.id().to_string();
    let status = Command::new("kill").args(["-INT", &pid]).status()?;
    ensure!(status.success(), "it ended before it was interrupted");
    Ok(())
}

pub fn broken_off(cluster: &Cluster) -> Result<()> {
    let here = tempfile::tempdir()?;
    let (large, back) = (here.path().join("large"), here.path().join("back"));
    std::fs::create_dir(&back)?;
    // Larger than what either side takes before it is broken off; it costs no disk.
    std::fs::File::create(&large)?.set_len(1 << 40)?;
    let (large, back) = (text(&large), text(&back));
    let size = json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "InstanceType",
        "metadata": { "name": "roomy", "namespace": "acme" },
        "spec": { "cpu": "200m", "memory": "128Mi", "disk": "8Gi", "pids": 64 },
    });
    cluster.apply(&size.to_string())?.ok()?;
    let spec = json!({ "instanceType": "roomy" });
    let result = Trial::with(cluster, "broken", &spec, |trial| {
        trial.ready()?;
        let coming = |what: &str, some: bool| -> Result<()> {
            until(what, LIMIT, || {
                let list = trial.sh("ls -A /srv")?.ok()?;
                ensure!(
                    list.contains("skysail-cp") == some && !list.contains("large"),
                    "{list}"
                );
                Ok(())
            })
            .map(drop)
        };
        let into = || begin(cluster, &large, "broken:/srv");
        let client = into()?;
        coming("a copy to begin", true)?;
        interrupt(&client)?;
        ended(client, "interrupted; nothing was copied")?;
        coming("nothing of it to be left", false)?;

        let client = into()?;
        coming("a copy to begin", true)?;
        cluster.kill_server()?;
        ended(client, "was not copied")?;
        cluster.start(&[])?;
        coming("nothing of it to be left", false)?;

        trial.sh("truncate -s 1T /srv/out")?.ok()?;
        out_of(cluster, &back)
    });
    let removed = cluster
        .kubectl(&["delete", "instancetype", "-n", "acme", "roomy"])?
        .ok();
    result.and(removed.map(drop))
}

fn out_of(cluster: &Cluster, back: &str) -> Result<()> {
    let here = |some: bool| -> Result<()> {
        until("a copy to begin, or to be gone", LIMIT, || {
            let mut names = std::fs::read_dir(back)?;
            ensure!(names.next().is_some() == some, "not yet");
            Ok(())
        })
        .map(drop)
    };
    let client = begin(cluster, "broken:/srv/out", back)?;
    here(true)?;
    interrupt(&client)?;
    ended(client, "interrupted; nothing was copied")?;
    here(false)?;
    let client = begin(cluster, "broken:/srv/out", back)?;
    here(true)?;
    cluster.kill_server()?;
    ended(client, "was not copied")?;
    here(false).context("after the server was killed")?;
    cluster.start(&[])
}

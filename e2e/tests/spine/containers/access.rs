//! The ways into a container: exec, cp, logs, console.

use super::{LIMIT, Trial};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use skysail_e2e::{Cluster, until};
use std::io::Write;
use std::process::{Child, Command, Stdio};

/// Gives `input` to a client and returns what it printed and its exit code.
fn feed(command: &mut Command, input: &[u8]) -> Result<(String, Option<i32>)> {
    let mut child = piped(command)?;
    child.stdin.take().context("no input")?.write_all(input)?;
    let output = child.wait_with_output()?;
    Ok((
        String::from_utf8_lossy(&output.stdout).into_owned(),
        output.status.code(),
    ))
}

fn piped(command: &mut Command) -> Result<Child> {
    Ok(command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?)
}

pub fn exec(cluster: &Cluster) -> Result<()> {
    let output = cluster.exec(
        "acme",
        "db",
        &["sh", "-c", "echo out; echo err >&2; exit 7"],
    )?;
    ensure!(
        (output.code, output.stdout.as_str(), output.stderr.trim()) == (Some(7), "out\n", "err"),
        "{output:?}"
    );
    let missing = cluster.exec("acme", "db", &["/no/such/program"])?;
    ensure!(missing.code == Some(127), "a missing program: {missing:?}");
    let killed = cluster.exec("acme", "db", &["sh", "-c", "kill -9 $$"])?;
    ensure!(killed.code == Some(137), "a killed program: {killed:?}");
    // More than any buffer on the way, and it ends when the input does.
    let input = "0123456789abcdef".repeat(1 << 16);
    let mut client = cluster.client();
    client.args(["exec", "-n", "acme", "-i", "db", "--", "md5sum"]);
    let (sum, code) = feed(&mut client, input.as_bytes())?;
    let (expected, _) = feed(&mut Command::new("md5sum"), input.as_bytes())?;
    ensure!(code == Some(0) && sum == expected, "{code:?} {sum}");
    Ok(())
}

pub fn logs(cluster: &Cluster) -> Result<()> {
    let logs = cluster.skysail(&["logs", "-n", "acme", "db"])?.ok()?;
    ensure!(
        logs.contains("Debian GNU/Linux") || logs.contains("systemd"),
        "no boot in\n{logs}"
    );
    Trial::with(cluster, "talks", &json!({}), |trial| {
        trial.ready()?;
        until("its first line", LIMIT, || {
            let logs = cluster.skysail(&["logs", "-n", "acme", trial.name])?.ok()?;
            ensure!(logs.contains("it boots"), "{logs:?}");
            Ok(())
        })
        .map(drop)
    })
}

/// `skysail console` behind a terminal of its own.
fn window(cluster: &Cluster, name: &str) -> Command {
    let client = cluster.client();
    let line = format!(
        "exec {} console -n acme {name}",
        client.get_program().to_string_lossy()
    );
    let mut script = Command::new("script");
    script.env("KUBECONFIG", cluster.kubeconfig());
    script.args(["-qec", &line, "/dev/null"]);
    script
}

fn shells(trial: &Trial) -> Result<usize> {
    let login = trial.sh("pgrep -c -f -- '[b]ash -l$'")?;
    Ok(login.stdout.trim().parse()?)
}

pub fn console(cluster: &Cluster) -> Result<()> {
    Trial::with(cluster, "typed", &json!({}), |trial| {
        trial.ready()?;
        let pid = trial.pid()?;
        let typed = b"tty; echo $((40 + 2))-is-it; exit 3\n";
        let (shown, code) = feed(&mut window(cluster, trial.name), typed)?;
        ensure!(
            shown.contains("42-is-it") && shown.contains("/dev/pts/") && code == Some(3),
            "{code:?} {shown}"
        );
        // Left by closing the window: the shell in the container goes too.
        let mut client = piped(&mut window(cluster, trial.name))?;
        until("the console's shell", LIMIT, || {
            ensure!(shells(trial)? == 1, "none yet");
            Ok(())
        })?;
        client.kill()?;
        client.wait()?;
        until("the console's shell to end", LIMIT, || {
            ensure!(shells(trial)? == 0, "it is still there");
            Ok(())
        })?;
        ensure!(trial.pid()? == pid, "the container was started again");
        Ok(())
    })
}

//! One running Skysail with sandbox hosts.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a command printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that ended well.
    ///
    /// # Errors
    /// With everything that it printed, if it did not.
    pub fn ok(self) -> Result<String> {
        ensure!(
            self.code == Some(0),
            "exit {:?}\n{}{}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self.stdout)
    }
}

fn run(command: &mut Command) -> Result<Output> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| shown)?;
    Ok(Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A running system; `skysail down` removes it when it is dropped.
pub struct Cluster {
    skysail: PathBuf,
    instance: String,
    data: PathBuf,
    cache: PathBuf,
    port: Option<String>,
    flags: Vec<String>,
}

impl Cluster {
    /// Starts a system named `instance` and makes `manifests` real, as `skysail up` does.
    ///
    /// # Errors
    /// When `skysail up` fails; what it printed is shown.
    pub fn up(instance: &str, manifests: &Path) -> Result<Self> {
        let cluster = Self::planned(instance, &[])?;
        cluster.start(&["-f", &manifests.to_string_lossy()])?;
        Ok(cluster)
    }

    /// A system that is not up yet; `flags` go to every `skysail up`. What it leaves is
    /// removed when it is dropped.
    ///
    /// The variables `SKYSAIL_E2E_INSTANCE` and `SKYSAIL_E2E_PORT` choose another name and
    /// port, so that two people test side by side on one machine.
    ///
    /// # Errors
    /// When the environment names no binary.
    pub fn planned(instance: &str, flags: &[&str]) -> Result<Self> {
        let skysail = PathBuf::from(
            std::env::var_os("SKYSAIL")
                .context("set SKYSAIL to the built binary (make e2e does)")?,
        );
        let cache = PathBuf::from(
            std::env::var_os("SKYSAIL_CACHE").unwrap_or_else(|| "/var/cache/skysail".into()),
        );
        let named = std::env::var("SKYSAIL_E2E_INSTANCE");
        let instance = named.as_deref().unwrap_or(instance);
        // On the root filesystem, not /tmp: the hosts' container layers live here and may be large.
        let data = PathBuf::from(format!("/var/lib/skysail-{instance}"));
        Ok(Self {
            skysail,
            instance: instance.into(),
            data,
            cache,
            port: std::env::var("SKYSAIL_E2E_PORT").ok(),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
        })
    }

    /// Runs `skysail up` with these arguments to its end.
    ///
    /// # Errors
    /// When it fails; the end of the server's log is shown.
    pub fn start(&self, args: &[&str]) -> Result<()> {
        self.start_as(&self.skysail, args)
    }

    /// The program under test.
    pub fn program(&self) -> &Path {
        &self.skysail
    }

    /// The same with another program, which replaces a server that runs.
    ///
    /// # Errors
    /// When it fails; the end of the server's log is shown.
    pub fn start_as(&self, program: &Path, args: &[&str]) -> Result<()> {
        self.told_by(program, args).map(drop)
    }

    /// [`Cluster::start`], and what it told on the way, line by line; the lines are shown as they come.
    ///
    /// # Errors
    /// When it fails; the end of the server's log is shown.
    pub fn start_told(&self, args: &[&str]) -> Result<Vec<String>> {
        self.told_by(&self.skysail, args)
    }

    fn told_by(&self, program: &Path, args: &[&str]) -> Result<Vec<String>> {
        let ours = self.command("up");
        let mut child = Command::new(program)
            .args(ours.get_args())
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let told = child.stderr.take().context("no standard error")?;
        let mut lines = vec![];
        for line in BufReader::new(told).lines() {
            let line = line?;
            eprintln!("{line}");
            lines.push(line);
        }
        let status = child.wait()?;
        if !status.success() {
            let log = std::fs::read_to_string(self.data.join("server.log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            bail!(
                "skysail up ended with {status}; the end of its server's log:\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        Ok(lines)
    }

    /// Takes root filesystems from, and builds them into, another folder than the environment says.
    pub fn cache_in(&mut self, folder: PathBuf) {
        self.cache = folder;
    }

    /// Its name.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The process id of the server.
    ///
    /// # Errors
    /// When there is none.
    pub fn server_pid(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.data.join("server.pid"))?;
        let pid = text.split_whitespace().next();
        Ok(pid.context("no server is on record")?.to_owned())
    }

    /// Kills the server, without a chance to put anything in order.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_server(&self) -> Result<()> {
        run(Command::new("kill").args(["-9", &self.server_pid()?]))?
            .ok()
            .map(drop)
    }

    /// `skysail <verb>` with this system's flags.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = self.plain(verb);
        command.arg("--kubeconfig").arg(self.kubeconfig());
        if let (Some(port), "up") = (&self.port, verb) {
            command.arg("--port").arg(port);
        }
        if verb == "up" {
            command.args(&self.flags);
        }
        command
    }

    /// `skysail <verb>` with the flags that say where this system lives.
    pub fn plain(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.skysail);
        command.arg(verb).arg("--instance").arg(&self.instance);
        command
            .arg("--data-dir")
            .arg(&self.data)
            .arg("--cache-dir")
            .arg(&self.cache);
        command
    }

    /// Where the kubeconfig is.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Runs an unmodified kubectl.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kubectl(&self, args: &[&str]) -> Result<Output> {
        self.kubectl_with(&self.kubeconfig(), args)
    }

    /// The same against the server of another kubeconfig.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kubectl_with(&self, kubeconfig: &Path, args: &[&str]) -> Result<Output> {
        run(Command::new("kubectl")
            .env("KUBECONFIG", kubeconfig)
            .args(args))
    }

    /// `kubectl apply` of a text.
    ///
    /// # Errors
    /// When kubectl cannot be started or refuses.
    pub fn apply(&self, manifest: &str) -> Result<Output> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), manifest)?;
        let path = file.path().to_string_lossy().into_owned();
        self.kubectl(&["apply", "-f", &path])
    }

    /// `skysail` as a client of this system, to be started as the caller likes.
    pub fn client(&self) -> Command {
        let mut command = Command::new(&self.skysail);
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Runs a client verb of `skysail`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn skysail(&self, args: &[&str]) -> Result<Output> {
        run(self.client().args(args))
    }

    /// One object as JSON.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        let text = self
            .kubectl(&["get", kind, "-n", namespace, name, "-o", "json"])?
            .ok()?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Runs a command inside a container.
    ///
    /// # Errors
    /// When the client cannot be started.
    pub fn exec(&self, namespace: &str, container: &str, command: &[&str]) -> Result<Output> {
        let mut args = vec!["exec", "-n", namespace, container, "--"];
        args.extend(command);
        self.skysail(&args)
    }

    /// Runs a shell line on a host, over SSH with Skysail's own key.
    ///
    /// # Errors
    /// When the host has no address or ssh cannot be started.
    pub fn on_host(&self, host: &str, line: &str) -> Result<Output> {
        run(self.ssh(host)?.arg(line))
    }

    /// `ssh` to a host, before the line to run there.
    ///
    /// # Errors
    /// When the host has no address.
    pub fn ssh(&self, host: &str) -> Result<Command> {
        let object = self.get("host", "default", host)?;
        let address = object
            .pointer("/status/addresses/external")
            .and_then(Value::as_str)
            .context("the host has no address")?
            .to_owned();
        let mut command = Command::new("ssh");
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=5",
        ] {
            command.args(["-o", option]);
        }
        command
            .arg("-i")
            .arg(self.data.join("ssh/id_ed25519"))
            .arg(format!("root@{address}"));
        Ok(command)
    }
}

impl Cluster {
    /// Ends process 1 of a sandbox host, and with it everything in its namespaces.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn destroy(&self, host: &str) -> Result<()> {
        let pids = self.machines(host)?;
        let first = pids
            .first()
            .with_context(|| format!("host {host} has no process 1"))?;
        run(Command::new("kill").args(["-9", first]))?
            .ok()
            .map(drop)
    }

    /// The machines that a sandbox host has: each is a process 1 of its own.
    ///
    /// # Errors
    /// When the processes cannot be listed.
    pub fn machines(&self, host: &str) -> Result<Vec<String>> {
        let group = format!("skysail-{}/{host}", self.instance);
        let mut pids = vec![];
        for entry in std::fs::read_dir("/proc")? {
            let folder = entry?.path();
            let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
            let first = read("status")
                .lines()
                .any(|l| l.starts_with("NSpid:") && l.split_whitespace().skip(2).eq(["1"]));
            if first && read("cgroup").lines().any(|l| l.ends_with(&group)) {
                pids.extend(folder.file_name().map(|n| n.to_string_lossy().into_owned()));
            }
        }
        Ok(pids)
    }

    /// Namespaces, links, mounts, control groups and processes on this machine that carry
    /// this system's name and `part` of it (a host's name, or nothing for all).
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn traces(&self, part: &str) -> Result<Vec<String>> {
        let marks = [
            format!("{}-h-{part}", self.instance),
            format!("{}-{part}", self.instance),
            format!("skysail-{}/{part}", self.instance),
            format!("{}/sandbox/{part}", self.data.display()),
        ];
        let script = "ip -o netns; ip -o link; cat /proc/self/mounts; cat /proc/[0-9]*/cgroup; \
             find /sys/fs/cgroup -maxdepth 4 -path '*skysail-*'";
        let listed = run(Command::new("sh").args(["-c", script]))?.stdout;
        let traces = listed
            .lines()
            .filter(|l| marks.iter().any(|m| l.contains(m)));
        Ok(traces.map(str::to_owned).collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::env::var_os("SKYSAIL_KEEP").is_none() {
            match self
                .command("down")
                .arg("--abandon-machines")
                .stdin(Stdio::null())
                .status()
            {
                Ok(status) if status.success() => {}
                other => eprintln!("skysail down: {other:?}"),
            }
        }
    }
}

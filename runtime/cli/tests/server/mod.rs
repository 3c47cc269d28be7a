//! A server process of a test's own, and the command that speaks to it.

#![allow(dead_code)] // Each test binary uses a part.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const SKYSAIL: &str = env!("CARGO_BIN_EXE_skysail");

pub const CLOUD: &str = "apiVersion: skysail.dev/v1alpha1\nkind: Cloud\nmetadata: {name: east, labels: {tier: a}}\nspec: {driver: sandbox, sandbox: {subnet: 10.1.0.0/24}}\n";

pub struct Server {
    process: Child,
    pub dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Ready to answer, or `None` without root.
    pub fn start() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: the server needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let data = dir.path().join("data");
        let process = Command::new(SKYSAIL)
            .args([
                "server",
                "--controllers",
                "none",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--data-dir",
            ])
            .arg(&data)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process, dir };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !server.kubeconfig().exists() || !server.run(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "the server does not answer");
        }
        Some(server)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("data/admin.kubeconfig")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SKYSAIL);
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a verb that reads a manifest from standard input.
    pub fn feed(&self, args: &[&str], manifest: &str) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(manifest.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    /// The output of a verb that must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", err(&output));
        out(&output)
    }

    pub fn apply(&self, manifest: &str) {
        let output = self.feed(&["apply", "-f", "-"], manifest);
        assert!(output.status.success(), "{}", err(&output));
    }
}

pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

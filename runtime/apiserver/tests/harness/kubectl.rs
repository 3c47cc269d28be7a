//! An unmodified kubectl against a server over TLS. Found by `KUBECTL`, else on the `PATH`.

use super::Running;
use skysail_apiserver::{Config, Identity};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

/// A container manifest.
pub const CONTAINER: &str = "
apiVersion: skysail.dev/v1alpha1
kind: Container
metadata: {name: db, labels: {app: shop}}
spec: {image: debian, instanceType: small}
";

/// kubectl with a server of its own.
pub struct Kubectl {
    pub running: Running,
    pub url: String,
    pub kubeconfig: PathBuf,
}

/// What a command said.
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Kubectl {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// One whose server has settings of its own.
    pub async fn start_with(set: impl FnOnce(&mut Config)) -> Self {
        let running = Running::start_with(set).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let text = running
            .server
            .kubeconfig(&url, &Identity::admin("alice"))
            .expect("a kubeconfig");
        let kubeconfig = running.dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, text).expect("written");
        let server = running.server.clone();
        tokio::spawn(async move { server.serve(vec![listener]).await });
        Self {
            running,
            url,
            kubeconfig,
        }
    }

    /// A client over TLS with a certificate of its own, which tries nothing twice.
    pub async fn client(&self, identity: &Identity) -> kube::Client {
        let text = self.running.server.kubeconfig(&self.url, identity);
        let config = kube::config::Kubeconfig::from_yaml(&text.expect("a kubeconfig"));
        let config = config.expect("readable");
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await;
        let mut config = config.expect("whole");
        // A refusal is what a test wants to see.
        config.default_retry = false;
        kube::Client::try_from(config).expect("a client")
    }

    pub fn command(&self, args: &str) -> Command {
        let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
        let mut command = Command::new(program);
        command
            .args(args.split_whitespace())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.running.dir.path());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn with_input(&self, args: &str, input: &str) -> Said {
        let mut child = self
            .command(args)
            .spawn()
            .expect("kubectl runs; set KUBECTL to its path");
        let mut stdin = child.stdin.take().expect("a pipe");
        // Flow-style YAML begins like JSON; a document mark says what it is.
        stdin
            .write_all(format!("---\n{input}").as_bytes())
            .await
            .expect("written");
        drop(stdin);
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output());
        let output = output
            .await
            .unwrap_or_else(|_| panic!("kubectl {args}: no end"))
            .expect("ran");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Said {
            ok: output.status.success(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Output of a command that must succeed.
    pub async fn run(&self, args: &str) -> String {
        self.feed(args, "").await
    }

    pub async fn feed(&self, args: &str, input: &str) -> String {
        let said = self.with_input(args, input).await;
        assert!(said.ok, "kubectl {args}: {}{}", said.out, said.err);
        said.out
    }

    /// Error text of a command that must fail.
    pub async fn refused(&self, args: &str, input: &str) -> String {
        let said = self.with_input(args, input).await;
        assert!(!said.ok, "kubectl {args} should have failed: {}", said.out);
        said.err
    }
}

//! The processes of these cases, which end with their values: a real etcd, servers
//! beside the one that `skysail up` started, and what carries an address from one
//! server to another.

use anyhow::{Result, ensure};
use skysail_e2e::{Cluster, until};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A child that is killed when dropped.
pub struct Killed(Child);

impl Killed {
    /// SIGKILL, now.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// An etcd of one member with its data in a folder of its own.
pub struct Etcd {
    folder: tempfile::TempDir,
    client: u16,
    peer: u16,
    process: Killed,
}

impl Etcd {
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (client, peer) = (free_port()?, free_port()?);
        let process = spawn(folder.path(), client, peer)?;
        let etcd = Self {
            folder,
            client,
            peer,
            process,
        };
        etcd.answers()?;
        Ok(etcd)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same data.
    pub fn restart(&mut self) -> Result<()> {
        self.process = spawn(self.folder.path(), self.client, self.peer)?;
        self.answers()
    }

    fn answers(&self) -> Result<()> {
        until("etcd to answer", Duration::from_secs(20), || {
            Ok(TcpStream::connect(("127.0.0.1", self.client))?)
        })
        .map(drop)
    }
}

fn spawn(folder: &Path, client: u16, peer: u16) -> Result<Killed> {
    let (client, peer) = (
        format!("http://127.0.0.1:{client}"),
        format!("http://127.0.0.1:{peer}"),
    );
    // setpriv becomes etcd, which then ends with this process, however that ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "etcd"]);
    command.arg("--data-dir").arg(folder.join("data"));
    for (flag, value) in [
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &format!("default={peer}")),
    ] {
        command.arg(flag).arg(value);
    }
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(Killed(quiet.stderr(Stdio::null()).spawn()?))
}

/// A server that `skysail up` did not start, over the same data directory and etcd.
pub struct Server {
    process: Killed,
    pub kubeconfig: PathBuf,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one and waits until it answers.
    pub fn start(cluster: &Cluster, etcd: &str, listen: &[String], more: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        let mut command = cluster.plain("server");
        command.arg("--kubeconfig").arg(&kubeconfig);
        command.args(["--etcd", etcd]).args(more);
        for address in listen {
            command.args(["--listen", address]);
        }
        let log = std::fs::File::create(folder.path().join("log"))?;
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = Killed(quiet.stderr(log).spawn()?);
        let server = Self {
            process,
            kubeconfig,
            folder,
        };
        let answers = || {
            let get = ["get", "--raw", "/readyz"];
            cluster.kubectl_with(&server.kubeconfig, &get)?.ok()
        };
        until(
            "the other server to answer",
            Duration::from_secs(20),
            answers,
        )
        .map_err(|e| e.context(server.log()))?;
        Ok(server)
    }

    /// Asks it to end, so that it gives back what it leads.
    pub fn end(mut self) -> Result<()> {
        let pid = self.process.0.id().to_string();
        Command::new("kill").arg(pid).status()?;
        until("the server to end", Duration::from_secs(20), || {
            ensure!(self.process.0.try_wait()?.is_some(), "it runs");
            Ok(())
        })
        .map(drop)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// Carries connections to one address over to another, as a floating address does: the
/// hosts know one address only. Ends when dropped.
pub struct Carried {
    address: String,
    ended: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Carried {
    pub fn start(address: &str, to: String) -> Result<Self> {
        let (listener, _) = until("the address to be free", Duration::from_secs(10), || {
            Ok(TcpListener::bind(address)?)
        })?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let accepting = std::thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(to) = TcpStream::connect(&to) {
                    join(&from, &to);
                    join(&to, &from);
                }
            }
        });
        Ok(Self {
            address: address.to_owned(),
            ended,
            accepting: Some(accepting),
        })
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address); // wakes it
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

/// Copies from one to the other until there is no more.
fn join(from: &TcpStream, to: &TcpStream) {
    if let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

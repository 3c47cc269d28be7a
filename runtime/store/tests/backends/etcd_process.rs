//! A real etcd of a test's own, on free loopback ports and in a temporary directory.
//!
//! Taken from `$SKYSAIL_TEST_ETCD`, from `$PATH`, or from Debian's package, which is
//! unpacked below the build directory and not installed: nothing starts by itself
//! and nothing stays. It dies with the value, with a panic and with the test process.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A running etcd and its data.
pub struct EtcdProcess {
    child: Child,
    directory: tempfile::TempDir,
    client: u16,
    peer: u16,
}

impl EtcdProcess {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Another process may take a free port first; then there are others.
        for _ in 0..5 {
            let (client, peer) = (free_port(), free_port());
            let mut child = spawn(directory.path(), client, peer);
            if answers(&mut child, client) {
                return Self {
                    child,
                    directory,
                    client,
                    peer,
                };
            }
            end(&mut child);
        }
        panic!(
            "etcd does not start; run {} by hand to see why",
            program().display()
        );
    }

    pub fn endpoint(&self) -> String {
        endpoint(self.client)
    }

    /// SIGKILL, then another process on the same directory and ports.
    pub fn kill_and_restart(&mut self) {
        end(&mut self.child);
        self.child = spawn(self.directory.path(), self.client, self.peer);
        assert!(
            answers(&mut self.child, self.client),
            "etcd starts again after SIGKILL"
        );
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port()
}

fn answers(child: &mut Child, port: u16) -> bool {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        if child.try_wait().expect("a child of ours").is_some() {
            return false;
        }
        if healthy(port) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// `GET /health`: a leader is elected and reads are served.
fn healthy(port: u16) -> bool {
    use std::io::{Read, Write};
    let ask = || -> std::io::Result<String> {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"true\""))
}

fn spawn(directory: &Path, client: u16, peer: u16) -> Child {
    let (client, peer) = (endpoint(client), endpoint(peer));
    // setpriv becomes etcd, so the pid is etcd's.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program())
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(["--log-level", "error", progress_flag()])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setpriv (util-linux) runs")
}

/// Versions name the flag differently.
fn progress_flag() -> &'static str {
    static FLAG: OnceLock<&str> = OnceLock::new();
    FLAG.get_or_init(|| {
        let help = Command::new(program())
            .arg("--help")
            .output()
            .expect("etcd runs");
        let help = [help.stdout, help.stderr].concat();
        let experimental = b"--experimental-watch-progress-notify-interval";
        if help
            .windows(experimental.len())
            .any(|window| window == experimental)
        {
            "--experimental-watch-progress-notify-interval=1s"
        } else {
            "--watch-progress-notify-interval=1s"
        }
    })
}

pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(named) = std::env::var_os("SKYSAIL_TEST_ETCD") {
            return PathBuf::from(named);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&path)
            .map(|directory| directory.join("etcd"))
            .find(|file| file.is_file());
        installed.unwrap_or_else(unpack)
    })
}

/// Debian's etcd, in the build directory. Test processes that come at once wait for the first.
fn unpack() -> PathBuf {
    let this = std::env::current_exe().expect("the path of this program");
    let home = this
        .ancestors()
        .nth(2)
        .expect("target/<profile>")
        .join("etcd-server");
    std::fs::create_dir_all(&home).expect("the build directory is writable");
    let lock = std::fs::File::create(home.join("lock")).expect("the build directory is writable");
    lock.lock().expect("the build directory can be locked");
    let program = home.join("usr/bin/etcd");
    if !program.is_file() {
        let script = "{ apt-get download etcd-server || { apt-get update && apt-get download etcd-server; } } \
                      && dpkg -x etcd-server_*.deb new && rm -rf usr etcd-server_*.deb && mv new/usr usr && rm -rf new";
        let unpacked = Command::new("sh")
            .args(["-c", script])
            .current_dir(&home)
            .output()
            .expect("sh runs");
        assert!(
            unpacked.status.success(),
            "no etcd: install Debian's etcd-server, or name one in SKYSAIL_TEST_ETCD. {}",
            String::from_utf8_lossy(&unpacked.stderr)
        );
    }
    program
}

//! An etcd that speaks TLS only and asks for a certificate.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "backends/etcd_process.rs"]
mod etcd_process;

use bytes::Bytes;
use etcd_process::{free_port, program};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use skysail_store::etcd::{Options, Tls};
use skysail_store::{Etcd, Store};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An authority, and a certificate of it for both ends.
fn certificates(folder: &Path) {
    let authority = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&authority).unwrap();
    let issuer = Issuer::new(params, &authority);
    let key = KeyPair::generate().unwrap();
    let both = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let both = both.signed_by(&key, &issuer).unwrap();
    for (name, text) in [
        ("ca", ca.pem()),
        ("cert", both.pem()),
        ("key", key.serialize_pem()),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

fn start(folder: &Path, port: u16) -> Killed {
    let (client, peer) = (
        format!("https://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{}", free_port()),
    );
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program());
    for (flag, name) in [
        ("--data-dir", "data"),
        ("--trusted-ca-file", "ca"),
        ("--cert-file", "cert"),
        ("--key-file", "key"),
    ] {
        command.arg(flag).arg(folder.join(name));
    }
    let child = command
        .arg("--client-cert-auth")
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(["--log-level", "error"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Killed(child.unwrap())
}

#[tokio::test]
async fn an_etcd_with_tls_is_reached_with_a_certificate_and_not_without() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let port = free_port();
    let _etcd = start(folder.path(), port);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let options = |identity| Options {
        endpoints: vec![format!("https://127.0.0.1:{port}")],
        user: None,
        tls: Some(Tls {
            ca: read("ca"),
            identity,
        }),
    };
    let begun = Instant::now();
    let store = loop {
        match Etcd::connect(options(Some((read("cert"), read("key"))))).await {
            Ok(store) => break store,
            Err(e) => assert!(begun.elapsed() < Duration::from_secs(30), "{e}"),
        }
    };
    store.create("/a", Bytes::from_static(b"1")).await.unwrap();
    assert!(store.get("/a").await.unwrap().is_some());
    let stranger = match Etcd::connect(options(None)).await {
        Ok(store) => store.get("/a").await.map(drop),
        Err(e) => Err(e),
    };
    assert!(stranger.is_err(), "without a certificate");
}

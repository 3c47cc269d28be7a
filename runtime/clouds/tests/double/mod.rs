//! A small EC2 for tests: moto's API, and sandbox hosts as its machines.
//!
//! The program `ec2.py` beside this file answers the API and asks here for machines: each
//! instance is a host of the sandbox, with the addresses that it got there and the keys that
//! its user data let in. It needs root and Python with `moto[ec2,server]`: `e2e/setup` puts it
//! into `target/tools/moto`, and `SKYSAIL_MOTO` may name another Python.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use serde_json::{Value, json};
use skysail_clouds::{
    Driver, Order,
    open::{Account, Secret},
    sandbox::{Sandbox, Settings},
};
use skysail_schemas::{
    cloud::{CloudSpec, Driver as Kind, Ec2Settings, SandboxSettings},
    host::Resources,
    quantity::{Bytes, Cpu},
};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

/// The double's access key.
pub const KEYS: (&str, &str) = ("AKIDDOUBLE", "the/secret+of=the-double");

/// A running double; it ends, and its machines with it, when it is dropped.
pub struct Double {
    pub endpoint: String,
    port: u16,
    process: Child,
}

/// The Python that has moto, if any.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("SKYSAIL_MOTO").map(PathBuf::from);
    let tools = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("target/tools/moto/bin/python"))
        .find(|path| path.exists());
    named.or(tools)
}

impl Double {
    /// Whether this machine has what the double needs.
    pub fn is_possible() -> bool {
        python().is_some()
    }

    /// Starts it; its machines are made in the fabric of `settings`, behind a router of their own
    /// with the private subnet `subnet`. `None`, said aloud, where this machine lacks what it needs.
    pub fn start(settings: &Settings, subnet: &str) -> Option<Self> {
        let spec = SandboxSettings {
            subnet: subnet.parse().unwrap(),
        };
        let maker = Sandbox::new("double", spec, settings.clone());
        Self::with(Maker::Sandbox(maker))
    }

    /// The same with machines that have addresses, but are not.
    pub fn on_paper() -> Option<Self> {
        Self::with(Maker::Paper(AtomicU8::new(1)))
    }

    fn with(maker: Maker) -> Option<Self> {
        let Some(python) = python() else {
            eprintln!("skipped: no Python with moto; e2e/setup target/tools installs it");
            return None;
        };
        let script = file!();
        let script = Path::new(script).with_file_name("ec2.py");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let script = root.map(|r| r.join(&script)).find(|p| p.exists()).unwrap();
        let mut process = Command::new(python)
            .arg(script)
            .args([KEYS.0, KEYS.1])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let stdin = Arc::new(Mutex::new(process.stdin.take().unwrap()));
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let ready: Value = serde_json::from_str(&first).expect("the double starts");
        let port = u16::try_from(ready["port"].as_u64().unwrap()).unwrap();
        let maker = Arc::new(maker);
        std::thread::spawn(move || serve(lines, maker, stdin));
        Some(Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            port,
            process,
        })
    }

    /// A Cloud of the double.
    pub fn account(&self, name: &str) -> Account {
        let spec = CloudSpec {
            driver: Kind::Ec2,
            region: Some("eu-central-1".into()),
            ec2: Some(Ec2Settings {
                endpoint: Some(self.endpoint.clone()),
                machine_types: vec!["t3.medium".into(), "t3.large".into(), "m6i.large".into()],
                ..Ec2Settings::default()
            }),
            ..CloudSpec::default()
        };
        let secret = Secret {
            name: format!("Secret skysail-system/{name}"),
            data: BTreeMap::from([
                ("accessKeyId".into(), KEYS.0.into()),
                ("secretAccessKey".into(), KEYS.1.into()),
            ]),
        };
        Account {
            secret: Some(secret),
            ..Account::new(name, &format!("uid-of-{name}"), &spec)
        }
    }

    /// Arranges a fault: `{"action", "code" | "html" | "lost" | "hide" | "replace", "count"}`.
    pub fn fault(&self, fault: Value) {
        self.ask("/__fault", fault);
    }

    /// As if it had just been started, without the time that this takes.
    pub fn reset(&self) {
        self.ask("/__reset", json!({}));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.fault(json!({"clear": true}));
    }

    /// Ends an instance behind everybody's back.
    pub fn kill(&self, id: &str) {
        self.ask("/__kill", json!({"id": id}));
    }

    /// Stops an instance behind everybody's back.
    pub fn stop(&self, id: &str) {
        self.ask("/__stop", json!({"id": id}));
    }

    /// From now on only this access key is good.
    pub fn rotate(&self, id: &str, secret: &str) {
        self.ask("/__keys", json!({id: secret}));
    }

    /// How often `action` was called.
    pub fn calls(&self, action: &str) -> u64 {
        self.ask("/__calls", json!({}))["calls"][action]
            .as_u64()
            .unwrap_or(0)
    }

    /// Every instance that was ever bought.
    pub fn bought(&self) -> Vec<String> {
        strings(&self.ask("/__calls", json!({}))["bought"])
    }

    /// The instances that cost something now.
    pub fn living(&self) -> Vec<String> {
        strings(&self.ask("/__calls", json!({}))["living"])
    }

    fn ask(&self, path: &str, body: Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "POST {path} HTTP/1.0\r\nHost: double\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|i| i.as_str().map(str::to_owned))
        .collect()
}

/// What machines are made of.
enum Maker {
    Sandbox(Sandbox),
    Paper(AtomicU8),
}

/// Makes and ends machines as the double asks, several at once.
fn serve(lines: impl BufRead, maker: Arc<Maker>, stdin: Arc<Mutex<ChildStdin>>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for line in lines.lines() {
        let Ok(line) = line else { return };
        let request: Value = serde_json::from_str(&line).unwrap();
        let (maker, stdin) = (maker.clone(), stdin.clone());
        runtime.spawn(async move {
            let mut answer = match make(&maker, &request).await {
                Ok(answer) => answer,
                Err(e) => json!({"error": e.to_string()}),
            };
            answer["number"] = request["number"].clone();
            // A double that has ended takes no answer.
            let _ = writeln!(stdin.lock().unwrap(), "{answer}");
        });
    }
}

async fn make(maker: &Maker, request: &Value) -> skysail_clouds::Result<Value> {
    let maker = match maker {
        Maker::Sandbox(maker) => maker,
        Maker::Paper(number) => {
            let n = number.fetch_add(1, Ordering::Relaxed);
            return Ok(
                json!({"internal": format!("10.0.0.{n}"), "external": format!("192.0.2.{n}")}),
            );
        }
    };
    if let Some(id) = request["stop"].as_str() {
        maker.delete(id).await?;
        return Ok(json!({}));
    }
    let order = Order {
        name: request["boot"].as_str().unwrap_or_default().to_owned(),
        offer: "small".into(),
        resources: Resources {
            cpu: Cpu(2000),
            memory: Bytes(2 << 30),
            disk: Bytes(8 << 30),
        },
        public_address: true,
        authorized_keys: strings(&request["keys"]),
        tags: BTreeMap::new(),
        spot: false,
        instead_of: None,
    };
    let machine = maker.create(&order).await?;
    Ok(json!({"internal": machine.internal, "external": machine.external}))
}

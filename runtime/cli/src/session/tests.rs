//! Sessions from end to end: this client, an API server over TLS, and a host's agent that
//! runs the commands on this machine instead of in a container.

use super::*;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use skysail_agent::sessions::{self, line::Line};
use skysail_apiserver::{ApiServer, Config, Identity};
use skysail_reconcile::CancellationToken;
use skysail_schemas::session::Offer;
use skysail_schemas::{Container, Host};
use std::sync::Arc;
use std::time::Duration;

/// The system; it ends when dropped.
struct System {
    server: ApiServer,
    agent: CancellationToken,
    client: kube::Client,
    _dir: tempfile::TempDir,
}

impl Drop for System {
    fn drop(&mut self) {
        self.agent.cancel();
        self.server.stop();
    }
}

/// A word of the query, which the tests use without anything that would be encoded.
fn command(offer: &Offer) -> Line {
    let script = offer
        .query
        .split('&')
        .find_map(|p| p.strip_prefix("command="));
    let script = match script.unwrap_or_default() {
        "echo" => "cat; exit 7",
        "late" => "sleep 0.5; cat",
        "fifty" => "head -c 52428800 /dev/zero | tr '\\0' 'x'; echo done >&2",
        "unread" => "echo ready; exec sleep 1000",
        other => panic!("no script {other:?}"),
    };
    Line {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        tty: false,
        window: true,
    }
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("fits its type")
}

async fn client(server: &ApiServer, url: &str, identity: &Identity) -> kube::Client {
    let text = server.kubeconfig(url, identity).expect("a kubeconfig");
    let config = kube::config::Kubeconfig::from_yaml(&text).expect("reads");
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await;
    kube::Client::try_from(config.expect("is whole")).expect("a client")
}

impl System {
    async fn start() -> Self {
        let dir = tempfile::TempDir::new().expect("a directory");
        let store = skysail_store::Embedded::open(dir.path().join("store.db")).expect("opens");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let server = ApiServer::new(Arc::new(store), Config::new(dir.path(), &url));
        let server = server.await.expect("starts");
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(vec![listener]).await });

        let admin = client(&server, &url, &Identity::admin("test")).await;
        let (post, patch) = (PostParams::default(), PatchParams::default());
        let namespace: Namespace = from(json!({"metadata": {"name": "acme"}}));
        Api::all(admin.clone())
            .create(&post, &namespace)
            .await
            .expect("a namespace");
        let host: Host = from(json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Host",
            "metadata": {"name": "h1"}, "spec": {"cloud": "c", "machineType": "m"}}));
        Api::all(admin.clone())
            .create(&post, &host)
            .await
            .expect("a host");
        let containers: Api<Container> = Api::namespaced(admin.clone(), "acme");
        let container = from(
            json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": "db"}, "spec": {"image": "i", "instanceType": "t"}}),
        );
        containers
            .create(&post, &container)
            .await
            .expect("a container");
        let bound = Patch::Merge(json!({"status": {"host": "h1", "epoch": 1}}));
        containers
            .patch_status("db", &patch, &bound)
            .await
            .expect("is bound");

        let agent = CancellationToken::new();
        let dialled = client(&server, &url, &Identity::host("h1")).await;
        tokio::spawn(sessions::run(dialled, "h1".into(), command, agent.clone()));
        Self {
            server,
            agent,
            client: admin,
            _dir: dir,
        }
    }

    async fn run(
        &self,
        script: &str,
        input: impl AsyncRead + Unpin,
        output: &mut (impl AsyncWrite + Unpin),
    ) -> Result<i32> {
        let session = Session {
            namespace: "acme".into(),
            container: "db".into(),
            action: "exec",
            query: vec![("command", script.into())],
        };
        stream(
            &self.client,
            &session,
            input,
            output,
            &mut tokio::io::sink(),
            None,
        )
        .await
    }
}

/// Every byte, in an order that shows a lost or doubled one.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| u8::try_from((i ^ (i >> 8)) % 256).expect("a byte"))
        .collect()
}

#[tokio::test]
async fn input_comes_back_byte_for_byte_and_the_exit_code_after_it() {
    let system = System::start().await;
    for length in [0, 1, 255, 70_000, 3_000_000] {
        let (sent, mut got) = (pattern(length), vec![]);
        let code = system.run("echo", &sent[..], &mut got).await.expect("runs");
        assert_eq!(code, 7);
        assert!(got == sent, "{length} bytes, {} came back", got.len());
    }
}

#[tokio::test]
async fn more_input_than_the_window_reaches_a_process_that_reads_late() {
    let system = System::start().await;
    let (sent, mut got) = (pattern(20 << 20), vec![]);
    let code = system.run("late", &sent[..], &mut got).await.expect("runs");
    assert_eq!(code, 0);
    assert!(got == sent, "{} bytes came", got.len());
}

/// Takes a little, rests a little.
#[derive(Default)]
struct Slow {
    taken: usize,
    wrong: usize,
    rest: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        use std::task::Poll;
        if let Some(rest) = &mut self.rest
            && rest.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        // The first megabytes come slowly, so that everything behind them has to wait.
        self.rest =
            (self.taken < 4 << 20).then(|| Box::pin(tokio::time::sleep(Duration::from_millis(5))));
        self.taken += data.len();
        self.wrong += data.iter().filter(|b| **b != b'x').count();
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn fifty_megabytes_reach_a_client_that_takes_them_slowly() {
    let system = System::start().await;
    let mut slow = Slow::default();
    let code = system
        .run("fifty", &b""[..], &mut slow)
        .await
        .expect("runs");
    assert_eq!((code, slow.taken, slow.wrong), (0, 50 << 20, 0));
}

//! Certificates that last for seconds are renewed, on both sides, while everything goes on.

#![allow(clippy::unwrap_used)] // A test may.

use kube::Api;
use kube::api::PostParams;
use skysail_apiserver::{ApiServer, Config, Identity};
use skysail_reconcile::CancellationToken;
use skysail_schemas::Host;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIFETIME: Duration = Duration::from_secs(9);

/// A server over TLS whose certificates end soon; its URL.
async fn serve(dir: &Path) -> (Arc<ApiServer>, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let store = skysail_store::Embedded::open(dir.join("store.db")).unwrap();
    let mut config = Config::new(dir, &url);
    (config.server_certificates, config.agent_certificates) = (LIFETIME, LIFETIME);
    let server = Arc::new(ApiServer::new(Arc::new(store), config).await.unwrap());
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(vec![listener]).await.unwrap() });
    (server, url)
}

/// A client that shares no connection with others.
async fn connect(kubeconfig: &str) -> kube::Client {
    let file = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = Default::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options);
    kube::Client::try_from(config.await.unwrap()).unwrap()
}

#[tokio::test]
async fn certificates_of_the_server_and_of_an_agent_are_renewed_before_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let (server, url) = serve(dir.path()).await;
    let admin = server.kubeconfig(&url, &Identity::admin("test")).unwrap();
    let client = connect(&admin).await;
    let host = serde_json::json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Host", "metadata": { "name": "h1" },
        "spec": { "ssh": { "address": "h" } },
    });
    let host: Host = serde_json::from_value(host).unwrap();
    let all: Api<Host> = Api::all(client.clone());
    all.create(&PostParams::default(), &host).await.unwrap();
    let path = "/apis/skysail.dev/v1alpha1/hosts/h1/credential";
    let request = http::Request::post(path).body(b"{}".to_vec()).unwrap();
    let given: serde_json::Value = client.request(request).await.unwrap();
    let first = given["kubeconfig"].as_str().unwrap().to_owned();
    let file = dir.path().join("agent.kubeconfig");
    std::fs::write(&file, &first).unwrap();

    let settings = skysail_agent::Settings::from_kubeconfig("h1", &file, dir.path());
    let settings = settings.await.unwrap();
    let (credential, stop) = (
        settings.credential.clone().unwrap(),
        CancellationToken::new(),
    );
    let renewing = tokio::spawn({
        let stop = stop.clone();
        async move { credential.renew(stop).await }
    });
    let hosts: Api<Host> = Api::all(settings.client.clone());
    let begun = Instant::now();
    // Twice as long as any certificate of the beginning is good for.
    while begun.elapsed() < LIFETIME * 2 {
        hosts.get("h1").await.expect("the agent is known");
        // A new connection, for which the server shows its certificate again.
        let other = connect(&admin).await;
        other
            .apiserver_version()
            .await
            .expect("the server is trusted");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let old: Api<Host> = Api::all(connect(&first).await);
    assert!(old.get("h1").await.is_err(), "the first one has ended");
    let newest = std::fs::read_to_string(&file).unwrap();
    assert_ne!(newest, first);
    let newest: Api<Host> = Api::all(connect(&newest).await);
    newest
        .get("h1")
        .await
        .expect("an agent that is started again is known");
    stop.cancel();
    renewing.await.unwrap();
    server.stop();
}

//! An API server alone, for trying out kubectl: `cargo run -p skysail-apiserver --example serve -- <directory>`.

use skysail_apiserver::{ApiServer, Config, Identity};
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "apiserver-data".into());
    std::fs::create_dir_all(&dir)?;
    let store = Arc::new(skysail_store::Embedded::open(format!("{dir}/store.db"))?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    let server = ApiServer::new(store, Config::new(&dir, &url)).await?;
    let path = format!("{dir}/kubeconfig");
    std::fs::write(&path, server.kubeconfig(&url, &Identity::admin("admin"))?)?;
    println!("export KUBECONFIG={path}");
    server.serve(vec![listener]).await?;
    Ok(())
}

//! Which server the client verbs speak to.

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::path::Path;

/// A client, and the namespace that the kubeconfig names (`default` where it names none).
///
/// The kubeconfig is the one given, else the environment's `KUBECONFIG`, else `./kubeconfig`,
/// which `skysail up` writes.
///
/// # Errors
/// When there is none, or it cannot be used.
pub async fn client(kubeconfig: Option<&Path>) -> Result<(kube::Client, String)> {
    let config = match kubeconfig {
        Some(path) => Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?,
        None => match Kubeconfig::from_env().context("reading the files that KUBECONFIG names")? {
            Some(config) => config,
            None => Kubeconfig::read_from("kubeconfig").context("no kubeconfig: give --kubeconfig, set KUBECONFIG, or run where `skysail up` wrote one")?,
        },
    };
    let config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let namespace = config.default_namespace.clone();
    Ok((kube::Client::try_from(config)?, namespace))
}

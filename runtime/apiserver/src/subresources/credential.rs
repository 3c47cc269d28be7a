//! The credential of a host's agent: given to the one who installs it, and to the agent itself before the one that it
//! has ends.

use crate::answer::{self, Failure};
use crate::config::Config;
use crate::identity::pki::Pki;
use crate::identity::{Identity, kubeconfig};
use crate::request::Call;
use crate::state::State;
use axum::body::Body;
use http::Response;
use serde_json::json;

/// `POST hosts/<name>/credential`: a kubeconfig with a fresh certificate for the host's agent.
pub(crate) async fn issue(
    state: &State,
    pki: &Pki,
    config: &Config,
    call: &Call<'_>,
) -> Result<Response<Body>, Failure> {
    state.current(call.kind, "", call.name).await?;
    let identity = Identity::host(call.name);
    let credential = pki
        .client(&identity, config.agent_certificates)
        .map_err(|e| Failure::internal(e.to_string()))?;
    let text = kubeconfig(&config.advertise_url, pki.ca(), &identity.user, &credential);
    Ok(answer::json(201, json!({"kubeconfig": text}).to_string()))
}

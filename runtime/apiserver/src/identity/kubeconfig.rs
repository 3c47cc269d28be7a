//! kubeconfig text: how clients find and trust the server.

use crate::identity::pki::Credential;
use base64::{Engine, engine::general_purpose::STANDARD};

/// A kubeconfig with one context, `skysail`, for kubectl, kube-rs and agents. `server` is a URL, `ca` PEM text.
pub fn kubeconfig(server: &str, ca: &str, user: &str, credential: &Credential) -> String {
    let b64 = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: skysail\n  \
           cluster:\n    \
             server: {server}\n    \
             certificate-authority-data: {}\n\
         users:\n\
         - name: {user}\n  \
           user:\n    \
             client-certificate-data: {}\n    \
             client-key-data: {}\n\
         contexts:\n\
         - name: skysail\n  \
           context:\n    \
             cluster: skysail\n    \
             user: {user}\n\
         current-context: skysail\n",
        b64(ca),
        b64(&credential.certificate),
        b64(&credential.key),
    )
}

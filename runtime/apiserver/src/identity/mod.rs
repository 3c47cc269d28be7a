//! Who asks, how they prove it, and what they may do.
//!
//! A caller is what its client certificate says, and all certificates come from the
//! server's own authority ([`pki`]). Needs [`crate::request`] and [`crate::state`]:
//! what an agent may depends on what its host has.

pub(crate) mod authorize;
mod kubeconfig;
mod moving;
pub(crate) mod pki;
pub(crate) mod reviews;

pub use kubeconfig::kubeconfig;

use skysail_schemas::identity::{ADMIN_GROUP, HOST_GROUP, HOST_USER_PREFIX};

/// A caller. In requests it is an extension, put there by the TLS listener or by an in-process layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User name: the certificate's CN.
    pub user: String,
    /// Groups: the certificate's O values.
    pub groups: Vec<String>,
}

impl Identity {
    /// An administrator.
    pub fn admin(user: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            groups: vec![ADMIN_GROUP.into()],
        }
    }

    /// The agent of a host.
    pub fn host(host: &str) -> Self {
        Self {
            user: skysail_schemas::identity::host_user(host),
            groups: vec![HOST_GROUP.into()],
        }
    }

    /// Whether everything is allowed.
    pub fn is_admin(&self) -> bool {
        self.groups.iter().any(|g| g == ADMIN_GROUP)
    }

    /// The host whose agent this is.
    pub fn host_name(&self) -> Option<&str> {
        let host = self.user.strip_prefix(HOST_USER_PREFIX)?;
        self.groups.iter().any(|g| g == HOST_GROUP).then_some(host)
    }
}

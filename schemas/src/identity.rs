//! Who may speak to the API: names that certificates, the authorizer and the agents share.

/// Group of those who may do everything.
pub const ADMIN_GROUP: &str = "system:masters";
/// Group of every host's agent.
pub const HOST_GROUP: &str = "skysail:hosts";
/// User name prefix of a host's agent; the host's name follows.
pub const HOST_USER_PREFIX: &str = "skysail:host:";

/// The user name of the agent on `host`.
pub fn host_user(host: &str) -> String {
    format!("{HOST_USER_PREFIX}{host}")
}

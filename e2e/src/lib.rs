//! A real system on this machine, for tests and measurements: started and removed by
//! the same commands that a user types, looked at through kubectl and SSH.

pub mod cluster;
pub mod report;
pub mod wait;

pub use cluster::{Cluster, Output};
pub use wait::until;

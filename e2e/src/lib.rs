//! A real system on this machine, for tests and measurements: started and removed by
//! the same commands that a user types, looked at through kubectl and SSH.

pub mod busy;
pub mod census;
pub mod cluster;
pub mod pinging;
pub mod report;
pub mod shop;
pub mod suite;
pub mod times;
pub mod wait;

pub use cluster::{Cluster, Output};
pub use pinging::Pinging;
pub use wait::until;

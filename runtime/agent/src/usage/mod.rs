//! What containers and the host use: pure parsers of the kernel's files, and their reading.

pub mod cgroup;
pub mod machine;
pub mod pressure;

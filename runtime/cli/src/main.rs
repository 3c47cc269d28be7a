//! The `skysail` command.
fn main() {}

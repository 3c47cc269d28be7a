//! Which addresses the sandbox fabric of a system has: each system on this machine has
//! a /20 of the benchmarking range (RFC 2544) to itself.

use ipnet::Ipv4Net;
use std::io::{Error, ErrorKind};
use std::net::Ipv4Addr;
use std::path::Path;

/// One symbolic link per block that is taken: its name is the block's number, its target
/// the system. Making a link fails where there is one, so two systems never share a block.
const CLAIMS: &str = "/run/skysail/fabrics";
/// A /15 has this many /20.
const COUNT: u32 = 32;

/// The block of `instance`, claimed if it has none yet.
///
/// # Errors
/// When all are taken, or the claim cannot be recorded.
pub fn claim(instance: &str) -> std::io::Result<Ipv4Net> {
    match claim_in(Path::new(CLAIMS), instance) {
        // Without root there is no sandbox either: nobody will use the block.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(block(first_choice(instance))),
        other => other,
    }
}

/// Gives back what `instance` claimed, if anything.
///
/// # Errors
/// When the claim cannot be removed.
pub fn release(instance: &str) -> std::io::Result<()> {
    let claims = Path::new(CLAIMS);
    release_in(claims, instance)?;
    // The last system takes the folders with it; with others about they are not empty and stay.
    for folder in [Some(claims), claims.parent()].into_iter().flatten() {
        let _ = std::fs::remove_dir(folder);
    }
    Ok(())
}

fn claim_in(claims: &Path, instance: &str) -> std::io::Result<Ipv4Net> {
    std::fs::create_dir_all(claims)?;
    if let Some(held) = held(claims, instance) {
        return Ok(block(held));
    }
    let first = first_choice(instance);
    for index in (first..COUNT).chain(0..first) {
        match std::os::unix::fs::symlink(instance, claims.join(index.to_string())) {
            Ok(()) => return Ok(block(index)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            // The last other system was just removed, and the folder with it.
            Err(e) if e.kind() == ErrorKind::NotFound => return claim_in(claims, instance),
            Err(e) => return Err(e),
        }
    }
    Err(Error::other(format!(
        "all {COUNT} address blocks for sandbox networks are taken on this machine; \
         remove a system with `skysail down --instance NAME` ({} lists them)",
        claims.display()
    )))
}

fn release_in(claims: &Path, instance: &str) -> std::io::Result<()> {
    match held(claims, instance) {
        Some(index) => std::fs::remove_file(claims.join(index.to_string())),
        None => Ok(()),
    }
}

fn held(claims: &Path, instance: &str) -> Option<u32> {
    (0..COUNT).find(|index| {
        std::fs::read_link(claims.join(index.to_string()))
            .is_ok_and(|target| target == Path::new(instance))
    })
}

/// The same name has the same block again while nobody else took it.
fn first_choice(instance: &str) -> u32 {
    if instance == "sky" {
        return 0;
    }
    let hash = instance
        .bytes()
        .fold(5381u32, |h, b| h.wrapping_mul(33) ^ u32::from(b));
    1 + hash % (COUNT - 1)
}

fn block(index: u32) -> Ipv4Net {
    let base = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    Ipv4Net::new_assert((base + (index << 12)).into(), 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn systems_on_one_machine_never_share_a_block_and_keep_their_own() {
        let claims = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..COUNT).map(|i| format!("system-{i}")).collect();
        let of = |name: &String| claim_in(claims.path(), name).unwrap();
        let blocks: Vec<_> = names.iter().map(of).collect();
        assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert_eq!(names.iter().map(of).collect::<Vec<_>>(), blocks);
        let refused = claim_in(claims.path(), "one-more").unwrap_err();
        assert!(refused.to_string().contains("skysail down"), "{refused}");
    }

    #[test]
    fn a_block_that_was_given_back_is_free_for_the_next() {
        let claims = tempfile::tempdir().unwrap();
        for i in 0..COUNT {
            claim_in(claims.path(), &format!("system-{i}")).unwrap();
        }
        let freed = claim_in(claims.path(), "system-7").unwrap();
        release_in(claims.path(), "system-7").unwrap();
        assert_eq!(claim_in(claims.path(), "one-more").unwrap(), freed);
    }
}

//! Who a machine is, told to it through the firmware's configuration (`fw_cfg`): no agent,
//! no second disk and no metadata service are needed for it, and a machine that starts from
//! a saved state learns it as one that boots does. `identity.sh` reads it.

use super::accelerator::Accelerator;
use crate::{
    Error, Result,
    sandbox::{
        boot,
        records::{Host, Router, gateway},
    },
};
use std::fmt::Write as _;

/// The first line. Without it there is nobody to be yet.
const MARK: &str = "skysail-identity";
/// Every identity is as long as the one that a saved state has seen: the kernel does not ask again.
const LENGTH: usize = 16 << 10;

/// What `host` shall be told. `seed` is some text that no other machine gets.
pub fn text(host: &Host, router: &Router, seed: &str) -> Result<String> {
    let mut text = format!(
        "{MARK}\nseed {seed}\nhostname {}\nmachine-id {}\nmac {}\naddress {}/{}\ngateway {}\n",
        host.name,
        boot::machine_id(host),
        boot::mac(host),
        host.internal,
        router.subnet.prefix_len(),
        gateway(router.subnet),
    );
    for key in &host.authorized_keys {
        let _ = writeln!(text, "key {}", key.replace(['\n', '\r'], " "));
    }
    if text.len() > LENGTH {
        return Err(Error::Refused(format!(
            "machine {}: its authorized keys are longer than {LENGTH} bytes together; use fewer",
            host.name
        )));
    }
    Ok(padded(text))
}

/// What a machine is told that shall wait for its identity.
pub fn none() -> String {
    padded(String::new())
}

fn padded(mut text: String) -> String {
    text.extend(std::iter::repeat_n('\n', LENGTH - text.len()));
    text
}

/// The kernel's command line.
pub fn command_line(accelerator: Accelerator) -> String {
    // Messages for people cost time on a serial line; what fails is shown.
    let words = "console=ttyS0 loglevel=4 panic=5 net.ifnames=0 systemd.condition_first_boot=no \
                 systemd.condition_needs_update=no systemd.show_status=error";
    match accelerator {
        Accelerator::Kvm => words.to_owned(),
        // An emulated processor on a busy machine lets the kernel measure its counter wrong, and the
        // clock would run many times too fast until that is noticed.
        Accelerator::Emulation => format!("{words} tsc=unstable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_has_one_length_and_one_line_for_each_key() {
        let (host, router) = super::super::machine::example();
        let text = text(&host, &router, "5eed").unwrap();
        assert!(text.starts_with("skysail-identity\nseed 5eed\nhostname box-1\n"));
        assert!(
            text.contains(
                "\naddress 10.2.0.2/24\ngateway 10.2.0.1\nkey ssh-ed25519 AAAA one two\n"
            )
        );
        assert_eq!(text.len(), none().len());
        assert!(!none().contains(MARK));
    }

    #[test]
    fn too_many_keys_are_refused() {
        let (mut host, router) = super::super::machine::example();
        host.authorized_keys = vec!["k".repeat(1000); 20];
        assert!(matches!(text(&host, &router, ""), Err(Error::Refused(_))));
    }
}

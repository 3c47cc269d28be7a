//! The console of a restored container. LXC makes none when it restores, so there is
//! a terminal of the host's whose other end is written to the container's console
//! log by a process of its own, which outlives the agent and ends by itself with the
//! container: LXC's monitor holds the terminal open as long as it lives.

use super::error::Error;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use std::fs::File;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Stdio;

/// Bytes after which the log is begun anew; one earlier log is kept.
const WRITER: &str = r#"while head -c 1048576 >>"$1"; do mv -f "$1" "$1.1"; done"#;

/// How CRIU names the terminal of the container whose init is `pid`; none if it has no console.
pub fn identity(pid: i32) -> Option<String> {
    let meta = std::fs::metadata(format!("/proc/{pid}/root/dev/console")).ok()?;
    let rdev = meta.rdev();
    // Terminals of a pseudo terminal file system have these major numbers.
    (136..=143).contains(&libc::major(rdev)).then_some(())?;
    Some(format!("tty[{rdev:x}:{:x}]", meta.dev()))
}

/// Whether a descriptor is the container's console, by whichever mount it was opened: in a container that was
/// restored that is the host's.
pub fn is(pid: i32, descriptor: i32) -> bool {
    let device = |path: String| std::fs::metadata(path).ok().map(|m| (m.dev(), m.rdev()));
    let own = device(format!("/proc/{pid}/root/dev/console"));
    own.is_some() && own == device(format!("/proc/{pid}/fd/{descriptor}"))
}

/// Makes a terminal that belongs to the user `owner`, lets what comes out of it be written to `log`, and returns its
/// path.
///
/// # Errors
/// The host has no terminals left, or `log` cannot be written.
pub fn open(owner: u32, log: &Path) -> Result<String, Error> {
    let made = || -> std::io::Result<String> {
        let near = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&near)?;
        unlockpt(&near)?;
        let far = ptsname_r(&near)?;
        chown(&far, Some(owner), Some(owner + 5))?;
        let input = File::from(rustix::io::fcntl_dupfd_cloexec(&near, 0)?);
        let mut writer = tokio::process::Command::new("setsid");
        writer.args(["sh", "-c", WRITER, "sh"]).arg(log);
        writer
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        writer.spawn()?;
        Ok(far)
    };
    made().map_err(Error::file("making its console".to_owned()))
}

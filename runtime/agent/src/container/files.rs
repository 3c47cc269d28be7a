//! Files that tell a container its name, addresses and first-boot script.
//!
//! They are written into a root that its owner controls, so every path is resolved
//! inside that root by the kernel (`openat2`, `RESOLVE_IN_ROOT`): a link that points
//! out of it leads nowhere else.

use super::record::{Desired, Id};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Directory of what is ours inside a container.
const OURS: &str = "/var/lib/skysail";
/// Where first-boot output goes.
const LOG: &str = "/var/log/skysail-first-boot.log";

/// The one thing in which systemd here is not as it comes: these units, which the distribution ships with credentials
/// that nobody sets, are given none. Credentials are on a ramfs, and a container with one could not be moved live. Units
/// that really have credentials keep them, and preflight names them.
const MOVABLE: &str = "# Made by Skysail: credentials are on a ramfs, which CRIU cannot dump.\n[Service]\nImportCredential=\n";
/// See [`MOVABLE`].
const WITHOUT_CREDENTIALS: [&str; 8] = [
    "/etc/systemd/system/console-getty.service.d",
    "/etc/systemd/system/container-getty@.service.d",
    "/etc/systemd/system/getty@.service.d",
    "/etc/systemd/system/serial-getty@.service.d",
    "/etc/systemd/system/systemd-journald.service.d",
    "/etc/systemd/system/systemd-networkd.service.d",
    "/etc/systemd/system/systemd-resolved.service.d",
    "/etc/systemd/system/systemd-udevd.service.d",
];

/// A file inside a container.
#[derive(Debug, PartialEq, Eq)]
pub struct Inside {
    /// Directory, absolute as the container sees it.
    pub directory: &'static str,
    /// Name in it.
    pub name: &'static str,
    /// Permissions.
    pub mode: u32,
    /// Content, or the target of a symbolic link.
    pub content: Content,
}

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// A plain file.
    Text(String),
    /// A symbolic link.
    Link(&'static str),
}

/// What the container is told. `systemd`: its init is systemd, which then runs the script as a unit.
pub fn files(id: &Id, desired: &Desired, systemd: bool) -> Vec<Inside> {
    let text = |directory, name, mode, content| Inside {
        directory,
        name,
        mode,
        content: Content::Text(content),
    };
    let mut all = vec![
        text("/etc", "hostname", 0o644, format!("{}\n", id.name)),
        text("/etc", "hosts", 0o644, hosts(id, desired)),
    ];
    if let Some(first) = desired.ports.first() {
        all.push(text(
            "/etc",
            "resolv.conf",
            0o644,
            format!(
                "nameserver {}\nsearch {}\n",
                first.gateway, first.dns_domain
            ),
        ));
    }
    if systemd {
        all.extend(
            WITHOUT_CREDENTIALS
                .map(|unit| text(unit, "50-skysail.conf", 0o644, MOVABLE.to_owned())),
        );
    }
    let Some(script) = &desired.spec.user_data else {
        return all;
    };
    all.push(text(OURS, "first-boot", 0o700, script.clone()));
    all.push(text(OURS, "run-first-boot", 0o755, runner()));
    if systemd {
        all.push(text(
            "/etc/systemd/system",
            "skysail-first-boot.service",
            0o644,
            unit(),
        ));
        let content = Content::Link("/etc/systemd/system/skysail-first-boot.service");
        all.push(Inside {
            directory: "/etc/systemd/system/multi-user.target.wants",
            name: "skysail-first-boot.service",
            mode: 0,
            content,
        });
    } else {
        all.push(text(
            OURS,
            "init",
            0o755,
            format!("#!/bin/sh\n{OURS}/run-first-boot &\nexec \"$@\"\n"),
        ));
    }
    all
}

/// Process 1 and its arguments: the image's, behind a wrapper where a first-boot script needs one.
pub fn init(desired: &Desired, systemd: bool) -> Vec<String> {
    let own = desired
        .image
        .as_ref()
        .map(|i| i.init.clone())
        .filter(|i| !i.is_empty())
        .unwrap_or_else(|| vec!["/sbin/init".into()]);
    if desired.spec.user_data.is_none() || systemd {
        return own;
    }
    ["/bin/sh".to_owned(), format!("{OURS}/init")]
        .into_iter()
        .chain(own)
        .collect()
}

/// Whether the init of the image unpacked at `rootfs` is systemd.
pub fn is_systemd(rootfs: &Path, init: &str) -> bool {
    let inside = File::open(rootfs).and_then(|root| {
        let found = openat2(
            &root,
            init,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&found);
        std::fs::read_link(format!("/proc/self/fd/{fd}"))
    });
    inside.is_ok_and(|path| path.ends_with("systemd/systemd"))
}

fn hosts(id: &Id, desired: &Desired) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for port in &desired.ports {
        text.push_str(&format!(
            "{} {name}.{} {name}\n",
            port.address,
            port.dns_domain,
            name = id.name
        ));
    }
    text
}

/// Once: the mark is set before the script runs, so a script that kills its container is not run for ever.
fn runner() -> String {
    format!(
        "#!/bin/sh\nmkdir -p /var/log\n[ -e {OURS}/first-boot.begun ] && exit 0\n: >{OURS}/first-boot.begun\n\
         /bin/sh {OURS}/first-boot >>{LOG} 2>&1\nstatus=$?\necho \"first boot script ended with status $status\" >>{LOG}\n\
         echo $status >{OURS}/first-boot.status\nexit $status\n"
    )
}

fn unit() -> String {
    format!(
        "[Unit]\nDescription=First boot script\nConditionPathExists=!{OURS}/first-boot.begun\nAfter=basic.target\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh {OURS}/run-first-boot\n\n[Install]\nWantedBy=multi-user.target\n"
    )
}

/// Writes `files` into the root at `rootfs`, owned by `owner` (the host's id of the container's root).
pub fn write(rootfs: &Path, files: &[Inside], owner: u32) -> io::Result<()> {
    let root = File::open(rootfs)?;
    files.iter().try_for_each(|file| {
        write_one(&root, file, owner).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("{}/{} in the container: {e}", file.directory, file.name),
            )
        })
    })
}

fn write_one(root: &File, file: &Inside, owner: u32) -> io::Result<()> {
    let directory = directory(root, file.directory, owner)?;
    match &file.content {
        Content::Link(target) => {
            remove(&directory, file.name)?;
            rustix::fs::symlinkat(*target, &directory, file.name)?;
            own(&directory, file.name, owner)
        }
        Content::Text(text) => {
            if current(&directory, file.name).is_some_and(|now| now == *text) {
                return Ok(());
            }
            // A link (as /etc/resolv.conf often is) gives way to a plain file.
            remove(&directory, file.name)?;
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let new =
                rustix::fs::openat(&directory, file.name, flags, Mode::from_raw_mode(file.mode))?;
            rustix::fs::fchmod(&new, Mode::from_raw_mode(file.mode))?;
            rustix::fs::fchown(
                &new,
                Some(rustix::fs::Uid::from_raw(owner)),
                Some(rustix::fs::Gid::from_raw(owner)),
            )?;
            File::from(new).write_all(text.as_bytes())
        }
    }
}

fn current(directory: &OwnedFd, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?);
    let meta = file
        .metadata()
        .ok()
        .filter(|m| m.is_file() && m.len() < 1 << 20)?;
    let mut text = String::with_capacity(usize::try_from(meta.len()).ok()?);
    io::Read::read_to_string(&mut &file, &mut text).ok()?;
    Some(text)
}

fn remove(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(e) if e != rustix::io::Errno::NOENT => Err(e.into()),
        _ => Ok(()),
    }
}

fn own(directory: &OwnedFd, name: &str, owner: u32) -> io::Result<()> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(owner),
        rustix::fs::Gid::from_raw(owner),
    );
    Ok(rustix::fs::chownat(
        directory,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Opens a directory inside the root, making what is missing of it.
fn directory(root: &File, path: &str, owner: u32) -> io::Result<OwnedFd> {
    let open = |at: &dyn AsFd, path: &str, resolve| {
        openat2(
            at.as_fd(),
            path,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    };
    let (mut at, mut so_far) = (root.as_fd().try_clone_to_owned()?, String::new());
    for part in path.split('/').filter(|p| !p.is_empty()) {
        so_far = format!("{so_far}/{part}");
        at = match open(
            root,
            &so_far,
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))?;
                own(&at, part, owner)?;
                open(&at, part, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?
            }
            other => other?,
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn me() -> u32 {
        rustix::process::getuid().as_raw()
    }

    fn text(directory: &'static str, name: &'static str, content: &str) -> Inside {
        Inside {
            directory,
            name,
            mode: 0o644,
            content: Content::Text(content.into()),
        }
    }

    #[test]
    fn a_link_out_of_the_root_does_not_lead_out() {
        let (outside, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("hostname"), "host").unwrap();
        symlink(outside.path(), root.path().join("etc")).unwrap();
        // Inside the root the link's target does not exist, so nothing is written at all.
        assert!(write(root.path(), &[text("/etc", "hostname", "evil")], me()).is_err());
        assert_eq!(
            std::fs::read_to_string(outside.path().join("hostname")).unwrap(),
            "host"
        );
    }

    #[test]
    fn a_link_in_place_of_a_file_is_replaced_and_its_target_stays() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("secret"), "kept").unwrap();
        symlink(
            root.path().join("secret"),
            root.path().join("etc/resolv.conf"),
        )
        .unwrap();
        write(
            root.path(),
            &[text("/etc", "resolv.conf", "nameserver 10.0.0.1\n")],
            me(),
        )
        .unwrap();
        assert_eq!(
            std::fs::read_to_string(root.path().join("secret")).unwrap(),
            "kept"
        );
        assert_eq!(
            std::fs::read_to_string(root.path().join("etc/resolv.conf")).unwrap(),
            "nameserver 10.0.0.1\n"
        );
    }

    #[test]
    fn missing_directories_are_made_and_writing_twice_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let files = [text("/var/lib/skysail", "first-boot", "true")];
        write(root.path(), &files, me()).unwrap();
        let file = root.path().join("var/lib/skysail/first-boot");
        let before = std::fs::metadata(&file).unwrap().modified().unwrap();
        write(root.path(), &files, me()).unwrap();
        assert_eq!(
            std::fs::metadata(&file).unwrap().modified().unwrap(),
            before
        );
    }

    #[test]
    fn a_small_init_runs_the_first_boot_script_behind_a_wrapper_and_systemd_as_a_unit() {
        let (id, mut desired) = (
            Id {
                namespace: "blue".into(),
                name: "web".into(),
            },
            Desired::default(),
        );
        assert_eq!(init(&desired, false), ["/sbin/init"]);
        desired.spec.user_data = Some("echo hi".into());
        assert_eq!(
            init(&desired, false),
            ["/bin/sh", "/var/lib/skysail/init", "/sbin/init"]
        );
        assert_eq!(init(&desired, true), ["/sbin/init"]);
        let has = |systemd, name| files(&id, &desired, systemd).iter().any(|f| f.name == name);
        assert!(
            has(true, "skysail-first-boot.service") && !has(true, "init") && has(false, "init")
        );
    }
}

//! What every virtual machine starts from: a disk, a kernel and a first file system in
//! memory, built once from the distribution's packages and kept by the hash of their recipe.
//!
//! It is built beside its final place and renamed when complete, so a killed build leaves
//! only rubbish that the next one removes. Machines write to overlays of the disk.

use super::cpio;
use crate::{Error, Result, command, mmdebstrap, sandbox::root};
use sha2::{Digest, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

/// What a machine with a kernel of its own needs beyond what every host has.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "linux-image-cloud-amd64",
    "systemd",
    "systemd-sysv",
    "udev",
];
const CUSTOMIZE: &str = include_str!("customize.sh");
const IDENTITY: &str = include_str!("identity.sh");
const INITRD: &str = include_str!("initrd.sh");
/// Drivers that are needed before the disk is there.
const EARLY: &[&str] = &["virtio_blk"];
/// Size of the disk as it is built; a machine's own is larger and its file system grows.
pub const DISK: u64 = 1 << 30;

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its folder.
    pub folder: PathBuf,
}

impl Image {
    /// The image below `cache_dir`, whether built yet or not.
    fn of(cache_dir: &Path) -> Self {
        let mut hash = Sha256::new();
        let texts = [
            &[root::SUITE, CUSTOMIZE, IDENTITY, INITRD],
            root::PACKAGES,
            PACKAGES,
        ];
        for part in texts.concat().iter().chain(root::OPTIONS) {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let hex: String = hash
            .finalize()
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect();
        Self {
            folder: cache_dir.join("vm-images").join(hex),
        }
    }

    /// The disk: one ext4 file system, raw and sparse. Never written to.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }
    /// The kernel, uncompressed: emulation would take a second to unpack it.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }
    /// The first file system.
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }
    /// A program for this machine that can pass bytes to a TCP port.
    pub fn busybox(&self) -> PathBuf {
        self.folder.join("busybox")
    }

    /// Builds the image unless it is in `cache_dir`.
    ///
    /// Idempotent and safe against other processes: one builds, the others wait. Takes
    /// about a minute and needs the distribution's mirror and `mmdebstrap`. `progress`
    /// gets a line for people at each stage.
    pub async fn ensure(cache_dir: &Path, progress: impl Fn(&str) + Send + Sync) -> Result<Self> {
        let image = Self::of(cache_dir);
        if image.folder.exists() {
            return Ok(image);
        }
        let images = cache_dir.join("vm-images");
        fs::create_dir_all(&images).map_err(|e| trouble(&images, &e))?;
        let lock = root::wait_for(image.folder.with_extension("lock"), &progress).await?;
        if !image.folder.exists() {
            image.build(&progress).await?;
        }
        drop(lock);
        Ok(image)
    }

    async fn build(&self, progress: &(impl Fn(&str) + Send + Sync)) -> Result<()> {
        let started = Instant::now();
        let draft = Self {
            folder: self.folder.with_extension("draft"),
        };
        // The lock is ours, so a draft here is what a killed build left.
        remove(&draft.folder)?;
        fs::create_dir_all(&draft.folder).map_err(|e| trouble(&draft.folder, &e))?;
        let root = draft.folder.join("root");
        progress("building the image of virtual machines: the hosts' packages, a kernel, systemd");
        draft.bootstrap(&root, progress).await?;
        let place =
            |what: &Path, bytes: &[u8]| fs::write(what, bytes).map_err(|e| trouble(what, &e));
        let kernel = one_in(&root.join("boot"), "vmlinuz-")?;
        let release = kernel.to_string_lossy().into_owned();
        let release = release.rsplit("vmlinuz-").next().unwrap_or_default();
        draft.unpack_kernel(&root, &kernel).await?;
        place(&draft.initrd(), &initrd(&root, release).await?)?;
        copy(&root.join("usr/bin/busybox"), &draft.busybox())?;
        remove(&root.join("boot"))?;
        let (disk, tree) = (draft.disk(), root.to_string_lossy().into_owned());
        let size = format!("{}k", DISK >> 10);
        let args = [
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-d",
            &tree,
            &disk.to_string_lossy(),
            &size,
        ];
        command::run("mke2fs", &args).await?;
        remove(&root)?;
        fs::rename(&draft.folder, &self.folder).map_err(|e| trouble(&self.folder, &e))?;
        progress(&format!(
            "image of virtual machines built in {} s",
            started.elapsed().as_secs()
        ));
        Ok(())
    }

    async fn bootstrap(&self, root: &Path, progress: &(impl Fn(&str) + Send + Sync)) -> Result<()> {
        let hook = self.folder.join("customize.sh");
        let identity = self.folder.join("identity.sh");
        for (file, text) in [(&hook, CUSTOMIZE), (&identity, IDENTITY)] {
            fs::write(file, text).map_err(|e| trouble(file, &e))?;
        }
        let mut args: Vec<String> = root::OPTIONS.iter().map(|o| (*o).to_owned()).collect();
        args.extend([
            format!(
                "--customize-hook=cd '{}' && sh customize.sh \"$1\"",
                self.folder.display()
            ),
            format!(
                "--include={}",
                [root::PACKAGES, PACKAGES].concat().join(",")
            ),
            root::SUITE.to_owned(),
            root.to_string_lossy().into_owned(),
        ]);
        mmdebstrap::run(&args, |stage| {
            progress(&format!("virtual machines: {stage}"))
        })
        .await
    }

    /// Takes the kernel out of the self-unpacking file that bootloaders want.
    async fn unpack_kernel(&self, root: &Path, packed: &Path) -> Result<()> {
        let bytes = fs::read(packed).map_err(|e| trouble(packed, &e))?;
        let (payload, packer) = payload(&bytes).ok_or_else(|| {
            Error::Refused(format!("{}: not a kernel as expected", packed.display()))
        })?;
        let part = root.join("boot/payload");
        fs::write(&part, payload).map_err(|e| trouble(&part, &e))?;
        let script = format!("{packer} -dcq </boot/payload >/boot/vmlinux");
        let args = [
            root.to_string_lossy().into_owned(),
            "sh".into(),
            "-c".into(),
            script,
        ];
        command::run("chroot", &args.each_ref().map(String::as_str)).await?;
        copy(&root.join("boot/vmlinux"), &self.kernel())
    }
}

/// The compressed kernel in a bzImage and the program that unpacks it, by the fields of its
/// header (`setup_sects`, `payload_offset`, `payload_length`).
fn payload(image: &[u8]) -> Option<(&[u8], &'static str)> {
    let word = |at: usize| {
        let bytes: [u8; 4] = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let start = (usize::from(*image.get(0x1f1)?) + 1) * 512 + word(0x248)?;
    // The last four bytes are the unpacked length.
    let payload = image.get(start..start + word(0x24c)?.checked_sub(4)?)?;
    let packer = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', ..] => "xz",
        [0x1f, 0x8b, ..] => "gzip",
        _ => return None,
    };
    Some((payload, packer))
}

/// The first file system: a shell, the drivers of the disk, and the script that goes over to it.
async fn initrd(root: &Path, release: &str) -> Result<Vec<u8>> {
    let modules = PathBuf::from("usr/lib/modules").join(release);
    let list = root.join(&modules).join("modules.dep");
    let known = fs::read_to_string(&list).map_err(|e| trouble(&list, &e))?;
    let mut archive = cpio::Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "root"] {
        archive.folder(folder);
    }
    let busybox = root.join("usr/bin/busybox");
    archive.file("init", 0o755, INITRD.as_bytes());
    archive.file(
        "bin/busybox",
        0o755,
        &fs::read(&busybox).map_err(|e| trouble(&busybox, &e))?,
    );
    for (number, path) in early(&known).iter().enumerate() {
        let path = format!("/{}/{path}", modules.display());
        let unpack = match path.rsplit('.').next() {
            Some("xz") => format!("xz -dc {path}"),
            Some("zst") => format!("zstd -dcq {path}"),
            _ => format!("cat {path}"),
        };
        let script = format!("{unpack} >/boot/module");
        command::run("chroot", &[&root.to_string_lossy(), "sh", "-c", &script]).await?;
        let plain = root.join("boot/module");
        let bytes = fs::read(&plain).map_err(|e| trouble(&plain, &e))?;
        archive.file(&format!("modules/{number:02}.ko"), 0o644, &bytes);
    }
    Ok(archive.finish())
}

/// The files of the drivers in [`EARLY`] and what they need, in the order of loading, from
/// the text of `modules.dep`. A driver that is not in it is part of the kernel.
fn early(modules_dep: &str) -> Vec<String> {
    let mut files: Vec<String> = vec![];
    for driver in EARLY {
        let line = modules_dep.lines().filter_map(|l| l.split_once(':'));
        let found = line.into_iter().find(|(file, _)| {
            let name = file.rsplit('/').next().unwrap_or_default();
            name.split('.').next() == Some(driver)
        });
        let Some((file, needs)) = found else { continue };
        // The kernel's tools write what is needed first last.
        let order = needs.split_whitespace().rev().chain([file]);
        for file in order.map(str::to_owned) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}

fn one_in(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).map_err(|e| trouble(folder, &e))?;
    entries
        .flatten()
        .map(|e| e.path())
        .find(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(prefix))
        })
        .ok_or_else(|| Error::Refused(format!("no {prefix}* in {}", folder.display())))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(|e| trouble(from, &e))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(trouble(path, &e)),
        _ => Ok(()),
    }
}

fn trouble(path: &Path, error: &io::Error) -> Error {
    Error::Transient(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_loaded_after_what_they_need_and_built_in_ones_not_at_all() {
        let text = "kernel/a/other.ko.xz:\nkernel/b/virtio_blk.ko.xz: kernel/c/second.ko.xz kernel/c/first.ko.xz\n";
        assert_eq!(
            early(text),
            [
                "kernel/c/first.ko.xz",
                "kernel/c/second.ko.xz",
                "kernel/b/virtio_blk.ko.xz"
            ]
        );
        assert!(early("kernel/a/other.ko:\n").is_empty());
    }

    #[test]
    fn the_kernel_in_a_bootloaders_file_is_found_and_anything_else_is_not_one() {
        let mut file = vec![0; 0x400 + 512];
        file[0x1f1] = 1;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&12u32.to_le_bytes());
        file[0x410..0x414].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
        let (bytes, packer) = payload(&file).unwrap();
        assert_eq!((bytes.len(), packer), (8, "zstd"));
        assert!(payload(&file[..0x300]).is_none());
        assert!(payload(b"").is_none());
    }
}

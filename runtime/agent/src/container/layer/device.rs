//! A file as a block device, mounted. By system call: losetup would close the
//! descriptor whose lock keeps an image from being mounted twice.

use super::image;
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4c07;
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;
/// The device frees itself when its last user closes it.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Past the page cache, where what is below allows it: each byte is cached once, not twice.
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// How often another process may take the free device first.
const TRIES: usize = 64;

/// `struct loop_config` of <linux/loop.h>.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// `struct loop_info64` up to `lo_flags`: device, inode, rdevice, offset, sizelimit.
    sizes: [u64; 5],
    /// number, encrypt_type, encrypt_key_size, flags.
    words: [u32; 4],
    /// The rest of it: names, key, init.
    rest: [u64; 22],
    reserved: [u64; 8],
}

/// The device that stands for a file.
struct Loop {
    path: PathBuf,
    device: File,
}

/// Opens `/dev/<name>`, which a host with a /dev of its own may lack.
fn open(name: &str, kind: FileType, major: u32, minor: u32) -> io::Result<(PathBuf, File)> {
    let path = Path::new("/dev").join(name);
    match mknodat(
        CWD,
        &path,
        kind,
        Mode::from_raw_mode(0o600),
        makedev(major, minor),
    ) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(named(&path, e.into())),
    }
    let file = File::options().read(true).write(true).open(&path);
    Ok((path.clone(), file.map_err(|e| named(&path, e))?))
}

fn named(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

/// An ioctl whose argument is a number.
#[allow(unsafe_code)]
fn number(file: &File, request: libc::Ioctl) -> io::Result<u32> {
    // SAFETY: the descriptor is open for the whole call and the request takes no pointer. No crate here wraps it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request) };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// An ioctl that reads a `T`.
#[allow(unsafe_code)]
fn give<T>(file: impl AsFd, request: libc::Ioctl, argument: &T) -> io::Result<()> {
    // SAFETY: the descriptor is open and `argument` is live and fully initialised for the whole call; each caller
    // gives the type that its request reads, and neither request writes to it. No crate here wraps them.
    let result = unsafe {
        libc::ioctl(
            file.as_fd().as_raw_fd(),
            request,
            std::ptr::from_ref(argument),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn attach(file: &File) -> io::Result<Loop> {
    let (_, control) = open("loop-control", FileType::CharacterDevice, 10, 237)?;
    let mut config = LoopConfig {
        fd: file.as_raw_fd().unsigned_abs(),
        block_size: 4096,
        sizes: [0; 5],
        words: [0, 0, 0, LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO],
        rest: [0; 22],
        reserved: [0; 8],
    };
    let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..TRIES {
        let free = number(&control, LOOP_CTL_GET_FREE)?;
        let (path, device) = open(&format!("loop{free}"), FileType::BlockDevice, 7, free)?;
        match give(&device, LOOP_CONFIGURE, &config) {
            Ok(()) => return Ok(Loop { path, device }),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => last = e,
            // Direct access is a matter of speed only.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && config.block_size != 0 => {
                (config.block_size, config.words[3]) = (0, LO_FLAGS_AUTOCLEAR);
                last = e;
            }
            Err(e) => return Err(named(&path, e)),
        }
    }
    Err(last)
}

/// Makes the mounted ext4 in `file`, whose root is `mounted`, as large as the file.
pub fn grow(file: &File, mounted: &Path) -> io::Result<()> {
    let blocks = file.metadata()?.len() / image::BLOCK;
    if image::blocks(file)? >= blocks {
        return Ok(());
    }
    let root = File::open(mounted)?;
    let minor = rustix::fs::minor(rustix::fs::fstat(&root)?.st_dev);
    let (_, device) = open(&format!("loop{minor}"), FileType::BlockDevice, 7, minor)?;
    number(&device, LOOP_SET_CAPACITY)?;
    give(&root, EXT4_IOC_RESIZE_FS, &blocks)
}

/// Mounts the ext4 in `file` nowhere yet, as large as the file, with the directories of an overlay in it. The
/// loop device keeps `file` open, with its lock, until the mount is gone.
pub fn mount(file: File) -> io::Result<OwnedFd> {
    let device = attach(&file)?;
    let context = rustix::mount::fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", &device.path)?;
    // What is deleted inside is given back to the host.
    rustix::mount::fsconfig_set_flag(&context, "discard")?;
    rustix::mount::fsconfig_set_string(&context, "errors", "remount-ro")?;
    rustix::mount::fsconfig_create(&context)?;
    let mount = rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    drop(device.device);
    let blocks = file.metadata()?.len() / image::BLOCK;
    if image::blocks(&file)? < blocks {
        let root = rustix::fs::openat(
            &mount,
            ".",
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        give(&root, EXT4_IOC_RESIZE_FS, &blocks)?;
    }
    for name in ["upper", "work"] {
        match mkdirat(&mount, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(mount)
}

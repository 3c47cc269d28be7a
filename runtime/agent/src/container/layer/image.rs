//! The file that holds a layer: how long it is, how it is formatted, how it is made.

use skysail_schemas::quantity::Bytes;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;
/// The journal, and what is there once.
const FIXED: u64 = 5 << 20;
/// What the kernel keeps back at the most.
const KEPT: u64 = 16 << 20;
/// Below, ext4 has no room for a journal.
const LEAST: u64 = 16 << 20;

/// Arguments of mke2fs. Every feature is named, so that a host's own defaults change
/// nothing; no reserved blocks; an inode for every 8 KiB; no space set aside for
/// growing, which the kernel does without.
pub const FORMAT: &[&str] = &[
    "-q",
    "-F",
    "-t",
    "ext4",
    "-b",
    "4096",
    "-i",
    "8192",
    "-I",
    "256",
    "-m",
    "0",
    "-J",
    "size=4",
    "-O",
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1",
];

/// How long an image is in which `disk` bytes of files have room: its inodes take 1/32,
/// its bitmaps less than 1/8192 of it, and the kernel keeps 2 % back for itself, but not
/// more than 16 MiB.
///
/// ```
/// # use skysail_agent::container::layer::length;
/// # use skysail_schemas::quantity::Bytes;
/// assert_eq!(length(Bytes(1 << 30)) >> 20, 1078);
/// ```
pub fn length(disk: Bytes) -> u64 {
    let kept = (disk.0 / 48).min(KEPT);
    let bytes = u128::from(disk.0.saturating_add(FIXED + kept)) * 8192 / 7935;
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX >> 1).max(LEAST);
    bytes.div_ceil(BLOCK) * BLOCK
}

/// How many blocks the file system in `image` has, by its superblock.
///
/// # Errors
/// There is no ext4 in it.
pub fn blocks(image: &File) -> io::Result<u64> {
    let mut superblock = [0; 1024];
    image.read_exact_at(&mut superblock, 1024)?;
    let word = |at: usize| {
        superblock
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    if word(0x38) & 0xffff != 0xef53 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no ext4 in it"));
    }
    Ok(u64::from(word(0x150)) << 32 | u64::from(word(0x4)))
}

/// Copies what is in `source` and leaves its holes holes.
pub fn copy(source: &Path, mut target: &File) -> io::Result<()> {
    let mut source = File::open(source)?;
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while at < length {
        let begin = match rustix::fs::seek(&source, rustix::fs::SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(&source, rustix::fs::SeekFrom::Hole(begin))?;
        source.seek(SeekFrom::Start(begin))?;
        target.seek(SeekFrom::Start(begin))?;
        let mut data = Vec::new();
        (&source).take(end - begin).read_to_end(&mut data)?;
        target.write_all(&data)?;
        at = end;
    }
    Ok(())
}

/// Makes `image` in `directory` from a template: whole, or not at all.
pub fn place(template: &Path, directory: &Path, image: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    // Of the same name each time: what a killed agent left is written over.
    let draft = image.with_extension("draft");
    copy(template, &File::create(&draft)?)?;
    std::fs::rename(draft, image)
}

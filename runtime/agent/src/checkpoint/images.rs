//! What is changed in CRIU's images before they are restored.

use crate::container::idmap::{COUNT, IdRange};
use std::fs;
use std::io;
use std::path::Path;

/// CRIU images begin with two magic words; then every entry has its length before it.
const MAGIC: usize = 8;

/// Lets the container have the ids `range` of this host: the source's were free there, not here. Every other image
/// has the ids that the container sees.
///
/// # Errors
/// The image of the user namespace cannot be read or written.
pub fn map_ids(dir: &Path, range: IdRange) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !(name.starts_with("userns-") && name.ends_with(".img")) {
            continue;
        }
        let bytes = fs::read(entry.path())?;
        let magic = bytes.get(..MAGIC).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{name} is cut off"))
        })?;
        fs::write(entry.path(), [magic, &user_namespace(range)].concat())?;
    }
    Ok(())
}

/// A `userns_entry`: its maps of users (field 1) and of groups (field 2), each of extents of three numbers.
fn user_namespace(range: IdRange) -> Vec<u8> {
    let mut extent = Vec::new();
    for (field, value) in [(1, 0), (2, range.base), (3, COUNT)] {
        extent.push(field << 3);
        varint(&mut extent, value);
    }
    let mut entry = Vec::new();
    for field in [1, 2] {
        entry.push(field << 3 | 2);
        varint(&mut entry, u32::try_from(extent.len()).unwrap_or_default());
        entry.extend(&extent);
    }
    let length = u32::try_from(entry.len()).unwrap_or_default();
    [&length.to_le_bytes()[..], &entry].concat()
}

fn varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_of_ids_is_written_as_criu_writes_it() {
        let entry = user_namespace(IdRange { base: 1_048_576 });
        let extent = [8, 0, 16, 0x80, 0x80, 0x40, 24, 0x80, 0x80, 4];
        let mut golden = vec![24, 0, 0, 0];
        for field in [10, 18] {
            golden.extend([field, 10]);
            golden.extend(extent);
        }
        assert_eq!(entry, golden);
    }
}

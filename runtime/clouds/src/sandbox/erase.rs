//! Removes a folder with many files. Where the disk is told of every block that is free
//! again (the mount option `discard`), an unlink waits for the disk; one after another,
//! the files of some hosts take a minute under load. So many are unlinked at a time.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

/// How many unlinks wait for the disk at a time.
const AT_A_TIME: usize = 16;

/// Removes `folder` with everything in it; fine if it is absent.
///
/// # Errors
/// Something in it cannot be removed.
pub fn erase(folder: &Path) -> io::Result<()> {
    let files = Mutex::new(files(folder));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                let next = || files.lock().ok().and_then(|mut files| files.pop());
                while let Some(file) = next() {
                    // What stays is met again below, where its error counts.
                    let _ = fs::remove_file(file);
                }
            });
        }
    });
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Everything below `folder` that is no folder, without following links.
fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => found.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_all_that_is_in_it_and_what_links_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (gone, kept) = (dir.path().join("gone"), dir.path().join("kept"));
        fs::create_dir_all(gone.join("a/b/c")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        for i in 0..100 {
            fs::write(gone.join(format!("a/b/{i}")), "x").unwrap();
        }
        std::os::unix::fs::symlink(&kept, gone.join("a/link")).unwrap();
        erase(&gone).unwrap();
        assert!(!gone.exists());
        assert!(kept.join("file").exists());
        erase(&gone).unwrap();
    }
}

//! An archive becomes a directory, or nothing.

use super::{Refusal, remove};
use crate::command::Feed;
use std::path::{Path, PathBuf};

/// An archive that is being unpacked; dropped before [`Unpack::finish`], it leaves nothing.
pub struct Unpack {
    host: String,
    name: String,
    directory: PathBuf,
    tar: Option<Feed>,
}

impl Unpack {
    /// Begins to unpack the archive of image `name` under `root` of `host`.
    pub async fn begin(root: &Path, host: &str, name: &str) -> Result<Self, Refusal> {
        let failed = |e: std::io::Error| refusal(host, name, &e.to_string());
        let directory = tempfile::Builder::new()
            .prefix("new-")
            .tempdir_in(root)
            .map_err(failed)?
            .keep();
        let mut this = Self {
            host: host.to_owned(),
            name: name.to_owned(),
            directory,
            tar: None,
        };
        let rootfs = this.directory.join("rootfs");
        std::fs::create_dir(&rootfs).map_err(failed)?;
        // Containers get device files of their own; the archive's are no use and need more rights to make.
        let args = [
            "--extract",
            "--file=-",
            "--numeric-owner",
            "--same-owner",
            "--preserve-permissions",
            "--xattrs",
            "--xattrs-include=*",
            "--exclude=./dev/*",
            "--exclude=dev/*",
        ];
        let directory = format!("--directory={}", rootfs.display());
        let tar = Feed::start("tar", args.into_iter().chain([directory.as_str()]))
            .map_err(|e| refusal(host, name, &e.to_string()))?;
        this.tar = Some(tar);
        Ok(this)
    }

    /// Unpacks more of the archive.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        let Some(tar) = &mut self.tar else {
            return Ok(());
        };
        if tar.write(chunk).await.is_ok() {
            return Ok(());
        }
        // It ended early: either it says why, or it was at the end of the archive, which padding follows. What
        // was sent is compared with the digest in any case.
        self.end().await
    }

    async fn end(&mut self) -> Result<(), Refusal> {
        match self.tar.take() {
            Some(tar) => tar
                .end()
                .await
                .map_err(|e| refusal(&self.host, &self.name, &e.to_string())),
            None => Ok(()),
        }
    }

    /// Ends the archive and gives the directory its name.
    pub async fn finish(mut self, target: &Path) -> Result<(), Refusal> {
        self.end().await?;
        let failed = |e: std::io::Error| refusal(&self.host, &self.name, &e.to_string());
        use std::os::unix::fs::PermissionsExt;
        // Container roots pass through it with ids that are nobody's on the host.
        std::fs::set_permissions(&self.directory, std::fs::Permissions::from_mode(0o711))
            .map_err(failed)?;
        match std::fs::rename(&self.directory, target) {
            // Somebody else's copy of the same content is as good.
            Err(_) if target.is_dir() => Ok(()),
            other => other.map_err(failed),
        }
    }
}

impl Drop for Unpack {
    fn drop(&mut self) {
        drop(self.tar.take());
        remove(&self.directory);
    }
}

fn refusal(host: &str, name: &str, cause: &str) -> Refusal {
    if cause.contains("No space left") || cause.contains("quota exceeded") {
        return Refusal::new(
            "DiskFull",
            format!(
                "host {host}: image {name} does not fit on the disk there; free some and it is fetched again by itself, or place the container on another host"
            ),
        );
    }
    Refusal::new(
        "UnpackFailed",
        format!("host {host}: image {name} could not be unpacked: {cause}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn archive() -> Vec<u8> {
        let from = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(from.path().join("etc")).unwrap();
        std::fs::write(from.path().join("etc/hostname"), "image").unwrap();
        let to = from.path().join("a.tar");
        let run = crate::command::Command::new("tar")
            .arg("-C")
            .arg(from.path())
            .arg("-cf")
            .arg(&to)
            .arg("./etc")
            .run()
            .await;
        run.unwrap();
        std::fs::read(to).unwrap()
    }

    #[tokio::test]
    async fn an_archive_becomes_a_directory_at_its_end_only() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("sha256-1");
        let mut unpack = Unpack::begin(root.path(), "h", "x").await.unwrap();
        unpack.write(&archive().await).await.unwrap();
        assert!(!target.exists());
        unpack.finish(&target).await.unwrap();
        assert_eq!(
            std::fs::read_to_string(target.join("rootfs/etc/hostname")).unwrap(),
            "image"
        );
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn an_archive_that_is_given_up_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut unpack = Unpack::begin(root.path(), "h", "x").await.unwrap();
        unpack.write(&archive().await).await.unwrap();
        drop(unpack);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_no_archive_is_refused_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut unpack = Unpack::begin(root.path(), "h", "x").await.unwrap();
        let mut result = Ok(());
        for _ in 0..100 {
            if result.is_ok() {
                result = unpack.write(&[7; 10240]).await;
            }
        }
        let result = if result.is_ok() {
            unpack.finish(&root.path().join("sha256-1")).await
        } else {
            drop(unpack);
            result
        };
        assert_eq!(result.unwrap_err().reason, "UnpackFailed");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_archive() {
        assert_eq!(
            refusal(
                "h",
                "x",
                "tar: ./big: Cannot write: No space left on device"
            )
            .reason,
            "DiskFull"
        );
        assert_eq!(
            refusal("h", "x", "tar: This does not look like a tar archive").reason,
            "UnpackFailed"
        );
    }
}

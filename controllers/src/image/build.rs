//! Making an archive in the cache.

use super::plan::{Archive, arguments};
use skysail_clouds::{command, mmdebstrap};
use skysail_reconcile::Error;
use skysail_schemas::image::{DebianRecipe, ImageSpec, Tarball};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;

/// The archives of built recipes.
#[derive(Debug, Clone)]
pub struct Cache(pub PathBuf);

impl Cache {
    /// The archive of `recipe`, complete.
    pub fn find(&self, recipe: &str) -> Option<Archive> {
        let archive: Archive = serde_json::from_slice(&fs::read(self.entry(recipe)).ok()?).ok()?;
        // A disk that was full or cleaned can have left the entry without its file.
        let size = fs::metadata(self.file(recipe)).ok()?.len();
        (size == archive.size).then_some(archive)
    }

    /// The archive's file.
    pub fn file(&self, recipe: &str) -> PathBuf {
        self.0.join(format!("{recipe}.tar"))
    }

    fn entry(&self, recipe: &str) -> PathBuf {
        self.0.join(format!("{recipe}.json"))
    }

    /// Makes the archive of `spec` under the name `recipe`. `progress` gets a line for people at each stage.
    pub async fn build(
        &self,
        recipe: &str,
        spec: &ImageSpec,
        progress: impl Fn(&str) + Send + Sync,
    ) -> Result<Archive, Error> {
        fs::create_dir_all(&self.0).map_err(|e| trouble(&self.0, &e))?;
        // Named after this process: two that share the cache do not share a draft.
        let draft = self
            .0
            .join(format!("{recipe}.{}.draft", std::process::id()));
        let made = match (&spec.debian, &spec.tarball) {
            (Some(debian), _) => bootstrap(debian, &draft, progress).await,
            (None, Some(tarball)) => take(tarball, &draft, progress).await,
            (None, None) => Err(Error::refused(
                "NoSource",
                "the image has neither a recipe nor an archive",
            )),
        };
        let kept = match made {
            Ok(()) => self.keep(recipe, &draft).await,
            Err(e) => Err(e),
        };
        let _ = fs::remove_file(&draft);
        kept
    }

    async fn keep(&self, recipe: &str, draft: &Path) -> Result<Archive, Error> {
        let digest = format!("sha256:{}", sha256(draft).await?);
        let size = fs::metadata(draft).map_err(|e| trouble(draft, &e))?.len();
        let archive = Archive { digest, size };
        let write = || {
            fs::File::open(draft)?.sync_all()?;
            fs::rename(draft, self.file(recipe))?;
            let entry = self.entry(recipe);
            fs::write(entry.with_extension("new"), serde_json::to_vec(&archive)?)?;
            fs::rename(entry.with_extension("new"), entry)
        };
        write().map_err(|e| trouble(&self.0, &e))?;
        Ok(archive)
    }
}

async fn bootstrap(
    recipe: &DebianRecipe,
    draft: &Path,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<(), Error> {
    let mut args = arguments(recipe);
    args.push(draft.to_string_lossy().into_owned());
    mmdebstrap::run(&args, progress).await.map_err(|e| match e {
        skysail_clouds::Error::Refused(m) => Error::refused("NoMmdebstrap", m),
        other => Error::Transient(other.to_string()),
    })
}

/// Fetches or copies an archive, checks its digest, and unpacks its compression.
async fn take(
    tarball: &Tarball,
    draft: &Path,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<(), Error> {
    let fetched = draft.with_extension("fetched");
    let source = match (&tarball.path, &tarball.url) {
        (Some(path), _) => PathBuf::from(path),
        (None, Some(url)) => {
            progress(&format!("fetching {url}"));
            fetch(url, &fetched).await?;
            fetched.clone()
        }
        (None, None) => {
            return Err(Error::refused(
                "NoSource",
                "spec.tarball names neither path nor url",
            ));
        }
    };
    let result = check_and_unpack(tarball, &source, draft).await;
    let _ = fs::remove_file(&fetched);
    result
}

async fn check_and_unpack(tarball: &Tarball, source: &Path, draft: &Path) -> Result<(), Error> {
    let mut head = [0u8; 6];
    let opened =
        fs::File::open(source).and_then(|mut f| io::Read::read(&mut f, &mut head).map(|_| ()));
    opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::refused(
            "FileNotFound",
            format!(
                "{} does not exist where the control plane runs; put it there",
                source.display()
            ),
        ),
        _ => trouble(source, &e),
    })?;
    if let Some(wanted) = &tarball.digest {
        let found = format!("sha256:{}", sha256(source).await?);
        if found != *wanted {
            let message = format!(
                "the archive has the digest {found}, spec.tarball.digest says {wanted}: it is not what was meant; correct whichever is wrong"
            );
            return Err(Error::refused("DigestMismatch", message));
        }
    }
    let program = match head {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some("xz"),
        _ => None,
    };
    let from = fs::File::open(source).map_err(|e| trouble(source, &e))?;
    let to = fs::File::create(draft).map_err(|e| trouble(draft, &e))?;
    let mut command = Command::new(program.unwrap_or("cat"));
    if program.is_some() {
        command.arg("-dc");
    }
    finish(command.stdin(from).stdout(to), "unpack").await?;
    // A tar lists itself; what is no archive is refused here rather than on every host.
    let listing = Command::new("tar")
        .arg("-tf")
        .arg(draft)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output()
        .await;
    match listing {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Error::refused(
            "NotAnArchive",
            format!(
                "{} is no tar archive: {}",
                source.display(),
                command::tail(&output.stderr)
            ),
        )),
        Err(e) => Err(Error::Transient(format!("tar: {e}"))),
    }
}

async fn fetch(url: &str, to: &Path) -> Result<(), Error> {
    let mut command = Command::new("curl");
    command
        .args(["-fsSL", "--retry", "2", "--connect-timeout", "15", "-o"])
        .arg(to)
        .arg("--")
        .arg(url);
    finish(command.stdin(Stdio::null()).stdout(Stdio::null()), "fetch").await
}

async fn finish(command: &mut Command, what: &str) -> Result<(), Error> {
    let output = command
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Error::Transient(format!("cannot {what}: {e}")))?;
    let output = output
        .wait_with_output()
        .await
        .map_err(|e| Error::Transient(format!("cannot {what}: {e}")))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(Error::Transient(format!(
            "cannot {what}: {}",
            command::tail(&output.stderr)
        )))
    }
}

/// SHA-256 of a file, by a program: a debug build of ours takes a minute for an image.
async fn sha256(path: &Path) -> Result<String, Error> {
    let file = fs::File::open(path).map_err(|e| trouble(path, &e))?;
    let output = Command::new("sha256sum")
        .stdin(file)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| trouble(path, &e))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(' ')
        .next()
        .filter(|h| h.len() == 64)
        .map(str::to_owned)
        .ok_or_else(|| Error::Transient(format!("{}: sha256sum failed", path.display())))
}

pub(super) fn trouble(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Transient(format!("{}: {error}", path.display()))
}

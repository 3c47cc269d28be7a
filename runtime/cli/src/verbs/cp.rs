//! `skysail cp`: files and folders into and out of a container, as a tar stream.

use crate::session::{self, Session};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Flags of `cp`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail cp -n acme site/ web-0:/srv          makes /srv/site\n  skysail cp -n acme web-0:/var/log/boot.log ."
)]
pub struct Cp {
    /// Namespace of the container
    #[arg(short, long)]
    namespace: Option<String>,
    /// Out of a container: keep owners (by number) and special mode bits too, as root may. Into one they are always kept
    #[arg(short, long)]
    preserve: bool,
    /// A local path, or CONTAINER:PATH
    source: String,
    /// The folder to copy into: a local one, or CONTAINER:FOLDER
    target: String,
}

/// `container:path`, unless it is a local path (which `./a:b` always is).
fn remote(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(container, _)| {
        !container.is_empty() && !container.contains('/') && !container.starts_with('.')
    })
}

/// Runs the verb.
///
/// # Errors
/// When a file cannot be read or written, on either side.
pub async fn run(client: &kube::Client, default: &str, args: Cp) -> Result<i32> {
    let namespace = args.namespace.unwrap_or_else(|| default.into());
    let files = |container: &str, query| Session {
        namespace: namespace.clone(),
        container: container.into(),
        action: "files",
        query,
    };
    let copy = async {
        match (remote(&args.source), remote(&args.target)) {
            (None, Some((container, folder))) => {
                let query = vec![("into", "true".into()), ("path", folder.into())];
                upload(client, &files(container, query), &args.source).await
            }
            (Some((container, path)), None) => {
                let session = files(container, vec![("path", path.into())]);
                let folder = Path::new(&args.target);
                download(client, &session, &args.source, folder, args.preserve).await
            }
            _ => bail!("one side must be CONTAINER:PATH and the other a local path"),
        }
    };
    tokio::select! {
        copied = copy => copied,
        // Whichever side is written to removes what is not complete, here by dropping the copy.
        _ = tokio::signal::ctrl_c() => bail!("interrupted; nothing was copied"),
    }
}

/// A local file or folder into a folder of a container, where it appears when all of it is there.
async fn upload(client: &kube::Client, session: &Session, source: &str) -> Result<i32> {
    let path = Path::new(source)
        .canonicalize()
        .with_context(|| source.to_owned())?;
    let name = path
        .file_name()
        .context("the root folder cannot be copied")?;
    let mut tar = Command::new("tar")
        .args(["-c", "--numeric-owner", "-f", "-", "-C"])
        .arg(path.parent().unwrap_or(Path::new("/")))
        .arg("--")
        .arg(name)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("tar")?;
    let input = tar.stdout.take().context("tar")?;
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let code = session::stream(client, session, input, &mut out, &mut err, None)
        .await
        .with_context(|| format!("{source} was not copied"))?;
    // Where the other side refused, it said so, and this one could not write on.
    ensure!(
        code != 0 || tar.wait().await?.success(),
        "tar could not read all of {source}"
    );
    Ok(code)
}

/// A file or folder of a container into a local folder, where it appears when all of it is there.
async fn download(
    client: &kube::Client,
    session: &Session,
    source: &str,
    folder: &Path,
    preserve: bool,
) -> Result<i32> {
    ensure!(
        folder.is_dir(),
        "{}: is no folder; give the folder to copy into",
        folder.display()
    );
    let arriving = Arriving::below(folder)?;
    // A container's owners mean nothing here, and a file of its root that runs as ours would be a trap.
    let whose = match preserve {
        true => ["--same-owner", "--same-permissions"],
        false => ["--no-same-owner", "--no-same-permissions"],
    };
    let mut tar = Command::new("tar")
        .args(["-x", "--numeric-owner", "-f", "-"])
        .args(whose)
        .arg("-C")
        .arg(&arriving.0)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("tar")?;
    let mut output = tar.stdin.take().context("tar")?;
    let (input, mut err) = (tokio::io::empty(), tokio::io::stderr());
    let code = session::stream(client, session, input, &mut output, &mut err, None)
        .await
        .with_context(|| format!("{source} was not copied"))?;
    drop(output);
    if tar.wait().await?.success() {
        settle(&arriving.0, folder)?;
        return Ok(code);
    }
    // Where the other side failed, it said so.
    ensure!(code != 0, "tar could not write all of {source}");
    Ok(code)
}

/// A folder for what is not complete; dropping it removes it.
struct Arriving(PathBuf);

impl Arriving {
    fn below(folder: &Path) -> Result<Self> {
        let path = folder.join(format!(".skysail-cp.{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // What cannot be removed is plain from its name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Moves everything in `from` to `folder`; folders that are there already are merged with.
fn settle(from: &Path, folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from)? {
        let (entry, is_dir) = {
            let entry = entry?;
            let is_dir = entry.file_type()?.is_dir();
            (entry, is_dir)
        };
        let to = folder.join(entry.file_name());
        if is_dir && to.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            settle(&entry.path(), &to)?;
        } else {
            std::fs::rename(entry.path(), &to).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}

//! `skysail cp`: files and folders into and out of a container, as a tar stream.

use crate::session::{self, Session};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
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
    let session = |container: &str, query| Session {
        namespace: namespace.clone(),
        container: container.into(),
        action: "files",
        query,
    };
    match (remote(&args.source), remote(&args.target)) {
        (None, Some((container, folder))) => {
            let path = Path::new(&args.source)
                .canonicalize()
                .with_context(|| args.source.clone())?;
            let name = path
                .file_name()
                .context("the root folder cannot be copied")?;
            let mut tar = Command::new("tar")
                .arg("-c")
                .arg("-f")
                .arg("-")
                .arg("-C")
                .arg(path.parent().unwrap_or(Path::new("/")))
                .arg("--")
                .arg(name)
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .context("tar")?;
            let input = tar.stdout.take().context("tar")?;
            let session = session(
                container,
                vec![("into", "true".into()), ("path", folder.into())],
            );
            let code = session::stream(
                client,
                &session,
                input,
                &mut tokio::io::stdout(),
                &mut tokio::io::stderr(),
                None,
            )
            .await?;
            ensure!(
                tar.wait().await?.success(),
                "tar could not read all of {}",
                args.source
            );
            Ok(code)
        }
        (Some((container, path)), None) => {
            ensure!(
                Path::new(&args.target).is_dir(),
                "{}: is no folder; give the folder to copy into",
                args.target
            );
            let mut tar = Command::new("tar")
                .args([
                    "-x",
                    "--no-same-owner",
                    "--no-same-permissions",
                    "-f",
                    "-",
                    "-C",
                ])
                .arg(&args.target)
                .stdin(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .context("tar")?;
            let mut output = tar.stdin.take().context("tar")?;
            let code = session::stream(
                client,
                &session(container, vec![("path", path.into())]),
                tokio::io::empty(),
                &mut output,
                &mut tokio::io::stderr(),
                None,
            )
            .await?;
            drop(output);
            ensure!(
                tar.wait().await?.success(),
                "tar could not write all of {}",
                args.source
            );
            Ok(code)
        }
        _ => bail!("one side must be CONTAINER:PATH and the other a local path"),
    }
}

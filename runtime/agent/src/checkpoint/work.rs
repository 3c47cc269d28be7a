//! The folder of one freeze or restore, and talking with CRIU through it: CRIU calls
//! a small script at each of its stages; at those that matter the script says so in
//! one pipe and waits in another for leave to go on.
//!
//! Pipes with names, not sockets or children, so that an agent that is started anew
//! finds the other side still waiting.

use super::error::Error;
use crate::container::record::{Id, Init};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe::{OpenOptions, Receiver};

/// Everything of this module on a host.
const ROOT: &str = "/run/skysail/checkpoint";

/// What CRIU calls at its stages. Only builtins of the shell: a fork costs a millisecond of the container's time.
const HOOK: &str = r#"#!/bin/sh
case $CRTOOLS_SCRIPT_ACTION in
network-lock|post-dump|setup-namespaces|pre-resume)
    echo "$CRTOOLS_SCRIPT_ACTION $CRTOOLS_INIT_PID" >"$SKYSAIL_CHECKPOINT/ask" || exit 1
    read -r status <"$SKYSAIL_CHECKPOINT/answer" || exit 1
    exit "$status" ;;
post-resume)
    : >"$SKYSAIL_CHECKPOINT/resumed" ;;
esac
exit 0
"#;

/// What LXC takes for CRIU when it restores: adds what the agent knows, leaves out the console that LXC does not have,
/// and the AppArmor profile, which LXC names also where the kernel has none: every task gets back what it had.
const SHIM: &str = r#"#!/bin/sh
PATH=$SKYSAIL_PATH
export PATH
[ "$1" = restore ] || exec criu "$@"
left=$#
while [ "$left" -gt 0 ]; do
    word=$1; shift; left=$((left - 1))
    if [ "$word" = --ext-mount-map ] && [ "$1" = console: ]; then shift; left=$((left - 1)); continue; fi
    if [ "$word" = --lsm-profile ]; then shift; left=$((left - 1)); continue; fi
    set -- "$@" "$word"
done
while read -r word; do set -- "$@" "$word"; done <"$SKYSAIL_CHECKPOINT/more"
exec criu "$@"
"#;

/// How far it came; what an agent that is started anew goes by.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct State {
    /// Whether the container stands in its old tasks or in restored ones.
    pub phase: Phase,
    /// CRIU on the source, `lxc-checkpoint` on the target.
    pub program: Option<Init>,
    /// The container's init.
    pub init: Init,
    /// The images.
    pub dir: PathBuf,
}

/// See [`State`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub enum Phase {
    /// Being dumped: nothing is promised yet.
    Dumping,
    /// Dumped.
    Frozen,
    /// Restored.
    Parked,
}

/// The folder of one container.
#[derive(Debug, Clone)]
pub struct Work {
    dir: PathBuf,
}

/// What CRIU's stages say.
pub struct Asks(Lines<BufReader<Receiver>>);

impl Work {
    /// The folder of `id`, whether it exists or not.
    pub fn of(id: &Id) -> Self {
        Self {
            dir: Path::new(ROOT).join(id.to_string()),
        }
    }

    /// Makes the folder anew.
    ///
    /// # Errors
    /// `/run` cannot be written.
    pub fn begin(id: &Id) -> Result<(Self, Asks), Error> {
        let this = Self::of(id);
        let made = || {
            this.clear()?;
            fs::create_dir_all(&this.dir)?;
            fs::create_dir_all(Path::new(ROOT).join("bin"))?;
            place(&hook(), HOOK)?;
            place(&Path::new(ROOT).join("bin/criu"), SHIM)?;
            for pipe in ["ask", "answer"] {
                nix::unistd::mkfifo(&this.dir.join(pipe), Mode::S_IRUSR | Mode::S_IWUSR)?;
            }
            this.asks()
        };
        let asks = made().map_err(Error::file(format!("preparing {}", this.dir.display())))?;
        Ok((this, asks))
    }

    /// What the stages say from now on.
    ///
    /// # Errors
    /// The pipe is not there.
    pub fn asks(&self) -> io::Result<Asks> {
        // Held for writing too, so that the end of one writer is not the end of the pipe.
        let pipe = OpenOptions::new()
            .read_write(true)
            .open_receiver(self.dir.join("ask"))?;
        Ok(Asks(BufReader::new(pipe).lines()))
    }

    /// Lets the stage that waits end with `status`, if one waits within `patience`.
    pub async fn answer(&self, status: u8, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let pipe = fs::OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(self.dir.join("answer"));
            match pipe {
                Ok(mut pipe) => return pipe.write_all(format!("{status}\n").as_bytes()).is_ok(),
                // Nobody reads yet.
                Err(e) if e.raw_os_error() == Some(libc::ENXIO) && begun.elapsed() < patience => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(_) => return false,
            }
        }
    }

    /// Environment of CRIU.
    pub fn environment(&self) -> [(&'static str, PathBuf); 1] {
        [("SKYSAIL_CHECKPOINT", self.dir.clone())]
    }

    /// More words for CRIU's command line on the target, one a line.
    ///
    /// # Errors
    /// `/run` cannot be written.
    pub fn more(&self, words: &[String]) -> io::Result<()> {
        let text: String = words.iter().map(|w| format!("{w}\n")).collect();
        fs::write(self.dir.join("more"), text)
    }

    /// Whether CRIU has said that it has let go of every restored task.
    pub fn is_resumed(&self) -> bool {
        self.dir.join("resumed").exists()
    }

    /// Puts on record how far it came.
    ///
    /// # Errors
    /// `/run` cannot be written.
    pub fn save(&self, state: &State) -> Result<(), Error> {
        let write = || {
            let new = self.dir.join("state.new");
            fs::write(&new, serde_json::to_vec(state)?)?;
            fs::rename(new, self.dir.join("state"))
        };
        write().map_err(Error::file(format!("writing {}/state", self.dir.display())))
    }

    /// How far it came; none if nothing was begun.
    pub fn load(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.dir.join("state")).ok()?).ok()
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// `/run` cannot be written.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl Asks {
    /// The next stage that waits, and the init that it names.
    pub async fn next(&mut self) -> Option<(String, i32)> {
        let line = self.0.next_line().await.ok()??;
        let (stage, pid) = line.split_once(' ')?;
        Some((stage.to_owned(), pid.trim().parse().unwrap_or(0)))
    }
}

/// The script for `--action-script`.
pub fn hook() -> PathBuf {
    Path::new(ROOT).join("hook")
}

/// Where LXC finds what it takes for CRIU.
pub fn path() -> String {
    format!("{ROOT}/bin:{}", search_path())
}

/// The search path of this agent.
pub fn search_path() -> String {
    std::env::var("PATH")
        .unwrap_or_else(|_| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())
}

/// Writes a program once: one that is being written cannot be run.
fn place(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(new, path)
}

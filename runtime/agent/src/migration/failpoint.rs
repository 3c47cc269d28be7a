//! Named points between every two steps, where tests kill an agent, stop it or hold it.
//!
//! They are compiled in: what is tested is what is shipped. The file `failpoints` in the agent's data directory has
//! one point a line with what happens there: `source.frozen kill`, `source.leaving end` (as by SIGTERM),
//! `source.sending stop 30s` (the whole process, as by SIGSTOP), `target.prepared pause 3s` (this migration only) or `target.resuming fail`. A line is used up when its
//! point is met. Without the file, which only root can make, a point costs one failed open.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the points of an agent are read.
#[derive(Debug, Clone)]
pub struct Failpoints {
    file: PathBuf,
}

#[derive(Debug, PartialEq)]
enum Action {
    Kill,
    End,
    Pause(Duration),
    Stop(Duration),
    Fail,
}

fn parse(line: &str) -> Option<(&str, Action)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let (verb, time) = (words.next()?, words.next());
    let time = || {
        let span: skysail_schemas::duration::Span = time?.parse().ok()?;
        Some(span.duration())
    };
    let action = match verb {
        "kill" => Action::Kill,
        "end" => Action::End,
        "pause" => Action::Pause(time()?),
        "stop" => Action::Stop(time()?),
        "fail" => Action::Fail,
        _ => return None,
    };
    Some((name, action))
}

/// Takes the first line of `text` that names `point` out of it.
fn take(text: &str, point: &str) -> Option<(Action, String)> {
    let mut rest: Vec<&str> = text.lines().collect();
    let at = rest
        .iter()
        .position(|line| parse(line).is_some_and(|(name, _)| name == point))?;
    let (_, action) = parse(rest.remove(at))?;
    Some((action, rest.join("\n")))
}

impl Failpoints {
    /// Points of the agent whose data is in `data`.
    pub fn new(data: &Path) -> Self {
        Self {
            file: data.join("failpoints"),
        }
    }

    fn met(&self, point: &str) -> io::Result<Option<Action>> {
        let text = match std::fs::read_to_string(&self.file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let Some((action, rest)) = take(&text, point) else {
            return Ok(None);
        };
        std::fs::write(&self.file, rest)?;
        Ok(Some(action))
    }

    /// Whether what is done at `point` shall fail.
    pub fn fails(&self, point: &str) -> bool {
        match self.met(point) {
            Ok(action) => action == Some(Action::Fail),
            Err(error) => {
                tracing::error!(point, %error, "the failpoints cannot be read");
                false
            }
        }
    }

    /// The agent passes `point`.
    pub async fn pass(&self, point: &str) {
        match self.met(point) {
            Ok(None | Some(Action::Fail)) => {}
            Ok(Some(Action::Stop(time))) => {
                tracing::warn!(point, ?time, "a failpoint stops the agent");
                if let Err(error) = stop(time) {
                    tracing::error!(point, %error, "the agent could not be stopped");
                }
            }
            Ok(Some(Action::Pause(time))) => {
                tracing::warn!(point, ?time, "a failpoint holds the agent");
                tokio::time::sleep(time).await;
            }
            Ok(Some(Action::End)) => {
                tracing::warn!(point, "a failpoint ends the agent");
                let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM);
                // Not further than here.
                std::future::pending().await
            }
            Ok(Some(Action::Kill)) => {
                tracing::warn!(point, "a failpoint kills the agent");
                let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            }
            Err(error) => tracing::error!(point, %error, "the failpoints cannot be read"),
        }
    }
}

/// Stops this process, all of its threads. Who lets it go on is another process.
fn stop(time: Duration) -> io::Result<()> {
    let line = format!(
        "sleep {}; kill -CONT {}",
        time.as_secs_f32(),
        std::process::id()
    );
    std::process::Command::new("sh")
        .args(["-c", &line])
        .spawn()?;
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_met_as_often_as_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let points = Failpoints::new(dir.path());
        assert_eq!(points.met("source.frozen").unwrap(), None);
        std::fs::write(
            dir.path().join("failpoints"),
            "target.x kill\nsource.frozen pause 3s\nnonsense",
        )
        .unwrap();
        let pause = Some(Action::Pause(Duration::from_secs(3)));
        assert_eq!(points.met("source.frozen").unwrap(), pause);
        assert_eq!(points.met("source.frozen").unwrap(), None);
        assert_eq!(points.met("target.x").unwrap(), Some(Action::Kill));
        let stop = Some(("a", Action::Stop(Duration::from_millis(500))));
        assert_eq!(parse("a stop 500ms"), stop);
        assert_eq!((parse("a stop"), parse("a stop x")), (None, None));
    }
}

//! This terminal: raw while a session has it, as it was before afterwards.

use super::Sizes;
use anyhow::Result;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use skysail_schemas::session::Size;
use std::io::IsTerminal;
use tokio::signal::unix::{SignalKind, signal};

/// A terminal in raw mode; dropping it restores what was.
pub struct Raw(Termios);

impl Raw {
    /// Takes the terminal, or `None` where standard input is none.
    ///
    /// # Errors
    /// When its settings cannot be read or changed.
    pub fn take() -> Result<Option<Self>> {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&input)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&input, SetArg::TCSADRAIN, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better can be done if this fails: `reset` is the user's way out.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

fn size() -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(Size {
        width: size.ws_col,
        height: size.ws_row,
    })
}

/// The terminal's size now and after each change.
///
/// # Errors
/// When the signal cannot be listened to.
pub fn sizes() -> Result<Sizes> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut changed = signal(SignalKind::window_change())?;
    tokio::spawn(async move {
        loop {
            if size().is_some_and(|size| sender.send(size).is_err())
                || changed.recv().await.is_none()
            {
                return;
            }
        }
    });
    Ok(receiver)
}

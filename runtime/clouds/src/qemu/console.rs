//! What a machine says on its console, for people.

use crate::command;

/// The last lines of a console's log without what only a terminal understands.
pub fn end(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            // A sequence for the terminal ends with its first letter.
            '\u{1b}' if rest.next_if_eq(&'[').is_some() => {
                for c in rest.by_ref() {
                    if c.is_ascii_alphabetic() {
                        break;
                    }
                }
            }
            '\n' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    command::tail(plain.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_console_is_its_last_lines_without_colours() {
        let log = b"\x1b[?7hone\r\ntwo\nthree\n[\x1b[0;1;31mFAILED\x1b[0m] four\r\n\r\nfive\n";
        assert_eq!(end(log), "two; three; [FAILED] four; five");
        assert_eq!(end(b""), "");
    }
}

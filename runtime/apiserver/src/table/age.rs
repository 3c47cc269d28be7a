//! Ages as kubectl writes them: two units while they are short, one when they are long.

use jiff::Timestamp;
use serde_json::Value;

/// The time since a timestamp in a field, as the text of a cell.
pub fn since(timestamp: &Value, now: Timestamp) -> Value {
    match timestamp {
        Value::Null => "<unknown>".into(),
        Value::String(text) => match text.parse::<Timestamp>() {
            Ok(then) => human(now.as_second() - then.as_second()).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => "<invalid>".into(),
    }
}

/// A number of seconds.
fn human(seconds: i64) -> String {
    let (minutes, hours, days, years) = (
        seconds / 60,
        seconds / 3600,
        seconds / 86_400,
        seconds / 31_536_000,
    );
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{small_unit}")
        }
    };
    match () {
        // Clocks may disagree a little.
        () if seconds < -1 => "<invalid>".into(),
        () if seconds < 0 => "0s".into(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if years < 2 => format!("{days}d"),
        () if years < 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_in_kubectl() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (179 * 60 + 59, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600 + 60, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (53 * 3600, "2d5h"),
            (8 * 86_400 + 3600, "8d"),
            (700 * 86_400, "700d"),
            (731 * 86_400, "2y1d"),
            (8 * 365 * 86_400, "8y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn no_time_is_unknown_and_nonsense_invalid() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(since(&Value::Null, now), "<unknown>");
        assert_eq!(since(&"soon".into(), now), "<invalid>");
    }
}

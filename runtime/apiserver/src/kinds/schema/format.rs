//! The formats that are checked. An unknown one constrains nothing, as the standard asks.

use base64::Engine;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Does a value have a format?
pub(super) fn fits(format: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => text_fits(format, text),
        Value::Number(_) => match format {
            "int8" => value.as_i64().is_some_and(|n| i8::try_from(n).is_ok()),
            "int16" => value.as_i64().is_some_and(|n| i16::try_from(n).is_ok()),
            "int32" => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            "int64" => value.as_i64().is_some(),
            "uint8" => value.as_u64().is_some_and(|n| u8::try_from(n).is_ok()),
            "uint16" => value.as_u64().is_some_and(|n| u16::try_from(n).is_ok()),
            "uint32" => value.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
            "uint64" | "uint" => value.as_u64().is_some(),
            _ => true,
        },
        _ => true,
    }
}

fn text_fits(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(text)
            .is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        _ => true,
    }
}

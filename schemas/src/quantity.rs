//! Amounts in the notation of Kubernetes quantities: `250m` of cpu, `512Mi` of
//! memory, `1G` bit/s. Parsed once at the edge; plain integers inside.
//!
//! Source: Kubernetes API conventions, "Quantity"
//! (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>).

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, fmt, str::FromStr};

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a quantity: write a number with an optional suffix (m, k, M, G, T, Ki, Mi, Gi, Ti)"
)]
pub struct QuantityError(pub String);

/// Thousandths of the base unit, exactly, or `None` where the text is no quantity or does not fit.
fn parse_milli(text: &str) -> Option<u128> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let milli_per_unit: u128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000 * 1_000,
        "M" => 1_000 * 1_000_000,
        "G" => 1_000 * 1_000_000_000,
        "T" => 1_000 * 1_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty())
        || fraction.contains('.')
        || whole.len() > 20
        || fraction.len() > 9
    {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    // Kubernetes rounds up what is finer than it can hold: asking for more is safe, for less is not.
    Some(whole * milli_per_unit + (part * milli_per_unit).div_ceil(scale))
}

/// `value` with the largest binary suffix that divides it.
fn binary(value: u64) -> String {
    for (shift, suffix) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
        if value != 0 && value.trailing_zeros() >= shift {
            return format!("{}{suffix}", value >> shift);
        }
    }
    value.to_string()
}

/// `value` with the largest decimal suffix that divides it.
fn decimal(value: u64) -> String {
    for (unit, suffix) in [
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ] {
        if value != 0 && value.is_multiple_of(unit) {
            return format!("{}{suffix}", value / unit);
        }
    }
    value.to_string()
}

/// A newtype over `u64` with Kubernetes notation in JSON and YAML.
macro_rules! quantity {
    ($(#[$meta:meta])* $name:ident, $parse:expr, $print:expr, $example:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The sum, held at the greatest value that can be written.
            pub fn saturating_add(self, other: Self) -> Self { Self(self.0.saturating_add(other.0)) }
            /// The difference, held at zero.
            pub fn saturating_sub(self, other: Self) -> Self { Self(self.0.saturating_sub(other.0)) }
        }
        impl FromStr for $name {
            type Err = QuantityError;
            fn from_str(text: &str) -> Result<Self, QuantityError> {
                let wrong = || QuantityError(text.to_owned());
                let units: u128 = ($parse)(parse_milli(text.trim()).ok_or_else(wrong)?);
                // i64, because that is what the Kubernetes notation can carry.
                i64::try_from(units).ok().and_then(|v| u64::try_from(v).ok()).map(Self).ok_or_else(wrong)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(&($print)(self.0)) }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_str(self) }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a quantity such as {}", $example)
                    }
                    fn visit_str<E: de::Error>(self, v: &str) -> Result<$name, E> { v.parse().map_err(E::custom) }
                    fn visit_u64<E: de::Error>(self, v: u64) -> Result<$name, E> { v.to_string().parse().map_err(E::custom) }
                    fn visit_i64<E: de::Error>(self, v: i64) -> Result<$name, E> { v.to_string().parse().map_err(E::custom) }
                    fn visit_f64<E: de::Error>(self, v: f64) -> Result<$name, E> { v.to_string().parse().map_err(E::custom) }
                }
                d.deserialize_any(Visitor)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> { stringify!($name).into() }
            fn inline_schema() -> bool { true }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "x-kubernetes-int-or-string": true, "description": concat!("A quantity such as ", $example, ".") })
            }
        }
    };
}

quantity!(
    /// Processing power in millicores: `250m` is a quarter of a core, `2` is two cores.
    ///
    /// ```
    /// use skysail_schemas::quantity::Cpu;
    /// assert_eq!("0.25".parse::<Cpu>(), Ok(Cpu(250)));
    /// assert_eq!(Cpu(2000).to_string(), "2");
    /// assert!("2 cores".parse::<Cpu>().is_err());
    /// ```
    Cpu, |milli| milli, |v: u64| if v.is_multiple_of(1000) { (v / 1000).to_string() } else { format!("{v}m") }, "`250m`"
);
quantity!(
    /// Bytes of memory or disk: `512Mi`, `2Gi`.
    ///
    /// ```
    /// use skysail_schemas::quantity::Bytes;
    /// assert_eq!("1.5Gi".parse::<Bytes>(), Ok(Bytes(1536 << 20)));
    /// assert_eq!(Bytes(1536 << 20).to_string(), "1536Mi");
    /// assert!("-1Mi".parse::<Bytes>().is_err());
    /// ```
    Bytes, |milli: u128| milli.div_ceil(1000), binary, "`512Mi`"
);
quantity!(
    /// Network bandwidth in bits per second: `100M`, `1G`.
    Bandwidth, |milli: u128| milli.div_ceil(1000), decimal, "`100M`"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_parses_to_itself(v in 0..(i64::MAX as u64)) {
            prop_assert_eq!(Bytes(v).to_string().parse::<Bytes>().unwrap(), Bytes(v));
            prop_assert_eq!(Bandwidth(v).to_string().parse::<Bandwidth>().unwrap(), Bandwidth(v));
            let milli = v / 1000;
            prop_assert_eq!(Cpu(milli).to_string().parse::<Cpu>().unwrap(), Cpu(milli));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,24}") {
            let _ = text.parse::<Bytes>();
            let _ = text.parse::<Cpu>();
        }
    }

    #[test]
    fn nonsense_and_what_does_not_fit_is_refused() {
        for text in [
            "",
            "m",
            ".",
            "1..2",
            "-1",
            "1e3",
            "9999999999Ti",
            "0x10",
            "1 Mi",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text:?} was accepted");
        }
    }
}

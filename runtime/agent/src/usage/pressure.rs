//! Pressure stall information (<https://docs.kernel.org/accounting/psi.html>).

/// `some avg10` of a PSI file, in hundredths of a percent.
///
/// ```
/// # use skysail_agent::usage::pressure::some_avg10;
/// let file = "some avg10=1.25 avg60=0.50 avg300=0.10 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n";
/// assert_eq!(some_avg10(file), Some(125));
/// ```
pub fn some_avg10(file: &str) -> Option<u32> {
    let line = file.lines().find(|l| l.starts_with("some "))?;
    let value = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="))?;
    let (whole, part) = value.split_once('.')?;
    let part: u32 = part.get(..2)?.parse().ok()?;
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(part)
}

/// Reads the pressure of `resource` (`cpu`, `memory`, `io`); none where the kernel does not tell.
pub fn read(resource: &str) -> Option<u32> {
    some_avg10(&std::fs::read_to_string(format!("/proc/pressure/{resource}")).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_pressure_file_tells_nothing() {
        for text in [
            "",
            "some",
            "some avg10=",
            "some avg10=x.yz",
            "full avg10=1.00",
            "some avg10=1",
        ] {
            assert_eq!(some_avg10(text), None, "{text:?}");
        }
    }
}

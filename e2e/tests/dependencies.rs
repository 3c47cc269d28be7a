//! What Skysail is built from: everything comes from the registry, under a licence with which Apache-2.0 software can
//! be shipped.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;

/// Licences that ask for no more than to be named; by their SPDX identifiers (<https://spdx.org/licenses/>).
const FINE: [&str; 9] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Every package that is compiled for this machine.
fn packages() -> Result<Vec<Value>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(["--filter-platform", &target])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array();
    Ok(packages.context("no packages are listed")?.clone())
}

/// Whether a licence expression of SPDX can be kept with [`FINE`] licences alone. `AND` binds closer than `OR`; a slash
/// is how `OR` was written once.
fn is_fine(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any(&mut rest) && rest.is_empty()
}

fn any(rest: &mut &[&str]) -> bool {
    let mut fine = all(rest);
    while let ["OR", after @ ..] = *rest {
        *rest = after;
        fine |= all(rest);
    }
    fine
}

fn all(rest: &mut &[&str]) -> bool {
    let mut fine = one(rest);
    while let ["AND", after @ ..] = *rest {
        *rest = after;
        fine &= one(rest);
    }
    fine
}

fn one(rest: &mut &[&str]) -> bool {
    match *rest {
        ["(", after @ ..] => {
            *rest = after;
            let fine = any(rest);
            let closed = matches!(*rest, [")", ..]);
            *rest = rest.get(1..).unwrap_or_default();
            fine && closed
        }
        // An exception takes conditions away.
        [name, "WITH", _, after @ ..] | [name, after @ ..] => {
            *rest = after;
            FINE.contains(name)
        }
        [] => false,
    }
}

#[test]
fn every_dependency_comes_from_the_registry_under_a_licence_that_fits() -> Result<()> {
    let all = packages()?;
    ensure!(all.len() > 100, "only {} packages are known", all.len());
    for package in &all {
        let (name, version) = (&package["name"], &package["version"]);
        let licence = package["license"].as_str().unwrap_or_default();
        ensure!(is_fine(licence), "{name} {version} has licence {licence:?}");
        // Packages of this workspace have no source.
        let source = package["source"].as_str().unwrap_or("registry+");
        ensure!(
            source.starts_with("registry+"),
            "{name} {version}: {source}"
        );
    }
    Ok(())
}

#[test]
fn an_expression_is_fine_when_one_way_to_keep_it_is() {
    for fine in [
        "MIT",
        "GPL-3.0 OR MIT",
        "MIT/Apache-2.0",
        "(GPL-2.0 OR MIT) AND ISC",
    ] {
        assert!(is_fine(fine), "{fine}");
    }
    for not in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT",
        "MIT MIT",
        "ISC AND (GPL-2.0 OR AGPL-3.0)",
    ] {
        assert!(!is_fine(not), "{not}");
    }
}

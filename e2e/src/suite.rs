//! A suite: cases that share one system and run in order, as a test program of its own.

use anyhow::Result;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// Runs the cases, whose names are sentences, on what `up` makes; it is dropped when they are over. The arguments of
/// the program choose among the cases; nothing is made to list them.
pub fn run<S, C>(
    up: impl FnOnce() -> Result<S>,
    cases: impl IntoIterator<Item = (&'static str, C)>,
) -> ExitCode
where
    S: Send + 'static,
    C: Fn(&mut S) -> Result<()> + Send + 'static,
{
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        let names = cases.into_iter().map(|(name, _)| name);
        return over(&arguments, names.map(|name| Trial::test(name, || Ok(()))));
    }
    let system = match up() {
        Ok(system) => Arc::new(Mutex::new(system)),
        Err(e) => {
            eprintln!("the system did not come up: {e:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = cases.into_iter().map(|(name, case)| {
        let system = Arc::clone(&system);
        Trial::test(name, move || {
            let mut system = system.lock().unwrap_or_else(PoisonError::into_inner);
            case(&mut system).map_err(|e| Failed::from(format!("{e:#}")))
        })
    });
    let code = over(&arguments, trials);
    drop(system); // an exit code does not unwind: remove the system first
    code
}

fn over(arguments: &Arguments, trials: impl Iterator<Item = Trial>) -> ExitCode {
    let conclusion: Conclusion = libtest_mimic::run(arguments, trials.collect());
    conclusion.exit_code()
}

//! `skysail completion`: what a shell needs to complete this command.

/// Flags of `completion`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  source <(skysail completion bash)\n  skysail completion zsh > ~/.zfunc/_skysail\n  skysail completion fish > ~/.config/fish/completions/skysail.fish"
)]
pub struct Completion {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Prints the script for `command`.
///
/// # Errors
/// When nobody reads it.
pub fn run(args: &Completion, mut command: clap::Command) -> anyhow::Result<()> {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut command, "skysail", &mut script);
    Ok(crate::print::Output::stdout().write(&String::from_utf8_lossy(&script))?)
}

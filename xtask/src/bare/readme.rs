//! The README's commands for a newcomer, read from the README, so that it and its test cannot drift apart.

use anyhow::{Result, ensure};

/// The commands in the first block of code of the section "Try it", without the remarks behind them.
pub fn commands(readme: &str) -> Result<Vec<String>> {
    let section = readme.split("\n## ").find(|section| section.starts_with("Try it")).unwrap_or_default();
    let block =
        section.lines().skip_while(|line| !line.starts_with("    ")).take_while(|line| line.starts_with("    "));
    let commands: Vec<_> = block.map(|line| line.split('#').next().unwrap_or_default().trim().to_owned()).collect();
    ensure!(
        commands.len() == 2 && commands.iter().all(|command| command.starts_with("cargo xtask ")),
        "the README's section \"Try it\" has other commands than two chores: {commands:?}"
    );
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::commands;

    #[test]
    fn the_two_commands_of_the_readme_are_found() {
        let readme = std::fs::read_to_string(crate::workspace::root().join("README.md")).unwrap();
        assert_eq!(commands(&readme).unwrap(), ["cargo xtask demo", "cargo xtask test"]);
    }

    #[test]
    fn a_readme_without_them_is_an_error() {
        assert!(commands("# x\n\n## Try it\n\nText.\n\n    make\n").is_err());
        assert!(commands("# x\n").is_err());
    }
}

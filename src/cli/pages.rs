//! Man pages and shell completions, generated from the definition of the command line.

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// Writes into `dir` a page of section 1 for the program and each verb, and one for Galera's wrapper.
pub fn write_man(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut program = shown().disable_help_subcommand(true);
    program.build();
    write_page(&program, dir)?;
    std::fs::write(dir.join("wsrep_sst_highline.1"), ".so man1/highline-sst.1\n")
}

fn write_page(command: &Command, dir: &Path) -> io::Result<()> {
    Man::new(command.clone()).source(concat!("highline ", env!("CARGO_PKG_VERSION"))).generate_to(dir)?;
    command.get_subcommands().try_for_each(|verb| write_page(verb, dir))
}

/// Writes `highline.bash`, `_highline` (zsh) and `highline.fish` into `dir`.
pub fn write_completions(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut shown(), "highline", dir)?;
    }
    Ok(())
}

/// The command line without its hidden verbs, which the generators would show.
fn shown() -> Command {
    let all = Cli::command();
    let verbs = all.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    Command::new("highline")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .about(all.get_about().cloned().unwrap_or_default())
        .after_help(all.get_after_help().cloned().unwrap_or_default())
        .subcommands(verbs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_and_every_shell_its_words() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        write_man(dir).unwrap();
        write_completions(dir).unwrap();
        let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name();
            assert!(text(&format!("highline-{name}.1")).contains("SYNOPSIS"), "{name}");
            for file in ["highline.bash", "_highline", "highline.fish"] {
                assert!(text(file).contains(name), "{name} in {file}");
            }
        }
        assert!(text("highline-certs-node.1").contains(r"\-\-ip"));
        assert!(!dir.join("highline-generate.1").exists() && !text("highline.bash").contains("generate"));
    }
}

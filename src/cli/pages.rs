//! Man pages and shell completions, generated from the definition of the command line and its manual.

use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::manual::{self, Manual};
use crate::error::Kind;

/// Galera's wrapper around `highline sst`, which has the same page.
const WRAPPER: &str = "wsrep_sst_highline";

/// Writes into `dir` a page of section 1 for the program and each verb, and one for Galera's wrapper. `date` is what they
/// bear, as `2026-11-25`.
pub fn write_man(dir: &Path, date: &str) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut program = shown().disable_help_subcommand(true);
    program.build();
    write_page(&program, dir, date)?;
    let wrapper = program.get_subcommands().find(|verb| verb.get_name() == "sst");
    wrapper.map_or(Ok(()), |sst| {
        let page = page(&sst.clone().display_name(WRAPPER), manual::of("highline-sst"), date)?;
        std::fs::write(dir.join(format!("{WRAPPER}.1")), page)
    })
}

fn write_page(command: &Command, dir: &Path, date: &str) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    std::fs::write(dir.join(format!("{name}.1")), page(command, manual::of(name), date)?)?;
    command.get_subcommands().try_for_each(|verb| write_page(verb, dir, date))
}

/// A page, in the order of man-pages(7).
fn page(command: &Command, manual: Option<&Manual>, date: &str) -> io::Result<String> {
    let source = concat!("highline ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).date(date).source(source).manual("Highline");
    let mut made = Vec::new();
    man.render_title(&mut made)?;
    man.render_name_section(&mut made)?;
    man.render_synopsis_section(&mut made)?;
    man.render_description_section(&mut made)?;
    let mut text = String::from_utf8_lossy(&std::mem::take(&mut made)).into_owned();
    text.push_str(&manual.map(notes).unwrap_or_default());
    man.render_options_section(&mut made)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut made)?;
    }
    text.push_str(&String::from_utf8_lossy(&made));
    text.push_str(&manual.map(|manual| sections(manual, command)).unwrap_or_default());
    Ok(tidied(&text))
}

/// Each section that the generator renders begins with the same definition, and it breaks lines where they end anyway.
fn tidied(text: &str) -> String {
    let (mut tidied, mut defined) = (String::new(), 0);
    for line in text.replace(".br\n\n.br\n", ".sp\n").lines() {
        let defines = line.starts_with(".ie ") || line.starts_with(".el ");
        defined += usize::from(defines);
        if !defines || defined <= 2 {
            tidied.push_str(line.trim_end());
            tidied.push('\n');
        }
    }
    tidied
}

fn notes(manual: &Manual) -> String {
    let mut roff = Roff::new();
    for note in manual.notes {
        roff.control("PP", []).text(inlines(note));
    }
    roff.render()
}

/// What stands after the options.
fn sections(manual: &Manual, command: &Command) -> String {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    let mut row = |name: Inline, means: &str| {
        roff.control("TP", []).text([name]).text(inlines(means));
    };
    let of_kinds = manual.page == "highline";
    if of_kinds || manual.exit.is_empty() {
        row(bold("0"), "success");
    }
    manual.exit.iter().for_each(|(code, means)| row(bold(code.to_string()), means));
    if of_kinds {
        let mut kinds = Kind::ALL;
        kinds.sort_unstable_by_key(|kind| kind.exit_code());
        kinds.iter().for_each(|kind| row(bold(kind.exit_code().to_string()), kind.meaning()));
    } else {
        row(roman("others"), "the kind of the failure; `highline`(1) lists them");
    }
    if !manual.files.is_empty() {
        roff.control("SH", ["FILES"]);
        for (name, means) in manual.files {
            roff.control("TP", []).text([italic(*name)]).text(inlines(means));
        }
    }
    roff.control("SH", ["EXAMPLES"]);
    for (at, (what, lines)) in manual.examples.iter().enumerate() {
        if at > 0 {
            roff.control("PP", []);
        }
        roff.text(inlines(&format!("{what}:"))).control("PP", []);
        roff.control("RS", ["4"]).control("EX", []);
        for line in lines.lines() {
            roff.text([roman(line)]);
        }
        roff.control("EE", []).control("RE", []);
    }
    let mut see: Vec<&str> = manual.see.to_vec();
    if manual.page != "highline" && !see.contains(&"highline") && command.get_name() != "highline" {
        see.push("highline");
    }
    see.sort_unstable();
    roff.control("SH", ["SEE ALSO"]);
    let mut names = Vec::new();
    for name in see {
        names.extend([bold(name), roman("(1), ")]);
    }
    names.extend([roman("and "), italic("share/doc/highline"), roman(": README.md, galera.md, status.md")]);
    roff.text(names);
    roff.render()
}

/// What is between backticks is bold.
fn inlines(text: &str) -> Vec<Inline> {
    let pieces = text.split('`').enumerate().filter(|(_, piece)| !piece.is_empty());
    pieces.map(|(at, piece)| if at % 2 == 0 { roman(piece) } else { bold(piece) }).collect()
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
pub(super) fn shown() -> Command {
    let all = super::command();
    let verbs = all.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    Command::new("highline")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .about(all.get_about().cloned().unwrap_or_default())
        .subcommands(verbs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_and_every_shell_its_words() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        write_man(dir, "2026-11-25").unwrap();
        write_completions(dir).unwrap();
        let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        for verb in shown().get_subcommands() {
            let name = verb.get_name();
            let page = text(&format!("highline-{name}.1"));
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
                let headings = page.lines().filter_map(|line| line.strip_prefix(".SH "));
                assert_eq!(headings.filter(|heading| heading.trim_matches('"') == section).count(), 1, "{page}");
            }
            for file in ["highline.bash", "_highline", "highline.fish"] {
                assert!(text(file).contains(name), "{name} in {file}");
            }
        }
        assert!(text("highline-certs-node.1").contains(r"\-\-ip"));
        let status = text("highline-status.1");
        assert!(
            status.contains("\\fB3\\fR\nthere is none\n") && status.contains("highline status \\-\\-watch\n"),
            "{status}"
        );
        assert!(text("highline.1").contains("\\fB129\\fR\nthe peer could not prove who it is\n"));
        assert!(text("wsrep_sst_highline.1").contains("wsrep_sst_highline \\- For the database server"));
        assert!(!dir.join("highline-generate.1").exists() && !text("highline.bash").contains("generate"));
    }
}

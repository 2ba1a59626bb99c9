//! Options that operators pass to `mariadb-backup`: `inno-backup-opts` and `inno-apply-opts`.

use std::str::FromStr;

/// More options for a run of the program, one word each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramOptions(pub Vec<String>);

/// Splits a line into words as a shell would, without running anything; a quoted word may contain spaces.
///
/// Refuses a quote that is not closed, and an option that a transfer sets itself.
impl FromStr for ProgramOptions {
    type Err = String;

    fn from_str(line: &str) -> Result<ProgramOptions, String> {
        split(line).map(ProgramOptions)
    }
}

/// Options of the program that an operator may not set, and why; `*` stands for any ending. An option may be shortened as
/// long as it is unambiguous (`my_getopt.c`), so what could become one of these is refused, too.
const OURS: &[(&[&str], &str)] = &[
    (&["--password*", "-p*"], "a password does not belong in a process list: use wsrep_sst_auth"),
    (
        &[
            "--backup",
            "--prepare",
            "--copy-back",
            "--move-back",
            "--stream",
            "--target-dir",
            "--galera-info",
            "--export",
            "--defaults-file",
            "--defaults-extra-file",
            "--defaults-group-suffix",
            "--no-defaults",
            "--datadir",
            "-h*",
            "--help",
            "-?",
            "-v",
            "--version",
            "--print-defaults",
            "--print-param",
            "--innobackupex",
        ],
        "a transfer decides this itself",
    ),
    (&["--compress*", "--decompress"], "compress in [highline] compresses what is sent"),
    (&["--incremental*", "--tables*", "--databases*"], "a transfer is always whole"),
];

/// The fewest letters of an option that count as its name.
const SHORTEST: usize = 3;

fn split(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), close) if open == close => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err(format!("`{line}` has a quote that is not closed"));
    }
    words.extend(word);
    for word in &words {
        // The program accepts an underscore for a hyphen.
        let name = word.split('=').next().unwrap_or_default().replace('_', "-");
        let name = name.strip_prefix("--loose-").map_or(name.clone(), |rest| format!("--{rest}"));
        let is = |ours: &&str| {
            let whole = ours.strip_suffix('*').unwrap_or(ours);
            let shortened = name.len() >= "--".len() + SHORTEST && whole.starts_with(&name);
            name == whole || shortened || ours.ends_with('*') && name.starts_with(whole)
        };
        if let Some((_, why)) = OURS.iter().find(|(names, _)| names.iter().any(is)) {
            return Err(format!("{name}: {why}"));
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_by_a_shell_and_nothing_is_run() {
        for (line, words) in [
            ("", &[][..]),
            ("  --throttle=4   --rsync ", &["--throttle=4", "--rsync"]),
            ("--ftwrl-wait-query-type='a b' \"--tmpdir=/a b\"", &["--ftwrl-wait-query-type=a b", "--tmpdir=/a b"]),
            ("--x='' $(touch y);", &["--x=", "$(touch", "y);"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn what_a_transfer_decides_itself_is_refused() {
        for (line, why) in [
            ("--password=x", "--password: a password does not belong in a process list: use wsrep_sst_auth"),
            ("-px", "-px: a password does not belong in a process list: use wsrep_sst_auth"),
            ("--target_dir=/x", "--target-dir: a transfer decides this itself"),
            ("--compress-threads=2", "--compress-threads: compress in [highline] compresses what is sent"),
            ("--incremental-lsn=2", "--incremental-lsn: a transfer is always whole"),
            ("--databases=a", "--databases: a transfer is always whole"),
            ("--databases-exclude=a", "--databases-exclude: a transfer is always whole"),
            ("--pass=secret", "--pass: a password does not belong in a process list: use wsrep_sst_auth"),
            ("--loose-password=s", "--password: a password does not belong in a process list: use wsrep_sst_auth"),
            ("--target=/x", "--target: a transfer decides this itself"),
            ("--stre=tar", "--stre: a transfer decides this itself"),
            ("-h /x", "-h: a transfer decides this itself"),
            ("--datadir=/x", "--datadir: a transfer decides this itself"),
            ("--print-param", "--print-param: a transfer decides this itself"),
            ("--version", "--version: a transfer decides this itself"),
            ("'x", "`'x` has a quote that is not closed"),
        ] {
            assert_eq!(split(line).unwrap_err(), why);
        }
        assert!(split("--parallel=2 --port=3 --open-files-limit=9 --safe-slave-backup --user=x").is_ok());
    }
}

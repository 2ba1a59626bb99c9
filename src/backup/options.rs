//! Options that operators give to `mariadb-backup` through us: `inno-backup-opts` and `inno-apply-opts`.

/// What of the program's options is not an operator's to say, and why; `*` stands for any end.
const OURS: &[(&[&str], &str)] = &[
    (&["--password*", "-p*"], "a password does not belong into a process list: use wsrep_sst_auth"),
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
        ],
        "that is said already",
    ),
    (&["--compress*", "--decompress"], "what travels is compressed without it"),
    (&["--incremental*", "--tables*", "--databases", "--databases-file"], "a transfer is always whole"),
];

/// Splits a line as a shell would, without running anything: words, with quotes around what holds spaces.
///
/// # Errors
/// A quote that does not end, or an option that a transfer says itself.
pub fn split(line: &str) -> Result<Vec<String>, String> {
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
        return Err(format!("`{line}` has a quote that does not end"));
    }
    words.extend(word);
    for word in &words {
        // An underscore stands for a hyphen there.
        let name = word.split('=').next().unwrap_or_default().replace('_', "-");
        let is = |ours: &&str| match ours.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => name == **ours,
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
            (
                "--databases-exclude='lost+found x' \"--tmpdir=/a b\"",
                &["--databases-exclude=lost+found x", "--tmpdir=/a b"],
            ),
            ("--x='' $(touch y);", &["--x=", "$(touch", "y);"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn what_a_transfer_says_itself_is_refused() {
        for (line, why) in [
            ("--password=x", "--password: a password does not belong into a process list: use wsrep_sst_auth"),
            ("-px", "-px: a password does not belong into a process list: use wsrep_sst_auth"),
            ("--target_dir=/x", "--target-dir: that is said already"),
            ("--compress-threads=2", "--compress-threads: what travels is compressed without it"),
            ("--incremental-lsn=2", "--incremental-lsn: a transfer is always whole"),
            ("--databases=a", "--databases: a transfer is always whole"),
            ("'x", "`'x` has a quote that does not end"),
        ] {
            assert_eq!(split(line).unwrap_err(), why);
        }
        assert!(split("--parallel=2 --port=3").is_ok());
    }
}

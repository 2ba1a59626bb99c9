//! Which top-level names of the data directory stay: `keep`, and `cpat` of the server's own
//! scripts.

/// `keep`: names and patterns, separated by commas; `*` is any run of characters.
pub(super) fn list(text: &str) -> Result<Vec<String>, String> {
    let pattern = |name: &str| match name {
        "." | ".." => Err("`.` and `..` are not names".to_owned()),
        _ if name.contains('/') => {
            Err(format!("`{name}` contains a slash; only names directly in the data directory are allowed"))
        }
        _ if name.contains('#') => Err(format!("`{name}` contains a #, which stands for digits here; use * instead")),
        _ => Ok(name.to_owned()),
    };
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(pattern).collect()
}

/// `cpat`: the regular expression (Emacs syntax, over the whole path) that the scripts hand to
/// `find -regex`, as name patterns. Alternatives of literal text and `.*` are understood; anything
/// else is refused, because a file wrongly kept or lost is worse than an error.
pub(super) fn of_cpat(text: &str) -> Result<Vec<String>, String> {
    text.replace("\\|", "|").split('|').filter(|branch| !branch.is_empty()).map(branch).collect()
}

fn branch(regex: &str) -> Result<String, String> {
    let refuse = |why: &str| {
        format!("`{regex}`: {why}; write `keep` in [highline], names separated by commas with * for any characters")
    };
    let body = regex.strip_prefix('^').unwrap_or(regex);
    let body = body.strip_suffix('$').unwrap_or(body);
    // The expression is matched against the whole path, so it must start with the path to the name.
    let body = match (body.strip_prefix(".*/"), body.starts_with(".*")) {
        (Some(name), _) => name,
        (None, true) => body,
        (None, false) => return Err(refuse("it cannot match any path, since it does not begin with .*")),
    };
    let mut pattern = String::new();
    let mut rest = body.chars();
    while let Some(c) = rest.next() {
        match c {
            '.' => match rest.next() {
                Some('*') => pattern.push('*'),
                _ => return Err(refuse("a dot for any one character is not supported here (\\. is a dot)")),
            },
            '\\' => match rest.next() {
                Some(c @ ('.' | '-' | '_' | '+')) => pattern.push(c),
                _ => return Err(refuse("this use of \\ is not understood")),
            },
            '/' => return Err(refuse("only names directly in the data directory can be kept")),
            '*' | '+' | '?' | '[' | ']' | '(' | ')' | '{' | '}' | '^' | '$' | '#' => {
                return Err(refuse(&format!("`{c}` is not understood")));
            }
            c => pattern.push(c),
        }
    }
    if pattern.is_empty() || pattern.chars().all(|c| c == '*') {
        return Err(refuse("it would keep everything"));
    }
    Ok(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_own_expression_is_understood() {
        let cpat = r".*\.pem$\|.*galera\.cache$\|.*sst_in_progress$\|.*\.sst$\|.*/gvwstate\.dat|.*\.err";
        assert_eq!(
            of_cpat(cpat).unwrap(),
            ["*.pem", "*galera.cache", "*sst_in_progress", "*.sst", "gvwstate.dat", "*.err"]
        );
        assert_eq!(of_cpat(r".*RPM_UPGRADE_.*").unwrap(), ["*RPM_UPGRADE_*"]);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (cpat, why) in [
            (r".*", "keep everything"),
            (r".*/.*", "keep everything"),
            (r"pem", "begin with .*"),
            (r".*\.pem.", "one character"),
            (r".*[0-9]+\.x", "`[` is not understood"),
            (r".*\(a\|b\)", "this use of \\"),
            (r".*/mysql/x", "directly in the data directory"),
        ] {
            let error = of_cpat(cpat).unwrap_err();
            assert!(error.contains(why), "{cpat}: {error}");
        }
    }

    #[test]
    fn own_lists() {
        assert_eq!(list(" a.pem, *.key ,,").unwrap(), ["a.pem", "*.key"]);
        for wrong in ["a/b", "..", "x#"] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }
}

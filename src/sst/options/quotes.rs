//! Values whose quotes are not what they seem. `wsrep_provider_options` is handled separately.

use super::files::{OptionFiles, Tier};

/// Quotes that word processors and web pages turn `"` and `'` into.
pub(super) const CURLY: [char; 8] = ['“', '”', '„', '‟', '‘', '’', '‚', '″'];

/// A sentence for each value that still begins with a quote. The value itself is not repeated: it may be a password.
pub fn odd_quotes(files: &OptionFiles) -> Vec<String> {
    let tiers = [Tier::Highline, Tier::Sst, Tier::Server, Tier::Backup];
    let items = tiers.iter().flat_map(|tier| files.tier(*tier)).filter(|item| item.key != "wsrep-provider-options");
    let sentence = |item: &super::Item| {
        let text = item.value.as_deref()?.to_str()?;
        let why = match text.chars().next()? {
            curly if CURLY.contains(&curly) => {
                format!("the typographic quote {curly} does not quote anything but is part of the value: write \"")
            }
            _ => broken_quote(text)?.to_owned(),
        };
        Some(format!("{}: {why}", item.name()))
    };
    items.filter_map(sentence).collect()
}

/// What is wrong with a value that still begins with a quote: the option reader removes quotes only if they are the
/// first and last character of the value.
pub(super) fn broken_quote(text: &str) -> Option<&'static str> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inner = text.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    Some(if inner.len() > 1 && inner.ends_with(quote) {
        "a ; follows the closing quote, so the quotes are part of the value"
    } else if text.matches(quote).count() > 1 {
        "something follows the closing quote, so the quotes are part of the value"
    } else {
        "its quote is not closed on its line: an option ends with its line, even within quotes"
    })
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::read;
    use super::*;

    #[test]
    fn odd_quotes_are_told_and_good_ones_are_not() {
        let files = read(
            "[mysqld]\nssl_ca=\"/good.pem\"\ninit_connect=\"SET NAMES 'utf8'\"\ndatadir=“/data”\nssl_key='/key.pem\n\
             [sst]\ntcert=\"/c.pem\";\n[highline]\nca=\"/a\" b\n",
        );
        assert_eq!(
            odd_quotes(&files),
            [
                "ca in [highline]: something follows the closing quote, so the quotes are part of the value",
                "tcert in [sst]: a ; follows the closing quote, so the quotes are part of the value",
                "datadir in [mysqld]: the typographic quote “ does not quote anything but is part of the value: write \"",
                "ssl-key in [mysqld]: its quote is not closed on its line: an option ends with its line, even within quotes",
            ]
        );
    }
}

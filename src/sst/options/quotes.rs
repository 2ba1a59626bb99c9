//! Values whose quotes are not what they seem; `wsrep_provider_options` has words of its own.

use super::files::{OptionFiles, Tier};

/// Quotes that word processors and web pages make of `"` and `'`.
pub(super) const CURLY: [char; 8] = ['“', '”', '„', '‟', '‘', '’', '‚', '″'];

/// A sentence for each value that begins with a quote which the option reader leaves in it. No value is repeated: it
/// may be a password.
pub fn odd_quotes(files: &OptionFiles) -> Vec<String> {
    let tiers = [Tier::Highline, Tier::Sst, Tier::Server, Tier::Backup];
    let items = tiers.iter().flat_map(|tier| files.tier(*tier)).filter(|item| item.key != "wsrep-provider-options");
    let sentence = |item: &super::Item| {
        let text = item.value.as_deref()?.to_str()?;
        let first = text.chars().next()?;
        let why = match first {
            '"' | '\'' if text.matches(first).count() == 1 => {
                "the quote does not end on its line, and an option ends with its line".to_owned()
            }
            '"' | '\'' if text.trim_end_matches([';', ' ']).ends_with(first) => {
                "there is a ; behind the closing quote, so that the quotes are a part of the value".to_owned()
            }
            '"' | '\'' => {
                "there is more behind the closing quote, so that the quotes are a part of the value".to_owned()
            }
            curly if CURLY.contains(&curly) => {
                format!("the typographic quote {curly} quotes nothing and is a part of the value: write \"")
            }
            _ => return None,
        };
        Some(format!("{}: {why}", item.name()))
    };
    items.filter_map(sentence).collect()
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
                "ca in [highline]: there is more behind the closing quote, so that the quotes are a part of the value",
                "tcert in [sst]: there is a ; behind the closing quote, so that the quotes are a part of the value",
                "datadir in [mysqld]: the typographic quote “ quotes nothing and is a part of the value: write \"",
                "ssl-key in [mysqld]: the quote does not end on its line, and an option ends with its line",
            ]
        );
    }
}

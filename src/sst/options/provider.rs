//! `wsrep_provider_options`, parsed as the provider does (`gu::Config::parse`, galerautils), and the common mistakes in
//! it.

use super::files::{Item, OptionFiles, Tier};
use super::quotes::{CURLY, broken_quote};
use crate::error::Printable;

const NAME: &str = "wsrep-provider-options";

/// Prefixes of the provider's parameters.
const FAMILIES: [&str; 12] =
    ["socket.", "gcache.", "gcomm.", "gmcast.", "evs.", "pc.", "gcs.", "ist.", "repl.", "cert.", "protonet.", "base-"];

/// The parameters in effect.
#[derive(Clone, Debug, Default)]
pub struct ProviderOptions<'a> {
    item: Option<&'a Item>,
    pairs: Vec<(&'a str, &'a str)>,
    faults: Vec<String>,
    lost: Option<Lost>,
}

/// Parameters without effect, because a later mention replaces the whole value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub text: String,
    /// A TLS parameter is among them.
    pub weakens: bool,
}

impl<'a> ProviderOptions<'a> {
    /// Reads the last mention, the only one that the server uses.
    pub fn of(files: &'a OptionFiles) -> ProviderOptions<'a> {
        let server = files.tier(Tier::Server);
        let all: Vec<&Item> = server.iter().filter(|item| item.key == NAME).collect();
        let mut options = ProviderOptions { item: all.last().copied(), ..ProviderOptions::default() };
        let Some((last, earlier)) = all.split_last() else { return options };
        let stray = server.iter().find(|item| FAMILIES.iter().any(|family| item.key.starts_with(family)));
        let mut fault = |text: String| options.faults.push(format!("{}: {text}", last.name()));
        let value = last.value.as_deref().unwrap_or_default();
        let Some(text) = value.to_str() else {
            fault("it is not UTF-8".to_owned());
            return options;
        };
        if let Some(why) = broken_quote(text) {
            fault(why.to_owned());
        } else if let Some(stray) = stray {
            fault(format!(
                "{} is on a separate line and so not part of it: an option ends with its line",
                stray.key.replacen('-', "_", 1)
            ));
        }
        if let Some(quote) = text.chars().find(|c| CURLY.contains(c)) {
            fault(format!("it contains the typographic quote {quote}, which does not quote anything: write \""));
        }
        if options.faults.is_empty() {
            match provider_pairs(text) {
                Ok(pairs) => options.pairs = pairs,
                Err(why) => options.faults.push(format!("{}: {why}", last.name())),
            }
        }
        options.lost = lost(last, earlier, &options.pairs);
        options
    }

    /// The value of a parameter; the last mention counts, and empty means unset.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let (_, value) = self.pairs.iter().rev().find(|(name, _)| *name == key)?;
        (!value.is_empty()).then_some(*value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.pairs.iter().copied()
    }

    /// Where they are set; `None` if they are not.
    pub fn item(&self) -> Option<&'a Item> {
        self.item
    }

    /// What the provider cannot read. Then no parameter counts: the server does not start.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    pub fn lost(&self) -> Option<&Lost> {
        self.lost.as_ref()
    }
}

/// The parameters in a value; the error names the piece that is none.
pub fn provider_pairs(text: &str) -> Result<Vec<(&str, &str)>, String> {
    match text.split(';').map(str::trim).find(|piece| !piece.is_empty() && !piece.contains('=')) {
        Some(piece) => Err(format!("`{}` has no value", Printable(piece.as_bytes()))),
        None => Ok(pairs(text)),
    }
}

fn pairs(text: &str) -> Vec<(&str, &str)> {
    text.split(';').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.trim(), value.trim())).collect()
}

fn lost(last: &Item, earlier: &[&Item], kept: &[(&str, &str)]) -> Option<Lost> {
    let mut names: Vec<&str> = Vec::new();
    for item in earlier {
        let text = item.value.as_deref().and_then(|value| value.to_str()).unwrap_or_default();
        for (name, _) in pairs(text) {
            if !kept.iter().any(|(key, _)| *key == name) && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if names.is_empty() {
        return None;
    }
    let weakens = names.iter().any(|name| name.starts_with("socket.ssl"));
    // If TLS parameters are among them, only those are named.
    names.retain(|name| !weakens || name.starts_with("socket.ssl"));
    let (names, has) = (names.join(", "), if names.len() == 1 { "has" } else { "have" });
    let text = format!(
        "wsrep_provider_options is given {} times, but only the last, in {}, counts: {} of an earlier one {has} no effect",
        earlier.len().saturating_add(1),
        last.origin,
        crate::error::Printable(names.as_bytes())
    );
    Some(Lost { text, weakens })
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::read;
    use super::*;

    #[test]
    fn what_the_provider_would_read_is_read() {
        let files = read(
            "[mysqld]\nwsrep_provider_options = \" gcache.size=1G;; socket.ssl_cert = /c ;\\n socket.ssl_key=/k; socket.ssl_ca=;\"\n",
        );
        let options = ProviderOptions::of(&files);
        assert_eq!(options.faults(), [] as [String; 0]);
        assert_eq!(options.get("socket.ssl_cert"), Some("/c"));
        assert_eq!(options.get("socket.ssl_key"), Some("/k"));
        assert_eq!((options.get("socket.ssl_ca"), options.get("x")), (None, None));
        assert_eq!(options.lost(), None);
    }

    #[test]
    fn broken_ones_are_told_how() {
        for (text, says) in [
            ("\"gcache.size=1G;\n socket.ssl_cert=/c;socket.ssl_key=/k\"", "its quote is not closed on its line"),
            ("'gcache.size=1G", "its quote is not closed on its line"),
            ("gcache.size=1G;\nsocket.ssl_cert=/c", "socket.ssl_cert is on a separate line and so not part of it"),
            ("\"gcache.size=1G;socket.ssl=yes\";", "a ; follows the closing quote"),
            ("\"gcache.size=1G\" ;\n", "a ; follows the closing quote"),
            ("\"gcache.size=1G\";\"pc.weight=2", "something follows the closing quote"),
            ("“gcache.size=1G;pc.weight=2”", "it contains the typographic quote “"),
            ("gcache.size=1G;socket.ssl", "`socket.ssl` has no value"),
        ] {
            let files = read(&format!("[galera]\nwsrep_provider_options={text}\n"));
            let options = ProviderOptions::of(&files);
            let [fault] = options.faults() else { panic!("{text}: {:?}", options.faults()) };
            assert!(fault.starts_with(&format!("wsrep-provider-options in [galera]: {says}")), "{text}: {fault}");
            assert_eq!(options.get("socket.ssl_cert"), None, "{text}");
        }
    }

    #[test]
    fn only_the_last_of_several_counts() {
        let ssl = "wsrep_provider_options=socket.ssl_cert=/c;socket.ssl_key=/k;gcache.size=1G\n";
        let size = "wsrep_provider_options=gcache.size=2G\n";
        let weight = "wsrep_provider_options=pc.weight=2\n";
        for (text, says) in [
            (
                format!("[mysqld]\n{ssl}[galera]\n{size}"),
                Some(
                    "wsrep_provider_options is given 2 times, but only the last, in [galera], counts: socket.ssl_cert, \
                      socket.ssl_key of an earlier one have no effect",
                ),
            ),
            (
                format!("[mysqld]\n{size}{weight}{weight}"),
                Some(
                    "wsrep_provider_options is given 3 times, but only the last, in [mysqld], counts: gcache.size of an \
                      earlier one has no effect",
                ),
            ),
            (format!("[mysqld]\n{size}{ssl}"), None),
        ] {
            let files = read(&text);
            let lost = ProviderOptions::of(&files).lost().cloned();
            assert_eq!(lost.as_ref().map(|lost| lost.text.as_str()), says, "{text}");
            assert_eq!(
                lost.is_some_and(|lost| lost.weakens),
                text.starts_with("[mysqld]\nwsrep_provider_options=socket") && says.is_some()
            );
        }
    }
}

//! Which versions and cipher suites of TLS are allowed: `tls-version` and `ssl-cipher`.

use std::sync::Arc;

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;

use super::provider::provider;
use crate::error::{Error, Kind, Printable, Result};

/// The cipher suites to offer, best first. The version is always TLS 1.3.
#[derive(Clone, Debug)]
pub struct Policy {
    suites: Vec<SupportedCipherSuite>,
    notes: Vec<String>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { suites: provider().cipher_suites.clone(), notes: Vec::new() }
    }
}

/// The end of an OpenSSL name for TLS 1.2, and the TLS 1.3 suite with the same cipher and hash.
const EQUIVALENTS: [(&str, &str); 3] = [
    ("AES256-GCM-SHA384", "TLS13_AES_256_GCM_SHA384"),
    ("AES128-GCM-SHA256", "TLS13_AES_128_GCM_SHA256"),
    ("CHACHA20-POLY1305", "TLS13_CHACHA20_POLY1305_SHA256"),
];

/// Words of OpenSSL's cipher lists that allow everything in TLS 1.3.
const ALL_OF_THEM: [&str; 8] = ["DEFAULT", "ALL", "HIGH", "SECURE", "TLSv1.3", "kEECDH", "ECDHE", "EECDH"];

impl Policy {
    /// Reads the values of `tls-version` and `ssl-cipher`, as the server writes them.
    ///
    /// # Errors
    /// A version list without TLSv1.3, or a cipher without an equivalent in TLS 1.3, by name.
    pub fn parse(tls_version: Option<&str>, ssl_cipher: Option<&str>) -> Result<Policy> {
        let mut policy = Policy::default();
        if let Some(list) = tls_version.map(str::trim).filter(|list| !list.is_empty()) {
            policy.read_versions("tls-version", list)?;
        }
        if let Some(list) = ssl_cipher.map(str::trim).filter(|list| !list.is_empty()) {
            policy.read_ciphers("ssl-cipher", list)?;
        }
        Ok(policy)
    }

    /// `name` is the option that `list` comes from, for messages.
    ///
    /// # Errors
    /// TLSv1.3 is not in the list, or something in it is not a version.
    pub fn read_versions(&mut self, name: &str, list: &str) -> Result<()> {
        let mut has_13 = false;
        for word in list.split([',', ':', ' ']).filter(|word| !word.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                "tlsv1.3" => has_13 = true,
                "tlsv1.0" | "tlsv1.1" | "tlsv1.2" => {
                    self.notes.push(format!("{name}: {word} is allowed but never used; Highline only uses TLSv1.3"))
                }
                _ => {
                    let shown = Printable(word.as_bytes());
                    return Err(Error::new(Kind::Usage, format!("{name} has the unknown version {shown}"))
                        .remedy("write tls-version=TLSv1.3"));
                }
            }
        }
        if has_13 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Usage,
            format!("{name}: {} leaves TLSv1.3 out, and Highline never goes below it", Printable(list.as_bytes())),
        )
        .remedy("add TLSv1.3 to it, or set tls-version=TLSv1.3 in the [highline] group"))
    }

    /// `name` is the option that `list` comes from, for messages.
    ///
    /// # Errors
    /// A cipher without an equivalent in TLS 1.3.
    pub fn read_ciphers(&mut self, name: &str, list: &str) -> Result<()> {
        let mut wanted: Vec<SupportedCipherSuite> = Vec::new();
        for word in list.split([',', ':', ' ']).filter(|word| !word.is_empty()) {
            // Words that only remove or sort: nothing they refer to is in TLS 1.3.
            if word.starts_with(['!', '-', '+', '@']) {
                continue;
            }
            let found = if ALL_OF_THEM.iter().any(|all| all.eq_ignore_ascii_case(word)) {
                provider().cipher_suites.clone()
            } else {
                suite_named(word).into_iter().collect()
            };
            if found.is_empty() {
                let why = match provider().fips() && EQUIVALENTS.iter().any(|(_, name)| suite_called(word) == *name) {
                    true => "which FIPS 140 does not approve",
                    false => "which TLS 1.3 does not have",
                };
                let what = format!("{name} has {}, {why}", Printable(word.as_bytes()));
                return Err(Error::new(Kind::Usage, what)
                    .remedy(format!("allow some of these in the [highline] group: ssl-cipher={}", self.names())));
            }
            wanted.extend(found.into_iter().filter(|suite| !wanted.contains(suite)).collect::<Vec<_>>());
        }
        if !wanted.is_empty() {
            self.suites = wanted;
        }
        Ok(())
    }

    /// The names of the suites as OpenSSL writes them, separated by colons.
    pub fn names(&self) -> String {
        self.suites.iter().map(|suite| suite_name(*suite)).collect::<Vec<_>>().join(":")
    }

    /// Notes for the operator about the values that were read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = CryptoProvider::clone(&provider());
        provider.cipher_suites.clone_from(&self.suites);
        Arc::new(provider)
    }
}

/// The IANA name: `TLS_AES_256_GCM_SHA384`.
pub(crate) fn suite_name(suite: SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)
}

/// `rustls`'s name for a suite that the server's option names.
fn suite_called(word: &str) -> String {
    let word = word.to_ascii_uppercase();
    let equal = EQUIVALENTS.iter().find(|(end, _)| word.ends_with(end)).map(|(_, name)| (*name).to_owned());
    equal.unwrap_or_else(|| word.replacen("TLS_", "TLS13_", 1))
}

fn suite_named(word: &str) -> Option<SupportedCipherSuite> {
    let name = suite_called(word);
    provider().cipher_suites.iter().copied().find(|suite| format!("{:?}", suite.suite()) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ciphers_are_mapped_or_refused_by_name() {
        let all = match provider().fips() {
            true => "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256",
            false => "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256",
        };
        for (given, names) in [
            ("", all),
            ("DEFAULT", all),
            ("HIGH:!aNULL:!MD5", all),
            ("!aNULL", all),
            ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
            ("TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"),
            ("ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_AES_256_GCM_SHA384"),
        ] {
            assert_eq!(Policy::parse(None, Some(given)).unwrap().names(), names, "{given}");
        }
        for chacha in ["TLS_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"] {
            match Policy::parse(None, Some(chacha)) {
                Ok(policy) => assert!(!provider().fips() && policy.names() == "TLS_CHACHA20_POLY1305_SHA256"),
                Err(error) => {
                    assert!(provider().fips());
                    assert_eq!(error.sentence(), format!("ssl-cipher has {chacha}, which FIPS 140 does not approve"));
                }
            }
        }
        for (given, word) in [
            ("AES128-SHA", "AES128-SHA"),
            ("TLS_AES_256_GCM_SHA384:DES-CBC3-SHA", "DES-CBC3-SHA"),
            ("a\nb", "a\\u{a}b"),
        ] {
            let error = Policy::parse(None, Some(given)).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert_eq!(error.sentence(), format!("ssl-cipher has {word}, which TLS 1.3 does not have"));
            assert!(error.remedy_text().unwrap().contains(all));
        }
    }

    #[test]
    fn versions_below_13_are_noted_and_never_used() {
        assert!(Policy::parse(Some("TLSv1.3"), None).unwrap().notes().is_empty());
        let both = Policy::parse(Some("TLSv1.2,TLSv1.3"), None).unwrap();
        assert_eq!(both.notes(), ["tls-version: TLSv1.2 is allowed but never used; Highline only uses TLSv1.3"]);
        assert_eq!(
            Policy::parse(Some("TLSv1.2"), None).unwrap_err().sentence(),
            "tls-version: TLSv1.2 leaves TLSv1.3 out, and Highline never goes below it"
        );
        assert_eq!(
            Policy::parse(Some("TLSv1.3,SSLv3"), None).unwrap_err().sentence(),
            "tls-version has the unknown version SSLv3"
        );
    }
}

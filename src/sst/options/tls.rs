//! Which certificates to use, and how strictly to check the peer: option names that users already have.
//!
//! Opens none of the files; `tls` checks whether they are any good.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::files::{Item, Tier};
use super::foreign;
use super::lookup::{Lookup, Place, Requested, everywhere, refuse};
use super::provider::ProviderOptions;
use crate::error::{Error, Result, Side};

/// How the peer is verified, in addition to the proof by the ticket's secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// Not set: pin and proof, as for `REQUIRED`.
    #[default]
    Unset,
    /// Pin and proof; a certificate's chain and name are not checked.
    Required,
    /// The chain as well.
    VerifyCa,
    /// Chain and name.
    VerifyIdentity,
}

/// A value that is not a mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SslModeError {
    #[error("{0} would send a copy of the whole database over the network unencrypted")]
    InTheClear(String),
    #[error("`{0}` is none of REQUIRED, VERIFY_CA and VERIFY_IDENTITY")]
    Unknown(String),
}

impl FromStr for SslMode {
    type Err = SslModeError;

    fn from_str(text: &str) -> Result<SslMode, SslModeError> {
        match text.to_ascii_uppercase().replace('-', "_").as_str() {
            "REQUIRED" => Ok(SslMode::Required),
            "VERIFY_CA" => Ok(SslMode::VerifyCa),
            "VERIFY_IDENTITY" => Ok(SslMode::VerifyIdentity),
            "DISABLED" | "PREFERRED" => Err(SslModeError::InTheClear(text.to_owned())),
            _ => Err(SslModeError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SslMode::Unset => "unset",
            SslMode::Required => "REQUIRED",
            SslMode::VerifyCa => "VERIFY_CA",
            SslMode::VerifyIdentity => "VERIFY_IDENTITY",
        })
    }
}

/// Files and rules for TLS, for one role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    pub mode: SslMode,
    /// PEM, one or several.
    pub ca: Option<PathBuf>,
    /// A directory of such files.
    pub capath: Option<PathBuf>,
    /// PEM; `cert` and `key` are both set or both not, and may be the same file.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Files and directories.
    pub crls: Vec<PathBuf>,
    /// The name the peer's certificate must have, if not the peer's address.
    pub peer_name: Option<Requested>,
    /// Whether the common name counts if a certificate has no alternative names.
    pub match_common_name: bool,
    pub versions: Option<Requested>,
    pub ciphers: Option<Requested>,
}

use Tier::{Backup, Highline, Server, Sst};

impl TlsSettings {
    pub(super) fn resolve(look: &mut Lookup<'_>, side: Side) -> Result<TlsSettings> {
        let mode = mode(look)?;
        let (identity, cas, general_counts) = material(look, side)?;
        let (cert, key) = identity.unzip();
        let (ca, capath) = cas;
        let mut tls = TlsSettings { mode: SslMode::Unset, ca, capath, cert, key, ..TlsSettings::default() };
        tls.mode = match mode {
            Some(Wanted { mode: SslMode::Unset, item }) if tls.has_ca() => {
                look.note(format!("{}: taken as ssl-mode=VERIFY_CA", item.name()));
                SslMode::VerifyCa
            }
            Some(Wanted { mode: SslMode::Unset, .. }) => SslMode::Required,
            Some(Wanted { mode: strict @ (SslMode::VerifyCa | SslMode::VerifyIdentity), item }) if !tls.has_ca() => {
                // A remedy must name only what has an effect.
                let other = if general_counts { "ssl-ca in [mysqld]" } else { "tca in [sst]" };
                return Err(refuse(item, &format!("{strict} needs a CA, and none is configured"))
                    .remedy(format!("name it with ca in [highline], or {other}")));
            }
            Some(Wanted { mode, .. }) => mode,
            None => SslMode::Unset,
        };
        let own = look.path(&[(Highline, "crl")]);
        let rest: Vec<PathBuf> =
            ["ssl-crl", "ssl-crlpath"].iter().filter_map(|name| look.path(&[(Sst, name), (Server, name)])).collect();
        tls.crls = own.map_or(rest, |own| vec![own]);
        let socket = match look.first(&[(Sst, "sockopt")]) {
            Some(item) => foreign::sockopt(look, item)?,
            None => foreign::SocketOptions::default(),
        };
        tls.peer_name = wish(look, &[(Highline, "peer-name")])?.or(socket.name);
        tls.match_common_name = look.parsed(&[(Highline, "match-common-name")], super::switch)?.unwrap_or(false);
        tls.versions = wish(look, &[(Highline, "tls-version"), (Sst, "tls-version"), (Server, "tls-version")])?;
        let own = wish(look, &[(Highline, "ssl-cipher"), (Sst, "ssl-cipher")])?.or(socket.ciphers);
        let servers = [(Server, "ssl-cipher")];
        tls.ciphers = match own {
            None => wish(look, &servers)?,
            own => {
                look.quietly(&servers);
                own
            }
        };
        if let Some(item) = look.quietly(&[(Sst, "ssl-passphrase"), (Server, "ssl-passphrase")]) {
            look.note(format!(
                "{}: an encrypted key cannot be used; transfers need a key without a passphrase",
                item.name()
            ));
        }
        Ok(tls)
    }

    pub fn has_ca(&self) -> bool {
        self.ca.is_some() || self.capath.is_some()
    }

    /// Whether both sides' certificates are checked.
    pub fn verifies(&self) -> bool {
        matches!(self.mode, SslMode::VerifyCa | SslMode::VerifyIdentity)
    }
}

fn wish(look: &mut Lookup<'_>, places: &[Place<'_>]) -> Result<Option<Requested>> {
    let place = places.iter().find(|place| look.quietly(&[**place]).is_some());
    look.quietly(places);
    let Some(place) = place else { return Ok(None) };
    let Some(item) = look.first(&[*place]) else { return Ok(None) };
    Ok(Some(Requested { text: item.text()?.to_owned(), tier: place.0, name: item.name() }))
}

struct Wanted<'a> {
    mode: SslMode,
    item: &'a Item,
}

/// What `ssl-mode`, or in its absence `encrypt`, asks for. With `encrypt=3` the CA is optional, and decides.
fn mode<'a>(look: &mut Lookup<'a>) -> Result<Option<Wanted<'a>>> {
    let encrypt = look.first(&everywhere("encrypt"));
    let from_encrypt = match encrypt.map(|item| Ok::<_, Error>((item, item.text()?))).transpose()? {
        None => None,
        Some((item, "0")) => {
            look.note(format!("{}: every transfer is encrypted anyway", item.name()));
            None
        }
        Some((item, "1")) => {
            look.note(format!(
                "{}: no symmetric key is used, because it cannot show who the peer is; TLS encrypts transfers without one",
                item.name()
            ));
            None
        }
        Some((item, "2" | "4")) => Some(Wanted { mode: SslMode::VerifyCa, item }),
        Some((item, "3")) => Some(Wanted { mode: SslMode::Unset, item }),
        Some((item, other)) => return Err(refuse(item, &format!("`{other}` is none of 0, 1, 2, 3 and 4"))),
    };
    for place in [(Highline, "ssl-mode"), (Sst, "ssl-mode"), (Server, "ssl-mode"), (Backup, "ssl-mode")] {
        let Some(item) = look.quietly(&[place]) else { continue };
        let mode = match item.text()?.parse() {
            Ok(mode) => mode,
            // Written for another method, it asks for less than Highline always does.
            Err(SslModeError::InTheClear(text)) if place.0 != Highline => {
                look.note(format!("{}: {text} has no effect: every transfer is encrypted anyway", item.name()));
                continue;
            }
            Err(error @ SslModeError::InTheClear(_)) => {
                return Err(refuse(item, &error.to_string())
                    .remedy("remove ssl-mode, or set REQUIRED: neither needs a certificate"));
            }
            Err(error) => return Err(refuse(item, &error.to_string())),
        };
        look.report(item);
        return Ok(Some(Wanted { mode, item }));
    }
    Ok(from_encrypt)
}

type Identity = Option<(PathBuf, PathBuf)>;
type Cas = (Option<PathBuf>, Option<PathBuf>);

/// Options that belong together, the most specific family first: `[highline]`, the role's own, `t*`, the general ones,
/// Galera's. Certificate and key come from one family, CAs from one.
///
/// Also says whether the general names count.
fn material(look: &mut Lookup<'_>, side: Side) -> Result<(Identity, Cas, bool)> {
    let role = if side == Side::Joiner { "server" } else { "client" };
    let other_role = if side == Side::Joiner { "client" } else { "server" };
    let parts = ["ca", "capath", "cert", "key"];
    for part in parts {
        let name = format!("ssl-{other_role}-{part}");
        look.quietly(&everywhere(&name));
    }
    let mut families: Vec<[Option<&Item>; 4]> = vec![
        parts.map(|part| look.quietly(&[(Highline, part)])),
        parts.map(|part| {
            let name = format!("ssl-{role}-{part}");
            look.quietly(&everywhere(&name))
        }),
    ];
    let t = parts.map(|part| look.quietly(&[(Sst, &format!("t{part}"))]));
    let general = parts.map(|part| {
        let name = format!("ssl-{part}");
        let found = look.quietly(&everywhere(&name));
        let servers = look.quietly(&[(Server, &name)]);
        if let (Some(found), Some(servers)) = (found, servers)
            && found.value != servers.value
        {
            look.note(format!(
                "{} wins over {}; the server's own scripts do it the other way round",
                found.name(),
                servers.name()
            ));
        }
        found
    });
    let galera = galera(look);
    let has_t = t.iter().any(Option::is_some);
    families.push(t);
    if !has_t {
        families.push(general);
        families.push([galera[0].as_ref(), None, galera[1].as_ref(), galera[2].as_ref()]);
    } else if let Some(item) = general.iter().flatten().next() {
        look.note(format!(
            "{}, and every other general ssl- file, is ignored: [sst] has tca, tcapath, tcert or tkey",
            item.name()
        ));
    }

    let mut identity = None;
    let mut cas = (None, None);
    for [ca, capath, cert, key] in families {
        if identity.is_none()
            && let (Some(cert), Some(key)) = (cert.or(key), key.or(cert))
        {
            look.report_path(cert);
            look.report_path(key);
            // If only one file is named, it holds both.
            identity = look.path_of(cert).zip(look.path_of(key));
        }
        if cas == (None, None) {
            ca.into_iter().chain(capath).for_each(|item| look.report_path(item));
            cas = (ca.and_then(|item| look.path_of(item)), capath.and_then(|item| look.path_of(item)));
        }
    }
    // A directory may be given where a file is expected.
    if let (Some(ca), None) = &cas
        && (ca.is_dir() || ca.as_os_str().as_encoded_bytes().ends_with(b"/"))
    {
        cas = (None, cas.0);
    }
    Ok((identity, cas, !has_t))
}

/// CA, certificate and key of Galera's own traffic, from `wsrep_provider_options`.
fn galera(look: &mut Lookup<'_>) -> [Option<Item>; 3] {
    look.quietly(&[(Server, "wsrep-provider-options")]);
    let options = ProviderOptions::of(look.files);
    for fault in options.faults() {
        look.note(format!("WARNING: {fault}"));
    }
    if let Some(lost) = options.lost() {
        look.note(if lost.weakens { format!("WARNING: {}", lost.text) } else { lost.text.clone() });
    }
    let Some(item) = options.item() else { return [None, None, None] };
    ["socket.ssl_ca", "socket.ssl_cert", "socket.ssl_key"].map(|name| {
        let origin = format!("wsrep_provider_options, {}", item.origin);
        options.get(name).map(|value| Item { key: name.to_owned(), value: Some(value.into()), origin })
    })
}

#[cfg(test)]
mod tests {
    use super::super::files::OptionFiles;
    use super::super::files::tests::read;
    use super::*;
    use crate::error::Kind;
    use std::path::Path;

    fn resolve(files: &OptionFiles, side: Side) -> Result<TlsSettings> {
        noted(files, side).map(|(tls, _)| tls)
    }

    fn noted(files: &OptionFiles, side: Side) -> Result<(TlsSettings, Vec<String>)> {
        let look = &mut Lookup::new(files, side, Path::new("/data"));
        let tls = TlsSettings::resolve(look, side)?;
        Ok((tls, std::mem::take(&mut look.notes)))
    }

    fn asked(text: &str, tier: Tier, name: &str) -> Requested {
        Requested { text: text.into(), tier, name: name.into() }
    }

    fn paths(tls: &TlsSettings) -> String {
        let show = |path: &Option<PathBuf>| path.as_ref().map_or("-".into(), |path| path.display().to_string());
        [&tls.ca, &tls.capath, &tls.cert, &tls.key].map(show).join(" ")
    }

    #[test]
    fn the_more_specific_name_wins() {
        let (joiner, donor) = (Side::Joiner, Side::Donor);
        for (text, side, expected) in [
            ("", joiner, "- - - -"),
            ("[mysqld]\nssl_ca=/a\nssl-cert=/c\nssl-key=/k", joiner, "/a - /c /k"),
            ("[mysqld]\nssl-ca=/a\nssl-cert=/c\nssl-key=/k\n[sst]\nssl-cert=/sc\nssl-key=/sk", joiner, "/a - /sc /sk"),
            ("[mysqld]\nssl-ca=/a\nssl-cert=/c\nssl-key=/k\n[sst]\ntcert=/tc\ntkey=/tk", joiner, "- - /tc /tk"),
            ("[sst]\ntca=/ta\ntcert=/bundle", joiner, "/ta - /bundle /bundle"),
            ("[sst]\ntca=/ta/\ntkey=/bundle", joiner, "- /ta/ /bundle /bundle"),
            ("[sst]\ntca=/tmp", joiner, "- /tmp - -"),
            ("[sst]\ntcert=/tc\ntkey=/tk\nssl-server-cert=/s\nssl-server-key=/sk", joiner, "- - /s /sk"),
            ("[sst]\ntcert=/tc\ntkey=/tk\nssl-server-cert=/s\nssl-server-key=/sk", donor, "- - /tc /tk"),
            ("[mysqld]\nssl-client-cert=/c\nssl-client-key=/k\nssl-client-ca=/a", donor, "/a - /c /k"),
            ("[highline]\ncert=/h\nkey=/hk\n[sst]\ntca=/ta\ntcert=/tc", joiner, "/ta - /h /hk"),
            (
                "[mysqld]\nwsrep_provider_options='gcache.size=1G; socket.ssl_cert=/gc;socket.ssl_key = /gk; socket.ssl_ca=/ga'",
                joiner,
                "/ga - /gc /gk",
            ),
            (
                "[mysqld]\nssl-ca=/a\nwsrep_provider_options=socket.ssl_cert=/gc;socket.ssl_key=/gk",
                joiner,
                "/a - /gc /gk",
            ),
            ("[mysqld]\nssl-cert=\nssl-key=", joiner, "- - - -"),
        ] {
            assert_eq!(paths(&resolve(&read(text), side).unwrap()), expected, "{text} {side}");
        }
    }

    #[test]
    fn modes() {
        let ca = "\nssl-ca=/a";
        for (text, expected) in [
            ("".to_owned(), SslMode::Unset),
            ("[sst]\nssl-mode=required".to_owned(), SslMode::Required),
            (format!("[sst]\nssl-mode=verify-ca{ca}"), SslMode::VerifyCa),
            (format!("[mysqld]\nloose-ssl-mode=VERIFY_IDENTITY{ca}"), SslMode::VerifyIdentity),
            (format!("[mysqld]\nloose-ssl-mode=VERIFY_IDENTITY{ca}\n[highline]\nssl-mode=REQUIRED"), SslMode::Required),
            (format!("[sst]\nencrypt=4{ca}"), SslMode::VerifyCa),
            ("[sst]\nencrypt=3\ntcert=/c".to_owned(), SslMode::Required),
            (format!("[sst]\nencrypt=3\nssl-mode=VERIFY_IDENTITY{ca}"), SslMode::VerifyIdentity),
            ("[sst]\nencrypt=0".to_owned(), SslMode::Unset),
            ("[sst]\nencrypt=1".to_owned(), SslMode::Unset),
            ("[sst]\nssl-mode=DISABLED".to_owned(), SslMode::Unset),
            ("[mysqld]\nloose-ssl-mode=disabled\n[mariabackup]\nssl-mode=PREFERRED".to_owned(), SslMode::Unset),
            // What asks for less hides nothing that asks for more.
            (format!("[sst]\nssl-mode=DISABLED\nencrypt=4{ca}"), SslMode::VerifyCa),
            (
                format!("[sst]\nssl-mode=DISABLED{ca}\n[mysqld]\nloose-ssl-mode=VERIFY_IDENTITY"),
                SslMode::VerifyIdentity,
            ),
            (format!("[mariabackup]\nssl-mode=VERIFY_CA{ca}"), SslMode::VerifyCa),
            (format!("[xtrabackup]\nencrypt=4{ca}"), SslMode::VerifyCa),
            (format!("[mariabackup]\nssl-mode=VERIFY_CA\n[mysqld]\nloose-ssl-mode=REQUIRED{ca}"), SslMode::Required),
        ] {
            assert_eq!(resolve(&read(&text), Side::Joiner).unwrap().mode, expected, "{text}");
        }
    }

    #[test]
    fn what_would_weaken_is_refused_by_name() {
        for (text, says) in [
            ("[highline]\nssl-mode=DISABLED", "ssl-mode in [highline]: DISABLED would send"),
            ("[highline]\nssl-mode=preferred", "ssl-mode in [highline]: preferred would send"),
            ("[highline]\nssl-mode=sometimes", "ssl-mode in [highline]: `sometimes` is none of"),
            ("[galera]\nssl-mode=VERIFY_CA", "ssl-mode in [galera]: VERIFY_CA needs a CA"),
            ("[sst]\nencrypt=4\ntcert=/c", "encrypt in [sst]: VERIFY_CA needs a CA"),
            ("[sst]\nencrypt=yes", "encrypt in [sst]: `yes` is none of"),
        ] {
            let error = resolve(&read(text), Side::Donor).unwrap_err();
            assert!(error.sentence().starts_with(says), "{text}: {}", error.sentence());
            assert_eq!(error.kind(), Kind::Usage);
        }
    }

    #[test]
    fn what_asks_for_less_is_a_note() {
        let note = |text: &str| noted(&read(text), Side::Joiner).unwrap().1;
        for (text, says) in [
            (
                "[sst]\nssl-mode=DISABLED",
                "ssl-mode in [sst]: DISABLED has no effect: every transfer is encrypted anyway",
            ),
            (
                "[galera]\nssl_mode=Disabled",
                "ssl-mode in [galera]: Disabled has no effect: every transfer is encrypted anyway",
            ),
            (
                "[mariabackup]\nssl-mode=PREFERRED",
                "ssl-mode in [mariabackup]: PREFERRED has no effect: every transfer is encrypted anyway",
            ),
            ("[sst]\nencrypt=0", "encrypt in [sst]: every transfer is encrypted anyway"),
            (
                "[sst]\nencrypt=1",
                "encrypt in [sst]: no symmetric key is used, because it cannot show who the peer is; TLS encrypts transfers without one",
            ),
            ("[sst]\nsockopt=,verify=0", "sockopt in [sst]: verify: it has no effect: the peer is verified anyway"),
        ] {
            assert_eq!(note(text), [says], "{text}");
        }
    }

    #[test]
    fn a_remedy_names_what_has_an_effect() {
        let remedy = |text: &str| resolve(&read(text), Side::Donor).unwrap_err().remedy_text().unwrap().to_owned();
        assert_eq!(remedy("[sst]\nssl-mode=VERIFY_CA"), "name it with ca in [highline], or ssl-ca in [mysqld]");
        let old = remedy("[mysqld]\nssl-ca=/a\n[sst]\nssl-mode=VERIFY_CA\ntcert=/c\ntkey=/k");
        assert_eq!(old, "name it with ca in [highline], or tca in [sst]");
    }

    #[test]
    fn relative_paths_begin_in_the_data_directory() {
        let text = "[mysqld]\nssl-ca=ca.pem\nssl-cert=./c.pem\nssl-key=tls/k.pem\nssl-crl=crl.pem";
        let tls = resolve(&read(text), Side::Joiner).unwrap();
        assert_eq!(paths(&tls), "/data/ca.pem - /data/./c.pem /data/tls/k.pem");
        assert_eq!(tls.crls, [PathBuf::from("/data/crl.pem")]);
    }

    #[test]
    fn sockopt_is_taken_apart_as_socat_does() {
        let tls = |text: &str| resolve(&read(text), Side::Joiner).unwrap();
        let cipher = |text: &str| tls(text).ciphers.map(|wish| (wish.text, wish.name));
        let of_sockopt = |text: &str| Some((text.to_owned(), "cipher of sockopt in [sst]".to_owned()));
        let sockopt = "[sst]\nsockopt=',cipher=S'\n";
        assert_eq!(cipher(sockopt), of_sockopt("S"));
        assert_eq!(cipher(&format!("{sockopt}[mysqld]\nssl-cipher=M")), of_sockopt("S"));
        assert_eq!(cipher(&format!("{sockopt}ssl-cipher=T")), Some(("T".into(), "ssl-cipher in [sst]".into())));
        assert_eq!(tls("[sst]\nsockopt=\",commonname=''\"").peer_name, None);
        assert_eq!(tls("[sst]\nsockopt=\",commonname=\"").peer_name, None);
        let named = tls("[sst]\nsockopt=\",commonname='db1'\"").peer_name;
        assert_eq!(named, Some(asked("db1", Sst, "commonname of sockopt in [sst]")));
    }

    #[test]
    fn policies_say_where_they_come_from() {
        let text = "[mysqld]\ntls_version=TLSv1.2,TLSv1.3\nssl-crl=/crl\nssl_crlpath=/crls\n[sst]\nssl-cipher=X";
        let tls = resolve(&read(text), Side::Joiner).unwrap();
        assert_eq!(tls.versions, Some(asked("TLSv1.2,TLSv1.3", Server, "tls-version in [mysqld]")));
        assert_eq!(tls.ciphers, Some(asked("X", Sst, "ssl-cipher in [sst]")));
        assert_eq!(tls.crls, [PathBuf::from("/crl"), PathBuf::from("/crls")]);
        let own =
            resolve(&read(&format!("{text}\n[highline]\ncrl=/own\npeer-name=db1\nmatch-common-name")), Side::Joiner);
        let own = own.unwrap();
        assert_eq!((own.crls, own.match_common_name), (vec!["/own".into()], true));
        assert_eq!(own.peer_name, Some(asked("db1", Highline, "peer-name in [highline]")));
    }
}

//! Options of the server's own scripts that mean something else here, or nothing, each with the reason.

use super::files::{Item, Tier};
use super::lookup::{Lookup, Requested};
use crate::error::{Printable, Result};

/// Options of the server's own scripts that have no effect, and why.
const WITHOUT_EFFECT: &[(&[&str], &str)] = &[
    (&["streamfmt", "xbstream-opts"], "there is only one stream format"),
    (&["transferfmt", "ncsockopt"], "no helper program carries the stream"),
    (&["compress-threads", "compress-chunk-size"], "every lane compresses on its own"),
    (
        &["encrypt-algo", "encrypt-key", "encrypt-key-file", "encrypt-format", "encrypt-threads", "encrypt-chunk-size"],
        "TLS encrypts; no symmetric key is used",
    ),
    (&["ssl-dhparams"], "TLS 1.3 needs no such file"),
    (&["inno-backup-opts"], "with source=files mariadb-backup makes no backup here"),
    (&["inno-move-opts"], "the transfer itself puts the files in place"),
    (&["use-extra"], "mariadb-backup connects by the server's socket"),
    (&["rebuild", "incremental"], "a transfer is always whole"),
    (&["sst-special-dirs"], "the directories always come from the configuration"),
    (&["sst-syslog", "sst-log-archive", "sst-log-archive-dir"], "messages go to the server's error log"),
    (&["time"], "times are always logged"),
    (&["wsrep-debug"], "there is only one level of messages"),
    (&["wsrep-sst-auth"], "with source=files no database account is needed"),
];

/// Why an option has no effect here.
pub(super) fn without_effect(key: &str) -> Option<&'static str> {
    WITHOUT_EFFECT.iter().find(|(keys, _)| keys.contains(&key)).map(|&(_, why)| why)
}

/// `compressor` and `decompressor`: known programs are mapped to the built-in codecs. None is ever run, so an unknown
/// one only gets a warning.
pub(super) fn compressor(look: &mut Lookup<'_>, item: &Item) -> Option<String> {
    let text = item.value.as_deref().unwrap_or_default().to_string_lossy();
    let shown = Printable(text.as_bytes());
    match known_compressor(&text) {
        Ok(choice) => {
            look.note(format!("{}: `{shown}` is taken as compress={choice}", item.name()));
            Some(choice)
        }
        Err(why) => {
            look.note(format!(
                "WARNING: {}: `{shown}` {why}; commands from option files are never run; compression is chosen to suit the link, or by compress in [highline]",
                item.name()
            ));
            None
        }
    }
}

fn known_compressor(text: &str) -> Result<String, &'static str> {
    if text.contains(['|', ';', '&', '$', '`', '<', '>', '(', '\n', '\'', '"', '\\']) {
        return Err("is more than one program with its options");
    }
    let mut words = text.split_ascii_whitespace();
    let program = words.next().unwrap_or_default();
    let level = words.filter_map(|word| word.strip_prefix('-')?.parse::<u8>().ok()).next_back();
    Ok(match program.rsplit('/').next().unwrap_or_default() {
        "zstd" | "zstdmt" | "unzstd" | "pzstd" | "zstdcat" => match level {
            Some(level @ 1..=22) => format!("zstd:{}", level.min(19)),
            _ => "zstd".to_owned(),
        },
        "lz4" | "unlz4" | "lz4c" | "lz4cat" => "lz4".to_owned(),
        "gzip" | "gunzip" | "zcat" | "pigz" | "unpigz" => "zstd".to_owned(),
        _ => return Err("is none of zstd, lz4, gzip and pigz"),
    })
}

/// What `sockopt` asks for.
#[derive(Debug, Default)]
pub(super) struct SocketOptions {
    /// A name the peer's certificate must have.
    pub(super) name: Option<Requested>,
    pub(super) ciphers: Option<Requested>,
}

/// `sockopt`: the comma-separated list that the scripts append to socat's address.
pub(super) fn sockopt(look: &mut Lookup<'_>, item: &Item) -> Result<SocketOptions> {
    let mut found = SocketOptions::default();
    let requested = |part: &str, text: &str| Requested {
        text: text.to_owned(),
        tier: Tier::Sst,
        name: format!("{part} of {}", item.name()),
    };
    for option in item.text()?.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        // The scripts pass the list through a shell, which removes quotes.
        let value = value.trim_matches(['\'', '"']);
        let why = match key {
            "verify" if matches!(value, "0" | "no" | "false" | "off") => {
                "it has no effect: the peer is verified anyway"
            }
            "verify" => continue,
            "commonname" | "cn" if !value.is_empty() => {
                found.name = Some(requested(key, value));
                continue;
            }
            "cipher" | "ciphers" if !value.is_empty() => {
                found.ciphers = Some(requested(key, value));
                continue;
            }
            "cipher" | "ciphers" => continue,
            "commonname" | "cn" => "ssl-mode says whether the name is checked",
            "retry" | "interval" | "forever" => "the donor retries until connect-timeout",
            "connect-timeout" => "use connect-timeout in [highline]",
            "pf" | "ipv6only" | "ai-addrconfig" => "both IPv4 and IPv6 are used",
            "keepalive" | "keepidle" | "keepintvl" | "keepcnt" | "nodelay" | "tcp-user-timeout" => "it is always on",
            "sndbuf" | "rcvbuf" | "so-sndbuf" | "so-rcvbuf" => "the kernel sizes the buffers",
            "reuseaddr" | "fork" | "max-children" | "dhparam" | "method" | "openssl-min-proto-version" | "no-sni" => {
                "it has no meaning here"
            }
            _ => "WARNING: it is not understood and has no effect",
        };
        look.note(format!("{}: {key}: {why}", item.name()));
    }
    Ok(found)
}

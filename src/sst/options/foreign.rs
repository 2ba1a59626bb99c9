//! Options of the server's own scripts that mean something else here, or nothing: each with its reason.

use super::files::Item;
use super::lookup::{Lookup, refuse};
use crate::error::Result;

/// Keys of `[sst]` that have no effect, and why.
const WITHOUT_EFFECT: &[(&[&str], &str)] = &[
    (&["streamfmt", "xbstream-opts"], "there is one stream format"),
    (&["transferfmt", "ncsockopt"], "no helper program carries the stream"),
    (&["compress-threads", "compress-chunk-size"], "every lane compresses on its own"),
    (
        &["encrypt-algo", "encrypt-key", "encrypt-key-file", "encrypt-format", "encrypt-threads", "encrypt-chunk-size"],
        "TLS encrypts; no symmetric key is used",
    ),
    (&["ssl-dhparams"], "TLS 1.3 agrees on keys without a file"),
    (
        &["inno-backup-opts", "inno-apply-opts", "inno-move-opts", "use-memory", "use-extra", "rebuild", "incremental"],
        "mariadb-backup is not run",
    ),
    (&["sst-special-dirs"], "the directories are asked of the configuration, always"),
    (&["sst-syslog", "sst-log-archive", "sst-log-archive-dir"], "messages go to the server's error log"),
    (&["time"], "times are always logged"),
    (&["wsrep-debug"], "there is no second level of messages"),
    (&["wsrep-sst-auth"], "no database account is needed"),
];

/// Why a key of `[sst]` has no effect here.
pub(super) fn without_effect(key: &str) -> Option<&'static str> {
    WITHOUT_EFFECT.iter().find(|(keys, _)| keys.contains(&key)).map(|&(_, why)| why)
}

/// `compressor` and `decompressor`: a known program is mapped to what is built in. None is ever run.
pub(super) fn compressor(look: &mut Lookup<'_>, item: &Item) -> Result<String> {
    let text = item.text()?;
    let unknown = |why: &str| {
        refuse(item, &format!("`{text}` {why}; commands out of option files are never run"))
            .remedy("remove compressor and decompressor; set compress in [highline] to auto, none, lz4 or zstd[:LEVEL]")
    };
    if text.contains(['|', ';', '&', '$', '`', '<', '>', '(', '\n', '\'', '"', '\\']) {
        return Err(unknown("is more than one program with its options"));
    }
    let mut words = text.split_ascii_whitespace();
    let program = words.next().unwrap_or_default();
    let level = words.filter_map(|word| word.strip_prefix('-')?.parse::<u8>().ok()).next_back();
    let choice = match program.rsplit('/').next().unwrap_or_default() {
        "zstd" | "zstdmt" | "unzstd" | "pzstd" | "zstdcat" => match level {
            Some(level @ 1..=22) => format!("zstd:{}", level.min(19)),
            _ => "zstd".to_owned(),
        },
        "lz4" | "unlz4" | "lz4c" | "lz4cat" => "lz4".to_owned(),
        "gzip" | "gunzip" | "zcat" | "pigz" | "unpigz" => "zstd".to_owned(),
        _ => return Err(unknown("is none of zstd, lz4, gzip and pigz")),
    };
    look.note(format!("{}: `{text}` is taken as compress={choice}", item.name()));
    Ok(choice)
}

/// `sockopt`: the comma list that the scripts append to socat's address. Returns a name that the
/// peer's certificate must have, and ciphers, where it holds any.
pub(super) fn sockopt(look: &mut Lookup<'_>, item: &Item) -> Result<(Option<String>, Option<String>)> {
    let (mut name, mut ciphers) = (None, None);
    for option in item.text()?.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let why = match key {
            "verify" if matches!(value, "0" | "no" | "false" | "off") => {
                return Err(refuse(item, "verify=0 would accept any peer")
                    .remedy("remove it; with no certificates at all the peers still prove themselves to each other"));
            }
            "verify" => continue,
            "commonname" | "cn" if !value.is_empty() => {
                name = Some(value.to_owned());
                continue;
            }
            "cipher" | "ciphers" => {
                ciphers = Some(value.to_owned());
                continue;
            }
            "commonname" | "cn" => "the name is checked as ssl-mode says",
            "retry" | "interval" | "forever" => "the donor tries again until connect-timeout",
            "connect-timeout" => "use connect-timeout in [highline]",
            "pf" | "ipv6only" | "ai-addrconfig" => "IPv4 and IPv6 are both listened on and tried",
            "keepalive" | "keepidle" | "keepintvl" | "keepcnt" | "nodelay" | "tcp-user-timeout" => "it is always on",
            "sndbuf" | "rcvbuf" | "so-sndbuf" | "so-rcvbuf" => "the kernel sizes the buffers",
            "reuseaddr" | "fork" | "max-children" | "dhparam" | "method" | "openssl-min-proto-version" | "no-sni" => {
                "it has no meaning here"
            }
            _ => "WARNING: it is not understood and has no effect",
        };
        look.note(format!("{}: {key}: {why}", item.name()));
    }
    Ok((name, ciphers))
}

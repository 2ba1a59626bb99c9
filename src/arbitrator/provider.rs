//! Which of a node's provider options hold for an arbitrator that joins the same cluster.

use std::path::Path;

/// What says how the nodes talk to each other.
const SHARED: [&str; 5] = ["socket.", "gmcast.", "evs.", "pc.", "protonet."];
/// Of these, what one node alone says: where it listens, and what it counts.
const OWN: [&str; 8] = [
    "gmcast.listen_addr",
    "gmcast.isolate",
    "pc.weight",
    "pc.bootstrap",
    "pc.recovery",
    "pc.linger",
    "pc.wait_prim",
    "pc.wait_prim_timeout",
];
/// Files; a server reads them from its data directory on.
const FILES: [&str; 4] = ["socket.ssl_ca", "socket.ssl_cert", "socket.ssl_key", "socket.ssl_password_file"];

/// The options of `given` that an arbitrator needs, with whole paths: relative ones start in `base`.
pub fn carried<'a>(given: impl Iterator<Item = (&'a str, &'a str)>, base: &Path) -> Vec<(String, String)> {
    given
        .filter(|(key, value)| {
            !value.is_empty() && SHARED.iter().any(|family| key.starts_with(family)) && !OWN.contains(key)
        })
        .map(|(key, value)| {
            let whole =
                if FILES.contains(&key) { base.join(value).to_string_lossy().into_owned() } else { value.to_owned() };
            (key.to_owned(), whole)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_one_node_stays_there() {
        let given = [
            ("gmcast.listen_addr", "tcp://10.0.0.1:4567"),
            ("gmcast.segment", "2"),
            ("gcache.size", "1G"),
            ("pc.weight", "2"),
            ("pc.bootstrap", "1"),
            ("socket.ssl_key", "key.pem"),
            ("socket.ssl_cert", "/etc/cert.pem"),
            ("socket.ssl_ca", ""),
            ("evs.suspect_timeout", "PT10S"),
        ];
        let carried = carried(given.into_iter(), Path::new("/data"));
        let shown: Vec<String> = carried.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            shown,
            [
                "gmcast.segment=2",
                "socket.ssl_key=/data/key.pem",
                "socket.ssl_cert=/etc/cert.pem",
                "evs.suspect_timeout=PT10S"
            ]
        );
    }
}

//! What `garbd` says on standard error (galera 26.4.23). Its exit code is 0 even where no donor was found, so only its words
//! tell whether one was.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::programs::lines;
use crate::threads::lock;

/// The longest line that is kept, in bytes.
const LINE: u64 = 4096;

/// What it has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// A node has let it in.
    pub(super) let_in: bool,
    /// The node that the cluster chose.
    pub(super) donor: Option<String>,
    /// Why none was chosen, last time it asked.
    pub(super) refusal: Option<String>,
    /// The first error.
    pub(super) error: Option<String>,
    /// Why a connection failed, last time.
    pub(super) connection: Option<String>,
}

impl Heard {
    /// It was let in, and nothing went wrong.
    pub(super) fn is_content(&self) -> bool {
        self.let_in && self.refusal.is_none() && self.error.is_none()
    }

    /// Takes a line into account. `name` is the arbitrator's own: it also tells what other nodes ask for.
    fn hear(&mut self, line: &str, name: &str) {
        if line.contains("connection established to ") {
            self.let_in = true;
        }
        if let Some((_, why)) = line.split_once("Failed to establish connection: ") {
            self.connection = Some(why.to_owned());
        }
        if let Some((_, asked)) = line.split_once(&format!("({name}) requested state transfer from ")) {
            if let Some((_, why)) = asked.rsplit_once("impossible to select State Transfer donor: ") {
                self.refusal = Some(why.to_owned());
            } else if let Some((_, chosen)) = asked.rsplit_once(". Selected ") {
                self.donor = Some(chosen_node(chosen).to_owned());
            }
        }
        // The last is our own word, where garbd could not be run.
        let error = [" ERROR: ", "FATAL: ", "highline: "].iter().find_map(|mark| Some(line.split_once(mark)?.1));
        if let (None, Some(text)) = (&self.error, error) {
            self.error = Some(text.to_owned());
        }
    }
}

/// The name in `0.0 (node1)(SYNCED) as donor.`
fn chosen_node(text: &str) -> &str {
    let name = text.split_once('(').and_then(|(_, rest)| rest.rsplit_once(")("));
    name.map_or("a node", |(name, _)| name)
}

/// A thread that listens until the program has ended. Lines with `secret` in them are passed over.
pub(super) fn listen(
    said: impl Read + Send + 'static,
    name: String,
    secret: zeroize::Zeroizing<String>,
    heard: Arc<Mutex<Heard>>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        lines(said, LINE, |line| {
            if !line.contains(secret.as_str()) {
                lock(&heard).hear(line, &name);
            }
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Heard {
        let all = Arc::new(Mutex::new(Heard::default()));
        let text = lines.iter().map(|line| format!("2026-11-25 14:00:48.225 {line}\n")).collect::<String>();
        let secret = zeroize::Zeroizing::new("s3cret".to_owned());
        listen(std::io::Cursor::new(text), "pull".into(), secret, Arc::clone(&all)).join().unwrap();
        lock(&all).clone()
    }

    #[test]
    fn the_donor_that_was_chosen_for_us_is_heard() {
        let told = heard(&[
            " INFO: (9d2545b7-adfb, 'tcp://127.0.0.9:4567') connection established to 9cdca64a-838b tcp://127.0.0.1:4567",
            " INFO: Member 2.0 (other) requested state transfer from '*any*'. Selected 1.0 (wrong)(SYNCED) as donor.",
            " INFO: Sending state transfer request: 'highline:p:s3cret@h:1/highline/1', size: 45",
            " INFO: Member 1.0 (pull) requested state transfer from 'a(b)'. Selected 0.0 (a(b))(SYNCED) as donor.",
        ]);
        assert_eq!(told, Heard { let_in: true, donor: Some("a(b)".into()), ..Heard::default() });
    }

    #[test]
    fn why_there_is_none_is_heard() {
        let told = heard(&[
            " INFO: Failed to establish connection: Connection refused",
            " WARN: Member 1.0 (pull) requested state transfer from 'x', but it is impossible to select State Transfer donor: Requested donor is not available",
            "FATAL: State transfer request failed: -113 (No route to host)",
            "ERROR: s3cret\x1b[2J",
            "ERROR: State transfer request failed",
        ]);
        assert_eq!(told.refusal.as_deref(), Some("Requested donor is not available"));
        assert_eq!(told.error.as_deref(), Some("State transfer request failed: -113 (No route to host)"));
        assert_eq!(told.connection.as_deref(), Some("Connection refused"));
        assert_eq!((told.let_in, told.donor), (false, None));
    }
}

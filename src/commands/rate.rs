//! `highline rate`: a new limit for the transfer this node is sending.

use std::time::{Duration, Instant, SystemTime};

use super::print;
use super::status::datadir;
use crate::cli::RateArgs;
use crate::error::{Error, Kind, Printable, Result, Side};
use crate::progress::bytes;
use crate::progress::status::{Seen, Wish, look};

/// How long to wait for the donor's answer. The donor looks once a second.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn run(args: &RateArgs) -> Result<()> {
    let datadir = datadir(args.datadir.as_deref())?;
    let shown = Printable::path(&datadir);
    let status = match look(&datadir)? {
        Seen::Live(status) if status.role == Side::Donor => status,
        Seen::Live(_) => {
            let what = format!("{shown} is receiving, and the rate is set on the donor");
            return Err(Error::new(Kind::Usage, what)
                .remedy("run this command on the donor; `highline status` has its address"));
        }
        Seen::Left(_) | Seen::Nothing => {
            let what = format!("no transfer is sending {shown}");
            return Err(Error::new(Kind::NotFound, what).remedy("set rate-limit in [highline] for the next one"));
        }
    };
    let wish = Wish::rate(&status, args.rate.0, SystemTime::now());
    wish.leave(&datadir)?;
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE {
        match look(&datadir)? {
            Seen::Live(now) if now.pid != status.pid || now.started != status.started => break,
            Seen::Live(now) if now.rate_limit == wish.rate_limit => {
                let limit = |rate: Option<u64>| rate.map_or("no limit".to_owned(), |rate| format!("{}/s", bytes(rate)));
                let text = format!("{} from now on (was {})\n", limit(now.rate_limit), limit(status.rate_limit));
                return print(&mut std::io::stdout(), &text);
            }
            Seen::Live(_) => std::thread::sleep(Duration::from_millis(50)),
            Seen::Left(_) | Seen::Nothing => break,
        }
    }
    Err(Error::new(Kind::Timeout, format!("the transfer of {shown} has ended or does not answer"))
        .remedy("see `highline status`"))
}

//! `highline demo`: a tree like a data directory, moved over loopback and verified. The command a newcomer runs first.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;

use super::{block_on, print, verify};
use crate::backup::DataSource;
use crate::cli::{DeadlineArgs, ProgressStyle, ReceiveArgs, SendArgs};
use crate::cli::{DemoArgs, IdentityArgs, PrepareArgs, TalkArgs, TreeArgs};
use crate::config;
use crate::donor::{self, FreezeMode};
use crate::error::{Error, Kind, Result, Side};
use crate::install::{OwnFile, Reuse};
use crate::joiner::{Facts, InstallMode, Node, Outcome, ReceiveOptions, Waiting};
use crate::link::Timeout;
use crate::manifest::ChecksumChoice;
use crate::progress::{Quiet, Style, bytes};
use crate::stop::Stop;
use crate::tree::{Rules, free_space};
use crate::wire::Round;

/// The joiner: no server will start on its files, so nothing is compared with the one that is installed here.
#[derive(Debug)]
struct Serverless;

impl Node for Serverless {
    fn facts(&self) -> Facts {
        // Newer than any donor's.
        Facts { server_version: Some("999.0".into()), ..Facts::default() }
    }

    fn own_files(&self, _: &Round) -> Result<Vec<OwnFile>> {
        Ok(Vec::new())
    }
}

pub(super) fn run(args: &DemoArgs) -> Result<()> {
    let size = args.size.0.max(1);
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new()
        .prefix("highline-demo-")
        .tempdir_in(&parent)
        .map_err(|e| Error::io("cannot make a directory in", &parent, e).remedy("name another with --dir"))?;
    room(&parent, size)?;
    let (from, to) = (dir.path().join("donor"), dir.path().join("joiner"));
    for path in [&from, &to] {
        fs::create_dir(path).map_err(|e| Error::io("cannot make", path, e))?;
    }
    eprintln!("making a tree of {} in {}", bytes(size), from.display());
    plant(&from, size).map_err(|e| Error::io("cannot fill", &from, e))?;

    let (sent, received) = block_on(async {
        let (_, stop) = Stop::on_signals()?;
        let joiner = ReceiveOptions { node: Arc::new(Serverless), ..config::joiner(&receive_args(&to))? };
        let waiting = Waiting::bind(joiner, &Quiet)?;
        let ticket = waiting.ticket().clone();
        let (mut donor, server) = config::donor(&send_args(&from, args), ticket)?;
        donor.server_version = Some("0.0".into());
        let joining = waiting.receive(Arc::new(Quiet), &stop);
        let sending = donor::send(donor, Arc::new(server), Style::Auto.reporter(Side::Donor), &stop);
        tokio::try_join!(sending, joining)
    })?;
    let Outcome::Installed(received) = received else {
        return Err(Error::new(Kind::Protocol, "the demonstration ended without an installed tree"));
    };
    let roots = config::placed(&tree(&to))?.roots;
    let manifest = verify::installed(&roots)?;
    let faults = verify::faults(&manifest, &roots, &Rules::default())?;
    if let Some(first) = faults.first() {
        return Err(Error::new(Kind::Integrity, format!("{} entries differ, the first: {first}", faults.len())));
    }
    let rows = [
        ("bytes", format!("{} in {} entries", bytes(sent.bytes), sent.entries)),
        ("on the wire", bytes(sent.wire_bytes)),
        ("seconds", format!("{:.2}, of which {:.2} for sync and switch", sent.seconds, received.install_seconds)),
        ("rate", format!("{}/s, synced to disk", bytes((sent.bytes as f64 / sent.seconds) as u64))),
        ("lanes", sent.lanes.to_string()),
        ("TLS", format!("{}, {}", sent.session.version, sent.session.cipher)),
        ("key exchange", sent.session.key_exchange.clone()),
        ("checksum", sent.checksum.to_string()),
        ("compression", sent.compression.clone()),
        ("verified", format!("{} entries re-read, all as sent", manifest.items().len())),
    ];
    let mut out = std::io::stdout().lock();
    for (name, value) in rows {
        print(&mut out, &format!("{name:>13}  {value}\n"))?;
    }
    Ok(())
}

fn room(parent: &Path, size: u64) -> Result<()> {
    let free = free_space(parent)?;
    if free / 5 * 2 < size {
        return Err(Error::new(
            Kind::NoSpace,
            format!(
                "{} has {} free, which is not enough for two trees of {}",
                parent.display(),
                bytes(free),
                bytes(size)
            ),
        )
        .remedy("use a smaller --size or another --dir"));
    }
    Ok(())
}

fn tree(dir: &Path) -> TreeArgs {
    TreeArgs { datadir: dir.to_path_buf(), ..TreeArgs::default() }
}

fn deadlines() -> DeadlineArgs {
    DeadlineArgs { idle_timeout: Timeout::IDLE }
}

fn talk() -> TalkArgs {
    TalkArgs { progress: ProgressStyle::None, metrics: None, json: false }
}

fn receive_args(dir: &Path) -> ReceiveArgs {
    ReceiveArgs {
        tree: Some(tree(dir)),
        stdout: false,
        program: Vec::new(),
        listen: "127.0.0.1:0".into(),
        advertise: None,
        install: InstallMode::default(),
        reuse: Reuse::Off,
        force_older: false,
        checksum: ChecksumChoice::default(),
        initial_timeout: Some(Timeout::seconds(60)),
        prepare: PrepareArgs::default(),
        identity: IdentityArgs::default(),
        deadlines: deadlines(),
        talk: talk(),
    }
}

fn send_args(dir: &Path, args: &DemoArgs) -> SendArgs {
    SendArgs {
        tree: Some(tree(dir)),
        stdin: false,
        program: Vec::new(),
        ticket: "-".into(),
        source: DataSource::Files,
        inno_backup_opts: None,
        live: false,
        verify_pages: false,
        freeze_command: None,
        freeze: FreezeMode::default(),
        freeze_limit: None,
        connect_timeout: Timeout::seconds(10),
        lanes: args.lanes.clone(),
        identity: IdentityArgs::default(),
        deadlines: deadlines(),
        talk: talk(),
    }
}

/// Makes what a data directory must have: large files like tablespaces (pages of rows, pages of noise, holes),
/// thousands of small ones, a symlink, a hard link, odd names and an empty directory.
fn plant(dir: &Path, size: u64) -> std::io::Result<()> {
    const PAGE: usize = 16 * 1024;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let large = size / 100 * 95;
    let shares = [50, 25, 15, 10];
    fs::create_dir(dir.join("shop"))?;
    for (number, share) in shares.into_iter().enumerate() {
        let file = fs::File::create(dir.join(format!("shop/orders_{number}.ibd")))?;
        let pages = large / 100 * share / PAGE as u64;
        // A tenth as much again is holes, as page compression leaves them.
        file.set_len((pages + pages / 10) * PAGE as u64)?;
        let mut block = Vec::with_capacity(64 * PAGE);
        let mut at = 0;
        for page in 0..pages {
            block.extend(noise.page(PAGE, page % 4 == 3));
            if block.len() == 64 * PAGE || page + 1 == pages {
                file.write_all_at(&block, at)?;
                at += block.len() as u64;
                block.clear();
            }
        }
    }
    let small = (size - large) / PAGE as u64;
    for number in 0..small.min(20_000) {
        let schema = dir.join(format!("tenant_{:02}", number / 1000));
        if number % 1000 == 0 {
            fs::create_dir(&schema)?;
        }
        fs::write(schema.join(format!("t{number}.ibd")), noise.page(PAGE, number % 2 == 0))?;
    }
    fs::create_dir(dir.join("#empty schema"))?;
    fs::write(dir.join("odd name @0024\n\u{e9}"), "x")?;
    for (name, len) in
        [("ibdata1", 8 * PAGE), ("ib_logfile0", 4 * PAGE), ("aria_log_control", 52), ("mysql/db.opt", 65)]
    {
        let place = dir.join(name);
        fs::create_dir_all(place.parent().unwrap_or(dir))?;
        fs::write(place, noise.page(len, true))?;
    }
    // By its header a redo log of 10.8 or newer.
    fs::OpenOptions::new().write(true).open(dir.join("ib_logfile0"))?.write_all_at(b"Phys", 0)?;
    symlink("shop/orders_0.ibd", dir.join("a link"))?;
    fs::hard_link(dir.join("shop/orders_3.ibd"), dir.join("shop/orders_3_again.ibd"))
}

/// xorshift64: fast and repeatable, not random enough for anything else.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A page of rows that compress about three to one, or of noise that does not.
    fn page(&mut self, len: usize, noise: bool) -> Vec<u8> {
        let mut page = Vec::with_capacity(len);
        while page.len() < len {
            let number = self.next();
            if noise {
                page.extend_from_slice(&number.to_le_bytes());
            } else {
                let row =
                    format!("{:08}|customer-{:05}|2026-11-24|pending  |", number % 100_000_000, number >> 32 & 0xffff);
                page.extend_from_slice(row.as_bytes());
            }
        }
        page.truncate(len);
        page
    }
}

//! A link between donor and joiner that misbehaves as it is told: a TCP proxy on 127.0.0.1.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What happens to one direction of one connection, counted in its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// Both directions end after this many bytes, as if a peer had closed.
    Cut(u64),
    /// Nothing passes any more, and neither side is told.
    Stall(u64),
    /// The sender's end closes after this many bytes, and the other is not told.
    Lost(u64),
    /// One bit of this byte changes.
    Flip(u64),
}

/// What happens to one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    /// On the way from the donor to the joiner.
    pub there: Fault,
    pub back: Fault,
    /// In each direction.
    pub delay: Duration,
    /// Bytes a second from the donor to the joiner; zero means no limit.
    pub rate: u64,
}

/// Nothing is wrong with the connection.
pub const WELL: Fate = Fate { there: Fault::None, back: Fault::None, delay: Duration::ZERO, rate: 0 };

#[derive(Debug)]
pub struct FaultyLink {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    over: AtomicBool,
    stalled: AtomicBool,
    down: AtomicBool,
    connections: AtomicUsize,
    there: AtomicU64,
    back: AtomicU64,
    open: Mutex<Vec<(usize, TcpStream)>>,
}

impl FaultyLink {
    /// A link to `joiner`. `fate` is asked for each connection; the control connection is number 0. Once the joiner
    /// refuses, the link does.
    pub fn to(joiner: SocketAddr, fate: impl Fn(usize) -> Fate + Send + 'static) -> FaultyLink {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), joiner, fate)
    }

    /// As [`Self::to`], with an address of its own.
    pub fn at(own: SocketAddr, joiner: SocketAddr, fate: impl Fn(usize) -> Fate + Send + 'static) -> FaultyLink {
        let listener = TcpListener::bind(own).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        std::thread::spawn({
            let state = Arc::clone(&state);
            move || {
                for donor in listener.incoming().map_while(Result::ok) {
                    if state.over.load(Ordering::Relaxed) {
                        return;
                    }
                    if state.down.load(Ordering::Relaxed) {
                        continue;
                    }
                    let number = state.connections.fetch_add(1, Ordering::Relaxed);
                    match TcpStream::connect(joiner) {
                        Ok(joiner) => connect(&state, number, donor, joiner, fate(number)),
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
                        Err(_) => {}
                    }
                }
            }
        });
        FaultyLink { address, state }
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Bytes that have passed, from the donor and from the joiner.
    pub fn bytes(&self) -> (u64, u64) {
        (self.state.there.load(Ordering::Relaxed), self.state.back.load(Ordering::Relaxed))
    }

    /// Waits until this many bytes from the donor have passed.
    pub fn passed(&self, bytes: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.bytes().0 < bytes {
            assert!(Instant::now() < deadline, "only {:?} have passed", self.bytes());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Cuts all connections for which `which` holds.
    pub fn cut(&self, which: impl Fn(usize) -> bool) {
        let mut open = self.state.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(number, stream)| {
            if which(*number) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            !which(*number)
        });
    }

    /// Cuts all connections, and every new one, until [`Self::up`].
    pub fn down(&self) {
        self.state.down.store(true, Ordering::Relaxed);
        self.cut(|_| true);
        // One may just have been made.
        std::thread::sleep(Duration::from_millis(2));
        self.cut(|_| true);
    }

    pub fn up(&self) {
        self.state.down.store(false, Ordering::Relaxed);
    }

    /// From now on nothing passes at all.
    pub fn stall(&self) {
        self.state.stalled.store(true, Ordering::Relaxed);
    }
}

impl Drop for FaultyLink {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        self.cut(|_| true);
        let _ = TcpStream::connect(self.address);
    }
}

fn connect(state: &Arc<State>, number: usize, donor: TcpStream, joiner: TcpStream, fate: Fate) {
    let _ = (donor.set_nodelay(true), joiner.set_nodelay(true));
    let mut open = state.open.lock().unwrap_or_else(PoisonError::into_inner);
    for stream in [&donor, &joiner] {
        open.push((number, stream.try_clone().unwrap()));
    }
    drop(open);
    let back = (joiner.try_clone().unwrap(), donor.try_clone().unwrap());
    for (from, to, fault, there) in [(donor, joiner, fate.there, true), (back.0, back.1, fate.back, false)] {
        // A delayed link holds what fits into its delay at some 100 MB/s; a slow one holds next to nothing.
        let rate = if there { fate.rate } else { 0 };
        let (sender, receiver) = sync_channel(if rate > 0 { 1 } else { 64 });
        let (writing, reading) = (Arc::clone(state), Arc::clone(state));
        let ends = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || write(&writing, to, &receiver, (fate.delay, rate), fault, there, &ends));
        std::thread::spawn(move || {
            let mut from = from;
            let mut buffer = vec![0; if rate > 0 { 4096 } else { 64 * 1024 }];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if reading.over.load(Ordering::Relaxed)
                    || sender.send((Instant::now(), buffer[..count].to_vec())).is_err()
                {
                    return;
                }
            }
        });
    }
}

fn write(
    state: &State,
    mut to: TcpStream,
    pieces: &Receiver<(Instant, Vec<u8>)>,
    (delay, rate): (Duration, u64),
    fault: Fault,
    there: bool,
    ends: &(TcpStream, TcpStream),
) {
    let mut at = 0u64;
    for (arrived, mut piece) in pieces {
        std::thread::sleep((arrived + delay).saturating_duration_since(Instant::now()));
        if let Some(time) = (piece.len() as u64 * 1_000_000).checked_div(rate) {
            std::thread::sleep(Duration::from_micros(time));
        }
        let end = at + piece.len() as u64;
        let mut last = false;
        match fault {
            Fault::Cut(limit) | Fault::Stall(limit) | Fault::Lost(limit) if end >= limit => {
                piece.truncate((limit - at) as usize);
                last = true;
            }
            Fault::Flip(place) if (at..end).contains(&place) => piece[(place - at) as usize] ^= 4,
            _ => {}
        }
        at = end;
        if !state.stalled.load(Ordering::Relaxed) && to.write_all(&piece).is_err() {
            break;
        }
        let sum = if there { &state.there } else { &state.back };
        sum.fetch_add(piece.len() as u64, Ordering::Relaxed);
        if last && matches!(fault, Fault::Lost(_)) {
            let _ = ends.0.shutdown(Shutdown::Both);
        }
        while (last && matches!(fault, Fault::Stall(_) | Fault::Lost(_))) || state.stalled.load(Ordering::Relaxed) {
            if state.over.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if last {
            for end in [&ends.0, &ends.1] {
                let _ = end.shutdown(Shutdown::Both);
            }
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

//! A block of loopback addresses (`127.X.Y.`) for one cluster, so that clusters of different tests can live side by side.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The first three numbers of the addresses, such as `127.31.7`. Node `n` is `127.31.7.n` and keeps the default ports.
pub fn claim() -> String {
    for _ in 0..1000 {
        let number = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(7919));
        let block = format!("127.{}.{}", 1 + number / 250 % 250, 1 + number % 250);
        let free = (1..=3).all(|n| TcpListener::bind(format!("{block}.{n}:4567")).is_ok());
        if free {
            return block;
        }
    }
    panic!("no free block of loopback addresses");
}

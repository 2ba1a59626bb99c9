//! File descriptors that the server leaks to its scripts.
//!
//! They include its `grastate.dat` and both ends of our standard output: while we hold those, a dead server's pipe
//! never breaks and a finished script's pipe never ends.

use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags};

use crate::error::{Error, Result};

/// Closes every descriptor above 2. Returns how many there were.
///
/// Call it first of all: before the program opens a file, or starts a thread or a runtime.
pub fn close_inherited() -> Result<usize> {
    let inherited = above_stderr()?;
    for &fd in &inherited {
        // SAFETY: nothing in this process has opened a descriptor yet (the caller's promise), so nobody here owns this
        // one. No safe interface closes what nobody owns.
        #[allow(unsafe_code)]
        unsafe {
            rustix::io::close(fd);
        }
    }
    Ok(inherited.len())
}

fn above_stderr() -> Result<Vec<RawFd>> {
    let path = Path::new("/proc/self/fd");
    let failed = |error| Error::io("cannot list the open descriptors in", path, error);
    let listing =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let mut found = Vec::new();
    // `Dir::new` reads through the given descriptor, so its number is known.
    let own = listing.as_raw_fd();
    for entry in Dir::new(listing).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let number = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
        found.extend(number.filter(|&fd: &RawFd| fd > 2 && fd != own));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in a process of its own, started by the test below.
    #[test]
    #[ignore = "started by another test"]
    fn child_with_inherited_descriptors() {
        let open = |fd: &RawFd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok();
        assert!([7, 9].iter().all(open));
        assert!(close_inherited().unwrap() >= 2);
        assert!(![7, 9].iter().any(open));
        assert!([0, 1, 2].iter().all(open));
    }

    #[test]
    fn a_child_closes_what_it_inherited() {
        let output = std::process::Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 7</dev/null 9>/dev/null"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "sst::descriptors::tests::child_with_inherited_descriptors"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

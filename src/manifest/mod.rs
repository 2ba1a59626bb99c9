//! What was sent and what was written: digests, the seal over all of them, and their comparison.
//!
//! [`Verified`] can only come out of that comparison; the install takes nothing else.

/// Evidence that every byte and every name of a staged tree is what the donor sealed.
#[derive(Debug)]
pub struct Verified(());

#[cfg(test)]
impl Verified {
    /// For tests of what comes after the comparison.
    pub fn for_test() -> Verified {
        Verified(())
    }
}

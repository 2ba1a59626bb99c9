//! Where tests interrupt an install: every change to the filesystem asks here first.
//!
//! Outside tests
//! this does nothing.

use crate::error::Result;

#[cfg(not(test))]
pub(super) fn step(_what: &str) -> Result<()> {
    Ok(())
}

/// A simulated crash ends everything at once; any other outcome is passed on.
pub(super) fn past<T>(done: Result<T>) -> Result<Result<T>> {
    match done {
        Err(error) if is_crash(&error) => Err(error),
        done => Ok(done),
    }
}

#[cfg(not(test))]
pub(super) fn is_crash(_error: &crate::error::Error) -> bool {
    false
}

#[cfg(not(test))]
pub(super) fn without_exchange() -> bool {
    false
}

#[cfg(test)]
pub(super) use armed::{Plan, arm, is_crash, set_without_exchange, step, steps, without_exchange};

#[cfg(test)]
mod armed {
    use std::cell::Cell;

    use crate::error::{Error, Kind, Result};

    const CRASH: &str = "simulated crash";

    /// What happens at the n-th step, counted from 0, on this thread.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Plan {
        Nothing,
        /// The process is gone: this step and all later ones do not happen, nothing is undone.
        Crash(usize),
        /// This one step fails as a system call may.
        Fail(usize),
        /// Something happens just before this step.
        Visit(usize, fn()),
    }

    thread_local! {
        static PLAN: Cell<Plan> = const { Cell::new(Plan::Nothing) };
        static WITHOUT_EXCHANGE: Cell<bool> = const { Cell::new(false) };
        static DONE: Cell<usize> = const { Cell::new(0) };
    }

    /// Acts as a filesystem that cannot exchange names, on this thread.
    pub(crate) fn set_without_exchange(yes: bool) {
        WITHOUT_EXCHANGE.set(yes);
    }

    pub(crate) fn without_exchange() -> bool {
        WITHOUT_EXCHANGE.get()
    }

    pub(crate) fn arm(plan: Plan) {
        PLAN.set(plan);
        DONE.set(0);
    }

    /// How many steps were asked for since `arm`.
    pub(crate) fn steps() -> usize {
        DONE.get()
    }

    pub(crate) fn step(what: &str) -> Result<()> {
        let n = DONE.get();
        DONE.set(n + 1);
        match PLAN.get() {
            Plan::Crash(at) if n >= at => Err(Error::new(Kind::Interrupted, CRASH).because(what.to_owned())),
            Plan::Visit(at, visit) if n == at => {
                visit();
                Ok(())
            }
            Plan::Fail(at) if n == at => Err(Error::new(Kind::Permission, format!("injected failure: {what}"))),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_crash(error: &Error) -> bool {
        error.to_string() == CRASH
    }
}

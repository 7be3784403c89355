//! The pipes that bodies are spliced through: made within a budget, kept while empty.
//!
//! Pipes are scarce for a user without privileges: beyond `fs.pipe-user-pages-soft` (64 of 1 MiB)
//! the kernel refuses to enlarge them and makes new ones of two pages (pipe(7)). So each core has a
//! share; when half of it is in use pipes stay smaller, when three quarters are they do not grow,
//! and when all of it is, bodies are copied. Every pipe begins small: only a body that keeps
//! filling it gets a large one.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice, tee,
};

use crate::counters::Counters;
use crate::limits::Limits;

/// The pipes of one core.
pub(crate) struct Pipes {
    counters: Arc<Counters>,
    idle: RefCell<Vec<Rc<Ends>>>,
    lookout: RefCell<Option<Lookout>>,
    bytes: Cell<usize>,
    full_bytes: usize,
    budget_bytes: usize,
}

/// A pipe, borrowed for one direction of one body. It knows its content: one that is dropped
/// before it is empty holds a caller's bytes and is closed, never kept for another.
pub(crate) struct Pipe {
    ends: Rc<Ends>,
    /// Bytes in it.
    pub(crate) held: usize,
    pipes: Rc<Pipes>,
}

/// A pipe that shows what is in another one, so that some of it can be read before any of it has
/// gone. Nothing is copied for that (tee(2)), and what need not be read is passed over.
pub(crate) struct Lookout {
    ends: Ends,
    nowhere: File,
    held: usize,
}

struct Ends {
    reading: OwnedFd,
    writing: OwnedFd,
    bytes: Cell<usize>,
}

impl Pipes {
    /// No pipes yet, within the budget of `limits`.
    pub(crate) fn new(limits: &Limits, counters: &Arc<Counters>) -> Rc<Self> {
        Rc::new(Self {
            counters: Arc::clone(counters),
            idle: RefCell::default(),
            lookout: RefCell::default(),
            bytes: Cell::new(0),
            full_bytes: limits.pipe_bytes,
            budget_bytes: limits.pipe_bytes_per_core,
        })
    }

    /// An empty pipe, or `None` when there is none to be had and the body is to be copied.
    pub(crate) fn borrow(self: &Rc<Self>) -> Option<Pipe> {
        let kept = self.idle.borrow_mut().pop();
        let Some(ends) = kept.or_else(|| self.make()) else {
            self.counters.pipes_refused.add(1);
            return None;
        };
        self.counters.pipes_lent.add(1);
        Some(Pipe { ends, held: 0, pipes: Rc::clone(self) })
    }

    fn make(&self) -> Option<Rc<Ends>> {
        if self.bytes.get() + BYTES_MIN > self.budget_bytes {
            return None;
        }
        // The kernel's own limit, or that on open files, may be reached: there is still copying.
        let ends = made().ok().filter(|ends| ends.bytes.get() >= BYTES_MIN)?;
        self.bytes.set(self.bytes.get() + ends.bytes.get());
        Some(Rc::new(ends))
    }

    /// As large as a body's pipe can be, so that all of that is seen at once.
    fn make_lookout(&self) -> Option<Lookout> {
        let wanted = self.bytes_max(self.bytes.get());
        if self.bytes.get() + wanted > self.budget_bytes {
            return None;
        }
        let nowhere = OpenOptions::new().write(true).open("/dev/null").ok()?;
        let ends = made().ok()?;
        // Refused beyond the limits of pipe(7): less is seen at once.
        let _ = fcntl_setpipe_size(&ends.writing, wanted);
        ends.bytes.set(fcntl_getpipe_size(&ends.writing).ok()?);
        self.bytes.set(self.bytes.get() + ends.bytes.get());
        Some(Lookout { ends, nowhere, held: 0 })
    }

    /// How large a pipe may be, beside `others` bytes of pipes.
    fn bytes_max(&self, others: usize) -> usize {
        let plenty = others + self.full_bytes <= self.budget_bytes / 2;
        if plenty { self.full_bytes } else { self.full_bytes / SMALLER }
    }

    /// Takes a pipe that will be closed out of the budget.
    fn forget(&self, ends: &Ends) {
        self.bytes.set(self.bytes.get().saturating_sub(ends.bytes.get()));
    }
}

impl Lookout {
    /// Shows the front of what is in `pipe`, and says how much of it.
    pub(crate) fn show(&mut self, pipe: &Pipe) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK;
        let count = tee(&pipe.ends.reading, &self.ends.writing, pipe.held, flags)?;
        self.held += count;
        Ok(count)
    }

    /// Reads what is shown next, and no more than that; 0 when all of it was.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.held == 0 {
            return Ok(0);
        }
        let count = rustix::io::read(&self.ends.reading, into)?;
        self.held = self.held.saturating_sub(count);
        Ok(count)
    }

    /// Passes over the next `count` bytes, or all that are left.
    pub(crate) fn skip(&mut self, count: usize) -> io::Result<()> {
        let until = self.held.saturating_sub(count);
        while self.held > until {
            let (flags, wanted) = (SpliceFlags::NONBLOCK, self.held - until);
            match splice(&self.ends.reading, None, &self.nowhere, None, wanted, flags)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                passed => self.held = self.held.saturating_sub(passed),
            }
        }
        Ok(())
    }
}

impl Pipe {
    /// The end that is spliced out of.
    pub(crate) fn reading(&self) -> &OwnedFd {
        &self.ends.reading
    }

    /// The end that is spliced into.
    pub(crate) fn writing(&self) -> &OwnedFd {
        &self.ends.writing
    }

    /// How much is asked for at a time. What the pipe holds may be more or less than that: its
    /// slots are filled with packets, not with bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.ends.bytes.get()
    }

    /// Makes it as large as `bytes`, or what the budget allows of that, if it is smaller.
    pub(crate) fn grow(&mut self, bytes: usize) {
        let (own, pipes) = (self.bytes(), &self.pipes);
        let others = pipes.bytes.get().saturating_sub(own);
        let wanted = bytes.min(pipes.bytes_max(others));
        // What is left then is for those that are still to be made.
        if own < wanted && others + wanted <= pipes.budget_bytes / 4 * 3 {
            self.resize(wanted);
        }
    }

    /// Makes it small again, if it is empty: its receiver has no use for a large one.
    pub(crate) fn shrink(&mut self) {
        if self.held == 0 && self.bytes() > BYTES_MIN {
            self.resize(BYTES_MIN);
        }
    }

    /// Takes bytes out of it into `into`; 0 when it is empty.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.held == 0 {
            return Ok(0);
        }
        let count = rustix::io::read(&self.ends.reading, into)?;
        self.held = self.held.saturating_sub(count);
        Ok(count)
    }

    /// Borrows the core's lookout, empty; [`Pipe::keep`] gives it back. `None`: there is none to be
    /// had.
    pub(crate) fn lookout(&self) -> Option<Lookout> {
        self.pipes.lookout.take().or_else(|| self.pipes.make_lookout())
    }

    /// Keeps `lookout` for the next one who asks, if it is empty.
    pub(crate) fn keep(&self, lookout: Lookout) {
        match lookout.held {
            0 => drop(self.pipes.lookout.replace(Some(lookout))),
            _ => self.pipes.forget(&lookout.ends),
        }
    }

    fn resize(&mut self, wanted: usize) {
        let own = self.bytes();
        // Refused beyond the limits of pipe(7): it stays as it is.
        let _ = fcntl_setpipe_size(&self.ends.writing, wanted);
        let now = fcntl_getpipe_size(&self.ends.writing).unwrap_or(own);
        self.ends.bytes.set(now);
        self.pipes.bytes.set(self.pipes.bytes.get().saturating_sub(own) + now);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.held == 0 {
            self.pipes.idle.borrow_mut().push(Rc::clone(&self.ends));
        } else {
            self.pipes.forget(&self.ends);
        }
    }
}

/// A pipe of the size that the kernel gives: 64 KiB, or two pages to a user who has too many.
fn made() -> io::Result<Ends> {
    let (reading, writing) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    let bytes = Cell::new(fcntl_getpipe_size(&writing)?);
    Ok(Ends { reading, writing, bytes })
}

/// By how much pipes are smaller once half of the budget is in use.
const SMALLER: usize = 4;
/// What a pipe begins with. One below this costs more calls than a copy saves.
pub(crate) const BYTES_MIN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn pipes(budget_bytes: usize) -> Rc<Pipes> {
        let limits = Limits {
            pipe_bytes: 1 << 20,
            pipe_bytes_per_core: budget_bytes,
            ..crate::fuzzing::limits()
        };
        Pipes::new(&limits, &Arc::default())
    }

    #[test]
    fn pipes_that_grow_get_less_and_then_none_of_the_budget() {
        let pipes = pipes(2 << 20);
        let grown = || {
            let mut pipe = pipes.borrow()?;
            pipe.grow(usize::MAX);
            Some(pipe)
        };
        let borrowed: Vec<Pipe> = std::iter::from_fn(grown).collect();
        let sizes: Vec<usize> = borrowed.iter().map(|pipe| pipe.bytes() >> 10).collect();
        assert_eq!(sizes, [1024, 256, 256, 64, 64, 64, 64, 64, 64, 64, 64]);
        assert_eq!(pipes.bytes.get(), 2 << 20);
    }

    #[test]
    fn a_pipe_gets_small_again_when_it_is_empty() {
        let pipes = pipes(4 << 20);
        let mut pipe = pipes.borrow().unwrap();
        assert_eq!(pipe.bytes(), BYTES_MIN);
        pipe.grow(usize::MAX);
        pipe.held = 1;
        pipe.shrink();
        assert_eq!(pipe.bytes(), 1 << 20, "not while it holds something");
        pipe.held = 0;
        pipe.shrink();
        assert_eq!((pipe.bytes(), pipes.bytes.get()), (BYTES_MIN, BYTES_MIN));
    }

    #[test]
    fn a_lookout_shows_what_is_in_a_pipe_and_takes_nothing_out_of_it() {
        let pipes = pipes(4 << 20);
        let mut pipe = pipes.borrow().unwrap();
        pipe.held = rustix::io::write(pipe.writing(), b"head, payload, head").unwrap();
        let mut lookout = pipe.lookout().unwrap();
        assert_eq!(lookout.show(&pipe).unwrap(), 19);
        let mut seen = [0; 4];
        assert_eq!(lookout.read(&mut seen).unwrap(), 4);
        assert_eq!(&seen, b"head");
        lookout.skip(11).unwrap();
        assert_eq!(lookout.read(&mut seen).unwrap(), 4);
        assert_eq!(&seen, b"head");
        assert_eq!(lookout.read(&mut seen).unwrap(), 0, "and no more than that");
        let mut all = [0; 32];
        assert_eq!(pipe.read(&mut all).unwrap(), 19);
        assert_eq!((&all[..19], pipe.held), (&b"head, payload, head"[..], 0));
        assert_eq!(pipe.read(&mut all).unwrap(), 0, "and does not wait for more");
    }

    #[test]
    fn a_lookout_is_kept_while_empty_and_counts_like_any_pipe() {
        let pipes = pipes(4 << 20);
        let mut pipe = pipes.borrow().unwrap();
        pipe.keep(pipe.lookout().unwrap());
        assert_eq!(pipes.bytes.get(), BYTES_MIN + (1 << 20));
        let mut lookout = pipe.lookout().unwrap();
        assert_eq!(pipes.bytes.get(), BYTES_MIN + (1 << 20), "the same again");
        pipe.held = rustix::io::write(pipe.writing(), b"rest").unwrap();
        lookout.show(&pipe).unwrap();
        pipe.keep(lookout);
        assert_eq!(pipes.bytes.get(), BYTES_MIN, "one that is not empty is closed");
        assert!(self::pipes(BYTES_MIN).borrow().unwrap().lookout().is_none(), "within the budget");
    }

    #[test]
    fn an_empty_pipe_is_kept_and_a_filled_one_is_closed() {
        let pipes = pipes(4 << 20);
        drop(pipes.borrow());
        assert_eq!((pipes.idle.borrow().len(), pipes.bytes.get()), (1, BYTES_MIN));
        let mut filled = pipes.borrow().unwrap();
        filled.held = 1;
        drop(filled);
        assert_eq!((pipes.idle.borrow().len(), pipes.bytes.get()), (0, 0));
    }
}

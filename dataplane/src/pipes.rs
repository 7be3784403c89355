//! The pipes that bodies are spliced through: made within a budget, kept while empty.
//!
//! Pipes are scarce for a user without privileges: beyond `fs.pipe-user-pages-soft` (64 of 1 MiB)
//! the kernel refuses to enlarge them and makes new ones of two pages (pipe(7)). So each core has a
//! share; when half of it is in use pipes get smaller, and when all of it is, bodies are copied.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use crate::limits::Limits;

/// The pipes of one core.
pub(crate) struct Pipes {
    idle: RefCell<Vec<Rc<Ends>>>,
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

struct Ends {
    reading: OwnedFd,
    writing: OwnedFd,
    bytes: usize,
}

impl Pipes {
    /// No pipes yet, within the budget of `limits`.
    pub(crate) fn new(limits: &Limits) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            bytes: Cell::new(0),
            full_bytes: limits.pipe_bytes,
            budget_bytes: limits.pipe_bytes_per_core,
        })
    }

    /// An empty pipe, or `None` when there is none to be had and the body is to be copied.
    pub(crate) fn borrow(self: &Rc<Self>) -> Option<Pipe> {
        let kept = self.idle.borrow_mut().pop();
        let ends = kept.or_else(|| self.make())?;
        Some(Pipe { ends, held: 0, pipes: Rc::clone(self) })
    }

    fn make(&self) -> Option<Rc<Ends>> {
        let (used, budget) = (self.bytes.get(), self.budget_bytes);
        let plenty = used + self.full_bytes <= budget / 2;
        let wanted = if plenty { self.full_bytes } else { self.full_bytes / SMALLER };
        if used + wanted > budget {
            return None;
        }
        // The kernel's own limit, or that on open files, may be reached: there is still copying.
        let ends = made(wanted).ok().filter(|ends| ends.bytes >= BYTES_MIN)?;
        self.bytes.set(used + ends.bytes);
        Some(Rc::new(ends))
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
        self.ends.bytes
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.held == 0 {
            self.pipes.idle.borrow_mut().push(Rc::clone(&self.ends));
        } else {
            self.pipes.bytes.set(self.pipes.bytes.get().saturating_sub(self.ends.bytes));
        }
    }
}

/// A pipe of as many of `wanted` bytes as the kernel allows.
fn made(wanted: usize) -> io::Result<Ends> {
    let (reading, writing) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    // Refused beyond the limits of pipe(7): what the pipe has then decides.
    let _ = fcntl_setpipe_size(&writing, wanted);
    let bytes = fcntl_getpipe_size(&writing)?;
    Ok(Ends { reading, writing, bytes })
}

/// By how much pipes are smaller once half of the budget is in use.
const SMALLER: usize = 4;
/// A pipe below this costs more calls than a copy saves.
const BYTES_MIN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn pipes(budget_bytes: usize) -> Rc<Pipes> {
        let limits = Limits {
            pipe_bytes: 1 << 20,
            pipe_bytes_per_core: budget_bytes,
            ..crate::fuzzing::limits()
        };
        Pipes::new(&limits)
    }

    #[test]
    fn pipes_shrink_and_then_run_out_with_the_budget() {
        let pipes = pipes(2 << 20);
        let borrowed: Vec<Pipe> = std::iter::from_fn(|| pipes.borrow()).collect();
        let sizes: Vec<usize> = borrowed.iter().map(|pipe| pipe.bytes() >> 10).collect();
        assert_eq!(sizes, [1024, 256, 256, 256, 256]);
    }

    #[test]
    fn an_empty_pipe_is_kept_and_a_filled_one_is_closed() {
        let pipes = pipes(4 << 20);
        drop(pipes.borrow());
        assert_eq!((pipes.idle.borrow().len(), pipes.bytes.get()), (1, 1 << 20));
        let mut filled = pipes.borrow().unwrap();
        filled.held = 1;
        drop(filled);
        assert_eq!((pipes.idle.borrow().len(), pipes.bytes.get()), (0, 0));
    }
}

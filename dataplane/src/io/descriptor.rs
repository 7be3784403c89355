//! Borrowing the descriptor under one of monoio's sockets: the crate's only `unsafe` block.
//!
//! monoio 0.2.4 gives `AsRawFd` and nothing safer, while the system calls made through rustix ask
//! for a [`BorrowedFd`].

#![expect(unsafe_code, reason = "the one place where a raw descriptor is borrowed; see below")]

use std::os::fd::{AsRawFd, BorrowedFd};

use monoio::net::{TcpStream, UnixStream};

/// One of the two socket types of monoio that own their descriptor.
pub(super) trait OwnsDescriptor: AsRawFd {}

impl OwnsDescriptor for TcpStream {}
impl OwnsDescriptor for UnixStream {}

/// The descriptor of `socket`, for as long as `socket` is borrowed.
pub(super) fn of(socket: &impl OwnsDescriptor) -> BorrowedFd<'_> {
    // SAFETY: `socket` owns an open descriptor: both types are made from one they take over, hand
    // it out only by consuming themselves (`into_raw_fd`), and close it when dropped. The returned
    // value borrows `socket`, so neither can happen while it lives.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

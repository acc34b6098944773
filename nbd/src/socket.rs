//! A connected socket: scattered receives, gathered sends.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{Errno, ioctl_fionread};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use rustix::net::{recvmsg, sendmsg, shutdown};

/// Unix or TCP: they behave the same here.
#[derive(Debug)]
pub(crate) struct Socket(pub(crate) OwnedFd);

impl Socket {
    /// Receives what is there, filling `into` in order; 0 is the end.
    pub(crate) fn receive(&self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.receive_with(into, RecvFlags::empty())
    }

    /// Like `receive`, but `None` if nothing is there yet.
    pub(crate) fn receive_now(&self, into: &mut [IoSliceMut<'_>]) -> io::Result<Option<usize>> {
        match self.receive_with(into, RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    fn receive_with(&self, into: &mut [IoSliceMut<'_>], flags: RecvFlags) -> io::Result<usize> {
        loop {
            // Without room for control messages, descriptors a client sends along are closed by the kernel.
            match recvmsg(&self.0, into, &mut RecvAncillaryBuffer::default(), flags) {
                Err(Errno::INTR) => {}
                outcome => return Ok(outcome?.bytes),
            }
        }
    }

    /// Bytes that can be received without waiting.
    pub(crate) fn arrived(&self) -> io::Result<usize> {
        Ok(usize::try_from(ioctl_fionread(&self.0)?).unwrap_or(usize::MAX))
    }

    /// Fills `into`; false if the client left before its first byte.
    pub(crate) fn receive_exact(&self, into: &mut [u8]) -> io::Result<bool> {
        let mut have = 0;
        while have < into.len() {
            match self.receive(&mut [IoSliceMut::new(&mut into[have..])])? {
                0 if have == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => have += count,
            }
        }
        Ok(true)
    }

    /// Sends `head`, then `data`, in one call if the socket takes it.
    pub(crate) fn send(&self, head: &[u8], data: &[u8]) -> io::Result<()> {
        self.send_all(&mut [IoSlice::new(head), IoSlice::new(data)])
    }

    /// Sends all of it in order, in one call if the socket takes it.
    pub(crate) fn send_all(&self, mut left: &mut [IoSlice<'_>]) -> io::Result<()> {
        while left.iter().any(|slice| !slice.is_empty()) {
            match sendmsg(&self.0, left, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                outcome => IoSlice::advance_slices(&mut left, outcome?),
            }
        }
        Ok(())
    }

    /// How long a receive or a send waits before it fails; for ever if `None`.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, patience)?;
        Ok(set_socket_timeout(&self.0, Timeout::Send, patience)?)
    }

    /// Ends receives, those that wait too. Replies still go out.
    pub(crate) fn stop_receiving(&self) {
        // It fails only on a socket that is gone already.
        let _ = shutdown(&self.0, Shutdown::Read);
    }

    /// Ends everything.
    pub(crate) fn close(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

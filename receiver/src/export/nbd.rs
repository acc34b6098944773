//! A served view as an NBD export.

use nbd::limits::EXTENTS_MAX;
use nbd::{Capabilities, ErrorCode, Export, Extent};

use super::Served;
use crate::error::{Code, Error};

type Outcome<T = ()> = Result<T, ErrorCode>;

impl Export for Served {
    fn size_bytes(&self) -> u64 {
        self.size_bytes()
    }

    fn capabilities(&self) -> Capabilities {
        if self.is_writable() { Capabilities::ALL } else { Capabilities::READ_ONLY }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Outcome {
        self.read(offset, buffer).map_err(|error| told(&error))
    }

    fn write(&self, offset: u64, data: &[u8], _fua: bool) -> Outcome {
        // What was answered is in the scratch, which is as durable as the view is.
        self.write(offset, data).map_err(|error| told(&error))
    }

    fn flush(&self) -> Outcome {
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64, _fua: bool) -> Outcome {
        self.trim(offset, length).map_err(|error| told(&error))
    }

    fn write_zeroes(&self, offset: u64, length: u64, _no_hole: bool, _fua: bool) -> Outcome {
        // Room is not kept for zeroes: a scratch is too small for a client that asks for it all over.
        self.zero(offset, length).map_err(|error| told(&error))
    }

    fn allocation(&self, offset: u64, length: u64) -> Outcome<Vec<Extent>> {
        let runs = self.runs(offset..offset + length, EXTENTS_MAX).map_err(|error| told(&error))?;
        let extent = |run: super::Run| Extent {
            length_bytes: run.bytes.end - run.bytes.start,
            hole: !run.data,
            zero: !run.data,
        };
        Ok(runs.into_iter().map(extent).collect())
    }
}

/// As a client is told.
fn told(error: &Error) -> ErrorCode {
    match error.code() {
        Code::NO_SPACE => ErrorCode::NoSpace,
        Code::USAGE => ErrorCode::Invalid,
        _ => ErrorCode::Io,
    }
}

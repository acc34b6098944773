//! The log's file: made whole, then filled sector by sector. It has its full length from the start, so that what is added to it
//! needs no room on the disk and its sync no change of names or lengths.

use std::io::IoSlice;
use std::sync::Arc;

use journal::disk::{Disk, File, Open, replace_file};
use journal::error::ErrorKind;
use journal::types::WallTime;

use super::Head;
use super::codec::{Change, FILE_BYTES, NOTE_AT, Note, RUNS_MAX, Run, SECTOR, TRANSACTIONS_AT, Transaction};
use crate::Result;

/// A log that is being written.
#[derive(Debug)]
pub(super) struct LogFile {
    file: Arc<dyn File>,
    salt: [u8; 16],
    /// Transactions in it.
    written: u64,
    /// Of these, the durable ones.
    durable: u64,
}

impl LogFile {
    /// Replaces the log `name`, durably, by one that says this; after an error it is not known which one is there.
    pub(super) fn create(
        disk: &dyn Disk,
        name: &str,
        head: &Head,
        hot: &[Run],
        at: WallTime,
        changed: WallTime,
    ) -> Result<Self> {
        let mut contents = vec![0; FILE_BYTES];
        let mut put = |at: usize, bytes: &[u8]| contents[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &head.encode());
        let mut written = 0;
        for change in changes(hot) {
            written += 1;
            // It is durable as a whole.
            let transaction = Transaction { number: written, durable: 0, change };
            put(usize::try_from(Transaction::at(written)).unwrap_or(usize::MAX), &transaction.encode(&head.salt));
        }
        put(NOTE_AT, &Note { durable: written, at, changed }.encode(&head.salt));
        replace_file(disk, name, &contents)?;
        let file = disk.open(name, Open::Existing)?;
        Ok(Self { file, salt: head.salt, written, durable: written })
    }

    /// Adds these, durably.
    pub(super) fn append(&mut self, changes: Vec<Change>) -> Result<()> {
        let at = Transaction::at(self.written + 1);
        let mut bytes = Vec::with_capacity(changes.len() * SECTOR);
        for change in changes {
            self.written += 1;
            let transaction = Transaction { number: self.written, durable: self.durable, change };
            bytes.extend(transaction.encode(&self.salt));
        }
        self.file.write_at(at, &[IoSlice::new(&bytes)])?;
        self.file.sync()?;
        self.durable = self.written;
        Ok(())
    }

    /// Notes that all is well. It need not be durable: a note that is lost only makes the log worth less.
    pub(super) fn note(&mut self, at: WallTime, changed: WallTime) -> Result<()> {
        let note = Note { durable: self.durable, at, changed }.encode(&self.salt);
        self.file.write_at(crate::source::bytes(NOTE_AT), &[IoSlice::new(&note)])
    }
}

/// Runs as transactions.
pub(super) fn changes(runs: &[Run]) -> Vec<Change> {
    runs.chunks(RUNS_MAX).map(|runs| Change::Runs(runs.to_vec())).collect()
}

/// Removes the log, durably: all is hot then.
pub(super) fn remove(disk: &dyn Disk, name: &str) -> Result<()> {
    match disk.remove(name) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    disk.sync_dir()
}

const _: () = assert!(TRANSACTIONS_AT > NOTE_AT);

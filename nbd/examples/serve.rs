//! Serves a file, or memory, until its standard input ends: `serve unix:/tmp/s.sock file:/tmp/disk.img`,
//! `serve 127.0.0.1:10809 memory:64M`. For trying clients and for measuring.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, RwLock};

use nbd::{Address, Capabilities, ErrorCode, Export, RemoteClients, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, what] = &arguments[..] else { return Err("usage: serve ADDRESS file:PATH|memory:MIB".into()) };
    let export: Arc<dyn Export> = match what.split_once(':') {
        Some(("file", path)) => Arc::new(OnFile(File::options().read(true).write(true).open(path)?)),
        Some(("memory", mib)) => Arc::new(InMemory(RwLock::new(vec![0; mib.parse::<usize>()? << 20]))),
        _ => return Err("serve file:PATH or memory:MIB".into()),
    };
    let address: Address = address.parse()?;
    let running = Server::bind(&address, vec![("disk".to_owned(), export)], RemoteClients::Refused)?.start()?;
    println!("{}", running.address());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    running.shutdown();
    Ok(())
}

struct OnFile(File);

impl Export for OnFile {
    fn size_bytes(&self) -> u64 {
        self.0.metadata().map_or(0, |found| found.len())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { trim: false, write_zeroes: false, ..Capabilities::ALL }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ErrorCode> {
        self.0.read_exact_at(buffer, offset).map_err(|error| ErrorCode::from(&error))
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), ErrorCode> {
        self.0.write_all_at(data, offset).map_err(|error| ErrorCode::from(&error))?;
        if fua { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), ErrorCode> {
        self.0.sync_data().map_err(|error| ErrorCode::from(&error))
    }
}

struct InMemory(RwLock<Vec<u8>>);

impl InMemory {
    fn range(offset: u64, length: usize) -> Result<std::ops::Range<usize>, ErrorCode> {
        let start = usize::try_from(offset).map_err(|_| ErrorCode::Invalid)?;
        Ok(start..start + length)
    }
}

impl Export for InMemory {
    fn size_bytes(&self) -> u64 {
        self.0.read().map_or(0, |bytes| bytes.len() as u64)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { trim: false, write_zeroes: false, ..Capabilities::ALL }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ErrorCode> {
        let bytes = self.0.read().map_err(|_| ErrorCode::Io)?;
        buffer.copy_from_slice(&bytes[Self::range(offset, buffer.len())?]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], _fua: bool) -> Result<(), ErrorCode> {
        let mut bytes = self.0.write().map_err(|_| ErrorCode::Io)?;
        bytes[Self::range(offset, data.len())?].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<(), ErrorCode> {
        Ok(())
    }
}

//! Holds a receiver to its word.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use oracle::Rng;

use super::cluster::{look, window};

/// Asks the receiver all the time, and remembers what it said was durable and covered.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    told: Arc<Mutex<Vec<u64>>>,
    /// Held while an answer is waited for.
    listening: Arc<Mutex<()>>,
}

impl Watch {
    pub(crate) fn start(socket: PathBuf) -> Self {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&told));
        let listening = Arc::new(Mutex::new(()));
        let listens = Arc::clone(&listening);
        let thread = std::thread::spawn(move || {
            let mut durable_max = 0;
            while !stopped.load(Ordering::Relaxed) {
                let listens = listens.lock().unwrap();
                if let Some(status) = look(&socket, "db") {
                    let durable = status["receivers"][0]["durable"].as_u64().unwrap_or(0);
                    assert!(durable >= durable_max, "{durable} is durable, it was {durable_max}: {status}");
                    durable_max = durable;
                    noted.lock().unwrap().extend(window(&status).map(|(_, to)| to));
                }
                drop(listens);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, thread: Some(thread), told, listening }
    }

    /// What is said while this is done, nobody hears.
    pub(crate) fn deaf<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        let _held = self.listening.lock().unwrap();
        meanwhile()
    }

    /// An instant of which the receiver said that it is covered.
    pub(crate) fn told(&self, rng: &mut Rng) -> Option<u64> {
        let told = self.told.lock().unwrap();
        (!told.is_empty()).then(|| told[usize::try_from(rng.below(told.len() as u64)).unwrap()])
    }

    /// Nothing was ever less than before.
    pub(crate) fn check(&self) {
        assert!(!self.thread.as_ref().unwrap().is_finished(), "what was durable is not any more");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

//! Numbered pieces of work, several at a time.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Code, Error, Result};

/// Some compute while others wait for the disk.
const THREADS: usize = 4;

/// Does `work` for each number below `count`, handed out in order; the results are in order. Each thread has a `scratch` of its own.
///
/// # Errors
/// That of the lowest number that failed: all below it were done.
pub(crate) fn each<S, T: Send>(
    count: u64,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(u64, &mut S) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let done = Mutex::new(Vec::new());
    let keep = |results: Vec<(u64, Result<T>)>| done.lock().unwrap_or_else(PoisonError::into_inner).extend(results);
    let run = || {
        let (mut scratch, mut results) = (scratch(), Vec::new());
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let result = work(number, &mut scratch);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            results.push((number, result));
        }
        keep(results);
    };
    let threads = THREADS.min(usize::try_from(count).unwrap_or(usize::MAX));
    if threads < 2 {
        run();
    } else {
        let panicked = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            threads.into_iter().filter_map(|thread| thread.join().err()).count()
        });
        // Its piece is missing, and that must not be taken for the end of the work.
        if panicked > 0 {
            return Err(Error::new(Code::FAILED, "a thread panicked"));
        }
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_the_first_failure_is_told() {
        for count in [0, 1, 2, 1000] {
            let squares = each(count, || (), |number, ()| Ok(number * number)).unwrap();
            assert_eq!(squares, (0..count).map(|number| number * number).collect::<Vec<_>>());
        }
        for _ in 0..50 {
            let work = |number, (): &mut ()| match number {
                7.. => Err(Error::usage(format!("{number}"))),
                _ => Ok(()),
            };
            assert_eq!(each(1000, || (), work).unwrap_err().to_string(), "7");
        }
    }
}

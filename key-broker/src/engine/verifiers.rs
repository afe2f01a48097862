//! Verifications at a time: signatures and predictions need a processor, and more of them at once than there are processors only wait longer. A request that waits for the store has no place, so it delays no verification.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A bounded number of places.
pub(super) struct Verifiers {
    free: Mutex<usize>,
    returned: Condvar,
}

/// A place, which is free again when dropped.
struct Place<'a>(&'a Verifiers);

impl Verifiers {
    /// Two for each processor.
    pub fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self { free: Mutex::new(2 * processors), returned: Condvar::new() }
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place, and verifies. `work` must not wait for the store.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut free = self.returned.wait_while(self.free(), |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let _place = Place(self);
        work()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free() += 1;
        self.0.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn so_many_verify_at_a_time_and_a_panic_keeps_no_place() {
        let verifiers = Verifiers { free: Mutex::new(2), returned: Condvar::new() };
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for number in 0..16 {
                let (verifiers, running, most) = (&verifiers, &running, &most);
                scope.spawn(move || {
                    let verified = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        verifiers.run(|| {
                            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            thread::sleep(std::time::Duration::from_millis(5));
                            running.fetch_sub(1, Ordering::SeqCst);
                            assert!(number != 3, "a verification that panics");
                        });
                    }));
                    assert_eq!(verified.is_ok(), number != 3);
                });
            }
        });
        assert_eq!((most.into_inner(), *verifiers.free()), (2, 2));
    }
}

//! Readiness: whether a node that comes now would get a decision. A load balancer or a service manager reads it at `/ready`. The check of the store writes a row, so it runs at most once a second, however many clients ask.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use transparency::verify::SKEW;

use super::{Engine, Reply, audit};
use crate::store::Store;

/// For how long the result of a check of the store holds.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// By how much the host's clock may be behind the latest time in the database. A witness or timestamp authority whose clock is ahead by an accepted `SKEW` must not make a broker with a right clock unready.
pub(super) const MAX_CLOCK_BEHIND_SECONDS: u64 = SKEW + 30;

/// Why a load balancer should send nodes elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// It waits for its passphrase.
    Sealed,
    /// No transaction can be committed.
    Store,
    /// The host's clock is too far behind. The broker still decides, with its own calendar.
    Clock,
}

impl Unready {
    const fn reason(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Store => "store",
            Self::Clock => "clock",
        }
    }
}

impl From<Unready> for Reply {
    fn from(unready: Unready) -> Self {
        let body = format!("{{\"state\":\"not_ready\",\"reason\":\"{}\"}}\n", unready.reason());
        Self { status: 503, body: body.into_bytes(), retry_after: None }
    }
}

/// The last check of the store.
pub(super) struct StoreCheck {
    /// When, and whether a transaction was committed.
    last: Mutex<(Instant, bool)>,
    /// Locked while a check runs.
    running: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StoreCheck {
    /// Of a store that was opened just now.
    pub fn new() -> Self {
        Self { last: Mutex::new((Instant::now(), true)), running: Mutex::new(()) }
    }

    fn is_due(&self) -> bool {
        lock(&self.last).0.elapsed() >= CHECK_INTERVAL
    }

    /// Checks the store, unless another thread does so already.
    fn run(&self, store: &dyn Store) {
        let Ok(_running) = self.running.try_lock() else { return };
        if !self.is_due() {
            return;
        }
        let checked = store.check();
        let mut last = lock(&self.last);
        match &checked {
            Err(error) if last.1 => eprintln!("key-broker: not ready: {error}"),
            Ok(()) if !last.1 => eprintln!("key-broker: the database can be written again"),
            _ => {}
        }
        *last = (Instant::now(), checked.is_ok());
    }
}

impl Engine {
    /// Whether [`Engine::check_store`] has something to do; it waits for the disk.
    pub fn is_store_check_due(&self) -> bool {
        self.check.is_due()
    }

    /// Checks the store, at most once a second, and reads the latest time that any broker with this database has recorded.
    pub fn check_store(&self) {
        self.check.run(&*self.store);
        if self.is_sealed() {
            return;
        }
        let mut latest = 0;
        let read = self.store.look(&mut |open| {
            latest = audit::latest_time(open)?;
            Ok(())
        });
        // A store that cannot be read proves no time; its check says so.
        if read.is_ok() {
            self.clock.at_least(latest);
        }
    }

    /// Whether the last check of the store succeeded.
    pub fn is_store_available(&self) -> bool {
        lock(&self.check.last).1
    }

    /// Whether a node would get a decision now, by the last check of the store.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn readiness(&self) -> Result<(), Unready> {
        if self.is_sealed() {
            Err(Unready::Sealed)
        } else if !self.is_store_available() {
            Err(Unready::Store)
        } else if self.clock_behind() > MAX_CLOCK_BEHIND_SECONDS {
            Err(Unready::Clock)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::{Error, Failure, Look, RowKey, TrustWork, Work};

    /// Fails each check.
    #[derive(Default)]
    struct Away(AtomicUsize);

    impl Store for Away {
        fn transact(&self, _: Work) -> Result<(), Error> {
            Ok(())
        }
        fn look(&self, _: Look) -> Result<(), Error> {
            Ok(())
        }
        fn check(&self) -> Result<(), Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(Error::Database { failure: Failure::Full, detail: "no space".into() })
        }
        fn has_destroyed(&self) -> bool {
            false
        }
        fn fold(&self, _: Duration) -> Result<(), Error> {
            Ok(())
        }
        fn authenticate(&self, _: RowKey) -> Result<(), Error> {
            Ok(())
        }
        fn trust_rows(&self, _: RowKey, _: TrustWork) -> Result<(), Error> {
            Ok(())
        }
        fn backup(&self, _: &Path) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn store_is_checked_once_a_second_however_often_it_is_asked_for() {
        let (check, store) = (StoreCheck::new(), Away::default());
        let checks = || {
            (0..100).for_each(|_| check.run(&store));
            store.0.load(Ordering::Relaxed)
        };
        assert_eq!((checks(), lock(&check.last).1), (0, true));
        lock(&check.last).0 -= CHECK_INTERVAL;
        assert_eq!((checks(), lock(&check.last).1), (1, false));
        lock(&check.last).0 -= CHECK_INTERVAL;
        assert_eq!((checks(), lock(&check.last).1), (2, false));
    }
}

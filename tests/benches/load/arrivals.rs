//! How load arrives: as fast as the broker takes it, from a few that never wait; or at fixed times whatever the broker does, each arrival in a thread of its own.

use std::thread::{Builder, ScopedJoinHandle, scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

const STACK: usize = 256 << 10;

/// Each item in turn, so many at a time; how long all of them took.
pub fn without_pause<T: Send>(
    items: &mut [T],
    at_a_time: usize,
    work: impl Fn(&mut T) -> Result<()> + Sync,
) -> Result<Duration> {
    let (start, work) = (Instant::now(), &work);
    scope(|threads| {
        let share = items.len().div_ceil(at_a_time).max(1);
        let start = |items| threads.spawn(move || <[T]>::iter_mut(items).try_for_each(work));
        let started: Vec<_> = items.chunks_mut(share).map(start).collect();
        started.into_iter().try_for_each(|thread| ended(thread)?)
    })?;
    Ok(start.elapsed())
}

/// One item after another is due; `work` is told when it was. What it gave, in the order of the items.
pub fn at_fixed_times<T: Send, R: Send>(
    items: &mut [T],
    every: Duration,
    work: impl Fn(Instant, &mut T) -> R + Sync,
) -> Result<Vec<R>> {
    let (mut due, work) = (Instant::now(), &work);
    scope(|threads| {
        let mut started = Vec::new();
        for item in items {
            sleep(due.saturating_duration_since(Instant::now()));
            let when = due;
            let thread = Builder::new().stack_size(STACK).spawn_scoped(threads, move || work(when, item));
            started.push(thread.context("Failed to start a thread")?);
            due += every;
        }
        started.into_iter().map(ended).collect()
    })
}

fn ended<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a node of the load panicked"))
}

/// Times in ascending order.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Of these times.
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Result<Self> {
        let mut times: Vec<Duration> = times.into_iter().collect();
        ensure!(!times.is_empty(), "nothing was measured");
        times.sort();
        Ok(Self(times))
    }

    /// The time within which this part of them is, in milliseconds.
    pub fn within(&self, part: f64) -> f64 {
        let rank = (part * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1].as_secs_f64() * 1000.0
    }
}

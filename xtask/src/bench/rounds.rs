//! Times of something that is run again and again: the median of some rounds, where the sides take turns so that a busy machine slows all of them.

use std::time::Instant;

use anyhow::Result;

/// How often each side runs.
pub const ROUNDS: usize = 15;

/// Medians of [`ROUNDS`] runs of each side in milliseconds.
///
/// # Errors
/// The first error of a side.
pub fn alternate(mut ours: impl FnMut() -> Result<()>, mut theirs: impl FnMut() -> Result<()>) -> Result<(f64, f64)> {
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        times.0.push(milliseconds(&mut ours)?);
        times.1.push(milliseconds(&mut theirs)?);
    }
    Ok((middle(times.0), middle(times.1)))
}

/// Median of some runs in milliseconds.
///
/// # Errors
/// The first error of a run.
pub fn median(rounds: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let times: Vec<f64> = (0..rounds).map(|_| milliseconds(&mut run)).collect::<Result<_>>()?;
    Ok(middle(times))
}

fn milliseconds(run: &mut impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// The median.
pub fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_run_does_not_move_the_median() {
        assert_eq!(middle(vec![900.0, 1.0, 3.0, 2.0, 2.5]), 2.5);
    }

    #[test]
    fn the_sides_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let side = |name| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(())
            }
        };
        alternate(side('o'), side('t')).unwrap();
        assert_eq!(order.into_inner(), "ot".repeat(ROUNDS));
    }

    #[test]
    fn an_error_ends_the_rounds() {
        assert!(median(3, || anyhow::bail!("no")).is_err());
    }
}

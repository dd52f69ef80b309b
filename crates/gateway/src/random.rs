//! Chance for jitter and balancing; not for secrets.

use std::cell::Cell;

thread_local! {
    static STATE: Cell<u64> = Cell::new(seed());
}

fn seed() -> u64 {
    let mut bytes = [0_u8; 8];
    if getrandom::fill(&mut bytes).is_err() {
        // Without the system's source the address of a local still differs between threads.
        return std::ptr::from_ref(&bytes).addr() as u64 | 1;
    }
    u64::from_le_bytes(bytes)
}

/// A random number: SplitMix64, which passes the statistical tests and costs a nanosecond.
/// Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
pub(crate) fn number() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    })
}

/// A random number below `end`; 0 when `end` is 0.
pub(crate) fn below(end: u64) -> u64 {
    // The product's upper half is even enough: the error is below end / 2^64.
    u64::try_from((u128::from(number()) * u128::from(end)) >> 64).unwrap_or(0)
}

/// Whether something with this share of all cases happens now.
#[allow(clippy::cast_precision_loss, reason = "a share, not an amount")]
pub(crate) fn happens(share: f64) -> bool {
    ((number() >> 11) as f64) < share * (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_share_of_cases_happens() {
        assert!(!super::happens(0.0) && super::happens(1.0));
        let count = (0..10_000).filter(|_| super::happens(0.25)).count();
        assert!((2_000..3_000).contains(&count), "{count}");
    }

    #[test]
    fn numbers_stay_below_the_end_and_reach_all() {
        let mut seen = [0_u32; 7];
        for _ in 0..7_000 {
            seen[usize::try_from(super::below(7)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&count| count > 700), "{seen:?}");
        assert_eq!(super::below(0), 0);
    }
}

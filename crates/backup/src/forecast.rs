//! How long a recovery will take, from those that were measured.

/// A restore that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Bytes of the parts that were read.
    pub(crate) bytes: u64,
    /// Until the copy answered.
    pub(crate) ms: u64,
}

/// The time that restoring so many bytes will take, in milliseconds; `None` where none was measured.
///
/// A line through what was measured: the median of the slopes between each two (Theil 1950, Sen 1968), which one slow run does
/// not move, and the median of what is left as the time that every restore takes. Where all were of about the same size, no
/// slope can be told: then the median time, more in proportion for more bytes and never less.
pub(crate) fn forecast_ms(observed: &[Observed], bytes: u64) -> Option<u64> {
    /// A slope between two sizes nearer than this says more of the machine's mood than of the bytes.
    const APART: f64 = 1.5;
    #[allow(clippy::cast_precision_loss)] // 52 bits of bytes and milliseconds are plenty.
    let points: Vec<(f64, f64)> = observed.iter().map(|one| (one.bytes as f64, one.ms as f64)).collect();
    #[allow(clippy::cast_precision_loss)]
    let bytes = bytes as f64;
    let mut slopes = Vec::new();
    for (index, (x, y)) in points.iter().enumerate() {
        for (x2, y2) in &points[index + 1..] {
            let (small, large) = (x.min(*x2).max(1.0), x.max(*x2));
            if large / small >= APART {
                slopes.push((y2 - y) / (x2 - x));
            }
        }
    }
    let ms = match median(slopes) {
        Some(slope) if slope > 0.0 => {
            let rests = points.iter().map(|(x, y)| y - slope * x).collect();
            median(rests)?.max(0.0) + slope * bytes
        }
        _ => {
            let usual = median(points.iter().map(|(x, _)| *x).collect())?.max(1.0);
            median(points.iter().map(|(_, y)| *y).collect())? * (bytes / usual).max(1.0)
        }
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Positive, and saturating.
    Some(ms.round() as u64)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The value that half, or 95 of 100, do not exceed; the nearest that was measured.
pub(crate) fn percentile(values: &[u64], percent: usize) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[(u64, u64)]) -> Vec<Observed> {
        points.iter().map(|(bytes, ms)| Observed { bytes: *bytes, ms: *ms }).collect()
    }

    #[test]
    fn the_forecast_follows_what_was_measured() {
        for (points, bytes, expected) in [
            (vec![], 1_000, None),
            // One: in proportion for more, never less.
            (vec![(1_000, 500)], 2_000, Some(1_000)),
            (vec![(1_000, 500)], 10, Some(500)),
            // 200 ms for each, and 1 ms for each 10 bytes.
            (vec![(1_000, 300), (10_000, 1_200)], 20_000, Some(2_200)),
            (vec![(1_000, 300), (10_000, 1_200), (5_000, 700), (2_000, 400)], 100_000, Some(10_200)),
            // One run beside a busy machine does not move it.
            (
                vec![(1_000, 300), (2_000, 400), (4_000, 9_000), (8_000, 1_000), (16_000, 1_800)],
                32_000,
                Some(3_400),
            ),
            // All of one size: no slope can be told from noise.
            (vec![(1_000, 300), (1_001, 500), (999, 400)], 3_000, Some(1_200)),
            // Larger was faster: the machine's mood.
            (vec![(1_000, 900), (4_000, 300)], 2_500, Some(600)),
            (vec![(0, 100), (0, 300)], 5, Some(1_000)),
        ] {
            assert_eq!(forecast_ms(&line(&points), bytes), expected, "{points:?} {bytes}");
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        for (values, percent, expected) in [
            (vec![], 50, None),
            (vec![7], 50, Some(7)),
            (vec![7], 95, Some(7)),
            (vec![3, 1, 2], 50, Some(2)),
            (vec![4, 1, 2, 3], 50, Some(2)),
            (vec![4, 1, 2, 3], 95, Some(4)),
            (hundred.clone(), 95, Some(95)),
            (hundred, 100, Some(100)),
        ] {
            assert_eq!(percentile(&values, percent), expected, "{values:?} {percent}");
        }
    }
}

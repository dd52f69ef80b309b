//! Finding the rows in which two sets differ by asking for digests of ever smaller ranges.

use std::collections::BTreeMap;

use contract::{Context, Error, KeyRange, RangeDigest, RowChoice, RowEntry, RowKey, RowSet};
use futures::future::try_join;

/// Rows that the first look puts into one range.
const FIRST_RANGE_ROWS: u64 = 512;
/// Most ranges of the first look, if the engine finds a row's range by halving an array.
const FIRST_RANGES_MAX: u64 = 16_384;
/// The same for keys whose order takes longer to find.
const FIRST_RANGES_MAX_SLOW: u64 = 2_048;
/// Into how many parts a range is cut that differs.
const FAN_OUT: u64 = 32;
/// Rows of a range that are compared one by one.
const LEAF_ROWS: u64 = 48;
/// Rows in ranges that are looked into together.
const BATCH_ROWS: u64 = 1_000_000;
/// Differing keys that are kept; behind them only what is plain from counts is counted.
const KEYS_MAX: usize = 200_000;
/// Keys that are looked at again together.
const AGAIN_KEYS: usize = 20_000;

/// How two sets differ.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Rows left and right.
    pub(crate) rows: [u64; 2],
    pub(crate) only_left: Vec<RowKey>,
    pub(crate) only_right: Vec<RowKey>,
    pub(crate) changed: Vec<RowKey>,
    /// Rows in ranges that the other side has nothing of, and whose keys were not read.
    pub(crate) uncompared: [u64; 2],
    /// Keys that differed at the first look and not at the second.
    pub(crate) settled: u64,
    /// Nothing was left out of the counts.
    pub(crate) exact: bool,
    /// Ranges whose digests were compared.
    pub(crate) ranges: u64,
}

impl Found {
    pub(crate) fn is_empty(&self) -> bool {
        self.exact && self.keys() == 0 && self.uncompared == [0, 0]
    }

    fn keys(&self) -> usize {
        self.only_left.len() + self.only_right.len() + self.changed.len()
    }

    /// Takes in both sides' rows of some ranges or keys.
    fn compare(&mut self, left: Vec<RowEntry>, right: Vec<RowEntry>) {
        let by_key = |entries: Vec<RowEntry>| {
            let mut map: BTreeMap<RowKey, Vec<[i64; 2]>> = BTreeMap::new();
            for entry in entries {
                map.entry(entry.key).or_default().push(entry.hash);
            }
            // A key that is none may have several rows, in any order.
            for hashes in map.values_mut() {
                hashes.sort_unstable();
            }
            map
        };
        let (left, mut right) = (by_key(left), by_key(right));
        for (key, hashes) in left {
            match right.remove(&key) {
                None => self.only_left.push(key),
                Some(others) if others != hashes => self.changed.push(key),
                Some(_) => {}
            }
        }
        self.only_right.extend(right.into_keys());
    }
}

/// How many ranges to begin with.
pub(crate) fn parts(rows: u64, fixed: bool) -> usize {
    let most = if fixed { FIRST_RANGES_MAX } else { FIRST_RANGES_MAX_SLOW };
    usize::try_from((rows / FIRST_RANGE_ROWS).clamp(1, most)).unwrap_or(1)
}

/// A range that differs, and how many rows each side has there.
struct Open {
    range: KeyRange,
    rows: [u64; 2],
}

impl Open {
    fn most(&self) -> u64 {
        self.rows[0].max(self.rows[1])
    }

    fn is_leaf(&self) -> bool {
        self.most() <= LEAF_ROWS || self.rows.contains(&0)
    }
}

/// All keys whose rows differ.
///
/// Every row is hashed once by each side. Then only ranges that differ are cut and hashed again, until few rows are left,
/// whose keys and hashes are compared here.
pub(crate) async fn differences(
    ctx: &Context,
    left: &mut dyn RowSet,
    right: &mut dyn RowSet,
    parts: usize,
    sample_right: bool,
) -> Result<Found, Error> {
    let mut found = Found { exact: true, ..Found::default() };
    let bounds = if parts <= 1 {
        Vec::new()
    } else if sample_right {
        right.quantiles(ctx, parts).await?
    } else {
        left.quantiles(ctx, parts).await?
    };
    let first = ranges(&KeyRange::default(), &bounds);
    let (of_left, of_right) = try_join(left.digests(ctx, &first), right.digests(ctx, &first)).await?;
    for (side, digests) in [&of_left, &of_right].into_iter().enumerate() {
        found.rows[side] = digests.iter().map(|digest| digest.rows).sum();
    }
    let mut open = differing(&mut found, first, &of_left, &of_right);
    while !open.is_empty() {
        let mut next = Vec::new();
        let mut rest = open.into_iter().peekable();
        while rest.peek().is_some() {
            let mut batch = Vec::new();
            let mut rows = 0;
            while let Some(range) = rest.peek()
                && (batch.is_empty() || rows + range.most() <= BATCH_ROWS)
            {
                rows += range.most();
                batch.extend(rest.next());
            }
            next.extend(look_into(ctx, left, right, batch, &mut found).await?);
        }
        open = next;
    }
    Ok(found)
}

/// Looks into ranges that differ: compares the rows of small ones, cuts the others and gives those parts that differ.
async fn look_into(
    ctx: &Context,
    left: &mut dyn RowSet,
    right: &mut dyn RowSet,
    batch: Vec<Open>,
    found: &mut Found,
) -> Result<Vec<Open>, Error> {
    let (mut leaves, mut cut): (Vec<Open>, Vec<Open>) = batch.into_iter().partition(Open::is_leaf);
    if found.keys() >= KEYS_MAX {
        // Too many to name. What only one side has is still counted.
        for range in leaves.iter().chain(&cut) {
            match range.rows {
                [rows, 0] => found.uncompared[0] += rows,
                [0, rows] => found.uncompared[1] += rows,
                _ => found.exact = false,
            }
        }
        return Ok(Vec::new());
    }
    leaves.retain(|leaf| {
        let counted = leaf.rows.contains(&0) && leaf.most() > KEYS_MAX as u64;
        if counted {
            found.uncompared[0] += leaf.rows[0];
            found.uncompared[1] += leaf.rows[1];
        }
        !counted
    });
    if !leaves.is_empty() {
        let of = |side: usize| -> Vec<KeyRange> {
            leaves.iter().filter(|leaf| leaf.rows[side] > 0).map(|leaf| leaf.range.clone()).collect()
        };
        let (of_left, of_right) = (of(0), of(1));
        let (a, b) = try_join(
            entries(ctx, left, RowChoice::Ranges(&of_left)),
            entries(ctx, right, RowChoice::Ranges(&of_right)),
        )
        .await?;
        found.compare(a, b);
    }
    if cut.is_empty() {
        return Ok(Vec::new());
    }
    // The side with more rows knows better where to cut.
    let mut cuts: Vec<Vec<RowKey>> = vec![Vec::new(); cut.len()];
    for side in [0, 1] {
        let mine: Vec<usize> =
            (0..cut.len()).filter(|i| usize::from(cut[*i].rows[1] > cut[*i].rows[0]) == side).collect();
        if mine.is_empty() {
            continue;
        }
        let asked: Vec<(KeyRange, u64)> =
            mine.iter().map(|i| (cut[*i].range.clone(), cut[*i].most().div_ceil(FAN_OUT).max(1))).collect();
        let answered =
            if side == 0 { left.cuts(ctx, &asked).await? } else { right.cuts(ctx, &asked).await? };
        for (i, keys) in mine.into_iter().zip(answered) {
            cuts[i] = keys;
        }
    }
    let (mut parts, mut whole) = (Vec::new(), Vec::new());
    for (range, keys) in cut.drain(..).zip(cuts) {
        if keys.is_empty() {
            // One key with many rows: nothing smaller can be asked for.
            whole.push(range.range);
        } else {
            parts.extend(ranges(&range.range, &keys));
        }
    }
    if !whole.is_empty() {
        let (a, b) = try_join(
            left.entries(ctx, RowChoice::Ranges(&whole)),
            right.entries(ctx, RowChoice::Ranges(&whole)),
        )
        .await?;
        found.compare(a, b);
    }
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let (a, b) = try_join(left.digests(ctx, &parts), right.digests(ctx, &parts)).await?;
    Ok(differing(found, parts, &a, &b))
}

async fn entries(ctx: &Context, set: &mut dyn RowSet, choice: RowChoice<'_>) -> Result<Vec<RowEntry>, Error> {
    let nothing = match choice {
        RowChoice::Ranges(ranges) => ranges.is_empty(),
        RowChoice::Keys(keys) => keys.is_empty(),
    };
    if nothing { Ok(Vec::new()) } else { set.entries(ctx, choice).await }
}

/// The parts of a range between these keys.
fn ranges(range: &KeyRange, cuts: &[RowKey]) -> Vec<KeyRange> {
    let mut from = range.from.clone();
    let mut out = Vec::with_capacity(cuts.len() + 1);
    for cut in cuts {
        out.push(KeyRange { from, to: Some(cut.clone()) });
        from = Some(cut.clone());
    }
    out.push(KeyRange { from, to: range.to.clone() });
    out
}

fn differing(
    found: &mut Found,
    ranges: Vec<KeyRange>,
    left: &[RangeDigest],
    right: &[RangeDigest],
) -> Vec<Open> {
    found.ranges += ranges.len() as u64;
    ranges
        .into_iter()
        .zip(left.iter().zip(right))
        .filter(|(_, (left, right))| left != right)
        .map(|(range, (left, right))| Open { range, rows: [left.rows, right.rows] })
        .collect()
}

/// Looks at the differing keys again, in newer snapshots, and keeps those that still differ.
pub(crate) async fn look_again(
    ctx: &Context,
    left: &mut dyn RowSet,
    right: &mut dyn RowSet,
    found: &mut Found,
) -> Result<(), Error> {
    let mut keys: Vec<RowKey> = Vec::new();
    for of_kind in [&mut found.only_left, &mut found.only_right, &mut found.changed] {
        keys.append(of_kind);
    }
    for keys in keys.chunks(AGAIN_KEYS) {
        let (a, b) =
            try_join(entries(ctx, left, RowChoice::Keys(keys)), entries(ctx, right, RowChoice::Keys(keys)))
                .await?;
        found.compare(a, b);
    }
    found.settled = keys.len().saturating_sub(found.keys()) as u64;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_leave_no_gap() {
        let key = |text: &str| vec![text.to_owned()];
        let parts = ranges(&KeyRange { from: Some(key("a")), to: None }, &[key("c"), key("e")]);
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[0], KeyRange { from: Some(key("a")), to: Some(key("c")) });
        assert_eq!(parts[2], KeyRange { from: Some(key("e")), to: None });
    }

    #[test]
    fn few_rows_are_one_range_and_many_are_bounded() {
        for (rows, fixed, expected) in
            [(0, true, 1), (512, true, 1), (10_000_000, true, 16_384), (10_000_000, false, 2_048)]
        {
            assert_eq!(parts(rows, fixed), expected, "{rows} {fixed}");
        }
    }

    #[test]
    fn keys_are_told_apart_by_their_rows() {
        let entry = |key: &str, hash: i64| RowEntry { key: vec![key.to_owned()], hash: [hash, 0] };
        let mut found = Found::default();
        found.compare(
            vec![entry("a", 1), entry("b", 2), entry("c", 3), entry("d", 4), entry("d", 5)],
            vec![entry("b", 2), entry("c", 9), entry("e", 6), entry("d", 5), entry("d", 4)],
        );
        let names = |keys: &[RowKey]| keys.concat();
        assert_eq!(names(&found.only_left), ["a"]);
        assert_eq!(names(&found.only_right), ["e"]);
        assert_eq!(names(&found.changed), ["c"]);
    }
}

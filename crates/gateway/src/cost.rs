//! What tokens cost: exact sums, rounded up once at the end.
//!
//! A rate is a whole number of nano-dollars per million tokens, so the cost of a request is the sum over the classes of
//! tokens × rate, divided by a million. The sum is exact in 128 bits; the division rounds up to a whole nano-dollar, once
//! per request. Nothing here is a floating point number.

use wire::Usage;

use crate::Usd;
use crate::price::{Long, Prices, Rates, Tier};

/// Tokens that a rate is for.
const MILLION: i128 = 1_000_000;
/// Bytes of generated text that make a token when nobody counted; most tokenizers need more bytes for one, so that an
/// estimate is rather too high.
const BYTES_PER_TOKEN: u64 = 3;

/// What something cost and by which rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// The amount.
    pub usd: Usd,
    /// The tier whose rates were used.
    pub tier: Tier,
    /// The table names no rates for the tier; those of the standard tier were used.
    pub tier_unpriced: bool,
    /// The rates of long requests were used.
    pub long: bool,
}

/// The rates of every class, with those that are absent filled in from their nearest relative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Full {
    input: i64,
    cache_read: i64,
    cache_write_5m: i64,
    cache_write_1h: i64,
    audio_input: i64,
    output: i64,
    reasoning: i64,
    audio_output: i64,
}

macro_rules! full {
    ($rates:expr) => {{
        let rates = $rates;
        let write = rates.cache_write_5m.unwrap_or(rates.input);
        Full {
            input: rates.input.nanos(),
            cache_read: rates.cache_read.unwrap_or(rates.input).nanos(),
            cache_write_5m: write.nanos(),
            cache_write_1h: rates.cache_write_1h.unwrap_or(write).nanos(),
            audio_input: rates.audio_input.unwrap_or(rates.input).nanos(),
            output: rates.output.nanos(),
            reasoning: rates.reasoning.unwrap_or(rates.output).nanos(),
            audio_output: rates.audio_output.unwrap_or(rates.output).nanos(),
        }
    }};
}

impl Full {
    fn of(rates: &Rates) -> Self {
        full!(rates)
    }

    fn of_long(long: &Long) -> Self {
        full!(long)
    }

    /// The higher rate of each class.
    fn max(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cache_read: self.cache_read.max(other.cache_read),
            cache_write_5m: self.cache_write_5m.max(other.cache_write_5m),
            cache_write_1h: self.cache_write_1h.max(other.cache_write_1h),
            audio_input: self.audio_input.max(other.audio_input),
            output: self.output.max(other.output),
            reasoning: self.reasoning.max(other.reasoning),
            audio_output: self.audio_output.max(other.audio_output),
        }
    }

    /// The highest rate that a token of input can have.
    fn any_input(&self) -> i64 {
        self.input
            .max(self.cache_read)
            .max(self.cache_write_5m)
            .max(self.cache_write_1h)
            .max(self.audio_input)
    }

    /// The highest rate that a token of output can have.
    fn any_output(&self) -> i64 {
        self.output.max(self.reasoning).max(self.audio_output)
    }

    /// Sum of tokens × rate, in nano-dollars × a million.
    fn sum(&self, usage: &Usage) -> i128 {
        let reasoning = usage.reasoning.min(usage.output);
        [
            (usage.input, self.input),
            (usage.cache_read, self.cache_read),
            (usage.cache_write_5m, self.cache_write_5m),
            (usage.cache_write_1h, self.cache_write_1h),
            (usage.audio_input, self.audio_input),
            (usage.output - reasoning, self.output),
            (reasoning, self.reasoning),
            (usage.audio_output, self.audio_output),
        ]
        .into_iter()
        .fold(0, |sum: i128, (tokens, rate)| sum.saturating_add(i128::from(tokens) * i128::from(rate)))
    }
}

/// What these tokens cost at these prices in this tier.
pub fn cost(prices: &Prices, usage: &Usage, tier: Tier) -> Cost {
    let rates = prices.rates(tier);
    let tier_unpriced = rates.is_none();
    let rates = rates.unwrap_or(&prices.standard);
    let (full, long) = rates_for(prices, rates, usage.prompt());
    let per_call = i128::from(prices.usd_per_call.unwrap_or_default().nanos()) * MILLION;
    Cost {
        usd: round_up(full.sum(usage).saturating_add(per_call)),
        tier: if tier_unpriced { Tier::Standard } else { tier },
        tier_unpriced,
        long,
    }
}

/// What these tokens cost that many requests used together, all of them long ones or none: the threshold for long
/// requests looks at single ones.
pub fn cost_in_all(prices: &Prices, usage: &Usage, tier: Tier, long: bool) -> Usd {
    let rates = prices.rates(tier).unwrap_or(&prices.standard);
    let full = if long { rates_for(prices, rates, u64::MAX).0 } else { Full::of(rates) };
    round_up(full.sum(usage))
}

/// What the training with so many tokens costs; `None`: the prices name none for it.
pub fn training_cost(prices: &Prices, trained_tokens: u64) -> Option<Usd> {
    Some(round_up(i128::from(trained_tokens) * i128::from(prices.training?.nanos())))
}

/// The rates that hold for a request with so many tokens of input. A tier without rates of its own for long requests
/// uses, class by class, the higher of its own and the standard tier's for long ones.
fn rates_for(prices: &Prices, rates: &Rates, input: u64) -> (Full, bool) {
    let own = Full::of(rates);
    if let Some(long) = &rates.long {
        return if input > long.above_tokens { (Full::of_long(long), true) } else { (own, false) };
    }
    match &prices.standard.long {
        Some(long) if input > long.above_tokens => (own.max(Full::of_long(long)), true),
        _ => (own, false),
    }
}

/// The most that a request can cost, whatever class its tokens turn out to be.
///
/// `tiers` are those that the provider may choose.
pub fn bound(prices: &Prices, input_tokens_max: u64, output_tokens_max: u64, tiers: &[Tier]) -> Usd {
    let dearest = tiers.iter().map(|tier| {
        let rates = prices.rates(*tier).unwrap_or(&prices.standard);
        let (full, _) = rates_for(prices, rates, input_tokens_max);
        // Fewer tokens than the bound may fall under the threshold, where a class can be dearer in odd tables.
        let full = full.max(Full::of(rates));
        i128::from(input_tokens_max) * i128::from(full.any_input())
            + i128::from(output_tokens_max) * i128::from(full.any_output())
    });
    let per_call = i128::from(prices.usd_per_call.unwrap_or_default().nanos()) * MILLION;
    round_up(dearest.max().unwrap_or(0).saturating_add(per_call))
}

/// How many tokens of output can be paid with `left`, once the prompt is paid; `None`: not even the prompt can.
pub fn output_tokens_within(
    prices: &Prices,
    input_tokens_max: u64,
    left: Usd,
    tiers: &[Tier],
) -> Option<u64> {
    let prompt = bound(prices, input_tokens_max, 0, tiers);
    let rest = left.nanos().checked_sub(prompt.nanos()).filter(|rest| *rest >= 0)?;
    let rate = tiers
        .iter()
        .map(|tier| {
            let rates = prices.rates(*tier).unwrap_or(&prices.standard);
            rates_for(prices, rates, input_tokens_max).0.max(Full::of(rates)).any_output()
        })
        .max()
        .unwrap_or(0);
    if rate == 0 {
        return Some(u64::MAX);
    }
    Some(u64::try_from(i128::from(rest) * MILLION / i128::from(rate)).unwrap_or(u64::MAX))
}

/// Tokens when nobody counted them: the estimated prompt, and the text that was delivered.
pub fn estimated_usage(input_tokens_estimate: u64, delivered_bytes: u64) -> Usage {
    Usage {
        input: input_tokens_estimate,
        output: delivered_bytes.div_ceil(BYTES_PER_TOKEN),
        ..Usage::default()
    }
}

/// Nano-dollars from nano-dollars × a million; more than can be written becomes the most that can.
fn round_up(sum: i128) -> Usd {
    let nanos = sum / MILLION + i128::from(sum % MILLION > 0);
    Usd::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::price::PriceTable;

    fn prices(provider: &str, model: &str) -> Prices {
        let table = PriceTable::built_in();
        let row = table.find(provider, model).expect(model);
        row.prices_at("2026-11-23T00:00:00Z".parse().unwrap()).clone()
    }

    fn usage(input: u64, cache_read: u64, output: u64) -> Usage {
        Usage { input, cache_read, output, ..Usage::default() }
    }

    #[test]
    fn known_sums_are_exact() {
        // Worked by hand from the published prices.
        for (provider, model, usage, tier, nanos) in [
            // 1000 × 250 + 500 × 25 + 200 × 2000 nano-dollars
            ("openai", "gpt-5-mini", usage(1000, 500, 200), Tier::Standard, 662_500),
            ("openai", "gpt-5-mini", usage(1000, 500, 200), Tier::Batch, 331_250),
            ("openai", "gpt-5-mini", usage(1000, 500, 200), Tier::Priority, 1_192_500),
            // 3 × 5 + 1 × 20 … a third of a nano-dollar is rounded up, once
            ("openai", "gpt-6-luna", usage(1, 1, 0), Tier::Flex, 55),
            (
                "anthropic",
                "claude-haiku-4-5",
                Usage {
                    input: 10,
                    cache_read: 20,
                    cache_write_5m: 30,
                    cache_write_1h: 40,
                    output: 50,
                    ..Usage::default()
                },
                Tier::Standard,
                // 10×1000 + 20×100 + 30×1250 + 40×2000 + 50×5000
                10_000 + 2_000 + 37_500 + 80_000 + 250_000,
            ),
            (
                "gemini",
                "gemini-2.5-flash",
                Usage { input: 7, audio_input: 11, output: 13, reasoning: 5, ..Usage::default() },
                Tier::Standard,
                7 * 300 + 11 * 1000 + 13 * 2500,
            ),
            (
                "openai",
                "gpt-audio",
                Usage { audio_output: 3, ..Usage::default() },
                Tier::Standard,
                3 * 64_000,
            ),
            ("openai", "text-embedding-3-small", usage(1, 0, 0), Tier::Batch, 10),
            // At the threshold still short, one token above all of it is long.
            ("gemini", "gemini-2.5-pro", usage(200_000, 0, 10), Tier::Standard, 200_000 * 1250 + 10 * 10_000),
            (
                "gemini",
                "gemini-2.5-pro",
                usage(199_000, 1_001, 10),
                Tier::Standard,
                199_000 * 2500 + 1_001 * 250 + 10 * 15_000,
            ),
        ] {
            let cost = cost(&prices(provider, model), &usage, tier);
            assert_eq!(cost.usd.nanos(), nanos, "{model} {tier:?} {usage:?}");
            assert!(!cost.tier_unpriced, "{model} {tier:?}");
        }
    }

    #[test]
    fn a_fraction_is_rounded_up_once_at_the_end() {
        // 0.0025 dollars a million are 2.5 nano-dollars a token: two tokens are 5, not 3 + 3.
        let prices = prices("openai", "gpt-5-nano");
        let of = |tokens| cost(&prices, &usage(0, tokens, 0), Tier::Batch).usd.nanos();
        assert_eq!([of(0), of(1), of(2), of(3), of(4)], [0, 3, 5, 8, 10]);
    }

    #[test]
    fn a_tier_without_prices_is_the_standard_one_and_says_so() {
        let row = prices("openai", "gpt-4o");
        let cost = cost(&row, &usage(10, 0, 0), Tier::Flex);
        assert!(cost.tier_unpriced);
        assert_eq!((cost.usd.nanos(), cost.tier), (25_000, Tier::Standard));
    }

    #[test]
    fn absurd_counts_saturate() {
        let all = Usage {
            input: u64::MAX,
            cache_read: u64::MAX,
            cache_write_5m: u64::MAX,
            cache_write_1h: u64::MAX,
            audio_input: u64::MAX,
            output: u64::MAX,
            reasoning: u64::MAX,
            audio_output: u64::MAX,
        };
        assert_eq!(cost(&prices("openai", "o1-pro"), &all, Tier::Standard).usd.nanos(), i64::MAX);
        assert_eq!(
            bound(&prices("openai", "o1-pro"), u64::MAX, u64::MAX, &[Tier::Standard]).nanos(),
            i64::MAX
        );
    }

    fn any_model() -> impl Strategy<Value = Prices> {
        let models = PriceTable::built_in().models().to_vec();
        (0..models.len(), 0..3usize)
            .prop_map(move |(at, period)| models[at].prices[period.min(models[at].prices.len() - 1)].clone())
    }

    fn any_tier() -> impl Strategy<Value = Tier> {
        prop_oneof![Just(Tier::Standard), Just(Tier::Batch), Just(Tier::Flex), Just(Tier::Priority)]
    }

    proptest! {
        #[test]
        fn no_usage_within_the_bounds_costs_more_than_the_bound(
            prices in any_model(), tier in any_tier(),
            parts in prop::array::uniform5(0u64..150_000), output in 0u64..100_000, audio in 0u64..1_000,
            slack in 0u64..1_000,
        ) {
            let [input, cache_read, cache_write_5m, cache_write_1h, audio_input] = parts;
            let usage = Usage {
                input, cache_read, cache_write_5m, cache_write_1h, audio_input,
                output, reasoning: output / 2, audio_output: audio,
            };
            let (most_in, most_out) = (usage.prompt() + slack, usage.completion() + slack);
            let cost = cost(&prices, &usage, tier);
            let bound = bound(&prices, most_in, most_out, &[tier]);
            prop_assert!(cost.usd <= bound, "{cost:?} {bound:?}");
        }

        #[test]
        fn the_tokens_that_fit_are_the_most_that_fit(
            prices in any_model(), tier in any_tier(), input in 0u64..400_000, left in 0i64..10_000_000_000,
        ) {
            let left = Usd::from_nanos(left);
            match output_tokens_within(&prices, input, left, &[tier]) {
                None => prop_assert!(bound(&prices, input, 0, &[tier]) > left),
                Some(u64::MAX) => {}
                Some(fit) => {
                    prop_assert!(bound(&prices, input, fit, &[tier]) <= left);
                    prop_assert!(bound(&prices, input, fit + 2, &[tier]) > left);
                }
            }
        }
    }
}

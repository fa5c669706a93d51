//! The sliding window's long arithmetic in Lua against 128-bit integers.

use super::servers::Redis;

const SOURCE: &str = concat!(
    include_str!("../../src/redis/scripts/fixed_window.lua"),
    include_str!("../../src/redis/scripts/sliding_window.lua"),
    "local answers = {}
     for i = 1, #ARGV, 3 do
       local weight = weigh(tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
       answers[#answers + 1] = string.format('%.0f', weight)
     end
     return answers",
);

/// 366 days in microseconds.
const LONGEST: u64 = 366 * 86_400 * 1_000_000;

fn cases() -> Vec<(u64, u64, u64)> {
    let mut cases = Vec::new();
    for count in [1, 2, 127, 128, 999_999_999, 1_000_000_000, u64::from(u32::MAX)] {
        for period in [1_000, 60_000_000, LONGEST - 1_000, LONGEST] {
            for left in [1, 2, period / 3, period / 2, period - 1, period] {
                cases.push((count, left, period));
            }
        }
    }
    let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 3) % sides
    };
    for _ in 0..20_000 {
        // All magnitudes alike, so that both ways of computing and their border are met.
        let (bits, size) = (below(32), below(45));
        let count = 1 + below(1 << (bits + 1)).min(u64::from(u32::MAX) - 1);
        let period = 1_000 * (1 + below(1 << size).min(LONGEST / 1_000 - 1));
        cases.push((count, 1 + below(period), period));
    }
    // Products around 2^53, where a double begins to lose units.
    for _ in 0..5_000 {
        let period = 1_000 * (1 + below(LONGEST / 1_000));
        let left = 1 + below(period);
        let count = ((1_u64 << 53) / left + below(3)).saturating_sub(1).clamp(1, u64::from(u32::MAX));
        cases.push((count, left, period));
    }
    cases
}

#[test]
fn weights_are_exact() {
    let server = Redis::start();
    let mut connection = server.connection();
    let cases = cases();
    let mut pipeline = redis::pipe();
    for some in cases.chunks(500) {
        let call = pipeline.cmd("EVAL").arg(SOURCE).arg(0);
        for (count, left, period) in some {
            call.arg(count).arg(left).arg(period);
        }
    }
    let answers: Vec<Vec<u64>> = pipeline.query(&mut connection).expect("the script runs");
    let answers: Vec<u64> = answers.concat();
    assert_eq!(answers.len(), cases.len());
    let mut long = 0;
    for ((count, left, period), answer) in cases.into_iter().zip(answers) {
        let product = u128::from(count) * u128::from(left);
        long += u32::from(product >= 1 << 53);
        assert_eq!(u128::from(answer), product.div_ceil(u128::from(period)), "{count} × {left} / {period}");
    }
    assert!(long > 3_000, "the long way was taken {long} times");
}

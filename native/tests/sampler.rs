//! The sampler against a naive reference, against the probabilities themselves, and on logits that are not numbers.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "test code: a failure is a panic, sizes are small"
)]

mod common;

use common::Rng;
use loramux_native::sampler::{NO_TOKEN, RowSampling, Sampled, Sampler};

fn row() -> RowSampling {
    RowSampling {
        greedy: false,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        seed: 42,
        choice: 0,
        position: 0,
        logprob: true,
        history: Vec::new(),
    }
}

/// Probability of every id, computed the plain way: a full sort, no reuse.
fn probabilities(logits: &[f32], row: &RowSampling) -> Vec<f64> {
    let mut scaled: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    for (id, logit) in scaled.iter_mut().enumerate() {
        if row.history.contains(&(id as u32)) {
            let penalty = f64::from(row.repetition_penalty);
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        *logit /= f64::from(row.temperature);
    }
    let mut order: Vec<usize> = (0..scaled.len()).collect();
    order.sort_by(|&a, &b| scaled[b].total_cmp(&scaled[a]).then(a.cmp(&b)));
    if row.top_k > 0 {
        order.truncate(row.top_k);
    }
    let top = scaled[order[0]];
    let total: f64 = order.iter().map(|&id| (scaled[id] - top).exp()).sum();
    let mut kept = Vec::new();
    let mut reached = 0.0;
    for id in order {
        if reached >= f64::from(row.top_p) && row.top_p < 1.0 {
            break;
        }
        reached += (scaled[id] - top).exp() / total;
        kept.push(id);
    }
    let total: f64 = kept.iter().map(|&id| (scaled[id] - top).exp()).sum();
    let mut out = vec![0.0; logits.len()];
    for id in kept {
        out[id] = (scaled[id] - top).exp() / total;
    }
    out
}

#[test]
fn draws_come_with_the_probabilities_of_the_reference() {
    const DRAWS: u32 = 20_000;
    let mut rng = Rng(1);
    let logits = rng.floats(40, 2.5);
    let cases = [
        RowSampling { ..row() },
        RowSampling { temperature: 0.6, ..row() },
        RowSampling { top_k: 5, ..row() },
        RowSampling { top_p: 0.8, ..row() },
        RowSampling { top_k: 20, top_p: 0.5, temperature: 1.7, ..row() },
        RowSampling { repetition_penalty: 1.8, history: vec![3, 7, 7, 30, 39, 3], ..row() },
        RowSampling { top_k: 400, ..row() },
    ];
    let mut sampler = Sampler::default();
    for (n, case) in cases.into_iter().enumerate() {
        let wanted = probabilities(&logits, &case);
        let mut counts = vec![0u32; logits.len()];
        for position in 0..DRAWS {
            let Sampled { token, logprob } = sampler.sample(&logits, logits.len(), &RowSampling { position, ..case.clone() });
            counts[token as usize] += 1;
            let expected = wanted[token as usize].ln();
            assert!((f64::from(logprob) - expected).abs() < 1e-4, "case {n}: log-probability of {token}: {logprob}, expected {expected}");
        }
        // Pearson's statistic over what can be drawn; cells below five expected draws are put together.
        let (mut statistic, mut cells, mut rare) = (0.0, 0, (0.0, 0.0));
        for (count, p) in counts.iter().zip(&wanted) {
            let (count, expected) = (f64::from(*count), p * f64::from(DRAWS));
            assert!(expected > 0.0 || count == 0.0, "case {n}: drew what was filtered out");
            if expected >= 5.0 {
                statistic += (count - expected).powi(2) / expected;
                cells += 1;
            } else {
                rare = (rare.0 + count, rare.1 + expected);
            }
        }
        if rare.1 > 1.0 {
            statistic += (rare.0 - rare.1).powi(2) / rare.1;
            cells += 1;
        }
        let freedom = f64::from(cells - 1);
        // Five standard deviations: a fixed seed either always passes or the draws are off.
        assert!(statistic < freedom + 5.0 * (2.0 * freedom).sqrt(), "case {n}: chi-square {statistic:.1} at {freedom} degrees of freedom");
    }
}

#[test]
fn the_same_key_gives_the_same_token_whatever_came_before() {
    let mut rng = Rng(2);
    let logits = rng.floats(500, 1.0);
    let key = |seed, choice, position| RowSampling { seed, choice, position, ..row() };
    let fresh = |row: &RowSampling| Sampler::default().sample(&logits, 500, row).token;
    let mut used = Sampler::default();
    for position in 0..50 {
        let _ = used.sample(&rng.floats(37, 1.0), 37, &RowSampling { top_k: 3, ..row() });
        let row = key(9, 1, position);
        assert_eq!(used.sample(&logits, 500, &row).token, fresh(&row));
    }
    let tokens = |seed, choice| (0..50).map(|position| fresh(&key(seed, choice, position))).collect::<Vec<_>>();
    assert_ne!(tokens(9, 1), tokens(10, 1), "the seed matters");
    assert_ne!(tokens(9, 1), tokens(9, 2), "the choice matters");
    assert_ne!(tokens(u64::MAX, 0), tokens(u64::MAX - 1, 0), "all 64 bits of the seed matter");
    assert!(tokens(9, 1).windows(2).any(|pair| pair[0] != pair[1]), "the position matters");
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    let greedy = RowSampling { greedy: true, ..row() };
    let mut sampler = Sampler::default();
    let sampled = sampler.sample(&[1.0, 3.0, 3.0, 2.0, 3.0], 5, &greedy);
    assert_eq!(sampled.token, 1);
    let expected = 3f64.exp() / (1f64.exp() + 3.0 * 3f64.exp() + 2f64.exp());
    assert!((f64::from(sampled.logprob) - expected.ln()).abs() < 1e-6);
    let silent = sampler.sample(&[1.0, 2.0], 2, &RowSampling { logprob: false, ..greedy });
    assert!(silent.token == 1 && silent.logprob.is_nan());
}

#[test]
fn top_k_of_one_and_a_tiny_top_p_are_greedy() {
    let mut rng = Rng(3);
    for _ in 0..50 {
        let logits = rng.floats(100, 1.0);
        let mut sampler = Sampler::default();
        let best = sampler.sample(&logits, 100, &RowSampling { greedy: true, ..row() }).token;
        for narrow in [RowSampling { top_k: 1, ..row() }, RowSampling { top_p: 1e-6, ..row() }] {
            assert_eq!(sampler.sample(&logits, 100, &narrow), Sampled { token: best, logprob: 0.0 });
        }
    }
}

#[test]
fn ids_from_the_token_count_on_are_never_chosen() {
    let logits = [0.0, 0.0, 9.0, f32::INFINITY];
    let mut sampler = Sampler::default();
    assert_eq!(sampler.sample(&logits, 2, &RowSampling { greedy: true, ..row() }).token, 0);
    for position in 0..200 {
        assert!(sampler.sample(&logits, 2, &RowSampling { position, ..row() }).token < 2);
        assert!(sampler.sample(&logits[..2], 900, &RowSampling { position, ..row() }).token < 2);
    }
}

#[test]
fn logits_that_are_no_numbers_give_a_defined_token_or_none() {
    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;
    // Logits, what may be chosen, whether the log-probability is a number.
    let cases: [(&[f32], &[u32], bool); 7] = [
        (&[NAN, NAN, NAN], &[NO_TOKEN], false),
        (&[-INF, -INF], &[NO_TOKEN], false),
        (&[NAN, 1.0, NAN, 1.0], &[1, 3], true),
        (&[-NAN, 1.0, -INF], &[1], true),
        (&[INF, 1.0, INF], &[0, 2], true),
        (&[f32::MAX, -f32::MAX, NAN], &[0], true),
        (&[-INF, NAN, INF], &[2], true),
    ];
    let ways = [
        RowSampling { greedy: true, ..row() },
        row(),
        RowSampling { top_k: 2, ..row() },
        RowSampling { top_p: 0.9, ..row() },
        RowSampling { temperature: 1e-40, ..row() },
        RowSampling { temperature: 3e38, ..row() },
        RowSampling { repetition_penalty: 1e-40, history: vec![0, 1, 2, u32::MAX], ..row() },
        RowSampling { repetition_penalty: 3e38, history: vec![0, 1, 2], ..row() },
    ];
    let mut sampler = Sampler::default();
    for (n, (logits, allowed, number)) in cases.iter().enumerate() {
        for (w, way) in ways.iter().enumerate() {
            for position in 0..40 {
                let sampled = sampler.sample(logits, logits.len(), &RowSampling { position, ..way.clone() });
                assert!((sampled.token as usize) < logits.len() || sampled.token == NO_TOKEN, "case {n} way {w}");
                // Extreme temperatures and penalties may rightly reorder what is finite.
                if w < 4 {
                    assert!(allowed.contains(&sampled.token), "case {n} way {w}: {sampled:?}");
                    assert_eq!(!sampled.logprob.is_nan(), *number, "case {n} way {w}: {sampled:?}");
                }
            }
        }
    }
}

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
use loramux_native::sampler::{Logprobs, NO_TOKEN, Penalties, RowSampling, Sampled, Sampler, Scope};

/// Draws from everything and reports processed log-probabilities.
fn row() -> RowSampling {
    RowSampling { greedy: false, seed: 42, logprobs: Some(Logprobs { raw: false, top: 0 }), ..RowSampling::default() }
}

fn repetition(repetition: f32, history: &[u32]) -> Penalties {
    let history = history.to_vec();
    Penalties { repetition, presence: 0.0, frequency: 0.0, scope: Scope::Output, history, prompt_length: 0 }
}

fn history(scope: Scope) -> Penalties {
    let history = vec![3, 7, 7, 30, 39, 3, 3, 12];
    Penalties { repetition: 1.0, presence: 0.0, frequency: 0.0, scope, history, prompt_length: 4 }
}

/// Probability of every id, computed the plain way: a full sort, no reuse.
fn probabilities(logits: &[f32], row: &RowSampling) -> Vec<f64> {
    let mut scaled: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    for (id, logit) in scaled.iter_mut().enumerate() {
        let id = id as u32;
        if let Some(penalties) = &row.penalties {
            let (history, counted) = (&penalties.history, &penalties.history[penalties.prompt_length..]);
            if history.contains(&id) {
                let penalty = f64::from(penalties.repetition);
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
            let (counted, length) = match penalties.scope {
                Scope::Output => (counted, 1.0),
                Scope::Sequence => (&history[..], history.len() as f64),
            };
            let count = counted.iter().filter(|&&seen| seen == id).count() as f64;
            if count > 0.0 {
                *logit -= penalties.presence + penalties.frequency * count / length;
            }
        }
        *logit += row.bias.iter().filter(|(biased, _)| *biased == id).map(|(_, bias)| f64::from(*bias)).sum::<f64>();
        if row.banned.contains(&id) {
            *logit = f64::NEG_INFINITY;
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
    kept.retain(|&id| scaled[id] >= top + f64::from(row.min_p).ln());
    if row.typical_p < 1.0 {
        kept = typical(&scaled, kept, f64::from(row.typical_p));
    }
    let total: f64 = kept.iter().map(|&id| (scaled[id] - top).exp()).sum();
    let mut out = vec![0.0; logits.len()];
    for id in kept {
        out[id] = (scaled[id] - top).exp() / total;
    }
    out
}

/// Ids by distance of their information from the entropy, until they reach `mass`.
fn typical(logits: &[f64], mut kept: Vec<usize>, mass: f64) -> Vec<usize> {
    let total: f64 = kept.iter().map(|&id| logits[id].exp()).sum();
    let p = |id: usize| logits[id].exp() / total;
    let entropy: f64 = kept.iter().filter(|&&id| p(id) > 0.0).map(|&id| -p(id) * p(id).ln()).sum();
    kept.sort_by(|&a, &b| (-p(a).ln() - entropy).abs().total_cmp(&(-p(b).ln() - entropy).abs()));
    let mut reached = 0.0;
    let last = kept.iter().position(|&id| {
        reached += p(id);
        reached >= mass
    });
    kept.truncate(last.map_or(kept.len(), |last| last + 1));
    kept
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
        RowSampling { penalties: Some(repetition(1.8, &[3, 7, 7, 30, 39, 3])), ..row() },
        RowSampling { penalties: Some(Penalties { presence: 0.9, frequency: 0.4, ..history(Scope::Output) }), ..row() },
        RowSampling { penalties: Some(Penalties { presence: -0.5, frequency: 9.0, ..history(Scope::Sequence) }), ..row() },
        RowSampling { bias: vec![(39, 4.0), (0, -100.0), (11, 1.5)], banned: vec![5, 6, 400], ..row() },
        RowSampling { min_p: 0.15, ..row() },
        RowSampling { typical_p: 0.6, ..row() },
        RowSampling { typical_p: 0.8, temperature: 1.2, top_k: 12, top_p: 0.97, min_p: 0.01, ..row() },
        RowSampling { top_k: 400, ..row() },
    ];
    let mut sampler = Sampler::default();
    for (n, case) in cases.into_iter().enumerate() {
        let wanted = probabilities(&logits, &case);
        let mut counts = vec![0u32; logits.len()];
        for position in 0..DRAWS {
            let Sampled { token, logprob } = sampler.sample(&logits, logits.len(), &RowSampling { position, ..case.clone() }, None);
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
    let fresh = |row: &RowSampling| Sampler::default().sample(&logits, 500, row, None).token;
    let mut used = Sampler::default();
    for position in 0..50 {
        let _ = used.sample(&rng.floats(37, 1.0), 37, &RowSampling { top_k: 3, ..row() }, None);
        let row = key(9, 1, position);
        assert_eq!(used.sample(&logits, 500, &row, None).token, fresh(&row));
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
    let sampled = sampler.sample(&[1.0, 3.0, 3.0, 2.0, 3.0], 5, &greedy, None);
    assert_eq!(sampled.token, 1);
    let expected = 3f64.exp() / (1f64.exp() + 3.0 * 3f64.exp() + 2f64.exp());
    assert!((f64::from(sampled.logprob) - expected.ln()).abs() < 1e-6);
    let silent = sampler.sample(&[1.0, 2.0], 2, &RowSampling { logprobs: None, ..greedy }, None);
    assert!(silent.token == 1 && silent.logprob.is_nan());
}

#[test]
fn top_k_of_one_and_a_tiny_top_p_are_greedy() {
    let mut rng = Rng(3);
    for _ in 0..50 {
        let logits = rng.floats(100, 1.0);
        let mut sampler = Sampler::default();
        let best = sampler.sample(&logits, 100, &RowSampling { greedy: true, ..row() }, None).token;
        for narrow in [RowSampling { top_k: 1, ..row() }, RowSampling { top_p: 1e-6, ..row() }] {
            assert_eq!(sampler.sample(&logits, 100, &narrow, None), Sampled { token: best, logprob: 0.0 });
        }
    }
}

#[test]
fn ids_from_the_token_count_on_are_never_chosen() {
    let logits = [0.0, 0.0, 9.0, f32::INFINITY];
    let mut sampler = Sampler::default();
    assert_eq!(sampler.sample(&logits, 2, &RowSampling { greedy: true, ..row() }, None).token, 0);
    for position in 0..200 {
        assert!(sampler.sample(&logits, 2, &RowSampling { position, ..row() }, None).token < 2);
        assert!(sampler.sample(&logits[..2], 900, &RowSampling { position, ..row() }, None).token < 2);
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
        RowSampling { min_p: 0.5, ..row() },
        RowSampling { typical_p: 0.9, ..row() },
        RowSampling { logprobs: Some(Logprobs { raw: true, top: 2 }), ..row() },
        RowSampling { temperature: 1e-40, ..row() },
        RowSampling { temperature: 3e38, ..row() },
        RowSampling { penalties: Some(repetition(1e-40, &[0, 1, 2, u32::MAX])), ..row() },
        RowSampling { penalties: Some(repetition(3e38, &[0, 1, 2])), ..row() },
    ];
    let mut sampler = Sampler::default();
    for (n, (logits, allowed, number)) in cases.iter().enumerate() {
        for (w, way) in ways.iter().enumerate() {
            for position in 0..40 {
                let sampled = sampler.sample(logits, logits.len(), &RowSampling { position, ..way.clone() }, None);
                assert!((sampled.token as usize) < logits.len() || sampled.token == NO_TOKEN, "case {n} way {w}");
                // Extreme temperatures and penalties may rightly reorder what is finite.
                if w < 7 {
                    assert!(allowed.contains(&sampled.token), "case {n} way {w}: {sampled:?}");
                    assert_eq!(!sampled.logprob.is_nan(), *number, "case {n} way {w}: {sampled:?}");
                }
            }
        }
    }
}

#[test]
fn a_mask_forbids_what_its_bits_do_not_allow() {
    let mut rng = Rng(4);
    let logits = rng.floats(100, 3.0);
    let allowed: Vec<u32> = vec![0, 31, 32, 63, 70, 95, 96];
    // Three words: what lies past them is forbidden too.
    let mask = [1 | 1 << 31, 1 | 1 << 31, 1 << 6 | 1 << 31];
    let inside: Vec<u32> = allowed.into_iter().filter(|&id| id < 96).collect();
    let mut sampler = Sampler::default();
    for way in [row(), RowSampling { greedy: true, ..row() }, RowSampling { top_k: 90, typical_p: 0.9, ..row() }] {
        let everything = RowSampling { logprobs: Some(Logprobs { raw: false, top: 100 }), ..way };
        for position in 0..100 {
            let sampled = sampler.sample(&logits, 100, &RowSampling { position, ..everything.clone() }, Some(&mask));
            assert!(inside.contains(&sampled.token));
            assert!(sampler.likeliest().iter().all(|(id, logprob)| inside.contains(id) && logprob.is_finite()));
        }
    }
    let masked = sampler.sample(&logits, 100, &row(), Some(&[u32::MAX; 4])).token;
    assert_eq!(masked, sampler.sample(&logits, 100, &row(), None).token, "a mask of ones changes nothing");
    assert_eq!(sampler.sample(&logits, 100, &row(), Some(&[])).token, NO_TOKEN);
    let banned = RowSampling { greedy: true, banned: inside, ..row() };
    assert_eq!(sampler.sample(&logits, 100, &banned, Some(&mask)).token, NO_TOKEN);
}

#[test]
fn likeliest_tokens_are_ranked_lowest_id_first_among_equals() {
    const NAN: f32 = f32::NAN;
    let logits = [1.0, NAN, 3.0, 2.0, 3.0, f32::NEG_INFINITY, 1.0];
    let mut sampler = Sampler::default();
    for top in [0, 1, 2, 3, 5, 7, 65, 1000] {
        for raw in [true, false] {
            for greedy in [true, false] {
                let _ = sampler.sample(&logits, 7, &RowSampling { greedy, logprobs: Some(Logprobs { raw, top }), ..row() }, None);
                let ids: Vec<u32> = sampler.likeliest().iter().map(|(id, _)| *id).collect();
                assert_eq!(ids, [2, 4, 3, 0, 6][..top.min(5)], "top {top} raw {raw} greedy {greedy}");
            }
        }
    }
    let total: f64 = sampler.likeliest().iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
    assert!((total - 1.0).abs() < 1e-6);
    let _ = sampler.sample(&logits, 7, &RowSampling { top_k: 2, logprobs: Some(Logprobs { raw: false, top: 5 }), ..row() }, None);
    assert_eq!(sampler.likeliest(), [(2, 0.5f32.ln()), (4, 0.5f32.ln())], "what was filtered out is not reported");
}

#[test]
fn raw_and_processed_log_probabilities_differ_by_the_processing() {
    let mut rng = Rng(5);
    let logits = rng.floats(50, 2.0);
    let plain = probabilities(&logits, &row());
    let way = RowSampling { temperature: 0.7, top_k: 9, bias: vec![(3, 2.0)], banned: vec![8], ..row() };
    let changed = probabilities(&logits, &way);
    let mut sampler = Sampler::default();
    for position in 0..50 {
        for (raw, wanted) in [(true, &plain), (false, &changed)] {
            let row = RowSampling { position, logprobs: Some(Logprobs { raw, top: 20 }), ..way.clone() };
            let Sampled { token, logprob } = sampler.sample(&logits, 50, &row, None);
            let close = |id: u32, found: f32| (f64::from(found) - wanted[id as usize].ln()).abs() < 1e-5;
            assert!(close(token, logprob), "raw {raw}");
            assert_eq!(sampler.likeliest().len(), if raw { 20 } else { 9 });
            assert!(sampler.likeliest().iter().all(|&(id, logprob)| close(id, logprob)), "raw {raw}");
        }
    }
}

#[test]
fn scores_are_raw_log_probabilities_of_given_tokens() {
    let mut rng = Rng(6);
    let logits = rng.floats(50, 2.0);
    let wanted = probabilities(&logits[..40], &row());
    let mut sampler = Sampler::default();
    for token in 0..40 {
        let scored = sampler.score(&logits, 40, token, 3);
        assert_eq!(scored.token, token);
        assert!((f64::from(scored.logprob) - wanted[token as usize].ln()).abs() < 1e-5);
        assert_eq!(sampler.likeliest().len(), 3);
    }
    assert_eq!(sampler.score(&logits, 40, 45, 0), Sampled { token: 45, logprob: f32::NEG_INFINITY });
    assert_eq!(sampler.score(&[f32::NAN; 4], 4, 1, 2).token, NO_TOKEN);
    assert!(sampler.likeliest().is_empty());
}

//! What is sampled from a shortlist that the emulator made, held to what is sampled from all logits.

use super::*;
use crate::kernels::cuda::emulator::{at, at_mut, room, run};
use crate::sampling::{Params, Sampler, Scores, rank};

const INF: f32 = f32::INFINITY;

fn shortlist(logits: &[f32], need: Need) -> Option<Shortlist> {
    let best = Best { n_logits: logits.len(), need };
    assert!(best.fits());
    let (mut room, mut answer) = (room(best.room()), room(Best::ANSWER * size_of::<f32>()));
    run(best.launches(at(logits), at_mut(&mut room), at_mut(&mut answer)));
    best.read(&bytemuck::cast_slice::<_, f32>(&answer)[..Best::ANSWER])
}

/// Numbers in −12..12 that look random: Knuth's multiplicative hash of the index.
fn scattered(count: usize) -> Vec<f32> {
    let hash = |i: u32| i.wrapping_mul(i).wrapping_mul(2_654_435_761) >> 8;
    (1..=count as u32).map(|i| hash(i) as f32 / (1 << 24) as f32 * 24.0 - 12.0).collect()
}

/// Every third of them is one of these instead.
fn with(mut logits: Vec<f32>, others: &[f32]) -> Vec<f32> {
    for (logit, other) in logits.iter_mut().step_by(3).zip(others.iter().cycle()) {
        *logit = *other;
    }
    logits
}

fn plain() -> Params {
    Params { temperature: 1.0, top_k: 0, top_p: 1.0, ..Params::default() }
}

fn greedy() -> Params {
    Params { temperature: 0.0, ..plain() }
}

fn sampler(params: &Params, seed: u64, logits: &[f32]) -> Sampler {
    Sampler::new(&Params { seed: Some(seed), ..params.clone() }, logits.len(), &[]).unwrap()
}

/// Draws with many seeds from all logits, and from a shortlist that all of these parameters need, with so many told beside a
/// token. Whether there was one.
fn agree(logits: &[f32], params: &[Params], n_top: usize, what: &str) -> bool {
    let needs = params.iter().map(|params| sampler(params, 0, logits).need());
    // Where there are no more tokens than may be drawn, none is left out.
    let Some(needs) = needs.collect::<Option<Vec<_>>>() else { return false };
    let best = needs.iter().map(|need| need.best).fold(n_top, usize::max);
    let need = Need { best, within: needs.iter().map(|need| need.within).fold(0.0, f64::max) };
    let Some(shortlist) = shortlist(logits, need) else { return false };
    for (params, seed) in params.iter().flat_map(|params| (0..30).map(move |seed| (params, seed))) {
        let [all, few] = [Scores::All(logits), Scores::Best(&shortlist)]
            .map(|scores| sampler(params, seed, logits).next(scores).unwrap());
        assert_eq!(few.token, all.token, "{what}, {params:?}, seed {seed}");
        assert!((few.logprob - all.logprob).abs() < 1e-5, "{what}, {params:?}: {few:?} for {all:?}");
        if seed == 0 {
            let (all, few) = (rank(logits, all.token, n_top), rank(&shortlist, all.token, n_top));
            assert_eq!(few.top.len(), all.top.len(), "{what}");
            for (few, all) in few.top.iter().zip(&all.top) {
                assert!(few.0 == all.0 && (few.1 - all.1).abs() < 1e-5, "{what}: {few:?} for {all:?}");
            }
        }
    }
    assert_eq!(shortlist.has_nan, logits.iter().any(|logit| logit.is_nan()), "{what}");
    true
}

#[test]
fn a_shortlist_gives_the_tokens_that_all_logits_give() {
    let few = [greedy(), Params { top_k: 1, ..plain() }, Params { top_k: 3, temperature: 2.0, ..plain() }];
    let some = [Params::default(), Params { top_k: 40, ..plain() }, Params { min_p: 0.02, ..Params::default() }];
    let many = [Params { top_k: 100, top_p: 0.95, temperature: 2.0, ..plain() }];
    let likely = [Params { min_p: 0.3, ..plain() }, Params { min_p: 0.4, top_p: 0.7, ..plain() }];
    for count in [7, 5000] {
        for (what, logits) in [
            ("scattered", scattered(count)),
            ("rising", (0..count).map(|i| i as f32 / 64.0).collect()),
            ("tied", scattered(count).iter().map(|logit| logit.round()).collect()),
            ("impossible", with(scattered(count), &[f32::NAN, -INF, -INF])),
            ("infinite", with(scattered(count), &[-INF, INF, f32::NAN, 0.0, f32::MAX, f32::MIN])),
        ] {
            let what = format!("{count} {what}");
            let are_short = [(&few[..], 0), (&some, 5), (&many, 5), (&likely, 20)]
                .map(|(params, n_top)| agree(&logits, params, n_top, &what));
            assert!(count < 5000 || are_short == [true; 4], "{what}: {are_short:?}");
        }
    }
}

#[test]
fn a_shortlist_of_a_large_vocabulary_is_short() {
    let logits = with(scattered(100_003), &[f32::NAN, -INF, 3.0, 3.0]);
    assert!(
        agree(&logits, &[greedy()], 0, "100,003")
            && agree(&logits, &[Params { top_k: MOST, ..plain() }], 20, "100,003")
    );
    let found = shortlist(&logits, Need { best: 40, within: 0.0 }).unwrap();
    assert!((40..60).contains(&found.best.len()), "{}", found.best.len());
}

#[test]
fn neighbours_are_of_several_parts() {
    let mut logits = scattered(5000);
    for (logit, i) in logits.iter_mut().skip(1000).zip(0..100u8) {
        *logit = 20.0 + f32::from(i);
    }
    let found = shortlist(&logits, Need { best: 10, within: 0.0 }).unwrap();
    assert!((10..100).contains(&found.best.len()), "{}", found.best.len());
}

#[test]
fn where_nothing_is_possible_nothing_is_listed() {
    for logits in [vec![-INF; 700], vec![f32::NAN]] {
        let found = shortlist(&logits, Need { best: 1, within: 2.0 }).unwrap();
        assert_eq!((found.max, found.total, found.best.len()), (-INF, 0.0, 0));
        assert!(agree(&logits, &[greedy()], 1, "nothing"));
    }
}

#[test]
fn there_is_no_shortlist_where_more_tie_than_there_is_room_for() {
    for (count, is_short) in [(ROOM, true), (ROOM + 1, false), (100_003, false)] {
        let found = shortlist(&vec![1.5; count], Need { best: 1, within: 0.0 });
        assert_eq!(found.is_some(), is_short, "{count}");
    }
}

#[test]
fn more_than_the_kernels_take_does_not_fit() {
    let fits = |n_logits, best| Best { n_logits, need: Need { best, within: 0.0 } }.fits();
    assert!(fits(1, 1) && fits(9, MOST));
    assert!(!fits(0, 1) && !fits(9, 0) && !fits(9, MOST + 1));
}

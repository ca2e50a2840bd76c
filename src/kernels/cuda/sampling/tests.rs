//! What is told from a shortlist that the emulator made, held to what is told from all logits.

use super::*;
use crate::kernels::cuda::emulator::{at, at_mut, room, run};
use crate::kernels::cuda::tests::{scattered, with};
use crate::sampling::rank;

const INF: f32 = f32::INFINITY;

fn shortlist(logits: &[f32], count: usize) -> Option<Shortlist> {
    let best = Best { n_logits: logits.len(), count };
    assert!(best.fits());
    let (mut room, mut answer) = (room(best.room()), room(Best::ANSWER * size_of::<f32>()));
    run(best.launches(at(logits), at_mut(&mut room), at_mut(&mut answer)));
    best.read(&bytemuck::cast_slice::<_, f32>(&answer)[..Best::ANSWER])
}

/// Ranks several tokens, with so many told beside each. Whether there was a shortlist.
fn agree(logits: &[f32], n_top: usize, what: &str) -> bool {
    let Some(shortlist) = shortlist(logits, n_top.max(1)) else { return false };
    for token in [0, logits.len() / 2, logits.len() - 1] {
        let with_token = shortlist.clone().with(token as u32, logits[token]);
        let (few, all) = (rank(&with_token, token as u32, n_top), rank(logits, token as u32, n_top));
        assert!((few.logprob - all.logprob).abs() < 1e-5, "{what}, {token}: {few:?} for {all:?}");
        assert_eq!(few.top.len(), all.top.len(), "{what}, {token}");
        for (few, all) in few.top.iter().zip(&all.top) {
            assert!(few.0 == all.0 && (few.1 - all.1).abs() < 1e-5, "{what}, {token}: {few:?} for {all:?}");
        }
    }
    true
}

#[test]
fn a_shortlist_tells_what_all_logits_tell() {
    for count in [1, 7, 5000] {
        for (what, logits) in [
            ("scattered", scattered(count)),
            ("rising", (0..count).map(|i| i as f32 / 64.0).collect()),
            ("tied", scattered(count).iter().map(|logit| logit.round()).collect()),
            ("impossible", with(scattered(count), &[f32::NAN, -INF, -INF])),
            ("infinite", with(scattered(count), &[-INF, INF, f32::NAN, 0.0, f32::MAX, f32::MIN])),
        ] {
            let are_short = [0, 5, 20].map(|n_top| agree(&logits, n_top, &format!("{count} {what}, {n_top}")));
            assert!(what == "infinite" || are_short == [true; 3], "{count} {what}: {are_short:?}");
        }
    }
}

#[test]
fn a_shortlist_of_a_large_vocabulary_is_short() {
    let logits = with(scattered(100_003), &[f32::NAN, -INF, 3.0, 3.0]);
    assert!(agree(&logits, 20, "100,003"));
    let found = shortlist(&logits, 40).unwrap();
    assert!((40..60).contains(&found.best.len()), "{}", found.best.len());
}

#[test]
fn neighbours_are_of_several_parts() {
    let mut logits = scattered(5000);
    for (logit, i) in logits.iter_mut().skip(1000).zip(0..100u8) {
        *logit = 20.0 + f32::from(i);
    }
    let found = shortlist(&logits, 10).unwrap();
    assert!((10..100).contains(&found.best.len()), "{}", found.best.len());
}

#[test]
fn where_nothing_is_possible_nothing_is_listed() {
    for logits in [vec![-INF; 700], vec![f32::NAN]] {
        let found = shortlist(&logits, 1).unwrap();
        assert_eq!((found.max, found.total, found.best.len()), (-INF, 0.0, 0));
        assert!(agree(&logits, 1, "nothing"));
    }
}

#[test]
fn there_is_no_shortlist_where_more_tie_than_there_is_room_for() {
    for (count, is_short) in [(ROOM, true), (ROOM + 1, false), (100_003, false)] {
        let found = shortlist(&vec![1.5; count], 1);
        assert_eq!(found.is_some(), is_short, "{count}");
    }
}

#[test]
fn more_than_the_kernels_take_does_not_fit() {
    let fits = |n_logits, count| Best { n_logits, count }.fits();
    assert!(fits(1, 1) && fits(9, MOST));
    assert!(!fits(0, 1) && !fits(9, 0) && !fits(9, MOST + 1));
}

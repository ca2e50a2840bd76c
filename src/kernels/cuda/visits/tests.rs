//! The order of visits on the emulator, held to a stable sort.

use super::super::emulator::{at, at_mut, run};
use super::*;

#[test]
fn visits_are_gathered_by_expert_in_the_order_of_tokens() {
    let cases =
        [(1, vec![0; 5]), (3, vec![2; 130]), (4, vec![3, 1, 1, 3, 0]), (40, (0..999).map(|i| i * i % 37).collect())];
    for (experts, ids) in cases {
        let mut want: Vec<u32> = (0..ids.len() as u32).collect();
        want.sort_by_key(|visit| ids[*visit as usize]);
        let mut order = vec![u32::MAX; ids.len()];
        let mut batches = vec![[u32::MAX; 3]; most_batches(ids.len(), experts)];
        run([gather(at(&ids), at_mut(&mut order), at_mut(&mut batches), ids.len(), experts)]);
        assert_eq!(order, want, "{ids:?}");
        let mut end = 0;
        for [expert, first, count] in batches {
            assert!(count == 0 || first == end, "{ids:?}");
            end += count;
            let is_own = order[first as usize..][..count as usize].iter().all(|visit| ids[*visit as usize] == expert);
            assert!(is_own && count as usize <= SQUARE, "{ids:?}");
        }
        assert_eq!(end as usize, ids.len(), "{ids:?}");
    }
}

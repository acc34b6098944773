//! Is there an order? Pure.

use std::collections::HashMap;

use crate::history::OpId;
use crate::op::Micros;

/// `(before, after)` pairs must all hold while each operation happens at a time within its own interval.
///
/// Gives an operation that cannot be placed, if there is one: it is in a circle, or everything that must come before it
/// is too late for it.
pub(crate) fn cannot_be_placed(edges: &[(OpId, OpId)], interval: impl Fn(OpId) -> (Micros, Micros)) -> Option<OpId> {
    let mut waits_for: HashMap<OpId, usize> = HashMap::new();
    let mut after: HashMap<OpId, Vec<OpId>> = HashMap::new();
    for &(before, later) in edges {
        waits_for.entry(before).or_insert(0);
        *waits_for.entry(later).or_insert(0) += 1;
        after.entry(before).or_default().push(later);
    }
    let mut earliest: HashMap<OpId, Micros> = waits_for.keys().map(|id| (*id, interval(*id).0)).collect();
    let mut ready: Vec<OpId> = waits_for.iter().filter(|(_, n)| **n == 0).map(|(id, _)| *id).collect();
    while let Some(id) = ready.pop() {
        waits_for.remove(&id);
        let at = earliest[&id];
        if at > interval(id).1 {
            return Some(id);
        }
        for &later in after.get(&id).map_or(&[][..], Vec::as_slice) {
            if let Some(n) = waits_for.get_mut(&later) {
                *n -= 1;
                if *n == 0 {
                    ready.push(later);
                }
            }
            earliest.entry(later).and_modify(|time| *time = at.max(*time));
        }
    }
    waits_for.into_keys().min()
}

#[cfg(test)]
mod tests {
    use super::cannot_be_placed;
    use crate::op::Micros;

    #[track_caller]
    fn check(edges: &[(usize, usize)], intervals: &[(u64, u64)], possible: bool) {
        let found = cannot_be_placed(edges, |id| (Micros(intervals[id].0), Micros(intervals[id].1)));
        assert_eq!(found.is_none(), possible, "{found:?}");
    }

    #[test]
    fn orders_are_possible_unless_circular_or_too_late() {
        check(&[], &[], true);
        check(&[(0, 1)], &[(1, 9), (1, 9)], true);
        check(&[(0, 1), (1, 0)], &[(1, 9), (1, 9)], false);
        check(&[(0, 1), (1, 2), (2, 0)], &[(1, 9), (1, 9), (1, 9)], false);
        check(&[(0, 1)], &[(5, 9), (1, 5)], true);
        check(&[(0, 1)], &[(6, 9), (1, 5)], false);
        // Each pair is possible, the chain is not.
        check(&[(0, 1), (1, 2)], &[(6, 9), (1, 7), (1, 5)], false);
    }
}

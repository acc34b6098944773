//! Decides what to do with what a scan of an unsealed segment found. Pure: facts in, decision out.
//!
//! ```text
//!  behind the readable run      durable ≤ head      durable > head
//!  nothing, zeroes              Clean               Damaged: what was promised is gone
//!  garbage                      Cut                 Damaged: never cut
//!  a frame behind a hole        Cut                 Damaged: never cut
//! ```
//!
//! `durable` counts in the chain's own unit: `Seq` for live segments, frame numbers for base segments; 0 = none.

/// What a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Last place of the readable run.
    pub head: u64,
    /// Highest durable head that anything readable names.
    pub durable: u64,
    /// What follows the readable run.
    pub tail: Tail,
}

/// What follows the readable run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// The end of the file, or zeroes up to it.
    Nothing,
    /// Bytes that do not parse.
    Garbage,
    /// Bytes that do not parse, and behind them an envelope of this segment.
    FrameBehindHole,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on writing at the end of the run.
    Clean,
    /// A power cut tore what had not been promised: cut it, report it.
    Cut,
    /// Something promised is gone: report it, write nothing, cut nothing.
    Damaged,
}

/// The decision for these facts.
pub fn decide(facts: Facts) -> Decision {
    match (facts.durable <= facts.head, facts.tail) {
        (true, Tail::Nothing) => Decision::Clean,
        (true, Tail::Garbage | Tail::FrameBehindHole) => Decision::Cut,
        (false, Tail::Nothing | Tail::Garbage | Tail::FrameBehindHole) => Decision::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_combination_hits_exactly_one_row() {
        // (promised beyond the run, tail) -> decision: the table in docs/FORMAT.md, row by row.
        let table = [
            (false, Tail::Nothing, Decision::Clean),
            (true, Tail::Nothing, Decision::Damaged),
            (false, Tail::Garbage, Decision::Cut),
            (true, Tail::Garbage, Decision::Damaged),
            (false, Tail::FrameBehindHole, Decision::Cut),
            (true, Tail::FrameBehindHole, Decision::Damaged),
        ];
        for head in 0..4 {
            for durable in 0..4 {
                for tail in [Tail::Nothing, Tail::Garbage, Tail::FrameBehindHole] {
                    let rows = table.iter().filter(|row| row.0 == (durable > head) && row.1 == tail);
                    let rows: Vec<_> = rows.map(|row| row.2).collect();
                    assert_eq!(rows, [decide(Facts { head, durable, tail })]);
                }
            }
        }
    }
}

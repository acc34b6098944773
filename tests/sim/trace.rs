//! What happened, as a hash, as counts, and as text for whoever looks at one seed.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};

/// All that happened, in order.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: DefaultHasher,
    lines: u64,
    prints: bool,
}

impl Trace {
    pub(crate) fn new(prints: bool) -> Self {
        // Without random keys: the same lines give the same hash in every process.
        Self { hash: DefaultHasher::new(), lines: 0, prints }
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        let line = what.to_string();
        self.lines += 1;
        self.hash.write(line.as_bytes());
        if self.prints {
            println!("{:5} {line}", self.lines);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.finish()
    }
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) trace: u64,
    pub(crate) counts: Counts,
}

macro_rules! counts {
    ($($name:ident at least $few:literal in 100),* $(,)?) => {
        /// How often what matters came up.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Counts { $(pub(crate) $name: u64),* }

        impl Counts {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// What never comes up is not tested.
            pub(crate) fn check(&self, seeds: u64) {
                $(assert!(self.$name >= seeds * $few / 100, "only {} {} in {seeds} seeds", self.$name, stringify!($name));)*
            }
        }
    };
}

counts! {
    changes at least 4000 in 100,
    flushes at least 300 in 100,
    points_judged at least 500 in 100,
    promises at least 300 in 100,
    marks at least 100 in 100,
    bases_sealed at least 50 in 100,
    changes_beside_a_base at least 50 in 100,
    spools_full at least 25 in 100,
    resyncs at least 8 in 100,
    spools_lost at least 5 in 100,
    rebases at least 8 in 100,
    links_cut at least 150 in 100,
    agents_killed at least 20 in 100,
    hosts_crashed at least 20 in 100,
    agents_stopped at least 10 in 100,
    receivers_killed at least 20 in 100,
    receivers_crashed at least 20 in 100,
    receiver_faults at least 20 in 100,
    spool_faults at least 5 in 100,
    clocks_set at least 10 in 100,
    calms at least 50 in 100,
    crashes_within_a_step at least 10 in 100,
    changes_failed at least 10 in 100,
    volumes_resized at least 10 in 100,
    hot_agreed at least 1 in 100,
    hot_doubted at least 0 in 100,
}

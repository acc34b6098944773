//! One table a benchmark: what, ours, floor, ratio, aim, met.

use serde_json::{Value, json};

use crate::options::Options;
use crate::samples::Samples;

/// What a row is measured by.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// Ours is at least this part of the floor.
    RatioAtLeast(f64),
    /// Ours is at most this many times the floor.
    RatioAtMost(f64),
    /// Ours is at most this.
    AtMost(f64),
    /// Only to be known.
    Known,
}

/// One thing that was measured.
#[derive(Clone, Debug)]
pub struct Row {
    /// What.
    pub what: String,
    /// Of ours and floor.
    pub unit: &'static str,
    /// What it took us.
    pub ours: Samples,
    /// The floor or rival, and what it took that.
    pub floor: Option<(String, Samples)>,
    /// When it is good enough.
    pub aim: Aim,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.floor.as_ref().map(|(_, floor)| self.ours.ratio(floor))
    }

    fn met(&self) -> Option<bool> {
        match self.aim {
            Aim::RatioAtLeast(aim) => self.ratio().map(|ratio| ratio >= aim),
            Aim::RatioAtMost(aim) => self.ratio().map(|ratio| ratio <= aim),
            Aim::AtMost(aim) => Some(self.ours.median() <= aim),
            Aim::Known => None,
        }
    }

    fn cells(&self) -> [String; 7] {
        let aim = match self.aim {
            Aim::RatioAtLeast(aim) => format!("≥ {aim} ×"),
            Aim::RatioAtMost(aim) => format!("≤ {aim} ×"),
            Aim::AtMost(aim) => format!("≤ {aim} {}", self.unit),
            Aim::Known => String::new(),
        };
        [
            self.what.clone(),
            format!("{} {}", shown(&self.ours), self.unit),
            self.floor.as_ref().map_or_else(String::new, |(_, floor)| format!("{} {}", shown(floor), self.unit)),
            self.floor.as_ref().map_or_else(String::new, |(name, _)| name.clone()),
            self.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            aim,
            self.met().map_or("", |met| if met { "yes" } else { "NO" }).to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let samples = |s: &Samples| json!({"median": s.median(), "min": s.min(), "max": s.max()});
        json!({
            "what": self.what, "unit": self.unit, "ours": samples(&self.ours),
            "floor": self.floor.as_ref().map(|(name, floor)| json!({"name": name, "value": samples(floor)})),
            "ratio": self.ratio(), "met": self.met(),
        })
    }
}

/// Prints the rows: a table, or with `--json` one document.
pub fn print(bench: &str, rows: &[Row], options: &Options) {
    if options.json {
        let results: Vec<Value> = rows.iter().map(Row::json).collect();
        println!("{}", json!({"schema": 1, "bench": bench, "smoke": options.smoke, "results": results}));
        return;
    }
    let smoke = if options.smoke { " (smoke run: the figures mean nothing)" } else { "" };
    println!("\n{bench}{smoke}\n");
    let head = ["what", "ours", "floor", "which is", "ratio", "aim", "met"].map(str::to_owned);
    let cells: Vec<[String; 7]> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let widths: [usize; 7] =
        std::array::from_fn(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for (place, row) in cells.iter().enumerate() {
        let padded: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("| {} |", padded.join(" | "));
        if place == 0 {
            println!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
        }
    }
}

/// Median [min..max], three digits.
fn shown(samples: &Samples) -> String {
    let digits = |value: f64| match value {
        value if value.abs() >= 100.0 => format!("{value:.0}"),
        value if value.abs() >= 10.0 => format!("{value:.1}"),
        value if value.abs() >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    };
    let [median, min, max] = [samples.median(), samples.min(), samples.max()].map(digits);
    if min == max { median } else { format!("{median} [{min}..{max}]") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_or_not() {
        let one = |value: f64| [value].into_iter().collect::<Samples>();
        let row =
            |aim| Row { what: String::new(), unit: "s", ours: one(3.0), floor: Some((String::new(), one(4.0))), aim };
        let met = |aim| row(aim).met();
        assert_eq!([met(Aim::RatioAtLeast(0.7)), met(Aim::RatioAtLeast(0.8))], [Some(true), Some(false)]);
        assert_eq!([met(Aim::RatioAtMost(0.7)), met(Aim::RatioAtMost(0.8))], [Some(false), Some(true)]);
        assert_eq!([met(Aim::AtMost(2.9)), met(Aim::AtMost(3.1)), met(Aim::Known)], [Some(false), Some(true), None]);
    }
}
